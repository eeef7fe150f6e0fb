//! One worker's loop, a run of several workers, and the events of a run.

pub mod draw;
pub mod evaluation;
pub mod events;
pub mod sinks;
