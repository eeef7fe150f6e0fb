//! MultinomialLogisticLoss: `y = -Σ log(x[label]) / n`, the cross-entropy of probabilities and labels.
//!
//! ```prototxt
//! layer { name: "loss" type: "MultinomialLogisticLoss" bottom: "prob" bottom: "label" top: "loss" }
//! ```
//!
//! Probabilities are `(n, classes)`, where all axes but the first are joined, and labels n. Where there are scores and
//! not probabilities, SoftmaxWithLoss does better: its gradient does not vanish.

use rayon::prelude::*;

use super::{Arity, LayerDef, label};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "MultinomialLogisticLoss",
    summary: "the mean negative log of the labels' probabilities",
    bottoms: Arity::Exactly(2),
    tops: Arity::Exactly(1),
    parse: |_| Ok(LayerKind::MultinomialLogisticLoss),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Smaller probabilities count as this one, Caffe's `kLOG_THRESHOLD`.
const LEAST_PROBABILITY: f32 = 1e-20;

/// The cross-entropy of probabilities and labels.
pub struct MultinomialLogisticLoss {
    n: usize,
    classes: usize,
}

impl MultinomialLogisticLoss {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self { n: 0, classes: 0 }
    }
}

impl Layer for MultinomialLogisticLoss {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        (self.n, self.classes) = label::check_records(bottom)?;
        Ok(vec![Shape::default()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let mut sum_loss = 0.0f64;
        let rows = io.bottom.get(0).chunks(self.classes).zip(io.bottom.get(1));
        for (position, (probabilities, label)) in rows.enumerate() {
            if let Some(class) = label::class(*label, position, self.classes, None)? {
                sum_loss -= f64::from(at_least(probabilities[class], LEAST_PROBABILITY).ln());
            }
        }
        io.top[0][0] = (sum_loss / self.n as f64) as f32;
        Ok(())
    }

    /// `dx = -dy / (n · x)` at the label, and 0 elsewhere.
    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let classes = self.classes;
        let scale = -io.top_diff[0][0] / self.n as f32;
        let rows = io.bottom_diff[0].par_chunks_mut(classes);
        let rows = rows.zip(io.bottom.get(0).par_chunks(classes)).zip(io.bottom.get(1));
        rows.for_each(|((diff, probabilities), label)| {
            diff.fill(0.0);
            // Forward has refused labels that are no class.
            if let Ok(Some(class)) = label::class(*label, 0, classes, None) {
                diff[class] = scale / at_least(probabilities[class], LEAST_PROBABILITY);
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

/// The larger of both; written so that a NaN stays one, which f32::max would hide.
pub fn at_least(value: f32, least: f32) -> f32 {
    if value < least { least } else { value }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[5, 3], &[5]],
    params: "loss_weight: 0.7",
    tops: 1,
    fill: super::Fill::Probabilities(3),
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn a_probability_of_zero_is_clamped_and_a_nan_is_not_hidden() {
        let layer = "layer { name: 'L' type: 'MultinomialLogisticLoss' bottom: 'x' bottom: 't' top: 'y' }";
        let inputs = format!("force_backward: true {}{}", input("x", &[2, 2]), input("t", &[2]));
        let mut net = net(&format!("{inputs}{layer}")).unwrap();
        let top = run(&mut net, &[("x", &[0.0, 1.0, 0.5, 0.5])]).unwrap();
        let expected = -(1e-20f32.ln() + 0.5f32.ln()) / 2.0;
        assert!((top["y"][0] - expected).abs() < 1e-5, "{}", top["y"][0]);
        net.backward();
        assert_eq!(net.blob_diff("x").unwrap(), [-0.5 / 1e-20, 0.0, -1.0, 0.0]);
        assert!(run(&mut net, &[("x", &[f32::NAN; 4])]).unwrap()["y"][0].is_nan());
        let error = run(&mut net, &[("t", &[0.0, 2.0])]).unwrap_err();
        assert!(error.contains("label 2 at position 1"), "{error}");
    }
}
