//! The patches of images that kernels slide over, over any number of spatial axes: where they lie in a padded copy of
//! the image, a matrix of them (im2col) and their sum (col2im).

mod axis;
mod padded_image;
mod plane;
mod strips;

use std::ops::Range;

use crate::{
    LayerError, Shape,
    kernels::{col2im, winograd::Grid},
    spec::ConvolutionSpec,
};

use axis::Axis;
pub use padded_image::PaddedImage;
use plane::Plane;
pub use strips::Strips;

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
        PaddedImage::new(&self.axes)
    }

    /// How a channel is to lie for each tap to meet the whole output in one piece; `None` but for two spatial axes.
    pub fn strips(&self) -> Option<Strips> {
        Strips::new(&self.axes)
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
