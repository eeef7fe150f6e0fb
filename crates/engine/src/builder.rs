//! A net written in Rust, as SparkNet's and pycaffe's `NetSpec` have it in Scala and Python.
//!
//! ```
//! use sparknet_engine::{Net, NetBuilder, Phase, net::NoData};
//!
//! # fn main() -> Result<(), sparknet_engine::BuildError> {
//! let builder = NetBuilder::new("LeNet")
//!     .input("data", [64, 1, 28, 28])
//!     .input("label", [64])
//!     .convolution("conv1", "data", 20, 5).weight_filler("xavier").lr_mults([1.0, 2.0])
//!     .max_pooling("pool1", "conv1", 2, 2)
//!     .inner_product("ip1", "pool1", 500).weight_filler("xavier")
//!     .relu("relu1", "ip1").in_place()
//!     .inner_product("ip2", "ip1", 10).weight_filler("xavier")
//!     .layer("scale", "Power", "ip2", "power_param { scale: 0.5 }")
//!     .softmax_with_loss("loss", ["scale", "label"]);
//! let net = Net::new(builder.build(Phase::Train)?, &mut NoData, 1)?;
//! assert_eq!(net.blob_shape("pool1")?.dims(), [64, 20, 12, 12]);
//! assert!(builder.to_prototxt()?.starts_with("name: \"LeNet\"\nlayer {\n  name: \"data\"\n"));
//! # Ok(()) }
//! ```
//!
//! A call that adds a layer names it, says what it reads and what it cannot do without; its top has its name. Calls
//! such as [`NetBuilder::stride`] and [`NetBuilder::only_in`] change the layer before them, and [`NetBuilder::with`]
//! sets any of its fields, as a file writes them. What is wrong is told when the net is built.

mod changes;
mod layers;

use sparknet_proto::{
    caffe::NetParameter,
    text::{self, TextError},
    upgrade::{self, UpgradeError},
};

use crate::{Error, NetSpec, NetState, Phase, SpecError, plan::Plan};

/// Why a net that was written in code cannot be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// A call that could not be done.
    #[error(transparent)]
    Mistake(#[from] Mistake),
    /// A text has a legacy field that has no current form.
    #[error(transparent)]
    Upgrade(#[from] UpgradeError),
    /// The layers do not make a net.
    #[error(transparent)]
    Net(#[from] Error),
}

/// What is wrong with one call.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Mistake {
    /// A text of [`NetBuilder::layer`] or [`NetBuilder::with`] has a mistake; its place is given within that text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The call changes the layer before it, and there is none.
    #[error("{call} changes the layer before it, and there is none: add a layer first")]
    NoLayer {
        /// The call.
        call: &'static str,
    },
    /// The call changes what the layer before it does not have.
    #[error("layer '{layer}' ({type_name}) has no {what}: call {call} after {wanted}")]
    Misplaced {
        /// The call.
        call: &'static str,
        /// The layer's name.
        layer: String,
        /// The layer's type.
        type_name: String,
        /// What it does not have.
        what: &'static str,
        /// The layers that have it.
        wanted: &'static str,
    },
    /// A number that no file can hold.
    #[error("layer '{layer}': {value} is too large: a file holds numbers up to 4294967295")]
    TooLarge {
        /// The layer's name.
        layer: String,
        /// The number.
        value: usize,
    },
}

impl From<SpecError> for BuildError {
    fn from(error: SpecError) -> Self {
        Self::Net(error.into())
    }
}

/// The names of the blobs that a layer reads: one, or a list.
#[derive(Clone, Debug, Default)]
pub struct Bottoms(Vec<String>);

impl From<&str> for Bottoms {
    fn from(name: &str) -> Self {
        Self(vec![name.to_owned()])
    }
}

impl<const N: usize> From<[&str; N]> for Bottoms {
    fn from(names: [&str; N]) -> Self {
        Self(names.iter().map(|name| (*name).to_owned()).collect())
    }
}

impl From<Vec<String>> for Bottoms {
    fn from(names: Vec<String>) -> Self {
        Self(names)
    }
}

/// A net that is being written. [`NetBuilder::build`] checks it and makes it a [`NetSpec`] of one phase.
#[derive(Clone, Debug, Default)]
pub struct NetBuilder {
    net: NetParameter,
    /// What was wrong with its calls, in their order.
    mistakes: Vec<Mistake>,
}

/// What comes of a builder.
impl NetBuilder {
    /// A net without layers.
    pub fn new(name: &str) -> Self {
        Self {
            net: NetParameter {
                name: Some(name.to_owned()),
                ..Default::default()
            },
            mistakes: Vec::new(),
        }
    }

    /// The net's layers of one phase, checked: types, fields, numbers of blobs, and that every bottom is written before
    /// it is read. Shapes are checked where blobs get them, in [`Net::new`](crate::Net::new).
    ///
    /// # Errors
    /// The first mistake.
    pub fn build(&self, phase: Phase) -> Result<NetSpec, BuildError> {
        let spec = NetSpec::from_proto(&self.to_proto()?, NetState::new(phase))?;
        Plan::connect(&spec.layers)?;
        Ok(spec)
    }

    /// The message that the net stands for, with the layers of both phases.
    ///
    /// # Errors
    /// The first mistake in a call; what the layers come to together is not looked at.
    pub fn to_proto(&self) -> Result<NetParameter, BuildError> {
        match self.mistakes.first() {
            Some(mistake) => Err(mistake.clone().into()),
            None => Ok(upgrade::net(self.net.clone())?),
        }
    }

    /// The `.prototxt` that the net stands for.
    ///
    /// # Errors
    /// As [`NetBuilder::to_proto`].
    pub fn to_prototxt(&self) -> Result<String, BuildError> {
        Ok(text::print(&self.to_proto()?))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use sparknet_proto::read_net;

    use super::*;
    use crate::{Net, net::NoData};

    fn lenet() -> NetBuilder {
        let scale = "transform_param { scale: 0.00390625 }";
        NetBuilder::new("LeNet")
            .data("data", "data/fashion_mnist_train_lmdb", 64)
            .only_in(Phase::Train)
            .with(scale)
            .data("data", "data/fashion_mnist_test_lmdb", 100)
            .only_in(Phase::Test)
            .with(scale)
            .convolution("conv1", "data", 20, 5)
            .weight_filler("xavier")
            .lr_mults([1.0, 2.0])
            .max_pooling("pool1", "conv1", 2, 2)
            .convolution("conv2", "pool1", 50, 5)
            .weight_filler("xavier")
            .lr_mults([1.0, 2.0])
            .max_pooling("pool2", "conv2", 2, 2)
            .inner_product("ip1", "pool2", 500)
            .weight_filler("xavier")
            .lr_mults([1.0, 2.0])
            .relu("relu1", "ip1")
            .in_place()
            .inner_product("ip2", "ip1", 10)
            .weight_filler("xavier")
            .lr_mults([1.0, 2.0])
            .accuracy("accuracy", ["ip2", "label"])
            .only_in(Phase::Test)
            .softmax_with_loss("loss", ["ip2", "label"])
    }

    #[test]
    fn lenet_prints_the_projects_own_file() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/lenet/net.prototxt");
        let printed: NetParameter = text::parse("printed", &lenet().to_prototxt().unwrap()).unwrap();
        assert_eq!(printed, read_net(&path).unwrap());
        let layers = |phase| lenet().build(phase).unwrap().layers.len();
        assert_eq!((layers(Phase::Train), layers(Phase::Test)), (9, 10));
    }

    #[test]
    fn every_call_makes_a_layer_that_runs() {
        let builder = NetBuilder::new("all")
            .memory_data("data", 2, [3, 8, 8])
            .input("target", [2, 4])
            .convolution("conv", "data", 4, 3)
            .stride(2)
            .pad(1)
            .average_pooling("ave", "conv", 3, 1)
            .pad(1)
            .lrn("lrn", "ave", 3, 0.1, 0.75)
            .sigmoid("sigmoid", "lrn")
            .tanh("tanh", "lrn")
            .concat("cat", ["sigmoid", "tanh"])
            .eltwise("sum", ["cat", "cat"])
            .with("eltwise_param { coeff: 1 coeff: -0.5 }")
            .dropout("drop", "sum", 0.2)
            .inner_product("ip", "drop", 4)
            .softmax("prob", "ip")
            .euclidean_loss("distance", ["prob", "target"])
            .loss_weight(0.5)
            .layer(
                "parts",
                "Slice",
                "sum",
                "top: 'left' top: 'right' slice_param { axis: 1 }",
            )
            .layer("quiet", "Silence", ["left", "right", "label"], "")
            .layer("flat", "Flatten", "prob", "");
        let spec = builder.build(Phase::Train).unwrap();
        assert_eq!(spec.layers.last().unwrap().tops, ["flat"]);
        let mut net = Net::new(spec, &mut NoData, 1).unwrap();
        assert_eq!(net.blob_shape("conv").unwrap().dims(), [2, 4, 4, 4]);
        assert_eq!(net.blob_shape("left").unwrap().dims(), [2, 4, 4, 4]);
        net.blob_data_mut("target").unwrap().fill(1.0);
        let [loss, distance] = [net.forward().unwrap(), net.blob_data("distance").unwrap()[0]];
        assert!(distance > 0.0 && loss == 0.5 * distance, "{loss} {distance}");
    }

    #[test]
    fn mistakes_are_told_when_the_net_is_built() {
        let data = || NetBuilder::new("n").input("x", [2, 3]);
        let cases = [
            (
                NetBuilder::new("n").stride(2),
                "stride changes the layer before it, and there is none: add a layer first",
            ),
            (
                data().stride(2).relu("r", "x"),
                "layer 'x' (Input) has no windows: call stride after a convolution or a pooling",
            ),
            (
                data().relu("r", "y"),
                "layer 'r' reads blob 'y', which no layer before it writes: there is 'x'",
            ),
            (
                data().layer("c", "Convolutoin", "x", ""),
                "layer 'c' has type 'Convolutoin', which does not exist: did you mean \"Convolution\"?",
            ),
            (
                data().convolution("c", "x", 0, 3),
                "layer 'c' (Convolution): num_output is 0: give at least 1",
            ),
            (
                data().inner_product("ip", "x", 1 << 40),
                "layer 'ip': 1099511627776 is too large: a file holds numbers up to 4294967295",
            ),
            (
                data().softmax_with_loss("loss", "x"),
                "layer 'loss' (SoftmaxWithLoss) has 1 bottoms, but takes 2",
            ),
        ];
        for (builder, sentence) in cases {
            assert_eq!(builder.build(Phase::Train).unwrap_err().to_string(), sentence);
        }
        let error = data().relu("r", "x").with("relu_parm { }").build(Phase::Test);
        let message = error.unwrap_err().to_string();
        assert!(message.starts_with("layer 'r':1:1: "), "{message}");
        assert!(message.contains("relu_param"), "{message}");
    }
}
