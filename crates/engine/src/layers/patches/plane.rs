//! The innermost two axes of im2col and col2im.

use std::ops::Range;

use super::Axis;

/// What one position of the kernel meets of a plane (h, w).
pub struct Plane {
    height: Axis,
    width: Axis,
    rows: Range<usize>,
    first_row: usize,
    columns: Range<usize>,
    first_column: usize,
}

impl Plane {
    pub fn new(height: Axis, width: Axis, height_tap: usize, width_tap: usize) -> Self {
        let (rows, first_row) = height.inside(height_tap);
        let (columns, first_column) = width.inside(width_tap);
        Self {
            height,
            width,
            rows,
            first_row,
            columns,
            first_column,
        }
    }

    /// Whether the rows that meet each other follow each other without a gap on both sides, so that all can be taken as
    /// one, but for their ends in the padding.
    fn is_contiguous(&self) -> bool {
        let (height, width) = (&self.height, &self.width);
        height.stride == 1 && width.stride == 1 && width.input == width.output && !self.columns.is_empty()
    }

    /// The part of the outputs, flat, from the first to the last that meets an input, where [`Self::is_contiguous`].
    fn span(&self) -> Range<usize> {
        let width = self.width.output;
        self.rows.start * width + self.columns.start..(self.rows.end - 1) * width + self.columns.end
    }

    /// Sets what lies in the padding left and right of the input to zero.
    fn clear_sides(&self, output: &mut [f32]) {
        let width = self.width.output;
        for row in output[self.rows.start * width..self.rows.end * width].chunks_exact_mut(width) {
            row[..self.columns.start].fill(0.0);
            row[self.columns.end..].fill(0.0);
        }
    }

    /// Copies the inputs to the outputs that meet them.
    pub fn copy(&self, input: &[f32], output: &mut [f32]) {
        let (width, stride) = (self.width.output, self.width.stride);
        for (i, row) in self.rows.clone().enumerate() {
            let from = &input[(self.first_row + i * self.height.stride) * self.width.input + self.first_column..];
            let to = &mut output[row * width..][self.columns.clone()];
            if stride == 1 {
                to.copy_from_slice(&from[..to.len()]);
            } else {
                to.iter_mut()
                    .zip(from.iter().step_by(stride))
                    .for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// Adds the outputs to the inputs that they meet.
    pub fn add(&self, output: &mut [f32], input: &mut [f32]) {
        let (width, stride) = (self.width.output, self.width.stride);
        if self.rows.is_empty() {
            return;
        }
        if self.is_contiguous() {
            self.clear_sides(output);
            let first = self.first_row * width + self.first_column;
            add_all(&mut input[first..], &output[self.span()]);
            return;
        }
        for (i, row) in self.rows.clone().enumerate() {
            let to = &mut input[(self.first_row + i * self.height.stride) * self.width.input + self.first_column..];
            let from = &output[row * width..][self.columns.clone()];
            if stride == 1 {
                add_all(to, from);
            } else {
                to.iter_mut()
                    .step_by(stride)
                    .zip(from)
                    .for_each(|(to, from)| *to += from);
            }
        }
    }
}

/// By eights first: rows are often so short that a loop of the compiler's own would spend its time around them.
fn add_all(to: &mut [f32], from: &[f32]) {
    let (to, from) = (to[..from.len()].as_chunks_mut::<8>(), from.as_chunks::<8>());
    for (to, from) in to.0.iter_mut().zip(from.0) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
    to.1.iter_mut().zip(from.1).for_each(|(to, from)| *to += from);
}
