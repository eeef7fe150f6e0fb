//! The sum of overlapping patches, for kernels that move by 1.

use super::{Simd, lanes, registers::Register};

/// The widest kernel whose masks are kept at hand.
const MAX_KERNEL: usize = 16;

/// How a kernel with a stride of 1 goes along one axis.
#[derive(Clone, Copy, Debug)]
pub struct Steps {
    /// Positions of the channel.
    pub input: usize,
    /// Positions of the kernel over it.
    pub output: usize,
    /// Values of the kernel.
    pub kernel: usize,
    /// Zeros before the channel's first value.
    pub pad: usize,
    /// From one value of the kernel to the next.
    pub dilation: usize,
}

impl Steps {
    /// The output for which value `tap` of the kernel lies on `input`, below zero or past the end if there is none.
    fn output_of(&self, input: usize, tap: usize) -> isize {
        (input + self.pad) as isize - (tap * self.dilation) as isize
    }
}

/// Whether [`col2im`] can do it, and is quicker than a loop.
pub fn fits(width: Steps) -> bool {
    width.kernel <= MAX_KERNEL && Simd::current() != Simd::Portable
}

/// Writes to each value of `channel` (h, w) the sum of what stands for it in `columns` (kernel h, kernel w, output h,
/// output w), added in this order.
///
/// A row's sums stay in registers. Added up in memory, tap by tap, each load would have to wait for a store that it
/// overlaps only in part.
///
/// # Panics
/// If a slice has another length, or the kernel does not [`fit`](fits).
pub fn col2im(height: Steps, width: Steps, columns: &[f32], channel: &mut [f32]) {
    col2im_for(Simd::current(), height, width, columns, channel);
}

pub(super) fn col2im_for(simd: Simd, height: Steps, width: Steps, columns: &[f32], channel: &mut [f32]) {
    let count = height.kernel * width.kernel * height.output * width.output;
    assert_eq!(columns.len(), count, "col2im: the columns have another length");
    assert_eq!(
        channel.len(),
        height.input * width.input,
        "col2im: the channel has another length"
    );
    assert!(width.kernel <= MAX_KERNEL, "col2im: the kernel is too wide");
    lanes::with_vector(
        simd,
        Job {
            height,
            width,
            columns,
            channel,
        },
    );
}

struct Job<'a> {
    height: Steps,
    width: Steps,
    columns: &'a [f32],
    channel: &'a mut [f32],
}

impl lanes::Job for Job<'_> {
    type Output = ();

    #[inline(always)]
    unsafe fn run<V: Register>(self) {
        let Job { height, width, .. } = self;
        let plane = height.output * width.output;
        for first in (0..width.input).step_by(V::LANES) {
            let lanes = V::LANES.min(width.input - first);
            // Which lanes each tap of a row has outputs for.
            let mut masks = [mask_of::<V>(0); MAX_KERNEL];
            for (tap, mask) in masks.iter_mut().enumerate().take(width.kernel) {
                let output = width.output_of(first, tap);
                let bits = (0..lanes as isize)
                    .filter(|lane| (0..width.output as isize).contains(&(output + lane)))
                    .fold(0, |bits, lane| bits | 1 << lane);
                *mask = mask_of::<V>(bits);
            }
            for row in 0..height.input {
                // SAFETY: the processor has the set.
                let mut sum = unsafe { V::zero() };
                for height_tap in 0..height.kernel {
                    let output_row = height.output_of(row, height_tap);
                    if !(0..height.output as isize).contains(&output_row) {
                        continue;
                    }
                    let start = height_tap * width.kernel * plane + output_row as usize * width.output;
                    for (tap, mask) in masks.iter().enumerate().take(width.kernel) {
                        let from = self.columns.as_ptr().wrapping_add(start + tap * plane);
                        let from = from.wrapping_offset(width.output_of(first, tap));
                        // SAFETY: the mask has lanes of this row of outputs only, which lies within the columns.
                        sum = sum.add(unsafe { V::zero().load_over(from, *mask) });
                    }
                }
                let to = &mut self.channel[row * width.input + first..][..lanes];
                // SAFETY: there are so many lanes to write to.
                unsafe { sum.store_some(0, lanes, to.as_mut_ptr()) };
            }
        }
    }
}

/// A mask of these lanes.
#[inline(always)]
fn mask_of<V: Register>(bits: u32) -> V::Mask {
    // SAFETY: only called where the processor has the set.
    unsafe { V::mask(bits) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random;

    /// The definition.
    fn plain(height: Steps, width: Steps, columns: &[f32]) -> Vec<f32> {
        let mut channel = vec![0.0; height.input * width.input];
        let mut columns = columns.iter();
        for height_tap in 0..height.kernel {
            for width_tap in 0..width.kernel {
                for row in 0..height.output {
                    for column in 0..width.output {
                        let value = columns.next().unwrap();
                        let y = (row + height_tap * height.dilation).checked_sub(height.pad);
                        let x = (column + width_tap * width.dilation).checked_sub(width.pad);
                        if let (Some(y), Some(x)) = (y, x)
                            && y < height.input
                            && x < width.input
                        {
                            channel[y * width.input + x] += value;
                        }
                    }
                }
            }
        }
        channel
    }

    #[test]
    fn the_sums_have_the_bits_of_the_definition_with_every_set() {
        let sets = [Simd::Portable, Simd::Avx2, Simd::Avx512];
        let key = random::key(&[7]);
        let mut seen = 0;
        for input in [1usize, 5, 8, 12, 16, 17, 31, 40] {
            for kernel in [1, 2, 3, 5, 16] {
                for pad in [0, 1, 4] {
                    for dilation in [1, 2] {
                        let extent = (kernel - 1) * dilation + 1;
                        let Some(room) = (input + 2 * pad).checked_sub(extent) else {
                            continue;
                        };
                        let width = Steps {
                            input,
                            output: room + 1,
                            kernel,
                            pad,
                            dilation,
                        };
                        let height = Steps {
                            input: 4,
                            output: 4,
                            kernel: 3,
                            pad: 1,
                            dilation: 1,
                        };
                        for (height, width) in [(height, width), (width, height)] {
                            let count = height.kernel * width.kernel * height.output * width.output;
                            let columns: Vec<f32> = (0..count as u64).map(|i| random::uniform(key, i) - 0.5).collect();
                            let expected = plain(height, width, &columns);
                            for simd in sets.into_iter().filter(|simd| *simd <= Simd::detect()) {
                                let mut channel = vec![f32::NAN; height.input * width.input];
                                col2im_for(simd, height, width, &columns, &mut channel);
                                assert_eq!(channel, expected, "{simd}: {height:?} {width:?}");
                                seen += 1;
                            }
                        }
                    }
                }
            }
        }
        assert!(seen > 300, "{seen}");
    }
}
