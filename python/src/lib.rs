//! The extension module `sparknet._native`: what of the package `sparknet` runs in Rust.

use pyo3::prelude::*;

mod spark;

/// What of the package sparknet runs in Rust; use it through `sparknet`.
#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_export]
    use super::spark::{
        PyListener, PyPackedJob, PyPredictor, PyRows, PyRowsWriter, evaluate_part, evaluation, train_in_process,
        train_worker,
    };

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
