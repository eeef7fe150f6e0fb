//! ELU: `y = x` above zero and `alpha · (exp(x) - 1)` below, element by element.
//!
//! ```prototxt
//! layer { name: "elu1" type: "ELU" bottom: "conv1" top: "conv1" elu_param { alpha: 1 } }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::EluSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "ELU",
    summary: "x, or alpha · (exp(x) - 1) below zero",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: EluSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// An exponential linear unit (Clevert, Unterthiner and Hochreiter 2015).
pub struct Elu {
    alpha: f32,
    /// Whether y > 0 just where x > 0, which a negative alpha spoils.
    top_tells_sign: bool,
}

impl Elu {
    /// A layer that approaches `-spec.alpha` far below zero.
    pub fn new(spec: &EluSpec) -> Self {
        let EluSpec { alpha } = *spec;
        Self {
            alpha,
            top_tells_sign: alpha >= 0.0,
        }
    }
}

impl Layer for Elu {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let alpha = self.alpha;
        neuron::map(io, move |x| if x > 0.0 { x } else { alpha * x.exp_m1() });
        Ok(())
    }

    /// Below zero, the derivative `alpha · exp(x)` is `y + alpha`.
    fn backward(&mut self, io: &mut Backward<'_>) {
        let alpha = self.alpha;
        if self.top_tells_sign {
            neuron::map_gradient(
                io,
                #[inline(always)]
                move |y, dy| dy * if y > 0.0 { 1.0 } else { y + alpha },
            );
        } else {
            neuron::map_bottom_gradient(io, move |x, dy| dy * if x > 0.0 { 1.0 } else { alpha * x.exp() });
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
        params: "elu_param { alpha: 0 }",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 4]],
        params: "elu_param { alpha: -0.5 }",
        tops: 1,
        fill: super::Fill::AwayFromZero,
    },
];
