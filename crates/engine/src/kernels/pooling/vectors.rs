//! Pooling with the vectors of one instruction set.
//!
//! A row of the bottom is loaded as two registers of neighbouring values, from which one permutation for each column of
//! the windows (a tap) picks what the windows side by side need, whatever the stride. Where rows are narrow, the two
//! registers hold the same row of two or four channels. Rows that are in several windows are reduced once.

use super::strips::{Strip, Strips, Tap};
use super::{MAX_LANES, Simd, Windows};
use crate::kernels::lanes::{self, with_vector};
use crate::kernels::registers::Register;

/// A reduced row of one strip.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Row {
    values: [f32; MAX_LANES],
    places: [i32; MAX_LANES],
}

impl Row {
    pub(super) const EMPTY: Self = Self {
        values: [0.0; MAX_LANES],
        places: [0; MAX_LANES],
    };
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

/// The greatest values so far and their places, after `new` ones that come later in their windows: a greater one counts,
/// and the first NaN.
///
/// # Safety
/// The processor has what `V` needs.
#[inline(always)]
unsafe fn greatest_of<V: Register, const NAN: bool>((old, old_place): (V, V), (new, new_place): (V, V)) -> (V, V) {
    // SAFETY: the caller's promise.
    unsafe {
        if NAN {
            let is_better = V::and(new.is_greater_or_nan(old), old.is_number(old));
            (new.select(is_better, old), new_place.select(is_better, old_place))
        } else {
            let is_better = new.is_greater(old);
            (new.max(old), new_place.select(is_better, old_place))
        }
    }
}

/// Channels and what is to be done with them.
pub(super) struct Job<'a> {
    pub(super) windows: &'a Windows,
    pub(super) strips: &'a Strips,
    pub(super) rows: &'a mut [Row],
    pub(super) planes: usize,
    pub(super) source: *const f32,
    pub(super) target: *mut f32,
    /// Where each maximum lies in its channel.
    pub(super) places: *mut u32,
}

/// What is made of windows.
#[derive(Clone, Copy)]
pub(super) enum Task {
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
    pub(super) unsafe fn run_on(self, simd: Simd, task: Task) {
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
            let slot_lanes = self.strips.slot_lanes;
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
                let mut greatest = (choices.choose([a, b], 0), first_taps);
                for tap in 1..choices.len() {
                    let new = (choices.choose([a, b], tap), V::splat_index(tap as i32));
                    greatest = greatest_of::<V, NAN>(greatest, new);
                }
                let (greatest, places) = greatest;
                greatest.store(reduced.values.as_mut_ptr());
                places.add_indices(columns).store(reduced.places.as_mut_ptr().cast());
                columns = columns.add_indices(V::splat_index(width.input as i32));
            }
            for row in 0..height.output {
                let window = &self.rows[height.window(row)];
                let load = |row: &Row| (V::load(row.values.as_ptr()), V::load(row.places.as_ptr().cast()));
                let mut greatest = load(&window[0]);
                for row in &window[1..] {
                    greatest = greatest_of::<V, NAN>(greatest, load(row));
                }
                let (greatest, places) = greatest;
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
            for (row, windows) in self.windows.windows_over_rows.iter().enumerate() {
                let mut sums = V::splat(0.0);
                for window in &self.rows[windows.clone()] {
                    sums = sums.add(V::load(window.values.as_ptr()));
                }
                let target = first * bottom_len + row * width.input;
                self.write(strip, planes, bottom_len, self.target.add(target), sums);
            }
        }
    }
}
