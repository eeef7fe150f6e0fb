//! Vectors of one instruction set behind one name, for kernels that are written once for all of them, and the
//! transposes that turn channels into lanes.

use super::{Simd, registers::Register};

/// The most lanes that any vector has.
pub(super) const MAX_LANES: usize = 16;

/// A register of `LANES` floats.
///
/// # Safety
/// A value exists only where the processor has the set: that is what makes its methods safe. They are inlined into
/// functions compiled for the set ([`with_vector`]).
pub(super) unsafe trait Vector: Copy {
    /// Floats in a register.
    const LANES: usize;

    /// # Safety
    /// The processor has the set.
    unsafe fn zero() -> Self;

    /// # Safety
    /// The processor has the set; `LANES` floats may be read.
    unsafe fn load(from: *const f32) -> Self;

    /// # Safety
    /// `LANES` floats may be written.
    unsafe fn store(self, to: *mut f32);

    /// `self + other`.
    fn add(self, other: Self) -> Self;

    /// `self - other`.
    fn sub(self, other: Self) -> Self;

    /// `factor · self + other`.
    fn mul_add(self, factor: f32, other: Self) -> Self;

    /// `self · factors + other`, lane by lane.
    fn mul_add_each(self, factors: Self, other: Self) -> Self;

    /// `factor · self`.
    fn scale(self, factor: f32) -> Self;

    /// Exchanges rows and lanes of the first `LANES` registers.
    fn transpose(rows: &mut [Self; MAX_LANES]);

    /// In lane `i` the sum of row `i`, of the first `LANES` registers.
    fn sums(rows: [Self; MAX_LANES]) -> Self;
}

/// Work that is written for any vector.
pub(super) trait Job {
    /// What it makes.
    type Output;

    /// Does the work. `#[inline(always)]`, so that it is compiled for its caller's set.
    ///
    /// # Safety
    /// The processor has the vector's set.
    unsafe fn run<V: Register>(self) -> Self::Output;
}

/// Runs a job with the vectors of a set.
///
/// # Panics
/// If the processor lacks the set.
pub(super) fn with_vector<J: Job>(simd: Simd, job: J) -> J::Output {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn avx512<J: Job>(job: J) -> J::Output {
        // SAFETY: this function runs only where the processor has the set.
        unsafe { job.run::<std::arch::x86_64::__m512>() }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<J: Job>(job: J) -> J::Output {
        // SAFETY: as above.
        unsafe { job.run::<std::arch::x86_64::__m256>() }
    }
    assert!(simd <= Simd::detect(), "this processor has no {simd}");
    match simd {
        // SAFETY: the processor has the set, as asserted.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { avx512(job) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { avx2(job) },
        // SAFETY: plain arrays need no set.
        _ => unsafe { job.run::<[f32; 8]>() },
    }
}

/// The lanes of a set's vectors.
pub(super) fn lanes_of(simd: Simd) -> usize {
    match simd {
        Simd::Avx512 => 16,
        Simd::Avx2 | Simd::Portable => 8,
    }
}

/// The first `count` lanes from memory, zeros behind them.
///
/// # Safety
/// The processor has the set; `count` floats may be read, at most `LANES`.
#[inline(always)]
pub(super) unsafe fn load_first<V: Register>(from: *const f32, count: usize) -> V {
    // SAFETY: the caller's promise; other lanes are not read.
    unsafe { V::zero().load_over(from, V::mask((1 << count) - 1)) }
}

/// Rows of channels become vectors: position `p` of `count`, of `channels` rows `stride` apart, becomes one vector with
/// a lane a channel. Positions lie in rows of `width`, whose vectors begin `pitch` vectors apart.
///
/// # Safety
/// The processor has the set; all positions of all rows may be read, and all their vectors written.
#[inline(always)]
pub(super) unsafe fn channels_to_lanes<V: Register>(
    from: *const f32,
    stride: usize,
    channels: usize,
    count: usize,
    to: *mut f32,
    width: usize,
    pitch: usize,
) {
    let (mut x, mut to) = (0, to);
    // SAFETY: the caller's promise.
    unsafe {
        let mut first = 0;
        while first < count {
            let here = V::LANES.min(count - first);
            let mut rows = [V::zero(); MAX_LANES];
            if here == V::LANES && channels == V::LANES {
                for (channel, row) in rows.iter_mut().take(V::LANES).enumerate() {
                    *row = V::load(from.add(channel * stride + first));
                }
            } else {
                for (channel, row) in rows.iter_mut().take(channels).enumerate() {
                    *row = load_first::<V>(from.add(channel * stride + first), here);
                }
            }
            V::transpose(&mut rows);
            if x + here <= width {
                for (i, row) in rows.iter().take(here).enumerate() {
                    row.store(to.add(i * V::LANES));
                }
                to = to.add(here * V::LANES);
                x += here;
            } else {
                for row in rows.iter().take(here) {
                    if x == width {
                        x = 0;
                        to = to.add((pitch - width) * V::LANES);
                    }
                    row.store(to);
                    to = to.add(V::LANES);
                    x += 1;
                }
            }
            first += here;
        }
    }
}

/// The way back: `count` vectors with a lane a channel, in rows of `width` that begin `pitch` vectors apart, become rows
/// of `channels` channels, `stride` apart; added to what is there with `ADD`.
///
/// # Safety
/// The processor has the set; the vectors may be read, and all positions of all rows written.
#[inline(always)]
pub(super) unsafe fn lanes_to_channels<V: Register, const ADD: bool>(
    from: *const f32,
    width: usize,
    pitch: usize,
    count: usize,
    to: *mut f32,
    stride: usize,
    channels: usize,
) {
    let (mut x, mut from) = (0, from);
    // SAFETY: the caller's promise.
    unsafe {
        let mut first = 0;
        while first < count {
            let here = V::LANES.min(count - first);
            let mut rows = [V::zero(); MAX_LANES];
            for row in rows.iter_mut().take(here) {
                if x == width {
                    x = 0;
                    from = from.add((pitch - width) * V::LANES);
                }
                *row = V::load(from);
                from = from.add(V::LANES);
                x += 1;
            }
            V::transpose(&mut rows);
            for (channel, row) in rows.iter().take(channels).enumerate() {
                let to = to.add(channel * stride + first);
                if here == V::LANES {
                    let row = if ADD { row.add(V::load(to)) } else { *row };
                    row.store(to);
                } else {
                    let row = if ADD { row.add(load_first::<V>(to, here)) } else { *row };
                    row.store_some(0, here, to);
                }
            }
            first += here;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use super::{MAX_LANES, Vector};

    // SAFETY: values are made by unsafe functions only, whose callers vouch for the set.
    unsafe impl Vector for __m512 {
        const LANES: usize = 16;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_storeu_ps(to, self) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: the value exists, so the processor has the set. So below.
            unsafe { _mm512_add_ps(self, other) }
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_sub_ps(self, other) }
        }

        #[inline(always)]
        fn mul_add(self, factor: f32, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(_mm512_set1_ps(factor), self, other) }
        }

        #[inline(always)]
        fn mul_add_each(self, factors: Self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_fmadd_ps(self, factors, other) }
        }

        #[inline(always)]
        fn scale(self, factor: f32) -> Self {
            // SAFETY: as above.
            unsafe { _mm512_mul_ps(_mm512_set1_ps(factor), self) }
        }

        #[inline(always)]
        fn transpose(rows: &mut [Self; MAX_LANES]) {
            // SAFETY: as above.
            unsafe {
                // Pairs of rows, then fours within each quarter of a register, then the quarters.
                let mut pairs = *rows;
                for i in 0..8 {
                    pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                    pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
                }
                let mut fours = pairs;
                for i in [0, 4, 8, 12] {
                    fours[i] = _mm512_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
                    fours[i + 1] = _mm512_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
                    fours[i + 2] = _mm512_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
                    fours[i + 3] = _mm512_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
                }
                for i in 0..4 {
                    let near = _mm512_shuffle_f32x4::<0x44>(fours[i], fours[i + 4]);
                    let far = _mm512_shuffle_f32x4::<0xee>(fours[i], fours[i + 4]);
                    let near_below = _mm512_shuffle_f32x4::<0x44>(fours[i + 8], fours[i + 12]);
                    let far_below = _mm512_shuffle_f32x4::<0xee>(fours[i + 8], fours[i + 12]);
                    rows[i] = _mm512_shuffle_f32x4::<0x88>(near, near_below);
                    rows[i + 4] = _mm512_shuffle_f32x4::<0xdd>(near, near_below);
                    rows[i + 8] = _mm512_shuffle_f32x4::<0x88>(far, far_below);
                    rows[i + 12] = _mm512_shuffle_f32x4::<0xdd>(far, far_below);
                }
            }
        }

        #[inline(always)]
        fn sums(mut rows: [Self; MAX_LANES]) -> Self {
            // SAFETY: as above.
            unsafe {
                // Neighbours are added up, of two registers at a time: lanes, pairs of lanes, quarters, halves.
                for i in [0, 2, 4, 6, 8, 10, 12, 14] {
                    let (a, b) = (rows[i], rows[i + 1]);
                    rows[i] = _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
                }
                for i in [0, 4, 8, 12] {
                    let (a, b) = (rows[i], rows[i + 2]);
                    rows[i] = _mm512_add_ps(_mm512_shuffle_ps::<0x88>(a, b), _mm512_shuffle_ps::<0xdd>(a, b));
                }
                for i in [0, 8] {
                    let (a, b) = (rows[i], rows[i + 4]);
                    rows[i] = _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
                }
                let (a, b) = (rows[0], rows[8]);
                _mm512_add_ps(_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b))
            }
        }
    }

    // SAFETY: values are made by unsafe functions only, whose callers vouch for the set.
    unsafe impl Vector for __m256 {
        const LANES: usize = 8;

        #[inline(always)]
        unsafe fn zero() -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm256_setzero_ps() }
        }

        #[inline(always)]
        unsafe fn load(from: *const f32) -> Self {
            // SAFETY: the caller's promise.
            unsafe { _mm256_loadu_ps(from) }
        }

        #[inline(always)]
        unsafe fn store(self, to: *mut f32) {
            // SAFETY: the caller's promise.
            unsafe { _mm256_storeu_ps(to, self) }
        }

        #[inline(always)]
        fn add(self, other: Self) -> Self {
            // SAFETY: the value exists, so the processor has the set. So below.
            unsafe { _mm256_add_ps(self, other) }
        }

        #[inline(always)]
        fn sub(self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_sub_ps(self, other) }
        }

        #[inline(always)]
        fn mul_add(self, factor: f32, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(_mm256_set1_ps(factor), self, other) }
        }

        #[inline(always)]
        fn mul_add_each(self, factors: Self, other: Self) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_fmadd_ps(self, factors, other) }
        }

        #[inline(always)]
        fn scale(self, factor: f32) -> Self {
            // SAFETY: as above.
            unsafe { _mm256_mul_ps(_mm256_set1_ps(factor), self) }
        }

        #[inline(always)]
        fn transpose(rows: &mut [Self; MAX_LANES]) {
            // SAFETY: as above.
            unsafe {
                // Pairs of rows, then fours within each half of a register, then the halves.
                let mut pairs = *rows;
                for i in 0..4 {
                    pairs[2 * i] = _mm256_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
                    pairs[2 * i + 1] = _mm256_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
                }
                let mut fours = pairs;
                for i in [0, 4] {
                    fours[i] = _mm256_shuffle_ps::<0x44>(pairs[i], pairs[i + 2]);
                    fours[i + 1] = _mm256_shuffle_ps::<0xee>(pairs[i], pairs[i + 2]);
                    fours[i + 2] = _mm256_shuffle_ps::<0x44>(pairs[i + 1], pairs[i + 3]);
                    fours[i + 3] = _mm256_shuffle_ps::<0xee>(pairs[i + 1], pairs[i + 3]);
                }
                for i in 0..4 {
                    rows[i] = _mm256_permute2f128_ps::<0x20>(fours[i], fours[i + 4]);
                    rows[i + 4] = _mm256_permute2f128_ps::<0x31>(fours[i], fours[i + 4]);
                }
            }
        }

        #[inline(always)]
        fn sums(mut rows: [Self; MAX_LANES]) -> Self {
            // SAFETY: as above.
            unsafe {
                // Neighbours are added up, of two registers at a time: lanes, pairs of lanes, halves.
                for i in [0, 2, 4, 6] {
                    let (a, b) = (rows[i], rows[i + 1]);
                    rows[i] = _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
                }
                for i in [0, 4] {
                    let (a, b) = (rows[i], rows[i + 2]);
                    rows[i] = _mm256_add_ps(_mm256_shuffle_ps::<0x88>(a, b), _mm256_shuffle_ps::<0xdd>(a, b));
                }
                let (a, b) = (rows[0], rows[4]);
                _mm256_add_ps(
                    _mm256_permute2f128_ps::<0x20>(a, b),
                    _mm256_permute2f128_ps::<0x31>(a, b),
                )
            }
        }
    }
}

// SAFETY: an array needs no set.
unsafe impl Vector for [f32; 8] {
    const LANES: usize = 8;

    #[inline(always)]
    unsafe fn zero() -> Self {
        [0.0; 8]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller's promise.
        unsafe { from.cast::<Self>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller's promise.
        unsafe { to.cast::<Self>().write_unaligned(self) }
    }

    #[inline(always)]
    fn add(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] + other[i])
    }

    #[inline(always)]
    fn sub(self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] - other[i])
    }

    #[inline(always)]
    fn mul_add(self, factor: f32, other: Self) -> Self {
        std::array::from_fn(|i| factor * self[i] + other[i])
    }

    #[inline(always)]
    fn mul_add_each(self, factors: Self, other: Self) -> Self {
        std::array::from_fn(|i| self[i] * factors[i] + other[i])
    }

    #[inline(always)]
    fn scale(self, factor: f32) -> Self {
        self.map(|lane| factor * lane)
    }

    #[inline(always)]
    fn transpose(rows: &mut [Self; MAX_LANES]) {
        let old = *rows;
        for (lane, row) in rows.iter_mut().take(8).enumerate() {
            *row = std::array::from_fn(|i| old[i][lane]);
        }
    }

    #[inline(always)]
    fn sums(rows: [Self; MAX_LANES]) -> Self {
        std::array::from_fn(|i| {
            let [a, b, c, d, e, f, g, h] = rows[i];
            ((a + e) + (c + g)) + ((b + f) + (d + h))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct RoundTrip {
        channels: usize,
        count: usize,
        width: usize,
    }

    impl Job for RoundTrip {
        type Output = ();

        #[inline(always)]
        unsafe fn run<V: Register>(self) {
            let RoundTrip { channels, count, width } = self;
            let (stride, pitch) = (count + 3, width + 2);
            let from: Vec<f32> = (0..channels * stride).map(|i| i as f32).collect();
            let mut lanes = vec![-1.0; count.div_ceil(width) * pitch * V::LANES];
            // SAFETY: the buffers are as long as that.
            unsafe {
                channels_to_lanes::<V>(from.as_ptr(), stride, channels, count, lanes.as_mut_ptr(), width, pitch);
            }
            for position in 0..count {
                let at = (position / width * pitch + position % width) * V::LANES;
                for lane in 0..V::LANES {
                    let wanted = if lane < channels {
                        (lane * stride + position) as f32
                    } else {
                        0.0
                    };
                    assert_eq!(
                        lanes[at + lane],
                        wanted,
                        "lane {lane} of {channels}, position {position}"
                    );
                }
            }
            let mut back = from.clone();
            // SAFETY: as above.
            unsafe {
                lanes_to_channels::<V, false>(lanes.as_ptr(), width, pitch, count, back.as_mut_ptr(), stride, channels);
                assert_eq!(back, from);
                lanes_to_channels::<V, true>(lanes.as_ptr(), width, pitch, count, back.as_mut_ptr(), stride, channels);
            }
            for (i, (twice, once)) in back.iter().zip(&from).enumerate() {
                let factor = if i % stride < count { 2.0 } else { 1.0 };
                assert_eq!(*twice, factor * once);
            }
        }
    }

    #[test]
    fn channels_become_lanes_and_channels_again() {
        for simd in [Simd::Portable, Simd::Avx2, Simd::Avx512] {
            if simd > Simd::detect() {
                continue;
            }
            for channels in [1, 3, lanes_of(simd)] {
                for (count, width) in [(1, 1), (5, 5), (36, 6), (49, 7), (64, 32), (39, 13)] {
                    with_vector(simd, RoundTrip { channels, count, width });
                }
            }
        }
    }
}
