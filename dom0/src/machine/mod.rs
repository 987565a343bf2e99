//! What touches hardware or the hypervisor.

mod dma;
mod host_info;
pub mod hypervisor;
mod pci;
mod scheduling;
pub mod signals;
mod soft_off;
pub mod stream;
