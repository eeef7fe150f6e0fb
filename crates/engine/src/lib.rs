//! To come.

pub mod kernels;
