//! The extension module `sparknet._native`: what of the package `sparknet` runs in Rust.

use pyo3::prelude::*;

/// What of the package sparknet runs in Rust; use it through `sparknet`.
#[pymodule]
mod _native {
    use pyo3::prelude::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}
