//! A small web server: it serves the files of the FAT volume on its disk, on port 80 of the address that it
//! gets by DHCP. Without a disk it says so to whoever asks.
//!
//! Words on its command line:
//!
//! | word | what it is for | if not given |
//! |---|---|---|
//! | `disk=` | which disk | `xvda` |
//! | `port=` | which port | 80 |
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}

#[cfg(target_os = "none")]
mod guest;
