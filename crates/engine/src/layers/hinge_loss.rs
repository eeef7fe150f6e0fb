//! HingeLoss: `y = Σ max(0, 1 - t · x)^p / n`, one against all: t is 1 for the label's class and -1 for the others, p is
//! 1 for the norm L1 and 2 for L2.
//!
//! ```prototxt
//! layer { name: "loss" type: "HingeLoss" bottom: "ip" bottom: "label" top: "loss" hinge_loss_param { norm: L2 } }
//! ```
//!
//! Scores are `(n, classes)`, where all axes but the first are joined, and labels n.

use rayon::prelude::*;

use super::{Arity, LayerDef, label};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::HingeLossSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "HingeLoss",
    summary: "how far scores are from a margin of 1 on their label's side",
    bottoms: Arity::Exactly(2),
    tops: Arity::Exactly(1),
    parse: HingeLossSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// The mean hinge loss of scores, each against its own side of zero.
pub struct HingeLoss {
    squared: bool,
    n: usize,
    classes: usize,
}

impl HingeLoss {
    /// A layer of this norm.
    pub fn new(spec: &HingeLossSpec) -> Self {
        let HingeLossSpec { squared } = *spec;
        Self {
            squared,
            n: 0,
            classes: 0,
        }
    }
}

impl Layer for HingeLoss {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        (self.n, self.classes) = label::check_records(bottom)?;
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let mut sum_loss = 0.0f64;
        let rows = io.bottom.get(0).chunks(self.classes).zip(io.bottom.get(1));
        for (position, (scores, label)) in rows.enumerate() {
            let own = label::class(*label, position, self.classes, None)?;
            for (class, x) in scores.iter().enumerate() {
                let margin = margin(*x, Some(class) == own);
                sum_loss += f64::from(if self.squared { margin * margin } else { margin });
            }
        }
        io.top[0][0] = (sum_loss / self.n as f64) as f32;
        Ok(())
    }

    /// `dx = -t · dy / n` where the margin is not met, times twice the margin for L2.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (classes, squared) = (self.classes, self.squared);
        let scale = io.top_diff[0][0] / self.n as f32;
        let rows = io.bottom_diff[0].par_chunks_mut(classes);
        let rows = rows.zip(io.bottom.get(0).par_chunks(classes)).zip(io.bottom.get(1));
        rows.for_each(|((diff, scores), label)| {
            // Forward has refused labels that are no class.
            let own = label::class(*label, 0, classes, None).ok().flatten();
            for (class, (dx, x)) in diff.iter_mut().zip(scores).enumerate() {
                let is_own = Some(class) == own;
                let margin = margin(*x, is_own);
                let slope = if squared {
                    2.0 * margin
                } else if margin > 0.0 {
                    1.0
                } else {
                    0.0
                };
                *dx = scale * if is_own { -slope } else { slope };
            }
        });
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            1 => BottomGradient::Label("labels"),
            _ => BottomGradient::Computed,
        }
    }
}

/// How far score x is from 1 on its side. Written so that a NaN stays one.
fn margin(x: f32, is_own: bool) -> f32 {
    let margin = 1.0 + if is_own { -x } else { x };
    if margin < 0.0 { 0.0 } else { margin }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[4, 3], &[4]],
        params: "",
        tops: 1,
        fill: super::Fill::Labels(3),
    },
    super::GradientCase {
        bottoms: &[&[3, 2, 2], &[3, 1]],
        params: "hinge_loss_param { norm: L2 } loss_weight: 0.7",
        tops: 1,
        fill: super::Fill::Labels(4),
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    fn build(x: &[usize], t: &[usize]) -> Result<crate::Net, String> {
        let layer = "layer { name: 'L' type: 'HingeLoss' bottom: 'x' bottom: 't' top: 'y' }";
        net(&format!("{}{}{layer}", input("x", x), input("t", t)))
    }

    #[test]
    fn labels_are_one_a_record_and_in_range() {
        assert!(build(&[2, 3], &[3]).err().unwrap().contains("2 labels"));
        assert!(
            build(&[], &[1])
                .err()
                .unwrap()
                .starts_with("layer 'L' (HingeLoss): axis 0")
        );
        let mut net = build(&[2, 3], &[2]).unwrap();
        let scores = [0.5, -2.0, 0.0, 3.0, 1.0, -1.0];
        // 0.5 + 0 + 1, and 4 + 0 + 0.
        let top = run(&mut net, &[("x", &scores), ("t", &[0.0, 1.0])]).unwrap();
        assert_eq!(top["y"], [(1.5 + 4.0) / 2.0]);
        for label in [3.0, -1.0, f32::NAN] {
            let error = run(&mut net, &[("t", &[0.0, label])]).unwrap_err();
            assert!(
                error.contains("'L' (HingeLoss): label") && error.contains("position 1"),
                "{error}"
            );
        }
    }
}
