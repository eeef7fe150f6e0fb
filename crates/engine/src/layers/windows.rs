//! The windows of pooling, a channel at a time: what each method makes of them, and the gradients.
//!
//! The maximum and the average first join the rows of a row of windows to one row, then the columns of each window. Both
//! work on blocks of values side by side, one vector each, in copies of the channel and of its rows whose lengths are
//! whole blocks.

use std::{hint::select_unpredictable, ops::Range};

use super::vectorized::vectorized;
use crate::random;

/// Values that are worked on at once.
const LANES: usize = 16;

/// The column of padding: behind all others.
const NO_COLUMN: i32 = i32::MAX / 2;

type Values = [f32; LANES];
type Places = [i32; LANES];

/// One thread's copies.
#[derive(Default)]
pub struct Buffers {
    /// The rows of the channel, each padded to whole blocks.
    channel: Vec<Values>,
    /// One row of windows, reduced from rows of the channel to one padded row.
    row: Vec<Values>,
    /// Where each value of that row comes from, counted from the start of the uppermost row.
    places: Vec<Places>,
    /// Which column of the bottom each value of a padded row is.
    columns: Vec<Places>,
    /// The extents of the windows along a row of the top.
    extents: Vec<Values>,
}

impl Buffers {
    /// Makes room for these windows and fills the padding with `padding`.
    pub fn prepare(&mut self, windows: &Windows, padding: f32) {
        let width = &windows.width;
        self.channel.clear();
        self.channel
            .resize(windows.height.input * width.blocks(), [padding; LANES]);
        self.row.clear();
        self.row.resize(width.row_blocks(), [padding; LANES]);
        self.places.clear();
        self.places.resize(width.row_blocks(), [NO_COLUMN; LANES]);
        self.columns.resize(width.blocks(), [NO_COLUMN; LANES]);
        let columns = self.columns.as_flattened_mut()[width.pad..]
            .iter_mut()
            .zip(0..width.input as i32);
        columns.for_each(|(place, column)| *place = column);
        self.extents.resize(width.output.div_ceil(LANES), [1.0; LANES]);
        let extents = self.extents.as_flattened_mut()[..width.output].iter_mut().enumerate();
        extents.for_each(|(output, extent)| *extent = width.extent(output) as f32);
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

    /// The blocks of a row of the input with the padding before it.
    fn blocks(&self) -> usize {
        (self.pad + self.input).div_ceil(LANES)
    }

    /// The blocks of a row in which whole blocks of windows lie, and a kernel beyond the last block.
    fn row_blocks(&self) -> usize {
        let windows = self.output.next_multiple_of(LANES);
        let columns = (windows * self.stride).max(self.blocks() * LANES);
        (columns + self.kernel).div_ceil(LANES)
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

    /// Copies a channel into whole blocks; what lies around it stays.
    fn copy_channel(&self, x: &[f32], buffers: &mut Buffers) {
        let Axis { input, pad, .. } = self.width;
        let rows = buffers.channel.chunks_exact_mut(self.width.blocks());
        for (row, x) in rows.zip(x.chunks_exact(input)) {
            row.as_flattened_mut()[pad..pad + input].copy_from_slice(x);
        }
    }

    /// The first of the greatest values of each window, and where it lies. A NaN is greater than all. `buffers` are
    /// padded with minus infinity.
    pub fn max(&self, buffers: &mut Buffers, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
        self.copy_channel(x, buffers);
        vectorized(
            #[inline(always)]
            || match self.width.stride {
                1 => self.max_of_blocks(1, buffers, y, taken_from),
                2 => self.max_of_blocks(2, buffers, y, taken_from),
                stride => self.max_of_blocks(stride, buffers, y, taken_from),
            },
        );
    }

    #[inline(always)]
    fn max_of_blocks(&self, stride: usize, buffers: &mut Buffers, y: &mut [f32], taken_from: &mut [u32]) {
        let Axis { input, output, .. } = self.width;
        let blocks = self.width.blocks();
        let tops = y.chunks_exact_mut(output).zip(taken_from.chunks_exact_mut(output));
        for (row, (y, taken_from)) in tops.enumerate() {
            let window = self.height.window(row);
            // The greatest value of each column, the first row's where two are equal.
            for block in 0..blocks {
                let columns = buffers.columns[block];
                let mut values = buffers.channel[window.start * blocks + block];
                let mut places = columns;
                for tap in 1..window.len() {
                    let x = &buffers.channel[(window.start + tap) * blocks + block];
                    let first = (tap * input) as i32;
                    for lane in 0..LANES {
                        // Neither short circuits nor branches: they would keep the loop from being vectorised.
                        let is_better = (x[lane] > values[lane]) | x[lane].is_nan();
                        values[lane] = select_unpredictable(is_better, x[lane], values[lane]);
                        places[lane] = select_unpredictable(is_better, columns[lane] + first, places[lane]);
                    }
                }
                buffers.row[block] = values;
                buffers.places[block] = places;
            }
            // The greatest of the columns of each window, the first where two are equal.
            let (columns, column_places) = (buffers.row.as_flattened(), buffers.places.as_flattened());
            let first = (window.start * input) as i32;
            let tops = y.chunks_mut(LANES).zip(taken_from.chunks_mut(LANES));
            for (block, (y, taken_from)) in tops.enumerate() {
                let mut values = [f32::NEG_INFINITY; LANES];
                let mut places = [i32::MAX; LANES];
                for tap in 0..self.width.kernel {
                    let x = every(stride, &columns[block * LANES * stride + tap..]);
                    let from = every(stride, &column_places[block * LANES * stride + tap..]);
                    for lane in 0..LANES {
                        let is_first = (x[lane] == values[lane]) & (from[lane] < places[lane]);
                        let is_better = (x[lane] > values[lane]) | x[lane].is_nan() | is_first;
                        values[lane] = select_unpredictable(is_better, x[lane], values[lane]);
                        places[lane] = select_unpredictable(is_better, from[lane], places[lane]);
                    }
                }
                let places = places.map(|place| (place + first) as u32);
                y.copy_from_slice(&values[..y.len()]);
                taken_from.copy_from_slice(&places[..taken_from.len()]);
            }
        }
    }

    /// The average of each window, in which padding counts as zeros. `buffers` are padded with zeros.
    pub fn average(&self, buffers: &mut Buffers, x: &[f32], y: &mut [f32]) {
        self.copy_channel(x, buffers);
        vectorized(
            #[inline(always)]
            || match self.width.stride {
                1 => self.average_of_blocks(1, buffers, y),
                2 => self.average_of_blocks(2, buffers, y),
                stride => self.average_of_blocks(stride, buffers, y),
            },
        );
    }

    #[inline(always)]
    fn average_of_blocks(&self, stride: usize, buffers: &mut Buffers, y: &mut [f32]) {
        let blocks = self.width.blocks();
        for (row, y) in y.chunks_exact_mut(self.width.output).enumerate() {
            let window = self.height.window(row);
            for block in 0..blocks {
                let mut sums = [0.0; LANES];
                for row in window.clone() {
                    add(&mut sums, &buffers.channel[row * blocks + block]);
                }
                buffers.row[block] = sums;
            }
            let columns = buffers.row.as_flattened();
            let height = self.height.extent(row) as f32;
            for (block, (y, widths)) in y.chunks_mut(LANES).zip(&buffers.extents).enumerate() {
                let mut sums = [0.0; LANES];
                for tap in 0..self.width.kernel {
                    add(&mut sums, &every(stride, &columns[block * LANES * stride + tap..]));
                }
                for lane in 0..LANES {
                    sums[lane] /= height * widths[lane];
                }
                y.copy_from_slice(&sums[..y.len()]);
            }
        }
    }

    /// Writes to `dx` what `average` hands back. `buffers` are padded with zeros.
    pub fn average_gradient(&self, buffers: &mut Buffers, dy: &[f32], dx: &mut [f32]) {
        let Axis {
            input,
            output,
            kernel,
            stride,
            pad,
        } = self.width;
        let blocks = self.width.blocks();
        buffers.channel.fill([0.0; LANES]);
        for (row, dy) in dy.chunks_exact(output).enumerate() {
            let height = self.height.extent(row) as f32;
            // The share of each window stands behind `kernel - 1` zeros, where its last column begins …
            let shares = &mut buffers.row.as_flattened_mut()[kernel - 1..];
            let widths = buffers.extents.as_flattened();
            let shares = shares.iter_mut().step_by(stride);
            shares
                .zip(dy.iter().zip(widths))
                .for_each(|(share, (dy, width))| *share = dy / (height * width));
            let (shares, window) = (buffers.row.as_flattened(), self.height.window(row));
            let channel = &mut buffers.channel[window.start * blocks..window.end * blocks];
            vectorized(
                #[inline(always)]
                || {
                    // … so that the windows over a column are the `kernel` values from it on.
                    for block in 0..blocks {
                        let mut sums = [0.0; LANES];
                        for tap in 0..kernel {
                            add(&mut sums, &every(1, &shares[block * LANES + tap..]));
                        }
                        for row in channel.chunks_exact_mut(blocks) {
                            add(&mut row[block], &sums);
                        }
                    }
                },
            );
        }
        let rows = buffers.channel.chunks_exact(blocks);
        for (row, dx) in rows.zip(dx.chunks_exact_mut(input)) {
            dx.copy_from_slice(&row.as_flattened()[pad..pad + input]);
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

/// Every `stride`th value.
#[inline(always)]
fn every<T: Copy>(stride: usize, values: &[T]) -> [T; LANES] {
    let values = &values[..(LANES - 1) * stride + 1];
    std::array::from_fn(|lane| values[lane * stride])
}

#[inline(always)]
fn add(sums: &mut Values, values: &Values) {
    for lane in 0..LANES {
        sums[lane] += values[lane];
    }
}
