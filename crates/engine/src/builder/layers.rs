//! Calls that add a layer.

use sparknet_proto::caffe::{
    ConvolutionParameter, DataParameter, DropoutParameter, InnerProductParameter, InputParameter, LayerParameter,
    LrnParameter, MemoryDataParameter, PoolingParameter, data_parameter, pooling_parameter,
};

use super::{Bottoms, Mistake, NetBuilder};
use crate::Shape;

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
