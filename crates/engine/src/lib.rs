//! Nets, layers and solvers with Caffe's results, on the CPU.
//!
//! A `NetParameter` becomes a [`spec::NetSpec`] once (filtered, defaults filled in, validated); [`Net::new`] plans the
//! blobs and builds the layers; a [`Solver`] trains it. The engine sees no socket, no data file, no Spark, no Python:
//! blobs of data layers are filled from outside.

pub mod builder;
pub mod error;
pub mod filler;
pub mod kernels;
pub mod layer;
pub mod layers;
mod lending;
pub mod net;
mod params;
mod plan;
pub mod random;
mod replace;
pub mod shape;
pub mod snapshot;
pub mod solver;
pub mod spec;
mod weights;

pub use builder::{BuildError, NetBuilder};
pub use error::{Error, ForeignError, LayerError, NoGradient, SpecError};
pub use lending::{Keeper, Lent};
pub use net::{InputShapes, Net};
pub use replace::replace_data_layers;
pub use shape::Shape;
pub use solver::Solver;
pub use spec::{NetSpec, NetState, Phase, SolverSpec};
