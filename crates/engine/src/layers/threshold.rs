//! Threshold: `y = 1` where `x > threshold` and else 0, element by element.
//!
//! ```prototxt
//! layer { name: "fires" type: "Threshold" bottom: "ip1" top: "fires" threshold_param { threshold: 0.5 } }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::ThresholdSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Threshold",
    summary: "1 above a threshold, else 0",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ThresholdSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::None("it is a step"),
};

/// Tells values above a threshold from the others.
pub struct Threshold {
    threshold: f32,
}

impl Threshold {
    /// A layer with this threshold.
    pub fn new(spec: &ThresholdSpec) -> Self {
        let ThresholdSpec { threshold } = *spec;
        Self { threshold }
    }
}

impl Layer for Threshold {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let threshold = self.threshold;
        neuron::map(
            io,
            #[inline(always)]
            move |x| if x > threshold { 1.0 } else { 0.0 },
        );
        Ok(())
    }

    fn backward(&mut self, _io: &mut Backward<'_>) {}

    fn can_run_in_place(&self) -> bool {
        true
    }

    fn bottom_gradient(&self, _bottom: usize) -> BottomGradient {
        BottomGradient::Step
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn the_threshold_itself_is_not_above() {
        let layer = "layer { name: 'L' type: 'Threshold' bottom: 'x' top: 'y' threshold_param { threshold: 0.5 } }";
        let mut net = net(&format!("{}{layer}", input("x", &[3]))).unwrap();
        assert_eq!(
            run(&mut net, &[("x", &[0.5, 0.51, -1.0])]).unwrap()["y"],
            [0.0, 1.0, 0.0]
        );
    }
}
