//! The kernel in plain Rust, which the compiler vectorises for whatever every processor of the target has.

use super::indexed::{self, IndexedTile};
use super::pack::{self, Lanes};
use super::{Kernel, Tile};

/// NEON has twice the registers of SSE2.
const ROWS: usize = if cfg!(target_arch = "aarch64") { 8 } else { 4 };
const COLUMNS: usize = 8;

pub(super) static KERNEL: Kernel = Kernel {
    rows: ROWS,
    columns: COLUMNS,
    b_block: 64 << 10,
    max_rows_in_place: 8,
    tile,
    pack_a,
    pack_b,
    tile_indexed,
    pack_indexed: indexed::pack_plain::<COLUMNS>,
};

/// # Safety
/// As [`Kernel::tile`].
unsafe fn tile(tile: Tile) {
    // SAFETY: the panel holds so many floats.
    let a = unsafe { std::slice::from_raw_parts(tile.a, ROWS * tile.depth) };
    // SAFETY: `b` holds `COLUMNS` floats for each step.
    let b = unsafe { std::slice::from_raw_parts(tile.b, (tile.depth - 1) * tile.b_stride + COLUMNS) };
    let sums = sums(a, b, tile.b_stride);
    for (row, sums) in sums.iter().enumerate().take(tile.rows) {
        // SAFETY: the row lies within c and is ours.
        let c = unsafe { std::slice::from_raw_parts_mut(tile.c.add(row * tile.ldc), tile.columns) };
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = if tile.accumulate { *c + sum } else { *sum };
        }
        if !tile.bias.is_null() {
            // SAFETY: there is one for each row.
            let bias = unsafe { *tile.bias.add(row) };
            c.iter_mut().for_each(|c| *c += bias);
        }
    }
}

/// # Safety
/// As [`Kernel::tile_indexed`].
unsafe fn tile_indexed(tile: IndexedTile) {
    // SAFETY: `b` holds `COLUMNS` floats for each step.
    let b = unsafe { std::slice::from_raw_parts(tile.b, (tile.depth - 1) * tile.b_stride + COLUMNS) };
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (step, b) in b.chunks(tile.b_stride).enumerate() {
        for (row, sums) in sums.iter_mut().enumerate().take(tile.rows) {
            // SAFETY: there is an offset for each row and each step, and their sum is within `a`.
            let a = unsafe { *tile.a.add(*tile.row_offsets.add(row) + *tile.step_offsets.add(step)) };
            sums.iter_mut().zip(b).for_each(|(sum, b)| *sum += a * b);
        }
    }
    for (row, sums) in sums.iter().enumerate().take(tile.rows) {
        // SAFETY: the row lies within c and is ours.
        let c = unsafe { std::slice::from_raw_parts_mut(tile.c.add(row * tile.ldc), tile.columns) };
        for (c, sum) in c.iter_mut().zip(sums) {
            *c = if tile.accumulate { *c + sum } else { *sum };
        }
    }
}

/// Apart from the loops of variable length that use its result, so that the sums stay in registers.
#[inline(never)]
fn sums(a: &[f32], b: &[f32], b_stride: usize) -> [[f32; COLUMNS]; ROWS] {
    let mut sums = [[0.0; COLUMNS]; ROWS];
    for (a, b) in a.as_chunks::<ROWS>().0.iter().zip(b.chunks(b_stride)) {
        let Some(b) = b.first_chunk::<COLUMNS>() else { break };
        for row in 0..ROWS {
            for column in 0..COLUMNS {
                let sum = &mut sums[row][column];
                // Elsewhere a fused multiply-add would be a call into libm.
                *sum = if cfg!(target_arch = "aarch64") {
                    a[row].mul_add(b[column], *sum)
                } else {
                    a[row] * b[column] + *sum
                };
            }
        }
    }
    sums
}

fn pack_a(source: Lanes<'_>, to: &mut [f32]) {
    pack::pack::<ROWS>(source, to, None);
}

fn pack_b(source: Lanes<'_>, to: &mut [f32]) {
    pack::pack::<COLUMNS>(source, to, None);
}
