//! A guest that runs processes in user mode: one forks a hundred others, which share its memory
//! until they write to it, on as many vCPUs as the domain has. Each checks its own memory and what
//! it has of the first one's after all have written.
//!
//! The last line says whether all was right; then the domain powers off, or crashes if it was not.
//! With `forever` on the command line it begins again instead.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}

#[cfg(target_os = "none")]
mod guest;
