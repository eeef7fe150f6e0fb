//! Convolutions with 3×3 and 5×5 kernels through a third of the products and fewer (see [`crate::kernels::winograd`]).

mod pass;
mod weights;

pub use weights::SumBuffers;

use std::ops::Range;

use crate::kernels::{
    Simd,
    winograd::{Batch, BatchScratch, Depth, Grid, Scratch, panel_columns},
};

/// A unit's inputs and products hold about this many floats: what a thread's cache takes.
const UNIT_FLOATS: usize = 192 << 10;

/// But a unit has so many tiles where there are so many, for which the weights are read once.
const UNIT_TILES: usize = 64;

/// What of the plain way's cost this way may have by count: the plain way's loops are longer and run nearer to the peak.
const MAX_COST_PERCENT: usize = 62;

/// The same for the weights' gradient.
const MAX_WEIGHTS_COST_PERCENT: usize = 70;

/// A panel of a [`Batch`] holds up to so many floats, which a thread's cache takes.
const BATCH_FLOATS: usize = 176 << 10;

/// With fewer images, all threads had better share each of them, and transforming the weights does not pay.
const MIN_IMAGES: usize = 4;

/// One direction of a convolution: `target[o] = Σ_c weight[o, c] ⋆ source[c]`, in groups, with a stride of 1.
pub struct Winograd {
    grid: Grid,
    group: usize,
    /// Of a group.
    inputs: Depth,
    outputs: Depth,
    /// What is computed at a time: so many images, or so many rows of tiles of one image.
    unit_images: usize,
    unit_rows: usize,
    /// Where each tile of a unit begins in its inputs.
    tile_offsets: Vec<usize>,
    channel_offsets: Vec<usize>,
    /// Whether channels in lanes are quicker than the plain way: for a pass, and for the weights' gradient.
    by_channels: bool,
    for_weights: bool,
    /// With images in lanes, where that is quicker still.
    batch: Option<Batch>,
}

/// What one part of the images is computed with.
#[derive(Default)]
pub struct Buffers {
    scratch: Scratch,
    pub batch: BatchScratch,
    inputs: Vec<f32>,
    products: Vec<f32>,
    /// What the weights' gradient is made of, where it is small.
    sums: Vec<f32>,
}

/// Some images, or some rows of tiles of one image.
struct Unit {
    images: Range<usize>,
    tile_rows: Range<usize>,
}

/// What a convolution costs, in multiply-adds of whole vectors with one lane each.
struct Cost {
    direct: usize,
    by_channels: usize,
    by_images: usize,
}

impl Winograd {
    /// `None` where the plain way is quicker.
    pub fn new(simd: Simd, grid: Grid, channels: usize, outputs: usize, group: usize, images: usize) -> Option<Self> {
        let [inputs, outputs] = [channels, outputs].map(|channels| Depth::new(simd, grid.points(), channels / group));
        let cost = Cost::of(grid, inputs, outputs, images);
        let pays = |winograd: usize, percent: usize| winograd * 100 <= cost.direct * percent;
        let batch = (group == 1 && pays(cost.by_images, MAX_COST_PERCENT) && cost.by_images < cost.by_channels)
            .then(|| Batch::new(simd, grid, inputs.channels, outputs.channels))
            .filter(|batch| batch.panel_floats() <= BATCH_FLOATS);
        let by_channels = pays(cost.by_channels, MAX_COST_PERCENT);
        if images < MIN_IMAGES || !by_channels && batch.is_none() {
            return None;
        }
        let (rows, columns) = (grid.tile_rows(), grid.tile_columns());
        let floats = grid.points() * (inputs.stride + outputs.stride);
        let tiles = (UNIT_FLOATS / floats).clamp(UNIT_TILES, 8 * UNIT_TILES);
        let unit_images = (tiles / (rows * columns)).clamp(1, images.max(1));
        let unit_rows = if unit_images > 1 {
            rows
        } else {
            tiles.div_ceil(columns).min(rows)
        };
        let tiles = unit_images * unit_rows * columns;
        Some(Self {
            grid,
            group,
            inputs,
            outputs,
            unit_images,
            unit_rows,
            tile_offsets: (0..tiles).map(|tile| tile * inputs.stride).collect(),
            channel_offsets: (0..inputs.channels).collect(),
            by_channels,
            for_weights: pays(cost.by_channels, MAX_WEIGHTS_COST_PERCENT),
            batch,
        })
    }

    /// With images in lanes, where a part of so many fills most of them: also for the gradient of the source, with the
    /// weights packed as for the way forward.
    pub fn by_images(&self, images: usize) -> Option<&Batch> {
        let fits = |batch: &&Batch| 4 * images >= 3 * images.next_multiple_of(batch.images());
        self.batch.as_ref().filter(fits)
    }

    /// Whether parts of so many images are quicker than the plain way.
    pub fn pays(&self, images: usize) -> bool {
        self.by_channels || self.by_images(images).is_some()
    }

    /// Whether the weights' gradient is quicker than the plain way.
    pub fn pays_for_weights(&self) -> bool {
        self.for_weights
    }

    /// Values in a channel of the source, and of the target.
    fn source_size(&self) -> usize {
        self.grid.height * self.grid.width
    }

    fn target_size(&self) -> usize {
        self.grid.out_height() * self.grid.out_width()
    }

    /// Values in an image of the source, and of the target.
    fn source_count(&self) -> usize {
        self.group * self.inputs.channels * self.source_size()
    }

    fn target_count(&self) -> usize {
        self.group * self.outputs.channels * self.target_size()
    }

    /// The most tiles of a unit.
    fn unit_tiles(&self) -> usize {
        self.tile_offsets.len()
    }

    /// How many units so many images make.
    fn units(&self, images: usize) -> usize {
        images.div_ceil(self.unit_images) * self.grid.tile_rows().div_ceil(self.unit_rows)
    }

    fn unit(&self, index: usize, images: usize) -> Unit {
        let rows = self.grid.tile_rows();
        let per_image = rows.div_ceil(self.unit_rows);
        let (image, row) = (index / per_image * self.unit_images, index % per_image * self.unit_rows);
        Unit {
            images: image..(image + self.unit_images).min(images),
            tile_rows: row..(row + self.unit_rows).min(rows),
        }
    }

    /// The tiles of a unit.
    fn tiles(&self, unit: &Unit) -> usize {
        unit.images.len() * unit.tile_rows.len() * self.grid.tile_columns()
    }

    /// The images of a unit, each with the number of its first tile.
    fn images<'u>(&self, unit: &'u Unit) -> impl Iterator<Item = (usize, usize)> + use<'u> {
        let tiles = unit.tile_rows.len() * self.grid.tile_columns();
        unit.images
            .clone()
            .enumerate()
            .map(move |(i, image)| (image, i * tiles))
    }

    /// Floats of the transformed weights.
    fn weights_count(&self) -> usize {
        let panels = self.outputs.channels.div_ceil(panel_columns(self.inputs.simd));
        self.group * panels * self.grid.points() * self.inputs.channels * panel_columns(self.inputs.simd)
    }
}

impl Cost {
    /// Of a group. The transforms take so many instructions for each vector of a tile's channels, or of the weights'.
    fn of(grid: Grid, inputs: Depth, outputs: Depth, images: usize) -> Self {
        let tiles = images * grid.tile_rows() * grid.tile_columns();
        let positions = images * grid.out_height() * grid.out_width();
        let taps = grid.kernel * grid.kernel;
        let (inputs, outputs) = (inputs.channels, outputs.channels);
        let (input_lanes, output_lanes) = (inputs.next_multiple_of(16), outputs.next_multiple_of(16));
        let [of_input, of_output, of_weight] = if grid.kernel == 3 {
            [320, 160, 300]
        } else {
            [480, 200, 400]
        };
        let cost = |padded_inputs, padded_outputs| {
            let products = grid.points() * inputs * padded_outputs;
            let of_tile = products + of_input * padded_inputs + of_output * padded_outputs;
            tiles * of_tile + of_weight * inputs * outputs
        };
        Self {
            direct: positions * taps * inputs * outputs,
            by_channels: cost(input_lanes, output_lanes),
            by_images: cost(inputs, outputs),
        }
    }
}
