//! The typed parameters of losses.

use std::path::PathBuf;

use sparknet_proto::caffe::{LayerParameter, hinge_loss_parameter, loss_parameter};

use super::{LayerKind, kinds::Parsed};

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

impl Normalization {
    /// What the sum of a loss is divided by, with `(outer, inner)` positions of which `valid` are not ignored.
    pub fn divisor(self, outer: usize, inner: usize, valid: usize) -> f32 {
        let divisor = match self {
            Self::Full => outer * inner,
            Self::Valid => valid,
            Self::BatchSize => outer,
            Self::None => 1,
        };
        divisor.max(1) as f32
    }
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

/// `ContrastiveLoss`.
#[derive(Clone, Debug)]
pub struct ContrastiveLossSpec {
    /// The distance from which a dissimilar pair adds nothing.
    pub margin: f32,
    /// Whether a dissimilar pair adds `margin - d²` and not `(margin - d)²`.
    pub legacy_version: bool,
}

impl ContrastiveLossSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.contrastive_loss_param.unwrap_or_default();
        Ok(LayerKind::ContrastiveLoss(Self {
            margin: param.margin(),
            legacy_version: param.legacy_version(),
        }))
    }
}

/// `HingeLoss`.
#[derive(Clone, Debug)]
pub struct HingeLossSpec {
    /// Whether margins are squared (L2) before they are added up.
    pub squared: bool,
}

impl HingeLossSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let norm = layer.hinge_loss_param.unwrap_or_default().norm();
        let squared = norm == hinge_loss_parameter::Norm::L2;
        Ok(LayerKind::HingeLoss(Self { squared }))
    }
}

/// `InfogainLoss`.
#[derive(Clone, Debug)]
pub struct InfogainLossSpec {
    /// The axis of the classes.
    pub axis: i32,
    /// The file with the infogain matrix, a binary `BlobProto`; `None` where it is the third bottom.
    pub source: Option<PathBuf>,
    /// A label that adds nothing.
    pub ignore_label: Option<i32>,
    /// What the sum is divided by.
    pub normalization: Normalization,
}

impl InfogainLossSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        let param = layer.infogain_loss_param.clone().unwrap_or_default();
        let loss_param = layer.loss_param.unwrap_or_default();
        if loss_param.normalize.is_some() {
            return Err("normalize is not for this layer: give normalization".to_owned());
        }
        let source = if layer.bottom.len() > 2 {
            None
        } else if param.source().is_empty() {
            return Err(
                "the infogain matrix is missing: name its file in infogain_loss_param.source, or give a third bottom"
                    .to_owned(),
            );
        } else {
            Some(PathBuf::from(param.source()))
        };
        Ok(LayerKind::InfogainLoss(Self {
            axis: param.axis(),
            source,
            ignore_label: loss_param.ignore_label,
            normalization: normalization(layer, Normalization::Valid),
        }))
    }
}

/// `SigmoidCrossEntropyLoss`.
#[derive(Clone, Debug)]
pub struct SigmoidCrossEntropyLossSpec {
    /// A target that adds nothing.
    pub ignore_label: Option<i32>,
    /// What the sum is divided by.
    pub normalization: Normalization,
}

impl SigmoidCrossEntropyLossSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        Ok(LayerKind::SigmoidCrossEntropyLoss(Self {
            ignore_label: layer.loss_param.unwrap_or_default().ignore_label,
            normalization: normalization(layer, Normalization::BatchSize),
        }))
    }
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

impl SoftmaxWithLossSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        Ok(LayerKind::SoftmaxWithLoss(Self {
            axis: layer.softmax_param.unwrap_or_default().axis(),
            ignore_label: layer.loss_param.unwrap_or_default().ignore_label,
            normalization: normalization(layer, Normalization::Valid),
        }))
    }
}
