//! Accuracy: the share of positions whose label is among the `top_k` best scores; a tie counts against the label.
//!
//! ```prototxt
//! layer {
//!   name: "accuracy" type: "Accuracy" bottom: "ip2" bottom: "label" top: "accuracy" include { phase: TEST }
//!   accuracy_param { top_k: 5 }
//! }
//! ```
//!
//! Scores are `(outer, classes, inner)` around `axis`, labels `(outer, inner)`. A second top holds each class' own
//! accuracy, 0 for classes without a label.

use super::{Arity, LayerDef, label};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::AccuracySpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Accuracy",
    summary: "the share of positions whose label is among the top_k scores",
    bottoms: Arity::Exactly(2),
    tops: Arity::Between(1, 2),
    parse: AccuracySpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it counts"),
};

/// Counts how often the label is among the best scores.
pub struct Accuracy {
    spec: AccuracySpec,
    classes: usize,
    inner: usize,
    /// Labels seen of each class in one pass.
    class_counts: Vec<usize>,
}

impl Accuracy {
    /// A layer that takes the label among the `spec.top_k` best for right.
    pub fn new(spec: &AccuracySpec) -> Self {
        Self {
            spec: spec.clone(),
            classes: 0,
            inner: 0,
            class_counts: Vec::new(),
        }
    }
}

impl Layer for Accuracy {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let axis = label::check_shapes(bottom, self.spec.axis)?;
        self.classes = bottom[0].dims()[axis];
        self.inner = bottom[0].count_from(axis + 1);
        if self.spec.top_k > self.classes {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: bottom[0].clone(),
                fact: format!("top_k {} wants as many classes on axis {axis}", self.spec.top_k),
            });
        }
        self.class_counts.resize(self.classes, 0);
        Ok(vec![Shape::default(), Shape::from([self.classes])])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (scores, labels) = (io.bottom.get(0), io.bottom.get(1));
        let [accuracy, per_class @ ..] = &mut *io.top else {
            return Ok(());
        };
        let mut per_class = per_class.first_mut();
        if let Some(right) = &mut per_class {
            right.fill(0.0);
        }
        self.class_counts.fill(0);
        let (mut sum_right, mut count) = (0usize, 0usize);
        for (position, label) in labels.iter().enumerate() {
            let Some(class) = label::class(*label, position, self.classes, self.spec.ignore_label)? else {
                continue;
            };
            let (row, column) = (position / self.inner, position % self.inner);
            let score = |class: usize| scores[(row * self.classes + class) * self.inner + column];
            let own = score(class);
            // A NaN counts against the label too; Caffe takes a label with a NaN for right.
            let no_worse = |other: &usize| score(*other) >= own || score(*other).is_nan();
            let rank = (0..self.classes).filter(no_worse).count();
            count += 1;
            self.class_counts[class] += 1;
            if rank <= self.spec.top_k && !own.is_nan() {
                sum_right += 1;
                if let Some(right) = &mut per_class {
                    right[class] += 1.0;
                }
            }
        }
        accuracy[0] = sum_right as f32 / count.max(1) as f32;
        if let Some(right) = per_class {
            for (right, count) in right.iter_mut().zip(&self.class_counts) {
                *right /= (*count).max(1) as f32;
            }
        }
        Ok(())
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            0 => BottomGradient::Step,
            _ => BottomGradient::Label("labels"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{net, run};

    const SCORES: &str = "input_param { shape { dim: 2 dim: 3 } }";

    fn accuracy(params: &str, scores: &[f32], labels: &[f32]) -> Result<f32, String> {
        let mut net = net(&format!(
            "layer {{ name: 'x' type: 'Input' top: 'x' {SCORES} }}
             layer {{ name: 't' type: 'Input' top: 't' input_param {{ shape {{ dim: 2 }} }} }}
             layer {{ name: 'L' type: 'Accuracy' bottom: 'x' bottom: 't' top: 'y' {params} }}"
        ))?;
        Ok(run(&mut net, &[("x", scores), ("t", labels)])?["y"][0])
    }

    #[test]
    fn ties_and_nans_count_against() {
        let scores = [1.0, 1.0, 0.0, f32::NAN, 0.0, 0.0];
        assert_eq!(accuracy("", &scores, &[0.0, 0.0]), Ok(0.0));
        // Two scores are at least the label's, itself included: right among the best 2.
        assert_eq!(accuracy("accuracy_param { top_k: 2 }", &scores, &[0.0, 0.0]), Ok(0.5));
    }

    #[test]
    fn ignored_labels_are_not_counted() {
        let scores = [1.0, 0.0, 0.0, 1.0, 0.0, 0.0];
        let params = "accuracy_param { ignore_label: 2 }";
        assert_eq!(accuracy(params, &scores, &[0.0, 2.0]), Ok(1.0));
        assert_eq!(accuracy(params, &scores, &[2.0, 2.0]), Ok(0.0));
    }

    #[test]
    fn errors_name_layer_and_remedy() {
        let scores = [0.0; 6];
        let error = accuracy("", &scores, &[0.0, 3.0]).unwrap_err();
        assert!(
            error.starts_with("layer 'L' (Accuracy): label 3 at position 1"),
            "{error}"
        );
        let error = accuracy("accuracy_param { top_k: 4 }", &scores, &[0.0; 2]).unwrap_err();
        assert!(error.contains("top_k 4"), "{error}");
        let error = accuracy("accuracy_param { axis: 0 }", &scores, &[0.0; 2]).unwrap_err();
        assert!(error.contains("(2, 3)") && error.contains("(2)"), "{error}");
        let error = accuracy("accuracy_param { axis: 2 }", &scores, &[0.0; 2]).unwrap_err();
        assert!(error.contains("axis 2 does not exist"), "{error}");
    }
}
