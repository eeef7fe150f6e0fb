//! Exp: `y = base^(shift + scale · x)`, element by element; a base of -1, the default, stands for e.
//!
//! ```prototxt
//! layer { name: "exp" type: "Exp" bottom: "ip1" top: "exp" exp_param { base: 2 scale: 0.5 } }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::ExpSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Exp",
    summary: "base^(shift + scale · x)",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ExpSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Raises a base to each value.
pub struct Exp {
    /// The factor on x in the exponent of e.
    inner_scale: f32,
    /// The factor on the result.
    outer_scale: f32,
}

impl Exp {
    /// A layer of this description.
    pub fn new(spec: &ExpSpec) -> Self {
        Self {
            inner_scale: spec.ln_base * spec.scale,
            outer_scale: (spec.ln_base * spec.shift).exp(),
        }
    }
}

impl Layer for Exp {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (inner_scale, outer_scale) = (self.inner_scale, self.outer_scale);
        neuron::map(io, move |x| outer_scale * (inner_scale * x).exp());
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let inner_scale = self.inner_scale;
        neuron::map_gradient(
            io,
            #[inline(always)]
            move |y, dy| dy * y * inner_scale,
        );
    }

    fn can_run_in_place(&self) -> bool {
        true
    }

    fn reads_top_in_backward(&self) -> bool {
        true
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
        params: "exp_param { base: 0.5 scale: 1.5 shift: -0.7 }",
        tops: 1,
        fill: super::Fill::Normal,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    #[test]
    fn the_base_is_above_zero_or_e() {
        let build = |params: &str| {
            let layer = format!("layer {{ name: 'L' type: 'Exp' bottom: 'x' top: 'y' exp_param {{ {params} }} }}");
            net(&format!("{}{layer}", input("x", &[2])))
        };
        for wrong in ["base: 0", "base: -2", "base: inf", "base: nan"] {
            assert!(build(wrong).err().unwrap().contains("base is"), "{wrong}");
        }
        let mut net = build("base: 2 shift: 3").unwrap();
        assert_eq!(run(&mut net, &[("x", &[0.0, 1.0])]).unwrap()["y"], [8.0, 16.0]);
        let mut net = build("base: 1 shift: 3").unwrap();
        assert_eq!(run(&mut net, &[("x", &[0.0, 1.0])]).unwrap()["y"], [1.0, 1.0]);
    }
}
