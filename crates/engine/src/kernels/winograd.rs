//! The transforms of Winograd's minimal filtering, with channels in the lanes of vectors, and the products between them.
//!
//! In one dimension, a tile of t inputs gives m = t + 1 − k outputs of a kernel of k: F(m, k) of Lavin and Gray, "Fast
//! Algorithms for Convolutional Neural Networks", 2015. The product of two polynomials is interpolated from its values at t
//! points, so with E(n) g the values of n coefficients there and S a diagonal: y = E(m)ᵀ [(S E(k) g) ⊙ (B d)]. The gradients
//! are the transposes of that: dg = (S E(k))ᵀ [(B d) ⊙ (E(m) dy)]. In two dimensions each is applied along both axes.
//!
//! Tiles have 6 rows, and as many columns as 4 columns of outputs need: F(4×4, 3×3) with 36 products in place of 144 for each
//! pair of channels, and F(2×4, 5×5) with 48 in place of 200. Tiles of 8 × 8 would be another 1.5 times fewer where k = 5,
//! but rounding would take twice as much of the result (bench/NOTES.md).
//!
//! Of two points of a tile, `point = width · row + column` is what all buffers are divided by.

use std::ops::Range;

mod batch;
mod images;
mod points;
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

/// Rows of a tile's inputs.
const HEIGHT: usize = 6;

/// Columns of a tile's outputs.
const COLUMN_STEP: usize = 4;

/// Pairs of points of a tile for kernels of 3 or 5.
fn points_of(kernel: usize) -> usize {
    match kernel {
        3 => HEIGHT * 6,
        _ => HEIGHT * 8,
    }
}

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
    /// Pairs of points at which a tile is evaluated.
    pub fn points(&self) -> usize {
        points_of(self.kernel)
    }

    /// Rows and columns of a tile's outputs.
    fn step(&self) -> [usize; 2] {
        [HEIGHT + 1 - self.kernel, COLUMN_STEP]
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
        self.out_height().div_ceil(self.step()[0])
    }

    /// Tiles in a row.
    pub fn tile_columns(&self) -> usize {
        self.out_width().div_ceil(COLUMN_STEP)
    }

    /// Columns that the tiles of a row cover, in the source with its padding.
    fn covered(&self) -> usize {
        self.tile_columns() * COLUMN_STEP + self.kernel - 1
    }

    /// Where the result's rows of some rows of tiles are.
    fn out_rows(&self, tile_rows: &Range<usize>) -> Range<usize> {
        let step = self.step()[0];
        tile_rows.start * step..(tile_rows.end * step).min(self.out_height())
    }
}

/// How many vectors the channels of a buffer take, and how many floats lie from one tile to the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Depth {
    /// The set whose vectors these are.
    pub simd: Simd,
    /// Points of a tile.
    pub points: usize,
    /// Channels.
    pub channels: usize,
    /// Floats from a tile to the next: the channels rounded up to whole vectors, and one vector more where that would
    /// put many tiles at the same place of a cache.
    pub stride: usize,
}

impl Depth {
    /// So many channels at so many points.
    pub fn new(simd: Simd, points: usize, channels: usize) -> Self {
        let lanes = lanes_of(simd);
        let stride = channels.next_multiple_of(lanes);
        let stride = if stride.is_multiple_of(64) {
            stride + lanes
        } else {
            stride
        };
        Depth {
            simd,
            points,
            channels,
            stride,
        }
    }

    /// Floats of all points of `tiles` tiles.
    pub fn block(self, tiles: usize) -> usize {
        self.points * self.point(tiles)
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
