//! What layers that map each value on its own share.

use rayon::prelude::*;

use crate::layer::{Backward, Forward};

/// Values a thread takes at a time: small enough to balance, large enough that taking it costs nothing.
pub const CHUNK: usize = 16 * 1024;

/// y = f(x), in place or not.
pub fn map(io: &mut Forward<'_>, f: impl Fn(f32) -> f32 + Sync) {
    let top = &mut io.top[0];
    if io.in_place {
        top.par_chunks_mut(CHUNK)
            .for_each(|y| y.iter_mut().for_each(|y| *y = f(*y)));
    } else {
        let chunks = top.par_chunks_mut(CHUNK).zip(io.bottom.get(0).par_chunks(CHUNK));
        chunks.for_each(|(y, x)| y.iter_mut().zip(x).for_each(|(y, x)| *y = f(*x)));
    }
}

/// dx = f(y, dy), in place or not.
pub fn map_gradient(io: &mut Backward<'_>, f: impl Fn(f32, f32) -> f32 + Sync) {
    if !io.propagate_down[0] {
        return;
    }
    let diff = &mut io.bottom_diff[0];
    let top = io.top.get(0).par_chunks(CHUNK);
    if io.in_place {
        let chunks = diff.par_chunks_mut(CHUNK).zip(top);
        chunks.for_each(|(dx, y)| dx.iter_mut().zip(y).for_each(|(dx, y)| *dx = f(*y, *dx)));
    } else {
        let chunks = diff
            .par_chunks_mut(CHUNK)
            .zip(top)
            .zip(io.top_diff.get(0).par_chunks(CHUNK));
        chunks.for_each(|((dx, y), dy)| dx.iter_mut().zip(y).zip(dy).for_each(|((dx, y), dy)| *dx = f(*y, *dy)));
    }
}
