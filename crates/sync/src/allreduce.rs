use crate::{Replica, Round, SyncError, SyncStrategy, Transport};

/// Synchronous SGD: in every iteration the workers' gradients are averaged, and each worker makes the same update.
///
/// ```text
/// g_r ← (g_0 + g_1 + … + g_(world-1)) / world      before every update
/// ```
///
/// As in CaffeOnSpark. Each worker's gradient is an average over its own batch, so N workers with a batch of B train
/// as one worker with a batch of N·B does, up to float32's rounding. Equal weights and histories stay equal.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllReduce;

impl SyncStrategy for AllReduce {
    fn name(&self) -> &'static str {
        "allreduce"
    }

    fn after_backward(
        &mut self,
        _: u64,
        gradients: &mut [f32],
        transport: &mut dyn Transport,
    ) -> Result<(), SyncError> {
        transport.all_reduce_average(gradients)
    }

    /// Every iteration is a round.
    fn after_update(&mut self, _: u64, _: Replica<'_>, _: &mut dyn Transport) -> Result<Round, SyncError> {
        Ok(Round::Completed)
    }

    fn finish(&mut self, _: u64, _: Replica<'_>, _: &mut dyn Transport) -> Result<Round, SyncError> {
        Ok(Round::None)
    }

    fn agrees_at(&self, _: u64) -> bool {
        true
    }
}
