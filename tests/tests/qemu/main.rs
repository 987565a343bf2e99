//! Hosts in QEMU.
#![forbid(unsafe_code)]

mod bad_input;
mod disks;
mod first_light;
mod forks;
mod guest_store;
mod iso;
mod lifecycle;
mod likeness;
mod linux;
mod linux_load;
mod network;
mod own_address;
mod processors;
mod promises;
mod ring;
mod rug;
mod run;
mod scheduling;
mod selftest;
mod store;
mod stress;
mod top;
mod trace;
mod volumes;
