//! Sigmoid: `y = 1 / (1 + exp(-x))`, element by element.
//!
//! ```prototxt
//! layer { name: "gate" type: "Sigmoid" bottom: "ip1" top: "gate" }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Sigmoid",
    summary: "1 / (1 + exp(-x))",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: |_| Ok(LayerKind::Sigmoid),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Squashes each value into (0, 1).
pub struct Sigmoid;

impl Sigmoid {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for Sigmoid {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        neuron::map(io, sigmoid);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        neuron::map_gradient(
            io,
            #[inline(always)]
            |y, dy| dy * y * (1.0 - y),
        );
    }

    fn can_run_in_place(&self) -> bool {
        true
    }

    fn reads_top_in_backward(&self) -> bool {
        true
    }
}

/// `1 / (1 + exp(-x))`, without an exponential that overflows.
pub fn sigmoid(x: f32) -> f32 {
    0.5 * (0.5 * x).tanh() + 0.5
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[2, 3, 4]],
    params: "",
    tops: 1,
    fill: super::Fill::Normal,
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn large_values_saturate() {
        let layer = "layer { name: 'L' type: 'Sigmoid' bottom: 'x' top: 'y' }";
        let mut net = net(&format!("{}{layer}", input("x", &[5]))).unwrap();
        let x = [-1e30, -200.0, 0.0, 200.0, 1e30];
        assert_eq!(run(&mut net, &[("x", &x)]).unwrap()["y"], [0.0, 0.0, 0.5, 1.0, 1.0]);
    }
}
