//! AbsVal: `y = |x|`, element by element.
//!
//! ```prototxt
//! layer { name: "abs" type: "AbsVal" bottom: "ip1" top: "abs" }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LayerKind,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "AbsVal",
    summary: "the absolute value",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: |_| Ok(LayerKind::AbsVal),
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Takes the sign away.
pub struct AbsVal;

impl AbsVal {
    /// A layer; there is nothing to set.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for AbsVal {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        neuron::map(
            io,
            #[inline(always)]
            |x| x.abs(),
        );
        Ok(())
    }

    /// `dx = dy · sign(x)`, and 0 at 0.
    fn backward(&mut self, io: &mut Backward<'_>) {
        neuron::map_bottom_gradient(
            io,
            #[inline(always)]
            |x, dy| dy * (f32::from(u8::from(x > 0.0)) - f32::from(u8::from(x < 0.0))),
        );
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[2, 3, 4]],
    params: "",
    tops: 1,
    fill: super::Fill::AwayFromZero,
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn at_zero_there_is_no_slope() {
        let layer = "force_backward: true layer { name: 'L' type: 'AbsVal' bottom: 'x' top: 'y' }";
        let mut net = net(&format!("{}{layer}", input("x", &[3]))).unwrap();
        assert_eq!(
            run(&mut net, &[("x", &[0.0, -2.0, 3.0])]).unwrap()["y"],
            [0.0, 2.0, 3.0]
        );
        net.blob_diff_mut("y").unwrap().fill(1.0);
        net.backward();
        assert_eq!(net.blob_diff("x").unwrap(), [0.0, -1.0, 1.0]);
    }
}
