//! ContrastiveLoss: `y = Σ (t · d² + (1 - t) · max(margin - d, 0)²) / 2n`, with d the distance of a pair of vectors and t
//! whether they are similar: it draws similar pairs together and pushes the others a margin apart.
//!
//! ```prototxt
//! layer {
//!   name: "loss" type: "ContrastiveLoss" bottom: "feat" bottom: "feat_p" bottom: "sim" top: "loss"
//!   contrastive_loss_param { margin: 1 }
//! }
//! ```
//!
//! Vectors are `(n, channels)`, with nothing but 1 behind; each of the n labels that is not 0 is a similar pair. With
//! `legacy_version` dissimilar pairs add `max(margin - d², 0)`.

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::ContrastiveLossSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "ContrastiveLoss",
    summary: "draws similar pairs together and pushes the others apart",
    bottoms: Arity::Exactly(3),
    tops: Arity::Exactly(1),
    parse: ContrastiveLossSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// The mean loss of pairs that are similar or not (Hadsell, Chopra and LeCun 2006).
pub struct ContrastiveLoss {
    spec: ContrastiveLossSpec,
    n: usize,
    channels: usize,
}

impl ContrastiveLoss {
    /// A layer of this description.
    pub fn new(spec: &ContrastiveLossSpec) -> Self {
        Self {
            spec: spec.clone(),
            n: 0,
            channels: 0,
        }
    }
}

/// The squared distance of two vectors.
fn squared_distance(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>() as f32
}

/// Whether a pair is similar; as in Caffe, a fraction is cut off.
fn is_similar(label: f32) -> bool {
    label as i32 != 0
}

impl Layer for ContrastiveLoss {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let disagree = |second: usize, fact: &str| LayerError::BottomShapes {
            first: 0,
            first_shape: bottom[0].clone(),
            second,
            second_shape: bottom[second].clone(),
            fact: fact.to_owned(),
        };
        let vectors = |shape: &Shape| (shape.dim_or_1(0), shape.dim_or_1(1), shape.count_from(2));
        (self.n, self.channels) = (bottom[0].dim_or_1(0), bottom[0].dim_or_1(1));
        if bottom[0].count_from(2) != 1 || vectors(bottom[0]) != vectors(bottom[1]) {
            return Err(disagree(1, "they have to be (n, channels) both: flatten them first"));
        }
        if bottom[2].count() != self.n {
            return Err(disagree(2, "there has to be a label for each of the n pairs"));
        }
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let ContrastiveLossSpec { margin, legacy_version } = self.spec;
        let pairs = io
            .bottom
            .get(0)
            .chunks(self.channels)
            .zip(io.bottom.get(1).chunks(self.channels));
        let mut sum_loss = 0.0f64;
        for ((a, b), label) in pairs.zip(io.bottom.get(2)) {
            let squared = squared_distance(a, b);
            sum_loss += f64::from(if is_similar(*label) {
                squared
            } else if legacy_version {
                positive(margin - squared)
            } else {
                positive(margin - squared.sqrt()).powi(2)
            });
        }
        io.top[0][0] = (sum_loss / self.n as f64 / 2.0) as f32;
        Ok(())
    }

    /// With `δ = a - b` and `s = dy / n`: `da = s · δ` for similar pairs; for others nearer than the margin `-s · δ ·
    /// (margin - d) / d`, or `-s · δ` in the legacy version; `db = -da`.
    fn backward(&mut self, io: &mut Backward<'_>) {
        let ContrastiveLossSpec { margin, legacy_version } = self.spec;
        let (a, b, labels, channels) = (io.bottom.get(0), io.bottom.get(1), io.bottom.get(2), self.channels);
        let scale = io.top_diff[0][0] / self.n as f32;
        for (i, sign) in [(0, 1.0), (1, -1.0)] {
            if !io.propagate_down[i] {
                continue;
            }
            let pairs = a.par_chunks(channels).zip(b.par_chunks(channels)).zip(labels);
            let diffs = io.bottom_diff[i].par_chunks_mut(channels).zip(pairs);
            diffs.for_each(|(diff, ((a, b), label))| {
                let squared = squared_distance(a, b);
                let distance = squared.sqrt();
                let factor = if is_similar(*label) {
                    scale
                } else if legacy_version {
                    if margin > squared { -scale } else { 0.0 }
                } else if margin > distance {
                    // Caffe's way not to divide by zero.
                    -scale * (margin - distance) / (distance + 1e-4)
                } else {
                    0.0
                };
                let pairs = a.iter().zip(b);
                diff.iter_mut()
                    .zip(pairs)
                    .for_each(|(dx, (a, b))| *dx = sign * factor * (a - b));
            });
        }
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            2 => BottomGradient::Label("labels"),
            _ => BottomGradient::Computed,
        }
    }
}

/// What is above zero; written so that a NaN stays one.
fn positive(x: f32) -> f32 {
    if x < 0.0 { 0.0 } else { x }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[6, 3], &[6, 3, 1, 1], &[6]],
        params: "contrastive_loss_param { margin: 3 } loss_weight: 0.7",
        tops: 1,
        fill: super::Fill::Labels(2),
    },
    super::GradientCase {
        bottoms: &[&[6, 3], &[6, 3], &[6, 1]],
        params: "contrastive_loss_param { margin: 5 legacy_version: true }",
        tops: 1,
        fill: super::Fill::Labels(2),
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    const LAYER: &str = "layer { name: 'L' type: 'ContrastiveLoss' bottom: 'a' bottom: 'b' bottom: 't' top: 'y' }";

    fn build(a: &[usize], b: &[usize], t: &[usize]) -> Result<crate::Net, String> {
        let inputs = format!("{}{}{}", input("a", a), input("b", b), input("t", t));
        net(&format!("force_backward: true {inputs}{LAYER}"))
    }

    #[test]
    fn shapes_must_agree() {
        for (a, b, t, named) in [
            (&[3, 2][..], &[3, 4][..], &[3][..], "bottom 1 (3, 4)"),
            (&[3, 2], &[2, 2], &[3], "bottom 1 (2, 2)"),
            (&[3, 2, 2], &[3, 2, 2], &[3], "flatten"),
            (&[3, 2], &[3, 2], &[3, 2], "bottom 2 (3, 2)"),
        ] {
            let error = build(a, b, t).err().unwrap();
            assert!(
                error.contains("'L' (ContrastiveLoss)") && error.contains(named),
                "{error}"
            );
        }
    }

    #[test]
    fn equal_dissimilar_pairs_do_not_divide_by_zero() {
        let mut net = build(&[2, 1], &[2, 1], &[2]).unwrap();
        let bottoms: [(&str, &[f32]); 3] = [("a", &[1.0, 2.0]), ("b", &[1.0, 4.0]), ("t", &[0.0, -1.0])];
        // A margin of 1 from a distance of 0, and a similar pair 2 apart.
        assert_eq!(run(&mut net, &bottoms).unwrap()["y"], [(1.0 + 4.0) / 4.0]);
        net.backward();
        assert_eq!(net.blob_diff("a").unwrap(), [0.0, -1.0]);
    }
}
