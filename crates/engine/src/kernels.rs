//! Single-precision matrix products and a few vector operations: where a training step spends its time.
//!
//! The product follows the BLIS scheme (Van Zee and van de Geijn, "BLIS: A Framework for Rapidly Instantiating BLAS
//! Functionality", 2015). Blocks of `a` and `b` are copied into panels in the order in which a small kernel, written
//! for the vector registers at hand, reads them; the kernel keeps one tile of `c` in registers over a whole block of `k`.
//!
//! Two promises that the rest of the engine builds on:
//! - nothing is allocated once a [`Workspace`] has met the largest product that it serves;
//! - every element of `c` is summed in an order that depends on the shape alone, so that results have the same bits
//!   whatever the number of threads.

use std::fmt;
use std::sync::OnceLock;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod col2im;
pub mod dots;
mod indexed;
mod lanes;
mod pack;
pub mod pooling;
mod portable;
mod product;
mod registers;
mod vector;
pub mod winograd;

#[cfg(test)]
mod indexed_tests;
#[cfg(test)]
mod tests;

use indexed::IndexedTile;
pub use indexed::{Indexed, PackedRows, Runs, gemm_indexed, gemm_indexed_rows};
use pack::Lanes;
pub use product::{gemm, gemm_parallel};
pub use vector::{axpy, dot, sum_of_squares};

/// The environment variable that caps the instruction set, see [`Simd::from_env`].
pub const SIMD_VARIABLE: &str = "SPARKNET_SIMD";

/// The longest run of `k` that one tile of `c` sums in registers: a panel of `a` then sits in L1.
const MAX_DEPTH: usize = 256;

/// A packed block of `a` holds about this many floats.
const A_BLOCK: usize = 16 << 10;

/// A `b` of more floats than this comes from memory, and packing reads memory in a better order.
const MAX_B_IN_PLACE: usize = 2 << 20;

/// Below this many multiply-adds waking a second thread costs more than it saves.
const MIN_PARALLEL_WORK: usize = 1 << 19;

/// An instruction set that the kernels are written for, in rising order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Simd {
    /// Whatever the compiler makes of plain Rust: SSE2 on x86-64, NEON on aarch64.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512F.
    Avx512,
}

impl Simd {
    /// The best set that this processor has.
    pub fn detect() -> Simd {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            if avx2 && is_x86_feature_detected!("avx512f") {
                return Simd::Avx512;
            }
            if avx2 {
                return Simd::Avx2;
            }
        }
        Simd::Portable
    }

    /// The best set that this processor has and that `SPARKNET_SIMD` (`avx512`, `avx2` or `portable`) allows.
    ///
    /// # Errors
    /// A sentence for the user when the variable holds anything else.
    pub fn from_env() -> Result<Simd, String> {
        match std::env::var_os(SIMD_VARIABLE) {
            None => Ok(Simd::detect()),
            Some(value) => Ok(Simd::detect().min(value.to_string_lossy().parse()?)),
        }
    }

    /// The set that this process uses: [`Simd::from_env`] at the first call. A value of `SPARKNET_SIMD` that is no set
    /// counts as absent here; whoever starts a run reports it by calling `from_env`.
    pub fn current() -> Simd {
        static CURRENT: OnceLock<Simd> = OnceLock::new();
        *CURRENT.get_or_init(|| Simd::from_env().unwrap_or_else(|_| Simd::detect()))
    }
}

impl std::str::FromStr for Simd {
    type Err = String;

    fn from_str(name: &str) -> Result<Simd, String> {
        match name {
            "avx512" => Ok(Simd::Avx512),
            "avx2" => Ok(Simd::Avx2),
            "portable" => Ok(Simd::Portable),
            _ => Err(format!(
                "{SIMD_VARIABLE} is \"{name}\"; set it to avx512, avx2 or portable, or unset it"
            )),
        }
    }
}

impl fmt::Display for Simd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Simd::Portable => "portable",
            Simd::Avx2 => "avx2",
            Simd::Avx512 => "avx512",
        })
    }
}

/// A matrix somewhere in a slice: element `(i, j)` is `data[i * row_stride + j * column_stride]`.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    /// The elements, the first one at the start.
    pub data: &'a [f32],
    /// Distance from an element to the one below.
    pub row_stride: usize,
    /// Distance from an element to the one to its right.
    pub column_stride: usize,
}

impl<'a> Matrix<'a> {
    /// A matrix of rows that lie one after the other, `columns` floats each.
    pub fn row_major(data: &'a [f32], columns: usize) -> Self {
        Matrix {
            data,
            row_stride: columns,
            column_stride: 1,
        }
    }

    /// The same elements with rows and columns exchanged; nothing moves.
    pub fn transposed(self) -> Self {
        Matrix {
            data: self.data,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }

    /// The part that starts at element `(row, column)`.
    fn from(self, row: usize, column: usize) -> Self {
        Matrix {
            data: &self.data[row * self.row_stride + column * self.column_stride..],
            ..self
        }
    }

    /// The first `rows` rows, each a lane of `depth` steps.
    fn lanes(self, rows: usize, depth: usize) -> Lanes<'a> {
        let Matrix {
            data,
            row_stride,
            column_stride,
        } = self;
        Lanes {
            data,
            lanes: rows,
            lane_stride: row_stride,
            depth,
            depth_stride: column_stride,
        }
    }

    /// Fails unless `rows × columns` elements lie within the data.
    fn check(&self, name: &str, rows: usize, columns: usize) {
        if rows > 0 && columns > 0 {
            let last_row = (rows - 1).saturating_mul(self.row_stride);
            let last = last_row.saturating_add((columns - 1).saturating_mul(self.column_stride));
            assert!(
                last < self.data.len(),
                "gemm: {name} ({rows}, {columns}) reaches past its {}",
                self.data.len()
            );
        }
    }
}

/// Packing buffers of one thread; they grow on first use and never shrink.
#[derive(Default)]
pub struct Workspace {
    a: Vec<CacheLine>,
    b: Vec<CacheLine>,
    /// A tile that cannot be written where it belongs in one go.
    c: Vec<CacheLine>,
}

#[derive(Clone, Copy, Default)]
#[repr(C, align(64))]
struct CacheLine([f32; 16]);

/// The first `len` floats of the buffer, which grows to hold them.
fn floats(buffer: &mut Vec<CacheLine>, len: usize) -> &mut [f32] {
    let lines = len.div_ceil(16);
    if buffer.len() < lines {
        buffer.resize(lines, CacheLine::default());
    }
    // SAFETY: a CacheLine is 16 floats without padding, so the buffer holds at least `len` of them.
    unsafe { std::slice::from_raw_parts_mut(buffer.as_mut_ptr().cast(), len) }
}

/// One tile of work for a microkernel: `c (rows, columns) = a·b`, or `+=` with `accumulate`.
#[derive(Clone, Copy)]
struct Tile {
    /// Length of the sum.
    depth: usize,
    /// A panel of the kernel's `rows` floats for each step of the sum.
    a: *const f32,
    /// The kernel's `columns` floats for each step of the sum, the steps `b_stride` apart.
    b: *const f32,
    b_stride: usize,
    c: *mut f32,
    ldc: usize,
    /// Rows of `c`, 1 to the kernel's.
    rows: usize,
    /// Columns of `c`, 1 to the kernel's.
    columns: usize,
    accumulate: bool,
    /// A number for each row that is added last, or null.
    bias: *const f32,
}

/// What an instruction set brings: the size of its tile and five functions, which all need that set.
struct Kernel {
    rows: usize,
    columns: usize,
    /// A packed block of `b` holds about this many floats; it is to stay in L2.
    b_block: usize,
    /// Up to so many rows of `a`, a `b` with contiguous rows is not packed: the wider the tile, the better that reads.
    max_rows_in_place: usize,
    /// # Safety
    /// The processor has the set; `a` and `b` hold `depth` steps; `c` may be written over `rows` and `columns`.
    tile: unsafe fn(Tile),
    /// Packs lanes into panels as wide as `rows`.
    ///
    /// # Safety
    /// The processor has the set.
    pack_a: unsafe fn(Lanes<'_>, &mut [f32]),
    /// Packs lanes into panels as wide as `columns`.
    ///
    /// # Safety
    /// The processor has the set.
    pack_b: unsafe fn(Lanes<'_>, &mut [f32]),
    /// As `tile`, with `a` read where it lies.
    ///
    /// # Safety
    /// As `tile`; the sum of any two of the offsets is within `a`.
    tile_indexed: unsafe fn(IndexedTile),
    /// Packs one panel from `data`, row and column offsets: a step for each row, at most `columns` columns.
    ///
    /// # Safety
    /// The processor has the set; the sum of any two of the offsets is within the data; the panel has room.
    pack_indexed: unsafe fn(*const f32, &[usize], &[usize], *mut f32),
}

impl Kernel {
    /// The kernel of a set; fails if the processor lacks it.
    fn of(simd: Simd) -> &'static Kernel {
        assert!(simd <= Simd::detect(), "gemm: this processor has no {simd}");
        match simd {
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => &avx512::KERNEL,
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => &avx2::KERNEL,
            _ => &portable::KERNEL,
        }
    }
}
