//! Products with a matrix that lies nowhere: element `(i, j)` is found at the sum of a row's and a column's offset, as
//! the patches of an image are. They are copied straight into panels, or read where they lie; no matrix is built.
//!
//! Known as implicit GEMM: Chetlur et al., "cuDNN: Efficient Primitives for Deep Learning", 2014.

use std::ops::Range;

use rayon::prelude::*;

use super::{CacheLine, Kernel, MAX_DEPTH, Matrix, Simd, Tile, Workspace, floats, pack};

/// A matrix whose element `(i, j)` is `data[row_offsets[i] + column_offsets[j]]`.
#[derive(Clone, Copy, Debug)]
pub struct Indexed<'a> {
    /// Where all elements lie.
    pub data: &'a [f32],
    /// One for each row.
    pub row_offsets: &'a [usize],
    /// One for each column.
    pub column_offsets: &'a [usize],
}

impl Indexed<'_> {
    /// Fails unless all elements lie within the data.
    fn check(&self, name: &str) {
        let last = |offsets: &[usize]| offsets.iter().copied().max();
        if let (Some(row), Some(column)) = (last(self.row_offsets), last(self.column_offsets)) {
            let len = self.data.len();
            assert!(row.saturating_add(column) < len, "gemm: {name} reaches past its {len}");
        }
    }
}

/// The left matrix of a product, packed once for many right ones.
#[derive(Default)]
pub struct PackedRows {
    buffer: Vec<CacheLine>,
    rows: usize,
    depth: usize,
    simd: Option<Simd>,
}

/// The longest run of `depth` steps that is summed in registers; even, so that 300 is summed as 150 + 150.
fn block_depth(depth: usize) -> usize {
    depth.div_ceil(depth.div_ceil(MAX_DEPTH).max(1)).max(1)
}

impl PackedRows {
    /// Packs `a (rows, depth)` on the threads of the current pool.
    ///
    /// # Panics
    /// If the slice is too short.
    pub fn pack(&mut self, a: Matrix<'_>, rows: usize, depth: usize) {
        a.check("a", rows, depth);
        self.pack_blocks(Simd::current(), rows, depth, |kernel, steps, to| {
            // SAFETY: the processor has what the kernel needs.
            unsafe { (kernel.pack_a)(a.from(0, steps.start).lanes(rows, steps.len()), to) };
        });
    }

    /// Packs `a`, whose rows are lanes of as many steps as it has columns.
    ///
    /// # Panics
    /// If an element lies past the data.
    pub fn pack_indexed(&mut self, a: Indexed<'_>) {
        self.pack_indexed_for(Simd::current(), a);
    }

    pub(super) fn pack_indexed_for(&mut self, simd: Simd, a: Indexed<'_>) {
        a.check("a");
        self.pack_blocks(
            simd,
            a.row_offsets.len(),
            a.column_offsets.len(),
            |kernel, steps, to| {
                let panels = to.chunks_exact_mut(kernel.rows * steps.len());
                for (rows, panel) in a.row_offsets.chunks(kernel.rows).zip(panels) {
                    for (to, step) in panel
                        .chunks_exact_mut(kernel.rows)
                        .zip(&a.column_offsets[steps.clone()])
                    {
                        let (to, rest) = to.split_at_mut(rows.len());
                        to.iter_mut().zip(rows).for_each(|(to, row)| *to = a.data[row + step]);
                        rest.fill(0.0);
                    }
                }
            },
        );
    }

    /// Calls `pack` for each block of steps with the floats that it takes.
    fn pack_blocks(
        &mut self,
        simd: Simd,
        rows: usize,
        depth: usize,
        pack: impl Fn(&Kernel, Range<usize>, &mut [f32]) + Sync,
    ) {
        let kernel = Kernel::of(simd);
        (self.rows, self.depth, self.simd) = (rows, depth, Some(simd));
        if rows == 0 || depth == 0 {
            return;
        }
        let (padded_rows, max_depth) = (rows.next_multiple_of(kernel.rows), block_depth(depth));
        // Packing writes a little past its panels: each block has room for that.
        let block = padded_rows * max_depth + pack::SLACK;
        floats(&mut self.buffer, block * depth.div_ceil(max_depth))
            .par_chunks_mut(block)
            .enumerate()
            .for_each(|(i, to)| pack(kernel, i * max_depth..((i + 1) * max_depth).min(depth), to));
    }

    /// The panels of the block of steps that starts at `step`.
    fn block(&self, kernel: &Kernel, step: usize) -> &[f32] {
        let (padded_rows, max_depth) = (self.rows.next_multiple_of(kernel.rows), block_depth(self.depth));
        let block = padded_rows * max_depth + pack::SLACK;
        // SAFETY: `pack_blocks` has made the buffer so long.
        let all: &[f32] = unsafe { std::slice::from_raw_parts(self.buffer.as_ptr().cast(), 16 * self.buffer.len()) };
        &all[step / max_depth * block..][..block]
    }
}

/// How the columns of a result lie: in runs, row by row. Element `(i, j)` is at
/// `j / run * run_stride + i * run + j % run`.
#[derive(Clone, Copy, Debug)]
pub struct Runs {
    /// Columns side by side: the positions of an image.
    pub run: usize,
    /// Distance from a run of row 0 to the next: the values of an image.
    pub run_stride: usize,
}

/// `c = a·b + bias` for the given rows of `a`, on the calling thread. The bias, one for each of these rows, is added
/// last.
///
/// # Panics
/// If a slice is too short, rows are no multiple of the kernel's or the sizes do not match.
pub fn gemm_indexed(
    workspace: &mut Workspace,
    a: &PackedRows,
    rows: Range<usize>,
    b: Indexed<'_>,
    c: &mut [f32],
    runs: Runs,
    bias: Option<&[f32]>,
) {
    let Some(simd) = a.simd else { return };
    let kernel = Kernel::of(simd);
    let (n, k) = (b.column_offsets.len(), a.depth);
    if rows.is_empty() || n == 0 {
        return;
    }
    b.check("b");
    assert!(
        rows.start.is_multiple_of(kernel.rows) && rows.end <= a.rows,
        "gemm: rows {rows:?} of {}",
        a.rows
    );
    assert_eq!(b.row_offsets.len(), k, "gemm: depths of a and b");
    assert!(bias.is_none_or(|bias| bias.len() == rows.len()), "gemm: one bias a row");
    let whole_runs = (n - 1) / runs.run;
    let last_run = runs.run * (rows.len() - 1) + if whole_runs > 0 { runs.run } else { n };
    assert!(
        whole_runs * runs.run_stride + last_run <= c.len(),
        "gemm: c is too short"
    );
    assert!(
        whole_runs == 0 || runs.run_stride >= runs.run * rows.len(),
        "gemm: runs of c overlap"
    );

    let max_depth = block_depth(k);
    let max_columns = (kernel.b_block / max_depth).max(1);
    let max_columns = n.div_ceil(n.div_ceil(max_columns)).next_multiple_of(kernel.columns);
    let Workspace {
        b: packed_b, c: spill, ..
    } = workspace;
    let packed_b = floats(packed_b, max_columns * max_depth + pack::SLACK);
    let spill = floats(spill, kernel.rows * kernel.columns);
    // A matrix whose rows are evenly apart can be read where it lies.
    let b_stride = b
        .row_offsets
        .get(1)
        .map_or(kernel.columns, |second| second.wrapping_sub(b.row_offsets[0]));
    let even = b_stride >= kernel.columns
        && b.row_offsets
            .windows(2)
            .all(|pair| pair[1].wrapping_sub(pair[0]) == b_stride);
    let may_read_in_place = even && rows.len() <= kernel.max_rows_in_place;
    let in_place = |columns: &[usize]| {
        may_read_in_place
            && columns.len() == kernel.columns
            && columns[kernel.columns - 1] == columns[0] + kernel.columns - 1
            && columns.is_sorted_by(|left, right| left < right)
    };

    for column in (0..n).step_by(max_columns) {
        let columns = &b.column_offsets[column..(column + max_columns).min(n)];
        for step in (0..k).step_by(max_depth) {
            let steps = &b.row_offsets[step..(step + max_depth).min(k)];
            let depth = steps.len();
            let panels = columns
                .chunks(kernel.columns)
                .zip(packed_b.chunks_exact_mut(kernel.columns * depth));
            for (columns, to) in panels {
                if !in_place(columns) {
                    // SAFETY: all elements lie within the data, the panel has room for them, and the processor has what
                    // the kernel needs.
                    unsafe { (kernel.pack_indexed)(b.data.as_ptr(), steps, columns, to.as_mut_ptr()) };
                }
            }
            let a = a.block(kernel, step);
            let bias = bias.filter(|_| step + depth == k);
            for row in rows.clone().step_by(kernel.rows) {
                let a = a[row * depth..][..kernel.rows * depth].as_ptr();
                let row_count = kernel.rows.min(rows.end - row);
                let bias = bias.map(|bias| &bias[row - rows.start..][..row_count]);
                for (panel, columns) in columns.chunks(kernel.columns).enumerate() {
                    let (b, b_stride) = if in_place(columns) {
                        (b.data[steps[0] + columns[0]..].as_ptr(), b_stride)
                    } else {
                        (packed_b[panel * kernel.columns * depth..].as_ptr(), kernel.columns)
                    };
                    let column = column + panel * kernel.columns;
                    let first = column / runs.run * runs.run_stride + (row - rows.start) * runs.run + column % runs.run;
                    let is_one_run = column % runs.run + columns.len() <= runs.run;
                    let tile = Tile {
                        depth,
                        a,
                        b,
                        b_stride,
                        c: if is_one_run {
                            c[first..].as_mut_ptr()
                        } else {
                            spill.as_mut_ptr()
                        },
                        ldc: if is_one_run { runs.run } else { kernel.columns },
                        rows: row_count,
                        columns: columns.len(),
                        accumulate: is_one_run && step > 0,
                        bias: bias.filter(|_| is_one_run).map_or(std::ptr::null(), <[f32]>::as_ptr),
                    };
                    // SAFETY: the panels hold `depth` steps, in place too, since all elements lie within the data; the
                    // tile lies within `c`, as asserted, or fills the spill; the bias has as many rows.
                    unsafe { (kernel.tile)(tile) };
                    if !is_one_run {
                        for i in 0..row_count {
                            let sums = &spill[i * kernel.columns..][..columns.len()];
                            let row = row - rows.start + i;
                            add_to_runs(sums, column, row, c, runs, step > 0, bias.map(|bias| bias[i]));
                        }
                    }
                }
            }
        }
    }
}

/// Writes a part of a row of the result that spans several runs.
fn add_to_runs(
    mut sums: &[f32],
    mut column: usize,
    row: usize,
    c: &mut [f32],
    runs: Runs,
    accumulate: bool,
    bias: Option<f32>,
) {
    while !sums.is_empty() {
        let inside = column % runs.run;
        let (now, rest) = sums.split_at(sums.len().min(runs.run - inside));
        let c = &mut c[column / runs.run * runs.run_stride + row * runs.run + inside..][..now.len()];
        if accumulate {
            c.iter_mut().zip(now).for_each(|(c, sum)| *c += sum);
        } else {
            c.copy_from_slice(now);
        }
        if let Some(bias) = bias {
            c.iter_mut().for_each(|c| *c += bias);
        }
        column += now.len();
        sums = rest;
    }
}

/// A tile of work as [`Tile`] is, but that row `i` of `a` is read at `a + row_offsets[i] + step_offsets[step]`.
#[derive(Clone, Copy)]
pub(super) struct IndexedTile {
    pub depth: usize,
    pub a: *const f32,
    pub row_offsets: *const usize,
    pub step_offsets: *const usize,
    pub b: *const f32,
    pub b_stride: usize,
    pub c: *mut f32,
    pub ldc: usize,
    pub rows: usize,
    pub columns: usize,
    pub accumulate: bool,
}

/// `c (rows of a, n) = a · bᵀ`, or `+=` with `accumulate`, on the calling thread, where `b (n, columns of a)` lies in
/// runs: element `(i, j)` at `j / run * run_stride + i * run + j % run`. `a` is read where it lies.
///
/// # Panics
/// If a slice is too short for its shape.
#[allow(clippy::too_many_arguments, reason = "the arguments of every BLAS")]
pub fn gemm_indexed_rows(
    workspace: &mut Workspace,
    a: Indexed<'_>,
    n: usize,
    b: &[f32],
    runs: Runs,
    c: &mut [f32],
    accumulate: bool,
) {
    gemm_indexed_rows_for(Simd::current(), workspace, a, n, b, runs, c, accumulate);
}

#[allow(clippy::too_many_arguments, reason = "the arguments of every BLAS")]
pub(super) fn gemm_indexed_rows_for(
    simd: Simd,
    workspace: &mut Workspace,
    a: Indexed<'_>,
    n: usize,
    b: &[f32],
    runs: Runs,
    c: &mut [f32],
    accumulate: bool,
) {
    let kernel = Kernel::of(simd);
    let (m, k) = (a.row_offsets.len(), a.column_offsets.len());
    if m == 0 || n == 0 {
        return;
    }
    a.check("a");
    assert!(
        m * n <= c.len(),
        "gemm: c ({m}, {n}) needs more than its {} floats",
        c.len()
    );
    if k == 0 {
        if !accumulate {
            c[..m * n].fill(0.0);
        }
        return;
    }
    let max_depth = block_depth(k);
    let packed = floats(
        &mut workspace.b,
        n.next_multiple_of(kernel.columns) * max_depth + pack::SLACK,
    );
    for step in (0..k).step_by(max_depth) {
        let steps = &a.column_offsets[step..(step + max_depth).min(k)];
        let depth = steps.len();
        for column in (0..n).step_by(kernel.columns) {
            let columns = kernel.columns.min(n - column);
            let mut done = 0;
            while done < depth {
                let inside = (step + done) % runs.run;
                let count = (depth - done).min(runs.run - inside);
                let from = (step + done) / runs.run * runs.run_stride + column * runs.run + inside;
                let lanes = Matrix::row_major(&b[from..], runs.run).lanes(columns, count);
                // SAFETY: the processor has what the kernel needs.
                unsafe { (kernel.pack_b)(lanes, &mut packed[column * depth + done * kernel.columns..]) };
                done += count;
            }
        }
        for column in (0..n).step_by(kernel.columns) {
            let panel = &packed[column * depth..][..kernel.columns * depth];
            for row in (0..m).step_by(kernel.rows) {
                let tile = IndexedTile {
                    depth,
                    a: a.data.as_ptr(),
                    row_offsets: a.row_offsets[row..].as_ptr(),
                    step_offsets: steps.as_ptr(),
                    b: panel.as_ptr(),
                    b_stride: kernel.columns,
                    c: c[row * n + column..].as_mut_ptr(),
                    ldc: n,
                    rows: kernel.rows.min(m - row),
                    columns: kernel.columns.min(n - column),
                    accumulate: accumulate || step > 0,
                };
                // SAFETY: all elements lie within the data, the panel holds `depth` steps, the tile lies within `c`, as
                // asserted, and the processor has what the kernel needs.
                unsafe { (kernel.tile_indexed)(tile) };
            }
        }
    }
}

/// The part of a vector that one load brings: the lanes of the mask, lane `i` from `offset + i`.
pub(super) type Run = (u32, isize);

/// Divides up to `LANES` columns into runs of neighbours; returns how many there are.
#[inline(always)]
pub(super) fn runs_of<const LANES: usize>(columns: &[usize], runs: &mut [Run; LANES]) -> usize {
    let mut count = 0;
    for (lane, &column) in columns.iter().enumerate() {
        let offset = column.wrapping_sub(lane) as isize;
        if count > 0 && runs[count - 1].1 == offset {
            runs[count - 1].0 |= 1 << lane;
        } else {
            runs[count] = (1 << lane, offset);
            count += 1;
        }
    }
    count
}

/// Packs one panel of at most `WIDTH` columns, as it is defined. Columns that are missing are zeros.
///
/// # Safety
/// `data` holds all elements, `to` has room for `WIDTH` floats a row.
pub(super) unsafe fn pack_plain<const WIDTH: usize>(
    data: *const f32,
    row_offsets: &[usize],
    column_offsets: &[usize],
    to: *mut f32,
) {
    for (step, row) in row_offsets.iter().enumerate() {
        for lane in 0..WIDTH {
            let column = column_offsets.get(lane);
            // SAFETY: the caller's promise.
            unsafe { *to.add(step * WIDTH + lane) = column.map_or(0.0, |column| *data.add(row + column)) };
        }
    }
}
