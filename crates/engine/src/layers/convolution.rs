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

mod correlation;
mod dots;
mod geometry;
mod passes;
mod winograd;

use geometry::Geometry;
use passes::Part;
use winograd::SumBuffers;

use super::{Arity, LayerDef};
use crate::{
    LayerError, Shape,
    kernels::{self, PackedRows, Simd},
    layer::{Backward, Forward, Layer, ParamBlob},
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
