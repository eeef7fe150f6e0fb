use crate::{SyncError, Transport};

/// What a strategy may look at and change of one worker. Everything is flat; sync never walks a layer.
///
/// ```
/// # use sparknet_sync::Replica;
/// # let (mut params, mut gradients) = (vec![0.0], vec![0.0]);
/// # let mut histories = vec![vec![0.0], vec![0.0]];
/// let replica = Replica {
///     params: &mut params,
///     gradients: &mut gradients,
///     histories: &mut histories.iter_mut().map(Vec::as_mut_slice),
/// };
/// ```
pub struct Replica<'a> {
    /// All learnable parameters.
    pub params: &'a mut [f32],
    /// Their gradients, as the update left them.
    pub gradients: &'a mut [f32],
    /// What the solver remembers from one iteration to the next, e.g. momentum: each as long as `params`, none, one or
    /// several of them. An iterator, so that it can be given without an allocation however the solver keeps them.
    pub histories: &'a mut dyn Iterator<Item = &'a mut [f32]>,
}

/// Whether the workers have just agreed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Round {
    /// No: the workers go on, each for itself.
    None,
    /// Yes: all workers hold equal weights.
    Completed,
}

/// When workers agree, and on what. Every worker has a strategy of its own, made with the same settings.
///
/// A worker's loop is: [`start`](SyncStrategy::start), then for every iteration forward, backward,
/// [`after_backward`](SyncStrategy::after_backward), the solver's update, [`after_update`](SyncStrategy::after_update),
/// and after the last one [`finish`](SyncStrategy::finish). Iterations are those of the whole training, not of this
/// process, so that a resumed run agrees at the same iterations as one that was never stopped.
///
/// An error ends the run for all workers.
pub trait SyncStrategy: Send {
    /// The name that users give it, e.g. `average`.
    fn name(&self) -> &'static str;

    /// Before the first iteration: everyone gets worker 0's weights. Not for a run that resumes at an iteration where
    /// [`agrees_at`](SyncStrategy::agrees_at) is false: there workers rightly differ.
    fn start(&mut self, params: &mut [f32], transport: &mut dyn Transport) -> Result<(), SyncError> {
        transport.broadcast(0, params)
    }

    /// Once in `iteration` (counted from 0): after its last backward pass, before the update. `gradients` are those of
    /// this worker's own loss, which is normalised by this worker's own batch. Where a net keeps statistics of its
    /// batches (BatchNorm's), they are given in a second call, to be treated in the same way.
    fn after_backward(
        &mut self,
        iteration: u64,
        gradients: &mut [f32],
        transport: &mut dyn Transport,
    ) -> Result<(), SyncError>;

    /// After the update of iteration `iterations_done - 1`.
    fn after_update(
        &mut self,
        iterations_done: u64,
        replica: Replica<'_>,
        transport: &mut dyn Transport,
    ) -> Result<Round, SyncError>;

    /// At the end of a run of `iterations_done` iterations: the workers agree, unless they have since the last update.
    fn finish(
        &mut self,
        iterations_done: u64,
        replica: Replica<'_>,
        transport: &mut dyn Transport,
    ) -> Result<Round, SyncError>;

    /// Whether all workers hold equal weights after [`after_update`](SyncStrategy::after_update) of `iterations_done`
    /// iterations; true for 0, after [`start`](SyncStrategy::start). [`finish`](SyncStrategy::finish) makes them equal
    /// anywhere.
    fn agrees_at(&self, iterations_done: u64) -> bool;
}
