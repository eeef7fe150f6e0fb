//! AVX-512: tiles of 8 rows by 48 columns, 24 of the 32 registers for the sums.

use std::arch::x86_64::*;

use super::indexed::{IndexedTile, Run, runs_of};
use super::pack::{self, Lanes};
use super::{Kernel, Tile, avx2};

const ROWS: usize = 8;
const COLUMNS: usize = 48;

pub(super) static KERNEL: Kernel = Kernel {
    rows: ROWS,
    columns: COLUMNS,
    b_block: 128 << 10,
    max_rows_in_place: 64,
    tile,
    pack_a,
    pack_b,
    tile_indexed,
    pack_indexed,
};

/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx512f")]
unsafe fn tile(tile: Tile) {
    // SAFETY: the caller's promise, handed on; every arm computes exactly the rows of the tile.
    unsafe {
        match tile.rows {
            1 => tile_of_rows::<1>(tile),
            2 => tile_of_rows::<2>(tile),
            3 => tile_of_rows::<3>(tile),
            4 => tile_of_rows::<4>(tile),
            5 => tile_of_rows::<5>(tile),
            6 => tile_of_rows::<6>(tile),
            7 => tile_of_rows::<7>(tile),
            _ => tile_of_rows::<8>(tile),
        }
    }
}

/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_of_rows<const R: usize>(tile: Tile) {
    // SAFETY: as above, for the columns.
    unsafe {
        match tile.columns.div_ceil(16) {
            1 => tile_of::<R, 1>(tile),
            2 => tile_of::<R, 2>(tile),
            _ => tile_of::<R, 3>(tile),
        }
    }
}

/// `R` rows by `V` vectors, of which the last may be written in part.
///
/// # Safety
/// As [`Kernel::tile`], with `R` rows and `16 (V - 1) < columns ≤ 16 V`.
#[target_feature(enable = "avx512f")]
unsafe fn tile_of<const R: usize, const V: usize>(tile: Tile) {
    let Tile {
        depth,
        mut a,
        mut b,
        b_stride,
        c,
        ldc,
        columns,
        accumulate,
        bias,
        ..
    } = tile;
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    // SAFETY: `a` and `b` hold `depth` steps of 8 and of 48 floats.
    unsafe {
        for row in 0..R {
            for vector in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(row * ldc + 16 * vector).cast());
            }
        }
        for _ in 0..depth {
            let mut b_vectors = [_mm512_setzero_ps(); V];
            for (vector, b_vector) in b_vectors.iter_mut().enumerate() {
                *b_vector = _mm512_loadu_ps(b.add(16 * vector));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm512_set1_ps(*a.add(row));
                for (sum, &b) in sums.iter_mut().zip(&b_vectors) {
                    *sum = _mm512_fmadd_ps(a, b, *sum);
                }
            }
            a = a.add(ROWS);
            b = b.add(b_stride);
        }
    }
    // SAFETY: the caller's promise.
    unsafe { write(&sums, c, ldc, columns, accumulate, bias) };
}

/// Writes the sums of a tile.
///
/// # Safety
/// As [`Kernel::tile`], with `R` rows and `16 (V - 1) < columns ≤ 16 V`.
// Always inlined, and so compiled for its callers' set: by reference the sums would leave their registers.
#[inline(always)]
unsafe fn write<const R: usize, const V: usize>(
    sums: &[[__m512; V]; R],
    c: *mut f32,
    ldc: usize,
    columns: usize,
    accumulate: bool,
    bias: *const f32,
) {
    let last_mask = u16::MAX >> (16 * V - columns);
    for (row, sums) in sums.iter().enumerate() {
        for (vector, &sum) in sums.iter().enumerate() {
            let mask = if vector + 1 == V { last_mask } else { u16::MAX };
            // SAFETY: the mask keeps every access within the tile's columns, and there is a bias for each row.
            unsafe {
                let c = c.add(row * ldc + 16 * vector);
                let mut sum = sum;
                if accumulate {
                    sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, c));
                }
                if !bias.is_null() {
                    sum = _mm512_add_ps(sum, _mm512_set1_ps(*bias.add(row)));
                }
                if mask == u16::MAX {
                    _mm512_storeu_ps(c, sum);
                } else {
                    _mm512_mask_storeu_ps(c, mask, sum);
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile_indexed`].
#[target_feature(enable = "avx512f")]
unsafe fn tile_indexed(tile: IndexedTile) {
    // SAFETY: the caller's promise, handed on; every arm computes exactly the rows of the tile.
    unsafe {
        match tile.rows {
            1 => indexed_of_rows::<1>(tile),
            2 => indexed_of_rows::<2>(tile),
            3 => indexed_of_rows::<3>(tile),
            4 => indexed_of_rows::<4>(tile),
            5 => indexed_of_rows::<5>(tile),
            6 => indexed_of_rows::<6>(tile),
            7 => indexed_of_rows::<7>(tile),
            _ => indexed_of_rows::<8>(tile),
        }
    }
}

/// # Safety
/// As [`Kernel::tile_indexed`].
#[target_feature(enable = "avx512f")]
unsafe fn indexed_of_rows<const R: usize>(tile: IndexedTile) {
    // SAFETY: as above, for the columns.
    unsafe {
        match tile.columns.div_ceil(16) {
            1 => indexed_of::<R, 1>(tile),
            2 => indexed_of::<R, 2>(tile),
            _ => indexed_of::<R, 3>(tile),
        }
    }
}

/// # Safety
/// As [`Kernel::tile_indexed`], with `R` rows and `16 (V - 1) < columns ≤ 16 V`.
#[target_feature(enable = "avx512f")]
unsafe fn indexed_of<const R: usize, const V: usize>(tile: IndexedTile) {
    let mut sums = [[_mm512_setzero_ps(); V]; R];
    let mut rows = [tile.a; R];
    let mut b = tile.b;
    // SAFETY: there is an offset for each row and each step, their sum is within `a`; `b` holds `depth` steps.
    unsafe {
        for (row, pointer) in rows.iter_mut().enumerate() {
            *pointer = tile.a.add(*tile.row_offsets.add(row));
            for vector in 0..V {
                _mm_prefetch::<_MM_HINT_T0>(tile.c.wrapping_add(row * tile.ldc + 16 * vector).cast());
            }
        }
        for step in 0..tile.depth {
            let offset = *tile.step_offsets.add(step);
            let mut b_vectors = [_mm512_setzero_ps(); V];
            for (vector, b_vector) in b_vectors.iter_mut().enumerate() {
                *b_vector = _mm512_loadu_ps(b.add(16 * vector));
            }
            for (row, sums) in rows.iter().zip(&mut sums) {
                let a = _mm512_set1_ps(*row.add(offset));
                for (sum, &b) in sums.iter_mut().zip(&b_vectors) {
                    *sum = _mm512_fmadd_ps(a, b, *sum);
                }
            }
            b = b.add(tile.b_stride);
        }
        write(&sums, tile.c, tile.ldc, tile.columns, tile.accumulate, std::ptr::null());
    }
}

/// # Safety
/// As [`Kernel::pack_indexed`].
#[target_feature(enable = "avx512f")]
unsafe fn pack_indexed(data: *const f32, row_offsets: &[usize], column_offsets: &[usize], to: *mut f32) {
    for (vector, columns) in column_offsets.chunks(16).enumerate() {
        let mut runs = [(0, 0); 16];
        let count = runs_of(columns, &mut runs);
        let to = to.wrapping_add(16 * vector);
        // SAFETY: the caller's promise; the last columns of the panel that are missing have no run.
        unsafe {
            match count {
                1 => pack_runs::<1>(data, row_offsets, &runs, to),
                2 => pack_runs::<2>(data, row_offsets, &runs, to),
                3 => pack_runs::<3>(data, row_offsets, &runs, to),
                4 => pack_runs::<4>(data, row_offsets, &runs, to),
                5..=8 => pack_runs::<8>(data, row_offsets, &runs, to),
                _ => pack_runs::<16>(data, row_offsets, &runs, to),
            }
        }
    }
}

/// Packs one vector a step from `N` loads.
///
/// # Safety
/// As [`Kernel::pack_indexed`].
#[target_feature(enable = "avx512f")]
unsafe fn pack_runs<const N: usize>(data: *const f32, row_offsets: &[usize], runs: &[Run; 16], to: *mut f32) {
    for (step, &row) in row_offsets.iter().enumerate() {
        let mut vector = _mm512_setzero_ps();
        for &(mask, offset) in &runs[..N] {
            let from = data.wrapping_add(row).wrapping_offset(offset);
            // SAFETY: the mask keeps the load within the data.
            vector = unsafe { _mm512_mask_loadu_ps(vector, mask as u16, from) };
        }
        // SAFETY: the panel has room for a vector a step.
        unsafe { _mm512_storeu_ps(to.add(step * COLUMNS), vector) };
    }
}

#[target_feature(enable = "avx512f,avx2,fma")]
fn pack_a(source: Lanes<'_>, to: &mut [f32]) {
    pack::pack::<ROWS>(source, to, Some(avx2::transpose));
}

#[target_feature(enable = "avx512f,avx2,fma")]
fn pack_b(source: Lanes<'_>, to: &mut [f32]) {
    pack::pack::<COLUMNS>(source, to, Some(avx2::transpose));
}
