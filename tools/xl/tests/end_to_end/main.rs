//! xl from end to end: the real binary, the real multiplexer, and a dom0 in memory.

mod bench;
mod commands;
mod console;
mod store;
