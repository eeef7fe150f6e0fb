//! Clip: `y = min(max(x, min), max)`, element by element.
//!
//! ```prototxt
//! layer { name: "relu6" type: "Clip" bottom: "conv1" top: "conv1" clip_param { min: 0 max: 6 } }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::ClipSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Clip",
    summary: "x, at least min and at most max",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ClipSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Keeps each value within bounds.
pub struct Clip {
    min: f32,
    max: f32,
}

impl Clip {
    /// A layer with these bounds.
    pub fn new(spec: &ClipSpec) -> Self {
        let ClipSpec { min, max } = *spec;
        Self { min, max }
    }
}

impl Layer for Clip {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (min, max) = (self.min, self.max);
        // Written so that a NaN stays one; Caffe makes it the minimum.
        neuron::map(
            io,
            #[inline(always)]
            move |x| {
                let x = if x < min { min } else { x };
                if x > max { max } else { x }
            },
        );
        Ok(())
    }

    /// `dx = dy` within the bounds, both included, and 0 outside.
    fn backward(&mut self, io: &mut Backward<'_>) {
        let (min, max) = (self.min, self.max);
        neuron::map_bottom_gradient(
            io,
            #[inline(always)]
            move |x, dy| dy * if x >= min && x <= max { 1.0 } else { 0.0 },
        );
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[2, 3, 4]],
    params: "clip_param { min: -0.55 max: 0.75 }",
    tops: 1,
    fill: super::Fill::Distinct,
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn bounds_let_the_gradient_through_and_a_nan_is_not_hidden() {
        let layer = "layer { name: 'L' type: 'Clip' bottom: 'x' top: 'y' clip_param { min: -1 max: 2 } }";
        let mut net = net(&format!("force_backward: true {}{layer}", input("x", &[5]))).unwrap();
        let top = run(&mut net, &[("x", &[-1.5, -1.0, f32::NAN, 2.0, 2.5])]).unwrap();
        assert_eq!(top["y"][..2], [-1.0, -1.0]);
        assert!(top["y"][2].is_nan());
        assert_eq!(top["y"][3..], [2.0, 2.0]);
        net.blob_diff_mut("y").unwrap().fill(3.0);
        net.backward();
        assert_eq!(net.blob_diff("x").unwrap(), [0.0, 3.0, 0.0, 3.0, 0.0]);
    }

    #[test]
    fn bounds_have_to_be_there_and_in_order() {
        let build = |params: &str| {
            let layer = format!("layer {{ name: 'L' type: 'Clip' bottom: 'x' top: 'y' {params} }}");
            net(&format!("{}{layer}", input("x", &[5]))).map(drop)
        };
        assert!(build("").unwrap_err().contains("clip_param is missing"));
        assert!(build("clip_param { min: 1 max: 0 }").unwrap_err().contains("min is 1"));
        assert_eq!(build("clip_param { min: 1 max: 1 }"), Ok(()));
    }
}
