//! What is particular to 64-bit x86: traps, selectors, registers, vCPU contexts, the hypervisor's
//! address range and CPUID leaves (`xen/arch-x86/xen.h`, `xen/arch-x86/xen-x86_64.h`,
//! `xen/arch-x86/cpuid.h`).

use crate::layout::{constants, structs};
use crate::types::Mfn;

constants! {
    /// First page of the GDT that is the hypervisor's.
    pub const FIRST_RESERVED_GDT_PAGE: usize = 14;
    /// First byte of the GDT that is the hypervisor's.
    pub const FIRST_RESERVED_GDT_BYTE: usize = FIRST_RESERVED_GDT_PAGE * 4096;
    /// First entry of the GDT that is the hypervisor's.
    pub const FIRST_RESERVED_GDT_ENTRY: usize = FIRST_RESERVED_GDT_BYTE / 8;
    /// Number of vCPUs that have a part of the shared page.
    pub const XEN_LEGACY_MAX_VCPUS: usize = 32;

    /// Flat 32-bit code segment.
    pub const FLAT_RING3_CS32: u16 = 0xe023;
    /// 64-bit code segment.
    pub const FLAT_RING3_CS64: u16 = 0xe033;
    /// Flat 32-bit data segment.
    pub const FLAT_RING3_DS32: u16 = 0xe02b;
    /// Data segment in 64-bit mode: the null selector.
    pub const FLAT_RING3_DS64: u16 = 0x0000;
    /// Flat 32-bit stack segment.
    pub const FLAT_RING3_SS32: u16 = 0xe02b;
    /// Stack segment in 64-bit mode.
    pub const FLAT_RING3_SS64: u16 = 0xe02b;
    /// The kernel's data segment in 64-bit mode.
    pub const FLAT_KERNEL_DS64: u16 = FLAT_RING3_DS64;
    /// The kernel's data segment in 32-bit mode.
    pub const FLAT_KERNEL_DS32: u16 = FLAT_RING3_DS32;
    /// The kernel's data segment.
    pub const FLAT_KERNEL_DS: u16 = FLAT_KERNEL_DS64;
    /// The kernel's code segment in 64-bit mode.
    pub const FLAT_KERNEL_CS64: u16 = FLAT_RING3_CS64;
    /// The kernel's code segment in 32-bit mode.
    pub const FLAT_KERNEL_CS32: u16 = FLAT_RING3_CS32;
    /// The kernel's code segment.
    pub const FLAT_KERNEL_CS: u16 = FLAT_KERNEL_CS64;
    /// The kernel's stack segment in 64-bit mode.
    pub const FLAT_KERNEL_SS64: u16 = FLAT_RING3_SS64;
    /// The kernel's stack segment in 32-bit mode.
    pub const FLAT_KERNEL_SS32: u16 = FLAT_RING3_SS32;
    /// The kernel's stack segment.
    pub const FLAT_KERNEL_SS: u16 = FLAT_KERNEL_SS64;
    /// The user's data segment in 64-bit mode.
    pub const FLAT_USER_DS64: u16 = FLAT_RING3_DS64;
    /// The user's data segment in 32-bit mode.
    pub const FLAT_USER_DS32: u16 = FLAT_RING3_DS32;
    /// The user's data segment.
    pub const FLAT_USER_DS: u16 = FLAT_USER_DS64;
    /// The user's code segment in 64-bit mode.
    pub const FLAT_USER_CS64: u16 = FLAT_RING3_CS64;
    /// The user's code segment in 32-bit mode.
    pub const FLAT_USER_CS32: u16 = FLAT_RING3_CS32;
    /// The user's code segment.
    pub const FLAT_USER_CS: u16 = FLAT_USER_CS64;
    /// The user's stack segment in 64-bit mode.
    pub const FLAT_USER_SS64: u16 = FLAT_RING3_SS64;
    /// The user's stack segment in 32-bit mode.
    pub const FLAT_USER_SS32: u16 = FLAT_RING3_SS32;
    /// The user's stack segment.
    pub const FLAT_USER_SS: u16 = FLAT_USER_SS64;

    /// First address that is the hypervisor's.
    pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
    /// First address above it that is the guest's again.
    pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;
    /// First address of the machine-to-phys table, which guests read.
    pub const MACH2PHYS_VIRT_START: u64 = 0xffff_8000_0000_0000;
    /// End of the range set aside for the machine-to-phys table.
    pub const MACH2PHYS_VIRT_END: u64 = 0xffff_8040_0000_0000;
    /// Number of entries in that range, 8 bytes each.
    pub const MACH2PHYS_NR_ENTRIES: u64 = (MACH2PHYS_VIRT_END - MACH2PHYS_VIRT_START) >> 3;

    /// `set_segment_base`: the FS base.
    pub const SEGBASE_FS: u32 = 0;
    /// `set_segment_base`: the user's GS base.
    pub const SEGBASE_GS_USER: u32 = 1;
    /// `set_segment_base`: the kernel's GS base.
    pub const SEGBASE_GS_KERNEL: u32 = 2;
    /// `set_segment_base`: the user's GS selector, in the low 16 bits.
    pub const SEGBASE_GS_USER_SEL: u32 = 3;

    /// `VcpuGuestContext::flags`: the FPU registers are valid.
    pub const VGCF_I387_VALID: u64 = 1 << 0;
    /// `VcpuGuestContext::flags`: the vCPU is in kernel mode.
    pub const VGCF_IN_KERNEL: u64 = 1 << 2;
    /// `VcpuGuestContext::flags`: the failsafe callback masks events.
    pub const VGCF_FAILSAFE_DISABLES_EVENTS: u64 = 1 << 3;
    /// `VcpuGuestContext::flags`: the syscall callback masks events.
    pub const VGCF_SYSCALL_DISABLES_EVENTS: u64 = 1 << 4;
    /// `VcpuGuestContext::flags`: the vCPU is online.
    pub const VGCF_ONLINE: u64 = 1 << 5;
    /// `IretContext::flags`: return as from a syscall, without restoring `rcx` and `r11`.
    pub const VGCF_IN_SYSCALL: u64 = 1 << 8;

    /// `ArchDomainconfig::emulation_flags`: local APIC.
    pub const XEN_X86_EMU_LAPIC: u32 = 1 << 0;
    /// `ArchDomainconfig::emulation_flags`: HPET.
    pub const XEN_X86_EMU_HPET: u32 = 1 << 1;
    /// `ArchDomainconfig::emulation_flags`: power management.
    pub const XEN_X86_EMU_PM: u32 = 1 << 2;
    /// `ArchDomainconfig::emulation_flags`: real-time clock.
    pub const XEN_X86_EMU_RTC: u32 = 1 << 3;
    /// `ArchDomainconfig::emulation_flags`: I/O APIC.
    pub const XEN_X86_EMU_IOAPIC: u32 = 1 << 4;
    /// `ArchDomainconfig::emulation_flags`: 8259.
    pub const XEN_X86_EMU_PIC: u32 = 1 << 5;
    /// `ArchDomainconfig::emulation_flags`: VGA.
    pub const XEN_X86_EMU_VGA: u32 = 1 << 6;
    /// `ArchDomainconfig::emulation_flags`: IOMMU.
    pub const XEN_X86_EMU_IOMMU: u32 = 1 << 7;
    /// `ArchDomainconfig::emulation_flags`: 8254.
    pub const XEN_X86_EMU_PIT: u32 = 1 << 8;
    /// `ArchDomainconfig::emulation_flags`: physical interrupts as event channels.
    pub const XEN_X86_EMU_USE_PIRQ: u32 = 1 << 9;
    /// `ArchDomainconfig::emulation_flags`: PCI configuration space.
    pub const XEN_X86_EMU_VPCI: u32 = 1 << 10;
    /// `ArchDomainconfig::emulation_flags`: everything.
    pub const XEN_X86_EMU_ALL: u32 = 0x7ff;
    /// `ArchDomainconfig::misc_flags`: unknown MSRs read as 0 and ignore writes.
    pub const XEN_X86_MSR_RELAXED: u32 = 1 << 0;
    /// The highest of the `misc_flags`.
    pub const XEN_X86_MISC_FLAGS_MAX: u32 = XEN_X86_MSR_RELAXED;

    /// `CpuidLeaf::subleaf` of a leaf that has none.
    pub const XEN_CPUID_NO_SUBLEAF: u32 = 0xffff_ffff;

    /// I/O port to which hardware-virtualized guests may write debugging output.
    pub const XEN_HVM_DEBUGCONS_IOPORT: u16 = 0xe9;

    /// The first CPUID leaf of the hypervisor, where no other interface takes its place.
    pub const XEN_CPUID_FIRST_LEAF: u32 = 0x4000_0000;
    /// First leaf, `ebx`: "XenV".
    pub const XEN_CPUID_SIGNATURE_EBX: u32 = 0x566e_6558;
    /// First leaf, `ecx`: "MMXe".
    pub const XEN_CPUID_SIGNATURE_ECX: u32 = 0x6558_4d4d;
    /// First leaf, `edx`: "nVMM".
    pub const XEN_CPUID_SIGNATURE_EDX: u32 = 0x4d4d_566e;
    /// Third leaf, `ecx`: `MMU_PT_UPDATE_PRESERVE_AD` is there.
    pub const XEN_CPUID_FEAT1_MMU_PT_UPDATE_PRESERVE_AD: u32 = 1 << 0;
    /// Fifth leaf, `eax`: APIC registers are virtualized.
    pub const XEN_HVM_CPUID_APIC_ACCESS_VIRT: u32 = 1 << 0;
    /// Fifth leaf, `eax`: x2APIC accesses are virtualized.
    pub const XEN_HVM_CPUID_X2APIC_VIRT: u32 = 1 << 1;
    /// Fifth leaf, `eax`: foreign mappings are in the IOMMU.
    pub const XEN_HVM_CPUID_IOMMU_MAPPINGS: u32 = 1 << 2;
    /// Fifth leaf, `eax`: `ebx` has the vCPU's number.
    pub const XEN_HVM_CPUID_VCPU_ID_PRESENT: u32 = 1 << 3;
    /// Fifth leaf, `eax`: `ecx` has the domain's number.
    pub const XEN_HVM_CPUID_DOMID_PRESENT: u32 = 1 << 4;
    /// Fifth leaf, `eax`: interrupt destinations above 255 without an IOMMU.
    pub const XEN_HVM_CPUID_EXT_DEST_ID: u32 = 1 << 5;
    /// Fifth leaf, `eax`: upcalls to a vector per vCPU.
    pub const XEN_HVM_CPUID_UPCALL_VECTOR: u32 = 1 << 6;
    /// Sixth leaf, `ebx`: bits of the widest machine address.
    pub const XEN_CPUID_MACHINE_ADDRESS_WIDTH_MASK: u32 = 0xff;
    /// The last leaf, counted from the first.
    pub const XEN_CPUID_MAX_NUM_LEAVES: u32 = 5;
}

/// The CPUID leaf `index` of the hypervisor (`XEN_CPUID_LEAF`).
pub const fn cpuid_leaf(index: u32) -> u32 {
    XEN_CPUID_FIRST_LEAF + index
}

/// The bytes that, before `cpuid`, ask the hypervisor to emulate it (`XEN_EMULATE_PREFIX`): `ud2a;
/// .ascii "xen"`.
pub const XEN_EMULATE_PREFIX: [u8; 5] = [0x0f, 0x0b, 0x78, 0x65, 0x6e];

/// Number of vectors in the virtual IDT.
pub const NR_TRAPS: usize = 256;

structs! {
    /// An entry of the virtual IDT.
    pub struct TrapInfo[16] = "struct trap_info" {
        /// Exception vector.
        pub vector: u8,
        /// Bits 0 and 1: least privileged level that may raise it by instruction; bit 2: mask
        /// events on entry.
        pub flags: u8,
        /// Code selector of the handler.
        pub cs: u16,
        /// Zero.
        pub _pad0: u32,
        /// Address of the handler.
        pub address: u64,
    }

    /// What the guest pushes before the hypercall `iret`, from the stack's top.
    pub struct IretContext[72] = "struct iret_context" {
        /// To be restored.
        pub rax: u64,
        /// To be restored, unless `VGCF_IN_SYSCALL`.
        pub r11: u64,
        /// To be restored, unless `VGCF_IN_SYSCALL`.
        pub rcx: u64,
        /// `VGCF_IN_SYSCALL` or 0.
        pub flags: u64,
        /// Where to go on.
        pub rip: u64,
        /// Code selector, which says to which mode.
        pub cs: u64,
        /// Flags, whose IF becomes the event mask.
        pub rflags: u64,
        /// Stack pointer.
        pub rsp: u64,
        /// Stack selector.
        pub ss: u64,
    }

    /// Registers of a vCPU.
    #[allow(missing_docs, reason = "the fields are the registers of those names")]
    pub struct CpuUserRegs[200] = "struct cpu_user_regs" {
        pub r15: u64,
        pub r14: u64,
        pub r13: u64,
        pub r12: u64,
        pub rbp: u64,
        pub rbx: u64,
        pub r11: u64,
        pub r10: u64,
        pub r9: u64,
        pub r8: u64,
        pub rax: u64,
        pub rcx: u64,
        pub rdx: u64,
        pub rsi: u64,
        pub rdi: u64,
        /// The hypervisor's own.
        pub error_code: u32,
        /// The hypervisor's own.
        pub entry_vector: u32,
        pub rip: u64,
        pub cs: u16,
        /// Zero.
        pub _pad0: [u16; 1],
        /// The event mask at the time, in the copy that a trap pushes: the inverse of `rflags.IF`.
        pub saved_upcall_mask: u8,
        /// Zero.
        pub _pad1: [u8; 3],
        pub rflags: u64,
        pub rsp: u64,
        pub ss: u16,
        /// Zero.
        pub _pad2: [u16; 3],
        pub es: u16,
        /// Zero.
        pub _pad3: [u16; 3],
        pub ds: u16,
        /// Zero.
        pub _pad4: [u16; 3],
        pub fs: u16,
        /// Zero.
        pub _pad5: [u16; 3],
        pub gs: u16,
        /// Zero.
        pub _pad6: [u16; 3],
    }

    /// All of a vCPU's state, as `VCPUOP_initialise` and the domctls for contexts take it.
    pub struct VcpuGuestContext[5168] = "struct vcpu_guest_context" {
        /// FPU registers in the format of `fxsave`.
        pub fpu_ctxt: [u8; 512],
        /// `VGCF_*`.
        pub flags: u64,
        /// General registers.
        pub user_regs: CpuUserRegs,
        /// Virtual IDT.
        pub trap_ctxt: [TrapInfo; NR_TRAPS],
        /// Linear address of the LDT.
        pub ldt_base: u64,
        /// Number of its entries.
        pub ldt_ents: u64,
        /// Machine frames of the GDT.
        pub gdt_frames: [Mfn; 16],
        /// Number of its entries.
        pub gdt_ents: u64,
        /// Selector of the kernel stack.
        pub kernel_ss: u64,
        /// Pointer of the kernel stack.
        pub kernel_sp: u64,
        /// Control registers. CR3 is the kernel's root table; element 1 is the user's.
        pub ctrlreg: [u64; 8],
        /// Debug registers.
        pub debugreg: [u64; 8],
        /// Entry for events.
        pub event_callback_eip: u64,
        /// Entry for a failed return to the guest.
        pub failsafe_callback_eip: u64,
        /// Entry for the instruction `syscall`.
        pub syscall_callback_eip: u64,
        /// Bitmap of `VMASST_TYPE_*`.
        pub vm_assist: u64,
        /// FS base.
        pub fs_base: u64,
        /// GS base in kernel mode.
        pub gs_base_kernel: u64,
        /// GS base in user mode.
        pub gs_base_user: u64,
    }

    /// The architecture's part of the shared page. All of it is the guest's to write but
    /// `nmi_reason`.
    pub struct ArchSharedInfo[48] = "struct arch_shared_info" {
        /// Number of valid entries in the phys-to-machine list.
        pub max_pfn: u64,
        /// Root of the three-level phys-to-machine tree, a machine frame; 0 for none yet, all ones
        /// for none ever.
        pub pfn_to_mfn_frame_list_list: u64,
        /// `XEN_NMIREASON_*`.
        pub nmi_reason: u64,
        /// Address space in which `p2m_vaddr` is valid, as a value of CR3; 0 for none.
        pub p2m_cr3: u64,
        /// Virtual address of the linear phys-to-machine list.
        pub p2m_vaddr: u64,
        /// Counts changes of that list's mapping; odd during one.
        pub p2m_generation: u64,
    }

    /// The architecture's part of `VcpuInfo`.
    pub struct ArchVcpuInfo[16] = "struct arch_vcpu_info" {
        /// The address of the last page fault.
        pub cr2: u64,
        /// Zero.
        pub pad: u64,
    }

    /// The architecture's part of a domain's configuration.
    pub struct ArchDomainconfig[8] = "struct xen_arch_domainconfig" {
        /// `XEN_X86_EMU_*`.
        pub emulation_flags: u32,
        /// `XEN_X86_MSR_RELAXED`.
        pub misc_flags: u32,
    }

    /// A CPUID leaf as a domain sees it.
    pub struct CpuidLeaf[24] = "struct xen_cpuid_leaf" {
        /// Input in `eax`.
        pub leaf: u32,
        /// Input in `ecx`, or `XEN_CPUID_NO_SUBLEAF`.
        pub subleaf: u32,
        /// Output in `eax`.
        pub a: u32,
        /// Output in `ebx`.
        pub b: u32,
        /// Output in `ecx`.
        pub c: u32,
        /// Output in `edx`.
        pub d: u32,
    }

    /// An MSR as a domain sees it.
    pub struct MsrEntry[16] = "struct xen_msr_entry" {
        /// Index.
        pub idx: u32,
        /// Zero.
        pub flags: u32,
        /// Value.
        pub val: u64,
    }
}

impl TrapInfo {
    /// The least privileged level that may raise it by instruction (`TI_GET_DPL`).
    pub const fn dpl(&self) -> u8 {
        self.flags & 3
    }

    /// Whether its handler is entered with events masked (`TI_GET_IF`).
    pub const fn masks_events(&self) -> bool {
        self.flags & 4 != 0
    }

    /// The same entry for levels up to `dpl`, 0 to 3 (`TI_SET_DPL`).
    pub const fn with_dpl(mut self, dpl: u8) -> Self {
        self.flags |= dpl & 3;
        self
    }

    /// The same entry with events masked on entry, or as before (`TI_SET_IF`).
    pub const fn with_masked_events(mut self, masked: bool) -> Self {
        self.flags |= (masked as u8) << 2;
        self
    }
}

/// The value of CR3 for a root table in machine frame `mfn` (`xen_pfn_to_cr3`).
pub const fn mfn_to_cr3(mfn: Mfn) -> u64 {
    mfn.0 << 12
}

/// The machine frame of the root table that a value of CR3 names (`xen_cr3_to_pfn`).
pub const fn cr3_to_mfn(cr3: u64) -> Mfn {
    Mfn(cr3 >> 12)
}
