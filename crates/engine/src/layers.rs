//! The registry of layers: every type that exists, in the order of the alphabet, and the one `match` that builds them.
//!
//! A new layer is a file here, an entry in [`LAYERS`], a line in [`build`], and its parameters in `spec/kinds.rs`.

mod accuracy;
mod concat;
mod convolution;
mod dropout;
mod dummy_data;
mod eltwise;
mod euclidean_loss;
mod feed;
mod flatten;
#[cfg(test)]
mod gradient_check;
#[cfg(test)]
mod harness;
mod inner_product;
mod label;
mod lrn;
mod neuron;
mod patches;
mod pooling;
mod relu;
mod sigmoid;
mod silence;
mod slice;
mod softmax;
mod softmax_with_loss;
mod split;
mod tanh;
pub(crate) mod vectorized;
mod windows;

use std::fmt;

use sparknet_proto::caffe::LayerParameter;

use crate::{
    SpecError,
    layer::Layer,
    spec::{
        AccuracySpec, ConcatSpec, ConvolutionSpec, DataSpec, DropoutSpec, DummyDataSpec, EltwiseSpec, FlattenSpec,
        InnerProductSpec, InputSpec, LayerKind, LrnSpec, MemoryDataSpec, PoolingSpec, ReluSpec, SliceSpec, SoftmaxSpec,
        SoftmaxWithLossSpec, SplitSpec,
    },
};

/// A layer type: what it does, and what its description may look like.
pub struct LayerDef {
    /// The type as it stands in a file.
    pub type_name: &'static str,
    /// What it does, in one line.
    pub summary: &'static str,
    /// How many bottoms it takes.
    pub bottoms: Arity,
    /// How many tops it has.
    pub tops: Arity,
    /// Reads its parameters.
    pub(crate) parse: fn(&LayerParameter) -> Result<LayerKind, String>,
    /// Nets of one such layer named "L", the inputs around it, that the gradient check goes through; or why the
    /// layer has no gradient.
    #[cfg(test)]
    pub(crate) gradients: Gradients,
}

/// What the gradient check does with a layer type.
#[cfg(test)]
pub(crate) enum Gradients {
    /// Compares backward with differences of forward.
    Check(&'static [GradientCase]),
    /// There is nothing to check, for this reason.
    None(&'static str),
}

/// One net that the gradient check goes through.
#[cfg(test)]
pub(crate) struct GradientCase {
    /// The bottoms' shapes.
    pub bottoms: &'static [&'static [usize]],
    /// The layer's message after `name`, `type`, bottoms and tops.
    pub params: &'static str,
    /// How many tops it has.
    pub tops: usize,
    /// What the bottoms are filled with.
    pub fill: Fill,
}

/// What a bottom of a [`GradientCase`] is filled with.
#[cfg(test)]
#[derive(Clone, Copy)]
pub(crate) enum Fill {
    /// Standard normal values.
    Normal,
    /// Normal values at least 0.1 from zero, for functions with a kink there.
    AwayFromZero,
    /// A shuffled ladder of values 0.1 apart, for functions that compare values.
    Distinct,
    /// The last bottom holds labels of this many classes, the others standard normal values.
    Labels(usize),
}

/// How many blobs a layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arity {
    /// Exactly so many.
    Exactly(usize),
    /// So many or more.
    AtLeast(usize),
    /// From the first to the second, both included.
    Between(usize, usize),
}

impl Arity {
    /// Whether `count` is so many.
    pub fn allows(self, count: usize) -> bool {
        match self {
            Self::Exactly(n) => count == n,
            Self::AtLeast(n) => count >= n,
            Self::Between(low, high) => (low..=high).contains(&count),
        }
    }
}

impl fmt::Display for Arity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exactly(n) => write!(f, "{n}"),
            Self::AtLeast(n) => write!(f, "{n} or more"),
            Self::Between(low, high) => write!(f, "{low} to {high}"),
        }
    }
}

/// Caffe's layer types, so that a type that is not there yet is told from a misspelt one.
const CAFFE_TYPES: [&str; 61] = [
    "AbsVal",
    "Accuracy",
    "ArgMax",
    "BNLL",
    "BatchNorm",
    "BatchReindex",
    "Bias",
    "Clip",
    "Concat",
    "ContrastiveLoss",
    "Convolution",
    "Crop",
    "Data",
    "Deconvolution",
    "Dropout",
    "DummyData",
    "ELU",
    "Eltwise",
    "Embed",
    "EuclideanLoss",
    "Exp",
    "Filter",
    "Flatten",
    "HDF5Data",
    "HDF5Output",
    "HingeLoss",
    "Im2col",
    "ImageData",
    "InfogainLoss",
    "InnerProduct",
    "Input",
    "LRN",
    "LSTM",
    "LSTMUnit",
    "Log",
    "MVN",
    "MemoryData",
    "MultinomialLogisticLoss",
    "PReLU",
    "Parameter",
    "Pooling",
    "Power",
    "Python",
    "RNN",
    "ReLU",
    "Reduction",
    "Reshape",
    "SPP",
    "Scale",
    "Sigmoid",
    "SigmoidCrossEntropyLoss",
    "Silence",
    "Slice",
    "Softmax",
    "SoftmaxWithLoss",
    "Split",
    "Swish",
    "TanH",
    "Threshold",
    "Tile",
    "WindowData",
];

/// Every layer type that exists.
pub const LAYERS: &[LayerDef] = &[
    LayerDef {
        type_name: "Accuracy",
        summary: "the share of positions whose label is among the top_k scores",
        bottoms: Arity::Exactly(2),
        tops: Arity::Between(1, 2),
        parse: AccuracySpec::parse,
        #[cfg(test)]
        gradients: Gradients::None("it counts"),
    },
    LayerDef {
        type_name: "Concat",
        summary: "joins its bottoms along an axis",
        bottoms: Arity::AtLeast(1),
        tops: Arity::Exactly(1),
        parse: ConcatSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(concat::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Convolution",
        summary: "convolves with learned kernels over any number of spatial axes",
        bottoms: Arity::AtLeast(1),
        tops: Arity::AtLeast(1),
        parse: ConvolutionSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(convolution::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Data",
        summary: "records of a database, fed from outside the net",
        bottoms: Arity::Exactly(0),
        tops: Arity::Between(1, 2),
        parse: DataSpec::parse,
        #[cfg(test)]
        gradients: Gradients::None("it has no bottom"),
    },
    LayerDef {
        type_name: "Dropout",
        summary: "sets values to zero at random while training",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: DropoutSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(dropout::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "DummyData",
        summary: "blobs from fillers",
        bottoms: Arity::Exactly(0),
        tops: Arity::AtLeast(1),
        parse: DummyDataSpec::parse,
        #[cfg(test)]
        gradients: Gradients::None("it has no bottom"),
    },
    LayerDef {
        type_name: "Eltwise",
        summary: "joins its bottoms element by element",
        bottoms: Arity::AtLeast(2),
        tops: Arity::Exactly(1),
        parse: EltwiseSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(eltwise::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "EuclideanLoss",
        summary: "half the mean squared distance of two blobs",
        bottoms: Arity::Exactly(2),
        tops: Arity::Exactly(1),
        parse: |_| Ok(LayerKind::EuclideanLoss),
        #[cfg(test)]
        gradients: Gradients::Check(euclidean_loss::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Flatten",
        summary: "joins axes to one",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: FlattenSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(flatten::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "InnerProduct",
        summary: "a matrix product with learned weights",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: InnerProductSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(inner_product::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Input",
        summary: "blobs of given shapes, fed from outside the net",
        bottoms: Arity::Exactly(0),
        tops: Arity::AtLeast(1),
        parse: InputSpec::parse,
        #[cfg(test)]
        gradients: Gradients::None("it has no bottom"),
    },
    LayerDef {
        type_name: "LRN",
        summary: "normalises each value by its neighbours' squares",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: LrnSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(lrn::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "MemoryData",
        summary: "records and labels, fed from outside the net",
        bottoms: Arity::Exactly(0),
        tops: Arity::Exactly(2),
        parse: MemoryDataSpec::parse,
        #[cfg(test)]
        gradients: Gradients::None("it has no bottom"),
    },
    LayerDef {
        type_name: "Pooling",
        summary: "the maximum, average or a random value of windows",
        bottoms: Arity::Exactly(1),
        tops: Arity::Between(1, 2),
        parse: PoolingSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(pooling::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "ReLU",
        summary: "max(x, 0), or a slope below zero",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: ReluSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(relu::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Sigmoid",
        summary: "1 / (1 + exp(-x))",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: |_| Ok(LayerKind::Sigmoid),
        #[cfg(test)]
        gradients: Gradients::Check(sigmoid::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Silence",
        summary: "takes blobs so that they are no outputs of the net",
        bottoms: Arity::AtLeast(1),
        tops: Arity::Exactly(0),
        parse: |_| Ok(LayerKind::Silence),
        #[cfg(test)]
        gradients: Gradients::None("it has no top"),
    },
    LayerDef {
        type_name: "Slice",
        summary: "cuts its bottom along an axis",
        bottoms: Arity::Exactly(1),
        tops: Arity::AtLeast(1),
        parse: SliceSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(slice::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Softmax",
        summary: "probabilities from scores",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: SoftmaxSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(softmax::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "SoftmaxWithLoss",
        summary: "the mean negative log-probability of the labels",
        bottoms: Arity::Exactly(2),
        tops: Arity::Between(1, 2),
        parse: SoftmaxWithLossSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(softmax_with_loss::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "Split",
        summary: "copies its bottom to every top",
        bottoms: Arity::Exactly(1),
        tops: Arity::AtLeast(1),
        parse: SplitSpec::parse,
        #[cfg(test)]
        gradients: Gradients::Check(split::GRADIENT_CASES),
    },
    LayerDef {
        type_name: "TanH",
        summary: "the hyperbolic tangent",
        bottoms: Arity::Exactly(1),
        tops: Arity::Exactly(1),
        parse: |_| Ok(LayerKind::TanH),
        #[cfg(test)]
        gradients: Gradients::Check(tanh::GRADIENT_CASES),
    },
];

/// Builds a layer.
pub(crate) fn build(kind: &LayerKind) -> Box<dyn Layer> {
    match kind {
        LayerKind::Accuracy(spec) => Box::new(accuracy::Accuracy::new(spec)),
        LayerKind::Concat(spec) => Box::new(concat::Concat::new(spec)),
        LayerKind::Convolution(spec) => Box::new(convolution::Convolution::new(spec)),
        LayerKind::Data(_) | LayerKind::Input(_) | LayerKind::MemoryData(_) => Box::new(feed::Feed::new()),
        LayerKind::Dropout(spec) => Box::new(dropout::Dropout::new(spec)),
        LayerKind::DummyData(spec) => Box::new(dummy_data::DummyData::new(spec)),
        LayerKind::Eltwise(spec) => Box::new(eltwise::Eltwise::new(spec)),
        LayerKind::EuclideanLoss => Box::new(euclidean_loss::EuclideanLoss::new()),
        LayerKind::Flatten(spec) => Box::new(flatten::Flatten::new(spec)),
        LayerKind::InnerProduct(spec) => Box::new(inner_product::InnerProduct::new(spec)),
        LayerKind::Lrn(spec) => Box::new(lrn::Lrn::new(spec)),
        LayerKind::Pooling(spec) => Box::new(pooling::Pooling::new(spec)),
        LayerKind::Relu(spec) => Box::new(relu::Relu::new(spec)),
        LayerKind::Sigmoid => Box::new(sigmoid::Sigmoid::new()),
        LayerKind::Silence => Box::new(silence::Silence::new()),
        LayerKind::Slice(spec) => Box::new(slice::Slice::new(spec)),
        LayerKind::Softmax(spec) => Box::new(softmax::Softmax::new(spec)),
        LayerKind::SoftmaxWithLoss(spec) => Box::new(softmax_with_loss::SoftmaxWithLoss::new(spec)),
        LayerKind::Split(spec) => Box::new(split::Split::new(spec)),
        LayerKind::TanH => Box::new(tanh::TanH::new()),
    }
}

/// The definition of a layer's type.
///
/// # Errors
/// A type that does not exist, with the nearest that does.
pub fn find(layer: &str, type_name: &str) -> Result<&'static LayerDef, SpecError> {
    if let Some(def) = LAYERS.iter().find(|def| def.type_name == type_name) {
        return Ok(def);
    }
    let fact = if type_name.is_empty() {
        "is missing: give each layer a type".to_owned()
    } else if CAFFE_TYPES.contains(&type_name) {
        "does not exist yet".to_owned()
    } else {
        let nearest = LAYERS.iter().min_by_key(|def| edit_distance(def.type_name, type_name));
        format!(
            "does not exist: did you mean \"{}\"?",
            nearest.map_or("", |def| def.type_name)
        )
    };
    Err(SpecError::UnknownType {
        layer: layer.to_owned(),
        type_name: type_name.to_owned(),
        fact,
    })
}

/// Levenshtein's distance of two names, case ignored.
fn edit_distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.to_lowercase(), b.to_lowercase());
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, a_char) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b_char) in b.chars().enumerate() {
            let substitution = diagonal + usize::from(a_char != b_char);
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}
