//! Feature bits, which the hypervisor reports by `XENVER_GET_FEATURES` and a guest names in its ELF
//! notes (`xen/features.h`).

use crate::layout::constants;

constants! {
    /// The guest may have writable mappings of its page tables.
    pub const XENFEAT_WRITABLE_PAGE_TABLES: u32 = 0;
    /// The guest may have writable mappings of its descriptor tables.
    pub const XENFEAT_WRITABLE_DESCRIPTOR_TABLES: u32 = 1;
    /// The hypervisor translates guest-physical addresses.
    pub const XENFEAT_AUTO_TRANSLATED_PHYSMAP: u32 = 2;
    /// The guest's kernel runs in ring 0.
    pub const XENFEAT_SUPERVISOR_MODE_KERNEL: u32 = 3;
    /// Page directories of 32-bit guests may be above 4 GiB.
    pub const XENFEAT_PAE_PGDIR_ABOVE_4GB: u32 = 4;
    /// `MMU_PT_UPDATE_PRESERVE_AD` is there.
    pub const XENFEAT_MMU_PT_UPDATE_PRESERVE_AD: u32 = 5;
    /// `MMUEXT_CLEAR_PAGE` and `MMUEXT_COPY_PAGE` are there.
    pub const XENFEAT_HIGHMEM_ASSIST: u32 = 6;
    /// Mappings of grants may have bits available to the guest.
    pub const XENFEAT_GNTTAB_MAP_AVAIL_BITS: u32 = 7;
    /// Hardware-virtualized guests: upcalls by a vector.
    pub const XENFEAT_HVM_CALLBACK_VECTOR: u32 = 8;
    /// Hardware-virtualized guests: the PV clock is safe.
    pub const XENFEAT_HVM_SAFE_PVCLOCK: u32 = 9;
    /// Hardware-virtualized guests: physical interrupts as event channels.
    pub const XENFEAT_HVM_PIRQS: u32 = 10;
    /// The domain is, or can be, the initial domain.
    pub const XENFEAT_DOM0: u32 = 11;
    /// `XENMEMF_VNODE` is understood.
    pub const XENFEAT_MEMORY_OP_VNODE_SUPPORTED: u32 = 13;
    /// Arm: the calling convention for secure monitor calls.
    pub const XENFEAT_ARM_SMCCC_SUPPORTED: u32 = 14;
    /// The ACPI root pointer may be anywhere.
    pub const XENFEAT_LINUX_RSDP_UNRESTRICTED: u32 = 15;
    /// The domain is not mapped one to one.
    pub const XENFEAT_NOT_DIRECT_MAPPED: u32 = 16;
    /// The domain is mapped one to one.
    pub const XENFEAT_DIRECT_MAPPED: u32 = 17;
    /// Number of words of feature bits.
    pub const XENFEAT_NR_SUBMAPS: u32 = 1;
}
