//! Crop: cuts a part of the second bottom's size out of the first, on all axes from `axis` on, beginning at `offset`.
//!
//! ```prototxt
//! layer {
//!   name: "score" type: "Crop" bottom: "upscore" bottom: "data" top: "score"
//!   crop_param { axis: 2 offset: 19 }
//! }
//! ```
//!
//! The second bottom gives its shape only, and has no gradient.

use rayon::prelude::*;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    layer::{Backward, BottomGradient, Forward, Layer},
    spec::CropSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Crop",
    summary: "cuts out a part of another blob's size",
    bottoms: Arity::Exactly(2),
    tops: Arity::Exactly(1),
    parse: CropSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Cuts a part out of a blob.
pub struct Crop {
    spec: CropSpec,
    /// For all axes but the last that is cut: extents in the bottom and in the top, and where the top begins.
    axes: Vec<Axis>,
    /// The last axis that is cut, with all after it: its values are copied in one go.
    row: Axis,
}

#[derive(Clone, Copy, Default)]
struct Axis {
    bottom: usize,
    top: usize,
    offset: usize,
}

impl Crop {
    /// A layer of this description.
    pub fn new(spec: &CropSpec) -> Self {
        Self {
            spec: spec.clone(),
            axes: Vec::new(),
            row: Axis::default(),
        }
    }

    /// For a row of the bottom the row of the top that lies there, if one does.
    fn top_row(&self, mut bottom_row: usize) -> Option<usize> {
        let (mut row, mut scale) = (0, 1);
        for axis in self.axes.iter().rev() {
            let position = (bottom_row % axis.bottom).checked_sub(axis.offset)?;
            if position >= axis.top {
                return None;
            }
            row += position * scale;
            scale *= axis.top;
            bottom_row /= axis.bottom;
        }
        Some(row)
    }

    /// For a row of the top the row of the bottom where it lies.
    fn bottom_row(&self, mut top_row: usize) -> usize {
        let (mut row, mut scale) = (0, 1);
        for axis in self.axes.iter().rev() {
            row += (top_row % axis.top + axis.offset) * scale;
            scale *= axis.bottom;
            top_row /= axis.top;
        }
        row
    }
}

impl Layer for Crop {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let (shape, size) = (bottom[0], bottom[1]);
        let first = shape.require_axis(self.spec.axis)?;
        let cropped = shape.num_axes() - first;
        let offsets = match &self.spec.offset[..] {
            [] => vec![0; cropped],
            [all] => vec![*all; cropped],
            each if each.len() == cropped => each.to_vec(),
            each => {
                return Err(LayerError::BottomShape {
                    bottom: 0,
                    shape: shape.clone(),
                    fact: format!(
                        "there are {} offsets for its {cropped} axes from {first} on: give one, or one an axis",
                        each.len()
                    ),
                });
            }
        };
        let mut axes: Vec<Axis> = Vec::with_capacity(shape.num_axes());
        for (axis, extent) in shape.dims().iter().enumerate() {
            let (mut top, mut offset) = (Some(*extent), 0);
            if axis >= first {
                (top, offset) = (size.dims().get(axis).copied(), offsets[axis - first]);
            }
            let top = top.filter(|top| top.saturating_add(offset) <= *extent);
            axes.push(Axis {
                bottom: *extent,
                top: top.ok_or_else(|| LayerError::BottomShapes {
                    first: 0,
                    first_shape: shape.clone(),
                    second: 1,
                    second_shape: size.clone(),
                    fact: format!("on axis {axis} the second with offset {offset} does not fit into the first"),
                })?,
                offset,
            });
        }
        let top = Shape::new(axes.iter().map(|axis| axis.top).collect::<Vec<_>>());
        self.row = Axis {
            bottom: 1,
            top: 1,
            offset: 0,
        };
        while let Some(axis) = axes.pop() {
            self.row = Axis {
                bottom: axis.bottom * self.row.bottom,
                top: axis.top * self.row.bottom,
                offset: axis.offset * self.row.bottom,
            };
            if axis.top != axis.bottom {
                break;
            }
        }
        self.axes = axes;
        Ok(vec![top])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let (x, row, layer) = (io.bottom.get(0), self.row, &*self);
        let rows = io.top[0].par_chunks_mut(row.top.max(1)).enumerate();
        rows.for_each(|(top_row, y)| {
            let start = layer.bottom_row(top_row) * row.bottom + row.offset;
            y.copy_from_slice(&x[start..][..y.len()]);
        });
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let (dy, row, layer) = (io.top_diff.get(0), self.row, &*self);
        let rows = io.bottom_diff[0].par_chunks_mut(row.bottom.max(1)).enumerate();
        rows.for_each(|(bottom_row, dx)| {
            dx.fill(0.0);
            if let Some(top_row) = layer.top_row(bottom_row) {
                dx[row.offset..][..row.top].copy_from_slice(&dy[top_row * row.top..][..row.top]);
            }
        });
    }

    fn bottom_gradient(&self, bottom: usize) -> BottomGradient {
        match bottom {
            0 => BottomGradient::Computed,
            _ => BottomGradient::Zero,
        }
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    super::case(&[&[2, 2, 4, 5], &[1, 1, 2, 3]], "crop_param { offset: 1 offset: 2 }"),
    super::case(
        &[&[3, 4, 2], &[2, 2, 2]],
        "crop_param { axis: 0 offset: 1 offset: 2 offset: 0 }",
    ),
    super::case(&[&[2, 3], &[2, 3]], "crop_param { axis: -1 }"),
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    /// The top of counting numbers.
    fn crop(params: &str, x: &[usize], size: &[usize]) -> Result<Vec<f32>, String> {
        let layer = format!("layer {{ name: 'L' type: 'Crop' bottom: 'x' bottom: 's' top: 'y' {params} }}");
        let mut net = net(&format!("{}{}{layer}", input("x", x), input("s", size)))?;
        let values: Vec<f32> = (0..x.iter().product()).map(|i: usize| i as f32).collect();
        Ok(run(&mut net, &[("x", &values)])?["y"].clone())
    }

    #[test]
    fn the_part_begins_at_the_offset() {
        let one = crop("crop_param { offset: 1 }", &[1, 2, 3, 3], &[9, 9, 2, 1]).unwrap();
        assert_eq!(one, [4.0, 7.0, 13.0, 16.0]);
        let each = crop("crop_param { axis: 1 offset: 1 offset: 0 }", &[2, 3, 2], &[1, 1, 2]).unwrap();
        assert_eq!(each, [2.0, 3.0, 8.0, 9.0]);
        let rows = crop("crop_param { axis: 0 }", &[3, 2], &[2, 1]).unwrap();
        assert_eq!(rows, [0.0, 2.0]);
        let whole = crop("crop_param { axis: 1 }", &[2, 2], &[7, 2]).unwrap();
        assert_eq!(whole, [0.0, 1.0, 2.0, 3.0]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_shapes() {
        let refused = |params: &str, size: &[usize]| crop(params, &[1, 2, 5, 5], size).unwrap_err();
        let error = refused("crop_param { offset: 2 }", &[1, 2, 3, 4]);
        assert!(
            error.contains("(1, 2, 5, 5)") && error.contains("(1, 2, 3, 4)") && error.contains("axis 3"),
            "{error}"
        );
        assert!(refused("", &[1, 2, 3]).contains("axis 3"));
        assert!(refused("crop_param { offset: 1 offset: 1 offset: 1 }", &[1, 2, 3, 3]).contains("3 offsets for its 2"));
        assert!(refused("crop_param { axis: 4 }", &[1, 2, 3, 3]).contains("axis 4 does not exist"));
        assert!(refused("crop_param { offset: 4294967295 }", &[1, 2, 3, 3]).contains("does not fit"));
    }
}
