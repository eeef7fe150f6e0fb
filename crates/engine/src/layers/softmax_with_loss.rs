//! SoftmaxWithLoss: `y = -Σ log(softmax(x)[label]) / normalizer`, the cross-entropy of scores and labels.
//!
//! ```prototxt
//! layer {
//!   name: "loss" type: "SoftmaxWithLoss" bottom: "ip2" bottom: "label" top: "loss"
//!   loss_param { ignore_label: 255 normalization: VALID }
//! }
//! ```
//!
//! Scores are `(outer, classes, inner)` around `axis`, labels `(outer, inner)`. A second top holds the probabilities;
//! it has no gradient.

use rayon::prelude::*;

use super::{Arity, LayerDef, label, softmax::softmax};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::SoftmaxWithLossSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "SoftmaxWithLoss",
    summary: "the mean negative log-probability of the labels",
    bottoms: Arity::Exactly(2),
    tops: Arity::Between(1, 2),
    parse: SoftmaxWithLossSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// The cross-entropy of scores and labels.
pub struct SoftmaxWithLoss {
    spec: SoftmaxWithLossSpec,
    outer: usize,
    classes: usize,
    inner: usize,
    /// The probabilities, which backward starts from.
    probabilities: Vec<f32>,
}

impl SoftmaxWithLoss {
    /// A layer with the classes on `spec.axis`.
    pub fn new(spec: &SoftmaxWithLossSpec) -> Self {
        Self {
            spec: spec.clone(),
            outer: 0,
            classes: 0,
            inner: 0,
            probabilities: Vec::new(),
        }
    }

    /// What the sum is divided by when `count` labels are not ignored.
    fn normalizer(&self, count: usize) -> f32 {
        self.spec.normalization.divisor(self.outer, self.inner, count)
    }
}

impl Layer for SoftmaxWithLoss {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let scores = bottom[0];
        let axis = label::check_shapes(bottom, self.spec.axis)?;
        self.outer = scores.count_to(axis);
        self.classes = scores.dims()[axis];
        self.inner = scores.count_from(axis + 1);
        self.probabilities.resize(scores.count(), 0.0);
        Ok(vec![Shape::default(), scores.clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        self.probabilities.copy_from_slice(io.bottom.get(0));
        softmax(&mut self.probabilities, self.classes, self.inner);
        let (mut sum_loss, mut count) = (0.0f64, 0);
        for (position, value) in io.bottom.get(1).iter().enumerate() {
            let Some(class) = label::class(*value, position, self.classes, self.spec.ignore_label)? else {
                continue;
            };
            let (row, column) = (position / self.inner, position % self.inner);
            let probability = self.probabilities[(row * self.classes + class) * self.inner + column];
            // Written so that a NaN stays one: f32::max would hide it.
            let probability = if probability < f32::MIN_POSITIVE {
                f32::MIN_POSITIVE
            } else {
                probability
            };
            sum_loss -= f64::from(probability.ln());
            count += 1;
        }
        io.top[0][0] = sum_loss as f32 / self.normalizer(count);
        if let Some(top) = io.top.get_mut(1) {
            top.copy_from_slice(&self.probabilities);
        }
        Ok(())
    }

    /// `dx = (softmax(x) - onehot(label)) · dy / normalizer`, and 0 where the label is ignored.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (classes, inner, ignore_label) = (self.classes, self.inner, self.spec.ignore_label);
        let labels = io.bottom.get(1);
        // Forward has refused labels that are no class.
        let class = |label: f32| label::class(label, 0, classes, ignore_label).ok().flatten();
        let count = labels.iter().filter(|label| class(**label).is_some()).count();
        let scale = io.top_diff[0][0] / self.normalizer(count);
        let images = io.bottom_diff[0].par_chunks_mut(classes * inner);
        let probabilities = self.probabilities.par_chunks(classes * inner);
        images
            .zip(probabilities)
            .zip(labels.par_chunks(inner))
            .for_each(|((diff, probabilities), labels)| {
                let pairs = diff.iter_mut().zip(probabilities);
                pairs.for_each(|(dx, probability)| *dx = scale * probability);
                for (column, label) in labels.iter().enumerate() {
                    match class(*label) {
                        Some(class) => diff[class * inner + column] -= scale,
                        None => diff[column..].iter_mut().step_by(inner).for_each(|dx| *dx = 0.0),
                    }
                }
            });
    }

    fn takes_gradient(&self, top: usize) -> bool {
        top == 0
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            1 => BottomGradient::Label("labels"),
            _ => BottomGradient::Computed,
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[4, 5], &[4]],
        params: "",
        tops: 1,
        fill: super::Fill::Labels(5),
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 2, 4], &[2, 1, 2, 4]],
        params: "loss_param { ignore_label: 1 } loss_weight: 0.7",
        tops: 1,
        fill: super::Fill::Labels(3),
    },
    super::GradientCase {
        bottoms: &[&[3, 2, 2], &[2, 2]],
        params: "softmax_param { axis: 0 } loss_param { normalization: NONE }",
        tops: 2,
        fill: super::Fill::Labels(3),
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    /// The loss of all-equal scores (so that each position adds ln 2) and the sum of |dx|.
    fn loss(params: &str, labels: &[f32]) -> Result<(f32, f32), String> {
        let layer = format!("layer {{ name: 'L' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 't' top: 'y' {params} }}");
        let inputs = format!("{}{}", input("x", &[2, 2, 3]), input("t", &[2, 3]));
        let mut net = net(&format!("force_backward: true {inputs}{layer}"))?;
        let loss = run(&mut net, &[("t", labels)])?["y"][0];
        net.backward();
        let sum_gradient = net.blob_diff("x").unwrap().iter().map(|dx| dx.abs()).sum();
        Ok((loss, sum_gradient))
    }

    #[test]
    fn normalizers_are_caffes() {
        let labels = [0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
        let ln_2 = std::f32::consts::LN_2;
        for (params, counted, normalizer) in [
            ("", 6.0, 6.0),
            ("loss_param { ignore_label: 1 }", 2.0, 2.0),
            ("loss_param { ignore_label: 1 normalization: FULL }", 2.0, 6.0),
            ("loss_param { ignore_label: 1 normalization: BATCH_SIZE }", 2.0, 2.0),
            ("loss_param { normalization: BATCH_SIZE }", 6.0, 2.0),
            ("loss_param { normalization: NONE }", 6.0, 1.0),
            ("loss_param { ignore_label: 1 normalize: true }", 2.0, 2.0),
            ("loss_param { normalize: false }", 6.0, 2.0),
            ("loss_param { normalize: false normalization: VALID }", 6.0, 6.0),
        ] {
            let (found, sum_gradient) = loss(params, &labels).unwrap();
            assert!((found - ln_2 * counted / normalizer).abs() < 1e-6, "{params}: {found}");
            // Each counted position adds |0.5 - 1| + |0.5|.
            assert!(
                (sum_gradient - counted / normalizer).abs() < 1e-6,
                "{params}: {sum_gradient}"
            );
        }
    }

    #[test]
    fn nothing_but_ignored_labels_is_no_loss() {
        assert_eq!(loss("loss_param { ignore_label: 1 }", &[1.0; 6]), Ok((0.0, 0.0)));
    }

    #[test]
    fn labels_out_of_range_are_refused() {
        for label in [2.0, -1.0, f32::NAN] {
            let error = loss("", &[0.0, 0.0, 0.0, 0.0, label, 0.0]).unwrap_err();
            assert!(
                error.starts_with("layer 'L' (SoftmaxWithLoss): label") && error.contains("position 4"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_probability_of_zero_is_clamped_and_a_nan_is_not_hidden() {
        let layer = "layer { name: 'L' type: 'SoftmaxWithLoss' bottom: 'x' bottom: 't' top: 'y' }";
        let mut net = net(&format!("{}{}{layer}", input("x", &[1, 2]), input("t", &[1]))).unwrap();
        let mut loss = |x: &[f32]| run(&mut net, &[("x", x)]).unwrap()["y"][0];
        assert_eq!(loss(&[-1000.0, 1000.0]), -f32::MIN_POSITIVE.ln());
        assert!(loss(&[f32::NAN, 1.0]).is_nan());
    }
}
