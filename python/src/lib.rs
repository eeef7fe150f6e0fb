//! The extension module `sparknet._native`: what of the package `sparknet` runs in Rust.
//!
//! `handle.rs` says who may use a net when, `blob.rs` why NumPy may look at its memory; `net.rs`, `solver.rs` and
//! `message.rs` are classes that the package's own classes wrap.

use pyo3::prelude::*;

mod blob;
mod error;
mod handle;
mod message;
mod net;
mod solver;
mod spark;
mod threads;

/// How many threads nets and solvers compute on from now on; None for one a core.
#[pyfunction]
#[pyo3(signature = (threads))]
fn set_num_threads(threads: Option<i64>) -> PyResult<()> {
    Ok(threads::set_num_threads(threads)?)
}

/// What of the package sparknet runs in Rust; use it through `sparknet`.
#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::{
        blob::Blob,
        message::{Message, enum_value, layer},
        net::{PyNet, set_random_seed},
        set_num_threads,
        solver::PySolver,
        spark::{
            PyListener, PyLmdb, PyPackedJob, PyPredictor, PyRows, PyRowsWriter, evaluate_part, evaluation,
            read_snapshot, solverstate, train_in_process, train_worker,
        },
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
