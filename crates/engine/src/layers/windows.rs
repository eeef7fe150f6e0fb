//! The windows of pooling, a channel at a time: what each method makes of them, and the gradients.
//!
//! The maximum and the average first join the rows of a row of windows to one row, then the columns of each window, so
//! that the inner loops run over values side by side.

use std::{hint::select_unpredictable, ops::Range};

use crate::random;

/// One row of windows, reduced from rows of the bottom to one padded row.
#[derive(Default)]
pub struct RowBuffer {
    values: Vec<f32>,
    /// Where in the channel each value comes from.
    indices: Vec<u32>,
}

impl RowBuffer {
    /// Makes room for rows of these windows.
    pub fn resize(&mut self, windows: &Windows) {
        self.values.resize(windows.width.padded(), 0.0);
        self.indices.resize(windows.width.padded(), 0);
    }
}

/// The windows of a channel.
#[derive(Default)]
pub struct Windows {
    /// Those along the height.
    pub height: Axis,
    /// Those along the width.
    pub width: Axis,
}

/// The windows along one axis.
#[derive(Clone, Copy, Default)]
pub struct Axis {
    input: usize,
    /// How many windows there are.
    pub output: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
}

impl Axis {
    /// The windows that Caffe has along an axis: as many as fit, or one more with `round_up`; with `drop_beyond`, not
    /// one that begins behind the input.
    ///
    /// # Errors
    /// What is wrong with these settings, and the remedy.
    pub fn new(
        [input, kernel, stride, pad]: [usize; 4],
        round_up: bool,
        drop_beyond: bool,
    ) -> Result<Self, &'static str> {
        let room = (input + 2 * pad) as i64 - kernel as i64;
        let step = stride as i64;
        let steps = if round_up {
            -(-room).div_euclid(step)
        } else {
            room.div_euclid(step)
        };
        let mut output = usize::try_from(steps + 1).unwrap_or(0);
        let begins_beyond = |output: usize| output > 0 && (output - 1) * stride >= input + pad;
        if drop_beyond && begins_beyond(output) {
            output -= 1;
        }
        if output == 0 {
            return Err("the kernel is larger than it with its padding: make kernel_size smaller, or set pad");
        }
        if begins_beyond(output) {
            return Err("the last window begins beyond it: set round_mode: FLOOR, or a smaller stride");
        }
        Ok(Self {
            input,
            output,
            // What no window sees is cut off, so that buffers have the bottom's size, whatever the file says.
            kernel: kernel.min(input + 2 * pad),
            stride: if output == 1 { 1 } else { stride },
            pad,
        })
    }

    /// The inputs in window `output`.
    fn window(&self, output: usize) -> Range<usize> {
        let start = output * self.stride;
        start.saturating_sub(self.pad)..(start + self.kernel - self.pad).min(self.input)
    }

    /// The extent of window `output`, with the padding that it covers.
    fn extent(&self, output: usize) -> usize {
        let start = output * self.stride;
        (start + self.kernel).min(self.input + 2 * self.pad) - start
    }

    /// The extent of a padded row, so that all windows lie inside it, and `stride` values beyond each.
    fn padded(&self) -> usize {
        (self.pad + self.input).max(self.output * self.stride + self.kernel)
    }
}

/// All of one channel, `x` and `dx` (h, w), `y` and `dy` (h, w) of the top.
impl Windows {
    /// Values in a channel of the bottom.
    pub fn bottom_count(&self) -> usize {
        self.height.input * self.width.input
    }

    /// Values in a channel of the top.
    pub fn top_count(&self) -> usize {
        self.height.output * self.width.output
    }

    /// The first of the greatest values of each window, and where it lies. A NaN is greater than all.
    pub fn max(&self, row_buffer: &mut RowBuffer, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
        let Axis { input, output, pad, .. } = self.width;
        row_buffer.values.fill(f32::NEG_INFINITY);
        row_buffer.indices.fill(u32::MAX);
        let (values, indices) = (&mut row_buffer.values[..], &mut row_buffer.indices[..]);
        let tops = y.chunks_exact_mut(output).zip(taken_from.chunks_exact_mut(output));
        for (row, (y, taken_from)) in tops.enumerate() {
            let window = self.height.window(row);
            // The greatest value of each column and where its row begins, the first row where two are equal.
            let columns = (&mut values[pad..pad + input], &mut indices[pad..pad + input]);
            columns.0.copy_from_slice(&x[window.start * input..][..input]);
            columns.1.fill((window.start * input) as u32);
            for row in window.start + 1..window.end {
                let row_start = (row * input) as u32;
                let columns = columns.0.iter_mut().zip(columns.1.iter_mut());
                for ((value, index), x) in columns.zip(&x[row * input..][..input]) {
                    // Neither short circuits nor branches: they would keep the loop from being vectorised.
                    let is_greater = (*x > *value) | x.is_nan();
                    *value = select_unpredictable(is_greater, *x, *value);
                    *index = select_unpredictable(is_greater, row_start, *index);
                }
            }
            let indices_and_columns = columns.1.iter_mut().enumerate();
            indices_and_columns.for_each(|(column, index)| *index += column as u32);
            // The greatest of the columns of each window.
            y.fill(f32::NEG_INFINITY);
            taken_from.fill(u32::MAX);
            for tap in 0..self.width.kernel {
                let (values, indices) = (&values[tap..], &indices[tap..]);
                match self.width.stride {
                    1 => max_of_columns(values.as_chunks::<1>().0, indices.as_chunks::<1>().0, y, taken_from),
                    2 => max_of_columns(values.as_chunks::<2>().0, indices.as_chunks::<2>().0, y, taken_from),
                    n => {
                        let columns = y.iter_mut().zip(taken_from.iter_mut()).enumerate();
                        columns.for_each(|(i, (y, from))| take_if_better(values[i * n], indices[i * n], y, from));
                    }
                }
            }
        }
    }

    /// The average of each window, in which padding counts as zeros.
    pub fn average(&self, row_buffer: &mut RowBuffer, x: &[f32], y: &mut [f32]) {
        let Axis { input, output, pad, .. } = self.width;
        row_buffer.values.fill(0.0);
        for (row, y) in y.chunks_exact_mut(output).enumerate() {
            let columns = &mut row_buffer.values[pad..pad + input];
            columns.fill(0.0);
            for row in self.height.window(row) {
                columns
                    .iter_mut()
                    .zip(&x[row * input..][..input])
                    .for_each(|(sum, x)| *sum += x);
            }
            y.fill(0.0);
            for tap in 0..self.width.kernel {
                match self.width.stride {
                    1 => sum_of_columns(&row_buffer.values[tap..], 1, y),
                    2 => sum_of_columns(&row_buffer.values[tap..], 2, y),
                    stride => sum_of_columns(&row_buffer.values[tap..], stride, y),
                }
            }
            let height = self.height.extent(row);
            y.iter_mut()
                .enumerate()
                .for_each(|(column, y)| *y /= (height * self.width.extent(column)) as f32);
        }
    }

    /// Adds to `dx` what `average` hands back.
    pub fn average_gradient(&self, row_buffer: &mut RowBuffer, dy: &[f32], dx: &mut [f32]) {
        let Axis {
            input,
            output,
            stride,
            pad,
            ..
        } = self.width;
        for (row, dy) in dy.chunks_exact(output).enumerate() {
            let height = self.height.extent(row);
            row_buffer.values.fill(0.0);
            for (column, dy) in dy.iter().enumerate() {
                let share = dy / (height * self.width.extent(column)) as f32;
                row_buffer.values[column * stride..][..self.width.kernel]
                    .iter_mut()
                    .for_each(|sum| *sum += share);
            }
            let sums = &row_buffer.values[pad..pad + input];
            for row in self.height.window(row) {
                dx[row * input..][..input]
                    .iter_mut()
                    .zip(sums)
                    .for_each(|(dx, sum)| *dx += sum);
            }
        }
    }

    /// The indices in a channel of window `output`, row by row.
    fn indices(&self, output: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let rows = self.height.window(output / self.width.output);
        let columns = self.width.window(output % self.width.output);
        let input = self.width.input;
        rows.flat_map(move |row| columns.clone().map(move |column| row * input + column))
    }

    /// Draws one value of each window in proportion to the values; `first_random` is the index of the first's draw.
    pub fn draw(&self, random_key: u64, first_random: u64, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
        for (output, (y, taken_from)) in y.iter_mut().zip(taken_from).enumerate() {
            let sum: f32 = self.indices(output).map(|index| x[index]).sum();
            let threshold = random::uniform(random_key, first_random + output as u64) * sum;
            let mut sum_so_far = 0.0;
            let mut drawn = 0;
            for index in self.indices(output) {
                drawn = index;
                sum_so_far += x[index];
                if sum_so_far > threshold {
                    break;
                }
            }
            (*y, *taken_from) = (x[drawn], drawn as u32);
        }
    }

    /// Σ x² / Σ x of each window, 0 where that sum is.
    pub fn weighted_average(&self, x: &[f32], y: &mut [f32]) {
        for (output, y) in y.iter_mut().enumerate() {
            let values = self.indices(output).map(|index| x[index]);
            let sum: f32 = values.clone().sum();
            *y = if sum == 0.0 {
                0.0
            } else {
                values.map(|x| x * x).sum::<f32>() / sum
            };
        }
    }

    /// Adds to `dx` what `weighted_average` hands back.
    pub fn weighted_average_gradient(&self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        for (output, (y, dy)) in y.iter().zip(dy).enumerate() {
            let sum: f32 = self.indices(output).map(|index| x[index]).sum();
            if sum != 0.0 {
                self.indices(output)
                    .for_each(|index| dx[index] += dy * (2.0 * x[index] - y) / sum);
            }
        }
    }
}

/// Takes the first of every STRIDE columns where it is better than what is there.
fn max_of_columns<const STRIDE: usize>(
    values: &[[f32; STRIDE]],
    indices: &[[u32; STRIDE]],
    y: &mut [f32],
    taken_from: &mut [u32],
) {
    let tops = y.iter_mut().zip(taken_from.iter_mut());
    for ((y, taken_from), (value, index)) in tops.zip(values.iter().zip(indices)) {
        take_if_better(value[0], index[0], y, taken_from);
    }
}

/// Takes a value that is greater than what is there, or as great and further up. Without short circuits and
/// branches, so that loops of it are vectorised.
#[inline(always)]
fn take_if_better(value: f32, index: u32, y: &mut f32, taken_from: &mut u32) {
    let is_better = (value > *y) | value.is_nan() | ((value == *y) & (index < *taken_from));
    *y = select_unpredictable(is_better, value, *y);
    *taken_from = select_unpredictable(is_better, index, *taken_from);
}

/// Adds every `stride`th of the columns. Inlined for the same reason.
#[inline(always)]
fn sum_of_columns(columns: &[f32], stride: usize, y: &mut [f32]) {
    y.iter_mut()
        .zip(columns.chunks_exact(stride))
        .for_each(|(y, sum)| *y += sum[0]);
}
