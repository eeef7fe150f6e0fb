//! Products of matrices: which way each takes, and how it is divided among threads and blocks.

use std::ops::Range;

use rayon::prelude::*;

use super::vector::MatrixVector;
use super::{
    A_BLOCK, Kernel, MAX_B_IN_PLACE, MAX_DEPTH, MIN_PARALLEL_WORK, Matrix, Simd, Tile, Workspace, floats, pack,
};

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
pub(super) struct Target {
    pub(super) data: *mut f32,
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
pub(super) struct Product<'a> {
    pub(super) m: usize,
    pub(super) n: usize,
    pub(super) k: usize,
    pub(super) a: Matrix<'a>,
    pub(super) b: Matrix<'a>,
    pub(super) accumulate: bool,
}

impl Product<'_> {
    /// Checks the bounds, on which all the unsafe code below relies, and splits the work.
    pub(super) fn run(self, simd: Simd, workspaces: &mut [Workspace], c: &mut [f32], ldc: usize) {
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
pub(super) fn band(len: usize, tile: usize, parts: usize, part: usize) -> Range<usize> {
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
