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

use sparknet_proto::{
    caffe::{
        ConvolutionParameter, DataParameter, DropoutParameter, FillerParameter, InnerProductParameter, InputParameter,
        LayerParameter, LrnParameter, MemoryDataParameter, NetParameter, NetStateRule, ParamSpec, PoolingParameter,
        data_parameter, pooling_parameter,
    },
    text::{self, TextError},
    upgrade::{self, UpgradeError},
};

use crate::{Error, NetSpec, NetState, Phase, Shape, SpecError, plan::Plan};

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

/// Layers.
impl NetBuilder {
    /// A layer of any type. `fields` are more of its fields, as a `.prototxt` writes them within `layer { … }`:
    /// `lrn_param { local_size: 3 }`.
    pub fn layer(self, name: &str, type_name: &str, bottoms: impl Into<Bottoms>, fields: &str) -> Self {
        let layer = LayerParameter {
            name: Some(name.to_owned()),
            r#type: Some(type_name.to_owned()),
            bottom: bottoms.into().0,
            ..Default::default()
        };
        let mut builder = self.message(layer).with(fields);
        if let Some(layer) = builder.net.layer.last_mut()
            && layer.top.is_empty()
            && type_name != "Silence"
        {
            layer.top.push(name.to_owned());
        }
        builder
    }

    /// A layer as a message, just as it is.
    pub fn message(mut self, layer: LayerParameter) -> Self {
        self.net.layer.push(layer);
        self
    }

    /// A blob that is filled from outside: `input("data", [64, 1, 28, 28])`.
    pub fn input(self, name: &str, shape: impl Into<Shape>) -> Self {
        self.add("Input", name, Bottoms::default(), |layer| {
            layer.input_param = Some(InputParameter {
                shape: vec![shape.into().to_proto()],
            });
        })
    }

    /// The records of an LMDB, in a blob of the layer's name, and their labels, in the blob `label`.
    pub fn data(mut self, name: &str, source: &str, batch_size: usize) -> Self {
        let batch_size = self.number(name, batch_size);
        self.add("Data", name, Bottoms::default(), |layer| {
            layer.top.push("label".to_owned());
            layer.data_param = Some(DataParameter {
                source: Some(source.to_owned()),
                backend: Some(data_parameter::Db::Lmdb.into()),
                batch_size: Some(batch_size),
                ..Default::default()
            });
        })
    }

    /// Records of shape `(c, h, w)` that a program hands over, in a blob of the layer's name, and their labels, in the
    /// blob `label`.
    pub fn memory_data(mut self, name: &str, batch_size: usize, record_shape: [usize; 3]) -> Self {
        let [batch_size, channels, height, width] =
            [batch_size, record_shape[0], record_shape[1], record_shape[2]].map(|value| self.number(name, value));
        self.add("MemoryData", name, Bottoms::default(), |layer| {
            layer.top.push("label".to_owned());
            layer.memory_data_param = Some(MemoryDataParameter {
                batch_size: Some(batch_size),
                channels: Some(channels),
                height: Some(height),
                width: Some(width),
                ..Default::default()
            });
        })
    }

    /// `num_output` square kernels.
    pub fn convolution(mut self, name: &str, bottom: &str, num_output: usize, kernel_size: usize) -> Self {
        let [num_output, kernel_size] = [num_output, kernel_size].map(|value| self.number(name, value));
        self.add("Convolution", name, bottom, |layer| {
            layer.convolution_param = Some(ConvolutionParameter {
                num_output: Some(num_output),
                kernel_size: vec![kernel_size],
                ..Default::default()
            });
        })
    }

    /// The maximum of each square window.
    pub fn max_pooling(self, name: &str, bottom: &str, kernel_size: usize, stride: usize) -> Self {
        self.pooling(name, bottom, pooling_parameter::PoolMethod::Max, [kernel_size, stride])
    }

    /// The mean of each square window.
    pub fn average_pooling(self, name: &str, bottom: &str, kernel_size: usize, stride: usize) -> Self {
        self.pooling(name, bottom, pooling_parameter::PoolMethod::Ave, [kernel_size, stride])
    }

    fn pooling(
        mut self,
        name: &str,
        bottom: &str,
        method: pooling_parameter::PoolMethod,
        kernel_size_and_stride: [usize; 2],
    ) -> Self {
        let [kernel_size, stride] = kernel_size_and_stride.map(|value| self.number(name, value));
        self.add("Pooling", name, bottom, |layer| {
            layer.pooling_param = Some(PoolingParameter {
                pool: Some(method.into()),
                kernel_size: Some(kernel_size),
                stride: Some(stride),
                ..Default::default()
            });
        })
    }

    /// `num_output` weighted sums of all values of a record.
    pub fn inner_product(mut self, name: &str, bottom: &str, num_output: usize) -> Self {
        let num_output = self.number(name, num_output);
        self.add("InnerProduct", name, bottom, |layer| {
            layer.inner_product_param = Some(InnerProductParameter {
                num_output: Some(num_output),
                ..Default::default()
            });
        })
    }

    /// Local response normalization across channels.
    pub fn lrn(mut self, name: &str, bottom: &str, local_size: usize, alpha: f32, beta: f32) -> Self {
        let local_size = self.number(name, local_size);
        self.add("LRN", name, bottom, |layer| {
            layer.lrn_param = Some(LrnParameter {
                local_size: Some(local_size),
                alpha: Some(alpha),
                beta: Some(beta),
                ..Default::default()
            });
        })
    }

    /// Zeroes each value with the probability `ratio` while training.
    pub fn dropout(self, name: &str, bottom: &str, ratio: f32) -> Self {
        self.add("Dropout", name, bottom, |layer| {
            layer.dropout_param = Some(DropoutParameter {
                dropout_ratio: Some(ratio),
            });
        })
    }

    /// `max(x, 0)`.
    pub fn relu(self, name: &str, bottom: &str) -> Self {
        self.add("ReLU", name, bottom, |_| {})
    }

    /// `1 / (1 + exp(-x))`.
    pub fn sigmoid(self, name: &str, bottom: &str) -> Self {
        self.add("Sigmoid", name, bottom, |_| {})
    }

    /// The hyperbolic tangent.
    pub fn tanh(self, name: &str, bottom: &str) -> Self {
        self.add("TanH", name, bottom, |_| {})
    }

    /// Joins blobs along their channels.
    pub fn concat(self, name: &str, bottoms: impl Into<Bottoms>) -> Self {
        self.add("Concat", name, bottoms, |_| {})
    }

    /// The sum of blobs of one shape; other operations by [`NetBuilder::with`].
    pub fn eltwise(self, name: &str, bottoms: impl Into<Bottoms>) -> Self {
        self.add("Eltwise", name, bottoms, |_| {})
    }

    /// Scores to probabilities.
    pub fn softmax(self, name: &str, bottom: &str) -> Self {
        self.add("Softmax", name, bottom, |_| {})
    }

    /// The mean of `-ln p(label)`; bottoms are scores and labels.
    pub fn softmax_with_loss(self, name: &str, bottoms: impl Into<Bottoms>) -> Self {
        self.add("SoftmaxWithLoss", name, bottoms, |_| {})
    }

    /// Half the mean squared distance of two blobs.
    pub fn euclidean_loss(self, name: &str, bottoms: impl Into<Bottoms>) -> Self {
        self.add("EuclideanLoss", name, bottoms, |_| {})
    }

    /// The share of records whose label has the best score; bottoms are scores and labels.
    pub fn accuracy(self, name: &str, bottoms: impl Into<Bottoms>) -> Self {
        self.add("Accuracy", name, bottoms, |_| {})
    }

    fn add(
        self,
        type_name: &str,
        name: &str,
        bottoms: impl Into<Bottoms>,
        set: impl FnOnce(&mut LayerParameter),
    ) -> Self {
        let mut layer = LayerParameter {
            name: Some(name.to_owned()),
            r#type: Some(type_name.to_owned()),
            bottom: bottoms.into().0,
            top: vec![name.to_owned()],
            ..Default::default()
        };
        set(&mut layer);
        self.message(layer)
    }

    /// A number as the schema holds it.
    fn number(&mut self, layer: &str, value: usize) -> u32 {
        u32::try_from(value).unwrap_or_else(|_| {
            let layer = layer.to_owned();
            self.mistakes.push(Mistake::TooLarge { layer, value });
            u32::MAX
        })
    }
}

/// Calls that change the layer before them.
impl NetBuilder {
    /// Sets more fields of the layer, as a `.prototxt` writes them within `layer { … }`: values replace what is there,
    /// lists grow, and messages are merged.
    pub fn with(self, fields: &str) -> Self {
        let mut mistake = None;
        let mut builder = self.change("with", |layer| {
            let place = format!("layer '{}'", layer.name());
            mistake = text::merge(layer, &place, fields).err();
        });
        builder.mistakes.extend(mistake.map(Mistake::Text));
        builder
    }

    /// Writes over the bottom.
    pub fn in_place(self) -> Self {
        self.change("in_place", |layer| layer.top.clone_from(&layer.bottom))
    }

    /// Names the tops, where the layer's own name is not right.
    pub fn tops<const N: usize>(self, names: [&str; N]) -> Self {
        self.change("tops", |layer| {
            layer.top = names.iter().map(|name| (*name).to_owned()).collect();
        })
    }

    /// Includes the layer in one phase only.
    pub fn only_in(self, phase: Phase) -> Self {
        self.change("only_in", |layer| {
            let mut rule = NetStateRule::default();
            rule.set_phase(phase.to_proto());
            layer.include.push(rule);
        })
    }

    /// The weight of the first top in the net's loss.
    pub fn loss_weight(self, weight: f32) -> Self {
        self.change("loss_weight", |layer| layer.loss_weight = vec![weight])
    }

    /// The factors on the learning rate, one a parameter blob: weights first, then the bias.
    pub fn lr_mults<const N: usize>(self, factors: [f32; N]) -> Self {
        self.change("lr_mults", |layer| {
            let missing = factors.len().saturating_sub(layer.param.len());
            layer
                .param
                .extend(std::iter::repeat_with(ParamSpec::default).take(missing));
            for (param, factor) in layer.param.iter_mut().zip(factors) {
                param.lr_mult = Some(factor);
            }
        })
    }

    /// How weights are filled: `"xavier"`, `"msra"`; fillers with numbers by [`NetBuilder::with`].
    pub fn weight_filler(self, type_name: &str) -> Self {
        let filler = FillerParameter {
            r#type: Some(type_name.to_owned()),
            ..Default::default()
        };
        let [call, what, wanted] = ["weight_filler", "weights", "a convolution or an inner_product"];
        self.change_part(call, what, wanted, |layer| {
            let place = match (&mut layer.convolution_param, &mut layer.inner_product_param) {
                (Some(param), _) => &mut param.weight_filler,
                (None, Some(param)) => &mut param.weight_filler,
                (None, None) => return false,
            };
            *place = Some(filler);
            true
        })
    }

    /// The distance of two windows.
    pub fn stride(self, stride: u32) -> Self {
        self.change_part("stride", "windows", "a convolution or a pooling", |layer| {
            match (&mut layer.convolution_param, &mut layer.pooling_param) {
                (Some(param), _) => param.stride = vec![stride],
                (None, Some(param)) => param.stride = Some(stride),
                (None, None) => return false,
            }
            true
        })
    }

    /// The zeros around each image.
    pub fn pad(self, pad: u32) -> Self {
        self.change_part("pad", "windows", "a convolution or a pooling", |layer| {
            match (&mut layer.convolution_param, &mut layer.pooling_param) {
                (Some(param), _) => param.pad = vec![pad],
                (None, Some(param)) => param.pad = Some(pad),
                (None, None) => return false,
            }
            true
        })
    }

    fn change(mut self, call: &'static str, change: impl FnOnce(&mut LayerParameter)) -> Self {
        match self.net.layer.last_mut() {
            Some(layer) => change(layer),
            None => self.mistakes.push(Mistake::NoLayer { call }),
        }
        self
    }

    fn change_part(
        self,
        call: &'static str,
        what: &'static str,
        wanted: &'static str,
        change: impl FnOnce(&mut LayerParameter) -> bool,
    ) -> Self {
        let mut misplaced = None;
        let mut builder = self.change(call, |layer| {
            if !change(layer) {
                misplaced = Some((layer.name().to_owned(), layer.r#type().to_owned()));
            }
        });
        builder
            .mistakes
            .extend(misplaced.map(|(layer, type_name)| Mistake::Misplaced {
                call,
                layer,
                type_name,
                what,
                wanted,
            }));
        builder
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
