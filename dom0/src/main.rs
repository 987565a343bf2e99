//! The control domain's image: the hardware and the hypervisor under the library `dom0`.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![deny(unsafe_code)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod service;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}
