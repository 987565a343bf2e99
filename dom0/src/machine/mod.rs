//! What touches hardware or the hypervisor.

mod disk;
mod dma;
mod features;
mod host_info;
pub mod hypervisor;
mod nic;
pub mod pci;
mod scheduling;
pub mod signals;
mod soft_off;
mod storage;
pub mod stream;
mod tracing;
