//! Pooling of many channels: the greatest value, the average or the sum of each window, and the average's gradient.
//!
//! With AVX2 or AVX-512 it runs on their vectors (`vectors.rs`), laid out in strips (`strips.rs`). Elsewhere, and for
//! windows that are too wide for two registers, it runs in plain loops (`plain.rs`). Both sum in the same order.

use std::ops::Range;

use super::Simd;
use super::lanes::{MAX_LANES, lanes_of};

mod plain;
mod strips;
#[cfg(test)]
mod tests;
mod vectors;

use strips::Strips;
use vectors::{Job, Row, Task};

/// Floats that are cleared at a time, at least: the processor then writes whole lines of memory without reading them
/// first. They have to stay in L1.
const MIN_CLEARED: usize = 1 << 10;

/// The windows along one axis.
#[derive(Clone, Copy, Default, Debug)]
pub struct Axis {
    /// Positions of the bottom.
    pub input: usize,
    /// How many windows there are.
    pub output: usize,
    /// Positions in a window, those in the padding included; no more than there are.
    pub kernel: usize,
    /// Distance from one window to the next.
    pub stride: usize,
    /// How far the first window begins before the bottom: less than a kernel.
    pub pad: usize,
}

impl Axis {
    /// The inputs in window `output`: one or more.
    pub fn window(&self, output: usize) -> Range<usize> {
        let start = output * self.stride;
        start.saturating_sub(self.pad)..(start + self.kernel - self.pad).min(self.input)
    }

    /// The extent of window `output`, with the padding that it covers.
    pub fn extent(&self, output: usize) -> usize {
        let start = output * self.stride;
        (start + self.kernel).min(self.input + 2 * self.pad) - start
    }

    /// The windows that input `input` is in: none where the stride is larger than the kernel.
    fn windows_over(&self, input: usize) -> Range<usize> {
        let end = ((input + self.pad) / self.stride + 1).min(self.output);
        let start = (input + self.pad + 1).saturating_sub(self.kernel).div_ceil(self.stride);
        start.min(end)..end
    }
}

/// The windows of channels.
pub struct Windows {
    /// Those along the height.
    pub height: Axis,
    /// Those along the width.
    pub width: Axis,
    simd: Simd,
    /// From rows of the bottom to rows of windows; none where plain loops do it.
    forward: Option<Strips>,
    /// From rows of windows to rows of the bottom; as above.
    backward: Option<Strips>,
    /// The extents of the windows along a row of the top.
    extents: Vec<f32>,
    /// For each row of the bottom the rows of windows that it is in: dividing for each takes longer than adding them up.
    windows_over_rows: Vec<Range<usize>>,
}

/// One thread's buffers.
#[derive(Default)]
pub struct Rows {
    /// The reduced rows of one strip.
    of_strip: Vec<Row>,
    /// What a row of windows gives to each column, in plain loops.
    of_columns: Vec<f32>,
}

impl Windows {
    /// The windows of channels with these axes.
    pub fn new(height: Axis, width: Axis) -> Self {
        match Simd::current() {
            // Its permutations are as many loads.
            Simd::Portable => Self::plain(height, width),
            simd => Self::for_set(simd, height, width),
        }
    }

    /// These without vectors.
    fn plain(height: Axis, width: Axis) -> Self {
        Self {
            height,
            width,
            simd: Simd::Portable,
            forward: None,
            backward: None,
            extents: (0..width.output).map(|output| width.extent(output) as f32).collect(),
            windows_over_rows: (0..height.input).map(|row| height.windows_over(row)).collect(),
        }
    }

    /// These with the vectors of a set, where they fit.
    fn for_set(simd: Simd, height: Axis, width: Axis) -> Self {
        let lanes = lanes_of(simd);
        let window = |output: usize| {
            let start = (output * width.stride) as isize - width.pad as isize;
            start..start + width.kernel as isize
        };
        let windows_over = |input: usize| {
            let windows = width.windows_over(input);
            windows.start as isize..windows.end as isize
        };
        let plain = Self::plain(height, width);
        let extent = |output: usize| plain.extents[output];
        Self {
            simd,
            forward: Strips::new([width.input, width.output], lanes, window, extent),
            backward: Strips::new([width.output, width.input], lanes, windows_over, |_| 1.0),
            ..plain
        }
    }

    /// Values in a channel of the bottom.
    pub fn bottom_count(&self) -> usize {
        self.height.input * self.width.input
    }

    /// Values in a channel of the top.
    pub fn top_count(&self) -> usize {
        self.height.output * self.width.output
    }

    /// How many channels there are in both.
    fn planes(&self, bottom: &[f32], top: &[f32]) -> usize {
        let planes = top.len() / self.top_count();
        assert_eq!(
            top.len(),
            planes * self.top_count(),
            "pooling: the top is not of whole channels"
        );
        assert_eq!(
            bottom.len(),
            planes * self.bottom_count(),
            "pooling: the bottom has other channels"
        );
        planes
    }

    /// The first of the greatest values of each window, and where in its channel it lies. A NaN is greater than all.
    ///
    /// `x` is channels of the bottom (h, w), `y` and `places` as many of the top.
    ///
    /// # Panics
    /// If they are not, as all methods here.
    pub fn max(&self, rows: &mut Rows, x: &[f32], y: &mut [f32], places: &mut [u32]) {
        let planes = self.planes(x, y);
        assert_eq!(y.len(), places.len(), "pooling: values and places differ in number");
        let Some(strips) = &self.forward else {
            let top_count = self.top_count();
            let tops = y.chunks_exact_mut(top_count).zip(places.chunks_exact_mut(top_count));
            let planes = x.chunks_exact(self.bottom_count()).zip(tops);
            return planes.for_each(|(x, (y, places))| self.plain_max(x, y, places));
        };
        let job = Job {
            windows: self,
            strips,
            rows: rows.of_strip(self.height.input),
            planes,
            source: x.as_ptr(),
            target: y.as_mut_ptr(),
            places: places.as_mut_ptr(),
        };
        // SAFETY: the lengths are checked.
        unsafe { job.run_on(self.simd, Task::Max) };
    }

    /// The average of each window, in which padding counts as zeros. `x` is channels of the bottom, `y` of the top.
    pub fn average(&self, rows: &mut Rows, x: &[f32], y: &mut [f32]) {
        self.sum_or_average(Task::Average, rows, x, y);
    }

    /// The sum of each window.
    pub fn sum(&self, rows: &mut Rows, x: &[f32], y: &mut [f32]) {
        self.sum_or_average(Task::Sum, rows, x, y);
    }

    fn sum_or_average(&self, task: Task, rows: &mut Rows, x: &[f32], y: &mut [f32]) {
        let planes = self.planes(x, y);
        let Some(strips) = &self.forward else {
            let planes = x
                .chunks_exact(self.bottom_count())
                .zip(y.chunks_exact_mut(self.top_count()));
            return planes.for_each(|(x, y)| self.plain_sum(task, x, y));
        };
        let job = Job {
            windows: self,
            strips,
            rows: rows.of_strip(0),
            planes,
            source: x.as_ptr(),
            target: y.as_mut_ptr(),
            places: std::ptr::null_mut(),
        };
        // SAFETY: the lengths are checked.
        unsafe { job.run_on(self.simd, task) };
    }

    /// The gradient of [`average`](Self::average): writes `dx`.
    pub fn average_gradient(&self, rows: &mut Rows, dy: &[f32], dx: &mut [f32]) {
        let planes = self.planes(dx, dy);
        let Some(strips) = &self.backward else {
            let planes = dy
                .chunks_exact(self.top_count())
                .zip(dx.chunks_exact_mut(self.bottom_count()));
            return planes.for_each(|(dy, dx)| self.plain_average_gradient(rows, dy, dx));
        };
        let job = Job {
            windows: self,
            strips,
            rows: rows.of_strip(self.height.output),
            planes,
            source: dy.as_ptr(),
            target: dx.as_mut_ptr(),
            places: std::ptr::null_mut(),
        };
        // SAFETY: the lengths are checked.
        unsafe { job.run_on(self.simd, Task::AverageGradient) };
    }

    /// The gradient of [`max`](Self::max), or of any other choice of one value of each window: writes `dx`.
    ///
    /// `places` says for each value of `dy` where in its channel of the bottom it was taken from.
    pub fn gradient_of_taken(&self, places: &[u32], dy: &[f32], dx: &mut [f32]) {
        self.planes(dx, dy);
        assert_eq!(dy.len(), places.len(), "pooling: values and places differ in number");
        let (bottom_count, top_count) = (self.bottom_count(), self.top_count());
        // Memory is what takes the time: vectors that write each value once, cleared or not, are no faster.
        let planes = MIN_CLEARED.div_ceil(bottom_count);
        let tops = dy.chunks(planes * top_count).zip(places.chunks(planes * top_count));
        for (dx, (dy, places)) in dx.chunks_mut(planes * bottom_count).zip(tops) {
            dx.fill(0.0);
            let tops = dy.chunks_exact(top_count).zip(places.chunks_exact(top_count));
            for (dx, (dy, places)) in dx.chunks_exact_mut(bottom_count).zip(tops) {
                places.iter().zip(dy).for_each(|(place, dy)| dx[*place as usize] += dy);
            }
        }
    }

    /// The indices in a channel of window `output`, row by row.
    pub fn indices(&self, output: usize) -> impl Iterator<Item = usize> + Clone + use<> {
        let rows = self.height.window(output / self.width.output);
        let columns = self.width.window(output % self.width.output);
        let input = self.width.input;
        rows.flat_map(move |row| columns.clone().map(move |column| row * input + column))
    }
}

impl Rows {
    fn of_strip(&mut self, count: usize) -> &mut [Row] {
        self.of_strip.resize(count.max(self.of_strip.len()), Row::EMPTY);
        &mut self.of_strip
    }
}
