//! Writes and reads its disk at random places and in random sizes, many requests at a time, and compares
//! what it reads with what it wrote. What was on the disk is lost. A disk that is taken away is waited for.
//!
//! Words on its command line:
//!
//! | word | what it is for | if not given |
//! |---|---|---|
//! | `disk=` | which disk | `xvda` |
//! | `mib=` | how much to move; 0 for no end | 64 |
//! | `sum=` | it only reads all of the disk, and says its sum | it does not |
//! | `tasks=` | requests at a time | 8 |
//! | `queues=`, `order=`, `persistent=` | how to connect | 1, 0, 1 |
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}

#[cfg(target_os = "none")]
mod guest;
