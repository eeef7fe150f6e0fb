//! AVX-512: tiles of 8 rows by 48 columns, 24 of the 32 registers for the sums.

use std::arch::x86_64::*;

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
    let last_mask = u16::MAX >> (16 * V - columns);
    for (row, sums) in sums.iter().enumerate() {
        for (vector, &sum) in sums.iter().enumerate() {
            let mask = if vector + 1 == V { last_mask } else { u16::MAX };
            // SAFETY: the mask keeps every access within the tile's columns.
            unsafe {
                let c = c.add(row * ldc + 16 * vector);
                let sum = if accumulate {
                    _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, c))
                } else {
                    sum
                };
                _mm512_mask_storeu_ps(c, mask, sum);
            }
        }
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
