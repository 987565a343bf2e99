//! The hypervisor image: the machine, and the core that runs on it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
hv_machine::entry!(hv_core::run::start, hv_core::run::join);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}
