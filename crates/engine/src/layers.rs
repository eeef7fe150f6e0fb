//! The registry of layers: every type that exists, in the order of the alphabet, and the one `match` that builds them.
//!
//! A new layer is a file here that ends up in [`LAYERS`] and in [`build`], and its parameters in a file of `spec/`.

mod absval;
mod accuracy;
mod argmax;
mod batch_norm;
mod batch_reindex;
mod bias;
mod bnll;
mod channel_sums;
mod channels;
mod clip;
mod concat;
mod contrastive_loss;
mod convolution;
mod crop;
mod deconvolution;
mod dense;
mod dropout;
mod dummy_data;
mod eltwise;
mod elu;
mod embed;
mod euclidean_loss;
mod exp;
mod feed;
mod filter;
mod flatten;
mod gates;
#[cfg(test)]
mod gradient_check;
#[cfg(test)]
mod harness;
mod hdf5_output;
mod hinge_loss;
mod im2col;
mod index;
mod infogain_loss;
mod inner_product;
mod label;
mod log;
mod lrn;
mod lstm;
mod lstm_unit;
mod multinomial_logistic_loss;
mod mvn;
mod neuron;
mod parameter;
mod patches;
mod pooling;
mod power;
mod prelu;
mod python;
mod recurrent;
mod reduction;
#[cfg(test)]
mod registry_check;
mod relu;
mod reshape;
mod rnn;
mod scale;
mod sigmoid;
mod sigmoid_cross_entropy_loss;
mod silence;
mod slice;
mod softmax;
mod softmax_with_loss;
mod split;
mod spp;
mod swish;
mod tanh;
mod threshold;
mod tile;
pub(crate) mod vectorized;
mod windows;

pub use python::{PythonFactory, register_python_layers};

use std::fmt;

use sparknet_proto::caffe::LayerParameter;

use crate::{SpecError, layer::Layer, spec::LayerKind};

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

/// A case with one top and standard normal values.
#[cfg(test)]
const fn case(bottoms: &'static [&'static [usize]], params: &'static str) -> GradientCase {
    GradientCase {
        bottoms,
        params,
        tops: 1,
        fill: Fill::Normal,
    }
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
    /// The second bottom holds labels of this many classes, the others standard normal values.
    SecondLabels(usize),
    /// The last bottom holds labels of this many classes, the others values between 0.2 and 1.
    Probabilities(usize),
    /// The second bottom, (steps, so many streams), tells where sequences go on: not at the first step, so that nothing
    /// is remembered from the pass before. The others hold standard normal values.
    Sequences(usize),
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

/// Every layer type that exists.
pub const LAYERS: &[LayerDef] = &[
    absval::DEF,
    accuracy::DEF,
    argmax::DEF,
    batch_norm::DEF,
    batch_reindex::DEF,
    bias::DEF,
    bnll::DEF,
    clip::DEF,
    concat::DEF,
    contrastive_loss::DEF,
    convolution::DEF,
    feed::COS_DATA,
    crop::DEF,
    feed::DATA,
    deconvolution::DEF,
    dropout::DEF,
    dummy_data::DEF,
    eltwise::DEF,
    elu::DEF,
    embed::DEF,
    euclidean_loss::DEF,
    exp::DEF,
    filter::DEF,
    flatten::DEF,
    feed::HDF5_DATA,
    hdf5_output::DEF,
    hinge_loss::DEF,
    im2col::DEF,
    feed::IMAGE_DATA,
    infogain_loss::DEF,
    inner_product::DEF,
    feed::INPUT,
    log::DEF,
    lrn::DEF,
    lstm::DEF,
    lstm_unit::DEF,
    feed::MEMORY_DATA,
    multinomial_logistic_loss::DEF,
    mvn::DEF,
    parameter::DEF,
    pooling::DEF,
    power::DEF,
    prelu::DEF,
    python::DEF,
    reduction::DEF,
    relu::DEF,
    reshape::DEF,
    rnn::DEF,
    scale::DEF,
    sigmoid::DEF,
    sigmoid_cross_entropy_loss::DEF,
    silence::DEF,
    slice::DEF,
    softmax::DEF,
    softmax_with_loss::DEF,
    split::DEF,
    spp::DEF,
    swish::DEF,
    tanh::DEF,
    threshold::DEF,
    tile::DEF,
    feed::WINDOW_DATA,
];

/// Builds a layer.
pub(crate) fn build(kind: &LayerKind) -> Box<dyn Layer> {
    match kind {
        LayerKind::AbsVal => Box::new(absval::AbsVal::new()),
        LayerKind::Accuracy(spec) => Box::new(accuracy::Accuracy::new(spec)),
        LayerKind::ArgMax(spec) => Box::new(argmax::ArgMax::new(spec)),
        LayerKind::BatchNorm(spec) => Box::new(batch_norm::BatchNorm::new(spec)),
        LayerKind::BatchReindex => Box::new(batch_reindex::BatchReindex::new()),
        LayerKind::Bias(spec) => Box::new(bias::Bias::new(spec)),
        LayerKind::Bnll => Box::new(bnll::Bnll::new()),
        LayerKind::Clip(spec) => Box::new(clip::Clip::new(spec)),
        LayerKind::Concat(spec) => Box::new(concat::Concat::new(spec)),
        LayerKind::ContrastiveLoss(spec) => Box::new(contrastive_loss::ContrastiveLoss::new(spec)),
        LayerKind::Convolution(spec) => Box::new(convolution::Convolution::new(spec)),
        LayerKind::CosData(_)
        | LayerKind::Data(_)
        | LayerKind::Hdf5Data(_)
        | LayerKind::ImageData(_)
        | LayerKind::Input(_)
        | LayerKind::MemoryData(_)
        | LayerKind::WindowData(_) => Box::new(feed::Feed::new()),
        LayerKind::Crop(spec) => Box::new(crop::Crop::new(spec)),
        LayerKind::Deconvolution(spec) => Box::new(deconvolution::Deconvolution::new(spec)),
        LayerKind::Dropout(spec) => Box::new(dropout::Dropout::new(spec)),
        LayerKind::DummyData(spec) => Box::new(dummy_data::DummyData::new(spec)),
        LayerKind::Eltwise(spec) => Box::new(eltwise::Eltwise::new(spec)),
        LayerKind::Elu(spec) => Box::new(elu::Elu::new(spec)),
        LayerKind::Embed(spec) => Box::new(embed::Embed::new(spec)),
        LayerKind::EuclideanLoss => Box::new(euclidean_loss::EuclideanLoss::new()),
        LayerKind::Exp(spec) => Box::new(exp::Exp::new(spec)),
        LayerKind::Filter(spec) => Box::new(filter::Filter::new(spec)),
        LayerKind::Flatten(spec) => Box::new(flatten::Flatten::new(spec)),
        LayerKind::Hdf5Output(_) => Box::new(hdf5_output::Hdf5Output::new()),
        LayerKind::HingeLoss(spec) => Box::new(hinge_loss::HingeLoss::new(spec)),
        LayerKind::Im2col(spec) => Box::new(im2col::Im2col::new(spec)),
        LayerKind::InfogainLoss(spec) => Box::new(infogain_loss::InfogainLoss::new(spec)),
        LayerKind::InnerProduct(spec) => Box::new(inner_product::InnerProduct::new(spec)),
        LayerKind::Log(spec) => Box::new(log::Log::new(spec)),
        LayerKind::Lrn(spec) => Box::new(lrn::Lrn::new(spec)),
        LayerKind::Lstm(spec) => Box::new(lstm::Lstm::new(spec)),
        LayerKind::LstmUnit => Box::new(lstm_unit::LstmUnit::new()),
        LayerKind::MultinomialLogisticLoss => Box::new(multinomial_logistic_loss::MultinomialLogisticLoss::new()),
        LayerKind::Mvn(spec) => Box::new(mvn::Mvn::new(spec)),
        LayerKind::Parameter(spec) => Box::new(parameter::Parameter::new(spec)),
        LayerKind::Pooling(spec) => Box::new(pooling::Pooling::new(spec)),
        LayerKind::Power(spec) => Box::new(power::Power::new(spec)),
        LayerKind::PRelu(spec) => Box::new(prelu::PRelu::new(spec)),
        LayerKind::Python(spec) => python::build(spec),
        LayerKind::Reduction(spec) => Box::new(reduction::Reduction::new(spec)),
        LayerKind::Relu(spec) => Box::new(relu::Relu::new(spec)),
        LayerKind::Reshape(spec) => Box::new(reshape::Reshape::new(spec)),
        LayerKind::Rnn(spec) => Box::new(rnn::Rnn::new(spec)),
        LayerKind::Scale(spec) => Box::new(scale::Scale::new(spec)),
        LayerKind::Sigmoid => Box::new(sigmoid::Sigmoid::new()),
        LayerKind::SigmoidCrossEntropyLoss(spec) => {
            Box::new(sigmoid_cross_entropy_loss::SigmoidCrossEntropyLoss::new(spec))
        }
        LayerKind::Silence => Box::new(silence::Silence::new()),
        LayerKind::Slice(spec) => Box::new(slice::Slice::new(spec)),
        LayerKind::Softmax(spec) => Box::new(softmax::Softmax::new(spec)),
        LayerKind::SoftmaxWithLoss(spec) => Box::new(softmax_with_loss::SoftmaxWithLoss::new(spec)),
        LayerKind::Split(spec) => Box::new(split::Split::new(spec)),
        LayerKind::Spp(spec) => Box::new(spp::Spp::new(spec)),
        LayerKind::Swish(spec) => Box::new(swish::Swish::new(spec)),
        LayerKind::TanH => Box::new(tanh::TanH::new()),
        LayerKind::Threshold(spec) => Box::new(threshold::Threshold::new(spec)),
        LayerKind::Tile(spec) => Box::new(tile::Tile::new(spec)),
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
