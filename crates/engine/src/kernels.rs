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
use std::ops::Range;
use std::sync::OnceLock;

use rayon::prelude::*;

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
use vector::MatrixVector;
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

/// `c = a·b`, or `c += a·b` with `accumulate`, on the calling thread.
///
/// `a` is `(m, k)`, `b` is `(k, n)`; `c` is `(m, n)` with rows `ldc` floats apart. What lies between the rows of `c` is
/// left alone.
///
/// # Panics
/// If a slice is too short for its shape and strides, or rows of `c` overlap (`ldc < n`).
#[allow(clippy::too_many_arguments, reason = "the arguments of every BLAS")]
pub fn gemm(
    workspace: &mut Workspace,
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    let product = Product {
        m,
        n,
        k,
        a,
        b,
        accumulate,
    };
    product.run(Simd::current(), std::slice::from_mut(workspace), c, ldc);
}

/// [`gemm`] on the threads of the current rayon pool, one part of `c` for each workspace; the same bits for any number.
/// A small product runs on the calling thread.
///
/// # Panics
/// As [`gemm`], and if there is no workspace.
#[allow(clippy::too_many_arguments, reason = "the arguments of every BLAS")]
pub fn gemm_parallel(
    workspaces: &mut [Workspace],
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'_>,
    b: Matrix<'_>,
    c: &mut [f32],
    ldc: usize,
    accumulate: bool,
) {
    Product {
        m,
        n,
        k,
        a,
        b,
        accumulate,
    }
    .run(Simd::current(), workspaces, c, ldc);
}

/// Where `c` begins and how far apart its rows are, for threads that write disjoint parts of it.
#[derive(Clone, Copy)]
struct Target {
    data: *mut f32,
    ldc: usize,
}

// SAFETY: only a pointer; whoever writes through it vouches that no other thread touches those elements.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// # Safety
    /// Element `(row, column)` lies within the allocation.
    unsafe fn from(self, row: usize, column: usize) -> Target {
        // SAFETY: the caller's promise.
        let data = unsafe { self.data.add(row * self.ldc + column) };
        Target { data, ..self }
    }
}

/// `a (m, k) · b (k, n)`.
#[derive(Clone, Copy)]
struct Product<'a> {
    m: usize,
    n: usize,
    k: usize,
    a: Matrix<'a>,
    b: Matrix<'a>,
    accumulate: bool,
}

impl Product<'_> {
    /// Checks the bounds, on which all the unsafe code below relies, and splits the work.
    fn run(self, simd: Simd, workspaces: &mut [Workspace], c: &mut [f32], ldc: usize) {
        let Product {
            m,
            n,
            k,
            a,
            b,
            accumulate,
        } = self;
        if m == 0 || n == 0 {
            return;
        }
        a.check("a", m, k);
        b.check("b", k, n);
        let ldc = if m == 1 { n } else { ldc };
        assert!(ldc >= n, "gemm: rows of c are {ldc} apart but {n} long");
        let c_len = (m - 1).saturating_mul(ldc).saturating_add(n);
        assert!(
            c_len <= c.len(),
            "gemm: c ({m}, {n}) needs {c_len} floats and has {}",
            c.len()
        );
        assert!(!workspaces.is_empty(), "gemm: no workspace");
        if k == 0 {
            if !accumulate {
                c.chunks_mut(ldc).take(m).for_each(|row| row[..n].fill(0.0));
            }
            return;
        }

        let kernel = Kernel::of(simd);
        let target = Target {
            data: c.as_mut_ptr(),
            ldc,
        };
        let work = m.saturating_mul(n).saturating_mul(k);
        if let Some(vector) = MatrixVector::of(&self, ldc) {
            // Waits for memory, some 16 times as long as for the arithmetic.
            let parts = if work < MIN_PARALLEL_WORK / 16 {
                1
            } else {
                workspaces.len()
            };
            for_each_part(workspaces, parts, |part, workspace| {
                let lanes = band(vector.lanes(), 16, parts, part);
                // SAFETY: the bounds are checked above, and the bands do not overlap.
                unsafe { vector.run(simd, lanes, target, workspace) };
            });
            return;
        }
        let parts = if work < MIN_PARALLEL_WORK { 1 } else { workspaces.len() };
        let along_rows = split_along_rows(kernel, m, n, parts);
        for_each_part(workspaces, parts, |part, workspace| {
            let rows = if along_rows {
                band(m, kernel.rows, parts, part)
            } else {
                0..m
            };
            let columns = if along_rows {
                0..n
            } else {
                band(n, kernel.columns, parts, part)
            };
            if rows.is_empty() || columns.is_empty() {
                return;
            }
            let a = a.from(rows.start, 0);
            let b = b.from(0, columns.start);
            let product = Product {
                m: rows.len(),
                n: columns.len(),
                a,
                b,
                ..self
            };
            // SAFETY: the bounds are checked above, and the bands do not overlap.
            unsafe { product.run_serial(kernel, target.from(rows.start, columns.start), workspace) };
        });
    }

    /// # Safety
    /// `a`, `b` and `target` cover the shape, nobody else touches that part of `target`, and the processor has what the
    /// kernel needs. `m`, `n`, `k` are above zero.
    unsafe fn run_serial(self, kernel: &Kernel, target: Target, workspace: &mut Workspace) {
        let Product {
            m,
            n,
            k,
            a,
            b,
            accumulate,
        } = self;
        // Even blocks: 300 is summed as 150 + 150, not as 256 + 44.
        let max_depth = k.div_ceil(k.div_ceil(MAX_DEPTH));
        let max_rows = (A_BLOCK / max_depth)
            .next_multiple_of(kernel.rows)
            .min(m.next_multiple_of(kernel.rows));
        let max_columns = (kernel.b_block / max_depth).next_multiple_of(kernel.columns);
        let max_columns = max_columns.min(n.next_multiple_of(kernel.columns));
        let packed_a = floats(&mut workspace.a, max_rows * max_depth + pack::SLACK);
        let packed_b = floats(&mut workspace.b, max_columns * max_depth + pack::SLACK);
        // Packing pays when a panel is read several times.
        let rows_lie_apart = b.column_stride == 1 && b.row_stride >= n;
        let in_place = rows_lie_apart && m <= kernel.max_rows_in_place && k.saturating_mul(n) <= MAX_B_IN_PLACE;

        for column in (0..n).step_by(max_columns) {
            let columns = max_columns.min(n - column);
            let columns_in_place = if in_place {
                columns - columns % kernel.columns
            } else {
                0
            };
            for step in (0..k).step_by(max_depth) {
                let depth = max_depth.min(k - step);
                let b = b.from(step, column);
                if columns_in_place < columns {
                    let lanes = b
                        .transposed()
                        .from(columns_in_place, 0)
                        .lanes(columns - columns_in_place, depth);
                    // SAFETY: the processor has what the kernel needs.
                    unsafe { (kernel.pack_b)(lanes, packed_b) };
                }
                for row in (0..m).step_by(max_rows) {
                    let rows = max_rows.min(m - row);
                    // SAFETY: as above.
                    unsafe { (kernel.pack_a)(a.from(row, step).lanes(rows, depth), packed_a) };
                    let block = Block {
                        rows,
                        columns,
                        depth,
                        packed_a,
                        b: b.data,
                        b_stride: b.row_stride,
                        columns_in_place,
                        packed_b,
                        accumulate: accumulate || step > 0,
                    };
                    // SAFETY: the part of c lies within the whole and is ours.
                    unsafe { block.multiply(kernel, target.from(row, column)) };
                }
            }
        }
    }
}

/// A packed block of `a` and a block of `b`, whose first columns are read where they lie.
struct Block<'a> {
    rows: usize,
    columns: usize,
    depth: usize,
    packed_a: &'a [f32],
    b: &'a [f32],
    b_stride: usize,
    /// Columns that are read from `b`, whole panels; the others are in `packed_b`.
    columns_in_place: usize,
    packed_b: &'a [f32],
    accumulate: bool,
}

impl Block<'_> {
    /// Rows are the outer loop: the panel of `a` stays in L1 while `b` streams from L2, and `c` is written along its rows.
    ///
    /// # Safety
    /// `target` may be written over `rows` and `columns`, and the processor has what the kernel needs.
    unsafe fn multiply(&self, kernel: &Kernel, target: Target) {
        let depth = self.depth;
        for row in (0..self.rows).step_by(kernel.rows) {
            let a = self.packed_a[row * depth..][..kernel.rows * depth].as_ptr();
            for column in (0..self.columns).step_by(kernel.columns) {
                let (b, b_stride) = if column < self.columns_in_place {
                    (
                        &self.b[column..][..(depth - 1) * self.b_stride + kernel.columns],
                        self.b_stride,
                    )
                } else {
                    let start = (column - self.columns_in_place) * depth;
                    (&self.packed_b[start..][..kernel.columns * depth], kernel.columns)
                };
                // SAFETY: the slices just taken cover the panels; the rest is the caller's promise.
                unsafe {
                    let target = target.from(row, column);
                    (kernel.tile)(Tile {
                        depth,
                        a,
                        b: b.as_ptr(),
                        b_stride,
                        c: target.data,
                        ldc: target.ldc,
                        rows: kernel.rows.min(self.rows - row),
                        columns: kernel.columns.min(self.columns - column),
                        accumulate: self.accumulate,
                        bias: std::ptr::null(),
                    });
                }
            }
        }
    }
}

/// Calls `run` for parts 0 to `parts`, each with a workspace of its own, on the threads of the current pool if there is
/// more than one.
fn for_each_part(workspaces: &mut [Workspace], parts: usize, run: impl Fn(usize, &mut Workspace) + Sync) {
    if parts == 1 {
        return run(0, &mut workspaces[0]);
    }
    workspaces[..parts]
        .par_iter_mut()
        .enumerate()
        .with_max_len(1)
        .for_each(|(part, workspace)| run(part, workspace));
}

/// The range of one part when `len` is divided at multiples of `tile`; it may be empty.
fn band(len: usize, tile: usize, parts: usize, part: usize) -> Range<usize> {
    let tiles = len.div_ceil(tile);
    let bound = |part: usize| (tiles * part / parts * tile).min(len);
    bound(part)..bound(part + 1)
}

/// Whether to divide `c` into bands of rows rather than of columns: the way whose largest part costs less.
fn split_along_rows(kernel: &Kernel, m: usize, n: usize, parts: usize) -> bool {
    let largest = |len: usize, tile: usize| (len.div_ceil(tile).div_ceil(parts) * tile).min(len);
    // Packing a float takes about as long as 16 multiply-adds.
    let cost = |rows: usize, columns: usize| rows.saturating_mul(columns).saturating_add(16 * (rows + columns));
    cost(largest(m, kernel.rows), n) < cost(m, largest(n, kernel.columns))
}
