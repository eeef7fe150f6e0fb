//! SigmoidCrossEntropyLoss: `y = -Σ (t · log(s) + (1 - t) · log(1 - s)) / normalizer` with `s = sigmoid(x)`, for targets t
//! that are probabilities of their own.
//!
//! ```prototxt
//! layer { name: "loss" type: "SigmoidCrossEntropyLoss" bottom: "ip2" bottom: "target" top: "loss" }
//! ```
//!
//! Scores and targets have as many values each, in n records. The sum is divided by n unless `loss_param` says
//! otherwise.

use rayon::prelude::*;

use super::{
    Arity, LayerDef,
    neuron::{CHUNK, map_pairs},
    sigmoid::sigmoid,
};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::SigmoidCrossEntropyLossSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "SigmoidCrossEntropyLoss",
    summary: "the cross-entropy of scores and target probabilities, each on its own",
    bottoms: Arity::Exactly(2),
    tops: Arity::Exactly(1),
    parse: SigmoidCrossEntropyLossSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// The cross-entropy of sigmoids and targets.
pub struct SigmoidCrossEntropyLoss {
    spec: SigmoidCrossEntropyLossSpec,
    outer: usize,
    inner: usize,
    /// What the last forward pass divided its sum by.
    divisor: f32,
    /// The sums of chunks, and how many of their targets are not ignored.
    partial_sums: Vec<(f64, usize)>,
}

impl SigmoidCrossEntropyLoss {
    /// A layer of this description.
    pub fn new(spec: &SigmoidCrossEntropyLossSpec) -> Self {
        Self {
            spec: spec.clone(),
            outer: 0,
            inner: 0,
            divisor: 1.0,
            partial_sums: Vec::new(),
        }
    }
}

/// Whether a target is the one to ignore; as in Caffe, a fraction is cut off.
fn is_ignored(target: f32, ignore_label: Option<i32>) -> bool {
    ignore_label == Some(target as i32) && !target.is_nan()
}

impl Layer for SigmoidCrossEntropyLoss {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let [scores, targets] = [bottom[0], bottom[1]];
        if scores.count() != targets.count() || scores.dims().first() != targets.dims().first() {
            return Err(LayerError::BottomShapes {
                first: 0,
                first_shape: scores.clone(),
                second: 1,
                second_shape: targets.clone(),
                fact: "they have to agree in their first extent and their count".to_owned(),
            });
        }
        (self.outer, self.inner) = (scores.dim_or_1(0), scores.count_from(1));
        self.partial_sums.resize(scores.count().div_ceil(CHUNK), (0.0, 0));
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let ignore_label = self.spec.ignore_label;
        let chunks = io
            .bottom
            .get(0)
            .par_chunks(CHUNK)
            .zip(io.bottom.get(1).par_chunks(CHUNK));
        self.partial_sums.par_iter_mut().zip(chunks).for_each(|(sums, (x, t))| {
            *sums = (0.0, 0);
            for (x, t) in x.iter().zip(t).filter(|(_, t)| !is_ignored(**t, ignore_label)) {
                // The same function, without an exponential that overflows.
                let positive = if *x >= 0.0 { 1.0 } else { 0.0 };
                sums.0 += f64::from((-x.abs()).exp().ln_1p() - x * (t - positive));
                sums.1 += 1;
            }
        });
        let add = |(sum, count): (f64, usize), (chunk_sum, chunk_count): &_| (sum + chunk_sum, count + chunk_count);
        let (sum_loss, count) = self.partial_sums.iter().fold((0.0, 0), add);
        self.divisor = self.spec.normalization.divisor(self.outer, self.inner, count);
        io.top[0][0] = sum_loss as f32 / self.divisor;
        Ok(())
    }

    /// `dx = (sigmoid(x) - t) · dy / normalizer`, and 0 where the target is ignored.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let ignore_label = self.spec.ignore_label;
        let scale = io.top_diff[0][0] / self.divisor;
        map_pairs(
            io.bottom.get(0),
            io.bottom.get(1),
            &mut io.bottom_diff[0],
            move |x, t| {
                if is_ignored(t, ignore_label) {
                    0.0
                } else {
                    scale * (sigmoid(x) - t)
                }
            },
        );
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            1 => BottomGradient::Label("targets"),
            _ => BottomGradient::Computed,
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[3, 4], &[3, 2, 2]],
        params: "loss_weight: 0.7",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[3, 4], &[3, 4]],
        params: "loss_param { ignore_label: 1 normalization: VALID }",
        tops: 1,
        fill: super::Fill::Labels(2),
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    /// The loss of scores of zero (so that each target adds ln 2) and the sum of |dx|.
    fn loss(params: &str, targets: &[f32]) -> (f32, f32) {
        let layer =
            format!("layer {{ name: 'L' type: 'SigmoidCrossEntropyLoss' bottom: 'x' bottom: 't' top: 'y' {params} }}");
        let inputs = format!("{}{}", input("x", &[2, 3]), input("t", &[2, 3]));
        let mut net = net(&format!("force_backward: true {inputs}{layer}")).unwrap();
        let loss = run(&mut net, &[("t", targets)]).unwrap()["y"][0];
        net.backward();
        (loss, net.blob_diff("x").unwrap().iter().map(|dx| dx.abs()).sum())
    }

    #[test]
    fn normalizers_are_caffes() {
        let targets = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
        for (params, counted, normalizer) in [
            ("", 6.0, 2.0),
            ("loss_param { ignore_label: 1 }", 2.0, 2.0),
            ("loss_param { ignore_label: 1 normalization: FULL }", 2.0, 6.0),
            ("loss_param { ignore_label: 0 normalization: VALID }", 4.0, 4.0),
            ("loss_param { normalization: NONE }", 6.0, 1.0),
            ("loss_param { ignore_label: 0 normalize: true }", 4.0, 4.0),
            ("loss_param { normalize: false }", 6.0, 2.0),
        ] {
            let (found, sum_gradient) = loss(params, &targets);
            assert!(
                (found - std::f32::consts::LN_2 * counted / normalizer).abs() < 1e-6,
                "{params}: {found}"
            );
            assert!((sum_gradient - 0.5 * counted / normalizer).abs() < 1e-6, "{params}");
        }
        assert_eq!(
            loss("loss_param { ignore_label: 0 normalization: VALID }", &[0.5; 6]),
            (0.0, 0.0)
        );
    }

    #[test]
    fn large_scores_do_not_overflow_and_a_nan_is_not_hidden() {
        let layer = "layer { name: 'L' type: 'SigmoidCrossEntropyLoss' bottom: 'x' bottom: 't' top: 'y' \
                     loss_param { ignore_label: 0 } }";
        let mut net = net(&format!("{}{}{layer}", input("x", &[1, 2]), input("t", &[1, 2]))).unwrap();
        let mut loss = |x: &[f32], t: &[f32]| run(&mut net, &[("x", x), ("t", t)]).unwrap()["y"][0];
        assert_eq!(loss(&[-1e4, 1e4], &[1.0, 1.0]), 1e4);
        assert!(loss(&[f32::NAN, 1.0], &[1.0, 1.0]).is_nan());
        assert!(loss(&[1.0, 1.0], &[1.0, f32::NAN]).is_nan());
    }

    #[test]
    fn shapes_must_agree() {
        let layer = "layer { name: 'L' type: 'SigmoidCrossEntropyLoss' bottom: 'x' bottom: 't' top: 'y' }";
        let build = |x: &[usize], t: &[usize]| net(&format!("{}{}{layer}", input("x", x), input("t", t)));
        assert!(build(&[2, 6], &[3, 4]).err().unwrap().contains("(3, 4)"));
        assert!(build(&[2, 6], &[2, 5]).is_err());
    }
}
