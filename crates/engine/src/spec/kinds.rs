//! What types of layers there are, and the typed parameters of most, read once from their messages. Layers that bring
//! data and those that look at windows of images have files beside this one.

use sparknet_proto::caffe::{
    self, FillerParameter, LayerParameter, eltwise_parameter, filler_parameter, loss_parameter,
};

use super::{
    ConvolutionSpec, DataSpec, DummyDataSpec, Hdf5DataSpec, Hdf5OutputSpec, InputSpec, LrnSpec, MemoryDataSpec,
    PoolingSpec,
};
use crate::{
    Shape,
    filler::{Filler, VarianceNorm},
};

/// A layer's type and its parameters.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The variants are Caffe's layer types; layers.rs has a sentence on each.
pub enum LayerKind {
    Accuracy(AccuracySpec),
    Concat(ConcatSpec),
    Convolution(ConvolutionSpec),
    Data(DataSpec),
    Dropout(DropoutSpec),
    DummyData(DummyDataSpec),
    Eltwise(EltwiseSpec),
    EuclideanLoss,
    Flatten(FlattenSpec),
    Hdf5Data(Hdf5DataSpec),
    Hdf5Output(Hdf5OutputSpec),
    InnerProduct(InnerProductSpec),
    Input(InputSpec),
    Lrn(LrnSpec),
    MemoryData(MemoryDataSpec),
    Pooling(PoolingSpec),
    Relu(ReluSpec),
    Sigmoid,
    Silence,
    Slice(SliceSpec),
    Softmax(SoftmaxSpec),
    SoftmaxWithLoss(SoftmaxWithLossSpec),
    Split(SplitSpec),
    TanH,
}

impl LayerKind {
    /// Whether the first top is a term of the loss unless the file says otherwise.
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::EuclideanLoss | Self::SoftmaxWithLoss(_))
    }

    /// For types with a top a bottom: 1.
    pub(crate) fn tops_per_bottom(&self) -> Option<usize> {
        match self {
            Self::Convolution(_) => Some(1),
            _ => None,
        }
    }
}

/// What a `parse` function says where a message is wrong; the layer's name and type are added by its caller.
pub(super) type Parsed<T> = Result<T, String>;

pub(super) fn required(value: Option<u32>, field: &str) -> Parsed<usize> {
    match value {
        Some(0) => Err(format!("{field} is 0: give at least 1")),
        Some(value) => Ok(value as usize),
        None => Err(format!("{field} is missing")),
    }
}

pub(super) fn shape(message: &caffe::BlobShape, field: &str) -> Parsed<Shape> {
    let shape = Shape::from_proto(message).map_err(|dim| format!("{field} has dim {dim}: give a positive number"))?;
    if shape.dims().contains(&0) {
        return Err(format!("{field} has dim 0: give a positive number"));
    }
    match shape.checked_count() {
        Some(_) => Ok(shape),
        None => Err(format!("{field} {shape} has more than 2147483647 values")),
    }
}

pub(super) fn usizes(values: &[u32]) -> Vec<usize> {
    values.iter().map(|value| *value as usize).collect()
}

pub(super) fn filler(message: Option<&FillerParameter>) -> Parsed<Filler> {
    let default = FillerParameter::default();
    let message = message.unwrap_or(&default);
    let norm = match message.variance_norm() {
        filler_parameter::VarianceNorm::FanIn => VarianceNorm::FanIn,
        filler_parameter::VarianceNorm::FanOut => VarianceNorm::FanOut,
        filler_parameter::VarianceNorm::Average => VarianceNorm::Average,
    };
    Ok(match message.r#type() {
        "constant" => Filler::Constant(message.value()),
        "uniform" => Filler::Uniform {
            min: message.min(),
            max: message.max(),
        },
        "gaussian" => Filler::Gaussian {
            mean: message.mean(),
            std: message.std(),
            sparse: usize::try_from(message.sparse()).ok(),
        },
        "positive_unitball" => Filler::PositiveUnitball,
        "xavier" => Filler::Xavier(norm),
        "msra" => Filler::Msra(norm),
        "bilinear" => Filler::Bilinear,
        other => {
            return Err(format!(
                "filler type \"{other}\" does not exist: \
                 use constant, uniform, gaussian, positive_unitball, xavier, msra or bilinear"
            ));
        }
    })
}

/// `Accuracy`.
#[derive(Clone, Debug)]
pub struct AccuracySpec {
    /// How many of the best scores may hold the label.
    pub top_k: usize,
    /// The axis of the classes.
    pub axis: i32,
    /// A label that is not counted.
    pub ignore_label: Option<i32>,
}

impl AccuracySpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.accuracy_param.unwrap_or_default();
        Ok(LayerKind::Accuracy(Self {
            top_k: required(Some(param.top_k()), "top_k")?,
            axis: param.axis(),
            ignore_label: param.ignore_label,
        }))
    }
}

/// `Concat`.
#[derive(Clone, Debug)]
pub struct ConcatSpec {
    /// The axis along which the bottoms are joined.
    pub axis: i32,
}

impl ConcatSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.concat_param.unwrap_or_default();
        let axis = match (param.concat_dim, param.axis) {
            (Some(_), Some(_)) => return Err("both axis and concat_dim are given: keep axis".to_owned()),
            (Some(dim), None) => i32::try_from(dim).map_err(|_| format!("concat_dim {dim} is no axis"))?,
            _ => param.axis(),
        };
        Ok(LayerKind::Concat(Self { axis }))
    }
}

/// `Dropout`.
#[derive(Clone, Debug)]
pub struct DropoutSpec {
    /// The probability that a value is dropped.
    pub ratio: f32,
}

impl DropoutSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let ratio = layer.dropout_param.unwrap_or_default().dropout_ratio();
        if !(ratio > 0.0 && ratio < 1.0) {
            return Err(format!(
                "dropout_ratio is {ratio}: give a number between 0 and 1, both excluded"
            ));
        }
        Ok(LayerKind::Dropout(Self { ratio }))
    }
}

/// `Eltwise`.
#[derive(Clone, Debug)]
pub struct EltwiseSpec {
    /// What the bottoms are joined by.
    pub operation: EltwiseOperation,
    /// Whether the gradient of PROD is computed without a division.
    pub stable_prod_grad: bool,
}

/// What [`EltwiseSpec`] joins its bottoms by.
#[derive(Clone, Debug, PartialEq)]
pub enum EltwiseOperation {
    /// The product.
    Product,
    /// The sum, each bottom times its coefficient.
    Sum(Vec<f32>),
    /// The maximum.
    Max,
}

impl EltwiseSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.eltwise_param.clone().unwrap_or_default();
        let num_bottoms = layer.bottom.len();
        let operation = match param.operation() {
            eltwise_parameter::EltwiseOp::Prod => EltwiseOperation::Product,
            eltwise_parameter::EltwiseOp::Max => EltwiseOperation::Max,
            eltwise_parameter::EltwiseOp::Sum if param.coeff.is_empty() => {
                EltwiseOperation::Sum(vec![1.0; num_bottoms])
            }
            eltwise_parameter::EltwiseOp::Sum => EltwiseOperation::Sum(param.coeff.clone()),
        };
        match &operation {
            EltwiseOperation::Sum(coeff) if coeff.len() != num_bottoms => Err(format!(
                "coeff has {} values for {num_bottoms} bottoms: give one a bottom, or none",
                coeff.len()
            )),
            EltwiseOperation::Product | EltwiseOperation::Max if !param.coeff.is_empty() => {
                Err("coeff goes with operation SUM only".to_owned())
            }
            _ => Ok(LayerKind::Eltwise(Self {
                operation,
                stable_prod_grad: param.stable_prod_grad(),
            })),
        }
    }
}

/// `Flatten`.
#[derive(Clone, Debug)]
pub struct FlattenSpec {
    /// The first axis that is joined.
    pub axis: i32,
    /// The last axis that is joined.
    pub end_axis: i32,
}

impl FlattenSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.flatten_param.unwrap_or_default();
        Ok(LayerKind::Flatten(Self {
            axis: param.axis(),
            end_axis: param.end_axis(),
        }))
    }
}

/// `InnerProduct`.
#[derive(Clone, Debug)]
pub struct InnerProductSpec {
    /// The number of outputs.
    pub num_output: usize,
    /// Whether a bias is added.
    pub bias_term: bool,
    /// The first axis that is an input and not a row.
    pub axis: i32,
    /// Whether the weights lie as (inputs, outputs) and not (outputs, inputs).
    pub transpose: bool,
    /// Fills the weights.
    pub weight_filler: Filler,
    /// Fills the bias.
    pub bias_filler: Filler,
}

impl InnerProductSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.inner_product_param.clone().unwrap_or_default();
        Ok(LayerKind::InnerProduct(Self {
            num_output: required(param.num_output, "num_output")?,
            bias_term: param.bias_term(),
            axis: param.axis(),
            transpose: param.transpose(),
            weight_filler: filler(param.weight_filler.as_ref())?,
            bias_filler: filler(param.bias_filler.as_ref())?,
        }))
    }
}

/// `ReLU`.
#[derive(Clone, Debug)]
pub struct ReluSpec {
    /// The slope below zero.
    pub negative_slope: f32,
}

impl ReluSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let negative_slope = layer.relu_param.unwrap_or_default().negative_slope();
        Ok(LayerKind::Relu(Self { negative_slope }))
    }
}

/// `Slice`.
#[derive(Clone, Debug)]
pub struct SliceSpec {
    /// The axis along which the bottom is cut.
    pub axis: i32,
    /// Where it is cut; empty for equal parts.
    pub points: Vec<usize>,
    /// The number of parts.
    pub num_tops: usize,
}

impl SliceSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.slice_param.clone().unwrap_or_default();
        let axis = match (param.slice_dim, param.axis) {
            (Some(_), Some(_)) => return Err("both axis and slice_dim are given: keep axis".to_owned()),
            (Some(dim), None) => i32::try_from(dim).map_err(|_| format!("slice_dim {dim} is no axis"))?,
            _ => param.axis(),
        };
        let points = usizes(&param.slice_point);
        if !points.is_empty() && points.len() + 1 != layer.top.len() {
            return Err(format!(
                "slice_point is given {} times for {} tops: give it once less than there are tops, or not at all",
                points.len(),
                layer.top.len()
            ));
        }
        let num_tops = layer.top.len();
        Ok(LayerKind::Slice(Self { axis, points, num_tops }))
    }
}

/// `Softmax`.
#[derive(Clone, Debug)]
pub struct SoftmaxSpec {
    /// The axis of the classes.
    pub axis: i32,
}

impl SoftmaxSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        Ok(LayerKind::Softmax(Self {
            axis: layer.softmax_param.unwrap_or_default().axis(),
        }))
    }
}

/// What a loss is divided by; never by less than 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// The number of positions.
    Full,
    /// The number of positions whose label is not ignored.
    Valid,
    /// The extent of the axes before the classes' axis.
    BatchSize,
    /// 1.
    None,
}

/// `SoftmaxWithLoss`.
#[derive(Clone, Debug)]
pub struct SoftmaxWithLossSpec {
    /// The axis of the classes.
    pub axis: i32,
    /// A label that adds nothing.
    pub ignore_label: Option<i32>,
    /// What the sum is divided by.
    pub normalization: Normalization,
}

/// `loss_param`'s normalization, with the legacy field `normalize`.
fn normalization(layer: &LayerParameter, default: Normalization) -> Normalization {
    let param = layer.loss_param.unwrap_or_default();
    match (param.normalization, param.normalize) {
        (None, Some(true)) => Normalization::Valid,
        (None, Some(false)) => Normalization::BatchSize,
        (None, None) => default,
        (Some(_), _) => match param.normalization() {
            loss_parameter::NormalizationMode::Full => Normalization::Full,
            loss_parameter::NormalizationMode::Valid => Normalization::Valid,
            loss_parameter::NormalizationMode::BatchSize => Normalization::BatchSize,
            loss_parameter::NormalizationMode::None => Normalization::None,
        },
    }
}

impl SoftmaxWithLossSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        Ok(LayerKind::SoftmaxWithLoss(Self {
            axis: layer.softmax_param.unwrap_or_default().axis(),
            ignore_label: layer.loss_param.unwrap_or_default().ignore_label,
            normalization: normalization(layer, Normalization::Valid),
        }))
    }
}

/// `Split`.
#[derive(Clone, Debug)]
pub struct SplitSpec {
    /// The number of copies.
    pub num_tops: usize,
}

impl SplitSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let num_tops = layer.top.len();
        Ok(LayerKind::Split(Self { num_tops }))
    }
}
