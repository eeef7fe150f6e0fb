//! AVX2 and FMA: tiles of 6 rows by 16 columns, 12 of the 16 registers for the sums.

use std::arch::x86_64::*;

use super::pack::{self, Lanes};
use super::{Kernel, Tile};

const ROWS: usize = 6;
const COLUMNS: usize = 16;

pub(super) static KERNEL: Kernel = Kernel {
    rows: ROWS,
    columns: COLUMNS,
    b_block: 64 << 10,
    max_rows_in_place: 24,
    tile,
    pack_a,
    pack_b,
};

/// # Safety
/// As [`Kernel::tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile(tile: Tile) {
    // SAFETY: the caller's promise, handed on; every arm computes exactly the rows of the tile.
    unsafe {
        match tile.rows {
            1 => tile_of_rows::<1>(tile),
            2 => tile_of_rows::<2>(tile),
            3 => tile_of_rows::<3>(tile),
            4 => tile_of_rows::<4>(tile),
            5 => tile_of_rows::<5>(tile),
            _ => tile_of_rows::<6>(tile),
        }
    }
}

/// # Safety
/// As [`Kernel::tile`], with `R` rows.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_of_rows<const R: usize>(tile: Tile) {
    // SAFETY: as above, for the columns.
    unsafe {
        if tile.columns <= 8 {
            tile_of::<R, 1>(tile)
        } else {
            tile_of::<R, 2>(tile)
        }
    }
}

/// `R` rows by `V` vectors, of which the last may be written in part.
///
/// # Safety
/// As [`Kernel::tile`], with `R` rows and `8 (V - 1) < columns ≤ 8 V`.
#[target_feature(enable = "avx2,fma")]
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
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    // SAFETY: `a` and `b` hold `depth` steps of 6 and of 16 floats.
    unsafe {
        for row in 0..R {
            _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(row * ldc).cast());
            _mm_prefetch::<_MM_HINT_T0>(c.wrapping_add(row * ldc + columns - 1).cast());
        }
        for _ in 0..depth {
            let mut b_vectors = [_mm256_setzero_ps(); V];
            for (vector, b_vector) in b_vectors.iter_mut().enumerate() {
                *b_vector = _mm256_loadu_ps(b.add(8 * vector));
            }
            for (row, sums) in sums.iter_mut().enumerate() {
                let a = _mm256_set1_ps(*a.add(row));
                for (sum, &b) in sums.iter_mut().zip(&b_vectors) {
                    *sum = _mm256_fmadd_ps(a, b, *sum);
                }
            }
            a = a.add(ROWS);
            b = b.add(b_stride);
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the row lies within c and is ours.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(row * ldc), columns) };
        for (c, &sum) in c.chunks_mut(8).zip(sums) {
            if let Ok(c) = <&mut [f32; 8]>::try_from(&mut *c) {
                // SAFETY: the array has 8 floats.
                unsafe {
                    let sum = if accumulate {
                        _mm256_add_ps(sum, _mm256_loadu_ps(c.as_ptr()))
                    } else {
                        sum
                    };
                    _mm256_storeu_ps(c.as_mut_ptr(), sum);
                }
            } else {
                let mut sums = [0.0; 8];
                // SAFETY: the array has 8 floats.
                unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), sum) };
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = if accumulate { *c + sum } else { sum };
                }
            }
        }
    }
}

#[target_feature(enable = "avx2,fma")]
fn pack_a(source: Lanes<'_>, to: &mut [f32]) {
    pack::pack::<ROWS>(source, to, Some(transpose));
}

#[target_feature(enable = "avx2,fma")]
fn pack_b(source: Lanes<'_>, to: &mut [f32]) {
    pack::pack::<COLUMNS>(source, to, Some(transpose));
}

/// # Safety
/// As [`pack::Transpose`].
#[target_feature(enable = "avx2,fma")]
#[inline]
pub(super) unsafe fn transpose(source: *const f32, lanes: usize, lane_stride: usize, to: *mut f32, width: usize) {
    let mut rows = [_mm256_setzero_ps(); 8];
    for (lane, row) in rows.iter_mut().enumerate() {
        if lane < lanes {
            // SAFETY: the caller vouches for 8 floats of every lane.
            *row = unsafe { _mm256_loadu_ps(source.add(lane * lane_stride)) };
        }
    }
    // Pairs of lanes, then fours within each half of a register, then the halves.
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = pairs;
    for half in [0, 4] {
        fours[half] = _mm256_shuffle_ps::<0b01_00_01_00>(pairs[half], pairs[half + 2]);
        fours[half + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(pairs[half], pairs[half + 2]);
        fours[half + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(pairs[half + 1], pairs[half + 3]);
        fours[half + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(pairs[half + 1], pairs[half + 3]);
    }
    for step in 0..4 {
        let near = _mm256_permute2f128_ps::<0x20>(fours[step], fours[step + 4]);
        rows[step] = near;
        rows[step + 4] = _mm256_permute2f128_ps::<0x31>(fours[step], fours[step + 4]);
    }
    for (step, row) in rows.into_iter().enumerate() {
        // SAFETY: the caller vouches for 8 floats of every step.
        unsafe { _mm256_storeu_ps(to.add(step * width), row) };
    }
}
