//! BNLL, the binomial normal log-likelihood or softplus: `y = log(1 + exp(x))`, element by element.
//!
//! ```prototxt
//! layer { name: "bnll" type: "BNLL" bottom: "ip1" top: "bnll" }
//! ```

use super::{Arity, LayerDef, neuron, sigmoid::sigmoid};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "BNLL",
    summary: "log(1 + exp(x))",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: |_| Ok(LayerKind::Bnll),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// A smooth rectifier.
pub struct Bnll;

impl Bnll {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for Bnll {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        // The same function, without an exponential that overflows.
        neuron::map(io, |x| (-x.abs()).exp().ln_1p() + if x > 0.0 { x } else { 0.0 });
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        neuron::map_bottom_gradient(io, |x, dy| dy * sigmoid(x));
    }
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
    fn large_values_do_not_overflow_and_a_nan_is_not_hidden() {
        let layer = "force_backward: true layer { name: 'L' type: 'BNLL' bottom: 'x' top: 'y' }";
        let mut net = net(&format!("{}{layer}", input("x", &[5]))).unwrap();
        let top = run(&mut net, &[("x", &[-1e30, -200.0, 0.0, 200.0, 1e30])]).unwrap();
        assert_eq!(top["y"], [0.0, 0.0, std::f32::consts::LN_2, 200.0, 1e30]);
        net.blob_diff_mut("y").unwrap().fill(1.0);
        net.backward();
        assert_eq!(net.blob_diff("x").unwrap(), [0.0, 0.0, 0.5, 1.0, 1.0]);
        assert!(run(&mut net, &[("x", &[f32::NAN; 5])]).unwrap()["y"][0].is_nan());
    }
}
