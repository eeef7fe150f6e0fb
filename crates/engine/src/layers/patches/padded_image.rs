//! A channel that lies in its padding, so that kernels read patches where they are, without a matrix of them.

use super::Axis;

/// How a channel lies with its padding: the value that tap `t` meets at output position `p` is at `taps[t] +
/// positions[p]`. With a stride of `s` along the rows, each row lies as `s` parts, every `s`th value in each, so that
/// neighbouring outputs meet neighbouring values.
#[derive(Default)]
pub struct PaddedImage {
    /// Whether the channel itself lies so: no copy is needed.
    pub is_image: bool,
    /// Values in a channel.
    pub channel_size: usize,
    /// One for each position of the kernel.
    pub taps: Vec<usize>,
    /// One for each position of the output.
    pub positions: Vec<usize>,
    axes: Vec<Axis>,
    /// Of all axes but the last, with their padding.
    extents: Vec<usize>,
    /// Values in one of the parts of a row.
    phase_width: usize,
}

impl PaddedImage {
    /// For kernels over these spatial axes.
    pub(super) fn new(axes: &[Axis]) -> Self {
        let (outer, width) = axes.split_at(axes.len() - 1);
        let width = width[0];
        let is_image = axes.iter().all(|axis| axis.pad == 0) && width.stride == 1;
        let reach = |axis: &Axis| (axis.output - 1) * axis.stride + (axis.kernel - 1) * axis.dilation + 1;
        let extents: Vec<usize> = outer
            .iter()
            .map(|axis| if is_image { axis.input } else { reach(axis) })
            .collect();
        let phase_width = if is_image {
            width.input
        } else {
            reach(&width).div_ceil(width.stride)
        };
        let row = phase_width * width.stride;
        let mut taps = vec![0];
        let mut positions = vec![0];
        for (axis, extent) in outer.iter().zip(&extents) {
            taps = products(&taps, *extent, axis.kernel, |tap| tap * axis.dilation);
            positions = products(&positions, *extent, axis.output, |output| output * axis.stride);
        }
        let phase = |x: usize| x % width.stride * phase_width + x / width.stride;
        Self {
            is_image,
            channel_size: extents.iter().product::<usize>() * row,
            taps: products(&taps, row, width.kernel, |tap| phase(tap * width.dilation)),
            positions: products(&positions, row, width.output, |output| output),
            axes: axes.to_vec(),
            extents,
            phase_width,
        }
    }

    /// Copies a channel to its place in the padding, which is left as it is. What no patch meets is left out.
    pub fn copy(&self, channel: &[f32], padded: &mut [f32]) {
        let (outer, width) = self.axes.split_at(self.axes.len() - 1);
        let width = width[0];
        let row_size = self.phase_width * width.stride;
        for (row, from) in channel.chunks_exact(width.input.max(1)).enumerate() {
            let (mut index, mut place, mut scale, mut is_met) = (row, 0, row_size, true);
            for (axis, extent) in outer.iter().zip(&self.extents).rev() {
                let position = index % axis.input + axis.pad;
                is_met &= position < *extent;
                place += position * scale;
                scale *= extent;
                index /= axis.input;
            }
            if !is_met {
                continue;
            }
            let to = &mut padded[place..place + row_size];
            if width.stride == 1 {
                let count = from.len().min(row_size.saturating_sub(width.pad));
                to[width.pad..][..count].copy_from_slice(&from[..count]);
                continue;
            }
            for (first, from) in (0..from.len().min(width.stride)).map(|first| (first, &from[first..])) {
                let start = first + width.pad;
                let to = &mut to[start % width.stride * self.phase_width..][..self.phase_width];
                let from = from.iter().step_by(width.stride);
                to.iter_mut()
                    .skip(start / width.stride)
                    .zip(from)
                    .for_each(|(to, from)| *to = *from);
            }
        }
    }
}

/// For each start and each of `count` indices: the start, scaled by the extent of the index, plus what `f` makes of it.
fn products(starts: &[usize], extent: usize, count: usize, f: impl Fn(usize) -> usize) -> Vec<usize> {
    let mut all = Vec::with_capacity(starts.len() * count);
    for start in starts {
        all.extend((0..count).map(|index| start * extent + f(index)));
    }
    all
}
