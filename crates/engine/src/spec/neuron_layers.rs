//! The typed parameters of layers that treat values one by one or channel by channel.

use sparknet_proto::caffe::LayerParameter;

use super::{
    LayerKind,
    kinds::{Parsed, filler},
};
use crate::filler::Filler;

/// `BatchNorm`.
#[derive(Clone, Debug)]
pub struct BatchNormSpec {
    /// Whether the stored statistics are used and not the batch's; `None` means in the phase TEST.
    pub use_global_stats: Option<bool>,
    /// What is left of the stored statistics when a batch's are added.
    pub moving_average_fraction: f32,
    /// What is added to the variance before its root is taken.
    pub eps: f32,
}

impl BatchNormSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.batch_norm_param.unwrap_or_default();
        if layer.param.iter().any(|param| param.lr_mult() != 0.0) {
            return Err(
                "a param entry has an lr_mult other than 0, but statistics are not learned: give lr_mult 0 or leave \
                 param out"
                    .to_owned(),
            );
        }
        if param.eps() < 0.0 || param.eps().is_nan() {
            return Err(format!("eps is {}: give a number that is not negative", param.eps()));
        }
        Ok(LayerKind::BatchNorm(Self {
            use_global_stats: param.use_global_stats,
            moving_average_fraction: param.moving_average_fraction(),
            eps: param.eps(),
        }))
    }
}

/// Which axes of a blob have a value of their own in a `Bias` or `Scale` layer.
#[derive(Clone, Debug)]
pub struct AxesSpec {
    /// The first of the axes.
    pub axis: i32,
    /// How many there are if the values are a parameter; `None` for all from `axis` on.
    pub num_axes: Option<usize>,
}

impl AxesSpec {
    fn parse(axis: i32, num_axes: i32) -> Parsed<Self> {
        let num_axes = match num_axes {
            -1 => None,
            num_axes => Some(usize::try_from(num_axes).map_err(|_| {
                format!("num_axes is {num_axes}: give 0 for a single value, -1 for all axes from axis on, or a count")
            })?),
        };
        Ok(Self { axis, num_axes })
    }
}

/// `Bias`.
#[derive(Clone, Debug)]
pub struct BiasSpec {
    /// The axes that have biases.
    pub axes: AxesSpec,
    /// Fills the bias if it is a parameter.
    pub filler: Filler,
}

impl BiasSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.bias_param.clone().unwrap_or_default();
        Ok(LayerKind::Bias(Self {
            axes: AxesSpec::parse(param.axis(), param.num_axes())?,
            filler: filler(param.filler.as_ref())?,
        }))
    }
}

/// `Clip`.
#[derive(Clone, Debug)]
pub struct ClipSpec {
    /// The least value that comes out.
    pub min: f32,
    /// The greatest value that comes out.
    pub max: f32,
}

impl ClipSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let Some(param) = layer.clip_param else {
            return Err("clip_param is missing: give it a min and a max".to_owned());
        };
        let (min, max) = (param.min, param.max);
        if min > max || min.is_nan() || max.is_nan() {
            return Err(format!("min is {min} and max {max}: give a max that is not below min"));
        }
        Ok(LayerKind::Clip(Self { min, max }))
    }
}

/// `ELU`.
#[derive(Clone, Debug)]
pub struct EluSpec {
    /// What the result approaches, negated, far below zero.
    pub alpha: f32,
}

impl EluSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let alpha = layer.elu_param.unwrap_or_default().alpha();
        Ok(LayerKind::Elu(Self { alpha }))
    }
}

/// `Exp`.
#[derive(Clone, Debug)]
pub struct ExpSpec {
    /// The natural logarithm of the base; 1 for e.
    pub ln_base: f32,
    /// The factor on the bottom.
    pub scale: f32,
    /// What is added to that.
    pub shift: f32,
}

impl ExpSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.exp_param.unwrap_or_default();
        Ok(LayerKind::Exp(Self {
            ln_base: ln_base(param.base())?,
            scale: param.scale(),
            shift: param.shift(),
        }))
    }
}

/// `Log`.
#[derive(Clone, Debug)]
pub struct LogSpec {
    /// The natural logarithm of the base; 1 for e.
    pub ln_base: f32,
    /// The factor on the bottom.
    pub scale: f32,
    /// What is added to that.
    pub shift: f32,
}

impl LogSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.log_param.unwrap_or_default();
        let ln_base = ln_base(param.base())?;
        if ln_base == 0.0 {
            return Err("base is 1, to which no logarithm exists: give another, or -1 for e".to_owned());
        }
        Ok(LayerKind::Log(Self {
            ln_base,
            scale: param.scale(),
            shift: param.shift(),
        }))
    }
}

/// The natural logarithm of a base; -1 stands for e.
fn ln_base(base: f32) -> Parsed<f32> {
    if base == -1.0 {
        Ok(1.0)
    } else if base > 0.0 && base.is_finite() {
        Ok(base.ln())
    } else {
        Err(format!("base is {base}: give a number above 0, or -1 for e"))
    }
}

/// `Power`.
#[derive(Clone, Debug)]
pub struct PowerSpec {
    /// The power.
    pub power: f32,
    /// The factor on the bottom.
    pub scale: f32,
    /// What is added to that.
    pub shift: f32,
}

impl PowerSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.power_param.unwrap_or_default();
        Ok(LayerKind::Power(Self {
            power: param.power(),
            scale: param.scale(),
            shift: param.shift(),
        }))
    }
}

/// `PReLU`.
#[derive(Clone, Debug)]
pub struct PReluSpec {
    /// Fills the slopes below zero.
    pub filler: Filler,
    /// Whether there is one slope for all channels.
    pub channel_shared: bool,
}

impl PReluSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.prelu_param.clone().unwrap_or_default();
        Ok(LayerKind::PRelu(Self {
            filler: match &param.filler {
                None => Filler::Constant(0.25),
                given => filler(given.as_ref())?,
            },
            channel_shared: param.channel_shared(),
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

/// `Scale`.
#[derive(Clone, Debug)]
pub struct ScaleSpec {
    /// The axes that have factors, and biases.
    pub axes: AxesSpec,
    /// Fills the factors if they are a parameter.
    pub filler: Filler,
    /// Fills the bias; `None` where there is none.
    pub bias_filler: Option<Filler>,
}

impl ScaleSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.scale_param.clone().unwrap_or_default();
        let bias_filler = filler(param.bias_filler.as_ref())?;
        Ok(LayerKind::Scale(Self {
            axes: AxesSpec::parse(param.axis(), param.num_axes())?,
            filler: match &param.filler {
                None => Filler::Constant(1.0),
                given => filler(given.as_ref())?,
            },
            bias_filler: param.bias_term().then_some(bias_filler),
        }))
    }
}

/// `Swish`.
#[derive(Clone, Debug)]
pub struct SwishSpec {
    /// The factor inside of the sigmoid.
    pub beta: f32,
}

impl SwishSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let beta = layer.swish_param.unwrap_or_default().beta();
        Ok(LayerKind::Swish(Self { beta }))
    }
}

/// `Threshold`.
#[derive(Clone, Debug)]
pub struct ThresholdSpec {
    /// Values above it become 1, the others 0.
    pub threshold: f32,
}

impl ThresholdSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let threshold = layer.threshold_param.unwrap_or_default().threshold();
        Ok(LayerKind::Threshold(Self { threshold }))
    }
}
