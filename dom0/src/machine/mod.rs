//! What touches hardware or the hypervisor.

mod dma;
pub mod hypervisor;
mod pci;
pub mod signals;
pub mod stream;
