//! ELF notes by which a kernel image says how it wants to be started (`xen/elfnote.h`). Their owner
//! is "Xen".

use crate::layout::constants;

constants! {
    /// Free-form information.
    pub const XEN_ELFNOTE_INFO: u32 = 0;
    /// Number: virtual address of the entry point.
    pub const XEN_ELFNOTE_ENTRY: u32 = 1;
    /// Number: virtual address of the page for the hypercall stubs.
    pub const XEN_ELFNOTE_HYPERCALL_PAGE: u32 = 2;
    /// Number: virtual address at which physical address 0 is mapped.
    pub const XEN_ELFNOTE_VIRT_BASE: u32 = 3;
    /// Number: what to subtract from the image's physical addresses.
    pub const XEN_ELFNOTE_PADDR_OFFSET: u32 = 4;
    /// String: the version of the interface, "xen-3.0".
    pub const XEN_ELFNOTE_XEN_VERSION: u32 = 5;
    /// String: name of the guest's operating system.
    pub const XEN_ELFNOTE_GUEST_OS: u32 = 6;
    /// String: version of the guest's operating system.
    pub const XEN_ELFNOTE_GUEST_VERSION: u32 = 7;
    /// String: the loader, "generic".
    pub const XEN_ELFNOTE_LOADER: u32 = 8;
    /// String: whether a 32-bit kernel uses PAE, "yes", "no" or "bimodal".
    pub const XEN_ELFNOTE_PAE_MODE: u32 = 9;
    /// String: features that the kernel needs (`!`) or knows, separated by `|`.
    pub const XEN_ELFNOTE_FEATURES: u32 = 10;
    /// String: "yes" if symbols are to be loaded behind the image.
    pub const XEN_ELFNOTE_BSD_SYMTAB: u32 = 11;
    /// Number: lowest address that the hypervisor may use (32-bit kernels).
    pub const XEN_ELFNOTE_HV_START_LOW: u32 = 12;
    /// Pairs of numbers: mask and value of a level-1 entry that is valid to the guest.
    pub const XEN_ELFNOTE_L1_MFN_VALID: u32 = 13;
    /// Number: not 0 if a suspend may be cancelled.
    pub const XEN_ELFNOTE_SUSPEND_CANCEL: u32 = 14;
    /// Number: virtual address at which the list of machine frames is to be.
    pub const XEN_ELFNOTE_INIT_P2M: u32 = 15;
    /// Number: not 0 if the ramdisk need not be mapped.
    pub const XEN_ELFNOTE_MOD_START_PFN: u32 = 16;
    /// Number: bitmap of features that the kernel knows, `1 << XENFEAT_*`.
    pub const XEN_ELFNOTE_SUPPORTED_FEATURES: u32 = 17;
    /// Number: physical address of the 32-bit entry point of PVH.
    pub const XEN_ELFNOTE_PHYS32_ENTRY: u32 = 18;
    /// The highest number of a note in a kernel image.
    pub const XEN_ELFNOTE_MAX: u32 = XEN_ELFNOTE_PHYS32_ENTRY;
    /// In a crash dump: the hypervisor.
    pub const XEN_ELFNOTE_CRASH_INFO: u32 = 0x100_0001;
    /// In a crash dump: registers of a CPU.
    pub const XEN_ELFNOTE_CRASH_REGS: u32 = 0x100_0002;
    /// In a domain's dump: no data.
    pub const XEN_ELFNOTE_DUMPCORE_NONE: u32 = 0x200_0000;
    /// In a domain's dump: its header.
    pub const XEN_ELFNOTE_DUMPCORE_HEADER: u32 = 0x200_0001;
    /// In a domain's dump: the hypervisor's version.
    pub const XEN_ELFNOTE_DUMPCORE_XEN_VERSION: u32 = 0x200_0002;
    /// In a domain's dump: the version of its format.
    pub const XEN_ELFNOTE_DUMPCORE_FORMAT_VERSION: u32 = 0x200_0003;
}
