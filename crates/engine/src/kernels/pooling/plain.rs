//! Pooling in plain Rust, a channel at a time: what the compiler makes vectors of on any processor.
//!
//! Windows that lie side by side within the bottom are worked on together; those at its edges one by one.

use std::hint::select_unpredictable;
use std::ops::{Add, Range};

use super::{Rows, Task, Windows};

/// Windows that are worked on together: more would leave too few of a narrow row.
const LANES: usize = 4;

impl Windows {
    /// [`max`](Self::max) of one channel.
    pub(super) fn plain_max(&self, x: &[f32], y: &mut [f32], places: &mut [u32]) {
        let has_nan = x.iter().fold(false, |has_nan, x| has_nan | x.is_nan());
        if has_nan {
            for output in 0..y.len() {
                (y[output], places[output]) = self.max_of_window(output, x);
            }
            return;
        }
        self.with_constants(
            #[inline(always)]
            |kernel, stride| self.max_of_blocks(kernel, stride, x, y, places),
        );
    }

    #[inline(always)]
    fn max_of_blocks(&self, kernel: usize, stride: usize, x: &[f32], y: &mut [f32], places: &mut [u32]) {
        let (input, output, whole) = (self.width.input, self.width.output, self.whole());
        for row in 0..self.height.output {
            for first in blocks(whole.clone()) {
                let rows = self.height.window(row);
                let column = first * stride - self.width.pad;
                let place = |row: usize, column: usize| -> [u32; LANES] {
                    std::array::from_fn(|lane| (row * input + column) as u32 + (lane * stride) as u32)
                };
                let (mut greatest, mut taken) = ([f32::NEG_INFINITY; LANES], place(rows.start, column));
                for row in rows {
                    for column in column..column + kernel {
                        let (values, here) = (every(stride, &x[row * input + column..]), place(row, column));
                        for lane in 0..LANES {
                            // Without a branch, which would be mispredicted.
                            let is_better = values[lane] > greatest[lane];
                            greatest[lane] = select_unpredictable(is_better, values[lane], greatest[lane]);
                            taken[lane] = select_unpredictable(is_better, here[lane], taken[lane]);
                        }
                    }
                }
                y[row * output + first..][..LANES].copy_from_slice(&greatest);
                places[row * output + first..][..LANES].copy_from_slice(&taken);
            }
            for output in (0..whole.start).chain(whole.end..output) {
                let output = row * self.width.output + output;
                (y[output], places[output]) = self.max_of_window(output, x);
            }
        }
    }

    /// The first of the greatest values of window `output`, or the first NaN, and where it lies.
    fn max_of_window(&self, output: usize, x: &[f32]) -> (f32, u32) {
        let rows = self.height.window(output / self.width.output);
        let columns = self.width.window(output % self.width.output);
        let mut taken = rows.start * self.width.input + columns.start;
        let mut greatest = x[taken];
        for row in rows {
            let start = row * self.width.input;
            for (place, &value) in (start + columns.start..).zip(&x[start..][columns.clone()]) {
                let is_better = (value > greatest) | (value.is_nan() & !greatest.is_nan());
                greatest = select_unpredictable(is_better, value, greatest);
                taken = select_unpredictable(is_better, place, taken);
            }
        }
        (greatest, taken as u32)
    }

    /// [`sum`](Self::sum) or [`average`](Self::average) of one channel. Each column is summed first, then the columns.
    pub(super) fn plain_sum(&self, task: Task, x: &[f32], y: &mut [f32]) {
        self.with_constants(
            #[inline(always)]
            |kernel, stride| self.sum_of_blocks(kernel, stride, x, y),
        );
        if let Task::Average = task {
            for (row, y) in y.chunks_exact_mut(self.width.output).enumerate() {
                let height = self.height.extent(row) as f32;
                y.iter_mut()
                    .zip(&self.extents)
                    .for_each(|(y, width)| *y /= height * width);
            }
        }
    }

    #[inline(always)]
    fn sum_of_blocks(&self, kernel: usize, stride: usize, x: &[f32], y: &mut [f32]) {
        let (input, whole) = (self.width.input, self.whole());
        for (row, y) in y.chunks_exact_mut(self.width.output).enumerate() {
            let rows = self.height.window(row);
            for first in blocks(whole.clone()) {
                let mut sums = [0.0; LANES];
                for tap in 0..kernel {
                    let column = first * stride - self.width.pad + tap;
                    let mut column_sums = [0.0; LANES];
                    for row in rows.clone() {
                        add(&mut column_sums, every(stride, &x[row * input + column..]));
                    }
                    add(&mut sums, column_sums);
                }
                y[first..][..LANES].copy_from_slice(&sums);
            }
            for output in (0..whole.start).chain(whole.end..y.len()) {
                let sum_of_column = |column| rows.clone().map(|row| x[row * input + column]).fold(0.0, f32::add);
                y[output] = self.width.window(output).map(sum_of_column).fold(0.0, f32::add);
            }
        }
    }

    /// [`average_gradient`](Self::average_gradient) of one channel. What each row of windows gives is summed first, then
    /// these rows.
    pub(super) fn plain_average_gradient(&self, rows: &mut Rows, dy: &[f32], dx: &mut [f32]) {
        let input = self.width.input;
        dx.fill(0.0);
        for (row, dy) in dy.chunks_exact(self.width.output).enumerate() {
            let height = self.height.extent(row) as f32;
            let of_columns = &mut rows.of_columns;
            of_columns.clear();
            of_columns.resize(input, 0.0);
            for (output, (dy, width)) in dy.iter().zip(&self.extents).enumerate() {
                let share = dy / (height * width);
                of_columns[self.width.window(output)]
                    .iter_mut()
                    .for_each(|sum| *sum += share);
            }
            for row in self.height.window(row) {
                let dx = &mut dx[row * input..][..input];
                dx.iter_mut().zip(&*of_columns).for_each(|(dx, sum)| *dx += sum);
            }
        }
    }

    /// Runs `work` on the kernel and the stride of the width, which for most nets the compiler then knows.
    #[inline(always)]
    fn with_constants(&self, work: impl FnOnce(usize, usize)) {
        match (self.width.kernel, self.width.stride) {
            (2, 2) => work(2, 2),
            (3, 2) => work(3, 2),
            (3, 1) => work(3, 1),
            (kernel, stride) => work(kernel, stride),
        }
    }

    /// The windows of a row that lie within the bottom's width, if they are a block or more.
    fn whole(&self) -> Range<usize> {
        let width = &self.width;
        let start = width.pad.div_ceil(width.stride);
        let end = (width.input + width.pad + width.stride).saturating_sub(width.kernel) / width.stride;
        let whole = start..end.min(width.output);
        if whole.len() < LANES { 0..0 } else { whole }
    }
}

/// The first windows of blocks of whole ones; the last block may overlap the one before it.
fn blocks(whole: Range<usize>) -> impl Iterator<Item = usize> {
    let last = whole.end.saturating_sub(LANES);
    whole.step_by(LANES).map(move |first| first.min(last))
}

/// Every `stride`th value.
#[inline(always)]
fn every(stride: usize, values: &[f32]) -> [f32; LANES] {
    let values = &values[..(LANES - 1) * stride + 1];
    std::array::from_fn(|lane| values[lane * stride])
}

#[inline(always)]
fn add(sums: &mut [f32; LANES], values: [f32; LANES]) {
    for lane in 0..LANES {
        sums[lane] += values[lane];
    }
}
