//! The sparknet command.
fn main() {}
