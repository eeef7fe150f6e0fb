//! What `sparknet.spark` runs in Rust: taking rows in, training as one worker of a Spark job, and running a trained net.

mod data;
mod job;
mod lmdb;
mod model;
mod train;

pub use data::{PyRows, PyRowsWriter};
pub use job::PyPackedJob;
pub use lmdb::PyLmdb;
pub use model::{PyPredictor, evaluate_part, evaluation};
pub use train::{PyListener, read_snapshot, solverstate, train_in_process, train_worker};

use pyo3::{PyErr, exceptions};
use sparknet_train::Error;

/// The sentence of an error as an exception. A `ConnectionError` is about the other workers: the same run may well succeed
/// when it is tried again.
fn to_python(error: impl Into<Error>) -> PyErr {
    let error = error.into();
    if let Some(exception) = crate::layer::raised(&error) {
        return exception;
    }
    let sentence = error.to_string();
    match error {
        Error::Sync(_) | Error::Worker { .. } => exceptions::PyConnectionError::new_err(sentence),
        _ => crate::error::new("InputError", sentence),
    }
}
