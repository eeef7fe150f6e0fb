//! The command as a user meets it: the real binary, run in a folder of its own.

mod caffe;
mod commands;
mod errors;
mod interrupts;
mod regressions;
mod workplace;
