//! NMIs (`xen/nmi.h`).

use crate::layout::{constants, structs};

constants! {
    /// `ArchSharedInfo::nmi_reason`: I/O check, port 0x61 bit 6.
    pub const XEN_NMIREASON_IO_ERROR: u64 = 1 << 0;
    /// `ArchSharedInfo::nmi_reason`: PCI system error, port 0x61 bit 7.
    pub const XEN_NMIREASON_PCI_SERR: u64 = 1 << 1;
    /// `ArchSharedInfo::nmi_reason`: unknown.
    pub const XEN_NMIREASON_UNKNOWN: u64 = 1 << 2;
    /// Set the handler of vCPU 0: `XennmiCallback`.
    pub const XENNMI_REGISTER_CALLBACK: u32 = 0;
    /// Remove the handler. No argument.
    pub const XENNMI_UNREGISTER_CALLBACK: u32 = 1;
}

structs! {
    /// `XENNMI_REGISTER_CALLBACK`.
    pub struct XennmiCallback[16] = "struct xennmi_callback" {
        /// Linear address.
        pub handler_address: u64,
        /// Zero.
        pub pad: u64,
    }
}
