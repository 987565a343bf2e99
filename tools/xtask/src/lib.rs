//! What `cargo xtask` does, as a library: the integration tests boot hosts with the same code.
//!
//! | module | noun |
//! |---|---|
//! | [`workspace`] | the repository and its output directories |
//! | [`image`] | the bare-metal images and how each is built |
//! | [`toolchain`] | which cargo builds for bare metal |
//! | [`progress`] | what a person sees while a step runs |
//! | [`tool`] | programs that the commands need |
//! | [`installer`] | the system's package manager |
//! | [`setup`], [`build`], [`lint`], [`test`] | the commands |
#![forbid(unsafe_code)]

pub mod build;
pub mod image;
pub mod installer;
pub mod lint;
pub mod progress;
pub mod setup;
pub mod test;
pub mod tool;
pub mod toolchain;
pub mod workspace;
