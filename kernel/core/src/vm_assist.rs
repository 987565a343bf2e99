//! Assistance that a guest may switch on (`HYPERVISOR_vm_assist`).

/// `VMASST_TYPE_*` bits that a 64-bit PV guest may set.
pub const VALID: u64 = 0x3f;
