//! The patches of images that kernels slide over, over any number of spatial axes: where they lie in a padded copy of
//! the image, a matrix of them (im2col) and their sum (col2im).

use std::ops::Range;

use crate::{
    LayerError, Shape,
    kernels::{
        col2im::{self, Steps},
        winograd::Grid,
    },
    spec::ConvolutionSpec,
};

/// What a kernel meets on its way over one channel.
#[derive(Default)]
pub struct Patches {
    /// The spatial axes, at least two: what is missing has extent 1.
    axes: Vec<Axis>,
    /// What each position of the kernel meets of the last two axes.
    planes: Vec<Plane>,
    /// Values in a channel.
    pub input_count: usize,
    /// Positions of the kernel.
    pub output_count: usize,
    /// Values in a channel of the kernel.
    pub kernel_count: usize,
    /// Whether the matrix of the patches is the channel itself.
    pub is_identity: bool,
}

/// One spatial axis.
#[derive(Clone, Copy)]
struct Axis {
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    pad: usize,
    dilation: usize,
}

impl Axis {
    const ONE: Self = Self {
        input: 1,
        output: 1,
        kernel: 1,
        stride: 1,
        pad: 0,
        dilation: 1,
    };

    /// For a kernel that moves by 1.
    fn steps(&self) -> Option<Steps> {
        (self.stride == 1).then_some(Steps {
            input: self.input,
            output: self.output,
            kernel: self.kernel,
            pad: self.pad,
            dilation: self.dilation,
        })
    }

    /// The outputs for which kernel position `tap` meets the input and not the padding, and the input that the first
    /// of them meets.
    fn inside(&self, tap: usize) -> (Range<usize>, usize) {
        let offset = tap * self.dilation;
        let start = self.pad.saturating_sub(offset).div_ceil(self.stride);
        let inputs = (self.input + self.pad).saturating_sub(offset);
        let end = inputs.div_ceil(self.stride).min(self.output);
        if start < end {
            (start..end, start * self.stride + offset - self.pad)
        } else {
            (0..0, 0)
        }
    }
}

impl Patches {
    /// The patches of a bottom whose channels lie along `channel_axis`; also the spatial extents of the kernel and of
    /// the output.
    ///
    /// # Errors
    /// A kernel larger than the padded bottom, or settings for another number of axes.
    pub fn new(
        spec: &ConvolutionSpec,
        bottom: &Shape,
        channel_axis: usize,
    ) -> Result<(Self, Vec<usize>, Vec<usize>), LayerError> {
        let error = |fact: String| LayerError::BottomShape {
            bottom: 0,
            shape: bottom.clone(),
            fact,
        };
        let spatial = &bottom.dims()[channel_axis + 1..];
        let pick = |name: &str, list: &[usize], default: usize| each_axis(name, list, default, bottom, spatial.len());
        let kernel = pick("kernel_size", &spec.kernel, 1)?;
        let stride = pick("stride", &spec.stride, 1)?;
        let pad = pick("pad", &spec.pad, 0)?;
        let dilation = pick("dilation", &spec.dilation, 1)?;
        let mut axes = vec![Axis::ONE; 2usize.saturating_sub(spatial.len())];
        let mut output = Vec::with_capacity(spatial.len());
        for (i, input) in spatial.iter().enumerate() {
            let extent = (kernel[i] - 1) * dilation[i] + 1;
            let padded = input + 2 * pad[i];
            if padded < extent {
                return Err(error(format!(
                    "the kernel covers {extent} positions of axis {}, which has {padded} with its padding: \
                     make kernel_size or dilation smaller, or pad larger",
                    channel_axis + 1 + i
                )));
            }
            output.push((padded - extent) / stride[i] + 1);
            axes.push(Axis {
                input: *input,
                output: output[i],
                kernel: kernel[i],
                stride: stride[i],
                pad: pad[i],
                dilation: dilation[i],
            });
        }
        let checked = |dims: &[usize]| {
            let shape = Shape::new(dims);
            shape.checked_count().ok_or(LayerError::TooLarge { shape })
        };
        let (height, width) = (axes[axes.len() - 2], axes[axes.len() - 1]);
        let taps = (0..height.kernel).flat_map(|y| (0..width.kernel).map(move |x| (y, x)));
        let patches = Self {
            planes: taps.map(|(y, x)| Plane::new(height, width, y, x)).collect(),
            input_count: spatial.iter().product(),
            output_count: checked(&output)?,
            kernel_count: checked(&kernel)?,
            is_identity: axes
                .iter()
                .all(|axis| axis.kernel == 1 && axis.stride == 1 && axis.pad == 0),
            axes,
        };
        Ok((patches, kernel, output))
    }

    /// Copies what stands in the patches of a channel: row (kernel position…), column (output position…).
    pub fn im2col(&self, channel: &[f32], columns: &mut [f32]) {
        self.for_each_plane(columns, |plane, input, output| {
            output.fill(0.0);
            if let Some(input) = input {
                plane.copy(&channel[input], output);
            }
        });
    }

    /// Sums up, for every position of a channel, what stands in its patches: row (kernel position…), column (output
    /// position…). Clobbers the columns in the padding.
    pub fn col2im(&self, columns: &mut [f32], channel: &mut [f32]) {
        if let [height, width] = self.axes[..]
            && let (Some(height), Some(width)) = (height.steps(), width.steps())
            && col2im::fits(width)
        {
            return col2im::col2im(height, width, columns, channel);
        }
        channel.fill(0.0);
        self.for_each_plane(columns, |plane, input, output| {
            if let Some(input) = input {
                plane.add(output, &mut channel[input]);
            }
        });
    }

    /// The patches that the gradient of the output is slid over with to get that of the input: those of a stride of 1,
    /// over the output. `None` with another stride, with more padding than the kernel reaches, or where the input is
    /// so much larger than the output that most products would be with padding.
    pub fn transposed(&self) -> Option<Patches> {
        let extent = |axis: &Axis| (axis.kernel - 1) * axis.dilation + 1;
        let fits = |axis: &Axis| axis.stride == 1 && axis.pad < extent(axis);
        if !self.axes.iter().all(fits) || 4 * self.input_count > 5 * self.output_count {
            return None;
        }
        let axes = self.axes.iter().map(|axis| Axis {
            input: axis.output,
            output: axis.input,
            pad: extent(axis) - 1 - axis.pad,
            ..*axis
        });
        Some(Patches {
            axes: axes.collect(),
            // For col2im, which is not for these.
            planes: Vec::new(),
            input_count: self.output_count,
            output_count: self.input_count,
            ..*self
        })
    }

    /// How Winograd's filtering cuts the image, and how it cuts the output to get the gradient of the input. `None`
    /// but for square kernels of 3 and 5 over two axes, with a stride of 1.
    pub fn grids(&self) -> Option<(Grid, Grid)> {
        let [height, width] = self.axes[..] else { return None };
        let fits = |axis: Axis| axis.stride == 1 && axis.dilation == 1 && axis.pad < axis.kernel;
        let same = height.kernel == width.kernel && height.pad == width.pad;
        if !same || !fits(height) || !fits(width) || !matches!(height.kernel, 3 | 5) {
            return None;
        }
        let kernel = height.kernel;
        let forward = Grid {
            kernel,
            pad: height.pad,
            height: height.input,
            width: width.input,
        };
        let backward = Grid {
            kernel,
            pad: kernel - 1 - height.pad,
            height: height.output,
            width: width.output,
        };
        Some((forward, backward))
    }

    /// How a channel and its padding are to lie for patches to be read from there.
    pub fn padded_image(&self) -> PaddedImage {
        let (outer, width) = self.axes.split_at(self.axes.len() - 1);
        let width = width[0];
        let is_image = self.axes.iter().all(|axis| axis.pad == 0) && width.stride == 1;
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
        PaddedImage {
            is_image,
            channel_size: extents.iter().product::<usize>() * row,
            taps: products(&taps, row, width.kernel, |tap| phase(tap * width.dilation)),
            positions: products(&positions, row, width.output, |output| output),
            axes: self.axes.clone(),
            extents,
            phase_width,
        }
    }

    /// Calls `f` for every innermost plane of a channel's columns, with where the input plane lies that it meets, if
    /// it does not lie in the padding.
    fn for_each_plane(&self, columns: &mut [f32], mut f: impl FnMut(&Plane, Option<Range<usize>>, &mut [f32])) {
        let (outer, inner) = self.axes.split_at(self.axes.len() - 2);
        let (height, width) = (inner[0], inner[1]);
        let inner_taps = self.planes.len();
        for (row, columns) in columns.chunks_exact_mut(self.output_count).enumerate() {
            let plane = &self.planes[row % inner_taps];
            for (position, output) in columns.chunks_exact_mut(height.output * width.output).enumerate() {
                let size = height.input * width.input;
                let input = outer_input(outer, row / inner_taps, position);
                f(plane, input.map(|input| input * size..(input + 1) * size), output);
            }
        }
    }
}

/// The value for each of `axes` spatial axes that a list has for all of them, or for each.
///
/// # Errors
/// A list of another length.
pub fn each_axis(
    name: &str,
    list: &[usize],
    default: usize,
    bottom: &Shape,
    axes: usize,
) -> Result<Vec<usize>, LayerError> {
    match list {
        [] => Ok(vec![default; axes]),
        [all] => Ok(vec![*all; axes]),
        each if each.len() == axes => Ok(each.to_vec()),
        each => Err(LayerError::BottomShape {
            bottom: 0,
            shape: bottom.clone(),
            fact: format!(
                "{name} has {} values for its {axes} spatial axes: give one, or one an axis",
                each.len()
            ),
        }),
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

/// The index of the input over `axes` that kernel index `tap` meets for output index `output`; `None` in the padding.
fn outer_input(axes: &[Axis], mut tap: usize, mut output: usize) -> Option<usize> {
    let (mut input, mut scale) = (0, 1);
    for axis in axes.iter().rev() {
        let padded = output % axis.output * axis.stride + tap % axis.kernel * axis.dilation;
        let position = padded.checked_sub(axis.pad).filter(|position| *position < axis.input)?;
        input += position * scale;
        scale *= axis.input;
        tap /= axis.kernel;
        output /= axis.output;
    }
    Some(input)
}

/// What one position of the kernel meets of a plane (h, w).
struct Plane {
    height: Axis,
    width: Axis,
    rows: Range<usize>,
    first_row: usize,
    columns: Range<usize>,
    first_column: usize,
}

impl Plane {
    fn new(height: Axis, width: Axis, height_tap: usize, width_tap: usize) -> Self {
        let (rows, first_row) = height.inside(height_tap);
        let (columns, first_column) = width.inside(width_tap);
        Self {
            height,
            width,
            rows,
            first_row,
            columns,
            first_column,
        }
    }

    /// Whether the rows that meet each other follow each other without a gap on both sides, so that all can be taken as
    /// one, but for their ends in the padding.
    fn is_contiguous(&self) -> bool {
        let (height, width) = (&self.height, &self.width);
        height.stride == 1 && width.stride == 1 && width.input == width.output && !self.columns.is_empty()
    }

    /// The part of the outputs, flat, from the first to the last that meets an input, where [`Self::is_contiguous`].
    fn span(&self) -> Range<usize> {
        let width = self.width.output;
        self.rows.start * width + self.columns.start..(self.rows.end - 1) * width + self.columns.end
    }

    /// Sets what lies in the padding left and right of the input to zero.
    fn clear_sides(&self, output: &mut [f32]) {
        let width = self.width.output;
        for row in output[self.rows.start * width..self.rows.end * width].chunks_exact_mut(width) {
            row[..self.columns.start].fill(0.0);
            row[self.columns.end..].fill(0.0);
        }
    }

    /// Copies the inputs to the outputs that meet them.
    fn copy(&self, input: &[f32], output: &mut [f32]) {
        let (width, stride) = (self.width.output, self.width.stride);
        for (i, row) in self.rows.clone().enumerate() {
            let from = &input[(self.first_row + i * self.height.stride) * self.width.input + self.first_column..];
            let to = &mut output[row * width..][self.columns.clone()];
            if stride == 1 {
                to.copy_from_slice(&from[..to.len()]);
            } else {
                to.iter_mut()
                    .zip(from.iter().step_by(stride))
                    .for_each(|(to, from)| *to = *from);
            }
        }
    }

    /// Adds the outputs to the inputs that they meet.
    fn add(&self, output: &mut [f32], input: &mut [f32]) {
        let (width, stride) = (self.width.output, self.width.stride);
        if self.rows.is_empty() {
            return;
        }
        if self.is_contiguous() {
            self.clear_sides(output);
            let first = self.first_row * width + self.first_column;
            add_all(&mut input[first..], &output[self.span()]);
            return;
        }
        for (i, row) in self.rows.clone().enumerate() {
            let to = &mut input[(self.first_row + i * self.height.stride) * self.width.input + self.first_column..];
            let from = &output[row * width..][self.columns.clone()];
            if stride == 1 {
                add_all(to, from);
            } else {
                to.iter_mut()
                    .step_by(stride)
                    .zip(from)
                    .for_each(|(to, from)| *to += from);
            }
        }
    }
}

/// By eights first: rows are often so short that a loop of the compiler's own would spend its time around them.
fn add_all(to: &mut [f32], from: &[f32]) {
    let (to, from) = (to[..from.len()].as_chunks_mut::<8>(), from.as_chunks::<8>());
    for (to, from) in to.0.iter_mut().zip(from.0) {
        to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
    }
    to.1.iter_mut().zip(from.1).for_each(|(to, from)| *to += from);
}
