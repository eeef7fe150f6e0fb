//! A pass of [`super`] over images, forward or to the gradient of the bottom.

use rayon::prelude::*;

use super::{Buffers, Unit, Winograd};
use crate::kernels::winograd::{Outputs, Products, Rows, Scratch, Weights, panel_columns};

impl Winograd {
    /// Transforms the weights; `turned` as the convolution needs them that takes the target's gradient to the source's.
    pub fn pack(&self, weight: &[f32], turned: bool, parts: &mut [Buffers], packed: &mut Vec<f32>) {
        packed.resize(self.weights_count(), 0.0);
        let kernel = self.grid.kernel;
        let (rows, columns) = (self.inputs.channels, self.outputs.channels);
        let panel_count = self.grid.points() * rows * panel_columns(self.inputs.simd);
        let panels = columns.div_ceil(panel_columns(self.inputs.simd));
        let band = (self.group * panels).div_ceil(parts.len());
        let bands = packed.par_chunks_mut(band * panel_count).zip(parts).enumerate();
        bands.with_max_len(1).for_each(|(i, (band_panels, part))| {
            for (j, panel) in band_panels.chunks_exact_mut(panel_count).enumerate() {
                let index = i * band + j;
                let group_count = rows * columns * kernel * kernel;
                Weights {
                    simd: self.inputs.simd,
                    kernel,
                    weights: &weight[index / panels * group_count..][..group_count],
                    rows,
                    columns,
                    turned,
                    first_column: index % panels * panel_columns(self.inputs.simd),
                    panel,
                    scratch: &mut part.scratch,
                }
                .run();
            }
        });
    }

    /// Computes the targets of some images, plus the bias; all parts but the last have so many images.
    pub fn run(
        &self,
        images_per_part: usize,
        buffers: &mut Buffers,
        packed: &[f32],
        bias: Option<&[f32]>,
        source: &[f32],
        target: &mut [f32],
    ) {
        if let Some(batch) = self.by_images(images_per_part) {
            return batch.run(&mut buffers.batch, packed, bias, source, target);
        }
        let images = target.len() / self.target_count();
        let Buffers {
            scratch,
            inputs,
            products,
            ..
        } = buffers;
        inputs.resize(self.inputs.block(self.unit_tiles()), 0.0);
        products.resize(self.outputs.block(self.unit_tiles()), 0.0);
        for group in 0..self.group {
            let group_panels = packed.len() / self.group;
            let panels = &packed[group * group_panels..][..group_panels];
            let bias = bias.map(|bias| &bias[group * self.outputs.channels..][..self.outputs.channels]);
            for index in 0..self.units(images) {
                let unit = self.unit(index, images);
                let tiles = self.tiles(&unit);
                self.transform_inputs(&unit, group, source, inputs, scratch);
                Products {
                    tiles,
                    input_depth: self.inputs,
                    output_depth: self.outputs,
                    inputs,
                    panels,
                    products,
                    tile_offsets: &self.tile_offsets,
                    channel_offsets: &self.channel_offsets,
                }
                .run();
                for (image, first_tile) in self.images(&unit) {
                    let start = image * self.target_count() + group * self.outputs.channels * self.target_size();
                    Outputs {
                        grid: self.grid,
                        block: products,
                        tiles,
                        first_tile,
                        depth: self.outputs,
                        tile_rows: unit.tile_rows.clone(),
                        bias,
                        target: &mut target[start..][..self.outputs.channels * self.target_size()],
                        scratch,
                    }
                    .run();
                }
            }
        }
    }

    pub(super) fn transform_inputs(
        &self,
        unit: &Unit,
        group: usize,
        source: &[f32],
        block: &mut [f32],
        scratch: &mut Scratch,
    ) {
        for (image, first_tile) in self.images(unit) {
            let start = image * self.source_count() + group * self.inputs.channels * self.source_size();
            Rows {
                grid: self.grid,
                source: &source[start..][..self.inputs.channels * self.source_size()],
                tile_rows: unit.tile_rows.clone(),
                depth: self.inputs,
                first_tile,
                tiles: self.tiles(unit),
                block,
                scratch,
            }
            .transform_inputs();
        }
    }
}
