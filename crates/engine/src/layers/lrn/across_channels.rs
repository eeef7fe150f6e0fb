//! LRN across channels: on a block of positions from `start` on, in all channels of an image.

use std::ops::Range;

use super::{Buffers, Lrn, formula::add_up};

/// So many positions are worked on at once, in all channels: what is needed of them stays in the cache.
const BLOCK: usize = 128;

/// Images of no more values are worked on whole: their channels need not be worked on one by one, each with a rest.
const MAX_WHOLE_IMAGE: usize = 128 << 10;

impl Lrn {
    /// How many positions are worked on at once across channels.
    pub(super) fn block(&self) -> usize {
        if self.channels * self.plane <= MAX_WHOLE_IMAGE {
            self.plane
        } else {
            BLOCK.min(self.plane)
        }
    }

    /// The blocks of positions of `images`, as the offset of the first channel's and their number.
    pub(super) fn blocks(&self, images: &[f32]) -> impl Iterator<Item = (usize, usize)> + use<> {
        let (image, plane, block) = (self.channels * self.plane, self.plane, self.block());
        let starts = move |image| (0..plane).step_by(block).map(move |start| (image, start));
        let starts = (0..images.len()).step_by(image).flat_map(starts);
        starts.map(move |(image, start)| (image + start, block.min(plane - start)))
    }

    /// The channels around channel `index`.
    fn around(&self, index: usize) -> Range<usize> {
        index.saturating_sub(self.reach)..(index + self.reach + 1).min(self.channels)
    }

    /// How many runs of neighbouring values a block consists of, and their length: one run if it is a whole image.
    fn lines(&self, count: usize) -> (usize, usize) {
        if count == self.plane {
            (1, self.channels * count)
        } else {
            (self.channels, count)
        }
    }

    /// For each channel of a block, the squares of the channels around it, added up.
    #[inline(always)]
    fn sum_squares(&self, [start, count]: [usize; 2], x: &[f32], sums: &mut [f32]) {
        for channel in 0..self.channels {
            let x_of = |channel: usize| &x[start + channel * self.plane..][..count];
            let sums = &mut sums[channel * count..][..count];
            add_up(self.around(channel).map(x_of), |x| x * x, sums);
        }
    }

    #[inline(always)]
    pub(super) fn forward_block(&self, buffers: &mut Buffers, [start, count]: [usize; 2], x: &[f32], y: &mut [f32]) {
        let (plane, scale) = (self.plane, &mut buffers.scale);
        self.sum_squares([start, count], x, scale);
        let (lines, length) = self.lines(count);
        for line in 0..lines {
            let values = start + line * plane..start + line * plane + length;
            let sums = &scale[line * count..][..length];
            self.formula.normalize(sums, &x[values.clone()], &mut y[values]);
        }
    }

    #[inline(always)]
    pub(super) fn backward_block(
        &self,
        buffers: &mut Buffers,
        [start, count]: [usize; 2],
        [x, dy]: [&[f32]; 2],
        dx: &mut [f32],
    ) {
        let (plane, Buffers { scale, terms, .. }) = (self.plane, buffers);
        self.sum_squares([start, count], x, scale);
        let (lines, length) = self.lines(count);
        for line in 0..lines {
            let values = start + line * plane..start + line * plane + length;
            let buffer = line * count..line * count + length;
            let (sums, terms) = (&mut scale[buffer.clone()], &mut terms[buffer]);
            self.formula
                .gradient_terms([&x[values.clone()], &dy[values]], sums, terms);
        }
        for channel in 0..self.channels {
            let terms_of = |channel: usize| &terms[channel * count..][..count];
            let dx = &mut dx[start + channel * plane..][..count];
            add_up(self.around(channel).map(terms_of), |term| term, dx);
        }
        for line in 0..lines {
            let values = start + line * plane..start + line * plane + length;
            let powers = &scale[line * count..][..length];
            self.formula
                .gradient([&x[values.clone()], &dy[values.clone()]], powers, &mut dx[values]);
        }
    }
}
