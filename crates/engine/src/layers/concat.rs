//! Concat: joins its bottoms along `axis`.
//!
//! ```prototxt
//! layer { name: "inception" type: "Concat" bottom: "1x1" bottom: "3x3" bottom: "5x5" top: "inception" }
//! ```
//!
//! Bottoms are `(outer, extent_i, inner)` around the axis, the top is `(outer, Σ extent_i, inner)`.

use rayon::prelude::*;

use super::{Arity, LayerDef, vectorized::copy};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::ConcatSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Concat",
    summary: "joins its bottoms along an axis",
    bottoms: Arity::AtLeast(1),
    tops: Arity::Exactly(1),
    parse: ConcatSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Joins blobs.
pub struct Concat {
    axis: i32,
    /// Values that each bottom has in one step of the axes before `axis`.
    rows: Vec<usize>,
}

impl Concat {
    /// A layer that joins along `spec.axis`.
    pub fn new(spec: &ConcatSpec) -> Self {
        let ConcatSpec { axis } = *spec;
        Self { axis, rows: Vec::new() }
    }
}

impl Layer for Concat {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let first = bottom[0];
        let axis = first.require_axis(self.axis)?;
        let mut dims = first.dims().to_vec();
        dims[axis] = 0;
        for (i, shape) in bottom.iter().enumerate() {
            let fits = |(d, (mine, theirs))| d == axis || mine == theirs;
            let pairs = shape.dims().iter().zip(first.dims());
            if shape.num_axes() != first.num_axes() || !pairs.enumerate().all(fits) {
                return Err(LayerError::BottomShapes {
                    first: 0,
                    first_shape: first.clone(),
                    second: i,
                    second_shape: (*shape).clone(),
                    fact: format!("they may differ on axis {axis} only"),
                });
            }
            dims[axis] += shape.dims()[axis];
        }
        self.rows = bottom.iter().map(|shape| shape.count_from(axis)).collect();
        Ok(vec![Shape::new(dims)])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (bottom, rows) = (io.bottom, &self.rows);
        let top_rows = io.top[0].par_chunks_mut(rows.iter().sum());
        top_rows.enumerate().for_each(|(n, mut top_row)| {
            for (i, row) in rows.iter().enumerate() {
                let (part, rest) = top_row.split_at_mut(*row);
                copy(&bottom[i][n * row..][..*row], part);
                top_row = rest;
            }
        });
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let top_diff = io.top_diff.get(0);
        let top_row: usize = self.rows.iter().sum();
        let mut offset = 0;
        for (i, row) in self.rows.iter().enumerate() {
            if io.propagate_down[i] {
                // A bottom that a Filter has emptied has rows of no values.
                let rows = io.bottom_diff[i].par_chunks_mut((*row).max(1)).enumerate();
                rows.for_each(|(n, diff)| copy(&top_diff[n * top_row + offset..][..*row], diff));
            }
            offset += row;
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 3, 2, 2], &[2, 1, 2, 2], &[2, 2, 2, 2]],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[2, 3], &[4, 3]],
        params: "concat_param { axis: -2 }",
        tops: 1,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[2, 3]],
        params: "",
        tops: 1,
        fill: super::Fill::Normal,
    },
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net};

    #[test]
    fn other_axes_must_agree() {
        let layer = "layer { name: 'L' type: 'Concat' bottom: 'x' bottom: 'z' top: 'y' }";
        let build = |x: &[usize], z: &[usize]| net(&format!("{}{}{layer}", input("x", x), input("z", z)));
        let error = build(&[2, 3, 4], &[2, 3, 5]).err().unwrap();
        assert!(
            error.contains("(2, 3, 4)") && error.contains("(2, 3, 5)") && error.contains("axis 1"),
            "{error}"
        );
        assert!(build(&[2, 3, 4], &[2, 3]).is_err());
        assert!(build(&[2], &[2]).err().unwrap().contains("axis 1 does not exist"));
    }
}
