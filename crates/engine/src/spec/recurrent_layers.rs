//! The typed parameters of the layers that remember.

use sparknet_proto::caffe::LayerParameter;

use super::{
    LayerKind,
    kinds::{Parsed, filler, required},
};
use crate::filler::Filler;

/// `LSTM` and `RNN`.
#[derive(Clone, Debug)]
pub struct RecurrentSpec {
    /// The length of the hidden state, and of an output.
    pub num_output: usize,
    /// Whether a third bottom is an input of every step.
    pub static_input: bool,
    /// Whether the first states are bottoms and the last ones tops.
    pub expose_hidden: bool,
    /// Fills the weights.
    pub weight_filler: Filler,
    /// Fills the biases.
    pub bias_filler: Filler,
}

impl RecurrentSpec {
    /// Reads `recurrent_param` of a type with so many states.
    fn parse(layer: &LayerParameter, states: usize) -> Parsed<Self> {
        let param = layer.recurrent_param.clone().unwrap_or_default();
        let num_output = required(param.num_output, "num_output")?;
        let expose_hidden = param.expose_hidden();
        let hidden = if expose_hidden { states } else { 0 };
        let (bottoms, tops) = (layer.bottom.len(), layer.top.len());
        if bottoms != 2 + hidden && bottoms != 3 + hidden {
            return Err(format!(
                "with expose_hidden: {expose_hidden} it takes {} bottoms, or one more for a static input, but has {bottoms}",
                2 + hidden
            ));
        }
        if tops != 1 + hidden {
            return Err(format!(
                "with expose_hidden: {expose_hidden} it has tops for the output and {hidden} states, not {tops}"
            ));
        }
        Ok(Self {
            num_output,
            static_input: bottoms == 3 + hidden,
            expose_hidden,
            weight_filler: filler(param.weight_filler.as_ref())?,
            bias_filler: filler(param.bias_filler.as_ref())?,
        })
    }

    pub(crate) fn parse_lstm(layer: &LayerParameter) -> Parsed<LayerKind> {
        Self::parse(layer, 2).map(LayerKind::Lstm)
    }

    pub(crate) fn parse_rnn(layer: &LayerParameter) -> Parsed<LayerKind> {
        Self::parse(layer, 1).map(LayerKind::Rnn)
    }
}
