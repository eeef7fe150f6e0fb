//! The products between Winograd's transforms: one for each point, read and written where the transforms left them.

use super::super::indexed::IndexedTile;
use super::super::{Kernel, MAX_DEPTH};
use super::Depth;

/// For each point, the tiles' inputs times the weights: `products (tiles, columns) = inputs (tiles, rows) · weights`.
pub struct Products<'a> {
    /// The tiles.
    pub tiles: usize,
    /// How the inputs lie: the rows of the weights.
    pub input_depth: Depth,
    /// How the products lie: the columns of the weights.
    pub output_depth: Depth,
    /// [`Depth::block`] floats.
    pub inputs: &'a [f32],
    /// All panels of [`Weights`](super::Weights), one after the other.
    pub panels: &'a [f32],
    /// [`Depth::block`] floats.
    pub products: &'a mut [f32],
    /// Where each tile begins, at least as many as there are tiles: `0, input_depth.stride, …`.
    pub tile_offsets: &'a [usize],
    /// Where each channel of a tile is: `0, 1, …`.
    pub channel_offsets: &'a [usize],
}

impl Products<'_> {
    /// Computes them.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn run(self) {
        let kernel = Kernel::of(self.input_depth.simd);
        let (rows, columns) = (self.input_depth.channels, self.output_depth.channels);
        let panel = self.input_depth.points * rows * kernel.columns;
        assert!(self.input_depth.block(self.tiles) <= self.inputs.len());
        assert!(self.output_depth.block(self.tiles) <= self.products.len());
        assert!(panel * columns.div_ceil(kernel.columns) <= self.panels.len());
        check_offsets(self.tile_offsets, self.tiles, self.input_depth.stride);
        check_offsets(self.channel_offsets, rows, 1);
        for point in 0..self.input_depth.points {
            let inputs = &self.inputs[point * self.input_depth.point(self.tiles)..];
            let products = &mut self.products[point * self.output_depth.point(self.tiles)..];
            for (column, panel) in (0..columns)
                .step_by(kernel.columns)
                .zip(self.panels.chunks_exact(panel))
            {
                let panel = &panel[point * rows * kernel.columns..];
                for first in (0..rows).step_by(MAX_DEPTH) {
                    for tile in (0..self.tiles).step_by(kernel.rows) {
                        let work = IndexedTile {
                            depth: MAX_DEPTH.min(rows - first),
                            a: inputs.as_ptr(),
                            row_offsets: self.tile_offsets[tile..].as_ptr(),
                            step_offsets: self.channel_offsets[first..].as_ptr(),
                            b: panel[first * kernel.columns..].as_ptr(),
                            b_stride: kernel.columns,
                            c: products[tile * self.output_depth.stride + column..].as_mut_ptr(),
                            ldc: self.output_depth.stride,
                            rows: kernel.rows.min(self.tiles - tile),
                            columns: kernel.columns.min(columns - column),
                            accumulate: first > 0,
                        };
                        // SAFETY: the tile lies within the products, its rows and steps within the inputs and the panel,
                        // as asserted, and the processor has the depth's set.
                        unsafe { (kernel.tile_indexed)(work) };
                    }
                }
            }
        }
    }
}

/// Fails unless the first `count` offsets are the multiples of `stride`, up to the last.
fn check_offsets(offsets: &[usize], count: usize, stride: usize) {
    assert!(count <= offsets.len());
    assert!(
        offsets[..count]
            .iter()
            .enumerate()
            .all(|(i, offset)| *offset == i * stride)
    );
}

/// The sums of one point: `sums (inputs, outputs) = inputsᵀ · diffs` over the tiles, or `+=`.
pub struct Sums<'a> {
    /// The tiles.
    pub tiles: usize,
    /// How the inputs lie.
    pub input_depth: Depth,
    /// How the diffs lie, and the sums.
    pub output_depth: Depth,
    /// The inputs of this point.
    pub inputs: &'a [f32],
    /// The diffs of this point.
    pub diffs: &'a [f32],
    /// (input, output), the inputs `output_depth.stride` floats apart.
    pub sums: &'a mut [f32],
    /// Whether they are added to what is there.
    pub accumulate: bool,
    /// Where each tile begins, at least as many as there are tiles: `0, input_depth.stride, …`.
    pub tile_offsets: &'a [usize],
    /// Where each channel of a tile is: `0, 1, …`.
    pub channel_offsets: &'a [usize],
}

impl Sums<'_> {
    /// Computes them.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn run(self) {
        let kernel = Kernel::of(self.input_depth.simd);
        let (inputs, outputs) = (self.input_depth.channels, self.output_depth.channels);
        let stride = self.output_depth.stride;
        assert!(self.tiles * self.input_depth.stride <= self.inputs.len());
        assert!(self.tiles * stride <= self.diffs.len());
        assert!(inputs * stride <= self.sums.len());
        check_offsets(self.tile_offsets, self.tiles, self.input_depth.stride);
        check_offsets(self.channel_offsets, inputs, 1);
        for column in (0..outputs).step_by(kernel.columns) {
            for first in (0..self.tiles).step_by(MAX_DEPTH) {
                for input in (0..inputs).step_by(kernel.rows) {
                    let work = IndexedTile {
                        depth: MAX_DEPTH.min(self.tiles - first),
                        a: self.inputs.as_ptr(),
                        row_offsets: self.channel_offsets[input..].as_ptr(),
                        step_offsets: self.tile_offsets[first..].as_ptr(),
                        b: self.diffs[first * stride + column..].as_ptr(),
                        b_stride: stride,
                        c: self.sums[input * stride + column..].as_mut_ptr(),
                        ldc: stride,
                        rows: kernel.rows.min(inputs - input),
                        columns: kernel.columns.min(outputs - column),
                        accumulate: self.accumulate || first > 0,
                    };
                    // SAFETY: the tile lies within the sums, its rows and steps within the inputs and the diffs, whose
                    // channels fill whole vectors, as asserted, and the processor has the depth's set.
                    unsafe { (kernel.tile_indexed)(work) };
                }
            }
        }
    }
}
