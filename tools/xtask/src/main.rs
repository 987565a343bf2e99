//! Build, run and test Xenolith.
fn main() {}
