//! Sends to another of its kind by TCP, or receives, and checks every byte.
//!
//! Words on its command line:
//!
//! | word | what it is for | if not given |
//! |---|---|---|
//! | `address=` | its address, in a network of 256 | by DHCP |
//! | `ping=` | whom to ask first whether he is there | nobody |
//! | `to=` | whom to send to | it receives, from any number at a time |
//! | `port=` | on which port | 5001 |
//! | `mib=` | how much to send; 0 for no end | 64 |
//! | `stop=` | it shuts down when all is sent | it waits for ever |
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
