//! Log: `y = log_base(shift + scale · x)`, element by element; a base of -1, the default, stands for e.
//!
//! ```prototxt
//! layer { name: "log" type: "Log" bottom: "prob" top: "log" log_param { base: 10 shift: 1e-6 } }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::LogSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Log",
    summary: "log_base(shift + scale · x)",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: LogSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Takes each value's logarithm; those below zero have none and become NaN.
pub struct Log {
    spec: LogSpec,
}

impl Log {
    /// A layer of this description.
    pub fn new(spec: &LogSpec) -> Self {
        Self { spec: spec.clone() }
    }
}

impl Layer for Log {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let LogSpec { ln_base, scale, shift } = self.spec;
        let base_scale = 1.0 / ln_base;
        neuron::map(io, move |x| base_scale * (scale * x + shift).ln());
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let LogSpec { ln_base, scale, shift } = self.spec;
        let numerator_scale = scale / ln_base;
        neuron::map_bottom_gradient(
            io,
            #[inline(always)]
            move |x, dy| dy * numerator_scale / (scale * x + shift),
        );
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 3, 2]],
        params: "log_param { shift: 5 }",
        tops: 1,
        fill: super::Fill::Distinct,
    },
    super::GradientCase {
        bottoms: &[&[2, 3, 2]],
        params: "log_param { base: 10 scale: -0.5 shift: 4 }",
        tops: 1,
        fill: super::Fill::Distinct,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn the_base_is_above_zero_and_not_one() {
        let build = |params: &str| {
            let layer = format!("layer {{ name: 'L' type: 'Log' bottom: 'x' top: 'y' log_param {{ {params} }} }}");
            net(&format!("{}{layer}", input("x", &[3])))
        };
        for wrong in ["base: 0", "base: 1", "base: -3", "base: nan"] {
            assert!(build(wrong).err().unwrap().contains("base is"), "{wrong}");
        }
        let mut net = build("base: 0.5").unwrap();
        let top = run(&mut net, &[("x", &[8.0, 0.0, -1.0])]).unwrap();
        assert_eq!(top["y"][..2], [-3.0, f32::INFINITY]);
        assert!(top["y"][2].is_nan());
    }
}
