//! Small images with few channels: as many images at a time as a vector has lanes, an image a lane.
//!
//! Channels then need not fill whole vectors: 20 of them cost 20, and not 32. A panel holds as many tiles as the
//! kernels' products have vectors of columns, as (point, channel, tile, image), so that a point's product is
//! `outputs = weights · inputs` with tiles and images as columns, and `inputs' gradient = weightsᵀ · outputs' gradient`.

use super::super::indexed::IndexedTile;
use super::super::lanes::{Job, Vector, channels_to_lanes, lanes_of, lanes_to_channels, with_vector};
use super::super::registers::Register;
use super::super::{Kernel, MAX_DEPTH, Simd};
use super::points::{collect, evaluate, from_inputs, to_inputs};
use super::{Grid, HEIGHT, across, grow, odd_lines, panel_columns};

/// A convolution with a stride of 1 and without groups.
pub struct Batch {
    simd: Simd,
    grid: Grid,
    /// Rows and columns of tiles.
    tiles: [usize; 2],
    inputs: Side,
    outputs: Side,
}

/// The inputs, or the outputs, of a [`Batch`].
struct Side {
    channels: usize,
    /// Rows and columns of an image.
    size: [usize; 2],
    /// Rows and columns that the tiles cover; the image begins `pad` rows and columns within.
    covered: [usize; 2],
    pad: usize,
    /// Where a channel's weights are within those of a point, as [`super::Weights`] leaves them.
    weight_offsets: Vec<usize>,
    /// Floats from a point of a panel to the next.
    point: usize,
}

/// Buffers of one thread; they grow on first use.
#[derive(Default)]
pub struct BatchScratch {
    inputs: SideScratch,
    outputs: SideScratch,
}

/// Those of a side.
#[derive(Default)]
struct SideScratch {
    /// (channel, row, column, image), of all that the tiles cover.
    images: Vec<f32>,
    panel: Vec<f32>,
}

impl Side {
    fn new(simd: Simd, size: [usize; 2], covered: [usize; 2], pad: usize, weight_offsets: Vec<usize>) -> Self {
        let channels = weight_offsets.len();
        Self {
            channels,
            size,
            covered,
            pad,
            weight_offsets,
            point: odd_lines(channels * panel_columns(simd)),
        }
    }

    /// Values of an image.
    fn image_count(&self) -> usize {
        self.channels * self.size[0] * self.size[1]
    }

    /// Where channel `channel` begins among the images in lanes, in vectors.
    fn channel(&self, channel: usize) -> usize {
        channel * self.covered[0] * self.covered[1]
    }

    /// Where the image itself begins in that.
    fn inner(&self, channel: usize) -> usize {
        self.channel(channel) + self.pad * self.covered[1] + self.pad
    }

    fn grow(&self, simd: Simd, points: usize, scratch: &mut SideScratch) {
        grow(&mut scratch.images, self.channel(self.channels) * lanes_of(simd));
        grow(&mut scratch.panel, points * self.point);
    }
}

impl Batch {
    /// From so many channels to so many.
    pub fn new(simd: Simd, grid: Grid, inputs: usize, outputs: usize) -> Self {
        let columns = panel_columns(simd);
        let tiles = [grid.tile_rows(), grid.tile_columns()];
        let of_input = |input| input * columns;
        let of_output = |output| output / columns * grid.points() * inputs * columns + output % columns;
        let out_covered: [usize; 2] = std::array::from_fn(|axis| tiles[axis] * grid.step()[axis]);
        let out_size = [grid.out_height(), grid.out_width()];
        let (in_offsets, out_offsets) = ((0..inputs).map(of_input), (0..outputs).map(of_output));
        Self {
            simd,
            grid,
            tiles,
            inputs: Side::new(
                simd,
                [grid.height, grid.width],
                out_covered.map(|covered| covered + grid.kernel - 1),
                grid.pad,
                in_offsets.collect(),
            ),
            outputs: Side::new(simd, out_size, out_covered, 0, out_offsets.collect()),
        }
    }

    /// Images computed at a time; fewer take as long.
    pub fn images(&self) -> usize {
        lanes_of(self.simd)
    }

    /// Floats of a panel of inputs and one of outputs, which a thread's cache should take.
    pub fn panel_floats(&self) -> usize {
        self.grid.points() * (self.inputs.point + self.outputs.point)
    }

    /// Computes the results (image, output, row, column) of the images `source` (image, input, row, column), plus the
    /// bias, with all panels of [`super::Weights`], not turned.
    ///
    /// # Panics
    /// If a slice is too short, or the processor lacks the set.
    pub fn run(
        &self,
        scratch: &mut BatchScratch,
        panels: &[f32],
        bias: Option<&[f32]>,
        source: &[f32],
        target: &mut [f32],
    ) {
        assert!(bias.is_none_or(|bias| bias.len() == self.outputs.channels));
        let (from, to) = (
            (&self.inputs, &mut scratch.inputs),
            (&self.outputs, &mut scratch.outputs),
        );
        self.run_pass::<false>(from, to, panels, bias, source, target);
    }

    /// Computes the gradients of the images from those of the results, with the same panels.
    ///
    /// # Panics
    /// As [`Batch::run`].
    pub fn run_backward(
        &self,
        scratch: &mut BatchScratch,
        panels: &[f32],
        target_diff: &[f32],
        source_diff: &mut [f32],
    ) {
        let (from, to) = (
            (&self.outputs, &mut scratch.outputs),
            (&self.inputs, &mut scratch.inputs),
        );
        self.run_pass::<true>(from, to, panels, None, target_diff, source_diff);
    }

    fn run_pass<const BACKWARD: bool>(
        &self,
        (from, from_scratch): (&Side, &mut SideScratch),
        (to, to_scratch): (&Side, &mut SideScratch),
        panels: &[f32],
        bias: Option<&[f32]>,
        source: &[f32],
        target: &mut [f32],
    ) {
        let images = target.len() / to.image_count();
        assert!(images * from.image_count() <= source.len());
        let last = |side: &Side| side.weight_offsets.last().copied().unwrap_or(0);
        let point = self.inputs.channels * panel_columns(self.simd);
        assert!((self.grid.points() - 1) * point + last(from) + last(to) < panels.len());
        from.grow(self.simd, self.grid.points(), from_scratch);
        to.grow(self.simd, self.grid.points(), to_scratch);
        // What the tiles cover beyond an image stays zero.
        from_scratch.images.fill(0.0);
        let pass = Pass::<BACKWARD> {
            batch: self,
            from,
            from_scratch,
            to,
            to_scratch,
            panels,
            bias,
            source,
            target,
            images,
        };
        with_vector(self.simd, pass);
    }
}

/// Everything that a pass needs; lengths are checked.
struct Pass<'a, const BACKWARD: bool> {
    batch: &'a Batch,
    from: &'a Side,
    from_scratch: &'a mut SideScratch,
    to: &'a Side,
    to_scratch: &'a mut SideScratch,
    panels: &'a [f32],
    bias: Option<&'a [f32]>,
    source: &'a [f32],
    target: &'a mut [f32],
    images: usize,
}

impl<const BACKWARD: bool> Job for Pass<'_, BACKWARD> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match (self.batch.grid.kernel, BACKWARD) {
                (3, false) => self.run_tiles::<V, 6, FromInputs, 6, 6, Collect, 4, 4>(),
                (3, true) => self.run_tiles::<V, 6, Evaluate, 4, 4, ToInputs, 6, 6>(),
                (_, false) => self.run_tiles::<V, 8, FromInputs, 6, 8, Collect, 2, 4>(),
                (_, true) => self.run_tiles::<V, 8, Evaluate, 2, 4, ToInputs, 6, 8>(),
            }
        }
    }
}

impl<const BACKWARD: bool> Pass<'_, BACKWARD> {
    /// Tiles of `A × B` values become `HEIGHT × W` points by `In`, and those of the products tiles of `C × D` by `Out`.
    ///
    /// # Safety
    /// As [`Job::run`]; these are the sizes of the tiles of `from` and of `to`.
    #[inline(always)]
    unsafe fn run_tiles<
        V: Register,
        const W: usize,
        In: Axis<A, HEIGHT> + Axis<B, W>,
        const A: usize,
        const B: usize,
        Out: Axis<HEIGHT, C> + Axis<W, D>,
        const C: usize,
        const D: usize,
    >(
        mut self,
    ) {
        let [tile_rows, tile_columns] = self.batch.tiles;
        let per_panel = panel_columns(self.batch.simd) / V::LANES;
        for first_image in (0..self.images).step_by(V::LANES) {
            let images = V::LANES.min(self.images - first_image);
            // SAFETY: the buffers are as long as the sides say, the source and the target hold these images, and no tile
            // is beyond the last row or column of tiles.
            unsafe {
                self.gather::<V>(first_image, images);
                if BACKWARD {
                    self.to_scratch.images.fill(0.0);
                }
                for first in (0..tile_rows * tile_columns).step_by(per_panel) {
                    let tiles = per_panel.min(tile_rows * tile_columns - first);
                    for tile in 0..tiles {
                        let place = [(first + tile) / tile_columns, (first + tile) % tile_columns];
                        self.points_of_tile::<V, W, In, A, B>(tile, place);
                    }
                    self.multiply(tiles * V::LANES);
                    for tile in 0..tiles {
                        let place = [(first + tile) / tile_columns, (first + tile) % tile_columns];
                        self.tile_of_points::<V, W, Out, C, D>(tile, place);
                    }
                }
                self.scatter::<V>(first_image, images);
            }
        }
    }

    /// Copies images of the source into lanes.
    ///
    /// # Safety
    /// As [`Self::run_tiles`].
    #[inline(always)]
    unsafe fn gather<V: Register>(&mut self, first_image: usize, images: usize) {
        let (side, count) = (self.from, self.from.size[0] * self.from.size[1]);
        for channel in 0..side.channels {
            // SAFETY: the caller's promise.
            unsafe {
                channels_to_lanes::<V>(
                    self.source
                        .as_ptr()
                        .add(first_image * side.image_count() + channel * count),
                    side.image_count(),
                    images,
                    count,
                    self.from_scratch
                        .images
                        .as_mut_ptr()
                        .add(side.inner(channel) * V::LANES),
                    side.size[1],
                    side.covered[1],
                );
            }
        }
    }

    /// Copies images from lanes into the target.
    ///
    /// # Safety
    /// As [`Self::run_tiles`].
    #[inline(always)]
    unsafe fn scatter<V: Register>(&mut self, first_image: usize, images: usize) {
        let (side, count) = (self.to, self.to.size[0] * self.to.size[1]);
        for channel in 0..side.channels {
            // SAFETY: the caller's promise.
            unsafe {
                lanes_to_channels::<V, false>(
                    self.to_scratch.images.as_ptr().add(side.inner(channel) * V::LANES),
                    side.size[1],
                    side.covered[1],
                    count,
                    self.target
                        .as_mut_ptr()
                        .add(first_image * side.image_count() + channel * count),
                    side.image_count(),
                    images,
                );
            }
        }
    }

    /// All channels of a tile, as number `tile` of the panel.
    ///
    /// # Safety
    /// As [`Self::run_tiles`].
    #[inline(always)]
    unsafe fn points_of_tile<
        V: Register,
        const W: usize,
        In: Axis<A, HEIGHT> + Axis<B, W>,
        const A: usize,
        const B: usize,
    >(
        &mut self,
        tile: usize,
        [row, column]: [usize; 2],
    ) {
        let (side, step, columns) = (self.from, self.batch.grid.step(), panel_columns(self.batch.simd));
        for channel in 0..side.channels {
            let corner = side.channel(channel) + row * step[0] * side.covered[1] + column * step[1];
            // SAFETY: the caller's promise.
            unsafe {
                let at = self.from_scratch.images.as_ptr().add(corner * V::LANES);
                let to = self
                    .from_scratch
                    .panel
                    .as_mut_ptr()
                    .add(channel * columns + tile * V::LANES);
                let mut half = [[V::zero(); W]; A];
                for (i, half) in half.iter_mut().enumerate() {
                    let mut values = [V::zero(); B];
                    for (j, value) in values.iter_mut().enumerate() {
                        *value = V::load(at.add((i * side.covered[1] + j) * V::LANES));
                    }
                    *half = <In as Axis<B, W>>::apply(values);
                }
                for j in 0..W {
                    let column = <In as Axis<A, HEIGHT>>::apply(across(&half, j));
                    for (i, value) in column.into_iter().enumerate() {
                        value.store(to.add((i * W + j) * side.point));
                    }
                }
            }
        }
    }

    /// The way back, from the products, plus the bias; tiles of the backward pass overlap and are added.
    ///
    /// # Safety
    /// As [`Self::run_tiles`].
    #[inline(always)]
    unsafe fn tile_of_points<
        V: Register,
        const W: usize,
        Out: Axis<HEIGHT, C> + Axis<W, D>,
        const C: usize,
        const D: usize,
    >(
        &mut self,
        tile: usize,
        [row, column]: [usize; 2],
    ) {
        let (side, step, columns) = (self.to, self.batch.grid.step(), panel_columns(self.batch.simd));
        for channel in 0..side.channels {
            let corner = side.channel(channel) + row * step[0] * side.covered[1] + column * step[1];
            // SAFETY: the caller's promise.
            unsafe {
                let from = self.to_scratch.panel.as_ptr().add(channel * columns + tile * V::LANES);
                let bias = V::splat(self.bias.map_or(0.0, |bias| bias[channel]));
                let mut half = [[V::zero(); D]; HEIGHT];
                for (i, half) in half.iter_mut().enumerate() {
                    let mut points = [V::zero(); W];
                    for (j, point) in points.iter_mut().enumerate() {
                        *point = V::load(from.add((i * W + j) * side.point));
                    }
                    *half = <Out as Axis<W, D>>::apply(points);
                }
                let to = self.to_scratch.images.as_mut_ptr().add(corner * V::LANES);
                for j in 0..D {
                    let column = <Out as Axis<HEIGHT, C>>::apply(across(&half, j));
                    for (i, value) in column.into_iter().enumerate() {
                        let to = to.add((i * side.covered[1] + j) * V::LANES);
                        let there = if BACKWARD { V::load(to) } else { bias };
                        value.add(there).store(to);
                    }
                }
            }
        }
    }

    /// The products of all points for the first `columns` columns of the panels.
    ///
    /// # Safety
    /// As [`Self::run_tiles`].
    unsafe fn multiply(&mut self, columns: usize) {
        let kernel = Kernel::of(self.batch.simd);
        let (from, to) = (self.from, self.to);
        for point in 0..self.batch.grid.points() {
            let weights = &self.panels[point * self.batch.inputs.channels * kernel.columns..];
            let inputs = &self.from_scratch.panel[point * from.point..];
            let outputs = &mut self.to_scratch.panel[point * to.point..];
            for first in (0..from.channels).step_by(MAX_DEPTH) {
                for row in (0..to.channels).step_by(kernel.rows) {
                    let tile = IndexedTile {
                        depth: MAX_DEPTH.min(from.channels - first),
                        a: weights.as_ptr(),
                        row_offsets: to.weight_offsets[row..].as_ptr(),
                        step_offsets: from.weight_offsets[first..].as_ptr(),
                        b: inputs[first * kernel.columns..].as_ptr(),
                        b_stride: kernel.columns,
                        c: outputs[row * kernel.columns..].as_mut_ptr(),
                        ldc: kernel.columns,
                        rows: kernel.rows.min(to.channels - row),
                        columns,
                        accumulate: first > 0,
                    };
                    // SAFETY: the tile lies within the panel, which holds all points, the steps within the other; the
                    // weights of the last point and channels are there, as asserted.
                    unsafe { (kernel.tile_indexed)(tile) };
                }
            }
        }
    }
}

/// A transform along one axis.
trait Axis<const FROM: usize, const TO: usize> {
    fn apply<V: Vector>(values: [V; FROM]) -> [V; TO];
}

/// Inputs to points, `B`.
struct FromInputs;

/// Points to the gradient of inputs, `Bᵀ`.
struct ToInputs;

/// The gradient of outputs to points, `E`.
struct Evaluate;

/// Points to outputs, `Eᵀ`.
struct Collect;

impl<const T: usize> Axis<T, T> for FromInputs {
    #[inline(always)]
    fn apply<V: Vector>(values: [V; T]) -> [V; T] {
        from_inputs(values)
    }
}

impl<const T: usize> Axis<T, T> for ToInputs {
    #[inline(always)]
    fn apply<V: Vector>(values: [V; T]) -> [V; T] {
        to_inputs(values)
    }
}

impl<const M: usize, const T: usize> Axis<M, T> for Evaluate {
    #[inline(always)]
    fn apply<V: Vector>(values: [V; M]) -> [V; T] {
        evaluate(values)
    }
}

impl<const T: usize, const M: usize> Axis<T, M> for Collect {
    #[inline(always)]
    fn apply<V: Vector>(values: [V; T]) -> [V; M] {
        collect(values)
    }
}
