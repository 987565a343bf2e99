//! The toolstack's command line.
fn main() {}
