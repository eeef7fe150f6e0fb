//! One worker's loop, a run of several workers, and the events of a run.

pub mod checkpoint;
pub mod draw;
mod error;
pub mod evaluation;
pub mod events;
pub mod features;
pub mod feeds;
pub mod job;
pub mod outputs;
pub mod packed;
pub mod predict;
pub mod rows;
pub mod run;
pub mod signals;
pub mod sinks;
pub mod tester;
pub mod testing;
pub mod time;
pub mod worker;

pub use error::Error;
