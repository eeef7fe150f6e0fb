//! Images whose rows are shifted once for each column of the kernel, so that what one tap of the kernel meets at all
//! positions of the output lies in one piece.

use super::Axis;

/// Where a channel's values lie for taps that meet them in one piece, over two spatial axes: for each column of the
/// kernel all padded rows, each with what the column meets in it. With a stride of `s` from row to row, every `s`th row
/// lies side by side.
pub struct Strips {
    height: Axis,
    width: Axis,
    /// Padded rows that any tap meets.
    reach: usize,
    /// Padded rows that lie side by side, and how many of such parts there are.
    rows: usize,
    phases: usize,
}

impl Strips {
    /// For kernels over these axes; `None` but for two of them.
    pub(super) fn new(axes: &[Axis]) -> Option<Self> {
        let [height, width] = *axes else { return None };
        let reach = (height.output - 1) * height.stride + (height.kernel - 1) * height.dilation + 1;
        // A row of the output never meets more parts than there are rows.
        let phases = height.stride.min(reach);
        Some(Self {
            height,
            width,
            reach,
            rows: reach.div_ceil(height.stride),
            phases,
        })
    }

    /// Floats of a channel.
    pub fn channel_count(&self) -> usize {
        self.width.kernel * self.phases * self.rows * self.width.output
    }

    /// Where each position of the kernel finds, in a channel, what it meets at all positions of the output.
    pub fn taps(&self) -> impl Iterator<Item = usize> {
        let rows = (0..self.height.kernel).map(|row| row * self.height.dilation);
        rows.flat_map(move |row| (0..self.width.kernel).map(move |column| self.row(column, row)))
    }

    /// Where a padded row begins for a column of the kernel.
    fn row(&self, column: usize, padded_row: usize) -> usize {
        let (phase, row) = (padded_row % self.height.stride, padded_row / self.height.stride);
        ((column * self.phases + phase) * self.rows + row) * self.width.output
    }

    /// Copies a channel to its places between the padding, which is left as it is.
    pub fn copy(&self, channel: &[f32], strips: &mut [f32]) {
        let (height, width) = (self.height, self.width);
        let padded_rows = self.reach.min(height.pad + height.input);
        for column in 0..width.kernel {
            let (outputs, first_input) = width.inside(column);
            for padded_row in height.pad..padded_rows {
                let from = &channel[(padded_row - height.pad) * width.input..][..width.input];
                let to = &mut strips[self.row(column, padded_row)..][outputs.clone()];
                if width.stride == 1 {
                    to.copy_from_slice(&from[first_input..][..to.len()]);
                } else {
                    let from = from[first_input..].iter().step_by(width.stride);
                    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }
}
