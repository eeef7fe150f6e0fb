//! ReLU: `y = max(x, 0) + negative_slope · min(x, 0)`, element by element.
//!
//! ```prototxt
//! layer { name: "relu1" type: "ReLU" bottom: "conv1" top: "conv1" relu_param { negative_slope: 0.1 } }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::ReluSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "ReLU",
    summary: "max(x, 0), or a slope below zero",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ReluSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Rectifies each value (Nair and Hinton 2010; with a slope below zero, Maas et al. 2013).
pub struct Relu {
    negative_slope: f32,
    /// Whether y > 0 just where x > 0, which a negative slope spoils.
    top_tells_sign: bool,
}

impl Relu {
    /// A layer with this slope below zero.
    pub fn new(spec: &ReluSpec) -> Self {
        let ReluSpec { negative_slope } = *spec;
        Self {
            negative_slope,
            top_tells_sign: negative_slope >= 0.0,
        }
    }
}

impl Layer for Relu {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let slope = self.negative_slope;
        // Written so that a NaN stays one: f32::max would hide it.
        if slope == 0.0 {
            neuron::map(
                io,
                #[inline(always)]
                |x| if x < 0.0 { 0.0 } else { x },
            );
        } else {
            neuron::map(
                io,
                #[inline(always)]
                move |x| if x < 0.0 { slope * x } else { x },
            );
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let slope = self.negative_slope;
        // A product, not a choice of two results, which would become a branch that no processor predicts.
        #[inline(always)]
        fn gradient(sign_of: f32, dy: f32, slope: f32) -> f32 {
            dy * if sign_of > 0.0 { 1.0 } else { slope }
        }
        if self.top_tells_sign {
            neuron::map_gradient(
                io,
                #[inline(always)]
                move |y, dy| gradient(y, dy, slope),
            );
        } else {
            // y > 0 for x < 0 too: only the bottom tells.
            neuron::map_bottom_gradient(
                io,
                #[inline(always)]
                move |x, dy| gradient(x, dy, slope),
            );
        }
    }

    fn can_run_in_place(&self) -> bool {
        self.top_tells_sign
    }

    fn reads_top_in_backward(&self) -> bool {
        self.top_tells_sign
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "relu_param { negative_slope: 0.25 }",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "relu_param { negative_slope: -0.25 }",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
];
