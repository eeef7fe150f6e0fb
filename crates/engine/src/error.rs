//! What can go wrong in the engine, each with the layer, the blobs and shapes, and the way out.

use std::{fmt, path::PathBuf, sync::Arc};

use crate::Shape;

/// An error of a net or a solver.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The net or solver description is wrong.
    #[error(transparent)]
    Spec(#[from] SpecError),
    /// A layer refused its bottoms, parameters or data.
    #[error("layer '{layer}' ({type_name}): {source}")]
    Layer {
        /// The layer's name.
        layer: String,
        /// The layer's type.
        type_name: &'static str,
        /// What is wrong; boxed, so that results stay small.
        source: Box<LayerError>,
    },
    /// Where a data layer's shapes come from failed.
    #[error("layer '{layer}': {source}")]
    Input {
        /// The layer's name.
        layer: String,
        /// What is wrong.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A bottom that no layer before this one produces.
    #[error("layer '{layer}' reads blob '{blob}', which {fact}")]
    UnknownBottom {
        /// The layer's name.
        layer: String,
        /// The blob's name.
        blob: String,
        /// Who could produce it, and the way out.
        fact: String,
    },
    /// Two layers write one blob, and the second does not do so in place.
    #[error(
        "layer '{layer}' writes blob '{blob}' that layer '{producer}' has already written: \
         rename the top, or make it the bottom at the same place too (in-place)"
    )]
    DuplicateTop {
        /// The layer's name.
        layer: String,
        /// The blob's name.
        blob: String,
        /// The layer that wrote it first.
        producer: String,
    },
    /// A gradient is needed where a layer has none.
    #[error(transparent)]
    NoGradient(#[from] NoGradient),
    /// A shared parameter whose shapes or multipliers differ.
    #[error("layer '{layer}' shares parameter '{param}' with layer '{owner}', but {fact}")]
    SharedParam {
        /// The layer's name.
        layer: String,
        /// The parameter's name.
        param: String,
        /// The layer that owns the parameter.
        owner: String,
        /// How they differ, and the way out.
        fact: String,
    },
    /// Weights that do not fit the net.
    #[error("weights of layer '{layer}' do not fit: {fact}")]
    Weights {
        /// The layer's name.
        layer: String,
        /// How they differ, and the way out.
        fact: String,
    },
    /// A snapshot that does not fit the solver.
    #[error("{}: {fact}", path.display())]
    Snapshot {
        /// The file.
        path: PathBuf,
        /// How it differs, and the way out.
        fact: String,
    },
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] sparknet_proto::Error),
    /// The loss is not a number any more.
    #[error(
        "the loss is {loss} at iteration {iteration}, first seen in layer '{layer}': \
         lower base_lr or set clip_gradients (--allow-nan, in Python allowNan, goes on)"
    )]
    NonFiniteLoss {
        /// The loss.
        loss: f32,
        /// The iteration, counted from 0.
        iteration: u64,
        /// The first layer with a value that is not finite.
        layer: String,
    },
    /// A blob that the net does not have.
    #[error("the net has no blob '{blob}': it has {}", names.join(", "))]
    NoSuchBlob {
        /// The blob's name.
        blob: String,
        /// The blobs that it has.
        names: Vec<String>,
    },
}

/// A gradient is needed where a layer has none: it would silently be zero.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("layer '{layer}' ({type_name}) has no gradient {fact}")]
pub struct NoGradient {
    /// The layer's name.
    pub layer: String,
    /// The layer's type.
    pub type_name: &'static str,
    /// The name of its bottom, or of its top whose gradient it drops.
    pub blob: String,
    /// Which blob that is, who needs the gradient, and the way out.
    pub fact: String,
}

/// An error in what a net or solver description says.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SpecError {
    /// A layer type that does not exist.
    #[error("layer '{layer}' has type '{type_name}', which {fact}")]
    UnknownType {
        /// The layer's name.
        layer: String,
        /// The type as written.
        type_name: String,
        /// What is known of it.
        fact: String,
    },
    /// A layer's field is missing, out of range or contradicts another.
    #[error("layer '{layer}' ({type_name}): {fact}")]
    Field {
        /// The layer's name.
        layer: String,
        /// The layer's type.
        type_name: &'static str,
        /// What is wrong, and the way out.
        fact: String,
    },
    /// A layer has the wrong number of bottoms or tops.
    #[error("layer '{layer}' ({type_name}) has {found} {what}, but takes {expected}")]
    Arity {
        /// The layer's name.
        layer: String,
        /// The layer's type.
        type_name: &'static str,
        /// "bottoms" or "tops".
        what: &'static str,
        /// How many it has.
        found: usize,
        /// How many it takes, in words.
        expected: String,
    },
    /// A field of the net.
    #[error("net '{net}': {fact}")]
    Net {
        /// The net's name.
        net: String,
        /// What is wrong, and the way out.
        fact: String,
    },
    /// A field of the solver.
    #[error("solver: {0}")]
    Solver(String),
}

/// Why a layer refuses; the net adds the layer's name and type.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LayerError {
    /// A bottom's shape does not suit.
    #[error("bottom {bottom} has shape {shape}, but {fact}")]
    BottomShape {
        /// The bottom's index.
        bottom: usize,
        /// Its shape.
        shape: Shape,
        /// What would suit.
        fact: String,
    },
    /// Two bottoms' shapes do not suit each other.
    #[error("bottom {first} has shape {first_shape} and bottom {second} {second_shape}, but {fact}")]
    BottomShapes {
        /// The first bottom's index.
        first: usize,
        /// Its shape.
        first_shape: Shape,
        /// The second bottom's index.
        second: usize,
        /// Its shape.
        second_shape: Shape,
        /// What would suit.
        fact: String,
    },
    /// An axis that the bottom does not have.
    #[error("axis {axis} does not exist in bottom 0 of shape {shape}")]
    Axis {
        /// The axis as written.
        axis: i32,
        /// The bottom's shape.
        shape: Shape,
    },
    /// A label outside the classes.
    #[error("label {label} at position {position} is not one of the {classes} classes 0 to {}: check the data or num_output", classes - 1)]
    Label {
        /// The label.
        label: f32,
        /// Its index in the bottom.
        position: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A file that the layer reads.
    #[error("{}: {fact}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fact: String,
    },
    /// A value that is no index into what it chooses from.
    #[error(
        "bottom {bottom} holds {value} at position {position}, which is not one of the {count} {what} 0 to {}: {remedy}",
        count - 1
    )]
    Index {
        /// The index of the bottom that holds it.
        bottom: usize,
        /// The value.
        value: f32,
        /// Its index in that bottom.
        position: usize,
        /// How many there are to choose from.
        count: usize,
        /// What they are, in the plural.
        what: &'static str,
        /// The way out.
        remedy: &'static str,
    },
    /// A bilinear filler for a blob that is no kernel.
    #[error("a bilinear filler wants a square 4-D blob, not {shape}")]
    BilinearFiller {
        /// The blob's shape.
        shape: Shape,
    },
    /// Rows that an HDF5Output layer could not hand on.
    #[error("its rows cannot be written: {0}")]
    Rows(String),
    /// A blob without values.
    #[error("a blob of shape {shape} has no values: feed at least one record")]
    Empty {
        /// The blob's shape.
        shape: Shape,
    },
    /// A blob with more values than a blob can have.
    #[error("a blob of shape {shape} has more than 2147483647 values: make the batch or the layer smaller")]
    TooLarge {
        /// The blob's shape.
        shape: Shape,
    },
    /// A layer of type Python where there is no Python.
    #[error(
        "the class {class} runs in Python, which this command does not: \
         train and test this net with the Python package sparknet"
    )]
    WithoutPython {
        /// The class.
        class: String,
    },
    /// Code from outside the engine failed, such as a class in Python.
    #[error(transparent)]
    Foreign(ForeignError),
}

/// An error of code from outside the engine.
#[derive(Clone, Debug, thiserror::Error)]
#[error(transparent)]
pub struct ForeignError(pub Arc<dyn std::error::Error + Send + Sync>);

impl PartialEq for ForeignError {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A list of names as a sentence takes it: `'a', 'b' and 'c'`.
pub(crate) fn quoted(names: &[impl fmt::Display]) -> String {
    names
        .iter()
        .map(|name| format!("'{name}'"))
        .collect::<Vec<_>>()
        .join(", ")
}
