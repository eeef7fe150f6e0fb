//! The typed parameters of the layers that look at windows of images: Caffe's vision layers.

use sparknet_proto::caffe::{self, LayerParameter, convolution_parameter, lrn_parameter, pooling_parameter};

use super::{
    LayerKind,
    kinds::{Parsed, filler, required, usizes},
};
use crate::filler::Filler;

/// `Convolution`; per spatial axis lists have one value for all axes, or one an axis.
#[derive(Clone, Debug)]
pub struct ConvolutionSpec {
    /// The number of output channels.
    pub num_output: usize,
    /// Whether a bias is added.
    pub bias_term: bool,
    /// The kernel's extents.
    pub kernel: Vec<usize>,
    /// The steps; empty for 1.
    pub stride: Vec<usize>,
    /// The zeros added on both sides; empty for 0.
    pub pad: Vec<usize>,
    /// The distances between the kernel's taps; empty for 1.
    pub dilation: Vec<usize>,
    /// The number of groups that channels are split into.
    pub group: usize,
    /// The axis of the channels.
    pub axis: i32,
    /// Fills the weights.
    pub weight_filler: Filler,
    /// Fills the bias.
    pub bias_filler: Filler,
}

impl ConvolutionSpec {
    /// Reads `convolution_param`, which Convolution shares with Deconvolution and Im2col.
    pub(crate) fn parse_param(layer: &LayerParameter) -> Parsed<Self> {
        let param = layer.convolution_param.clone().unwrap_or_default();
        let num_output = required(param.num_output, "num_output")?;
        let group = required(Some(param.group()), "group")?;
        if num_output % group != 0 {
            return Err(format!("num_output {num_output} is not a multiple of group {group}"));
        }
        Self::parse_windows(&param, num_output, group)
    }

    /// Reads all but `num_output` and `group`.
    pub(super) fn parse_windows(param: &caffe::ConvolutionParameter, num_output: usize, group: usize) -> Parsed<Self> {
        let _: convolution_parameter::Engine = param.engine(); // Every engine means this one.
        let pair = |name: &str, list: &[u32], h: Option<u32>, w: Option<u32>| match (h, w) {
            (None, None) => Ok(usizes(list)),
            (Some(h), Some(w)) if list.is_empty() => Ok(vec![h as usize, w as usize]),
            (Some(_), Some(_)) => Err(format!("{name} is given both as a list and as _h and _w: keep one")),
            _ => Err(format!("{name} has only one of _h and _w: give both")),
        };
        let kernel = pair("kernel_size", &param.kernel_size, param.kernel_h, param.kernel_w)?;
        if kernel.is_empty() || kernel.contains(&0) {
            return Err("kernel_size is missing or 0: give at least 1 for each spatial axis".to_owned());
        }
        let stride = pair("stride", &param.stride, param.stride_h, param.stride_w)?;
        if stride.contains(&0) {
            return Err("stride is 0: give at least 1".to_owned());
        }
        let dilation = usizes(&param.dilation);
        if dilation.contains(&0) {
            return Err("dilation is 0: give at least 1".to_owned());
        }
        let pad = match (param.pad_h, param.pad_w) {
            (None, None) => usizes(&param.pad),
            (h, w) if param.pad.is_empty() => vec![h.unwrap_or(0) as usize, w.unwrap_or(0) as usize],
            _ => return Err("pad is given both as a list and as pad_h and pad_w: keep one".to_owned()),
        };
        Ok(Self {
            num_output,
            bias_term: param.bias_term(),
            kernel,
            stride,
            pad,
            dilation,
            group,
            axis: param.axis(),
            weight_filler: filler(param.weight_filler.as_ref())?,
            bias_filler: filler(param.bias_filler.as_ref())?,
        })
    }

    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        Self::parse_param(layer).map(LayerKind::Convolution)
    }
}

/// `LRN`.
#[derive(Clone, Debug)]
pub struct LrnSpec {
    /// The edge of the region, odd.
    pub local_size: usize,
    /// The factor on the mean square.
    pub alpha: f32,
    /// The exponent.
    pub beta: f32,
    /// The constant under the exponent; only across channels.
    pub k: f32,
    /// Whether the region lies within a channel and not across channels.
    pub within_channel: bool,
}

impl LrnSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.lrn_param.unwrap_or_default();
        let local_size = param.local_size() as usize;
        if local_size.is_multiple_of(2) {
            return Err(format!("local_size is {local_size}: give an odd number"));
        }
        Ok(LayerKind::Lrn(Self {
            local_size,
            alpha: param.alpha(),
            beta: param.beta(),
            k: param.k(),
            within_channel: param.norm_region() == lrn_parameter::NormRegion::WithinChannel,
        }))
    }
}

/// `Pooling`; pairs are (height, width).
#[derive(Clone, Debug)]
pub struct PoolingSpec {
    /// What a window becomes.
    pub method: PoolingMethod,
    /// The window's extents; not looked at for global pooling.
    pub kernel: [usize; 2],
    /// The steps.
    pub stride: [usize; 2],
    /// The padding.
    pub pad: [usize; 2],
    /// Whether the window is the whole image.
    pub global: bool,
    /// Whether the number of windows is rounded up (Caffe's default) and not down.
    pub round_up: bool,
}

/// What a pooling window becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PoolingMethod {
    /// Its maximum.
    Max,
    /// Its average.
    Average,
    /// One of its values, drawn in proportion to the values.
    Stochastic,
}

impl PoolingSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.pooling_param.unwrap_or_default();
        let method = match param.pool() {
            pooling_parameter::PoolMethod::Max => PoolingMethod::Max,
            pooling_parameter::PoolMethod::Ave => PoolingMethod::Average,
            pooling_parameter::PoolMethod::Stochastic => PoolingMethod::Stochastic,
        };
        let pair = |name: &str, both: Option<u32>, h: Option<u32>, w: Option<u32>, default: usize| match (both, h, w) {
            (None, None, None) => Ok([default; 2]),
            (Some(both), None, None) => Ok([both as usize; 2]),
            (None, Some(h), Some(w)) => Ok([h as usize, w as usize]),
            (None, _, _) => Err(format!("{name} has only one of _h and _w: give both")),
            _ => Err(format!("{name} is given both as one number and as _h and _w: keep one")),
        };
        let global = param.global_pooling();
        let kernel = pair("kernel_size", param.kernel_size, param.kernel_h, param.kernel_w, 0)?;
        let stride = pair("stride", param.stride, param.stride_h, param.stride_w, 1)?;
        let pad = match (param.pad, param.pad_h, param.pad_w) {
            (None, h, w) => [h.unwrap_or(0) as usize, w.unwrap_or(0) as usize],
            (pad, h, w) => pair("pad", pad, h, w, 0)?,
        };
        if global {
            if kernel != [0, 0] {
                return Err("global_pooling takes the whole image: leave kernel_size out".to_owned());
            }
            if pad != [0, 0] || stride != [1, 1] {
                return Err("global_pooling goes with pad 0 and stride 1 only".to_owned());
            }
        } else {
            if kernel.contains(&0) {
                return Err("kernel_size is missing or 0: give at least 1".to_owned());
            }
            if pad[0] >= kernel[0] || pad[1] >= kernel[1] {
                return Err(format!("pad {pad:?} is not smaller than kernel_size {kernel:?}"));
            }
        }
        if stride.contains(&0) {
            return Err("stride is 0: give at least 1".to_owned());
        }
        if pad != [0, 0] && method == PoolingMethod::Stochastic {
            return Err("pad goes with MAX and AVE pooling only".to_owned());
        }
        if layer.top.len() > 1 && method != PoolingMethod::Max {
            return Err("a second top, the mask, goes with MAX pooling only: leave it out".to_owned());
        }
        let round_up = param.round_mode() == pooling_parameter::RoundMode::Ceil;
        Ok(LayerKind::Pooling(Self {
            method,
            kernel,
            stride,
            pad,
            global,
            round_up,
        }))
    }
}
