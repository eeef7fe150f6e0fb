//! What can go wrong in a run.

use std::path::PathBuf;

use crate::evaluation::EvaluationError;

/// An error of a run. Each says what is wrong and what to do, in one sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The net, a layer, the solver or a snapshot's contents.
    #[error(transparent)]
    Engine(#[from] sparknet_engine::Error),
    /// A model, solver or weights file.
    #[error(transparent)]
    File(#[from] sparknet_proto::Error),
    /// The training or test data.
    #[error(transparent)]
    Data(#[from] sparknet_data::DataError),
    /// The other workers.
    #[error(transparent)]
    Sync(#[from] sparknet_sync::SyncError),
    /// Predictions that cannot be evaluated.
    #[error(transparent)]
    Evaluation(#[from] EvaluationError),
    /// What was asked for does not go together.
    #[error("{0}")]
    Usage(String),
    /// A file or folder that is not what it has to be.
    #[error("{}: {fact}", path.display())]
    Path {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong, and the way out.
        fact: String,
    },
    /// A data layer that nothing feeds.
    #[error("layer '{layer}': {fact}")]
    Feed {
        /// The layer's name.
        layer: String,
        /// What is wrong, and the way out.
        fact: String,
    },
    /// A worker's thread could not be started, or ended without a word.
    #[error("worker {rank}: {fact}")]
    Worker {
        /// The worker.
        rank: usize,
        /// What happened.
        fact: String,
    },
}

impl From<sparknet_engine::SpecError> for Error {
    fn from(error: sparknet_engine::SpecError) -> Self {
        Self::Engine(error.into())
    }
}

impl Error {
    /// Whether this worker only ended because another did: that one's error is the one to show.
    pub(crate) fn is_from_a_peer(&self) -> bool {
        matches!(self, Self::Sync(sparknet_sync::SyncError::PeerGone { .. }))
    }
}
