//! Hosts in QEMU.
#![forbid(unsafe_code)]

mod first_light;
