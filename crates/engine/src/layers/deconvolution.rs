//! Deconvolution: a convolution backwards. Each value of the bottom adds the kernel, times itself, to the top: over any
//! number of spatial axes `stride·(input - 1) + dilation·(kernel - 1) + 1 - 2·pad` positions, channels in groups.
//!
//! Zeiler et al.: Deconvolutional networks (2010). The weights are `(channels, num_output / group, kernel…)`, those of
//! the convolution that takes the top to the bottom: forward is its backward, and the other way round.
//!
//! ```prototxt
//! layer {
//!   name: "upscore" type: "Deconvolution" bottom: "score" top: "upscore" param { lr_mult: 0 }
//!   convolution_param { num_output: 21 group: 21 kernel_size: 4 stride: 2 bias_term: false weight_filler { type: "bilinear" } }
//! }
//! ```

use rayon::prelude::*;

use super::{
    Arity, LayerDef,
    convolution::{Convolution, sum},
    patches::each_axis,
};
use crate::{
    LayerError, Shape,
    layer::{Backward, Forward, Layer, ParamBlob},
    spec::ConvolutionSpec,
};

/// The registry's entry.
pub(super) const DEF: LayerDef = LayerDef {
    type_name: "Deconvolution",
    summary: "a convolution backwards, over any number of spatial axes",
    bottoms: Arity::AtLeast(1),
    tops: Arity::AtLeast(1),
    parse: ConvolutionSpec::parse_deconvolution,
    #[cfg(test)]
    gradients: super::Gradients::Check(GRADIENT_CASES),
};

/// Deconvolves every bottom to the top at its place, all with the same weights.
pub struct Deconvolution {
    spec: ConvolutionSpec,
    /// The convolution from top to bottom.
    mirror: Convolution,
    /// Channels of a bottom; 0 before the first.
    channels: usize,
    /// Values in a channel of a top.
    output_count: usize,
}

impl Deconvolution {
    /// A layer of this description.
    pub fn new(spec: &ConvolutionSpec) -> Self {
        Self {
            spec: spec.clone(),
            mirror: Convolution::new(spec),
            channels: 0,
            output_count: 0,
        }
    }

    /// The top's shape.
    fn top_shape(&self, bottom: &Shape, channel_axis: usize) -> Result<Shape, LayerError> {
        let spatial = &bottom.dims()[channel_axis + 1..];
        let pick = |name: &str, list: &[usize], default: usize| each_axis(name, list, default, bottom, spatial.len());
        let (kernel, stride) = (
            pick("kernel_size", &self.spec.kernel, 1)?,
            pick("stride", &self.spec.stride, 1)?,
        );
        let (pad, dilation) = (
            pick("pad", &self.spec.pad, 0)?,
            pick("dilation", &self.spec.dilation, 1)?,
        );
        let mut dims = bottom.dims()[..channel_axis].to_vec();
        dims.push(self.spec.num_output);
        for (i, input) in spatial.iter().enumerate() {
            let steps = input.checked_sub(1).and_then(|steps| steps.checked_mul(stride[i]));
            let reach = steps.and_then(|steps| steps.checked_add((kernel[i] - 1) * dilation[i] + 1));
            let output = reach
                .and_then(|reach| reach.checked_sub(2 * pad[i]))
                .filter(|output| *output > 0);
            dims.push(output.ok_or_else(|| LayerError::BottomShape {
                bottom: 0,
                shape: bottom.clone(),
                fact: format!(
                    "pad {} leaves nothing of axis {}: make it smaller",
                    pad[i],
                    channel_axis + 1 + i
                ),
            })?);
        }
        Ok(Shape::new(dims))
    }
}

impl Layer for Deconvolution {
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError> {
        let shape = bottom[0];
        if let Some(i) = (1..bottom.len()).find(|i| bottom[*i] != shape) {
            return Err(LayerError::BottomShapes {
                first: 0,
                first_shape: shape.clone(),
                second: i,
                second_shape: bottom[i].clone(),
                fact: "all bottoms need one shape: give each shape a layer of its own, with shared weights".to_owned(),
            });
        }
        let axis = shape.require_axis(self.spec.axis)?;
        let channels = shape.dims()[axis];
        let error = |fact: String| LayerError::BottomShape {
            bottom: 0,
            shape: shape.clone(),
            fact,
        };
        if channels == 0 || !channels.is_multiple_of(self.spec.group) {
            let group = self.spec.group;
            return Err(error(format!(
                "its {channels} channels are no multiple of group {group}"
            )));
        }
        if self.channels != 0 && channels != self.channels {
            let expected = self.channels;
            return Err(error(format!(
                "the weights are for {expected} channels, which may not change in number"
            )));
        }
        let top = self.top_shape(shape, axis)?;
        if top.checked_count().is_none() {
            return Err(LayerError::TooLarge { shape: top });
        }
        if self.channels == 0 {
            self.mirror = Convolution::new(&ConvolutionSpec {
                num_output: channels,
                bias_term: false,
                ..self.spec.clone()
            });
        }
        self.mirror.reshape(&[&top])?;
        self.channels = channels;
        self.output_count = top.count_from(axis + 1);
        Ok(vec![top; bottom.len()])
    }

    fn params(&self) -> Vec<ParamBlob> {
        let mut params = self.mirror.params();
        if self.spec.bias_term {
            params.push(ParamBlob {
                shape: Shape::from([self.spec.num_output]),
                filler: self.spec.bias_filler.clone(),
            });
        }
        params
    }

    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError> {
        let outputs = self.spec.num_output;
        for (i, top) in io.top.iter_mut().enumerate() {
            self.mirror
                .backward_bottom(io.context.threads, &io.params[0], io.bottom.get(i), top);
            if self.spec.bias_term {
                let bias = &io.params[1];
                let channels = top.par_chunks_mut(self.output_count).enumerate();
                channels.for_each(|(channel, y)| {
                    let bias = bias[channel % outputs];
                    y.iter_mut().for_each(|y| *y += bias);
                });
            }
        }
        Ok(())
    }

    fn backward(&mut self, io: &mut Backward<'_>) {
        let (threads, outputs, count) = (io.context.threads, self.spec.num_output, self.output_count);
        for (i, dx) in io.bottom_diff.iter_mut().enumerate() {
            let (x, dy) = (io.bottom.get(i), io.top_diff.get(i));
            let wanted = [io.param_propagate_down[0], false];
            self.mirror.backward_params(threads, dy, x, &mut io.param_diff, wanted);
            if self.spec.bias_term && io.param_propagate_down[1] {
                let biases = io.param_diff.get_mut(1).par_iter_mut().enumerate();
                biases.for_each(|(output, diff)| {
                    let channels = dy.chunks_exact(count).skip(output).step_by(outputs);
                    *diff += channels.map(sum).sum::<f32>();
                });
            }
            if io.propagate_down[i] {
                self.mirror.pack(threads, &io.params[0]);
                self.mirror.correlate(threads, None, dy, dx);
            }
        }
    }
}

#[cfg(test)]
use super::convolution::case;

#[cfg(test)]
pub(super) const GRADIENT_CASES: &[super::GradientCase] = &[
    case(
        &[&[2, 3, 4, 3]],
        1,
        "convolution_param { num_output: 2 kernel_size: 3 stride: 2 }",
    ),
    case(
        &[&[2, 4, 3, 3]],
        1,
        "convolution_param { num_output: 6 kernel_size: 4 pad: 1 stride: 2 group: 2 }",
    ),
    case(
        &[&[1, 2, 4, 4]],
        1,
        "convolution_param { num_output: 3 kernel_size: 3 dilation: 2 pad: 2 bias_term: false }",
    ),
    case(
        &[&[2, 3, 3, 2]],
        1,
        "convolution_param { num_output: 2 kernel_size: 1 }",
    ),
    case(
        &[&[2, 2, 5]],
        1,
        "convolution_param { num_output: 3 kernel_size: 3 stride: 3 pad: 1 }",
    ),
    case(
        &[&[1, 2, 2, 3, 2]],
        1,
        "convolution_param { num_output: 2 kernel_size: 2 kernel_size: 3 kernel_size: 2 stride: 2 }",
    ),
    case(
        &[&[2, 2, 3, 3]],
        1,
        "convolution_param { num_output: 2 kernel_size: 2 axis: 2 }",
    ),
    case(
        &[&[2, 2, 3, 3], &[2, 2, 3, 3]],
        2,
        "convolution_param { num_output: 3 kernel_size: 2 }",
    ),
];

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{input, net, run};

    fn text(bottom: &[usize], params: &str) -> String {
        let layer = "name: 'L' type: 'Deconvolution' bottom: 'x' top: 'y'";
        format!(
            "{}layer {{ {layer} convolution_param {{ {params} }} }}",
            input("x", bottom)
        )
    }

    #[test]
    fn a_bilinear_kernel_of_each_channel_enlarges() {
        let params = "num_output: 2 group: 2 kernel_size: 4 stride: 2 pad: 1 bias_term: false
            weight_filler { type: 'bilinear' }";
        let mut net = net(&text(&[1, 2, 3, 3], params)).unwrap();
        assert_eq!(net.params()[0].shape.dims(), [2, 1, 4, 4]);
        let (ones, twos) = ([1.0; 9], [2.0; 9]);
        let y = run(&mut net, &[("x", &[ones, twos].concat())]).unwrap()["y"].clone();
        assert_eq!(net.blob_shape("y").unwrap().dims(), [1, 2, 6, 6]);
        for (channel, y) in y.chunks(36).enumerate() {
            for row in 1..5 {
                let expected = [channel as f32 + 1.0; 4];
                assert_eq!(y[row * 6 + 1..row * 6 + 5], expected, "channel {channel}, row {row}");
            }
        }
    }

    /// Large enough for Winograd's way, and for the plain one where threads share an image.
    #[test]
    fn large_ones_follow_the_definition() {
        let (channels, outputs, extent) = (40, 32, 12);
        let params = format!(
            "num_output: {outputs} kernel_size: 3 pad: 1 weight_filler {{ type: 'gaussian' std: 1 }}
            bias_filler {{ type: 'gaussian' std: 1 }}"
        );
        for images in [1, 6] {
            let mut net = net(&text(&[images, channels, extent, extent], &params)).unwrap();
            let size = extent * extent;
            let x: Vec<f32> = (0..images * channels * size)
                .map(|i| ((i * 7919) % 997) as f32 / 500.0 - 1.0)
                .collect();
            let y = run(&mut net, &[("x", &x)]).unwrap()["y"].clone();
            let (weight, bias) = net.param_arena().split_at(channels * outputs * 9);
            for (image, output, row, column) in
                [(0, 0, 0usize, 0usize), (images - 1, 31, 11, 11), (images / 2, 17, 5, 6)]
            {
                let mut expected = f64::from(bias[output]);
                for channel in 0..channels {
                    for tap in 0..9 {
                        let (x_row, x_column) = ((row + 1).wrapping_sub(tap / 3), (column + 1).wrapping_sub(tap % 3));
                        if x_row < extent && x_column < extent {
                            let x = x[((image * channels + channel) * extent + x_row) * extent + x_column];
                            expected += f64::from(x * weight[(channel * outputs + output) * 9 + tap]);
                        }
                    }
                }
                let found = y[((image * outputs + output) * extent + row) * extent + column];
                assert!((f64::from(found) - expected).abs() < 1e-3, "{found} is not {expected}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_with_the_shape() {
        for (bottom, params, fact) in [
            (
                &[1, 3, 2, 2][..],
                "num_output: 4 group: 2 kernel_size: 1",
                "its 3 channels are no multiple of group 2",
            ),
            (
                &[1, 3, 1, 2],
                "num_output: 4 kernel_size: 2 pad: 1",
                "pad 1 leaves nothing of axis 2",
            ),
            (
                &[1, 3, 2, 2],
                "num_output: 4 kernel_size: 1 stride: 1 stride: 2 stride: 3",
                "stride has 3 values",
            ),
            (
                &[1, 3, 2, 2],
                "num_output: 4 kernel_size: 4294967295 stride: 4294967295",
                "more than 2147483647",
            ),
            (&[3], "num_output: 4 kernel_size: 1", "axis 1 does not exist"),
        ] {
            let error = net(&text(bottom, params)).err().unwrap();
            assert!(
                error.starts_with("layer 'L' (Deconvolution)") && error.contains(fact),
                "{error}"
            );
        }
    }
}
