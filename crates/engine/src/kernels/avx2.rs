//! AVX2 and FMA: tiles of 6 rows by 16 columns, 12 of the 16 registers for the sums.

use std::arch::x86_64::*;

use super::indexed::{IndexedTile, Run, runs_of};
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
    tile_indexed,
    pack_indexed,
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
        bias,
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
    // SAFETY: the caller's promise.
    unsafe { write(&sums, c, ldc, columns, accumulate, bias) };
}

/// Writes the sums of a tile.
///
/// # Safety
/// As [`Kernel::tile`], with `R` rows and `8 (V - 1) < columns ≤ 8 V`.
// Always inlined, and so compiled for its callers' set: by reference the sums would leave their registers.
#[inline(always)]
unsafe fn write<const R: usize, const V: usize>(
    sums: &[[__m256; V]; R],
    c: *mut f32,
    ldc: usize,
    columns: usize,
    accumulate: bool,
    bias: *const f32,
) {
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the row lies within c and is ours.
        let c = unsafe { std::slice::from_raw_parts_mut(c.add(row * ldc), columns) };
        // SAFETY: there is one for each row.
        let bias = (!bias.is_null()).then(|| unsafe { *bias.add(row) });
        for (c, &sum) in c.chunks_mut(8).zip(sums) {
            if let Ok(c) = <&mut [f32; 8]>::try_from(&mut *c) {
                // SAFETY: the array has 8 floats.
                unsafe {
                    let mut sum = sum;
                    if accumulate {
                        sum = _mm256_add_ps(sum, _mm256_loadu_ps(c.as_ptr()));
                    }
                    if let Some(bias) = bias {
                        sum = _mm256_add_ps(sum, _mm256_set1_ps(bias));
                    }
                    _mm256_storeu_ps(c.as_mut_ptr(), sum);
                }
            } else {
                let mut sums = [0.0; 8];
                // SAFETY: the array has 8 floats.
                unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), sum) };
                for (c, sum) in c.iter_mut().zip(sums) {
                    *c = if accumulate { *c + sum } else { sum };
                    if let Some(bias) = bias {
                        *c += bias;
                    }
                }
            }
        }
    }
}

/// # Safety
/// As [`Kernel::tile_indexed`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tile_indexed(tile: IndexedTile) {
    // SAFETY: the caller's promise, handed on; every arm computes exactly the rows of the tile.
    unsafe {
        match tile.rows {
            1 => indexed_of_rows::<1>(tile),
            2 => indexed_of_rows::<2>(tile),
            3 => indexed_of_rows::<3>(tile),
            4 => indexed_of_rows::<4>(tile),
            5 => indexed_of_rows::<5>(tile),
            _ => indexed_of_rows::<6>(tile),
        }
    }
}

/// # Safety
/// As [`Kernel::tile_indexed`].
#[target_feature(enable = "avx2,fma")]
unsafe fn indexed_of_rows<const R: usize>(tile: IndexedTile) {
    // SAFETY: as above, for the columns.
    unsafe {
        if tile.columns <= 8 {
            indexed_of::<R, 1>(tile)
        } else {
            indexed_of::<R, 2>(tile)
        }
    }
}

/// # Safety
/// As [`Kernel::tile_indexed`], with `R` rows and `8 (V - 1) < columns ≤ 8 V`.
#[target_feature(enable = "avx2,fma")]
unsafe fn indexed_of<const R: usize, const V: usize>(tile: IndexedTile) {
    let mut sums = [[_mm256_setzero_ps(); V]; R];
    let mut rows = [tile.a; R];
    let mut b = tile.b;
    // SAFETY: there is an offset for each row and each step, their sum is within `a`; `b` holds `depth` steps.
    unsafe {
        for (row, pointer) in rows.iter_mut().enumerate() {
            *pointer = tile.a.add(*tile.row_offsets.add(row));
        }
        for step in 0..tile.depth {
            let offset = *tile.step_offsets.add(step);
            let mut b_vectors = [_mm256_setzero_ps(); V];
            for (vector, b_vector) in b_vectors.iter_mut().enumerate() {
                *b_vector = _mm256_loadu_ps(b.add(8 * vector));
            }
            for (row, sums) in rows.iter().zip(&mut sums) {
                let a = _mm256_set1_ps(*row.add(offset));
                for (sum, &b) in sums.iter_mut().zip(&b_vectors) {
                    *sum = _mm256_fmadd_ps(a, b, *sum);
                }
            }
            b = b.add(tile.b_stride);
        }
        write(&sums, tile.c, tile.ldc, tile.columns, tile.accumulate, std::ptr::null());
    }
}

/// # Safety
/// As [`Kernel::pack_indexed`].
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_indexed(data: *const f32, row_offsets: &[usize], column_offsets: &[usize], to: *mut f32) {
    for (vector, columns) in column_offsets.chunks(8).enumerate() {
        let mut runs = [(0, 0); 8];
        let count = runs_of(columns, &mut runs);
        let to = to.wrapping_add(8 * vector);
        // SAFETY: the caller's promise; the last columns of the panel that are missing have no run.
        unsafe {
            match count {
                1 => pack_runs::<1>(data, row_offsets, &runs, to),
                2 => pack_runs::<2>(data, row_offsets, &runs, to),
                3..=4 => pack_runs::<4>(data, row_offsets, &runs, to),
                _ => pack_runs::<8>(data, row_offsets, &runs, to),
            }
        }
    }
}

/// Packs one vector a step from `N` loads.
///
/// # Safety
/// As [`Kernel::pack_indexed`].
#[target_feature(enable = "avx2,fma")]
unsafe fn pack_runs<const N: usize>(data: *const f32, row_offsets: &[usize], runs: &[Run; 8], to: *mut f32) {
    let bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let mut masks = [_mm256_setzero_si256(); N];
    for (mask, run) in masks.iter_mut().zip(runs) {
        *mask = _mm256_cmpeq_epi32(_mm256_and_si256(_mm256_set1_epi32(run.0 as i32), bits), bits);
    }
    for (step, &row) in row_offsets.iter().enumerate() {
        let mut vector = _mm256_setzero_ps();
        for (&mask, &(_, offset)) in masks.iter().zip(runs) {
            let from = data.wrapping_add(row).wrapping_offset(offset);
            // SAFETY: the mask keeps the load within the data.
            vector = unsafe { _mm256_or_ps(vector, _mm256_maskload_ps(from, mask)) };
        }
        // SAFETY: the panel has room for a vector a step.
        unsafe { _mm256_storeu_ps(to.add(step * COLUMNS), vector) };
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
