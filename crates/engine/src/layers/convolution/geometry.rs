//! A convolution's shapes, and which way each of its passes takes.

use rayon::prelude::*;

use super::{correlation::Correlation, dots::WeightDots, passes::Part, winograd::Winograd};
use crate::{
    LayerError, Shape,
    kernels::{self, Indexed, Matrix, PackedRows, Simd, winograd::Batch},
    layers::patches::Patches,
    spec::ConvolutionSpec,
};

/// Shapes as the loops need them.
#[derive(Default)]
pub struct Geometry {
    pub images: usize,
    pub channels: usize,
    pub num_output: usize,
    pub group: usize,
    pub weight_shape: Shape,
    pub patches: Patches,
    /// From bottom to top.
    pub forward: Correlation,
    /// From the top's gradient to the bottom's.
    pub backward: Option<Transposed>,
    /// The weights' gradient, where there are few.
    pub weight_dots: Option<WeightDots>,
    /// Both again, through fewer products, where that is quicker.
    pub winograd_forward: Option<Winograd>,
    pub winograd_backward: Option<Winograd>,
}

/// The convolution that takes the gradient of the top to that of the bottom.
pub struct Transposed {
    pub correlation: Correlation,
    /// Where the weights of a group are found for each of its channels, and for each (num_output of a group, kernel…).
    pub channel_offsets: Vec<usize>,
    pub tap_offsets: Vec<usize>,
}

impl Geometry {
    /// For bottoms of a shape, and the shape of their tops.
    pub fn new(spec: &ConvolutionSpec, bottom: &Shape, winograd: Option<Simd>) -> Result<(Self, Shape), LayerError> {
        let channel_axis = bottom.require_axis(spec.axis)?;
        let channels = bottom.dims()[channel_axis];
        if channels == 0 || !channels.is_multiple_of(spec.group) {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: bottom.clone(),
                fact: format!("its {channels} channels are no multiple of group {}", spec.group),
            });
        }
        let (patches, kernel, output) = Patches::new(spec, bottom, channel_axis)?;
        let top = Shape::new([&bottom.dims()[..channel_axis], &[spec.num_output], &output].concat());
        let weight_shape = Shape::new([&[spec.num_output, channels / spec.group], &kernel[..]].concat());
        // The columns are no blob, but Caffe keeps them in one.
        let columns = Shape::from([channels, patches.kernel_count, patches.output_count]);
        for shape in [&top, &weight_shape, &columns] {
            if shape.checked_count().is_none() {
                return Err(LayerError::TooLarge { shape: shape.clone() });
            }
        }
        let images = bottom.count_to(channel_axis);
        let winograd_of = |grid, channels, outputs| {
            winograd.and_then(|simd| Winograd::new(simd, grid, channels, outputs, spec.group, images))
        };
        let grids = patches.grids();
        Ok((
            Self {
                images,
                channels,
                num_output: spec.num_output,
                group: spec.group,
                weight_shape,
                forward: Correlation::new(&patches, channels, spec.num_output, spec.group, images),
                backward: Transposed::new(&patches, channels, spec, images),
                weight_dots: WeightDots::new(Simd::current(), &patches, channels, spec.num_output, spec.group),
                winograd_forward: grids.and_then(|(forward, _)| winograd_of(forward, channels, spec.num_output)),
                winograd_backward: grids.and_then(|(_, backward)| winograd_of(backward, spec.num_output, channels)),
                patches,
            },
            top,
        ))
    }

    /// A way for threads that have images of their own: those that share an image are quicker on the plain way.
    pub fn unless_shared<'a, W>(&self, way: &'a Option<W>, threads: usize) -> Option<&'a W> {
        way.as_ref().filter(|_| self.images >= threads)
    }

    /// The way through fewer products for parts of so many images.
    pub fn winograd_forward(&self, threads: usize, images: usize) -> Option<&Winograd> {
        self.unless_shared(&self.winograd_forward, threads)
            .filter(|winograd| winograd.pays(images))
    }

    /// The same for the gradient of the bottom: with a batch the way forward the other way round, without one a
    /// convolution of the top's gradient with the weights turned.
    pub fn winograd_backward(&self, threads: usize, images: usize) -> Option<(&Winograd, Option<&Batch>)> {
        let forward = self.unless_shared(&self.winograd_forward, threads);
        if let Some((winograd, batch)) = forward.and_then(|winograd| Some((winograd, winograd.by_images(images)?))) {
            return Some((winograd, Some(batch)));
        }
        self.unless_shared(&self.winograd_backward, threads)
            .filter(|winograd| winograd.pays(images))
            .map(|winograd| (winograd, None))
    }

    /// Values in an image of the bottom.
    pub fn bottom_count(&self) -> usize {
        self.channels * self.patches.input_count
    }

    /// Values in an image of the top.
    pub fn top_count(&self) -> usize {
        self.num_output * self.patches.output_count
    }

    pub fn columns_count(&self) -> usize {
        if self.patches.is_identity {
            0
        } else {
            self.channels * self.patches.kernel_count * self.patches.output_count
        }
    }

    /// The rows of the weight matrix in a group, and its columns.
    pub fn group_matrix(&self) -> (usize, usize) {
        (
            self.num_output / self.group,
            self.channels / self.group * self.patches.kernel_count,
        )
    }

    /// The fewest channels that a thread takes: all of them where each thread has images of its own.
    pub fn min_channels(&self, part: &Part) -> usize {
        if part.backward.workspaces.len() > 1 {
            1
        } else {
            self.channels
        }
    }

    /// Packs the weights as the forward pass needs them.
    pub fn pack(&self, weight: &[f32], packed: &mut Vec<PackedRows>) {
        let (rows, columns) = self.group_matrix();
        packed.resize_with(self.group, PackedRows::default);
        for (packed, weight) in packed.iter_mut().zip(weight.chunks_exact(rows * columns)) {
            packed.pack(Matrix::row_major(weight, columns), rows, columns);
        }
    }

    /// dx = col2im(weightᵀ · dy) for one image.
    pub fn backward_image(&self, part: &mut Part, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (k, m) = self.group_matrix();
        let n = self.patches.output_count;
        for group in 0..self.group {
            let a = Matrix::row_major(&weight[group * k * m..][..k * m], m).transposed();
            let b = Matrix::row_major(&dy[group * k * n..][..k * n], n);
            let columns = if self.patches.is_identity {
                &mut *dx
            } else {
                &mut part.columns
            };
            let c = &mut columns[group * m * n..][..m * n];
            kernels::gemm_parallel(&mut part.backward.workspaces, m, n, k, a, b, c, n, false);
        }
        let patches = &self.patches;
        if !patches.is_identity {
            let min_channels = self.min_channels(part);
            let columns = part.columns.par_chunks_mut(patches.kernel_count * patches.output_count);
            let channels = dx
                .par_chunks_mut(patches.input_count)
                .zip(columns)
                .with_min_len(min_channels);
            channels.for_each(|(dx, columns)| patches.col2im(columns, dx));
        }
    }
}

impl Transposed {
    /// `None` where the patches cannot be slid over the top.
    pub fn new(patches: &Patches, channels: usize, spec: &ConvolutionSpec, images: usize) -> Option<Self> {
        let correlation = Correlation::new(&patches.transposed()?, spec.num_output, channels, spec.group, images);
        let kernel = patches.kernel_count;
        let columns = channels / spec.group * kernel;
        let outputs = 0..spec.num_output / spec.group;
        Some(Self {
            correlation,
            channel_offsets: (0..channels / spec.group).map(|channel| channel * kernel).collect(),
            tap_offsets: outputs
                .flat_map(|output| (0..kernel).rev().map(move |tap| output * columns + tap))
                .collect(),
        })
    }

    /// Packs the weights, turned round: row c, column (num_output, kernel…).
    pub fn pack(&self, weight: &[f32], group: usize, packed: &mut Vec<PackedRows>) {
        packed.resize_with(group, PackedRows::default);
        for (packed, data) in packed.iter_mut().zip(weight.chunks_exact(weight.len() / group)) {
            packed.pack_indexed(Indexed {
                data,
                row_offsets: &self.channel_offsets,
                column_offsets: &self.tap_offsets,
            });
        }
    }
}
