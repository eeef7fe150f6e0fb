//! Packing: a block of a matrix is copied into panels, in the order in which a microkernel reads them.
//!
//! A lane is a row of `a` or a column of `b`. A panel holds `WIDTH` lanes, interleaved: for each step of the sum the
//! `WIDTH` floats that the kernel needs at once. Lanes missing from the last panel are zeros.

/// Floats that a packing function may write past its last panel.
pub(super) const SLACK: usize = 8;

/// A block to be packed: step `p` of lane `l` is `data[l * lane_stride + p * depth_stride]`.
#[derive(Clone, Copy)]
pub(super) struct Lanes<'a> {
    pub data: &'a [f32],
    pub lanes: usize,
    pub lane_stride: usize,
    pub depth: usize,
    pub depth_stride: usize,
}

/// Transposes 8 × 8 floats: lane `l`, step `p` is read at `l * lane_stride + p` and written at `p * width + l`.
/// Lanes from the given number on are not read, and written as zeros.
///
/// # Safety
/// What it reads and writes lies in allocations, and the processor has what the function was compiled for.
pub(super) type Transpose = unsafe fn(source: *const f32, lanes: usize, lane_stride: usize, to: *mut f32, width: usize);

/// Packs into panels of `WIDTH` lanes. Inlined into functions with a `target_feature`, which it is then compiled for.
#[inline(always)]
pub(super) fn pack<const WIDTH: usize>(source: Lanes<'_>, to: &mut [f32], transpose: Option<Transpose>) {
    let Lanes {
        data,
        lanes,
        lane_stride,
        depth,
        depth_stride,
    } = source;
    for first in (0..lanes).step_by(WIDTH) {
        let data = &data[first * lane_stride..];
        let lanes = WIDTH.min(lanes - first);
        let to = &mut to[first * depth..];
        if lane_stride == 1 {
            copy_rows::<WIDTH>(data, lanes, depth_stride, &mut to[..WIDTH * depth]);
            continue;
        }
        let mut done = 0;
        if let (1, Some(transpose)) = (depth_stride, transpose) {
            done = depth - depth % 8;
            transpose_blocks::<WIDTH>(data, lanes, lane_stride, done, to, transpose);
        }
        for (step, to) in to[..WIDTH * depth].chunks_exact_mut(WIDTH).enumerate().skip(done) {
            let data = &data[step * depth_stride..];
            for (lane, to) in to.iter_mut().enumerate() {
                *to = if lane < lanes { data[lane * lane_stride] } else { 0.0 };
            }
        }
    }
}

/// Lanes lie side by side: each step is one copy.
#[inline(always)]
fn copy_rows<const WIDTH: usize>(data: &[f32], lanes: usize, depth_stride: usize, to: &mut [f32]) {
    for (step, to) in to.chunks_exact_mut(WIDTH).enumerate() {
        let data = &data[step * depth_stride..];
        if lanes == WIDTH {
            to.copy_from_slice(&data[..WIDTH]);
        } else {
            to[..lanes].copy_from_slice(&data[..lanes]);
            to[lanes..].fill(0.0);
        }
    }
}

/// Each lane is contiguous: the first `depth` steps, a multiple of 8, block by block.
#[inline(always)]
fn transpose_blocks<const WIDTH: usize>(
    data: &[f32],
    lanes: usize,
    lane_stride: usize,
    depth: usize,
    to: &mut [f32],
    transpose: Transpose,
) {
    if depth == 0 {
        return;
    }
    assert!((lanes - 1) * lane_stride + depth <= data.len());
    assert!(WIDTH * depth + SLACK <= to.len());
    for lane in (0..WIDTH).step_by(8) {
        let lanes = lanes.saturating_sub(lane).min(8);
        let source = if lanes > 0 { &data[lane * lane_stride..] } else { data };
        for step in (0..depth).step_by(8) {
            // SAFETY: the asserts above cover the reads; writes go up to 8 lanes past `lane` for every step, which with
            // a WIDTH that is no multiple of 8 spills into the next step (written after) and at the end into the slack.
            unsafe {
                let to = to.as_mut_ptr().add(step * WIDTH + lane);
                transpose(source.as_ptr().add(step), lanes, lane_stride, to, WIDTH);
            }
        }
    }
}
