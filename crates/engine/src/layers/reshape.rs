//! Reshape: the same values in another shape, as `shape` says for `num_axes` axes from `axis` on: 0 copies the extent of
//! the bottom's axis at that place, one -1 is what is left.
//!
//! ```prototxt
//! layer { name: "r" type: "Reshape" bottom: "x" top: "y" reshape_param { shape { dim: 0 dim: 2 dim: -1 } } }
//! ```

use super::{Arity, LayerDef, vectorized::copy};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::{ReshapeDim, ReshapeSpec},
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Reshape",
    summary: "the same values in another shape",
    bottoms: Arity::Exactly(1),
    tops: Arity::Exactly(1),
    parse: ReshapeSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Gives a blob another shape.
pub struct Reshape {
    spec: ReshapeSpec,
}

impl Reshape {
    /// A layer of this description.
    pub fn new(spec: &ReshapeSpec) -> Self {
        Self { spec: spec.clone() }
    }

    /// The first axis that is replaced, and the first after it that is not.
    fn replaced(&self, shape: &Shape) -> Result<(usize, usize), LayerError> {
        let num_axes = shape.num_axes();
        let axis = i64::from(self.spec.axis);
        let start = if axis < 0 { num_axes as i64 + axis + 1 } else { axis };
        let start = usize::try_from(start).ok().filter(|start| *start <= num_axes);
        let start = start.ok_or_else(|| LayerError::Axis {
            axis: self.spec.axis,
            shape: shape.clone(),
        })?;
        let end = self.spec.num_axes.map_or(num_axes, |count| start.saturating_add(count));
        if end > num_axes {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: shape.clone(),
                fact: format!("it has only {} axes from {start} on: lower num_axes", num_axes - start),
            });
        }
        Ok((start, end))
    }
}

impl Layer for Reshape {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let error = |fact: String| LayerError::BottomShape {
            bottom: 0,
            shape: shape.clone(),
            fact,
        };
        let (start, end) = self.replaced(shape)?;
        let mut dims = shape.dims()[..start].to_vec();
        let mut inferred = None;
        for (i, dim) in self.spec.dims.iter().enumerate() {
            dims.push(match dim {
                ReshapeDim::Extent(extent) => *extent,
                ReshapeDim::Copied => *shape
                    .dims()
                    .get(start + i)
                    .ok_or_else(|| error(format!("it has no axis {} for dim 0 to copy", start + i)))?,
                ReshapeDim::Inferred => {
                    inferred = Some(start + i);
                    1
                }
            });
        }
        dims.extend(&shape.dims()[end..]);
        let given = Shape::new(&dims[..]);
        if let Some(inferred) = inferred {
            let mut known = given.checked_count();
            let mut count = shape.count();
            if known == Some(0) {
                // An axis without values is on both sides: the others tell what is left.
                let others = |shape: &Shape| shape.dims().iter().filter(|dim| **dim != 0).product();
                (known, count) = (Some(others(&given)), others(shape));
            }
            dims[inferred] = match known {
                Some(known) if count.is_multiple_of(known) => count / known,
                _ => {
                    return Err(error(format!(
                        "its {count} values do not divide into {given} to infer dim -1"
                    )));
                }
            };
        }
        let top = Shape::new(dims);
        if top.checked_count() != Some(shape.count()) {
            let count = shape.count();
            return Err(error(format!(
                "{top} has not as many values, {count}: change reshape_param.shape"
            )));
        }
        Ok(vec![top])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        if !io.in_place {
            copy(io.bottom.get(0), &mut io.top[0]);
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if io.propagate_down[0] && !io.in_place {
            copy(io.top_diff.get(0), &mut io.bottom_diff[0]);
        }
    }

    fn can_run_in_place(&self) -> bool {
        true
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[super::GradientCase {
    bottoms: &[&[2, 8, 3]],
    params: "reshape_param { shape { dim: 0 dim: 2 dim: -1 dim: 3 } }",
    tops: 1,
    fill: super::Fill::Normal,
}];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net};

    fn reshaped(bottom: &[usize], params: &str) -> Result<String, String> {
        let layer = format!("layer {{ name: 'L' type: 'Reshape' bottom: 'x' top: 'y' reshape_param {{ {params} }} }}");
        let net = net(&format!("{}{layer}", input("x", bottom)))?;
        Ok(net.blob_shape("y").unwrap().to_string())
    }

    #[test]
    fn shapes_are_caffes() {
        for (bottom, params, top) in [
            (&[2, 8][..], "shape { dim: 2 dim: 2 dim: 4 }", "(2, 2, 4)"),
            (&[2, 8], "shape { dim: 0 dim: -1 dim: 4 }", "(2, 2, 4)"),
            (&[2, 8], "shape { dim: 2 dim: 4 } axis: 1", "(2, 2, 4)"),
            (&[2, 8], "shape { dim: 2 dim: 4 } axis: -2", "(2, 2, 4)"),
            (&[2, 8], "shape { dim: 1 dim: 2 } num_axes: 1", "(1, 2, 8)"),
            (&[2, 8], "shape { dim: 1 } num_axes: 0", "(1, 2, 8)"),
            (&[2, 8], "shape { dim: 1 } axis: 1 num_axes: 0", "(2, 1, 8)"),
            (&[2, 8], "shape { dim: 1 dim: 1 } axis: -1", "(2, 8, 1, 1)"),
            (&[2, 8], "shape { dim: -1 }", "(16)"),
            (&[2, 8], "shape { dim: 8 dim: -1 } axis: 0", "(8, 2)"),
            (&[1, 1], "", "()"),
            (&[2, 3, 4], "shape { dim: -1 } axis: 1 num_axes: 1", "(2, 3, 4)"),
            (&[2, 3, 4], "shape { dim: -1 dim: 0 } axis: 0 num_axes: 2", "(2, 3, 4)"),
        ] {
            assert_eq!(reshaped(bottom, params), Ok(top.to_owned()), "{bottom:?} {params}");
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_shape() {
        for (params, fact) in [
            ("shape { dim: 3 dim: 5 }", "(3, 5) has not as many values, 16"),
            ("", "() has not as many values, 16"),
            ("shape { dim: -1 dim: 5 }", "do not divide into (1, 5)"),
            (
                "shape { dim: 9223372036854775807 dim: 9223372036854775807 dim: -1 }",
                "do not divide",
            ),
            (
                "shape { dim: 9223372036854775807 dim: 9223372036854775807 }",
                "has not as many values",
            ),
            ("shape { dim: 2 dim: 8 dim: 0 }", "it has no axis 2 for dim 0 to copy"),
            ("shape { dim: 16 } axis: 3", "axis 3 does not exist"),
            ("shape { dim: 16 } axis: -4", "axis -4 does not exist"),
            ("shape { dim: 8 } axis: 1 num_axes: 2", "it has only 1 axes from 1 on"),
            ("shape { dim: -1 dim: -1 }", "only one can be inferred"),
            ("shape { dim: -2 }", "shape has dim -2"),
            ("shape { dim: 16 } num_axes: -2", "num_axes is -2"),
        ] {
            let error = reshaped(&[2, 8], params).unwrap_err();
            assert!(
                error.starts_with("layer 'L' (Reshape)") && error.contains(fact),
                "{error}"
            );
        }
    }
}
