//! Convolution: `y[o] = bias[o] + Σ_c weight[o, c] ⋆ x[c]` over any number of spatial axes, channels in groups.
//!
//! Each image's patches are the columns of a matrix, so that the convolution is one matrix product a group:
//! Chellapilla, Puri and Simard: High performance convolutional neural networks for document processing (2006). The
//! matrix is never written out (see [`Correlation`]). With a stride of 1 the gradient of the bottom is a convolution,
//! too, of the top's gradient with the weights turned round; otherwise it is summed up from its patches (col2im).
//!
//! ```prototxt
//! layer {
//!   name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
//!   convolution_param { num_output: 32 kernel_size: 5 pad: 2 stride: 1 weight_filler { type: "xavier" } }
//! }
//! ```

use rayon::prelude::*;

mod correlation;
mod winograd;

use correlation::{Buffers, Correlation};
use winograd::{SumBuffers, Winograd};

use super::{Arity, LayerDef, patches::Patches};
use crate::{
    LayerError, Shape,
    kernels::{self, Indexed, Matrix, PackedRows, Simd},
    layer::{Backward, Forward, Layer, ParamBlob, Params},
    spec::ConvolutionSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Convolution",
    summary: "convolves with learned kernels over any number of spatial axes",
    bottoms: Arity::AtLeast(1),
    tops: Arity::AtLeast(1),
    parse: ConvolutionSpec::parse,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Output channels whose weights' gradients a thread sums up at a time: what a line of cache holds.
const OUTPUTS: usize = 16;

/// Convolves every bottom to the top at its place, all with the same weights.
pub struct Convolution {
    spec: ConvolutionSpec,
    /// The set with which fewer products than the definition has may be used, at the price of some rounding.
    winograd: Option<Simd>,
    geometry: Geometry,
    /// One for each part of the images, and each part is one thread's.
    parts: Vec<Part>,
    /// The weights as a pass needs them, one for each group.
    packed: Vec<PackedRows>,
    /// What Winograd's way is computed with: by each thread, and by all.
    winograd_parts: Vec<winograd::Buffers>,
    winograd_sums: SumBuffers,
    /// The weights transformed, or their gradient.
    transformed: Vec<f32>,
}

/// What one part of the images is computed with.
#[derive(Default)]
struct Part {
    forward: Buffers,
    backward: Buffers,
    /// (c, kernel…) × (output…): the gradient of the patches of one image.
    columns: Vec<f32>,
    /// Transposed: (group, c of a group, kernel…, num_output of a group).
    weight_diff: Vec<f32>,
    bias_diff: Vec<f32>,
}

/// Shapes as the loops need them.
#[derive(Default)]
struct Geometry {
    images: usize,
    channels: usize,
    num_output: usize,
    group: usize,
    weight_shape: Shape,
    patches: Patches,
    /// From bottom to top.
    forward: Correlation,
    /// From the top's gradient to the bottom's.
    backward: Option<Transposed>,
    /// Both again, through fewer products, where that is quicker.
    winograd_forward: Option<Winograd>,
    winograd_backward: Option<Winograd>,
}

/// The convolution that takes the gradient of the top to that of the bottom.
struct Transposed {
    correlation: Correlation,
    /// Where the weights of a group are found for each of its channels, and for each (num_output of a group, kernel…).
    channel_offsets: Vec<usize>,
    tap_offsets: Vec<usize>,
}

impl Convolution {
    /// A layer of this description.
    pub fn new(spec: &ConvolutionSpec) -> Self {
        Self {
            spec: spec.clone(),
            // Whoever starts a run reports a value that means nothing.
            winograd: kernels::winograd::from_env().unwrap_or(true).then(Simd::current),
            geometry: Geometry::default(),
            parts: Vec::new(),
            packed: Vec::new(),
            winograd_parts: Vec::new(),
            winograd_sums: SumBuffers::default(),
            transformed: Vec::new(),
        }
    }

    /// Makes the parts for so many threads; returns how many there are and how many images each has.
    fn prepare(&mut self, threads: usize) -> (usize, usize) {
        let images = self.geometry.images;
        let (parts, workspaces) = if images < threads { (1, threads) } else { (threads, 1) };
        if self.parts.len() < parts {
            self.parts.resize_with(parts, Part::default);
        }
        for part in &mut self.parts[..parts] {
            part.forward.workspaces.resize_with(workspaces, Default::default);
            part.backward.workspaces.resize_with(workspaces, Default::default);
        }
        if self.winograd_parts.len() < parts {
            self.winograd_parts.resize_with(parts, Default::default);
        }
        let images_per_part = images.div_ceil(parts).max(1);
        (images.div_ceil(images_per_part), images_per_part)
    }

    /// Packs the weights for [`Self::correlate`].
    pub(super) fn pack(&mut self, threads: usize, weight: &[f32]) {
        let (_, images) = self.prepare(threads);
        let geometry = &self.geometry;
        match geometry.winograd_forward(threads, images) {
            Some(winograd) => winograd.pack(weight, false, &mut self.winograd_parts, &mut self.transformed),
            None => geometry.pack(weight, &mut self.packed),
        }
    }

    /// Computes the top `y` of one bottom with the packed weights.
    pub(super) fn correlate(&mut self, threads: usize, bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
        let (used, images) = self.prepare(threads);
        let geometry = &self.geometry;
        let bottom = x.par_chunks(images * geometry.bottom_count());
        let top = y.par_chunks_mut(images * geometry.top_count());
        if let Some(winograd) = geometry.winograd_forward(threads, images) {
            let packed = &self.transformed;
            let parts = self.winograd_parts[..used].par_iter_mut().zip(bottom).zip(top);
            parts
                .with_max_len(1)
                .for_each(|((part, x), y)| winograd.run(images, part, packed, bias, x, y));
            return;
        }
        let packed = &self.packed;
        let parts = self.parts[..used].par_iter_mut().zip(bottom).zip(top).with_max_len(1);
        parts.for_each(|((part, x), y)| geometry.forward.run(&mut part.forward, packed, bias, x, y));
    }

    /// Adds to `diff` the gradients of the parameters for one bottom: of the weights and of the bias, as wanted.
    pub(super) fn backward_params(
        &mut self,
        threads: usize,
        x: &[f32],
        dy: &[f32],
        diff: &mut Params<'_>,
        [wants_weight, wants_bias]: [bool; 2],
    ) {
        if !wants_weight && !wants_bias {
            return;
        }
        let (used, images) = self.prepare(threads);
        let geometry = &self.geometry;
        let winograd = geometry
            .unless_shared(&geometry.winograd_forward, threads)
            .filter(|winograd| winograd.pays_for_weights());
        let parts = &mut self.parts[..used];
        let bottom = x.par_chunks(images * geometry.bottom_count());
        let top_diff = dy.par_chunks(images * geometry.top_count());
        parts
            .par_iter_mut()
            .zip(bottom)
            .zip(top_diff)
            .with_max_len(1)
            .for_each(|((part, x), dy)| {
                part.bias_diff.clear();
                part.bias_diff.resize(geometry.num_output, 0.0);
                if wants_weight && winograd.is_none() {
                    part.weight_diff.resize(geometry.weight_shape.count(), 0.0);
                    let correlation = &geometry.forward;
                    correlation.weight_diff(&mut part.forward, x, dy, &mut part.weight_diff);
                }
                if wants_bias {
                    for dy in dy.chunks_exact(geometry.top_count()) {
                        let channels = dy.chunks_exact(geometry.patches.output_count);
                        part.bias_diff
                            .iter_mut()
                            .zip(channels)
                            .for_each(|(db, dy)| *db += sum(dy));
                    }
                }
            });
        if let (true, Some(winograd)) = (wants_weight, winograd) {
            winograd.weight_diff(
                &mut self.winograd_parts,
                &mut self.winograd_sums,
                &mut self.transformed,
                x,
                dy,
                diff.get_mut(0),
            );
        } else if wants_weight {
            let (rows, columns) = geometry.group_matrix();
            let outputs = diff.get_mut(0).par_chunks_mut(OUTPUTS * columns).enumerate();
            outputs.for_each(|(chunk, diff)| {
                for (i, diff) in diff.chunks_exact_mut(columns).enumerate() {
                    let output = chunk * OUTPUTS + i;
                    let start = output / rows * rows * columns + output % rows;
                    for part in parts.iter() {
                        let sums = part.weight_diff[start..].iter().step_by(rows);
                        diff.iter_mut().zip(sums).for_each(|(diff, sum)| *diff += sum);
                    }
                }
            });
        }
        if wants_bias {
            parts.iter().for_each(|part| add(diff.get_mut(1), &part.bias_diff));
        }
    }

    /// Computes the gradient `dx` of one bottom.
    pub(super) fn backward_bottom(&mut self, threads: usize, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
        let (used, images) = self.prepare(threads);
        let geometry = &self.geometry;
        if let Some((winograd, turned)) = geometry.winograd_backward(threads, images) {
            winograd.pack(weight, turned, &mut self.winograd_parts, &mut self.transformed);
            let packed = &self.transformed;
            let bottom_diff = dx.par_chunks_mut(images * geometry.bottom_count());
            let top_diff = dy.par_chunks(images * geometry.top_count());
            let parts = self.winograd_parts[..used]
                .par_iter_mut()
                .zip(bottom_diff)
                .zip(top_diff);
            parts.with_max_len(1).for_each(|((part, dx), dy)| {
                if turned {
                    winograd.run(images, part, packed, None, dy, dx);
                } else {
                    winograd.run_backward(part, packed, dy, dx);
                }
            });
            return;
        }
        if let Some(transposed) = &geometry.backward {
            transposed.pack(weight, geometry.group, &mut self.packed);
        }
        let packed = &self.packed;
        let bottom_diff = dx.par_chunks_mut(images * geometry.bottom_count());
        let top_diff = dy.par_chunks(images * geometry.top_count());
        let parts = self.parts[..used]
            .par_iter_mut()
            .zip(bottom_diff)
            .zip(top_diff)
            .with_max_len(1);
        parts.for_each(|((part, dx), dy)| {
            if let Some(Transposed { correlation, .. }) = &geometry.backward {
                return correlation.run(&mut part.backward, packed, None, dy, dx);
            }
            part.columns.resize(geometry.columns_count(), 0.0);
            let images = dx
                .chunks_exact_mut(geometry.bottom_count())
                .zip(dy.chunks_exact(geometry.top_count()));
            images.for_each(|(dx, dy)| geometry.backward_image(part, weight, dy, dx));
        });
    }
}

impl Layer for Convolution {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        if let Some(i) = (1..bottom.len()).find(|i| bottom[*i] != bottom[0]) {
            return Err(LayerError::BottomShapes {
                first: 0,
                first_shape: bottom[0].clone(),
                second: i,
                second_shape: bottom[i].clone(),
                fact: "all bottoms need one shape: give each shape a layer of its own, with shared weights".to_owned(),
            });
        }
        let (geometry, top) = Geometry::new(&self.spec, bottom[0], self.winograd)?;
        let weight_shape = &self.geometry.weight_shape;
        if weight_shape.num_axes() > 0 && *weight_shape != geometry.weight_shape {
            return Err(LayerError::BottomShape {
                bottom: 0,
                shape: bottom[0].clone(),
                fact: format!(
                    "the weights have shape {weight_shape}: channels and spatial axes may not change in number"
                ),
            });
        }
        self.geometry = geometry;
        self.parts.clear();
        self.winograd_parts.clear();
        self.winograd_sums = SumBuffers::default();
        Ok(vec![top; bottom.len()])
    }

    fn params(&self) -> Vec<ParamBlob> {
        let ConvolutionSpec {
            weight_filler,
            num_output,
            bias_term,
            bias_filler,
            ..
        } = &self.spec;
        let bias_filler = bias_term.then_some(bias_filler);
        ParamBlob::weight_and_bias(
            self.geometry.weight_shape.clone(),
            weight_filler,
            *num_output,
            bias_filler,
        )
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let threads = io.context.threads;
        let bias = self.spec.bias_term.then(|| &io.params[1]);
        self.pack(threads, &io.params[0]);
        for (i, top) in io.top.iter_mut().enumerate() {
            self.correlate(threads, bias, io.bottom.get(i), top);
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let threads = io.context.threads;
        let wanted = [
            io.param_propagate_down[0],
            self.spec.bias_term && io.param_propagate_down[1],
        ];
        for (i, bottom_diff) in io.bottom_diff.iter_mut().enumerate() {
            let (x, dy) = (io.bottom.get(i), io.top_diff.get(i));
            self.backward_params(threads, x, dy, &mut io.param_diff, wanted);
            if io.propagate_down[i] {
                self.backward_bottom(threads, &io.params[0], dy, bottom_diff);
            }
        }
    }
}

impl Geometry {
    fn new(spec: &ConvolutionSpec, bottom: &Shape, winograd: Option<Simd>) -> Result<(Self, Shape), LayerError> {
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
                winograd_forward: grids.and_then(|(forward, _)| winograd_of(forward, channels, spec.num_output)),
                winograd_backward: grids.and_then(|(_, backward)| winograd_of(backward, spec.num_output, channels)),
                patches,
            },
            top,
        ))
    }

    /// The way through fewer products, where each thread has images of its own: threads that share an image are quicker
    /// on the plain way.
    fn unless_shared<'a>(&self, winograd: &'a Option<Winograd>, threads: usize) -> Option<&'a Winograd> {
        winograd.as_ref().filter(|_| self.images >= threads)
    }

    /// The way through fewer products for parts of so many images.
    fn winograd_forward(&self, threads: usize, images: usize) -> Option<&Winograd> {
        self.unless_shared(&self.winograd_forward, threads)
            .filter(|winograd| winograd.pays(images))
    }

    /// The same for the gradient of the bottom: a convolution of the top's with the weights turned, or the way forward
    /// the other way round.
    fn winograd_backward(&self, threads: usize, images: usize) -> Option<(&Winograd, bool)> {
        let forward = self.unless_shared(&self.winograd_forward, threads);
        if let Some(winograd) = forward.filter(|winograd| winograd.runs_backward(images)) {
            return Some((winograd, false));
        }
        self.unless_shared(&self.winograd_backward, threads)
            .filter(|winograd| winograd.pays(images))
            .map(|winograd| (winograd, true))
    }

    /// Values in an image of the bottom.
    fn bottom_count(&self) -> usize {
        self.channels * self.patches.input_count
    }

    /// Values in an image of the top.
    fn top_count(&self) -> usize {
        self.num_output * self.patches.output_count
    }

    fn columns_count(&self) -> usize {
        if self.patches.is_identity {
            0
        } else {
            self.channels * self.patches.kernel_count * self.patches.output_count
        }
    }

    /// The rows of the weight matrix in a group, and its columns.
    fn group_matrix(&self) -> (usize, usize) {
        (
            self.num_output / self.group,
            self.channels / self.group * self.patches.kernel_count,
        )
    }

    /// The fewest channels that a thread takes: all of them where each thread has images of its own.
    fn min_channels(&self, part: &Part) -> usize {
        if part.backward.workspaces.len() > 1 {
            1
        } else {
            self.channels
        }
    }

    /// Packs the weights as the forward pass needs them.
    fn pack(&self, weight: &[f32], packed: &mut Vec<PackedRows>) {
        let (rows, columns) = self.group_matrix();
        packed.resize_with(self.group, PackedRows::default);
        for (packed, weight) in packed.iter_mut().zip(weight.chunks_exact(rows * columns)) {
            packed.pack(Matrix::row_major(weight, columns), rows, columns);
        }
    }

    /// dx = col2im(weightᵀ · dy) for one image.
    fn backward_image(&self, part: &mut Part, weight: &[f32], dy: &[f32], dx: &mut [f32]) {
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
    fn new(patches: &Patches, channels: usize, spec: &ConvolutionSpec, images: usize) -> Option<Self> {
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
    fn pack(&self, weight: &[f32], group: usize, packed: &mut Vec<PackedRows>) {
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

fn add(to: &mut [f32], from: &[f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

/// The sum, in 16 lanes so that it vectorises.
pub(super) fn sum(values: &[f32]) -> f32 {
    let (chunks, rest) = values.as_chunks::<16>();
    let mut lanes = [0.0; 16];
    for chunk in chunks {
        lanes.iter_mut().zip(chunk).for_each(|(lane, value)| *lane += value);
    }
    lanes.iter().chain(rest).sum()
}

#[cfg(test)]
pub(super) const fn case(
    bottoms: &'static [&'static [usize]],
    tops: usize,
    params: &'static str,
) -> super::GradientCase {
    super::GradientCase {
        tops,
        ..super::case(bottoms, params)
    }
}

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    case(
        &[&[2, 3, 5, 6]],
        1,
        "convolution_param { num_output: 4 kernel_size: 3 }",
    ),
    case(
        &[&[2, 4, 5, 5]],
        1,
        "convolution_param { num_output: 6 kernel_size: 3 pad: 1 stride: 2 group: 2 }",
    ),
    case(
        &[&[2, 2, 7, 6]],
        1,
        "convolution_param { num_output: 3 kernel_size: 3 dilation: 2 pad: 1 bias_term: false }",
    ),
    case(
        &[&[1, 3, 3, 4]],
        1,
        "convolution_param { num_output: 4 kernel_size: 1 }",
    ),
    case(
        &[&[2, 2, 6, 5]],
        1,
        "convolution_param { num_output: 2 kernel_h: 2 kernel_w: 3 stride_h: 3 stride_w: 1 pad_w: 2 }",
    ),
    case(
        &[&[3, 2, 8]],
        1,
        "convolution_param { num_output: 3 kernel_size: 3 stride: 2 pad: 1 }",
    ),
    case(
        &[&[1, 2, 3, 4, 3]],
        1,
        "convolution_param { num_output: 2 kernel_size: 2 kernel_size: 3 kernel_size: 2 pad: 1 }",
    ),
    case(
        &[&[2, 2, 3, 4]],
        1,
        "convolution_param { num_output: 2 kernel_size: 2 axis: 2 }",
    ),
    case(
        &[&[2, 2, 4, 4], &[2, 2, 4, 4]],
        2,
        "convolution_param { num_output: 3 kernel_size: 3 pad: 1 }",
    ),
];

#[cfg(test)]
mod tests;
