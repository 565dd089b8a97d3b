//! The `fulgurite` command.
fn main() {}
