//! Loops compiled once for each instruction set.

use crate::kernels::Simd;

/// Runs `f`, whose loops the compiler turns into the widest vectors that [`Simd::current`] allows.
///
/// The compiler may only use a set's vectors in code that is inlined here: write `#[inline(always)]` before the
/// closure and on the functions that its loops call, and let it own its scalars (`move`), since scalars behind a
/// reference are read again at each step.
#[inline(always)]
pub fn vectorized<R>(f: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx2,fma")]
    fn avx512<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn avx2<R>(f: impl FnOnce() -> R) -> R {
        f()
    }
    match Simd::current() {
        // SAFETY: the current set is never above what the processor has.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx512 => unsafe { avx512(f) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Simd::Avx2 => unsafe { avx2(f) },
        _ => f(),
    }
}

/// `target[i] = source[i]`, on all threads.
pub fn copy(source: &[f32], target: &mut [f32]) {
    use rayon::prelude::*;

    use super::neuron::CHUNK;

    if target.len() <= CHUNK {
        target.copy_from_slice(source);
    } else {
        let chunks = target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK));
        chunks.for_each(|(target, source)| target.copy_from_slice(source));
    }
}
