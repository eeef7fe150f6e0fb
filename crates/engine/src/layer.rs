//! What a layer is.
//!
//! The net owns all blobs; a layer borrows them for the length of one call. A layer keeps its settings, the shapes that
//! it saw in [`Layer::reshape`], and buffers of its own. The life of a layer: built from its spec, [`Layer::reshape`]
//! at least once, [`Layer::params`] once after the first, then `forward` and `backward` in turn.
//!
//! Two rules keep layers simple. `backward` *overwrites* each bottom's gradient: where a blob has several readers, the
//! net adds theirs up. And it *adds to* the gradients of its parameters, because an update may take several batches.

use std::ops::{Index, Range};

use crate::{LayerError, Phase, Shape, filler::Filler};

/// A layer of a net.
pub trait Layer: Send {
    /// Checks the bottoms' shapes and returns the tops'. May allocate; called again when a bottom changes its shape.
    ///
    /// # Errors
    /// Shapes that the layer cannot take.
    fn reshape(&mut self, bottom: &[&Shape]) -> Result<Vec<Shape>, LayerError>;

    /// The parameter blobs that the layer wants, in Caffe's order.
    fn params(&self) -> Vec<ParamBlob> {
        Vec::new()
    }

    /// The extent of the tops' first axis, where only the bottoms' values tell it: asked before each `forward`, which
    /// then finds tops of that extent. [`Layer::reshape`] gives the largest that it can be.
    fn extent_from_data(&mut self, _bottom: Blobs<'_>) -> Option<usize> {
        None
    }

    /// Computes the tops. Not called where no bottom has a value, nor is `backward`: see
    /// [`Layer::extent_from_data`]. The tops, and the gradients, are then zero.
    ///
    /// # Errors
    /// Data that the layer cannot take, such as a label out of range.
    fn forward(&mut self, io: &mut Forward<'_>) -> Result<(), LayerError>;

    /// Computes the gradients of the bottoms that want one (overwriting) and of the parameters (adding).
    fn backward(&mut self, io: &mut Backward<'_>);

    /// What went wrong in [`Layer::backward`], which cannot say so itself; for layers whose code comes from outside.
    fn take_backward_error(&mut self) -> Option<LayerError> {
        None
    }

    /// Whether the layer can write its only top over its only bottom: `forward` finds the bottom in the top, and
    /// `backward`, which then must not look at the bottom, finds the top's gradient in the bottom's.
    fn can_run_in_place(&self) -> bool {
        false
    }

    /// Whether `backward` looks at the tops' values, so that no later layer may overwrite them.
    fn reads_top_in_backward(&self) -> bool {
        false
    }

    /// What there is to say of this bottom's gradient; `backward` is asked for those that it computes only.
    fn bottom_gradient(&self, _bottom: usize) -> BottomGradient {
        BottomGradient::Computed
    }

    /// Whether `backward` hands the gradient of this top on. That of a mask, say, goes nowhere.
    fn takes_gradient(&self, _top: usize) -> bool {
        true
    }

    /// Tells a layer that writes rows ([`RowSink`]) where they go; others have no use for it.
    fn set_row_sink(&mut self, _sink: Box<dyn RowSink>) {}
}

/// Whether a layer has a gradient for a bottom. Where it has none, and something before it could learn from one, the net
/// cannot be built for training: a gradient that is missing must not pass for one that is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BottomGradient {
    /// `backward` computes it.
    Computed,
    /// It is zero, whatever the values are: the layer looks at the bottom's shape at most, or has no top.
    Zero,
    /// The bottom holds labels or the like (this says what), for which there is none; `force_backward` asks for none.
    Label(&'static str),
    /// The tops are steps of the bottom's values: they jump or stay, and have no slope.
    Step,
}

/// Where the rows go that an HDF5Output layer sees: files are written outside the engine.
pub trait RowSink: Send {
    /// Takes the values of both bottoms after a forward pass, each with its shape `(rows, …)`.
    ///
    /// # Errors
    /// Why they cannot be kept, and the way out.
    fn take(&mut self, bottoms: [(&Shape, &[f32]); 2]) -> Result<(), String>;
}

/// A parameter blob that a layer wants.
#[derive(Clone, Debug)]
pub struct ParamBlob {
    /// The blob's shape.
    pub shape: Shape,
    /// Its initial values.
    pub filler: Filler,
}

impl ParamBlob {
    /// A weight, and a bias of a value an output where it has a filler.
    pub(crate) fn weight_and_bias(
        weight_shape: Shape,
        weight_filler: &Filler,
        outputs: usize,
        bias_filler: Option<&Filler>,
    ) -> Vec<Self> {
        let weight = Self {
            shape: weight_shape,
            filler: weight_filler.clone(),
        };
        let bias = bias_filler.map(|filler| Self {
            shape: Shape::from([outputs]),
            filler: filler.clone(),
        });
        std::iter::once(weight).chain(bias).collect()
    }
}

/// What all layers of a net may know in one pass.
#[derive(Clone, Copy, Debug)]
pub struct Context {
    /// The phase.
    pub phase: Phase,
    /// The key of the random numbers of this layer in this pass.
    pub random_key: u64,
    /// The number of threads that the layer may use: those of the current rayon pool.
    pub threads: usize,
}

/// What [`Layer::forward`] reads and writes.
pub struct Forward<'a> {
    /// The bottoms' values.
    pub bottom: Blobs<'a>,
    /// The tops' values, to be written whole.
    pub top: &'a mut [Vec<f32>],
    /// The layer's parameters.
    pub params: Params<'a>,
    /// Whether the bottom is to be found in the top.
    pub in_place: bool,
    /// The pass.
    pub context: Context,
}

/// What [`Layer::backward`] reads and writes.
pub struct Backward<'a> {
    /// The bottoms' values.
    pub bottom: Blobs<'a>,
    /// The tops' values.
    pub top: Blobs<'a>,
    /// The tops' gradients.
    pub top_diff: Blobs<'a>,
    /// The bottoms' gradients, each to be written whole where [`Backward::propagate_down`] says so.
    pub bottom_diff: &'a mut [Vec<f32>],
    /// Which bottoms want a gradient.
    pub propagate_down: &'a [bool],
    /// The layer's parameters.
    pub params: Params<'a>,
    /// The gradients of the layer's parameters, to be added to.
    pub param_diff: Params<'a>,
    /// Which parameters want a gradient.
    pub param_propagate_down: &'a [bool],
    /// Whether the top's gradient is to be found in the bottom's.
    pub in_place: bool,
    /// The pass; random numbers are those of the forward pass.
    pub context: Context,
}

/// Blobs that a layer reads, by position.
#[derive(Clone, Copy)]
pub struct Blobs<'a> {
    buffers: &'a [Vec<f32>],
    ids: &'a [usize],
}

impl<'a> Blobs<'a> {
    /// The buffers that `ids` name.
    pub(crate) fn new(buffers: &'a [Vec<f32>], ids: &'a [usize]) -> Self {
        Self { buffers, ids }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Blob `i`, for as long as the net lends it.
    pub fn get(&self, i: usize) -> &'a [f32] {
        &self.buffers[self.ids[i]]
    }
}

impl Index<usize> for Blobs<'_> {
    type Output = [f32];

    fn index(&self, i: usize) -> &[f32] {
        self.get(i)
    }
}

/// A layer's slices of an arena (of parameters or of their gradients), by position.
pub struct Params<'a> {
    arena: &'a mut [f32],
    ranges: &'a [Range<usize>],
}

impl<'a> Params<'a> {
    /// The slices `ranges` of `arena`.
    pub(crate) fn new(arena: &'a mut [f32], ranges: &'a [Range<usize>]) -> Self {
        Self { arena, ranges }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Blob `i`, to change it.
    pub fn get_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.arena[self.ranges[i].clone()]
    }
}

impl Index<usize> for Params<'_> {
    type Output = [f32];

    fn index(&self, i: usize) -> &[f32] {
        &self.arena[self.ranges[i].clone()]
    }
}
