//! The typed parameters of every layer type, read once from their messages.

use sparknet_proto::caffe::{
    self, DataParameter, FillerParameter, LayerParameter, TransformationParameter, convolution_parameter,
    data_parameter, eltwise_parameter, filler_parameter, loss_parameter, lrn_parameter, pooling_parameter,
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
type Parsed<T> = Result<T, String>;

fn required(value: Option<u32>, field: &str) -> Parsed<usize> {
    match value {
        Some(0) => Err(format!("{field} is 0: give at least 1")),
        Some(value) => Ok(value as usize),
        None => Err(format!("{field} is missing")),
    }
}

fn shape(message: &caffe::BlobShape, field: &str) -> Parsed<Shape> {
    let shape = Shape::from_proto(message).map_err(|dim| format!("{field} has dim {dim}: give a positive number"))?;
    if shape.dims().contains(&0) {
        return Err(format!("{field} has dim 0: give a positive number"));
    }
    match shape.checked_count() {
        Some(_) => Ok(shape),
        None => Err(format!("{field} {shape} has more than 2147483647 values")),
    }
}

fn usizes(values: &[u32]) -> Vec<usize> {
    values.iter().map(|value| *value as usize).collect()
}

pub(crate) fn filler(message: Option<&FillerParameter>) -> Parsed<Filler> {
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
        let param: caffe::ConvolutionParameter = layer.convolution_param.clone().unwrap_or_default();
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
        let num_output = required(param.num_output, "num_output")?;
        let group = required(Some(param.group()), "group")?;
        if num_output % group != 0 {
            return Err(format!("num_output {num_output} is not a multiple of group {group}"));
        }
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

/// What a data layer does to each record: Caffe's `transform_param`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TransformSpec {
    /// The factor after the mean is taken away.
    pub scale: f32,
    /// Whether records are mirrored at random.
    pub mirror: bool,
    /// The edge of the square that is cut out; 0 for the whole record.
    pub crop_size: usize,
    /// A file with the mean record.
    pub mean_file: Option<String>,
    /// The mean of all channels, or of each.
    pub mean_values: Vec<f32>,
    /// Whether encoded records are decoded to 3 channels.
    pub force_color: bool,
    /// Whether encoded records are decoded to 1 channel.
    pub force_gray: bool,
}

impl TransformSpec {
    fn parse(message: Option<&TransformationParameter>) -> Parsed<Self> {
        let default = TransformationParameter::default();
        let message = message.unwrap_or(&default);
        if message.mean_file.is_some() && !message.mean_value.is_empty() {
            return Err("transform_param has both mean_file and mean_value: keep one".to_owned());
        }
        if message.force_color() && message.force_gray() {
            return Err("transform_param has both force_color and force_gray: keep one".to_owned());
        }
        Ok(Self {
            scale: message.scale(),
            mirror: message.mirror(),
            crop_size: message.crop_size() as usize,
            mean_file: message.mean_file.clone(),
            mean_values: message.mean_value.clone(),
            force_color: message.force_color(),
            force_gray: message.force_gray(),
        })
    }
}

/// `Data`.
#[derive(Clone, Debug)]
pub struct DataSpec {
    /// The database's folder.
    pub source: String,
    /// The database's format.
    pub backend: DataBackend,
    /// Records a batch.
    pub batch_size: usize,
    /// Up to how many records are skipped at the start.
    pub rand_skip: usize,
    /// How many batches are read ahead.
    pub prefetch: usize,
    /// What happens to each record.
    pub transform: TransformSpec,
}

/// The format of a `Data` layer's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataBackend {
    /// LevelDB.
    LevelDb,
    /// LMDB.
    Lmdb,
}

impl DataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param: DataParameter = layer.data_param.clone().unwrap_or_default();
        let source = param.source().to_owned();
        if source.is_empty() {
            return Err("data_param.source is missing: give the database's folder".to_owned());
        }
        Ok(LayerKind::Data(Self {
            source,
            backend: match param.backend() {
                data_parameter::Db::Leveldb => DataBackend::LevelDb,
                data_parameter::Db::Lmdb => DataBackend::Lmdb,
            },
            batch_size: required(param.batch_size, "data_param.batch_size")?,
            rand_skip: param.rand_skip() as usize,
            prefetch: param.prefetch().max(1) as usize,
            transform: TransformSpec::parse(layer.transform_param.as_ref())?,
        }))
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

/// `DummyData`.
#[derive(Clone, Debug)]
pub struct DummyDataSpec {
    /// The tops' shapes and fillers, in order.
    pub tops: Vec<(Shape, Filler)>,
}

impl DummyDataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.dummy_data_param.clone().unwrap_or_default();
        let num_tops = layer.top.len();
        // One value serves all tops; Caffe allows this for shapes, legacy dims and fillers alike.
        let pick = |len: usize, what: &str, index: usize| match len {
            1 => Ok(0),
            len if len == num_tops => Ok(index),
            len => Err(format!(
                "{what} is given {len} times for {num_tops} tops: give it once, or once a top"
            )),
        };
        let mut tops = Vec::with_capacity(num_tops);
        for index in 0..num_tops {
            let top_shape = if param.shape.is_empty() {
                let dim =
                    |name: &str, values: &[u32]| pick(values.len(), name, index).map(|index| i64::from(values[index]));
                let dims = vec![
                    dim("num", &param.num)?,
                    dim("channels", &param.channels)?,
                    dim("height", &param.height)?,
                    dim("width", &param.width)?,
                ];
                shape(&caffe::BlobShape { dim: dims }, "dummy_data_param")?
            } else {
                shape(&param.shape[pick(param.shape.len(), "shape", index)?], "shape")?
            };
            let top_filler = if param.data_filler.is_empty() {
                Filler::Constant(0.0)
            } else {
                filler(Some(
                    &param.data_filler[pick(param.data_filler.len(), "data_filler", index)?],
                ))?
            };
            tops.push((top_shape, top_filler));
        }
        Ok(LayerKind::DummyData(Self { tops }))
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

/// `Input`.
#[derive(Clone, Debug)]
pub struct InputSpec {
    /// The tops' shapes, in order.
    pub shapes: Vec<Shape>,
}

impl InputSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.input_param.clone().unwrap_or_default();
        let shapes = param
            .shape
            .iter()
            .map(|message| shape(message, "shape"))
            .collect::<Parsed<Vec<_>>>()?;
        match (shapes.len(), layer.top.len()) {
            (0, _) => Err("input_param.shape is missing: give the shape of each top".to_owned()),
            (1, tops) => Ok(LayerKind::Input(Self {
                shapes: vec![shapes[0].clone(); tops],
            })),
            (given, tops) if given == tops => Ok(LayerKind::Input(Self { shapes })),
            (given, tops) => Err(format!(
                "input_param has {given} shapes for {tops} tops: give one, or one a top"
            )),
        }
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

/// `MemoryData`.
#[derive(Clone, Debug)]
pub struct MemoryDataSpec {
    /// Records a batch.
    pub batch_size: usize,
    /// A record's shape.
    pub record_shape: [usize; 3],
    /// CaffeOnSpark's source of the records.
    pub source: Option<String>,
    /// What happens to each record.
    pub transform: TransformSpec,
}

impl MemoryDataSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.memory_data_param.clone().unwrap_or_default();
        Ok(LayerKind::MemoryData(Self {
            batch_size: required(param.batch_size, "memory_data_param.batch_size")?,
            record_shape: [
                required(param.channels, "memory_data_param.channels")?,
                required(param.height, "memory_data_param.height")?,
                required(param.width, "memory_data_param.width")?,
            ],
            source: param.source.clone(),
            transform: TransformSpec::parse(layer.transform_param.as_ref())?,
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
pub(crate) fn normalization(layer: &LayerParameter, default: Normalization) -> Normalization {
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
