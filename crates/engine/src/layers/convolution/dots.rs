//! The gradient of few weights, as dot products over the positions of the output.
//!
//! [`Correlation::weight_diff`](super::correlation::Correlation::weight_diff) has output channels in the lanes of
//! vectors, and 20 of them cost as much as 32. Here positions are, and 20 cost 20.

use crate::{
    kernels::{
        Simd,
        dots::{self, Rows},
    },
    layers::patches::{Patches, Strips},
};

/// The sums of all weights hold up to so many floats, which a thread's cache takes.
const MAX_SUMS: usize = 128 << 10;

/// What of the cost with outputs in lanes this way may have, by count.
const MAX_COST_PERCENT: usize = 85;

/// Output channels that fill vectors when they are the lanes.
const OUTPUT_LANES: usize = 16;

/// For a convolution over two spatial axes.
pub struct WeightDots {
    simd: Simd,
    strips: Strips,
    group: usize,
    /// Channels of a group.
    channels: usize,
    /// Values of a channel of the bottom, and of the top.
    source_size: usize,
    target_size: usize,
    /// Where each (channel of a group, kernel…) and each output of a group begins.
    taps: Vec<usize>,
    outputs: Vec<usize>,
}

/// What one part of the images is computed with.
#[derive(Default)]
pub struct Buffers {
    strips: Vec<f32>,
    sums: Vec<f32>,
}

impl WeightDots {
    /// `None` where outputs in lanes are quicker.
    pub fn new(simd: Simd, patches: &Patches, channels: usize, outputs: usize, group: usize) -> Option<Self> {
        let strips = patches.strips()?;
        let (channels, outputs) = (channels / group, outputs / group);
        let depth = channels * patches.kernel_count;
        let [tile_taps, tile_outputs] = dots::tile_rows(simd);
        let positions = patches.output_count.next_multiple_of(dots::sums_per_pair(simd));
        let cost = positions * (depth.next_multiple_of(tile_taps) * outputs.next_multiple_of(tile_outputs));
        let cost_by_outputs = patches.output_count * depth * outputs.next_multiple_of(OUTPUT_LANES);
        let pays = cost * 100 <= cost_by_outputs * MAX_COST_PERCENT;
        let fits = group * depth * outputs * dots::sums_per_pair(simd) <= MAX_SUMS;
        let channel_count = strips.channel_count();
        (pays && fits).then(|| Self {
            simd,
            group,
            channels,
            source_size: patches.input_count,
            target_size: patches.output_count,
            taps: (0..channels)
                .flat_map(|channel| strips.taps().map(move |tap| channel * channel_count + tap))
                .collect(),
            outputs: (0..outputs).map(|output| output * patches.output_count).collect(),
            strips,
        })
    }

    /// The gradient of the weights, transposed: (group, channel of a group, kernel…, output of a group), summed over
    /// some images.
    pub fn weight_diff(&self, buffers: &mut Buffers, source: &[f32], target_diff: &[f32], weight_diff: &mut [f32]) {
        let Buffers { strips, sums } = buffers;
        let strip = self.strips.channel_count();
        strips.resize(self.channels * strip, 0.0);
        sums.resize(weight_diff.len() * dots::sums_per_pair(self.simd), 0.0);
        let group_sums = sums.len() / self.group;
        let sources = source.chunks_exact(self.channels * self.source_size);
        let diffs = target_diff.chunks_exact(self.outputs.len() * self.target_size);
        // A group of an image after the other.
        for (i, (source, diff)) in sources.zip(diffs).enumerate() {
            for (channel, strips) in source
                .chunks_exact(self.source_size)
                .zip(strips.chunks_exact_mut(strip))
            {
                self.strips.copy(channel, strips);
            }
            let (taps, outputs) = (
                Rows {
                    data: strips,
                    offsets: &self.taps,
                },
                Rows {
                    data: diff,
                    offsets: &self.outputs,
                },
            );
            let sums = &mut sums[i % self.group * group_sums..][..group_sums];
            dots::dots(self.simd, taps, outputs, self.target_size, sums, i >= self.group);
        }
        dots::add_lanes(self.simd, sums, weight_diff);
    }
}
