//! The gradient of a convolution's weights, through the transforms of [`super`].

use rayon::prelude::*;

use super::{Buffers, Unit, Winograd};
use crate::kernels::winograd::{Rows, Scratch, Sums, WeightDiffs};

/// The inputs and diffs that the sums of a point are added up from at a time hold about so many floats: what the
/// last cache takes, all threads together.
const SUMS_FLOATS: usize = 3 << 20;

/// Sums of up to so many floats are each thread's own: going through them for each unit costs less than sharing the
/// transformed units of all threads, even where they do not fit into its cache.
const OWN_SUMS_FLOATS: usize = 640 << 10;

/// What all threads compute the gradient of the weights with.
#[derive(Default)]
pub struct SumBuffers {
    /// Of several units, one after the other.
    inputs: Vec<f32>,
    diffs: Vec<f32>,
}

impl Winograd {
    /// Adds the gradient of the weights (output, channel of a group, kernel, kernel), summed over all images. `sums` is
    /// overwritten.
    pub fn weight_diff(
        &self,
        parts: &mut [Buffers],
        buffers: &mut SumBuffers,
        sums: &mut Vec<f32>,
        source: &[f32],
        target_diff: &[f32],
        weight_diff: &mut [f32],
    ) {
        let count = self.grid.points() * self.point_count();
        sums.resize(count.max(self.weights_count()), 0.0);
        let sums = &mut sums[..count];
        let group_diffs = weight_diff.chunks_exact_mut(weight_diff.len() / self.group);
        for (group, weight_diff) in group_diffs.enumerate() {
            if count <= OWN_SUMS_FLOATS {
                self.sum_by_parts(parts, sums, group, source, target_diff);
            } else {
                self.sum_by_points(parts, buffers, sums, group, source, target_diff);
            }
            // 16 is a multiple of every vector's lanes.
            let band = self.outputs.channels.div_ceil(parts.len()).next_multiple_of(16);
            let output_count = self.inputs.channels * self.grid.kernel * self.grid.kernel;
            let bands = weight_diff
                .par_chunks_mut(band * output_count)
                .zip(&mut *parts)
                .enumerate();
            let sums = &*sums;
            bands.with_max_len(1).for_each(|(i, (diff, part))| {
                WeightDiffs {
                    kernel: self.grid.kernel,
                    sums,
                    inputs: self.inputs.channels,
                    depth: self.outputs,
                    first_output: i * band,
                    diff,
                    scratch: &mut part.scratch,
                }
                .run();
            });
        }
    }

    /// Floats of the sums of one point.
    fn point_count(&self) -> usize {
        self.inputs.channels * self.outputs.stride
    }

    /// The sums of all points, where they are few: each part adds up those of its images in its own cache.
    fn sum_by_parts(&self, parts: &mut [Buffers], sums: &mut [f32], group: usize, source: &[f32], target_diff: &[f32]) {
        let images = (target_diff.len() / self.target_count()).div_ceil(parts.len());
        let source = source.par_chunks(images * self.source_count());
        let diff = target_diff.par_chunks(images * self.target_count());
        let used = diff.len();
        let parts = &mut parts[..used];
        let work = parts.par_iter_mut().zip(source).zip(diff).with_max_len(1);
        work.for_each(|((part, source), diff)| {
            let images = diff.len() / self.target_count();
            part.inputs.resize(self.inputs.block(self.unit_tiles()), 0.0);
            part.products.resize(self.outputs.block(self.unit_tiles()), 0.0);
            part.sums.resize(sums.len(), 0.0);
            for index in 0..self.units(images) {
                let unit = self.unit(index, images);
                self.transform_inputs(&unit, group, source, &mut part.inputs, &mut part.scratch);
                self.transform_diffs(&unit, group, diff, &mut part.products, &mut part.scratch);
                for (point, sums) in part.sums.chunks_exact_mut(self.point_count()).enumerate() {
                    self.add_point(point, self.tiles(&unit), &part.inputs, &part.products, sums, index > 0);
                }
            }
        });
        sums.fill(0.0);
        for part in parts {
            sums.iter_mut().zip(&part.sums).for_each(|(sum, part)| *sum += part);
        }
    }

    /// The sums of all points, where they are many: all threads transform some units, then share out the points.
    fn sum_by_points(
        &self,
        parts: &mut [Buffers],
        buffers: &mut SumBuffers,
        sums: &mut [f32],
        group: usize,
        source: &[f32],
        target_diff: &[f32],
    ) {
        let images = target_diff.len() / self.target_count();
        let units = self.units(images);
        let (input_block, diff_block) = (
            self.inputs.block(self.unit_tiles()),
            self.outputs.block(self.unit_tiles()),
        );
        let together = (SUMS_FLOATS / (input_block + diff_block)).clamp(1, units);
        buffers.inputs.resize(together * input_block, 0.0);
        buffers.diffs.resize(together * diff_block, 0.0);
        for first in (0..units).step_by(together) {
            let now = together.min(units - first);
            let band = now.div_ceil(parts.len());
            let bands = buffers.inputs[..now * input_block]
                .par_chunks_mut(band * input_block)
                .zip(buffers.diffs.par_chunks_mut(band * diff_block))
                .zip(&mut *parts)
                .enumerate();
            bands.with_max_len(1).for_each(|(i, ((inputs, diffs), part))| {
                let blocks = inputs
                    .chunks_exact_mut(input_block)
                    .zip(diffs.chunks_exact_mut(diff_block));
                for (j, (inputs, diffs)) in blocks.enumerate() {
                    let unit = self.unit(first + i * band + j, images);
                    self.transform_inputs(&unit, group, source, inputs, &mut part.scratch);
                    self.transform_diffs(&unit, group, target_diff, diffs, &mut part.scratch);
                }
            });
            let (inputs, diffs) = (&buffers.inputs, &buffers.diffs);
            let points = sums.par_chunks_exact_mut(self.point_count()).enumerate();
            points.for_each(|(point, sums)| {
                let blocks = inputs.chunks_exact(input_block).zip(diffs.chunks_exact(diff_block));
                for (i, (inputs, diffs)) in blocks.take(now).enumerate() {
                    let tiles = self.tiles(&self.unit(first + i, images));
                    self.add_point(point, tiles, inputs, diffs, sums, first + i > 0);
                }
            });
        }
    }

    /// Adds up the sums of one point over the tiles of a unit; the first overwrites what is there.
    fn add_point(&self, point: usize, tiles: usize, inputs: &[f32], diffs: &[f32], sums: &mut [f32], accumulate: bool) {
        Sums {
            tiles,
            input_depth: self.inputs,
            output_depth: self.outputs,
            inputs: &inputs[point * self.inputs.point(tiles)..],
            diffs: &diffs[point * self.outputs.point(tiles)..],
            sums,
            accumulate,
            tile_offsets: &self.tile_offsets,
            channel_offsets: &self.channel_offsets,
        }
        .run();
    }

    fn transform_diffs(&self, unit: &Unit, group: usize, diff: &[f32], block: &mut [f32], scratch: &mut Scratch) {
        for (image, first_tile) in self.images(unit) {
            let start = image * self.target_count() + group * self.outputs.channels * self.target_size();
            Rows {
                grid: self.grid,
                source: &diff[start..][..self.outputs.channels * self.target_size()],
                tile_rows: unit.tile_rows.clone(),
                depth: self.outputs,
                first_tile,
                tiles: self.tiles(unit),
                block,
                scratch,
            }
            .transform_diffs();
        }
    }
}
