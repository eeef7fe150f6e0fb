//! The typed parameters of the layers that choose, move, repeat or reduce values.

use sparknet_proto::caffe::{LayerParameter, reduction_parameter, spp_parameter};

use super::{
    ConvolutionSpec, LayerKind, PoolingMethod,
    kinds::{Parsed, filler, required, shape, usizes},
};
use crate::{Shape, filler::Filler};

/// `ArgMax`.
#[derive(Clone, Debug)]
pub struct ArgMaxSpec {
    /// Whether the values themselves are given: along `axis` instead of the indices, else beside them.
    pub out_max_val: bool,
    /// How many of the greatest values are looked for.
    pub top_k: usize,
    /// The axis that is looked along; `None` for all after the first, joined.
    pub axis: Option<i32>,
}

impl ArgMaxSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.argmax_param.unwrap_or_default();
        Ok(LayerKind::ArgMax(Self {
            out_max_val: param.out_max_val(),
            top_k: required(Some(param.top_k()), "top_k")?,
            axis: param.axis,
        }))
    }
}

/// `Crop`.
#[derive(Clone, Debug)]
pub struct CropSpec {
    /// The first axis that is cropped.
    pub axis: i32,
    /// Where the crop begins: on every cropped axis, or on each; empty for 0.
    pub offset: Vec<usize>,
}

impl CropSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.crop_param.clone().unwrap_or_default();
        Ok(LayerKind::Crop(Self {
            axis: param.axis(),
            offset: usizes(&param.offset),
        }))
    }
}

impl ConvolutionSpec {
    pub(crate) fn parse_deconvolution(layer: &LayerParameter) -> Parsed<LayerKind> {
        Self::parse_param(layer).map(LayerKind::Deconvolution)
    }

    pub(crate) fn parse_im2col(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.convolution_param.clone().unwrap_or_default();
        // Patches are cut of all channels, for whatever comes after them.
        Self::parse_windows(&param, 1, 1).map(LayerKind::Im2col)
    }
}

/// `Embed`.
#[derive(Clone, Debug)]
pub struct EmbedSpec {
    /// The length of a vector.
    pub num_output: usize,
    /// The number of vectors.
    pub input_dim: usize,
    /// Whether a bias is added.
    pub bias_term: bool,
    /// Fills the vectors.
    pub weight_filler: Filler,
    /// Fills the bias.
    pub bias_filler: Filler,
}

impl EmbedSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.embed_param.clone().unwrap_or_default();
        let input_dim = required(param.input_dim, "input_dim")?;
        let num_output = required(param.num_output, "num_output")?;
        let weight = Shape::from([input_dim, num_output]);
        if weight.checked_count().is_none() {
            return Err(format!("its weights {weight} have more than 2147483647 values"));
        }
        Ok(LayerKind::Embed(Self {
            num_output,
            input_dim,
            bias_term: param.bias_term(),
            weight_filler: filler(param.weight_filler.as_ref())?,
            bias_filler: filler(param.bias_filler.as_ref())?,
        }))
    }
}

/// `Filter`.
#[derive(Clone, Debug)]
pub struct FilterSpec {
    /// The number of blobs that are filtered; the bottom after them is the selector.
    pub num_tops: usize,
}

impl FilterSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let (bottoms, num_tops) = (layer.bottom.len(), layer.top.len());
        if bottoms != num_tops + 1 {
            return Err(format!(
                "it needs a top for each bottom but the selector, the last, but has {bottoms} bottoms and {num_tops} tops"
            ));
        }
        Ok(LayerKind::Filter(Self { num_tops }))
    }
}

/// `MVN`.
#[derive(Clone, Debug)]
pub struct MvnSpec {
    /// Whether values are divided by their standard deviation.
    pub normalize_variance: bool,
    /// Whether an image's channels have one mean and variance between them.
    pub across_channels: bool,
    /// What is added to the standard deviation.
    pub eps: f32,
}

impl MvnSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.mvn_param.unwrap_or_default();
        Ok(LayerKind::Mvn(Self {
            normalize_variance: param.normalize_variance(),
            across_channels: param.across_channels(),
            eps: param.eps(),
        }))
    }
}

/// `Parameter`.
#[derive(Clone, Debug)]
pub struct ParameterSpec {
    /// The parameter's shape; no axes for a scalar.
    pub shape: Shape,
}

impl ParameterSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let message = layer.parameter_param.clone().unwrap_or_default().shape;
        let shape = shape(&message.unwrap_or_default(), "parameter_param.shape")?;
        Ok(LayerKind::Parameter(Self { shape }))
    }
}

/// `Reduction`.
#[derive(Clone, Debug)]
pub struct ReductionSpec {
    /// What the values become.
    pub operation: ReductionOperation,
    /// The first axis that is reduced, with all after it.
    pub axis: i32,
    /// The factor on the result.
    pub coeff: f32,
}

/// What [`ReductionSpec`] makes of values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReductionOperation {
    /// Their sum.
    Sum,
    /// The sum of their magnitudes.
    AbsoluteSum,
    /// The sum of their squares.
    SumOfSquares,
    /// Their mean.
    Mean,
}

impl ReductionSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.reduction_param.unwrap_or_default();
        Ok(LayerKind::Reduction(Self {
            operation: match param.operation() {
                reduction_parameter::ReductionOp::Sum => ReductionOperation::Sum,
                reduction_parameter::ReductionOp::Asum => ReductionOperation::AbsoluteSum,
                reduction_parameter::ReductionOp::Sumsq => ReductionOperation::SumOfSquares,
                reduction_parameter::ReductionOp::Mean => ReductionOperation::Mean,
            },
            axis: param.axis(),
            coeff: param.coeff(),
        }))
    }
}

/// `Reshape`.
#[derive(Clone, Debug)]
pub struct ReshapeSpec {
    /// The extents that replace the bottom's.
    pub dims: Vec<ReshapeDim>,
    /// The first axis that is replaced; -1 is behind the last.
    pub axis: i32,
    /// How many are replaced; `None` for all from there on.
    pub num_axes: Option<usize>,
}

/// One extent of a [`ReshapeSpec`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReshapeDim {
    /// This many.
    Extent(usize),
    /// As many as the bottom has on the axis at this place: 0 in a file.
    Copied,
    /// As many as are left: -1 in a file.
    Inferred,
}

impl ReshapeSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.reshape_param.clone().unwrap_or_default();
        let dims = param.shape.as_ref().map_or(&[][..], |shape| &shape.dim);
        let read = |dim: &i64| match dim {
            0 => Ok(ReshapeDim::Copied),
            -1 => Ok(ReshapeDim::Inferred),
            dim => match usize::try_from(*dim) {
                Ok(extent) => Ok(ReshapeDim::Extent(extent)),
                Err(_) => Err(format!(
                    "shape has dim {dim}: give a positive number, 0 (copied) or -1 (inferred)"
                )),
            },
        };
        if dims.iter().filter(|dim| **dim == -1).count() > 1 {
            return Err("shape has dim -1 more than once: only one can be inferred".to_owned());
        }
        let num_axes = match param.num_axes() {
            -1 => None,
            num_axes => Some(
                usize::try_from(num_axes)
                    .map_err(|_| format!("num_axes is {num_axes}: give 0 or more, or -1 for all"))?,
            ),
        };
        Ok(LayerKind::Reshape(Self {
            dims: dims.iter().map(read).collect::<Parsed<_>>()?,
            axis: param.axis(),
            num_axes,
        }))
    }
}

/// `SPP`.
#[derive(Clone, Debug)]
pub struct SppSpec {
    /// The number of levels.
    pub pyramid_height: usize,
    /// What a bin becomes.
    pub method: PoolingMethod,
}

/// More levels than any image has bins for.
const MAX_PYRAMID_HEIGHT: usize = 31;

impl SppSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.spp_param.unwrap_or_default();
        let pyramid_height = required(param.pyramid_height, "pyramid_height")?;
        if pyramid_height > MAX_PYRAMID_HEIGHT {
            return Err(format!(
                "pyramid_height is {pyramid_height}: give at most {MAX_PYRAMID_HEIGHT}"
            ));
        }
        Ok(LayerKind::Spp(Self {
            pyramid_height,
            method: match param.pool() {
                spp_parameter::PoolMethod::Max => PoolingMethod::Max,
                spp_parameter::PoolMethod::Ave => PoolingMethod::Average,
                spp_parameter::PoolMethod::Stochastic => PoolingMethod::Stochastic,
            },
        }))
    }
}

/// `Tile`.
#[derive(Clone, Debug)]
pub struct TileSpec {
    /// The axis along which the bottom is repeated.
    pub axis: i32,
    /// How often.
    pub tiles: usize,
}

impl TileSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.tile_param.unwrap_or_default();
        let tiles = match param.tiles {
            None => return Err("tiles is missing".to_owned()),
            Some(tiles) => usize::try_from(tiles).ok().filter(|tiles| *tiles > 0),
        };
        Ok(LayerKind::Tile(Self {
            axis: param.axis(),
            tiles: tiles.ok_or_else(|| format!("tiles is {}: give at least 1", param.tiles()))?,
        }))
    }
}
