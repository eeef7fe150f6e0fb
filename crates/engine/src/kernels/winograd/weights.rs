//! Weights to points and back: their transform, and that of their gradient.

use super::super::Simd;
use super::super::lanes::{Job, channels_to_lanes, lanes_of, lanes_to_channels, with_vector};
use super::super::registers::Register;
use super::points::{collect, evaluate, scales};
use super::{Depth, HEIGHT, Scratch, across, grow, panel_columns, points_of};

/// One panel of transformed weights, `S E g Eᵀ S`: [`panel_columns`] columns of the matrix that the inputs of each point
/// are multiplied by, as (point, row, column).
pub struct Weights<'a> {
    /// The set that they are made for.
    pub simd: Simd,
    /// The kernel's extent, 3 or 5.
    pub kernel: usize,
    /// (column, row, kernel, kernel), or (row, column, kernel, kernel) with `turned`.
    pub weights: &'a [f32],
    /// Rows of the matrix: channels of the inputs.
    pub rows: usize,
    /// Columns of the matrix: channels of the result.
    pub columns: usize,
    /// Whether the kernels are turned round, as the gradient of the inputs needs it.
    pub turned: bool,
    /// The first column of the panel.
    pub first_column: usize,
    /// The panel: points · rows · [`panel_columns`] floats.
    pub panel: &'a mut [f32],
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

impl Weights<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn run(self) {
        assert!(self.rows * self.columns * self.kernel * self.kernel <= self.weights.len());
        assert!(points_of(self.kernel) * self.rows * panel_columns(self.simd) <= self.panel.len());
        assert!(self.first_column < self.columns);
        with_vector(self.simd, self);
    }

    /// # Safety
    /// As [`Job::run`]; `K` is the kernel's extent, `W` the width of a tile.
    #[inline(always)]
    unsafe fn run_kernel<V: Register, const K: usize, const W: usize>(self) {
        let Weights {
            simd,
            weights,
            rows,
            columns,
            turned,
            first_column,
            panel,
            scratch,
            ..
        } = self;
        let (lanes, taps, panel_columns) = (V::LANES, K * K, panel_columns(simd));
        let positions = grow(&mut scratch.positions, rows * taps * lanes);
        for column in (0..panel_columns).step_by(lanes) {
            let first = first_column + column;
            let here = lanes.min(columns.saturating_sub(first));
            // SAFETY: the lengths are asserted by the caller.
            unsafe {
                if here == 0 {
                    positions.fill(0.0);
                } else if turned {
                    for row in 0..rows {
                        let from = weights.as_ptr().add((row * columns + first) * taps);
                        let to = positions.as_mut_ptr().add(row * taps * lanes);
                        channels_to_lanes::<V>(from, taps, here, taps, to, taps, taps);
                    }
                } else {
                    let (from, count) = (weights.as_ptr().add(first * rows * taps), rows * taps);
                    channels_to_lanes::<V>(from, count, here, count, positions.as_mut_ptr(), count, count);
                }
                for row in 0..rows {
                    let at = positions.as_ptr().add(row * taps * lanes);
                    let mut half = [[V::zero(); HEIGHT]; K];
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut g = [V::zero(); K];
                        for (i, g) in g.iter_mut().enumerate() {
                            let tap = i * K + j;
                            let tap = if turned { taps - 1 - tap } else { tap };
                            *g = V::load(at.add(tap * lanes));
                        }
                        *half = evaluate(g);
                    }
                    for (i, scale) in scales::<HEIGHT>().into_iter().enumerate() {
                        let g: [V; K] = across(&half, i);
                        let v: [V; W] = evaluate(g);
                        for (j, (v, column_scale)) in v.into_iter().zip(scales::<W>()).enumerate() {
                            let to = ((i * W + j) * rows + row) * panel_columns + column;
                            v.scale(scale * column_scale).store(panel.as_mut_ptr().add(to));
                        }
                    }
                }
            }
        }
    }
}

impl Job for Weights<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.kernel {
                3 => self.run_kernel::<V, 3, 6>(),
                _ => self.run_kernel::<V, 5, 8>(),
            }
        }
    }
}

/// The gradient of the weights of some outputs, from the sums of products of inputs and diffs: `Eᵀ S M S E`, added.
pub struct WeightDiffs<'a> {
    /// The kernel's extent, 3 or 5.
    pub kernel: usize,
    /// (point, input, output), the inputs `depth.stride` floats apart.
    pub sums: &'a [f32],
    /// Channels of the inputs.
    pub inputs: usize,
    /// How the outputs lie in the sums.
    pub depth: Depth,
    /// The first output, a multiple of the vectors' lanes.
    pub first_output: usize,
    /// The gradients, to be added to, (output, input, kernel, kernel): as many whole outputs as there are.
    pub diff: &'a mut [f32],
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

impl WeightDiffs<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn run(self) {
        let outputs = self.diff.len() / (self.inputs * self.kernel * self.kernel);
        assert!(points_of(self.kernel) * self.inputs * self.depth.stride <= self.sums.len());
        assert!(self.first_output + outputs <= self.depth.channels);
        assert!(self.first_output.is_multiple_of(lanes_of(self.depth.simd)));
        with_vector(self.depth.simd, self);
    }

    /// # Safety
    /// As [`Job::run`]; `K` is the kernel's extent, `W` the width of a tile.
    #[inline(always)]
    unsafe fn run_kernel<V: Register, const K: usize, const W: usize>(self) {
        let WeightDiffs {
            sums,
            inputs,
            depth,
            first_output,
            diff,
            scratch,
            ..
        } = self;
        let (lanes, count) = (V::LANES, inputs * K * K);
        let positions = grow(&mut scratch.positions, count * lanes);
        for (block, diff) in diff.chunks_mut(lanes * count).enumerate() {
            // SAFETY: the lengths are asserted by the caller.
            unsafe {
                for input in 0..inputs {
                    let from = sums.as_ptr().add(input * depth.stride + first_output + block * lanes);
                    let mut half = [[V::zero(); K]; W];
                    for (j, (half, column_scale)) in half.iter_mut().zip(scales::<W>()).enumerate() {
                        let mut v = [V::zero(); HEIGHT];
                        for (i, (v, scale)) in v.iter_mut().zip(scales::<HEIGHT>()).enumerate() {
                            let point = i * W + j;
                            *v = V::load(from.add(point * inputs * depth.stride)).scale(scale * column_scale);
                        }
                        *half = collect(v);
                    }
                    for i in 0..K {
                        let v: [V; W] = across(&half, i);
                        let g: [V; K] = collect(v);
                        for (j, g) in g.into_iter().enumerate() {
                            g.store(positions.as_mut_ptr().add((input * K * K + i * K + j) * lanes));
                        }
                    }
                }
                let outputs = diff.len() / count;
                lanes_to_channels::<V, true>(
                    positions.as_ptr(),
                    count,
                    count,
                    count,
                    diff.as_mut_ptr(),
                    count,
                    outputs,
                );
            }
        }
    }
}

impl Job for WeightDiffs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.kernel {
                3 => self.run_kernel::<V, 3, 6>(),
                _ => self.run_kernel::<V, 5, 8>(),
            }
        }
    }
}
