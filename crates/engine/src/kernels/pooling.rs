//! Pooling of many channels: the greatest value, the average or the sum of each window, and the average's gradient.
//!
//! A row of the bottom is loaded as two registers of neighbouring values, from which one permutation for each column of
//! the windows (a tap) picks what the windows side by side need, whatever the stride. Where rows are narrow, the two
//! registers hold the same row of two or four channels. Rows that are in several windows are reduced once.

use std::ops::{Add, Range};

use super::Simd;
use super::lanes::{self, MAX_LANES, lanes_of, with_vector};
use super::registers::Register;

/// The most channels that share a register.
const MAX_PLANES: usize = 4;

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
    /// From rows of the bottom to rows of windows; none where a window is too wide.
    forward: Option<Strips>,
    /// From rows of windows to rows of the bottom; as above.
    backward: Option<Strips>,
    /// The extents of the windows along a row of the top.
    extents: Vec<f32>,
}

/// One thread's buffer: reduced rows of one strip.
#[derive(Default)]
pub struct Rows(Vec<Row>);

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Row {
    values: [f32; MAX_LANES],
    places: [i32; MAX_LANES],
}

/// How rows of `sources` become rows of `targets`, a strip of target columns at a time.
struct Strips {
    /// The channels in one register, a power of 2.
    planes: usize,
    strips: Vec<Strip>,
    /// By strip.
    taps: Vec<Tap>,
    taps_per_strip: usize,
}

/// Targets side by side, the lanes of one register for each channel.
struct Strip {
    first: usize,
    count: usize,
    /// For each lane the extent of its window.
    extents: [f32; MAX_LANES],
    /// The first column that is loaded; negative in the padding.
    source_start: isize,
    /// Which columns from there on exist.
    source_bits: u32,
    /// For each lane the first column of its window, which may be in the padding.
    columns: [i32; MAX_LANES],
    /// For each lane the first tap that is not in the padding.
    first_taps: [i32; MAX_LANES],
}

/// Where in the loaded registers the same value of all windows lies.
#[derive(Clone, Copy)]
struct Tap {
    /// Where there is none, another value of the window.
    choice: [i32; MAX_LANES],
    /// The lanes that have one.
    lanes: u32,
}

impl Strips {
    /// `window` gives the columns that a target takes, those in the padding included. `None` if a window does not fit
    /// into two registers of `lanes`.
    fn new(
        [source_width, target_width]: [usize; 2],
        lanes: usize,
        window: impl Fn(usize) -> Range<isize>,
        extent_of_window: impl Fn(usize) -> f32,
    ) -> Option<Self> {
        let taps_per_strip = (0..target_width).map(|target| window(target).len()).max()?;
        // What is loaded for windows up to this one, from column `start` on.
        let extent = |target: usize, start: isize| window(target).end.min(source_width as isize) - start;
        let whole_row = extent(target_width - 1, window(0).start);
        let fits = |planes: &usize| target_width * planes <= lanes && whole_row as usize * planes <= 2 * lanes;
        let planes = [MAX_PLANES, 2].into_iter().find(fits).unwrap_or(1);
        let (slot_lanes, slot_columns) = (lanes / planes, 2 * lanes / planes);
        let (mut strips, mut taps) = (Vec::new(), Vec::new());
        let mut first = 0;
        while first < target_width {
            let start = window(first).start;
            let fitting = (first..target_width).take_while(|&target| extent(target, start) <= slot_columns as isize);
            let count = fitting.take(slot_lanes).count();
            if count == 0 {
                return None;
            }
            // Lanes without a target repeat the last.
            let target = |lane: usize| first + (lane % slot_lanes).min(count - 1);
            let lanes_of = |f: &dyn Fn(usize) -> i32| std::array::from_fn(|lane| f(lane.min(lanes - 1)));
            let exists = |column: usize| (0..source_width as isize).contains(&(start + column as isize));
            strips.push(Strip {
                first,
                count,
                source_start: start,
                source_bits: (0..slot_columns).fold(0, |bits, column| bits | u32::from(exists(column)) << column),
                extents: std::array::from_fn(|lane| extent_of_window(target(lane))),
                columns: lanes_of(&|lane| window(target(lane)).start as i32),
                first_taps: lanes_of(&|lane| (-window(target(lane)).start).max(0) as i32),
            });
            taps.extend((0..taps_per_strip).map(|tap| {
                let column = |lane: usize| (window(target(lane)).start - start) as usize + tap;
                let is_there = |lane: usize| {
                    let columns = window(target(lane));
                    tap < columns.len() && (0..source_width as isize).contains(&(columns.start + tap as isize))
                };
                Tap {
                    choice: lanes_of(&|lane| {
                        (lane / slot_lanes * slot_columns + column(lane).min(slot_columns - 1)) as i32
                    }),
                    lanes: (0..lanes).fold(0, |bits, lane| bits | u32::from(is_there(lane)) << lane),
                }
            }));
            first += count;
        }
        Some(Self {
            planes,
            strips,
            taps,
            taps_per_strip,
        })
    }

    fn strips(&self) -> impl Iterator<Item = (&Strip, &[Tap])> {
        self.strips.iter().zip(self.taps.chunks_exact(self.taps_per_strip))
    }
}

/// One strip of some channels, ready to be loaded. `SEGMENTS` are what the two registers consist of.
struct Loader<V: Register, const SEGMENTS: usize> {
    offsets: [isize; SEGMENTS],
    masks: [V::Mask; SEGMENTS],
    padding: V,
}

impl<V: Register, const SEGMENTS: usize> Loader<V, SEGMENTS> {
    /// For `planes` channels that lie `plane_len` apart.
    ///
    /// # Safety
    /// The processor has what `V` needs.
    #[inline(always)]
    unsafe fn new(strips: &Strips, strip: &Strip, planes: usize, plane_len: usize, padding: f32) -> Self {
        let segment_lanes = 2 * V::LANES / SEGMENTS;
        // SAFETY: the caller's promise.
        unsafe {
            let mut loader = Self {
                offsets: [0; SEGMENTS],
                masks: [V::mask(0); SEGMENTS],
                padding: V::splat(padding),
            };
            for segment in 0..SEGMENTS {
                let lane = segment * segment_lanes % V::LANES;
                let (bits, offset) = if strips.planes == 1 {
                    (strip.source_bits >> (segment * segment_lanes), segment * segment_lanes)
                } else if segment < planes {
                    (strip.source_bits, segment * plane_len)
                } else {
                    (0, 0)
                };
                let bits = bits & (u32::MAX >> (32 - segment_lanes));
                loader.offsets[segment] = strip.source_start + offset as isize - lane as isize;
                loader.masks[segment] = V::mask(bits << lane);
            }
            loader
        }
    }

    /// The row of all channels, `row` that of the first.
    ///
    /// # Safety
    /// As [`Self::new`], and rows of the width and the number of channels given there may be read.
    #[inline(always)]
    unsafe fn load(&self, row: *const f32) -> [V; 2] {
        let mut registers = [self.padding; 2];
        for segment in 0..SEGMENTS {
            let register = &mut registers[segment * 2 / SEGMENTS];
            // SAFETY: the masks leave out what is not in the row.
            *register = unsafe { register.load_over(row.wrapping_offset(self.offsets[segment]), self.masks[segment]) };
        }
        registers
    }
}

/// The taps of a strip in registers, if `TAPS` says how many there are; 0 for any number.
struct Choices<'a, V, const TAPS: usize> {
    taps: &'a [Tap],
    choices: [V; TAPS],
}

impl<'a, V: Register, const TAPS: usize> Choices<'a, V, TAPS> {
    /// # Safety
    /// The processor has what `V` needs.
    #[inline(always)]
    unsafe fn new(taps: &'a [Tap]) -> Self {
        // SAFETY: the caller's promise.
        let mut choices = [unsafe { V::splat(0.0) }; TAPS];
        for (choice, tap) in choices.iter_mut().zip(taps) {
            // SAFETY: as above.
            *choice = unsafe { V::load(tap.choice.as_ptr().cast()) };
        }
        Self { taps, choices }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        if TAPS == 0 { self.taps.len() } else { TAPS }
    }

    /// # Safety
    /// As [`Self::new`].
    #[inline(always)]
    unsafe fn choose(&self, [a, b]: [V; 2], tap: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let choice = if TAPS == 0 {
                V::load(self.taps[tap].choice.as_ptr().cast())
            } else {
                self.choices[tap]
            };
            V::choose(a, b, choice)
        }
    }

    /// Zero in lanes that do not have this tap.
    ///
    /// # Safety
    /// As [`Self::new`].
    #[inline(always)]
    unsafe fn choose_or_zero(&self, registers: [V; 2], tap: usize) -> V {
        // SAFETY: the caller's promise.
        unsafe {
            let value = self.choose(registers, tap);
            value.select(V::mask(self.taps[tap].lanes), V::splat(0.0))
        }
    }
}

/// Where `new`, which comes after `old` in a window, takes its place: greater, or the first NaN.
///
/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn is_better<V: Register, const NAN: bool>(new: V, old: V) -> V::Mask {
    // SAFETY: the caller's promise.
    unsafe {
        if NAN {
            V::and(new.is_greater_or_nan(old), old.is_number(old))
        } else {
            new.is_greater(old)
        }
    }
}

/// Channels and what is to be done with them.
struct Job<'a> {
    windows: &'a Windows,
    strips: &'a Strips,
    rows: &'a mut [Row],
    planes: usize,
    source: *const f32,
    target: *mut f32,
    /// Where each maximum lies in its channel.
    places: *mut u32,
}

#[derive(Clone, Copy)]
enum Task {
    Max,
    Average,
    Sum,
    AverageGradient,
}

/// A job and its task, for any vectors.
struct Run<'a> {
    job: Job<'a>,
    task: Task,
}

impl lanes::Job for Run<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise, and that of whoever made this.
        unsafe { self.job.run::<V>(self.task) };
    }
}

impl Job<'_> {
    /// # Safety
    /// The processor has this set, and `planes` channels lie at each pointer that the task uses.
    unsafe fn run_on(self, simd: Simd, task: Task) {
        with_vector(simd, Run { job: self, task });
    }

    /// # Safety
    /// The processor has what `V` needs, and `planes` channels lie at each pointer that the task uses.
    #[inline(always)]
    unsafe fn run<V: Register>(mut self, task: Task) {
        // SAFETY: the caller's promise, handed on.
        unsafe {
            match (self.strips.planes > 2, self.strips.taps_per_strip) {
                (false, 2) => self.run_with::<V, 2, 2>(task),
                (false, 3) => self.run_with::<V, 2, 3>(task),
                (false, _) => self.run_with::<V, 2, 0>(task),
                (true, 2) => self.run_with::<V, 4, 2>(task),
                (true, 3) => self.run_with::<V, 4, 3>(task),
                (true, _) => self.run_with::<V, 4, 0>(task),
            }
        }
    }

    /// # Safety
    /// As [`Self::run`]; segments and taps are those of the strips.
    #[inline(always)]
    unsafe fn run_with<V: Register, const SEGMENTS: usize, const TAPS: usize>(&mut self, task: Task) {
        let strips = self.strips;
        for first in (0..self.planes).step_by(strips.planes) {
            let planes = strips.planes.min(self.planes - first);
            for (strip, taps) in strips.strips() {
                // SAFETY: the caller's promise, handed on.
                unsafe {
                    match task {
                        Task::Max => {
                            let met_nan = self.max::<V, SEGMENTS, TAPS, false>(strip, taps, first, planes);
                            if met_nan {
                                self.max::<V, SEGMENTS, TAPS, true>(strip, taps, first, planes);
                            }
                        }
                        Task::Average => self.sum::<V, SEGMENTS, TAPS, true>(strip, taps, first, planes),
                        Task::Sum => self.sum::<V, SEGMENTS, TAPS, false>(strip, taps, first, planes),
                        Task::AverageGradient => {
                            self.average_gradient::<V, SEGMENTS, TAPS>(strip, taps, first, planes);
                        }
                    }
                }
            }
        }
    }

    /// Writes the lanes of one row of a strip to where they belong, `target` being that row of the first channel.
    ///
    /// # Safety
    /// As [`Self::run`].
    #[inline(always)]
    unsafe fn write<V: Register>(&self, strip: &Strip, planes: usize, plane_len: usize, target: *mut f32, values: V) {
        // SAFETY: the strip lies within the row, and the channels are there.
        unsafe {
            let target = target.add(strip.first);
            if strip.count == V::LANES {
                return values.store(target);
            }
            let slot_lanes = V::LANES / self.strips.planes;
            for plane in 0..planes {
                values.store_some(plane * slot_lanes, strip.count, target.add(plane * plane_len));
            }
        }
    }

    /// Whether there was a NaN; if so, and if `NAN` is not set, what was written is wrong.
    ///
    /// # Safety
    /// As [`Self::run_with`].
    #[inline(always)]
    unsafe fn max<V: Register, const SEGMENTS: usize, const TAPS: usize, const NAN: bool>(
        &mut self,
        strip: &Strip,
        taps: &[Tap],
        first: usize,
        planes: usize,
    ) -> bool {
        let Windows { height, width, .. } = self.windows;
        let (bottom_len, top_len) = (self.windows.bottom_count(), self.windows.top_count());
        // SAFETY: the caller's promise; all rows and channels are there.
        unsafe {
            let loader = Loader::<V, SEGMENTS>::new(self.strips, strip, planes, bottom_len, f32::NEG_INFINITY);
            let choices = Choices::<V, TAPS>::new(taps);
            let first_taps = V::load(strip.first_taps.as_ptr().cast());
            let mut columns = V::load(strip.columns.as_ptr().cast());
            let mut nans = V::mask(0);
            let source = self.source.add(first * bottom_len);
            for (row, reduced) in self.rows[..height.input].iter_mut().enumerate() {
                let [a, b] = loader.load(source.add(row * width.input));
                if !NAN {
                    nans = V::or(nans, a.is_nan(b));
                }
                let mut greatest = choices.choose([a, b], 0);
                let mut places = first_taps;
                for tap in 1..choices.len() {
                    let value = choices.choose([a, b], tap);
                    let better = is_better::<V, NAN>(value, greatest);
                    greatest = if NAN {
                        value.select(better, greatest)
                    } else {
                        value.max(greatest)
                    };
                    places = V::splat_index(tap as i32).select(better, places);
                }
                greatest.store(reduced.values.as_mut_ptr());
                places.add_indices(columns).store(reduced.places.as_mut_ptr().cast());
                columns = columns.add_indices(V::splat_index(width.input as i32));
            }
            for row in 0..height.output {
                let window = &self.rows[height.window(row)];
                let load = |row: &Row| (V::load(row.values.as_ptr()), V::load(row.places.as_ptr().cast()));
                let (mut greatest, mut places) = load(&window[0]);
                for row in &window[1..] {
                    let (value, place) = load(row);
                    let better = is_better::<V, NAN>(value, greatest);
                    greatest = if NAN {
                        value.select(better, greatest)
                    } else {
                        value.max(greatest)
                    };
                    places = place.select(better, places);
                }
                let target = first * top_len + row * width.output;
                self.write(strip, planes, top_len, self.target.add(target), greatest);
                self.write(strip, planes, top_len, self.places.add(target).cast(), places);
            }
            V::any(nans)
        }
    }

    /// # Safety
    /// As [`Self::run_with`].
    #[inline(always)]
    unsafe fn sum<V: Register, const SEGMENTS: usize, const TAPS: usize, const AVERAGE: bool>(
        &mut self,
        strip: &Strip,
        taps: &[Tap],
        first: usize,
        planes: usize,
    ) {
        let Windows { height, width, .. } = self.windows;
        let (bottom_len, top_len) = (self.windows.bottom_count(), self.windows.top_count());
        // SAFETY: the caller's promise; all rows and channels are there.
        unsafe {
            let loader = Loader::<V, SEGMENTS>::new(self.strips, strip, planes, bottom_len, 0.0);
            let choices = Choices::<V, TAPS>::new(taps);
            let widths = V::load(strip.extents.as_ptr());
            let source = self.source.add(first * bottom_len);
            for row in 0..height.output {
                let mut columns = [V::splat(0.0); 2];
                for row in height.window(row) {
                    let [a, b] = loader.load(source.add(row * width.input));
                    columns = [columns[0].add(a), columns[1].add(b)];
                }
                let mut sums = V::splat(0.0);
                for tap in 0..choices.len() {
                    sums = sums.add(choices.choose_or_zero(columns, tap));
                }
                if AVERAGE {
                    sums = sums.divide(V::splat(height.extent(row) as f32).multiply(widths));
                }
                let target = first * top_len + row * width.output;
                self.write(strip, planes, top_len, self.target.add(target), sums);
            }
        }
    }

    /// # Safety
    /// As [`Self::run_with`].
    #[inline(always)]
    unsafe fn average_gradient<V: Register, const SEGMENTS: usize, const TAPS: usize>(
        &mut self,
        strip: &Strip,
        taps: &[Tap],
        first: usize,
        planes: usize,
    ) {
        let Windows { height, width, .. } = self.windows;
        let (bottom_len, top_len) = (self.windows.bottom_count(), self.windows.top_count());
        // SAFETY: the caller's promise; all rows and channels are there.
        unsafe {
            let loader = Loader::<V, SEGMENTS>::new(self.strips, strip, planes, top_len, 0.0);
            // All channels have the same.
            let extents = Loader::<V, SEGMENTS>::new(self.strips, strip, planes, 0, 1.0);
            let widths = extents.load(self.windows.extents.as_ptr());
            let choices = Choices::<V, TAPS>::new(taps);
            let source = self.source.add(first * top_len);
            for (row, reduced) in self.rows[..height.output].iter_mut().enumerate() {
                let extent = V::splat(height.extent(row) as f32);
                let [a, b] = loader.load(source.add(row * width.output));
                let shares = [
                    a.divide(extent.multiply(widths[0])),
                    b.divide(extent.multiply(widths[1])),
                ];
                let mut sums = V::splat(0.0);
                for tap in 0..choices.len() {
                    sums = sums.add(choices.choose_or_zero(shares, tap));
                }
                sums.store(reduced.values.as_mut_ptr());
            }
            for row in 0..height.input {
                let mut sums = V::splat(0.0);
                for window in &self.rows[height.windows_over(row)] {
                    sums = sums.add(V::load(window.values.as_ptr()));
                }
                let target = first * bottom_len + row * width.input;
                self.write(strip, planes, bottom_len, self.target.add(target), sums);
            }
        }
    }
}

impl Windows {
    /// The windows of channels with these axes.
    pub fn new(height: Axis, width: Axis) -> Self {
        Self::for_set(Simd::current(), height, width)
    }

    pub(super) fn for_set(simd: Simd, height: Axis, width: Axis) -> Self {
        let lanes = lanes_of(simd);
        let window = |output: usize| {
            let start = (output * width.stride) as isize - width.pad as isize;
            start..start + width.kernel as isize
        };
        let windows_over = |input: usize| {
            let windows = width.windows_over(input);
            windows.start as isize..windows.end as isize
        };
        let extents: Vec<f32> = (0..width.output).map(|output| width.extent(output) as f32).collect();
        Self {
            height,
            width,
            simd,
            forward: Strips::new([width.input, width.output], lanes, window, |output| extents[output]),
            backward: Strips::new([width.output, width.input], lanes, windows_over, |_| 1.0),
            extents,
        }
    }

    /// These without strips, so that all is done by the definitions.
    #[cfg(test)]
    pub(super) fn plain(height: Axis, width: Axis) -> Self {
        Self {
            forward: None,
            backward: None,
            ..Self::new(height, width)
        }
    }

    #[cfg(test)]
    pub(super) fn uses_vectors(&self) -> bool {
        self.forward.is_some() && self.backward.is_some()
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
            rows: rows.of_count(self.height.input),
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
            rows: rows.of_count(0),
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
            return planes.for_each(|(dy, dx)| self.plain_average_gradient(dy, dx));
        };
        let job = Job {
            windows: self,
            strips,
            rows: rows.of_count(self.height.output),
            planes,
            source: dy.as_ptr(),
            target: dx.as_mut_ptr(),
            places: std::ptr::null_mut(),
        };
        // SAFETY: the lengths are checked.
        unsafe { job.run_on(self.simd, Task::AverageGradient) };
    }

    /// [`max`](Self::max) of one channel by its definition.
    fn plain_max(&self, x: &[f32], y: &mut [f32], places: &mut [u32]) {
        for (output, (y, place)) in y.iter_mut().zip(places).enumerate() {
            let mut indices = self.indices(output);
            let mut taken = indices.next().unwrap_or(0);
            for index in indices {
                let is_first_nan = x[index].is_nan() && !x[taken].is_nan();
                if x[index] > x[taken] || is_first_nan {
                    taken = index;
                }
            }
            (*y, *place) = (x[taken], taken as u32);
        }
    }

    /// [`sum`](Self::sum) or [`average`](Self::average) of one channel, summed in the same order.
    fn plain_sum(&self, task: Task, x: &[f32], y: &mut [f32]) {
        for (output, y) in y.iter_mut().enumerate() {
            let (row, column) = (output / self.width.output, output % self.width.output);
            let rows = self.height.window(row);
            let columns = self.width.window(column);
            let sum_of_column = |column| {
                rows.clone()
                    .map(|row| x[row * self.width.input + column])
                    .fold(0.0, f32::add)
            };
            let sum = columns.map(sum_of_column).fold(0.0, f32::add);
            *y = match task {
                Task::Average => sum / (self.height.extent(row) as f32 * self.extents[column]),
                _ => sum,
            };
        }
    }

    /// [`average_gradient`](Self::average_gradient) of one channel, summed in the same order.
    fn plain_average_gradient(&self, dy: &[f32], dx: &mut [f32]) {
        for (input, dx) in dx.iter_mut().enumerate() {
            let (row, column) = (input / self.width.input, input % self.width.input);
            let columns = self.width.windows_over(column);
            let share = |row: usize, column: usize| {
                dy[row * self.width.output + column] / (self.height.extent(row) as f32 * self.extents[column])
            };
            let sum_of_row = |row| columns.clone().map(|column| share(row, column)).fold(0.0, f32::add);
            *dx = self.height.windows_over(row).map(sum_of_row).fold(0.0, f32::add);
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
    fn of_count(&mut self, count: usize) -> &mut [Row] {
        let empty = Row {
            values: [0.0; MAX_LANES],
            places: [0; MAX_LANES],
        };
        self.0.resize(count.max(self.0.len()), empty);
        &mut self.0
    }
}
