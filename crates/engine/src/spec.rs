//! What the user wrote becomes what is validated, once: a loose `NetParameter` turns into a [`NetSpec`] whose layers are
//! those of one phase, stage and level, with typed parameters and every default filled in. No other module reads a
//! parameter message.

mod data_layers;
mod hdf5_layers;
mod kinds;
mod loss_layers;
mod neuron_layers;
mod python_layer;
mod recurrent_layers;
mod row_layers;
mod shape_layers;
mod solver;
mod source_layers;
mod vision_layers;

pub use data_layers::*;
pub use hdf5_layers::*;
pub use kinds::*;
pub use loss_layers::*;
pub use neuron_layers::*;
pub use python_layer::*;
pub use recurrent_layers::*;
pub use row_layers::*;
pub use shape_layers::*;
pub use solver::*;
pub use source_layers::*;
pub use vision_layers::*;

use sparknet_proto::caffe::{self, BlobProto, LayerParameter, NetParameter, NetStateRule};

use crate::{SpecError, layers};

/// Whether a net is trained or tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Training: dropout drops, crops are random.
    Train,
    /// Testing and inference.
    Test,
}

impl Phase {
    fn from_proto(phase: caffe::Phase) -> Self {
        match phase {
            caffe::Phase::Train => Self::Train,
            caffe::Phase::Test => Self::Test,
        }
    }

    pub(crate) fn to_proto(self) -> caffe::Phase {
        match self {
            Self::Train => caffe::Phase::Train,
            Self::Test => caffe::Phase::Test,
        }
    }
}

/// What include and exclude rules look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetState {
    /// The phase.
    pub phase: Phase,
    /// The level, for `min_level` and `max_level`.
    pub level: i32,
    /// The stages, for `stage` and `not_stage`.
    pub stages: Vec<String>,
}

impl NetState {
    /// Level 0 of `phase`, with no stage.
    pub fn new(phase: Phase) -> Self {
        Self {
            phase,
            level: 0,
            stages: Vec::new(),
        }
    }

    /// This state overlaid with what a message sets, as `MergeFrom` does: scalars replace, stages are added.
    pub fn merge(mut self, state: Option<&caffe::NetState>) -> Self {
        if let Some(state) = state {
            if state.phase.is_some() {
                self.phase = Phase::from_proto(state.phase());
            }
            self.level = state.level.unwrap_or(self.level);
            self.stages.extend(state.stage.iter().cloned());
        }
        self
    }

    fn meets(&self, rule: &NetStateRule) -> bool {
        (rule.phase.is_none() || Phase::from_proto(rule.phase()) == self.phase)
            && rule.min_level.is_none_or(|level| self.level >= level)
            && rule.max_level.is_none_or(|level| self.level <= level)
            && rule.stage.iter().all(|stage| self.stages.contains(stage))
            && !rule.not_stage.iter().any(|stage| self.stages.contains(stage))
    }

    fn includes(&self, layer: &LayerParameter) -> Result<bool, SpecError> {
        if !layer.include.is_empty() && !layer.exclude.is_empty() {
            return Err(SpecError::Net {
                net: layer.name().to_owned(),
                fact: "a layer has include or exclude rules, not both: keep one kind".to_owned(),
            });
        }
        Ok(if layer.include.is_empty() {
            !layer.exclude.iter().any(|rule| self.meets(rule))
        } else {
            layer.include.iter().any(|rule| self.meets(rule))
        })
    }
}

/// A net of one state, validated.
#[derive(Clone, Debug)]
pub struct NetSpec {
    /// The net's name.
    pub name: String,
    /// The state that the layers were chosen by.
    pub state: NetState,
    /// Whether every layer runs its backward pass, down to the inputs.
    pub force_backward: bool,
    /// Whether passes are told line by line ([`Net::listen_to_debug_info`](crate::Net::listen_to_debug_info)).
    pub debug_info: bool,
    /// The layers, in file order.
    pub layers: Vec<LayerSpec>,
}

/// One layer, with every default filled in.
#[derive(Clone, Debug)]
pub struct LayerSpec {
    /// The name, which weights are matched by.
    pub name: String,
    /// The type, as the registry writes it.
    pub type_name: &'static str,
    /// The type's parameters.
    pub kind: LayerKind,
    /// The names of the blobs that it reads.
    pub bottoms: Vec<String>,
    /// The names of the blobs that it writes.
    pub tops: Vec<String>,
    /// Each top's weight in the net's loss; 0 for none.
    pub loss_weights: Vec<f32>,
    /// What the file says of the layer's parameter blobs; may be shorter than there are blobs.
    pub params: Vec<ParamSpec>,
    /// Whether to backpropagate to each bottom; empty where the net decides.
    pub propagate_down: Vec<bool>,
    /// Values that the file gives the layer's parameter blobs, in place of their fillers; empty for none.
    pub blobs: Vec<BlobProto>,
    /// The message that the layer came from, without its blobs: snapshots carry it.
    pub message: LayerParameter,
}

/// What a file says of one parameter blob.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ParamSpec {
    /// The name that layers share it by; empty for none.
    pub name: String,
    /// Whether sharing wants the same count only (PERMISSIVE) and not the same shape (STRICT).
    pub permissive: bool,
    /// The factor on the learning rate, where given.
    pub lr_mult: Option<f32>,
    /// The factor on the weight decay, where given.
    pub decay_mult: Option<f32>,
}

impl NetSpec {
    /// Picks the layers of `state` from an upgraded net and validates them. The net's own `state` field is overlaid on
    /// `state` by the caller ([`NetState::merge`]), because solver and net merge theirs in Caffe's order.
    ///
    /// # Errors
    /// An unknown type, a missing or contradictory field, a wrong number of bottoms or tops.
    pub fn from_proto(net: &NetParameter, state: NetState) -> Result<Self, SpecError> {
        let net_error = |fact: &str| SpecError::Net {
            net: net.name().to_owned(),
            fact: fact.to_owned(),
        };
        if !net.layers.is_empty() || !net.input.is_empty() {
            return Err(net_error(
                "legacy fields have to be upgraded first (sparknet upgrade-net)",
            ));
        }
        let mut layers = Vec::new();
        for layer in &net.layer {
            if state.includes(layer)? {
                layers.push(LayerSpec::from_proto(layer, state.phase)?);
            }
        }
        if layers.is_empty() {
            let phase = state.phase;
            return Err(net_error(&format!(
                "no layer is left in phase {phase:?}, level {}, stages [{}]: check the include and exclude rules",
                state.level,
                state.stages.join(", ")
            )));
        }
        Ok(Self {
            name: net.name().to_owned(),
            state,
            force_backward: net.force_backward(),
            debug_info: net.debug_info(),
            layers,
        })
    }

    /// This net as a message, without weights: what Caffe prints after filtering.
    pub fn to_proto(&self) -> NetParameter {
        NetParameter {
            name: Some(self.name.clone()),
            layer: self.layers.iter().map(|layer| layer.message.clone()).collect(),
            ..Default::default()
        }
    }
}

impl LayerSpec {
    fn from_proto(layer: &LayerParameter, phase: Phase) -> Result<Self, SpecError> {
        let name = layer.name().to_owned();
        let def = layers::find(&name, layer.r#type())?;
        let type_name = def.type_name;
        let field_error = |fact: String| SpecError::Field {
            layer: name.clone(),
            type_name,
            fact,
        };
        let arity = |what, found, arity: layers::Arity| {
            if arity.allows(found) {
                return Ok(());
            }
            let (layer, expected) = (name.clone(), arity.to_string());
            Err(SpecError::Arity {
                layer,
                type_name,
                what,
                found,
                expected,
            })
        };

        let mut message = layer.clone();
        let blobs = std::mem::take(&mut message.blobs);
        message.set_phase(phase.to_proto());
        let kind = (def.parse)(&message).map_err(field_error)?;
        let mut tops = layer.top.clone();
        if tops.is_empty() && kind.is_loss() {
            // Caffe gives a loss layer without a top an anonymous one.
            tops.push(format!("(automatic {name})"));
        }
        arity("bottoms", layer.bottom.len(), def.bottoms)?;
        arity("tops", tops.len(), def.tops)?;
        if let Some(required) = kind.tops_per_bottom()
            && tops.len() != required * layer.bottom.len()
        {
            return Err(field_error(format!(
                "it needs a top for each of its {} bottoms, but has {}",
                layer.bottom.len(),
                tops.len()
            )));
        }

        let mut loss_weights = vec![0.0; tops.len()];
        if layer.loss_weight.is_empty() {
            if kind.is_loss() {
                loss_weights[0] = 1.0;
            }
        } else if layer.loss_weight.len() == tops.len() {
            loss_weights.copy_from_slice(&layer.loss_weight);
        } else {
            let (found, expected) = (layer.loss_weight.len(), tops.len());
            return Err(field_error(format!(
                "loss_weight has {found} values for {expected} tops: give one a top, or none"
            )));
        }
        if !layer.propagate_down.is_empty() && layer.propagate_down.len() != layer.bottom.len() {
            let (found, expected) = (layer.propagate_down.len(), layer.bottom.len());
            return Err(field_error(format!(
                "propagate_down has {found} values for {expected} bottoms: give one a bottom, or none"
            )));
        }

        let mut params: Vec<ParamSpec> = layer.param.iter().map(ParamSpec::from_proto).collect();
        let statistics = kind.num_statistics();
        if params.len() < statistics {
            params.resize_with(statistics, ParamSpec::fixed);
        }
        Ok(Self {
            name,
            type_name,
            kind,
            bottoms: layer.bottom.clone(),
            tops,
            loss_weights,
            params,
            propagate_down: layer.propagate_down.clone(),
            blobs,
            message,
        })
    }
}

impl ParamSpec {
    /// What is said of a blob that the solver must leave alone.
    fn fixed() -> Self {
        Self {
            lr_mult: Some(0.0),
            ..Self::default()
        }
    }

    fn from_proto(param: &caffe::ParamSpec) -> Self {
        Self {
            name: param.name().to_owned(),
            permissive: param.share_mode() == caffe::param_spec::DimCheckMode::Permissive,
            lr_mult: param.lr_mult,
            decay_mult: param.decay_mult,
        }
    }
}
