//! The transforms of Winograd's minimal filtering, with channels in the lanes of vectors, and the products between them.
//!
//! A tile of 6 × 6 inputs gives m × m outputs of a k × k kernel, m = 7 − k: F(4×4, 3×3) and F(2×2, 5×5) of Lavin and
//! Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. In one dimension, the product of two polynomials is
//! interpolated from its values at 0, ±√½, ±√2 and ∞, so with E(n) g the values of n coefficients at these points and
//! S a diagonal: y = E(m)ᵀ [(S E(k) g) ⊙ (B d)]. The gradients are the transposes of that:
//! dg = (S E(k))ᵀ [(B d) ⊙ (E(m) dy)]. In two dimensions each is applied along both axes. 36 products for each pair of
//! channels replace m²k²: 144 where k = 3, 100 where k = 5.
//!
//! Of two points of a tile, `point = 6 · row + column` is what all buffers are divided by.

use std::f32::consts::{FRAC_1_SQRT_2, SQRT_2};
use std::ops::Range;

use super::lanes::{Job, Vector, channels_to_lanes, lanes_of, lanes_to_channels, with_vector};
use super::{Kernel, Simd};

/// The environment variable that turns this off, see [`from_env`].
pub const VARIABLE: &str = "SPARKNET_WINOGRAD";

/// Whether `SPARKNET_WINOGRAD` (`on` or `off`) lets convolutions be computed this way; yes where it is not set.
///
/// # Errors
/// A sentence for the user when the variable holds anything else.
pub fn from_env() -> Result<bool, String> {
    match std::env::var_os(VARIABLE).map(|value| value.to_string_lossy().into_owned()) {
        None => Ok(true),
        Some(value) if value == "on" => Ok(true),
        Some(value) if value == "off" => Ok(false),
        Some(value) => Err(format!("{VARIABLE} is \"{value}\"; set it to on or off, or unset it")),
    }
}

/// Inputs of a tile along an axis.
pub const TILE: usize = 6;

/// Pairs of points at which a tile is evaluated.
pub const POINTS: usize = TILE * TILE;

/// The powers of the inner and of the outer points. Their squares are each other's inverses: then no number of the
/// transforms is above 4, where the usual points 1 and 2 have 16, and half of their rounding is left (bench/NOTES.md).
const INNER: [f32; 5] = [1.0, FRAC_1_SQRT_2, 0.5, 0.5 * FRAC_1_SQRT_2, 0.25];
const OUTER: [f32; 5] = [1.0, SQRT_2, 2.0, 2.0 * SQRT_2, 4.0];

/// The inverse of the product of a point's distances to all others, for all points.
const SCALE: [f32; TILE] = [1.0, -2.0 / 3.0, -2.0 / 3.0, 1.0 / 6.0, 1.0 / 6.0, 1.0];

/// How an image is cut into tiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Grid {
    /// The kernel's extent, 3 or 5.
    pub kernel: usize,
    /// Zeros around the source, less than the kernel's extent.
    pub pad: usize,
    /// Rows of the source.
    pub height: usize,
    /// Columns of the source.
    pub width: usize,
}

impl Grid {
    /// Outputs of a tile along an axis.
    pub fn step(&self) -> usize {
        TILE + 1 - self.kernel
    }

    /// Rows of the result.
    pub fn out_height(&self) -> usize {
        self.height + 2 * self.pad + 1 - self.kernel
    }

    /// Columns of the result.
    pub fn out_width(&self) -> usize {
        self.width + 2 * self.pad + 1 - self.kernel
    }

    /// Rows of tiles.
    pub fn tile_rows(&self) -> usize {
        self.out_height().div_ceil(self.step())
    }

    /// Tiles in a row.
    pub fn tile_columns(&self) -> usize {
        self.out_width().div_ceil(self.step())
    }

    /// Columns that the tiles of a row cover, in the source with its padding.
    fn covered(&self) -> usize {
        self.tile_columns() * self.step() + self.kernel - 1
    }

    /// Where the result's rows of some rows of tiles are.
    fn out_rows(&self, tile_rows: &Range<usize>) -> Range<usize> {
        tile_rows.start * self.step()..(tile_rows.end * self.step()).min(self.out_height())
    }
}

/// How many vectors the channels of a buffer take, and how many floats lie from one tile to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// The set whose vectors these are.
    pub simd: Simd,
    /// Channels.
    pub channels: usize,
    /// Floats from a tile to the next: the channels rounded up to whole vectors, and one vector more where that would
    /// put many tiles at the same place of a cache.
    pub stride: usize,
}

impl Depth {
    /// So many channels.
    pub fn new(simd: Simd, channels: usize) -> Self {
        let lanes = lanes_of(simd);
        let stride = channels.next_multiple_of(lanes);
        let stride = if stride.is_multiple_of(64) {
            stride + lanes
        } else {
            stride
        };
        Depth { simd, channels, stride }
    }

    /// Floats of all points of `tiles` tiles.
    pub fn block(self, tiles: usize) -> usize {
        POINTS * self.point(tiles)
    }

    /// Floats from one point to the next: an odd number of lines of cache, for the same reason.
    pub fn point(self, tiles: usize) -> usize {
        16 * ((self.stride * tiles).div_ceil(16) | 1)
    }
}

/// Columns of a panel of [`Weights`].
pub fn panel_columns(simd: Simd) -> usize {
    Kernel::of(simd).columns
}

/// `B d`: from the inputs to the values at the points. Row p of `B` holds the coefficients of the product of all
/// `x − q` with q a finite point other than p.
#[inline(always)]
fn from_inputs<V: Vector>(d: [V; TILE]) -> [V; TILE] {
    let (even_inner, odd_inner) = (d[2].mul_add(-OUTER[2], d[4]), d[1].mul_add(-OUTER[2], d[3]));
    let (even_outer, odd_outer) = (d[2].mul_add(-INNER[2], d[4]), d[1].mul_add(-INNER[2], d[3]));
    const SQUARES: f32 = INNER[2] + OUTER[2];
    [
        d[2].mul_add(-SQUARES, d[0].add(d[4])),
        odd_inner.mul_add(INNER[1], even_inner),
        odd_inner.mul_add(-INNER[1], even_inner),
        odd_outer.mul_add(OUTER[1], even_outer),
        odd_outer.mul_add(-OUTER[1], even_outer),
        d[3].mul_add(-SQUARES, d[1].add(d[5])),
    ]
}

/// `E(N) x`: the values of a polynomial of `N` coefficients at the points.
#[inline(always)]
fn evaluate<V: Vector, const N: usize>(x: [V; N]) -> [V; TILE] {
    let (mut even_inner, mut odd_inner) = (x[0], x[1].scale(INNER[1]));
    let (mut even_outer, mut odd_outer) = (x[0], x[1].scale(OUTER[1]));
    for (i, x) in x.iter().enumerate().skip(2) {
        if i % 2 == 0 {
            even_inner = x.mul_add(INNER[i], even_inner);
            even_outer = x.mul_add(OUTER[i], even_outer);
        } else {
            odd_inner = x.mul_add(INNER[i], odd_inner);
            odd_outer = x.mul_add(OUTER[i], odd_outer);
        }
    }
    [
        x[0],
        even_inner.add(odd_inner),
        even_inner.sub(odd_inner),
        even_outer.add(odd_outer),
        even_outer.sub(odd_outer),
        x[N - 1],
    ]
}

/// `E(N)ᵀ v`.
#[inline(always)]
fn collect<V: Vector, const N: usize>(v: [V; TILE]) -> [V; N] {
    let (even_inner, odd_inner) = (v[1].add(v[2]), v[1].sub(v[2]));
    let (even_outer, odd_outer) = (v[3].add(v[4]), v[3].sub(v[4]));
    let mut x = [v[0].add(even_inner).add(even_outer); N];
    for (i, x) in x.iter_mut().enumerate().skip(1) {
        *x = if i % 2 == 0 {
            even_outer.mul_add(OUTER[i], even_inner.scale(INNER[i]))
        } else {
            odd_outer.mul_add(OUTER[i], odd_inner.scale(INNER[i]))
        };
    }
    x[N - 1] = x[N - 1].add(v[5]);
    x
}

/// Number `i` of each.
#[inline(always)]
fn across<V: Vector, const N: usize, const OF: usize>(half: &[[V; OF]; N], i: usize) -> [V; N] {
    std::array::from_fn(|j| half[j][i])
}

/// Buffers of the transforms, of one thread; they grow on first use.
#[derive(Default)]
pub struct Scratch {
    /// Channels in lanes, as they lie in an image or in the weights.
    positions: Vec<f32>,
    /// Some rows of that, transformed along the columns.
    rows: Vec<f32>,
}

/// The first `len` floats of a buffer that grows to hold them.
fn grow(buffer: &mut Vec<f32>, len: usize) -> &mut [f32] {
    if buffer.len() < len {
        buffer.resize(len, 0.0);
    }
    &mut buffer[..len]
}

/// The inputs of some rows of tiles of one image, transformed: `B d Bᵀ`.
pub struct Inputs<'a> {
    /// How the image is cut.
    pub grid: Grid,
    /// The image's channels, one after the other.
    pub source: &'a [f32],
    /// The rows of tiles that are transformed.
    pub tile_rows: Range<usize>,
    /// How the result lies.
    pub depth: Depth,
    /// Where the first of these tiles stands among those of the result.
    pub first_tile: usize,
    /// The tiles of the result.
    pub tiles: usize,
    /// The result: [`Depth::block`] floats.
    pub block: &'a mut [f32],
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

impl Inputs<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn run(self) {
        let Self { grid, depth, .. } = self;
        assert!(depth.channels * grid.height * grid.width <= self.source.len());
        assert!(depth.block(self.tiles) <= self.block.len());
        assert!(self.first_tile + self.tile_rows.len() * grid.tile_columns() <= self.tiles);
        assert!(self.tile_rows.end <= grid.tile_rows());
        with_vector(self.depth.simd, self);
    }
}

impl Job for Inputs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        let Inputs {
            grid,
            source,
            tile_rows,
            depth,
            first_tile,
            tiles,
            block,
            scratch,
        } = self;
        let (lanes, step, covered) = (V::LANES, grid.step(), grid.covered());
        let size = grid.height * grid.width;
        let rows = tile_rows.len() * step + grid.kernel - 1;
        // The source's rows that these tiles see, counted with the padding above.
        let top = tile_rows.start * step;
        let inside = top.max(grid.pad)..(top + rows).min(grid.height + grid.pad);
        let positions = grow(&mut scratch.positions, rows * covered * lanes);
        let transformed = grow(&mut scratch.rows, TILE * covered * lanes);
        let point = depth.point(tiles);
        for (channel, to) in (0..depth.channels).step_by(lanes).zip((0..).step_by(lanes)) {
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
                        let mut d = [V::zero(); TILE];
                        for (i, d) in d.iter_mut().enumerate() {
                            *d = V::load(at.add(i * covered * lanes));
                        }
                        for (i, v) in from_inputs(d).into_iter().enumerate() {
                            v.store(transformed.as_mut_ptr().add((i * covered + x) * lanes));
                        }
                    }
                    let tile = first_tile + row * grid.tile_columns();
                    for i in 0..TILE {
                        for column in 0..grid.tile_columns() {
                            let at = transformed.as_ptr().add((i * covered + column * step) * lanes);
                            let mut d = [V::zero(); TILE];
                            for (j, d) in d.iter_mut().enumerate() {
                                *d = V::load(at.add(j * lanes));
                            }
                            let to = block.as_mut_ptr().add((tile + column) * depth.stride + to);
                            for (j, v) in from_inputs(d).into_iter().enumerate() {
                                v.store(to.add((i * TILE + j) * point));
                            }
                        }
                    }
                }
            }
        }
    }
}

/// The gradient of the result of some rows of tiles of one image, transformed: `E(m) dy E(m)ᵀ`.
pub struct Diffs<'a> {
    /// How the image is cut.
    pub grid: Grid,
    /// The channels of the result's gradient, one after the other.
    pub source: &'a [f32],
    /// The rows of tiles that are transformed.
    pub tile_rows: Range<usize>,
    /// How the result lies.
    pub depth: Depth,
    /// Where the first of these tiles stands among those of the result.
    pub first_tile: usize,
    /// The tiles of the result.
    pub tiles: usize,
    /// The result: [`Depth::block`] floats.
    pub block: &'a mut [f32],
    /// Working memory.
    pub scratch: &'a mut Scratch,
}

impl Diffs<'_> {
    /// Computes it.
    ///
    /// # Panics
    /// If a slice is too short.
    pub fn run(self) {
        let Self { grid, depth, .. } = self;
        assert!(depth.channels * grid.out_height() * grid.out_width() <= self.source.len());
        assert!(depth.block(self.tiles) <= self.block.len());
        assert!(self.first_tile + self.tile_rows.len() * grid.tile_columns() <= self.tiles);
        assert!(self.tile_rows.end <= grid.tile_rows());
        with_vector(self.depth.simd, self);
    }

    /// # Safety
    /// As [`Job::run`]; `M` is the grid's step.
    #[inline(always)]
    unsafe fn run_step<V: Vector, const M: usize>(self) {
        let Diffs {
            grid,
            source,
            tile_rows,
            depth,
            first_tile,
            tiles,
            block,
            scratch,
        } = self;
        let (lanes, columns) = (V::LANES, grid.tile_columns());
        let (size, covered) = (grid.out_height() * grid.out_width(), columns * M);
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
                    let at = positions.as_ptr().add((row * covered + column) * M * lanes);
                    let mut half = [[V::zero(); TILE]; M];
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
                    for i in 0..TILE {
                        let dy: [V; M] = across(&half, i);
                        for (j, v) in evaluate(dy).into_iter().enumerate() {
                            v.store(to.add((i * TILE + j) * point));
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
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.grid.step() {
                4 => self.run_step::<V, 4>(),
                _ => self.run_step::<V, 2>(),
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
        assert!(depth.block(self.tiles) <= self.block.len());
        assert!(self.bias.is_none_or(|bias| bias.len() == depth.channels));
        assert!(self.first_tile + self.tile_rows.len() * grid.tile_columns() <= self.tiles);
        assert!(self.tile_rows.end <= grid.tile_rows());
        with_vector(self.depth.simd, self);
    }

    /// # Safety
    /// As [`Job::run`]; `M` is the grid's step.
    #[inline(always)]
    unsafe fn run_step<V: Vector, const M: usize>(self) {
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
                    Some(bias) => V::load_first(bias.as_ptr().add(channel), channels),
                    None => V::zero(),
                };
                for (row, column) in (0..tile_rows.len()).flat_map(|row| (0..columns).map(move |column| (row, column)))
                {
                    let from = block
                        .as_ptr()
                        .add((first_tile + row * columns + column) * depth.stride + channel);
                    let mut half = [[V::zero(); M]; TILE];
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut v = [V::zero(); TILE];
                        for (i, v) in v.iter_mut().enumerate() {
                            *v = V::load(from.add((i * TILE + j) * point));
                        }
                        *half = collect(v);
                    }
                    for i in 0..M.min(rows.len() - row * M) {
                        let v: [V; TILE] = across(&half, i);
                        let y: [V; M] = collect(v);
                        let to = positions.as_mut_ptr().add(((row * M + i) * width + column * M) * lanes);
                        for (j, y) in y.into_iter().enumerate().take(width - column * M) {
                            y.add(bias).store(to.add(j * lanes));
                        }
                    }
                }
                lanes_to_channels::<V, false>(
                    positions.as_ptr(),
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
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.grid.step() {
                4 => self.run_step::<V, 4>(),
                _ => self.run_step::<V, 2>(),
            }
        }
    }
}

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
    /// The panel: [`POINTS`] · rows · [`panel_columns`] floats.
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
        assert!(POINTS * self.rows * panel_columns(self.simd) <= self.panel.len());
        assert!(self.first_column < self.columns);
        with_vector(self.simd, self);
    }

    /// # Safety
    /// As [`Job::run`]; `K` is the kernel's extent.
    #[inline(always)]
    unsafe fn run_kernel<V: Vector, const K: usize>(self) {
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
                    let mut half = [[V::zero(); TILE]; K];
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut g = [V::zero(); K];
                        for (i, g) in g.iter_mut().enumerate() {
                            let tap = i * K + j;
                            let tap = if turned { taps - 1 - tap } else { tap };
                            *g = V::load(at.add(tap * lanes));
                        }
                        *half = evaluate(g);
                    }
                    for (i, scale) in SCALE.into_iter().enumerate() {
                        let g: [V; K] = across(&half, i);
                        for (j, v) in evaluate(g).into_iter().enumerate() {
                            let to = ((i * TILE + j) * rows + row) * panel_columns + column;
                            v.scale(scale * SCALE[j]).store(panel.as_mut_ptr().add(to));
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
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.kernel {
                3 => self.run_kernel::<V, 3>(),
                _ => self.run_kernel::<V, 5>(),
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
        assert!(POINTS * self.inputs * self.depth.stride <= self.sums.len());
        assert!(self.first_output + outputs <= self.depth.channels);
        assert!(self.first_output.is_multiple_of(lanes_of(self.depth.simd)));
        with_vector(self.depth.simd, self);
    }

    /// # Safety
    /// As [`Job::run`]; `K` is the kernel's extent.
    #[inline(always)]
    unsafe fn run_kernel<V: Vector, const K: usize>(self) {
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
                    let mut half = [[V::zero(); K]; TILE];
                    for (j, half) in half.iter_mut().enumerate() {
                        let mut v = [V::zero(); TILE];
                        for (i, v) in v.iter_mut().enumerate() {
                            let point = i * TILE + j;
                            *v = V::load(from.add(point * inputs * depth.stride)).scale(SCALE[i] * SCALE[j]);
                        }
                        *half = collect(v);
                    }
                    for i in 0..K {
                        let v: [V; TILE] = across(&half, i);
                        let g: [V; K] = collect(v);
                        for (j, g) in g.into_iter().enumerate() {
                            g.store(positions.as_mut_ptr().add((input * K * K + i * K + j) * lanes));
                        }
                    }
                }
                let outputs = diff.len() / count;
                lanes_to_channels::<V, true>(positions.as_ptr(), count, diff.as_mut_ptr(), count, outputs);
            }
        }
    }
}

impl Job for WeightDiffs<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Vector>(self) {
        // SAFETY: the caller's promise.
        unsafe {
            match self.kernel {
                3 => self.run_kernel::<V, 3>(),
                _ => self.run_kernel::<V, 5>(),
            }
        }
    }
}
