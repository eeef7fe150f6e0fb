//! Swish: `y = x / (1 + exp(-beta · x))`, element by element.
//!
//! ```prototxt
//! layer { name: "swish1" type: "Swish" bottom: "conv1" top: "swish1" swish_param { beta: 1 } }
//! ```

use super::{Arity, LayerDef, neuron, sigmoid::sigmoid};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::SwishSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Swish",
    summary: "x · sigmoid(beta · x)",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: SwishSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Each value times its sigmoid (Ramachandran, Zoph and Le 2017).
pub struct Swish {
    beta: f32,
}

impl Swish {
    /// A layer with `spec.beta` inside of the sigmoid.
    pub fn new(spec: &SwishSpec) -> Self {
        let SwishSpec { beta } = *spec;
        Self { beta }
    }
}

impl Layer for Swish {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let beta = self.beta;
        neuron::map(io, move |x| x * sigmoid(beta * x));
        Ok(())
    }

    /// `dx = dy · (s + beta · y · (1 - s))` with s the sigmoid, which is computed again: keeping it would take as much
    /// memory as the top.
    fn backward(&mut self, io: &mut Backward<'_>) {
        let beta = self.beta;
        neuron::map_bottom_gradient(io, move |x, dy| {
            let s = sigmoid(beta * x);
            dy * (s + beta * x * s * (1.0 - s))
        });
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "swish_param { beta: -1.5 }",
        tops: 1,
        fill: super::Fill::Normal,
    },
];
