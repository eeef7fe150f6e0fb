//! What workers tell each other when they meet.

use serde::{Deserialize, Serialize};

use super::Worker;
use crate::Error;

/// One worker's part of it.
#[derive(Serialize, Deserialize)]
pub(super) struct Status {
    pub average_loss_bits: u32,
    pub seconds: Seconds,
    pub stop: bool,
    pub snapshot: bool,
    pub commit: bool,
}

/// Where a worker's time went since the last round.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
pub(super) struct Seconds {
    pub compute: f64,
    pub data: f64,
    pub sync: f64,
}

impl Worker<'_> {
    /// Tells the others how this worker stands; returns all statuses, in order of rank.
    pub(super) fn exchange_statuses(&mut self) -> Result<Vec<Status>, Error> {
        let control = &self.settings.control;
        let status = Status {
            average_loss_bits: self.solver.average_loss().to_bits(),
            seconds: self.seconds,
            stop: control.stop_requested(),
            snapshot: control.take_snapshot_request(),
            commit: self.commit_is_due(),
        };
        let json = |error: serde_json::Error| Error::Usage(format!("a worker's message cannot be read: {error}"));
        let bytes = serde_json::to_vec(&status).map_err(json)?;
        let statuses = self.transport.all_gather(&bytes)?;
        let statuses = statuses.iter().map(|bytes| serde_json::from_slice(bytes).map_err(json));
        statuses.collect()
    }
}
