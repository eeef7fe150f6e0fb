//! Slice: cuts its bottom along `axis`, before each `slice_point`, or into equal parts.
//!
//! ```prototxt
//! layer { name: "slice" type: "Slice" bottom: "x" top: "a" top: "b" slice_param { axis: 1 slice_point: 3 } }
//! ```

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer},
    spec::SliceSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Slice",
    summary: "cuts its bottom along an axis",
    bottoms: Arity::Exactly(1),
    tops: Arity::AtLeast(1),
    parse: SliceSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Cuts a blob.
pub struct Slice {
    spec: SliceSpec,
    /// Values that each top has in one step of the axes before `axis`.
    rows: Vec<usize>,
}

impl Slice {
    /// A layer that cuts along `spec.axis`.
    pub fn new(spec: &SliceSpec) -> Self {
        Self {
            spec: spec.clone(),
            rows: Vec::new(),
        }
    }

    /// The extent of each top on the axis, of which the bottom has `extent`.
    fn extents(&self, extent: usize) -> Result<Vec<usize>, String> {
        let num_tops = self.spec.num_tops;
        if self.spec.points.is_empty() {
            if !extent.is_multiple_of(num_tops) {
                return Err(format!(
                    "{extent} is no multiple of the {num_tops} tops: give slice_points"
                ));
            }
            return Ok(vec![extent / num_tops; num_tops]);
        }
        let mut extents = Vec::with_capacity(num_tops);
        let mut start = 0;
        for end in self.spec.points.iter().chain([&extent]) {
            if *end <= start {
                let points = &self.spec.points;
                return Err(format!(
                    "the slice_points {points:?} have to rise from 1 to {}",
                    extent.saturating_sub(1)
                ));
            }
            extents.push(end - start);
            start = *end;
        }
        Ok(extents)
    }
}

impl Layer for Slice {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        let axis = shape.require_axis(self.spec.axis)?;
        let extents = self
            .extents(shape.dims()[axis])
            .map_err(|fact| LayerError::BottomShape {
                bottom: 0,
                shape: shape.clone(),
                fact: format!("on axis {axis} {fact}"),
            })?;
        let inner = shape.count_from(axis + 1);
        self.rows = extents.iter().map(|extent| extent * inner).collect();
        let top = |extent: &usize| {
            let mut dims = shape.dims().to_vec();
            dims[axis] = *extent;
            Shape::new(dims)
        };
        Ok(extents.iter().map(top).collect())
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let bottom = io.bottom.get(0);
        let bottom_row: usize = self.rows.iter().sum();
        let mut offset = 0;
        for (top, row) in io.top.iter_mut().zip(&self.rows) {
            let rows = top.par_chunks_mut(*row).enumerate();
            rows.for_each(|(n, values)| values.copy_from_slice(&bottom[n * bottom_row + offset..][..*row]));
            offset += row;
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (top_diff, rows) = (io.top_diff, &self.rows);
        let bottom_rows = io.bottom_diff[0].par_chunks_mut(rows.iter().sum());
        bottom_rows.enumerate().for_each(|(n, mut bottom_row)| {
            for (i, row) in rows.iter().enumerate() {
                let (part, rest) = bottom_row.split_at_mut(*row);
                part.copy_from_slice(&top_diff[i][n * row..][..*row]);
                bottom_row = rest;
            }
        });
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::GradientCase {
        bottoms: &[&[2, 6, 2]],
        params: "",
        tops: 3,
        fill: super::Fill::Normal,
    },
    super::GradientCase {
        bottoms: &[&[5, 3]],
        params: "slice_param { axis: -2 slice_point: 1 slice_point: 4 }",
        tops: 3,
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
    fn points_must_cut_the_axis() {
        let build = |params: &str| {
            let layer = format!("layer {{ name: 'L' type: 'Slice' bottom: 'x' top: 'a' top: 'b' {params} }}");
            net(&format!("{}{layer}", input("x", &[2, 5])))
        };
        assert!(build("slice_param { slice_point: 4 }").is_ok());
        for point in [0, 5, 6] {
            let error = build(&format!("slice_param {{ slice_point: {point} }}")).err().unwrap();
            assert!(error.contains("(2, 5)") && error.contains("from 1 to 4"), "{error}");
        }
        assert!(build("").err().unwrap().contains("5 is no multiple of the 2 tops"));
        assert!(
            build("slice_param { axis: 2 }")
                .err()
                .unwrap()
                .contains("axis 2 does not exist")
        );
    }
}
