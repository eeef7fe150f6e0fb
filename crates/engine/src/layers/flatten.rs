//! Flatten: joins the axes from `axis` to `end_axis`, both included, to one.
//!
//! ```prototxt
//! layer { name: "flat" type: "Flatten" bottom: "pool5" top: "flat" flatten_param { axis: 1 end_axis: -1 } }
//! ```
//!
//! `(n, c, h, w)` becomes `(n, c·h·w)` by default; the values stay where they are.

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::FlattenSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Flatten",
    summary: "joins axes to one",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: FlattenSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Joins axes.
pub struct Flatten {
    spec: FlattenSpec,
}

impl Flatten {
    /// A layer that joins the axes that `spec` names.
    pub fn new(spec: &FlattenSpec) -> Self {
        Self { spec: spec.clone() }
    }
}

impl Layer for Flatten {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let (start, end) = (
            shape.require_axis(self.spec.axis)?,
            shape.require_axis(self.spec.end_axis)?,
        );
        if end < start {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: shape.clone(),
                fact: format!("axis {start} does not come before end_axis {end}: swap them"),
            });
        }
        let dims = shape.dims();
        let joined = dims[start..=end].iter().product();
        Ok(vec![Shape::new([&dims[..start], &[joined], &dims[end + 1..]].concat())])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        if !io.in_place {
            io.top[0].copy_from_slice(io.bottom.get(0));
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if io.propagate_down[0] && !io.in_place {
            io.bottom_diff[0].copy_from_slice(io.top_diff.get(0));
        }
    }

    fn can_run_in_place(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[2, 3, 2, 2]],
    params: "flatten_param { axis: 0 end_axis: -2 }",
    tops: 1,
    fill: super::Fill::Normal,
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net};

    #[test]
    fn shapes_follow_the_axes() {
        let build = |params: &str| {
            let layer = format!("layer {{ name: 'L' type: 'Flatten' bottom: 'x' top: 'y' {params} }}");
            net(&format!("{}{layer}", input("x", &[2, 3, 4, 5])))
        };
        for (params, shape) in [
            ("", "(2, 60)"),
            ("flatten_param { axis: 0 }", "(120)"),
            ("flatten_param { axis: -3 end_axis: 2 }", "(2, 12, 5)"),
            ("flatten_param { axis: 2 end_axis: 2 }", "(2, 3, 4, 5)"),
        ] {
            let net = build(params).unwrap();
            assert_eq!(net.blob_shape("y").unwrap().to_string(), shape, "{params}");
        }
        assert!(
            build("flatten_param { axis: 2 end_axis: 1 }")
                .err()
                .unwrap()
                .contains("swap them")
        );
        assert!(
            build("flatten_param { axis: 4 }")
                .err()
                .unwrap()
                .contains("axis 4 does not exist")
        );
    }
}
