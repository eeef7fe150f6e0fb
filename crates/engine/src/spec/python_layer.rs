//! The typed parameters of layers that are written in Python.

use sparknet_proto::caffe::LayerParameter;

use super::{LayerKind, Phase, kinds::Parsed};

/// `Python`.
#[derive(Clone, Debug)]
pub struct PythonSpec {
    /// The module, as Python imports it.
    pub module: String,
    /// The class in it.
    pub layer: String,
    /// What the class is told, as it is.
    pub param_str: String,
    /// The phase of the net.
    pub phase: Phase,
    /// The number of bottoms.
    pub num_bottoms: usize,
    /// The number of tops.
    pub num_tops: usize,
}

impl PythonSpec {
    pub(crate) fn parse(layer: &LayerParameter) -> Parsed<LayerKind> {
        // share_in_parallel says nothing here: each worker's net has a layer of its own.
        let param = layer.python_param.clone().unwrap_or_default();
        let required = |value: Option<String>, field: &str| {
            value
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("python_param.{field} is missing"))
        };
        let param_str = param.param_str().to_owned();
        Ok(LayerKind::Python(Self {
            module: required(param.module, "module")?,
            layer: required(param.layer, "layer")?,
            param_str,
            phase: Phase::from_proto(layer.phase()),
            num_bottoms: layer.bottom.len(),
            num_tops: layer.top.len(),
        }))
    }
}
