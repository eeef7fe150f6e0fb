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

    /// An address that cannot be listened on.
    #[error("cannot listen on `{address}`: {reason}; give an address of this machine, with port 0 for any free port")]
    Listen {
        /// The address as it was given.
        address: String,
        /// What the system said.
        reason: String,
    },

    /// A list of peers that this worker is not in.
    #[error("there is no worker {rank} in a list of {world} peers; list the addresses of all workers in order of rank")]
    NoSuchRank {
        /// The rank that was given.
        rank: usize,
        /// The length of the list.
        world: usize,
    },

    /// A worker could not be reached, or did not prove that it belongs to this job.
    #[error("worker {rank} cannot connect to worker {peer_rank} at {address}: {reason}")]
    Connect {
        /// The worker that tried.
        rank: usize,
        /// The one that it tried to reach.
        peer_rank: usize,
        /// Where.
        address: String,
        /// What went wrong, and the way out.
        reason: String,
    },

    /// Workers did not connect to this one in time.
    #[error(
        "worker {rank} waited {timeout:?} for {} to connect and gave up{turned_away}; \
         look at what happened there, and whether that machine may reach this one",
        name_workers(waited_for)
    )]
    NotConnected {
        /// The worker that waited.
        rank: usize,
        /// The workers that did not come, in order of rank.
        waited_for: Vec<usize>,
        /// How long it waited.
        timeout: Duration,
        /// Who connected and was turned away, with the reason: empty, or a clause that begins with a comma.
        turned_away: String,
    },

    /// Another worker sent what no worker of this job sends at this point.
    #[error(
        "worker {peer_rank} sent worker {rank} {what}; \
         run the same version of sparknet everywhere, and if you do, suspect the network between the two"
    )]
    BadFrame {
        /// The worker that received it.
        rank: usize,
        /// The worker that sent it.
        peer_rank: usize,
        /// What is wrong with it, e.g. "a frame whose checksum is wrong".
        what: String,
    },

    /// A message for an all-gather that is not small.
    #[error("a message of {length} bytes is too long for an all-gather, which takes {limit}; send less, or as values")]
    MessageTooLong {
        /// The length of the message.
        length: usize,
        /// The most that is allowed.
        limit: usize,
    },

    /// Something that is no token of a job. It is not repeated here, because a token is a secret.
    #[error("the job's token has to be 64 hexadecimal digits; pass on what the driver made")]
    BadToken,

    /// The system gave no random numbers.
    #[error("the system gives no random numbers to prove a worker's identity with: {reason}")]
    NoRandomness {
        /// What the system said.
        reason: String,
    },

    /// A compression that does not exist.
    #[error("compression `{given}` is unknown; choose none or f16")]
    UnknownCompression {
        /// What was given.
        given: String,
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
