//! The windows of pooling, a channel at a time: what each method makes of them, and the gradients.
//!
//! The maximum and the average first join the rows of a row of windows to one row, then the columns of each window. Both
//! work on blocks of values side by side, one vector each. The last block of a row of the bottom overlaps the one before
//! it; the last of a row of the top reaches into the next row, which is written afterwards.

use std::{hint::select_unpredictable, ops::Range};

use super::vectorized::vectorized;
use crate::random;

/// Values that are worked on at once.
const LANES: usize = 16;

/// The column of padding: behind all others.
const NO_COLUMN: i32 = i32::MAX / 2;

type Values = [f32; LANES];

/// One thread's buffers.
#[derive(Default)]
pub struct Buffers {
    /// What padding counts as.
    padding: f32,
    /// A channel whose rows are shorter than a block, padded to blocks.
    narrow: Vec<Values>,
    /// One row of windows, reduced from rows of the channel to one padded row.
    row: Vec<f32>,
    /// Where each value of that row comes from, counted from the start of the uppermost row.
    places: Vec<i32>,
    /// 0, 1, 2 … for the columns of the bottom, at least a block.
    columns: Vec<i32>,
    /// The extents of the windows along a row of the top.
    extents: Vec<Values>,
}

impl Buffers {
    /// Makes room for these windows.
    pub fn prepare(&mut self, windows: &Windows, padding: f32) {
        let width = &windows.width;
        self.padding = padding;
        let narrow_rows = if width.input < LANES { windows.height.input } else { 0 };
        self.narrow.resize(narrow_rows, [padding; LANES]);
        self.row.clear();
        self.row.resize(width.row_len(), padding);
        self.places.clear();
        self.places.resize(width.row_len(), NO_COLUMN);
        self.columns.clear();
        self.columns.extend(0..width.input as i32);
        self.columns.resize(width.input.max(LANES), NO_COLUMN);
        self.extents.resize(width.output.div_ceil(LANES), [1.0; LANES]);
        let extents = self.extents.as_flattened_mut()[..width.output].iter_mut().enumerate();
        extents.for_each(|(output, extent)| *extent = width.extent(output) as f32);
    }

    /// Copies a channel whose rows are shorter than a block.
    #[inline(always)]
    fn copy_narrow(&mut self, x: &[f32], width: usize) {
        let columns = block(&self.columns, 0);
        for (row, values) in self.narrow.iter_mut().enumerate() {
            let x = &x[row * width..];
            if x.len() >= LANES {
                let x = block(x, 0);
                *values =
                    std::array::from_fn(|lane| select_unpredictable(columns[lane] == NO_COLUMN, self.padding, x[lane]));
            } else {
                values[..width].copy_from_slice(&x[..width]);
            }
        }
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

    /// The length of a padded row in which whole blocks of columns and of windows lie, and a kernel beyond them.
    fn row_len(&self) -> usize {
        let windows = self.output.next_multiple_of(LANES);
        let columns = self.pad + self.input.next_multiple_of(LANES);
        (windows * self.stride).max(columns) + self.kernel
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

    /// The first of the greatest values of each window, and where it lies. A NaN is greater than all. `buffers` are
    /// padded with minus infinity.
    pub fn max(&self, buffers: &mut Buffers, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
        vectorized(
            #[inline(always)]
            || match self.width.stride {
                1 => self.max_of_blocks(1, buffers, x, y, taken_from),
                2 => self.max_of_blocks(2, buffers, x, y, taken_from),
                stride => self.max_of_blocks(stride, buffers, x, y, taken_from),
            },
        );
    }

    #[inline(always)]
    fn max_of_blocks(&self, stride: usize, buffers: &mut Buffers, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
        let Axis { input, output, pad, .. } = self.width;
        buffers.copy_narrow(x, input);
        let Buffers {
            narrow,
            row: columns,
            places: column_places,
            columns: column_indices,
            ..
        } = buffers;
        let (x, pitch) = if narrow.is_empty() {
            (x, input)
        } else {
            (narrow.as_flattened(), LANES)
        };
        for row in 0..self.height.output {
            let window = self.height.window(row);
            // The greatest value of each column, the first row's where two are equal.
            for start in block_starts(pitch) {
                let indices = block(column_indices, start);
                let mut values = block(x, window.start * pitch + start);
                let mut places = indices;
                for tap in 1..window.len() {
                    let x = block(x, (window.start + tap) * pitch + start);
                    let first = (tap * input) as i32;
                    for lane in 0..LANES {
                        // Neither short circuits nor branches: they would keep the loop from being vectorised.
                        let is_better = (x[lane] > values[lane]) | x[lane].is_nan();
                        values[lane] = select_unpredictable(is_better, x[lane], values[lane]);
                        places[lane] = select_unpredictable(is_better, indices[lane] + first, places[lane]);
                    }
                }
                columns[pad + start..][..LANES].copy_from_slice(&values);
                column_places[pad + start..][..LANES].copy_from_slice(&places);
            }
            // The greatest of the columns of each window, the first where two are equal.
            let first = (window.start * input) as i32;
            for start in (0..output).step_by(LANES) {
                let mut values = [f32::NEG_INFINITY; LANES];
                let mut places = [i32::MAX; LANES];
                for tap in 0..self.width.kernel {
                    let x = every(stride, &columns[start * stride + tap..]);
                    let from = every(stride, &column_places[start * stride + tap..]);
                    for lane in 0..LANES {
                        let is_first = (x[lane] == values[lane]) & (from[lane] < places[lane]);
                        let is_better = (x[lane] > values[lane]) | x[lane].is_nan() | is_first;
                        values[lane] = select_unpredictable(is_better, x[lane], values[lane]);
                        places[lane] = select_unpredictable(is_better, from[lane], places[lane]);
                    }
                }
                let places = places.map(|place| (place + first) as u32);
                write_block(y, row * output + start, values);
                write_block(taken_from, row * output + start, places);
            }
        }
    }

    /// The average of each window, in which padding counts as zeros. `buffers` are padded with zeros.
    pub fn average(&self, buffers: &mut Buffers, x: &[f32], y: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || match self.width.stride {
                1 => self.average_of_blocks(1, buffers, x, y),
                2 => self.average_of_blocks(2, buffers, x, y),
                stride => self.average_of_blocks(stride, buffers, x, y),
            },
        );
    }

    #[inline(always)]
    fn average_of_blocks(&self, stride: usize, buffers: &mut Buffers, x: &[f32], y: &mut [f32]) {
        let Axis { input, output, pad, .. } = self.width;
        buffers.copy_narrow(x, input);
        let Buffers {
            narrow,
            row: columns,
            extents,
            ..
        } = buffers;
        let (x, pitch) = if narrow.is_empty() {
            (x, input)
        } else {
            (narrow.as_flattened(), LANES)
        };
        for row in 0..self.height.output {
            let window = self.height.window(row);
            for start in block_starts(pitch) {
                let mut sums = [0.0; LANES];
                for row in window.clone() {
                    add(&mut sums, &block(x, row * pitch + start));
                }
                columns[pad + start..][..LANES].copy_from_slice(&sums);
            }
            let height = self.height.extent(row) as f32;
            for (start, widths) in (0..output).step_by(LANES).zip(&*extents) {
                let mut sums = [0.0; LANES];
                for tap in 0..self.width.kernel {
                    add(&mut sums, &every(stride, &columns[start * stride + tap..]));
                }
                for lane in 0..LANES {
                    sums[lane] /= height * widths[lane];
                }
                write_block(y, row * output + start, sums);
            }
        }
    }

    /// Adds to `dx` what `average` hands back. `buffers` are padded with zeros.
    pub fn average_gradient(&self, buffers: &mut Buffers, dy: &[f32], dx: &mut [f32]) {
        vectorized(
            #[inline(always)]
            || {
                let Axis {
                    input,
                    output,
                    kernel,
                    stride,
                    pad,
                } = self.width;
                let widths = buffers.extents.as_flattened();
                for (row, dy) in dy.chunks_exact(output).enumerate() {
                    let height = self.height.extent(row) as f32;
                    // The share of each window stands where its last column does …
                    let shares = buffers.row[kernel - 1..].iter_mut().step_by(stride);
                    for ((share, dy), width) in shares.zip(dy).zip(widths) {
                        *share = dy / (height * width);
                    }
                    for start in (0..input).step_by(LANES) {
                        // … so that the windows over a column are those of the `kernel` values from it on.
                        let mut sums = [0.0; LANES];
                        for tap in 0..kernel {
                            add(&mut sums, &block(&buffers.row, pad + start + tap));
                        }
                        for row in self.height.window(row) {
                            let dx = &mut dx[row * input + start..(row + 1) * input];
                            dx.iter_mut().zip(&sums).for_each(|(dx, sum)| *dx += sum);
                        }
                    }
                }
            },
        );
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

/// Where the blocks of a row of `width` values begin, a block or more; the last may overlap the one before it.
#[inline(always)]
fn block_starts(width: usize) -> impl Iterator<Item = usize> {
    (0..width).step_by(LANES).map(move |start| start.min(width - LANES))
}

/// The block from `start` on. Copied whole: taken value by value it would not become a vector.
#[inline(always)]
fn block<T: Copy + Default>(values: &[T], start: usize) -> [T; LANES] {
    let mut block = [T::default(); LANES];
    block.copy_from_slice(&values[start..][..LANES]);
    block
}

/// Every `stride`th value.
#[inline(always)]
fn every<T: Copy + Default>(stride: usize, values: &[T]) -> [T; LANES] {
    if stride == 1 {
        return block(values, 0);
    }
    let values = &values[..(LANES - 1) * stride + 1];
    std::array::from_fn(|lane| values[lane * stride])
}

/// Writes a block from `start` on, or what fits of it.
#[inline(always)]
fn write_block<T: Copy>(values: &mut [T], start: usize, block: [T; LANES]) {
    let values = &mut values[start..];
    match values.first_chunk_mut() {
        Some(values) => *values = block,
        None => values.copy_from_slice(&block[..values.len()]),
    }
}

#[inline(always)]
fn add(sums: &mut Values, values: &Values) {
    for lane in 0..LANES {
        sums[lane] += values[lane];
    }
}
