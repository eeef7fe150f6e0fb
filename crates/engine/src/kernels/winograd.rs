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

mod batch;
mod images;
mod products;
mod weights;

use super::lanes::{Vector, lanes_of};
use super::{Kernel, Simd};

pub use batch::{Batch, BatchScratch};
pub use images::{Outputs, Rows};
pub use products::{Products, Sums};
pub use weights::{WeightDiffs, Weights};

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

/// The sum of both squares.
const SQUARES: f32 = INNER[2] + OUTER[2];

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

    /// Floats from one point to the next.
    pub fn point(self, tiles: usize) -> usize {
        odd_lines(self.stride * tiles)
    }
}

/// As many floats or a few more, which fill an odd number of lines of cache: what lies so far apart is not all at the same
/// place of it.
fn odd_lines(floats: usize) -> usize {
    16 * (floats.div_ceil(16) | 1)
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
    [
        d[2].mul_add(-SQUARES, d[0].add(d[4])),
        odd_inner.mul_add(INNER[1], even_inner),
        odd_inner.mul_add(-INNER[1], even_inner),
        odd_outer.mul_add(OUTER[1], even_outer),
        odd_outer.mul_add(-OUTER[1], even_outer),
        d[3].mul_add(-SQUARES, d[1].add(d[5])),
    ]
}

/// `Bᵀ v`: from the gradients of the values at the points to those of the inputs.
#[inline(always)]
fn to_inputs<V: Vector>(v: [V; TILE]) -> [V; TILE] {
    let (even_inner, odd_inner) = (v[1].add(v[2]), v[1].sub(v[2]).scale(INNER[1]));
    let (even_outer, odd_outer) = (v[3].add(v[4]), v[3].sub(v[4]).scale(OUTER[1]));
    [
        v[0],
        odd_inner.mul_add(-OUTER[2], odd_outer.mul_add(-INNER[2], v[5])),
        even_inner.mul_add(-OUTER[2], even_outer.mul_add(-INNER[2], v[0].scale(-SQUARES))),
        v[5].mul_add(-SQUARES, odd_inner.add(odd_outer)),
        v[0].add(even_inner.add(even_outer)),
        v[5],
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
