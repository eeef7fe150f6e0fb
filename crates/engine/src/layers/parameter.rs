//! Parameter: a learned blob as a top.
//!
//! ```prototxt
//! layer { name: "scale" type: "Parameter" top: "scale" parameter_param { shape { dim: 20 } } }
//! ```
//!
//! Caffe has no filler for it: it begins with zeros.

use super::{Arity, LayerDef, vectorized::copy};
use crate::{
    LayerError, Shape,
    filler::Filler,
    kernels,
    layer::{Backward, Forward, Layer, ParamBlob},
    spec::ParameterSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Parameter",
    summary: "a learned blob as a top",
    bottoms: Arity::Exactly(0),
    tops: Arity::Exactly(1),
    parse: ParameterSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Shows a parameter.
pub struct Parameter {
    shape: Shape,
}

impl Parameter {
    /// A layer with a parameter of this shape.
    pub fn new(spec: &ParameterSpec) -> Self {
        let ParameterSpec { shape } = spec.clone();
        Self { shape }
    }
}

impl Layer for Parameter {
    fn reshape(&mut self, _bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![self.shape.clone()])
    }

    fn params(&self) -> Vec<ParamBlob> {
        vec![ParamBlob {
            shape: self.shape.clone(),
            filler: Filler::Constant(0.0),
        }]
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        copy(&io.params[0], &mut io.top[0]);
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if io.param_propagate_down[0] {
            kernels::axpy(1.0, io.top_diff.get(0), io.param_diff.get_mut(0));
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[],
        params: "parameter_param { shape { dim: 3 dim: 4 } }",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{net, run};

    #[test]
    fn the_top_is_the_blob_and_its_gradient_adds_up() {
        let mut net = net("force_backward: true
            layer { name: 'L' type: 'Parameter' top: 'y' parameter_param { shape { dim: 3 } } }")
        .unwrap();
        assert_eq!(run(&mut net, &[]).unwrap()["y"], [0.0; 3], "it begins with zeros");
        net.param_arena_mut().copy_from_slice(&[1.0, -2.0, 3.0]);
        assert_eq!(run(&mut net, &[]).unwrap()["y"], [1.0, -2.0, 3.0]);
        for expected in [[0.5; 3], [1.0; 3]] {
            net.blob_diff_mut("y").unwrap().fill(0.5);
            net.backward();
            assert_eq!(net.gradient_arena(), expected);
        }
    }
}
