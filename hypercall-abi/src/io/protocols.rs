//! Names of the layouts that rings may have, in the store nodes `protocol` (`xen/io/protocols.h`).

use crate::layout::texts;

texts! {
    /// As 32-bit x86 has it.
    pub const XEN_IO_PROTO_ABI_X86_32: &str = "x86_32-abi";
    /// As 64-bit x86 has it.
    pub const XEN_IO_PROTO_ABI_X86_64: &str = "x86_64-abi";
    /// As Arm has it.
    pub const XEN_IO_PROTO_ABI_ARM: &str = "arm-abi";
    /// As this machine has it.
    pub const XEN_IO_PROTO_ABI_NATIVE: &str = XEN_IO_PROTO_ABI_X86_64;
}
