//! Power: `y = (shift + scale · x)^power`, element by element.
//!
//! ```prototxt
//! layer { name: "halve" type: "Power" bottom: "ip1" top: "ip1" power_param { scale: 0.5 } }
//! ```

use super::{Arity, LayerDef, neuron};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::PowerSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Power",
    summary: "(shift + scale · x)^power",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: PowerSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Raises a linear function of each value to a power.
pub struct Power {
    spec: PowerSpec,
}

impl Power {
    /// A layer of this description.
    pub fn new(spec: &PowerSpec) -> Self {
        Self { spec: spec.clone() }
    }

    /// What the derivative is everywhere, where it is the same everywhere.
    fn constant_slope(&self) -> Option<f32> {
        let PowerSpec { power, scale, .. } = self.spec;
        let slope = power * scale;
        (slope == 0.0 || power == 1.0).then_some(slope)
    }
}

impl Layer for Power {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        Ok(vec![bottom[0].clone()])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let PowerSpec { power, scale, shift } = self.spec;
        if self.constant_slope() == Some(0.0) {
            let constant = shift.powf(power);
            neuron::map(
                io,
                #[inline(always)]
                move |_| constant,
            );
        } else if power == 1.0 {
            neuron::map(
                io,
                #[inline(always)]
                move |x| scale * x + shift,
            );
        } else if power == 2.0 {
            neuron::map(
                io,
                #[inline(always)]
                move |x| (scale * x + shift) * (scale * x + shift),
            );
        } else {
            neuron::map(io, move |x| (scale * x + shift).powf(power));
        }
        Ok(())
    }

    /// `dx = dy · scale · power · (shift + scale · x)^(power - 1)`. Caffe divides y by its base in place of the last
    /// factor, which makes a NaN of a base of 0.
    fn backward(&mut self, io: &mut Backward<'_>) {
        let PowerSpec { power, scale, shift } = self.spec;
        let slope = power * scale;
        match self.constant_slope() {
            Some(slope) => neuron::map_gradient(
                io,
                #[inline(always)]
                move |_, dy| dy * slope,
            ),
            None if power == 2.0 => neuron::map_bottom_gradient(
                io,
                #[inline(always)]
                move |x, dy| dy * slope * (scale * x + shift),
            ),
            None => neuron::map_bottom_gradient(io, move |x, dy| dy * slope * (scale * x + shift).powf(power - 1.0)),
        }
    }

    fn can_run_in_place(&self) -> bool {
        self.constant_slope().is_some()
    }
}

#[cfg(test)]
const fn case(params: &'static str) -> super::GradientCase {
    super::GradientCase {
        bottoms: &[&[2, 3, 2]],
        params,
        tops: 1,
        fill: super::Fill::Distinct,
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    case("power_param { scale: -0.5 shift: 2 }"),
    case("power_param { power: 2 scale: 0.5 shift: 0.3 }"),
    case("power_param { power: 3 }"),
    case("power_param { power: -1.5 scale: 0.5 shift: 4 }"),
    case("power_param { power: 0 shift: 4 }"),
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    /// y for these x, and the gradients of Σ y.
    fn power(params: &str, x: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let layer = format!("layer {{ name: 'L' type: 'Power' bottom: 'x' top: 'y' power_param {{ {params} }} }}");
        let mut net = net(&format!("force_backward: true {}{layer}", input("x", &[x.len()]))).unwrap();
        let top = run(&mut net, &[("x", x)]).unwrap()["y"].clone();
        net.blob_diff_mut("y").unwrap().fill(1.0);
        net.backward();
        (top, net.blob_diff("x").unwrap().to_vec())
    }

    #[test]
    fn a_power_or_a_scale_of_zero_ignores_the_bottom() {
        let x = [f32::NAN, 2.0];
        assert_eq!(power("power: 0 shift: 5", &x), (vec![1.0; 2], vec![0.0; 2]));
        assert_eq!(power("power: 0", &[0.0]), (vec![1.0], vec![0.0]));
        assert_eq!(power("power: 3 scale: 0 shift: 2", &x), (vec![8.0; 2], vec![0.0; 2]));
    }

    #[test]
    fn a_base_of_zero_has_a_gradient() {
        assert_eq!(power("power: 3", &[0.0, 2.0]), (vec![0.0, 8.0], vec![0.0, 12.0]));
        assert_eq!(power("power: 2", &[0.0, 3.0]), (vec![0.0, 9.0], vec![0.0, 6.0]));
    }
}
