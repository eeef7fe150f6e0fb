use std::time::Duration;

/// Why workers could not agree.
///
/// Every error of a [`Transport`](crate::Transport) ends the run for all of its workers: each of them gets one, now if
/// it is waiting, else at its next call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyncError {
    /// This worker waited for others as long as it may. The others get [`SyncError::PeerGone`] with this as the reason.
    #[error(
        "worker {rank} waited {timeout:?} for {} in the {call} and gave up; look at what happened there, \
         or raise the sync timeout if a worker may compute for that long",
        name_workers(waited_for)
    )]
    Timeout {
        /// The worker that waited.
        rank: usize,
        /// What it was doing, e.g. "all-reduce of 431080 values".
        call: String,
        /// The workers that did not come, in order of rank.
        waited_for: Vec<usize>,
        /// How long it waited.
        timeout: Duration,
    },

    /// A worker ended, panicked, gave up or called [`abort`](crate::Transport::abort) while others needed it.
    #[error("worker {rank} left the run: {reason}")]
    PeerGone {
        /// The worker that is gone.
        rank: usize,
        /// What it said, or what is known.
        reason: String,
    },

    /// Two workers gave slices of different lengths to the same call.
    #[error(
        "worker {other_rank} has {other_length} values where worker {rank} has {length}; \
         give every worker the same net and solver"
    )]
    LengthMismatch {
        /// One worker.
        rank: usize,
        /// The length of its slice.
        length: usize,
        /// The other worker.
        other_rank: usize,
        /// The length of the other's slice.
        other_length: usize,
    },

    /// Two workers made different calls at the same point of the run.
    #[error(
        "worker {other_rank} is at the {other_call} while worker {rank} is at the {call}; \
         start every worker with the same sync strategy, tau and solver"
    )]
    OutOfStep {
        /// One worker.
        rank: usize,
        /// Its call, e.g. "all-gather".
        call: String,
        /// The other worker.
        other_rank: usize,
        /// The other's call.
        other_call: String,
    },

    /// A broadcast from a worker that does not exist.
    #[error("worker {root} cannot broadcast because there are only {world} workers; name one of 0 to {}", world - 1)]
    NoSuchRoot {
        /// The rank that was asked for.
        root: usize,
        /// How many workers there are.
        world: usize,
    },

    /// A tau of 0.
    #[error("tau is 0 but workers train at least 1 iteration before they agree; set tau to 1 or more")]
    ZeroTau,

    /// A history policy that does not exist.
    #[error("history policy `{given}` is unknown; choose keep, average or reset")]
    UnknownHistoryPolicy {
        /// What was given.
        given: String,
    },
}

fn name_workers(ranks: &[usize]) -> String {
    let list = ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    if ranks.len() == 1 {
        format!("worker {list}")
    } else {
        format!("workers {list}")
    }
}
