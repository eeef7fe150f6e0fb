//! What layers that map each value on its own share.

use rayon::prelude::*;

use super::vectorized::vectorized;
use crate::layer::{Backward, Forward};

/// Values a thread takes at a time: small enough to balance, large enough that taking it costs nothing.
pub const CHUNK: usize = 16 * 1024;

/// y = f(x), in place or not. An `f` marked `#[inline(always)]`, with neither branches nor calls, is vectorised.
pub fn map(io: &mut Forward<'_>, f: impl Fn(f32) -> f32 + Copy + Send + Sync) {
    let top = &mut io.top[0];
    if io.in_place {
        top.par_chunks_mut(CHUNK).for_each(move |y| {
            vectorized(
                #[inline(always)]
                move || y.iter_mut().for_each(|y| *y = f(*y)),
            );
        });
    } else {
        let chunks = top.par_chunks_mut(CHUNK).zip(io.bottom.get(0).par_chunks(CHUNK));
        chunks.for_each(move |(y, x)| {
            vectorized(
                #[inline(always)]
                move || y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x)),
            );
        });
    }
}

/// dx = f(y, dy), in place or not; vectorised as in [`map`].
pub fn map_gradient(io: &mut Backward<'_>, f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync) {
    if !io.propagate_down[0] {
        return;
    }
    let diff = &mut io.bottom_diff[0];
    if io.in_place {
        let chunks = diff.par_chunks_mut(CHUNK).zip(io.top.get(0).par_chunks(CHUNK));
        chunks.for_each(move |(dx, y)| {
            vectorized(
                #[inline(always)]
                move || dx.iter_mut().zip(y).for_each(|(dx, y)| *dx = f(*y, *dx)),
            );
        });
    } else {
        map_pairs(io.top.get(0), io.top_diff.get(0), diff, f);
    }
}

/// dx = f(x, dy) for layers that need the bottom and so never run in place; vectorised as in [`map`].
pub fn map_bottom_gradient(io: &mut Backward<'_>, f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync) {
    if io.propagate_down[0] {
        map_pairs(io.bottom.get(0), io.top_diff.get(0), &mut io.bottom_diff[0], f);
    }
}

/// result = f(a, b); vectorised as in [`map`].
pub fn map_pairs(a: &[f32], b: &[f32], result: &mut [f32], f: impl Fn(f32, f32) -> f32 + Copy + Send + Sync) {
    let chunks = result
        .par_chunks_mut(CHUNK)
        .zip(a.par_chunks(CHUNK))
        .zip(b.par_chunks(CHUNK));
    chunks.for_each(move |((result, a), b)| {
        vectorized(
            #[inline(always)]
            move || {
                let pairs = a.iter().zip(b);
                result
                    .iter_mut()
                    .zip(pairs)
                    .for_each(|(result, (a, b))| *result = f(*a, *b));
            },
        );
    });
}
