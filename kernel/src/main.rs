//! The hypervisor image: the machine, and the core that runs on it.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
hv_machine::entry!(image::start);

#[cfg(target_os = "none")]
mod image {
    use hv_machine::{Machine, Platform};

    /// Runs on the machine that boot has made ready.
    pub fn start(machine: &'static Machine) -> ! {
        machine.console_write(b"(XEN) Nothing to run\n");
        machine.halt()
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}
