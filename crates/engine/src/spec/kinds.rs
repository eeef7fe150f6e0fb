//! What types of layers there are, and the typed parameters of some, read once from their messages. Groups of layers
//! have files beside this one.

use sparknet_proto::caffe::{self, FillerParameter, LayerParameter, eltwise_parameter, filler_parameter};

use super::*;
use crate::{
    Shape,
    filler::{Filler, VarianceNorm},
};

/// A layer's type and its parameters.
#[derive(Clone, Debug)]
#[allow(missing_docs)] // The variants are Caffe's layer types; layers.rs has a sentence on each.
pub enum LayerKind {
    AbsVal,
    Accuracy(AccuracySpec),
    ArgMax(ArgMaxSpec),
    BatchNorm(BatchNormSpec),
    BatchReindex,
    Bias(BiasSpec),
    Bnll,
    Clip(ClipSpec),
    Concat(ConcatSpec),
    ContrastiveLoss(ContrastiveLossSpec),
    Convolution(ConvolutionSpec),
    CosData(CosDataSpec),
    Crop(CropSpec),
    Data(DataSpec),
    Deconvolution(ConvolutionSpec),
    Dropout(DropoutSpec),
    DummyData(DummyDataSpec),
    Eltwise(EltwiseSpec),
    Elu(EluSpec),
    Embed(EmbedSpec),
    EuclideanLoss,
    Exp(ExpSpec),
    Filter(FilterSpec),
    Flatten(FlattenSpec),
    Hdf5Data(Hdf5DataSpec),
    Hdf5Output(Hdf5OutputSpec),
    HingeLoss(HingeLossSpec),
    Im2col(ConvolutionSpec),
    ImageData(ImageDataSpec),
    InfogainLoss(InfogainLossSpec),
    InnerProduct(InnerProductSpec),
    Input(InputSpec),
    Log(LogSpec),
    Lrn(LrnSpec),
    Lstm(RecurrentSpec),
    LstmUnit,
    MemoryData(MemoryDataSpec),
    MultinomialLogisticLoss,
    Mvn(MvnSpec),
    Parameter(ParameterSpec),
    Pooling(PoolingSpec),
    Power(PowerSpec),
    PRelu(PReluSpec),
    Python(PythonSpec),
    Reduction(ReductionSpec),
    Relu(ReluSpec),
    Reshape(ReshapeSpec),
    Rnn(RecurrentSpec),
    Scale(ScaleSpec),
    Sigmoid,
    SigmoidCrossEntropyLoss(SigmoidCrossEntropyLossSpec),
    Silence,
    Slice(SliceSpec),
    Softmax(SoftmaxSpec),
    SoftmaxWithLoss(SoftmaxWithLossSpec),
    Split(SplitSpec),
    Spp(SppSpec),
    Swish(SwishSpec),
    TanH,
    Threshold(ThresholdSpec),
    Tile(TileSpec),
    WindowData(WindowDataSpec),
}

impl LayerKind {
    /// Whether the tops are filled from outside the net.
    pub fn is_fed(&self) -> bool {
        matches!(self, Self::CosData(_) | Self::Input(_) | Self::MemoryData(_)) || self.has_source()
    }

    /// Whether the tops are filled from a source that the file names, and have the shapes of its records.
    pub fn has_source(&self) -> bool {
        matches!(self, Self::Hdf5Data(_)) || self.source().is_some()
    }

    /// The source of images that the tops are filled from, and what happens to them.
    pub fn source(&self) -> Option<(&str, &TransformSpec)> {
        match self {
            Self::Data(spec) => Some((&spec.source, &spec.transform)),
            Self::ImageData(spec) => Some((&spec.source, &spec.transform)),
            Self::WindowData(spec) => Some((&spec.source, &spec.transform)),
            _ => None,
        }
    }

    /// Records a batch, of a layer that is fed with records.
    pub fn batch_size(&self) -> Option<usize> {
        match self {
            Self::CosData(spec) => Some(spec.batch_size),
            Self::Data(spec) => Some(spec.batch_size),
            Self::Hdf5Data(spec) => Some(spec.batch_size),
            Self::ImageData(spec) => Some(spec.batch_size),
            Self::MemoryData(spec) => Some(spec.batch_size),
            Self::WindowData(spec) => Some(spec.batch_size),
            _ => None,
        }
    }

    /// Whether the first top is a term of the loss unless the file says otherwise.
    pub fn is_loss(&self) -> bool {
        matches!(
            self,
            Self::ContrastiveLoss(_)
                | Self::EuclideanLoss
                | Self::HingeLoss(_)
                | Self::InfogainLoss(_)
                | Self::MultinomialLogisticLoss
                | Self::SigmoidCrossEntropyLoss(_)
                | Self::SoftmaxWithLoss(_)
        )
    }

    /// How many of the parameter blobs, from the first, are statistics that the layer keeps itself and the solver must
    /// leave alone.
    pub(crate) fn num_statistics(&self) -> usize {
        match self {
            Self::BatchNorm(_) => 3,
            _ => 0,
        }
    }

    /// For types with a top a bottom: 1.
    pub(crate) fn tops_per_bottom(&self) -> Option<usize> {
        match self {
            Self::Convolution(_) | Self::Deconvolution(_) => Some(1),
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
    if message.sparse() >= 0 && message.r#type() != "gaussian" {
        return Err("a filler's sparse goes with type gaussian only: remove it".to_owned());
    }
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
        if !(0.0..1.0).contains(&ratio) {
            return Err(format!("dropout_ratio is {ratio}: give a number from 0 on and below 1"));
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
