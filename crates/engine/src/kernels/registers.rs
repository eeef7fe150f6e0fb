//! What kernels that choose between values want of a vector, beyond [`Vector`]: masks, permutations, indices.

use super::lanes::Vector;

/// A vector of floats, or of as many indices (`i32`) as the floats of the same bits.
///
/// Every method is safe to call where the processor has the instruction set and pointers may be read or written as
/// said. They are inlined, so that they are compiled for the set of the function that calls them.
pub(super) trait Register: Vector {
    /// One bit for each lane, in whatever form the set has.
    type Mask: Copy;

    /// The same float in all lanes.
    unsafe fn splat(value: f32) -> Self;
    /// The same index in all lanes.
    #[inline(always)]
    unsafe fn splat_index(index: i32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { Self::splat(f32::from_bits(index.cast_unsigned())) }
    }
    /// The lanes of `mask` from where they are in memory if lane 0 is at `source`, the others from `self`. Only the
    /// former are read.
    unsafe fn load_over(self, source: *const f32, mask: Self::Mask) -> Self;
    /// Writes `count` lanes from `first` on to `target`.
    unsafe fn store_some(self, first: usize, count: usize, target: *mut f32);
    /// For each lane one of the lanes of `a` (0 to `LANES - 1`) and `b` (from `LANES` on).
    unsafe fn choose(a: Self, b: Self, indices: Self) -> Self;
    /// Products of floats.
    unsafe fn multiply(self, by: Self) -> Self;
    /// Quotients of floats.
    unsafe fn divide(self, by: Self) -> Self;
    /// The greater of each two; `other` where they are equal or where one is NaN.
    unsafe fn max(self, other: Self) -> Self;
    /// Sums of indices.
    unsafe fn add_indices(self, other: Self) -> Self;

    /// The mask of these bits, lane 0 the lowest.
    unsafe fn mask(bits: u32) -> Self::Mask;
    /// Lanes in one of both.
    unsafe fn or(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// Lanes in both.
    unsafe fn and(a: Self::Mask, b: Self::Mask) -> Self::Mask;
    /// Whether there is a lane in it.
    unsafe fn any(mask: Self::Mask) -> bool;
    /// Where `self > other`.
    unsafe fn is_greater(self, other: Self) -> Self::Mask;
    /// Where `self > other` or one of both is NaN.
    unsafe fn is_greater_or_nan(self, other: Self) -> Self::Mask;
    /// Where one of both is NaN.
    unsafe fn is_nan(self, other: Self) -> Self::Mask;
    /// Where none of both is NaN.
    unsafe fn is_number(self, other: Self) -> Self::Mask;
    /// `self` where the mask is, else `other`.
    unsafe fn select(self, mask: Self::Mask, other: Self) -> Self;
}

/// The lanes for which a condition holds, all of their bits set.
#[inline(always)]
fn lanes_where(condition: impl Fn(usize) -> bool) -> [u32; 8] {
    std::array::from_fn(|lane| if condition(lane) { u32::MAX } else { 0 })
}

impl Register for [f32; 8] {
    type Mask = [u32; 8];

    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        [value; 8]
    }
    #[inline(always)]
    unsafe fn load_over(self, source: *const f32, mask: [u32; 8]) -> Self {
        if mask == [u32::MAX; 8] {
            // SAFETY: the caller's promise.
            return unsafe { Self::load(source) };
        }
        std::array::from_fn(|lane| {
            // Chosen without a branch, which would be mispredicted.
            let (there, here) = (source.wrapping_add(lane), &raw const self[lane]);
            let place = std::hint::select_unpredictable(mask[lane] != 0, there, here);
            // SAFETY: the caller's promise, or a lane of ours.
            unsafe { place.read() }
        })
    }
    #[inline(always)]
    unsafe fn store_some(self, first: usize, count: usize, target: *mut f32) {
        let values = &self[first..][..count];
        // SAFETY: the caller's promise.
        unsafe { target.copy_from_nonoverlapping(values.as_ptr(), count) };
    }
    #[inline(always)]
    unsafe fn choose(a: Self, b: Self, indices: Self) -> Self {
        let both = [a, b];
        std::array::from_fn(|lane| both.as_flattened()[indices[lane].to_bits() as usize % 16])
    }
    #[inline(always)]
    unsafe fn multiply(self, by: Self) -> Self {
        std::array::from_fn(|lane| self[lane] * by[lane])
    }
    #[inline(always)]
    unsafe fn divide(self, by: Self) -> Self {
        std::array::from_fn(|lane| self[lane] / by[lane])
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        std::array::from_fn(|lane| {
            if self[lane] > other[lane] {
                self[lane]
            } else {
                other[lane]
            }
        })
    }
    #[inline(always)]
    unsafe fn add_indices(self, other: Self) -> Self {
        std::array::from_fn(|lane| f32::from_bits(self[lane].to_bits().wrapping_add(other[lane].to_bits())))
    }
    #[inline(always)]
    unsafe fn mask(bits: u32) -> [u32; 8] {
        lanes_where(|lane| bits >> lane & 1 != 0)
    }
    #[inline(always)]
    unsafe fn or(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|lane| a[lane] | b[lane])
    }
    #[inline(always)]
    unsafe fn and(a: [u32; 8], b: [u32; 8]) -> [u32; 8] {
        std::array::from_fn(|lane| a[lane] & b[lane])
    }
    #[inline(always)]
    unsafe fn any(mask: [u32; 8]) -> bool {
        mask != [0; 8]
    }
    #[inline(always)]
    unsafe fn is_greater(self, other: Self) -> [u32; 8] {
        lanes_where(|lane| self[lane] > other[lane])
    }
    #[inline(always)]
    unsafe fn is_greater_or_nan(self, other: Self) -> [u32; 8] {
        lanes_where(|lane| (self[lane] > other[lane]) | self[lane].is_nan() | other[lane].is_nan())
    }
    #[inline(always)]
    unsafe fn is_nan(self, other: Self) -> [u32; 8] {
        lanes_where(|lane| self[lane].is_nan() | other[lane].is_nan())
    }
    #[inline(always)]
    unsafe fn is_number(self, other: Self) -> [u32; 8] {
        lanes_where(|lane| !(self[lane].is_nan() | other[lane].is_nan()))
    }
    #[inline(always)]
    unsafe fn select(self, mask: [u32; 8], other: Self) -> Self {
        let (a, b) = (self.map(f32::to_bits), other.map(f32::to_bits));
        std::array::from_fn(|lane| f32::from_bits(a[lane] & mask[lane] | b[lane] & !mask[lane]))
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{Register, Vector};

    #[inline(always)]
    fn as_indices(register: __m512) -> __m512i {
        // SAFETY: both are 16 numbers of 32 bits, and every bit pattern is one.
        unsafe { std::mem::transmute(register) }
    }

    // SAFETY (of all blocks below): the caller's promise, for the instruction set and for pointers.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Register for __m512 {
        type Mask = __mmask16;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { _mm512_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load_over(self, source: *const f32, mask: __mmask16) -> Self {
            unsafe { _mm512_mask_loadu_ps(self, mask, source) }
        }
        #[inline(always)]
        unsafe fn store_some(self, first: usize, count: usize, target: *mut f32) {
            let mask = (((1u32 << count) - 1) << first) as __mmask16;
            unsafe { _mm512_mask_storeu_ps(target.wrapping_sub(first), mask, self) };
        }
        #[inline(always)]
        unsafe fn choose(a: Self, b: Self, indices: Self) -> Self {
            unsafe { _mm512_permutex2var_ps(a, as_indices(indices), b) }
        }
        #[inline(always)]
        unsafe fn multiply(self, by: Self) -> Self {
            unsafe { _mm512_mul_ps(self, by) }
        }
        #[inline(always)]
        unsafe fn divide(self, by: Self) -> Self {
            unsafe { _mm512_div_ps(self, by) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { _mm512_max_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn add_indices(self, other: Self) -> Self {
            unsafe { _mm512_castsi512_ps(_mm512_add_epi32(as_indices(self), as_indices(other))) }
        }
        #[inline(always)]
        unsafe fn mask(bits: u32) -> __mmask16 {
            bits as __mmask16
        }
        #[inline(always)]
        unsafe fn or(a: __mmask16, b: __mmask16) -> __mmask16 {
            a | b
        }
        #[inline(always)]
        unsafe fn and(a: __mmask16, b: __mmask16) -> __mmask16 {
            a & b
        }
        #[inline(always)]
        unsafe fn any(mask: __mmask16) -> bool {
            mask != 0
        }
        #[inline(always)]
        unsafe fn is_greater(self, other: Self) -> __mmask16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(self, other) }
        }
        #[inline(always)]
        unsafe fn is_greater_or_nan(self, other: Self) -> __mmask16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_NLE_UQ>(self, other) }
        }
        #[inline(always)]
        unsafe fn is_nan(self, other: Self) -> __mmask16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(self, other) }
        }
        #[inline(always)]
        unsafe fn is_number(self, other: Self) -> __mmask16 {
            unsafe { _mm512_cmp_ps_mask::<_CMP_ORD_Q>(self, other) }
        }
        #[inline(always)]
        unsafe fn select(self, mask: __mmask16, other: Self) -> Self {
            unsafe { _mm512_mask_blend_ps(mask, other, self) }
        }
    }

    // SAFETY (of all blocks below): as above.
    #[allow(clippy::undocumented_unsafe_blocks)]
    impl Register for __m256 {
        type Mask = __m256;

        #[inline(always)]
        unsafe fn splat(value: f32) -> Self {
            unsafe { _mm256_set1_ps(value) }
        }
        #[inline(always)]
        unsafe fn load_over(self, source: *const f32, mask: __m256) -> Self {
            let found = unsafe { _mm256_maskload_ps(source, _mm256_castps_si256(mask)) };
            unsafe { found.select(mask, self) }
        }
        #[inline(always)]
        unsafe fn store_some(self, first: usize, count: usize, target: *mut f32) {
            // Not a masked store, which takes long on many processors.
            unsafe {
                if count == 8 {
                    return self.store(target);
                }
                let lanes = _mm256_add_epi32(
                    _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                    _mm256_set1_epi32(first as i32),
                );
                let values = _mm256_permutevar8x32_ps(self, lanes);
                let (mut rest, mut target) = (_mm256_castps256_ps128(values), target);
                if count & 4 != 0 {
                    _mm_storeu_ps(target, rest);
                    rest = _mm256_extractf128_ps::<1>(values);
                    target = target.add(4);
                }
                if count & 2 != 0 {
                    _mm_storel_pd(target.cast(), _mm_castps_pd(rest));
                    rest = _mm_movehl_ps(rest, rest);
                    target = target.add(2);
                }
                if count & 1 != 0 {
                    _mm_store_ss(target, rest);
                }
            }
        }
        #[inline(always)]
        unsafe fn choose(a: Self, b: Self, indices: Self) -> Self {
            unsafe {
                let lanes = _mm256_castps_si256(indices);
                let (a, b) = (_mm256_permutevar8x32_ps(a, lanes), _mm256_permutevar8x32_ps(b, lanes));
                // Bit 3 of an index says whether it is of b, and a selection looks at bit 31.
                _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_slli_epi32::<28>(lanes)))
            }
        }
        #[inline(always)]
        unsafe fn multiply(self, by: Self) -> Self {
            unsafe { _mm256_mul_ps(self, by) }
        }
        #[inline(always)]
        unsafe fn divide(self, by: Self) -> Self {
            unsafe { _mm256_div_ps(self, by) }
        }
        #[inline(always)]
        unsafe fn max(self, other: Self) -> Self {
            unsafe { _mm256_max_ps(self, other) }
        }
        #[inline(always)]
        unsafe fn add_indices(self, other: Self) -> Self {
            let (a, b) = unsafe { (_mm256_castps_si256(self), _mm256_castps_si256(other)) };
            unsafe { _mm256_castsi256_ps(_mm256_add_epi32(a, b)) }
        }
        #[inline(always)]
        unsafe fn mask(bits: u32) -> __m256 {
            unsafe {
                let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
                let bits = _mm256_and_si256(_mm256_set1_epi32(bits.cast_signed()), lanes);
                _mm256_castsi256_ps(_mm256_cmpeq_epi32(bits, lanes))
            }
        }
        #[inline(always)]
        unsafe fn or(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_or_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn and(a: __m256, b: __m256) -> __m256 {
            unsafe { _mm256_and_ps(a, b) }
        }
        #[inline(always)]
        unsafe fn any(mask: __m256) -> bool {
            unsafe { _mm256_movemask_ps(mask) != 0 }
        }
        #[inline(always)]
        unsafe fn is_greater(self, other: Self) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_GT_OQ>(self, other) }
        }
        #[inline(always)]
        unsafe fn is_greater_or_nan(self, other: Self) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_NLE_UQ>(self, other) }
        }
        #[inline(always)]
        unsafe fn is_nan(self, other: Self) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_UNORD_Q>(self, other) }
        }
        #[inline(always)]
        unsafe fn is_number(self, other: Self) -> __m256 {
            unsafe { _mm256_cmp_ps::<_CMP_ORD_Q>(self, other) }
        }
        #[inline(always)]
        unsafe fn select(self, mask: __m256, other: Self) -> Self {
            unsafe { _mm256_blendv_ps(other, self, mask) }
        }
    }
}
