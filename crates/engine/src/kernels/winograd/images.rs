//! Images to tiles and back: the transforms of inputs, diffs and results.

use std::ops::Range;

use super::super::lanes::{Job, channels_to_lanes, lanes_to_channels, load_first, with_vector};
use super::super::registers::Register;
use super::points::{collect, evaluate, from_inputs};
use super::{COLUMN_STEP, Depth, Grid, HEIGHT, Scratch, across, grow};

/// Some rows of tiles of one image, and where what is made of them goes.
pub struct Rows<'a> {
    /// How the image is cut.
    pub grid: Grid,
    /// The channels of the image, or of the result's gradient, one after the other.
    pub source: &'a [f32],
    /// The rows of tiles that are transformed.
    pub tile_rows: Range<usize>,
    /// How the transformed tiles lie.
    pub depth: Depth,
    /// Where the first of these tiles stands among those of the block.
    pub first_tile: usize,
    /// The tiles of the block.
    pub tiles: usize,
    /// The transformed tiles: [`Depth::block`] floats.
    pub block: &'a mut [f32],
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

impl Rows<'_> {
    /// Transforms inputs: `B d Bᵀ`.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn transform_inputs(self) {
        self.check(self.grid.height * self.grid.width);
        with_vector(self.depth.simd, Inputs(self));
    }

    /// Transforms the gradient of the result: `E(m) dy E(m)ᵀ`.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn transform_diffs(self) {
        self.check(self.grid.out_height() * self.grid.out_width());
        with_vector(self.depth.simd, Diffs(self));
    }

    fn check(&self, channel_size: usize) {
        assert!(self.depth.channels * channel_size <= self.source.len());
        assert_eq!(self.depth.points, self.grid.points());
        assert!(self.depth.block(self.tiles) <= self.block.len());
        assert!(self.first_tile + self.tile_rows.len() * self.grid.tile_columns() <= self.tiles);
        assert!(self.tile_rows.end <= self.grid.tile_rows());
    }
}

struct Inputs<'a>(Rows<'a>);

struct Diffs<'a>(Rows<'a>);

impl Inputs<'_> {
    /// # Safety
    /// As [`Job::run`]; `W` is the width of a tile.
    #[inline(always)]
    unsafe fn run_width<V: Register, const W: usize>(self) {
        let Rows {
            grid,
            source,
            tile_rows,
            depth,
            first_tile,
            tiles,
            block,
            scratch,
        } = self.0;
        let ([step, _], lanes, covered) = (grid.step(), V::LANES, grid.covered());
        let size = grid.height * grid.width;
        let rows = tile_rows.len() * step + grid.kernel - 1;
        // The source's rows that these tiles see, counted with the padding above.
        let top = tile_rows.start * step;
        let inside = top.max(grid.pad)..(top + rows).min(grid.height + grid.pad);
        let positions = grow(&mut scratch.positions, rows * covered * lanes);
        let transformed = grow(&mut scratch.rows, HEIGHT * covered * lanes);
        let point = depth.point(tiles);
        for channel in (0..depth.channels).step_by(lanes) {
            positions.fill(0.0);
            // SAFETY: the source holds these rows of all its channels; the positions' vectors, `covered` a row, hold the
            // padding, the rows and what the last tiles see beyond. The block's length is asserted by the caller.
            unsafe {
                if !inside.is_empty() {
                    channels_to_lanes::<V>(
                        source
                            .as_ptr()
                            .add(channel * size + (inside.start - grid.pad) * grid.width),
                        size,
                        lanes.min(depth.channels - channel),
                        inside.len() * grid.width,
                        positions
                            .as_mut_ptr()
                            .add(((inside.start - top) * covered + grid.pad) * lanes),
                        grid.width,
                        covered,
                    );
                }
                for row in 0..tile_rows.len() {
                    for x in 0..covered {
                        let at = positions.as_ptr().add((row * step * covered + x) * lanes);
                        let mut d = [V::zero(); HEIGHT];
                        for (i, d) in d.iter_mut().enumerate() {
                            *d = V::load(at.add(i * covered * lanes));
                        }
                        for (i, v) in from_inputs(d).into_iter().enumerate() {
                            v.store(transformed.as_mut_ptr().add((i * covered + x) * lanes));
                        }
                    }
                    let tile = first_tile + row * grid.tile_columns();
                    for i in 0..HEIGHT {
                        for column in 0..grid.tile_columns() {
                            let at = transformed.as_ptr().add((i * covered + column * COLUMN_STEP) * lanes);
                            let mut d = [V::zero(); W];
                            for (j, d) in d.iter_mut().enumerate() {
                                *d = V::load(at.add(j * lanes));
                            }
                            let to = block.as_mut_ptr().add((tile + column) * depth.stride + channel);
                            for (j, v) in from_inputs(d).into_iter().enumerate() {
                                v.store(to.add((i * W + j) * point));
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Job for Inputs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.0.grid.kernel {
                3 => self.run_width::<V, 6>(),
                _ => self.run_width::<V, 8>(),
            }
        }
    }
}

impl Diffs<'_> {
    /// # Safety
    /// As [`Job::run`]; `M` is how many rows of outputs a tile has, `W` its width.
    #[inline(always)]
    unsafe fn run_tiles<V: Register, const M: usize, const W: usize>(self) {
        let Rows {
            grid,
            source,
            tile_rows,
            depth,
            first_tile,
            tiles,
            block,
            scratch,
        } = self.0;
        let (lanes, columns) = (V::LANES, grid.tile_columns());
        let (size, covered) = (grid.out_height() * grid.out_width(), columns * COLUMN_STEP);
        let inside = grid.out_rows(&tile_rows);
        let positions = grow(&mut scratch.positions, tile_rows.len() * M * covered * lanes);
        let point = depth.point(tiles);
        for channel in (0..depth.channels).step_by(lanes) {
            positions.fill(0.0);
            // SAFETY: the source holds these rows of all its channels; the positions' vectors, `covered` a row, hold them
            // and what of the last tiles lies beyond. The block's length is asserted by the caller.
            unsafe {
                channels_to_lanes::<V>(
                    source.as_ptr().add(channel * size + inside.start * grid.out_width()),
                    size,
                    lanes.min(depth.channels - channel),
                    inside.len() * grid.out_width(),
                    positions.as_mut_ptr(),
                    grid.out_width(),
                    covered,
                );
                for (row, column) in (0..tile_rows.len()).flat_map(|row| (0..columns).map(move |column| (row, column)))
                {
                    let at = positions
                        .as_ptr()
                        .add((row * M * covered + column * COLUMN_STEP) * lanes);
                    let mut half = [[V::zero(); HEIGHT]; COLUMN_STEP];
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut dy = [V::zero(); M];
                        for (i, dy) in dy.iter_mut().enumerate() {
                            *dy = V::load(at.add((i * covered + j) * lanes));
                        }
                        *half = evaluate(dy);
                    }
                    let to = block
                        .as_mut_ptr()
                        .add((first_tile + row * columns + column) * depth.stride + channel);
                    for i in 0..HEIGHT {
                        let dy: [V; COLUMN_STEP] = across(&half, i);
                        let v: [V; W] = evaluate(dy);
                        for (j, v) in v.into_iter().enumerate() {
                            v.store(to.add((i * W + j) * point));
                        }
                    }
                }
            }
        }
    }
}

impl Job for Diffs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.0.grid.kernel {
                3 => self.run_tiles::<V, 4, 6>(),
                _ => self.run_tiles::<V, 2, 8>(),
            }
        }
    }
}

/// The result of some rows of tiles of one image, from its products: `E(m)ᵀ M E(m)`, plus a bias.
pub struct Outputs<'a> {
    /// How the image is cut.
    pub grid: Grid,
    /// The products: [`Depth::block`] floats.
    pub block: &'a [f32],
    /// The tiles of the products.
    pub tiles: usize,
    /// Where the first of these tiles stands among them.
    pub first_tile: usize,
    /// How they lie.
    pub depth: Depth,
    /// The rows of tiles that are made.
    pub tile_rows: Range<usize>,
    /// A number to be added for each channel.
    pub bias: Option<&'a [f32]>,
    /// The image's channels, one after the other.
    pub target: &'a mut [f32],
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

impl Outputs<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn run(self) {
        let Self { grid, depth, .. } = self;
        assert!(depth.channels * grid.out_height() * grid.out_width() <= self.target.len());
        assert_eq!(depth.points, grid.points());
        assert!(depth.block(self.tiles) <= self.block.len());
        assert!(self.bias.is_none_or(|bias| bias.len() == depth.channels));
        assert!(self.first_tile + self.tile_rows.len() * grid.tile_columns() <= self.tiles);
        assert!(self.tile_rows.end <= grid.tile_rows());
        with_vector(self.depth.simd, self);
    }

    /// # Safety
    /// As [`Job::run`]; `M` is how many rows of outputs a tile has, `W` its width.
    #[inline(always)]
    unsafe fn run_tiles<V: Register, const M: usize, const W: usize>(self) {
        let Outputs {
            grid,
            block,
            tiles,
            first_tile,
            depth,
            tile_rows,
            bias,
            target,
            scratch,
        } = self;
        let (lanes, columns, width) = (V::LANES, grid.tile_columns(), grid.out_width());
        let size = grid.out_height() * width;
        let rows = grid.out_rows(&tile_rows);
        let positions = grow(&mut scratch.positions, rows.len() * width * lanes);
        let point = depth.point(tiles);
        for channel in (0..depth.channels).step_by(lanes) {
            let channels = lanes.min(depth.channels - channel);
            // SAFETY: the block's and the target's lengths are asserted by the caller, and what of a tile lies outside of
            // the result is not written.
            unsafe {
                let bias = match bias {
                    Some(bias) => load_first(bias.as_ptr().add(channel), channels),
                    None => V::zero(),
                };
                for (row, column) in (0..tile_rows.len()).flat_map(|row| (0..columns).map(move |column| (row, column)))
                {
                    let from = block
                        .as_ptr()
                        .add((first_tile + row * columns + column) * depth.stride + channel);
                    let mut half = [[V::zero(); M]; W];
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut v = [V::zero(); HEIGHT];
                        for (i, v) in v.iter_mut().enumerate() {
                            *v = V::load(from.add((i * W + j) * point));
                        }
                        *half = collect(v);
                    }
                    for i in 0..M.min(rows.len() - row * M) {
                        let v: [V; W] = across(&half, i);
                        let y: [V; COLUMN_STEP] = collect(v);
                        let first = column * COLUMN_STEP;
                        let to = positions.as_mut_ptr().add(((row * M + i) * width + first) * lanes);
                        for (j, y) in y.into_iter().enumerate().take(width - first) {
                            y.add(bias).store(to.add(j * lanes));
                        }
                    }
                }
                lanes_to_channels::<V, false>(
                    positions.as_ptr(),
                    width,
                    width,
                    rows.len() * width,
                    target.as_mut_ptr().add(channel * size + rows.start * width),
                    size,
                    channels,
                );
            }
        }
    }
}

impl Job for Outputs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.grid.kernel {
                3 => self.run_tiles::<V, 4, 6>(),
                _ => self.run_tiles::<V, 2, 8>(),
            }
        }
    }
}
