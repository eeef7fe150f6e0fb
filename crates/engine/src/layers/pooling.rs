//! Pooling: the maximum, the average or a random value of each window of each channel.
//!
//! Windows follow Caffe: their number is rounded up, so that the last ones may stick out of the bottom; an average
//! counts the padding as zeros, but not what lies beyond it. A second top of MAX is the mask: where in its channel each
//! maximum lies. STOCHASTIC (Zeiler and Fergus 2013) draws a value in proportion to the values while training, and is
//! their average weighted by themselves in a test.
//!
//! ```prototxt
//! layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1" pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
//! ```

use std::ops::Range;

use rayon::prelude::*;

use crate::{
    LayerError, Phase, Shape,
    layer::{Backward, Forward, Layer},
    random,
    spec::{PoolingMethod, PoolingSpec},
};

/// Makes each window of a channel a single value.
pub struct Pooling {
    spec: PoolingSpec,
    windows: Windows,
    /// For each value of the top, where in its channel it was taken from; not for AVE.
    taken_from: Vec<u32>,
    /// Each thread's buffers.
    parts: Vec<Part>,
}

/// One row of windows, reduced from rows of the bottom to one padded row.
#[derive(Default)]
struct Part {
    values: Vec<f32>,
    /// Where in the channel each value comes from.
    indices: Vec<u32>,
}

/// The windows of a channel.
#[derive(Default)]
struct Windows {
    planes: usize,
    height: Axis,
    width: Axis,
}

/// The windows along one axis.
#[derive(Clone, Copy, Default)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
}

impl Axis {
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

impl Pooling {
    /// A layer of this description.
    pub fn new(spec: &PoolingSpec) -> Self {
        Self { spec: spec.clone(), windows: Windows::default(), taken_from: Vec::new(), parts: Vec::new() }
    }

    /// Sizes the buffers; returns how many planes each part has.
    fn prepare(&mut self, threads: usize) -> usize {
        let windows = &self.windows;
        self.parts.resize_with(threads, Part::default);
        for part in &mut self.parts {
            part.values.resize(windows.width.padded(), 0.0);
            part.indices.resize(windows.width.padded(), 0);
        }
        self.taken_from.resize(windows.planes * windows.top_count(), 0);
        windows.planes.div_ceil(threads).max(1)
    }
}

impl Layer for Pooling {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let error = |fact: String| LayerError::BottomShape { bottom: 0, shape: bottom[0].clone(), fact };
        let [images, channels, height, width] = *bottom[0].dims() else {
            return Err(error("it has to have four axes (n, c, h, w): put a Reshape layer before this one".to_owned()));
        };
        let axis = |i: usize, input: usize| {
            let PoolingSpec { kernel, stride, pad, global, round_up, .. } = &self.spec;
            let kernel = if *global { input } else { kernel[i] };
            let (stride, pad) = (stride[i], pad[i]);
            let steps = (input + 2 * pad) as i64 - kernel as i64;
            let steps = if *round_up { -(-steps).div_euclid(stride as i64) } else { steps.div_euclid(stride as i64) };
            let mut output = usize::try_from(steps + 1).unwrap_or(0);
            if self.spec.pad != [0, 0] && output > 0 && (output - 1) * stride >= input + pad {
                output -= 1;
            }
            if output == 0 {
                return Err(error(format!(
                    "kernel_size {kernel} is larger than its axis {} with padding: make it smaller, or set pad",
                    i + 2
                )));
            }
            if (output - 1) * stride >= input + pad {
                return Err(error(format!(
                    "the last window on axis {} begins beyond it: set round_mode: FLOOR, or a smaller stride",
                    i + 2
                )));
            }
            // What no window sees is cut off, so that buffers have the bottom's size, whatever the file says.
            let stride = if output == 1 { 1 } else { stride };
            Ok(Axis { input, output, kernel: kernel.min(input + 2 * pad), stride, pad })
        };
        self.windows = Windows { planes: images * channels, height: axis(0, height)?, width: axis(1, width)? };
        let top = Shape::from([images, channels, self.windows.height.output, self.windows.width.output]);
        let tops = if self.spec.method == PoolingMethod::Max { 2 } else { 1 };
        Ok(vec![top; tops])
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let planes = self.prepare(io.context.threads);
        let (windows, method, context) = (&self.windows, self.spec.method, io.context);
        let (bottom_count, top_count) = (windows.bottom_count(), windows.top_count());
        let tops = io.top[0].par_chunks_mut(planes * top_count).zip(self.taken_from.par_chunks_mut(planes * top_count));
        let bottoms = io.bottom.get(0).par_chunks(planes * bottom_count).enumerate();
        let parts = self.parts.par_iter_mut().zip(tops).zip(bottoms).with_max_len(1);
        parts.for_each(|((part, (y, taken_from)), (i, x))| {
            let tops = y.chunks_exact_mut(top_count).zip(taken_from.chunks_exact_mut(top_count));
            for (plane, ((y, taken_from), x)) in tops.zip(x.chunks_exact(bottom_count)).enumerate() {
                let first_random = ((i * planes + plane) * top_count) as u64;
                match (method, context.phase) {
                    (PoolingMethod::Max, _) => windows.max(part, x, y, taken_from),
                    (PoolingMethod::Average, _) => windows.average(part, x, y),
                    (PoolingMethod::Stochastic, Phase::Train) => {
                        windows.draw(context.random_key, first_random, x, y, taken_from);
                    }
                    (PoolingMethod::Stochastic, Phase::Test) => windows.weighted_average(x, y),
                }
            }
        });
        if let [_, mask] = io.top {
            mask.iter_mut().zip(&self.taken_from).for_each(|(mask, index)| *mask = *index as f32);
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        if !io.propagate_down[0] {
            return;
        }
        let planes = self.prepare(io.context.threads);
        let (windows, method, phase) = (&self.windows, self.spec.method, io.context.phase);
        let (bottom_count, top_count) = (windows.bottom_count(), windows.top_count());
        let tops = io.top_diff.get(0).par_chunks(planes * top_count).zip(io.top.get(0).par_chunks(planes * top_count));
        let tops = tops.zip(self.taken_from.par_chunks(planes * top_count));
        let bottoms = io.bottom_diff[0].par_chunks_mut(planes * bottom_count);
        let bottoms = bottoms.zip(io.bottom.get(0).par_chunks(planes * bottom_count));
        let parts = self.parts.par_iter_mut().zip(bottoms).zip(tops).with_max_len(1);
        parts.for_each(|((part, (dx, x)), ((dy, y), taken_from))| {
            let tops = dy.chunks_exact(top_count).zip(y.chunks_exact(top_count)).zip(taken_from.chunks_exact(top_count));
            let bottoms = dx.chunks_exact_mut(bottom_count).zip(x.chunks_exact(bottom_count));
            for ((dx, x), ((dy, y), taken_from)) in bottoms.zip(tops) {
                dx.fill(0.0);
                match (method, phase) {
                    (PoolingMethod::Average, _) => windows.average_gradient(part, dy, dx),
                    (PoolingMethod::Stochastic, Phase::Test) => windows.weighted_average_gradient(x, y, dy, dx),
                    (PoolingMethod::Max | PoolingMethod::Stochastic, _) => {
                        taken_from.iter().zip(dy).for_each(|(index, dy)| dx[*index as usize] += dy);
                    }
                }
            }
        });
    }

    fn reads_top_in_backward(&self) -> bool {
        self.spec.method == PoolingMethod::Stochastic
    }
}

/// All of one channel, `x` and `dx` (h, w), `y` and `dy` (h, w) of the top.
impl Windows {
    fn bottom_count(&self) -> usize {
        self.height.input * self.width.input
    }

    fn top_count(&self) -> usize {
        self.height.output * self.width.output
    }

    /// The first of the greatest values of each window, and where it lies. A NaN is greater than all.
    fn max(&self, part: &mut Part, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
        let Axis { input, output, pad, .. } = self.width;
        part.values.fill(f32::NEG_INFINITY);
        part.indices.fill(u32::MAX);
        let (values, indices) = (&mut part.values[..], &mut part.indices[..]);
        let tops = y.chunks_exact_mut(output).zip(taken_from.chunks_exact_mut(output));
        for (row, (y, taken_from)) in tops.enumerate() {
            let window = self.height.window(row);
            // The greatest value of each column, the first row where two are equal.
            let columns = (&mut values[pad..pad + input], &mut indices[pad..pad + input]);
            columns.0.copy_from_slice(&x[window.start * input..][..input]);
            let own = |row: usize| (row * input) as u32..((row + 1) * input) as u32;
            columns.1.iter_mut().zip(own(window.start)).for_each(|(index, own)| *index = own);
            for row in window.start + 1..window.end {
                let columns = columns.0.iter_mut().zip(columns.1.iter_mut());
                for (((value, index), x), own) in columns.zip(&x[row * input..][..input]).zip(own(row)) {
                    let is_greater = *x > *value || x.is_nan();
                    *value = if is_greater { *x } else { *value };
                    *index = if is_greater { own } else { *index };
                }
            }
            // The greatest of the columns of each window.
            y.fill(f32::NEG_INFINITY);
            taken_from.fill(u32::MAX);
            for tap in 0..self.width.kernel {
                let columns = (&values[tap..], &indices[tap..]);
                match self.width.stride {
                    1 => max_of_columns(columns, 1, y, taken_from),
                    2 => max_of_columns(columns, 2, y, taken_from),
                    stride => max_of_columns(columns, stride, y, taken_from),
                }
            }
        }
    }

    fn average(&self, part: &mut Part, x: &[f32], y: &mut [f32]) {
        let Axis { input, output, pad, .. } = self.width;
        part.values.fill(0.0);
        for (row, y) in y.chunks_exact_mut(output).enumerate() {
            let columns = &mut part.values[pad..pad + input];
            columns.fill(0.0);
            for row in self.height.window(row) {
                columns.iter_mut().zip(&x[row * input..][..input]).for_each(|(sum, x)| *sum += x);
            }
            y.fill(0.0);
            for tap in 0..self.width.kernel {
                match self.width.stride {
                    1 => sum_of_columns(&part.values[tap..], 1, y),
                    2 => sum_of_columns(&part.values[tap..], 2, y),
                    stride => sum_of_columns(&part.values[tap..], stride, y),
                }
            }
            let height = self.height.extent(row);
            y.iter_mut().enumerate().for_each(|(column, y)| *y /= (height * self.width.extent(column)) as f32);
        }
    }

    fn average_gradient(&self, part: &mut Part, dy: &[f32], dx: &mut [f32]) {
        let Axis { input, output, stride, pad, .. } = self.width;
        for (row, dy) in dy.chunks_exact(output).enumerate() {
            let height = self.height.extent(row);
            part.values.fill(0.0);
            for (column, dy) in dy.iter().enumerate() {
                let share = dy / (height * self.width.extent(column)) as f32;
                part.values[column * stride..][..self.width.kernel].iter_mut().for_each(|sum| *sum += share);
            }
            let sums = &part.values[pad..pad + input];
            for row in self.height.window(row) {
                dx[row * input..][..input].iter_mut().zip(sums).for_each(|(dx, sum)| *dx += sum);
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
    fn draw(&self, random_key: u64, first_random: u64, x: &[f32], y: &mut [f32], taken_from: &mut [u32]) {
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
    fn weighted_average(&self, x: &[f32], y: &mut [f32]) {
        for (output, y) in y.iter_mut().enumerate() {
            let values = self.indices(output).map(|index| x[index]);
            let sum: f32 = values.clone().sum();
            *y = if sum == 0.0 { 0.0 } else { values.map(|x| x * x).sum::<f32>() / sum };
        }
    }

    fn weighted_average_gradient(&self, x: &[f32], y: &[f32], dy: &[f32], dx: &mut [f32]) {
        for (output, (y, dy)) in y.iter().zip(dy).enumerate() {
            let sum: f32 = self.indices(output).map(|index| x[index]).sum();
            if sum != 0.0 {
                self.indices(output).for_each(|index| dx[index] += dy * (2.0 * x[index] - y) / sum);
            }
        }
    }
}

/// Takes every `stride`th of the columns (values, indices) where it is greater than what is there, or as great and
/// further up. Inlined so that the compiler sees the stride and vectorises.
#[inline(always)]
fn max_of_columns(columns: (&[f32], &[u32]), stride: usize, y: &mut [f32], taken_from: &mut [u32]) {
    let columns = columns.0.chunks_exact(stride).zip(columns.1.chunks_exact(stride));
    for ((y, taken_from), (value, index)) in y.iter_mut().zip(taken_from).zip(columns) {
        let (value, index) = (value[0], index[0]);
        let is_better = value > *y || value.is_nan() || (value == *y && index < *taken_from);
        *y = if is_better { value } else { *y };
        *taken_from = if is_better { index } else { *taken_from };
    }
}

/// Adds every `stride`th of the columns. Inlined for the same reason.
#[inline(always)]
fn sum_of_columns(columns: &[f32], stride: usize, y: &mut [f32]) {
    y.iter_mut().zip(columns.chunks_exact(stride)).for_each(|(y, sum)| *y += sum[0]);
}

#[cfg(test)]
const fn case(bottom: &'static [&'static [usize]], params: &'static str) -> super::GradientCase {
    super::GradientCase { bottoms: bottom, params, tops: 1, fill: super::Fill::Distinct }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    case(&[&[2, 2, 4, 6]], "pooling_param { pool: MAX kernel_size: 2 stride: 2 }"),
    case(&[&[2, 2, 6, 5]], "pooling_param { pool: MAX kernel_size: 3 stride: 2 }"),
    case(&[&[1, 2, 5, 6]], "pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 round_mode: FLOOR }"),
    case(&[&[1, 2, 4, 5]], "pooling_param { pool: MAX kernel_h: 2 kernel_w: 3 stride_h: 1 stride_w: 3 pad_w: 1 }"),
    case(&[&[2, 3, 4, 5]], "pooling_param { pool: MAX global_pooling: true }"),
    case(&[&[2, 2, 6, 5]], "pooling_param { pool: AVE kernel_size: 3 stride: 2 }"),
    case(&[&[1, 2, 7, 6]], "pooling_param { pool: AVE kernel_size: 5 stride: 3 pad: 2 }"),
    case(&[&[1, 2, 5, 4]], "pooling_param { pool: AVE kernel_size: 2 stride: 1 pad: 1 round_mode: FLOOR }"),
    case(&[&[2, 3, 4, 5]], "pooling_param { pool: AVE global_pooling: true }"),
];
