//! What every guest needs: hypercall numbers, MMU operations, virtual interrupts, the shared page
//! and the start-of-day page (`xen/xen.h`).

use crate::arch_x86::{ArchSharedInfo, ArchVcpuInfo};
use crate::layout::{constants, structs};
use crate::types::{GuestHandle, Mfn, Port, Union};

constants! {
    /// Set the virtual IDT: `trap_info` array, ended by a zero address.
    pub const HYPERVISOR_SET_TRAP_TABLE: u32 = 0;
    /// Update page-table entries or the machine-to-phys table: `mmu_update` array.
    pub const HYPERVISOR_MMU_UPDATE: u32 = 1;
    /// Set the GDT: array of machine frames, number of entries.
    pub const HYPERVISOR_SET_GDT: u32 = 2;
    /// Set the kernel stack that traps from user mode switch to.
    pub const HYPERVISOR_STACK_SWITCH: u32 = 3;
    /// Set the event, failsafe and syscall entry points.
    pub const HYPERVISOR_SET_CALLBACKS: u32 = 4;
    /// Set or clear the virtual CR0.TS.
    pub const HYPERVISOR_FPU_TASKSWITCH: u32 = 5;
    /// `sched_op` as it was before interface version 0x00030101.
    pub const HYPERVISOR_SCHED_OP_COMPAT: u32 = 6;
    /// Operations on the machine, by dom0.
    pub const HYPERVISOR_PLATFORM_OP: u32 = 7;
    /// Write a debug register.
    pub const HYPERVISOR_SET_DEBUGREG: u32 = 8;
    /// Read a debug register.
    pub const HYPERVISOR_GET_DEBUGREG: u32 = 9;
    /// Write a descriptor in a descriptor-table frame.
    pub const HYPERVISOR_UPDATE_DESCRIPTOR: u32 = 10;
    /// Memory reservations and maps.
    pub const HYPERVISOR_MEMORY_OP: u32 = 12;
    /// Several hypercalls in one.
    pub const HYPERVISOR_MULTICALL: u32 = 13;
    /// Update the page-table entry that maps an address.
    pub const HYPERVISOR_UPDATE_VA_MAPPING: u32 = 14;
    /// Request a timer event at an absolute system time, in nanoseconds.
    pub const HYPERVISOR_SET_TIMER_OP: u32 = 15;
    /// `event_channel_op` as it was before interface version 0x00030202.
    pub const HYPERVISOR_EVENT_CHANNEL_OP_COMPAT: u32 = 16;
    /// Version, features and build of the hypervisor.
    pub const HYPERVISOR_XEN_VERSION: u32 = 17;
    /// The hypervisor's own console.
    pub const HYPERVISOR_CONSOLE_IO: u32 = 18;
    /// `physdev_op` as it was before interface version 0x00030202.
    pub const HYPERVISOR_PHYSDEV_OP_COMPAT: u32 = 19;
    /// Grant tables.
    pub const HYPERVISOR_GRANT_TABLE_OP: u32 = 20;
    /// Switch an optional behaviour on or off.
    pub const HYPERVISOR_VM_ASSIST: u32 = 21;
    /// Update the page-table entry that maps an address, to a frame of another domain.
    pub const HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN: u32 = 22;
    /// Return from a trap, event or syscall.
    pub const HYPERVISOR_IRET: u32 = 23;
    /// Operations on one virtual CPU.
    pub const HYPERVISOR_VCPU_OP: u32 = 24;
    /// Set the FS or GS base, or the user's GS selector.
    pub const HYPERVISOR_SET_SEGMENT_BASE: u32 = 25;
    /// Pinning, base pointers, TLB flushes and the like: `mmuext_op` array.
    pub const HYPERVISOR_MMUEXT_OP: u32 = 26;
    /// The security module.
    pub const HYPERVISOR_XSM_OP: u32 = 27;
    /// Set the NMI handler.
    pub const HYPERVISOR_NMI_OP: u32 = 28;
    /// Yield, block, poll, shut down.
    pub const HYPERVISOR_SCHED_OP: u32 = 29;
    /// Set entry points one by one.
    pub const HYPERVISOR_CALLBACK_OP: u32 = 30;
    /// Profiling.
    pub const HYPERVISOR_XENOPROF_OP: u32 = 31;
    /// Event channels.
    pub const HYPERVISOR_EVENT_CHANNEL_OP: u32 = 32;
    /// Physical devices and interrupts.
    pub const HYPERVISOR_PHYSDEV_OP: u32 = 33;
    /// Hardware-virtualized guests.
    pub const HYPERVISOR_HVM_OP: u32 = 34;
    /// Operations on the whole system, by the toolstack.
    pub const HYPERVISOR_SYSCTL: u32 = 35;
    /// Operations on one domain, by the toolstack.
    pub const HYPERVISOR_DOMCTL: u32 = 36;
    /// Crash kernels.
    pub const HYPERVISOR_KEXEC_OP: u32 = 37;
    /// Transcendent memory, withdrawn.
    pub const HYPERVISOR_TMEM_OP: u32 = 38;
    /// Messages between domains that the hypervisor copies.
    pub const HYPERVISOR_ARGO_OP: u32 = 39;
    /// Performance counters.
    pub const HYPERVISOR_XENPMU_OP: u32 = 40;
    /// Device models of hardware-virtualized guests.
    pub const HYPERVISOR_DM_OP: u32 = 41;
    /// The hypervisor's file system of parameters.
    pub const HYPERVISOR_HYPFS_OP: u32 = 42;
    /// First architecture-specific hypercall; on x86 the machine-check interface.
    pub const HYPERVISOR_ARCH_0: u32 = 48;
    /// Second architecture-specific hypercall.
    pub const HYPERVISOR_ARCH_1: u32 = 49;
    /// Third architecture-specific hypercall.
    pub const HYPERVISOR_ARCH_2: u32 = 50;
    /// Fourth architecture-specific hypercall.
    pub const HYPERVISOR_ARCH_3: u32 = 51;
    /// Fifth architecture-specific hypercall.
    pub const HYPERVISOR_ARCH_4: u32 = 52;
    /// Sixth architecture-specific hypercall.
    pub const HYPERVISOR_ARCH_5: u32 = 53;
    /// Seventh architecture-specific hypercall.
    pub const HYPERVISOR_ARCH_6: u32 = 54;
    /// Eighth architecture-specific hypercall.
    pub const HYPERVISOR_ARCH_7: u32 = 55;

    /// Per vCPU: timebase changed, or the requested time came.
    pub const VIRQ_TIMER: u32 = 0;
    /// Per vCPU: dump state for debugging.
    pub const VIRQ_DEBUG: u32 = 1;
    /// Global, dom0: bytes came on the emergency console.
    pub const VIRQ_CONSOLE: u32 = 2;
    /// Global, dom0: a domain shut down, crashed or was created.
    pub const VIRQ_DOM_EXC: u32 = 3;
    /// Global, dom0: the trace buffers have records.
    pub const VIRQ_TBUF: u32 = 4;
    /// Global, dom0: a domain stopped for its debugger.
    pub const VIRQ_DEBUGGER: u32 = 6;
    /// Per vCPU: profiling has a sample.
    pub const VIRQ_XENOPROF: u32 = 7;
    /// Global, dom0: the console ring has bytes.
    pub const VIRQ_CON_RING: u32 = 8;
    /// Global, dom0: a physical CPU came or went.
    pub const VIRQ_PCPU_STATE: u32 = 9;
    /// Global, dom0: a memory event occurred.
    pub const VIRQ_MEM_EVENT: u32 = 10;
    /// Global: Argo message.
    pub const VIRQ_ARGO: u32 = 11;
    /// Global, dom0: the hypervisor's heap is low.
    pub const VIRQ_ENOMEM: u32 = 12;
    /// Per vCPU: performance counter interrupt.
    pub const VIRQ_XENPMU: u32 = 13;
    /// First architecture-specific virtual interrupt; on x86 machine checks.
    pub const VIRQ_ARCH_0: u32 = 16;
    /// Second architecture-specific virtual interrupt.
    pub const VIRQ_ARCH_1: u32 = 17;
    /// Third architecture-specific virtual interrupt.
    pub const VIRQ_ARCH_2: u32 = 18;
    /// Fourth architecture-specific virtual interrupt.
    pub const VIRQ_ARCH_3: u32 = 19;
    /// Fifth architecture-specific virtual interrupt.
    pub const VIRQ_ARCH_4: u32 = 20;
    /// Sixth architecture-specific virtual interrupt.
    pub const VIRQ_ARCH_5: u32 = 21;
    /// Seventh architecture-specific virtual interrupt.
    pub const VIRQ_ARCH_6: u32 = 22;
    /// Eighth architecture-specific virtual interrupt.
    pub const VIRQ_ARCH_7: u32 = 23;
    /// Number of virtual interrupts.
    pub const NR_VIRQS: u32 = 24;

    /// `mmu_update` in the low bits of `ptr`: write the entry at machine address `ptr`.
    pub const MMU_NORMAL_PT_UPDATE: u64 = 0;
    /// `mmu_update` in the low bits of `ptr`: set the machine-to-phys entry of the frame at `ptr`.
    pub const MMU_MACHPHYS_UPDATE: u64 = 1;
    /// `mmu_update` in the low bits of `ptr`: write the entry, keeping the accessed and dirty bits
    /// it has.
    pub const MMU_PT_UPDATE_PRESERVE_AD: u64 = 2;
    /// `mmu_update` in the low bits of `ptr`: write the entry as it is, even for a translated
    /// domain.
    pub const MMU_PT_UPDATE_NO_TRANSLATE: u64 = 3;

    /// Pin frame `mfn` as a level-1 table.
    pub const MMUEXT_PIN_L1_TABLE: u32 = 0;
    /// Pin frame `mfn` as a level-2 table.
    pub const MMUEXT_PIN_L2_TABLE: u32 = 1;
    /// Pin frame `mfn` as a level-3 table.
    pub const MMUEXT_PIN_L3_TABLE: u32 = 2;
    /// Pin frame `mfn` as a level-4 table.
    pub const MMUEXT_PIN_L4_TABLE: u32 = 3;
    /// Unpin frame `mfn`.
    pub const MMUEXT_UNPIN_TABLE: u32 = 4;
    /// Run on the tables at `mfn`, in kernel mode.
    pub const MMUEXT_NEW_BASEPTR: u32 = 5;
    /// Flush this vCPU's TLB.
    pub const MMUEXT_TLB_FLUSH_LOCAL: u32 = 6;
    /// Flush the address `linear_addr` from this vCPU's TLB.
    pub const MMUEXT_INVLPG_LOCAL: u32 = 7;
    /// Flush the TLBs of the vCPUs in `vcpumask`.
    pub const MMUEXT_TLB_FLUSH_MULTI: u32 = 8;
    /// Flush the address `linear_addr` from the TLBs of the vCPUs in `vcpumask`.
    pub const MMUEXT_INVLPG_MULTI: u32 = 9;
    /// Flush the TLBs of all vCPUs.
    pub const MMUEXT_TLB_FLUSH_ALL: u32 = 10;
    /// Flush the address `linear_addr` from the TLBs of all vCPUs.
    pub const MMUEXT_INVLPG_ALL: u32 = 11;
    /// Write back and invalidate the caches of this CPU.
    pub const MMUEXT_FLUSH_CACHE: u32 = 12;
    /// Set the LDT: `nr_ents` entries at `linear_addr`, which is page-aligned.
    pub const MMUEXT_SET_LDT: u32 = 13;
    /// Run on the tables at `mfn`, in user mode; 0 for none.
    pub const MMUEXT_NEW_USER_BASEPTR: u32 = 15;
    /// Clear frame `mfn`.
    pub const MMUEXT_CLEAR_PAGE: u32 = 16;
    /// Copy frame `src_mfn` to frame `mfn`.
    pub const MMUEXT_COPY_PAGE: u32 = 17;
    /// Write back and invalidate the caches of all CPUs.
    pub const MMUEXT_FLUSH_CACHE_GLOBAL: u32 = 18;
    /// Allow superpage mappings of the 2 MiB that begin with `mfn`.
    pub const MMUEXT_MARK_SUPER: u32 = 19;
    /// Withdraw `MMUEXT_MARK_SUPER`.
    pub const MMUEXT_UNMARK_SUPER: u32 = 20;

    /// `update_va_mapping`: flush nothing.
    pub const UVMF_NONE: u64 = 0;
    /// `update_va_mapping`: flush the whole TLB.
    pub const UVMF_TLB_FLUSH: u64 = 1;
    /// `update_va_mapping`: flush the address.
    pub const UVMF_INVLPG: u64 = 2;
    /// `update_va_mapping`: the bits that say what to flush.
    pub const UVMF_FLUSHTYPE_MASK: u64 = 3;
    /// `update_va_mapping`: flush on the vCPUs of a mask, whose address is ORed in.
    pub const UVMF_MULTI: u64 = 0;
    /// `update_va_mapping`: flush on this vCPU.
    pub const UVMF_LOCAL: u64 = 0;
    /// `update_va_mapping`: flush on all vCPUs.
    pub const UVMF_ALL: u64 = 4;

    /// `console_io`: write bytes.
    pub const CONSOLEIO_WRITE: u32 = 0;
    /// `console_io`: read what was typed, at most 2 GiB.
    pub const CONSOLEIO_READ: u32 = 1;

    /// `vm_assist`: switch on.
    pub const VMASST_CMD_ENABLE: u32 = 0;
    /// `vm_assist`: switch off.
    pub const VMASST_CMD_DISABLE: u32 = 1;
    /// 32-bit guests: full 4 GiB segment limits.
    pub const VMASST_TYPE_4GB_SEGMENTS: u32 = 0;
    /// 32-bit guests: a trap whenever the former is used.
    pub const VMASST_TYPE_4GB_SEGMENTS_NOTIFY: u32 = 1;
    /// Ordinary stores to level-1 entries are emulated.
    pub const VMASST_TYPE_WRITABLE_PAGETABLES: u32 = 2;
    /// 32-bit guests: page-directory pointers above 4 GiB.
    pub const VMASST_TYPE_PAE_EXTENDED_CR3: u32 = 3;
    /// The virtual I/O privilege level is that of the frames of `iret` and of traps.
    pub const VMASST_TYPE_ARCHITECTURAL_IOPL: u32 = 4;
    /// `XEN_RUNSTATE_UPDATE` is set while runstate information in guest memory changes.
    pub const VMASST_TYPE_RUNSTATE_UPDATE_FLAG: u32 = 5;
    /// The machine-to-phys table is hidden from user mode.
    pub const VMASST_TYPE_M2P_STRICT: u32 = 32;

    /// The first domain number that no ordinary domain has.
    pub const DOMID_FIRST_RESERVED: u16 = 0x7ff0;
    /// The calling domain.
    pub const DOMID_SELF: u16 = 0x7ff0;
    /// Owner of memory-mapped I/O.
    pub const DOMID_IO: u16 = 0x7ff1;
    /// Owner of the hypervisor's shareable frames.
    pub const DOMID_XEN: u16 = 0x7ff2;
    /// Owner of frames shared copy-on-write.
    pub const DOMID_COW: u16 = 0x7ff3;
    /// No domain.
    pub const DOMID_INVALID: u16 = 0x7ff4;
    /// The idle domain.
    pub const DOMID_IDLE: u16 = 0x7fff;
    /// The bits of a domain number.
    pub const DOMID_MASK: u16 = 0x7fff;

    /// `VcpuTimeInfo::flags`: the TSCs of all vCPUs agree.
    pub const XEN_PVCLOCK_TSC_STABLE_BIT: u8 = 1 << 0;
    /// `VcpuTimeInfo::flags`: the guest was stopped by its host.
    pub const XEN_PVCLOCK_GUEST_STOPPED: u8 = 1 << 1;

    /// Length of the command line in `StartInfo`, in bytes, with its terminating zero.
    pub const MAX_GUEST_CMDLINE: usize = 1024;

    /// `StartInfo::flags`: the domain is privileged.
    pub const SIF_PRIVILEGED: u32 = 1 << 0;
    /// `StartInfo::flags`: the domain is the initial control domain.
    pub const SIF_INITDOMAIN: u32 = 1 << 1;
    /// `StartInfo::flags`: `mod_start` is a list of modules, `MultibootModList`.
    pub const SIF_MULTIBOOT_MOD: u32 = 1 << 2;
    /// `StartInfo::flags`: `mod_start` is a frame number, and the module is not mapped.
    pub const SIF_MOD_START_PFN: u32 = 1 << 3;
    /// `StartInfo::flags`: the tools understand a virtually mapped phys-to-machine list.
    pub const SIF_VIRT_P2M_4TOOLS: u32 = 1 << 4;
    /// `StartInfo::flags`: power-management options.
    pub const SIF_PM_MASK: u32 = 0xff << 8;

    /// `Dom0VgaConsoleInfo::video_type`: text mode 3.
    pub const XEN_VGATYPE_TEXT_MODE_3: u8 = 0x03;
    /// `Dom0VgaConsoleInfo::video_type`: linear frame buffer by VESA.
    pub const XEN_VGATYPE_VESA_LFB: u8 = 0x23;
    /// `Dom0VgaConsoleInfo::video_type`: linear frame buffer by EFI.
    pub const XEN_VGATYPE_EFI_LFB: u8 = 0x70;

    /// The interface version of the headers that this crate follows.
    pub const LATEST_INTERFACE_VERSION: u32 = 0x0004_0e00 => "__XEN_LATEST_INTERFACE_VERSION__";
}

/// Size of a page and of a machine frame, in bytes.
pub const PAGE_SIZE: usize = 4096;

structs! {
    /// One operation of `mmuext_op`.
    pub struct MmuextOp[24] = "struct mmuext_op" {
        /// `MMUEXT_*`.
        pub cmd: u32,
        /// Zero.
        pub _pad0: u32,
        /// A machine frame or a linear address: `mfn` or `linear_addr`.
        pub arg1: u64,
        /// `nr_ents` in the low half, the address of a `vcpumask`, or `src_mfn`.
        pub arg2: u64,
    }

    /// One operation of `mmu_update`.
    pub struct MmuUpdate[16] = "struct mmu_update" {
        /// Machine address of the entry, with `MMU_*` in its two low bits.
        pub ptr: u64,
        /// The new entry, or the frame number for `MMU_MACHPHYS_UPDATE`.
        pub val: u64,
    }

    /// One hypercall of a `multicall`.
    pub struct MulticallEntry[64] = "struct multicall_entry" {
        /// Number of the hypercall, `HYPERVISOR_*`.
        pub op: u64,
        /// What it returned.
        pub result: u64,
        /// Its arguments.
        pub args: [u64; 6],
    }

    /// How to turn the TSC into system time, per vCPU.
    ///
    /// System time is `system_time + (((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul >>
    /// 32)`.
    pub struct VcpuTimeInfo[32] = "struct vcpu_time_info" {
        /// Odd while the rest is being written; a reader retries when it changed.
        pub version: u32,
        /// Zero.
        pub pad0: u32,
        /// The TSC at the last update.
        pub tsc_timestamp: u64,
        /// Nanoseconds since boot at the last update.
        pub system_time: u64,
        /// Nanoseconds per shifted tick, as a fraction of 2^32.
        pub tsc_to_system_mul: u32,
        /// Shift of the ticks: to the left, or to the right if negative.
        pub tsc_shift: i8,
        /// `XEN_PVCLOCK_*`.
        pub flags: u8,
        /// Zero.
        pub pad1: [u8; 2],
    }

    /// A vCPU's part of the shared page.
    pub struct VcpuInfo[64] = "struct vcpu_info" {
        /// Not 0 while an event is pending. Set by the hypervisor, cleared by the guest before it
        /// looks.
        pub evtchn_upcall_pending: u8,
        /// Not 0 while the guest wants no upcall.
        pub evtchn_upcall_mask: u8,
        /// Zero.
        pub _pad0: [u8; 6],
        /// A bit per word of `SharedInfo::evtchn_pending` that has unmasked pending bits.
        pub evtchn_pending_sel: u64,
        /// The architecture's part.
        pub arch: ArchVcpuInfo,
        /// Time.
        pub time: VcpuTimeInfo,
    }

    /// The page that a domain shares with the hypervisor.
    pub struct SharedInfo[3136] = "struct shared_info" {
        /// The first vCPUs' parts.
        pub vcpu_info: [VcpuInfo; 32],
        /// A bit per port: an event is pending.
        pub evtchn_pending: [u64; 64],
        /// A bit per port: the guest wants no upcall for it.
        pub evtchn_mask: [u64; 64],
        /// Odd while the wallclock is being written; a reader retries when it changed.
        pub wc_version: u32,
        /// Wallclock at system time 0: seconds since 1970, low half.
        pub wc_sec: u32,
        /// Wallclock at system time 0: nanoseconds.
        pub wc_nsec: u32,
        /// Wallclock at system time 0: seconds since 1970, high half.
        pub wc_sec_hi: u32,
        /// The architecture's part.
        pub arch: ArchSharedInfo,
    }

    /// The page that tells a PV guest at its start what it was given. Its address is in `rsi`.
    ///
    /// The fields up to `console` are filled in at start and at resume, the rest at start only.
    pub struct StartInfo[1168] = "struct start_info" {
        /// `xen-<version>-<platform>`, zero-terminated.
        pub magic: [u8; 32],
        /// Number of pages of the domain.
        pub nr_pages: u64,
        /// Machine address of the `SharedInfo`.
        pub shared_info: u64,
        /// `SIF_*`.
        pub flags: u32,
        /// Zero.
        pub _pad0: u32,
        /// Machine frame of the store's ring.
        pub store_mfn: Mfn,
        /// Event channel to the store.
        pub store_evtchn: Port,
        /// Zero.
        pub _pad1: u32,
        /// A `StartInfoConsoleDomU`, or a `StartInfoConsoleDom0` with `SIF_INITDOMAIN`.
        pub console: Union<u64, 2>,
        /// Virtual address of the root page table.
        pub pt_base: u64,
        /// Number of page-table frames, which are contiguous from `pt_base`.
        pub nr_pt_frames: u64,
        /// Virtual address of the list of machine frames.
        pub mfn_list: u64,
        /// Virtual address of the ramdisk, its frame with `SIF_MOD_START_PFN`, or 0.
        pub mod_start: u64,
        /// Size of the ramdisk in bytes.
        pub mod_len: u64,
        /// Command line, zero-terminated.
        pub cmd_line: [u8; MAX_GUEST_CMDLINE],
        /// First frame of the list of machine frames, where that is not in the initial mapping.
        pub first_p2m_pfn: u64,
        /// Number of frames of that list, its page tables included.
        pub nr_p2m_frames: u64,
    }

    /// `StartInfo::console` of an ordinary domain.
    pub struct StartInfoConsoleDomU[16] = "struct start_info.console.domU" {
        /// Machine frame of the console's ring.
        pub mfn: Mfn,
        /// Event channel to the console.
        pub evtchn: Port,
        /// Zero.
        pub _pad0: u32,
    }

    /// `StartInfo::console` of the initial domain.
    pub struct StartInfoConsoleDom0[8] = "struct start_info.console.dom0" {
        /// Offset of the `Dom0VgaConsoleInfo` from the `StartInfo`, in bytes; 0 for none.
        pub info_off: u32,
        /// Its size in bytes.
        pub info_size: u32,
    }

    /// A module in the list that `SIF_MULTIBOOT_MOD` announces. Addresses are offsets from the
    /// list's start; an entry with `mod_start` 0 ends it.
    pub struct MultibootModList[16] = "struct xen_multiboot_mod_list" {
        /// First byte.
        pub mod_start: u32,
        /// Last byte.
        pub mod_end: u32,
        /// Zero-terminated command line.
        pub cmdline: u32,
        /// Zero.
        pub pad: u32,
    }

    /// The display, as the initial domain finds it.
    pub struct Dom0VgaConsoleInfo[40] = "struct dom0_vga_console_info" {
        /// `XEN_VGATYPE_*`.
        pub video_type: u8,
        /// Zero.
        pub _pad0: [u8; 3],
        /// A `VgaTextMode3` or a `VgaVesaLfb`.
        pub u: Union<u32, 9>,
    }

    /// `Dom0VgaConsoleInfo::u` in text mode.
    pub struct VgaTextMode3[10] = "struct dom0_vga_console_info.u.text_mode_3" {
        /// Height of the font in pixels.
        pub font_height: u16,
        /// Column of the cursor.
        pub cursor_x: u16,
        /// Row of the cursor.
        pub cursor_y: u16,
        /// Number of rows.
        pub rows: u16,
        /// Number of columns.
        pub columns: u16,
    }

    /// `Dom0VgaConsoleInfo::u` with a linear frame buffer.
    pub struct VgaVesaLfb[36] = "struct dom0_vga_console_info.u.vesa_lfb" {
        /// Width in pixels.
        pub width: u16,
        /// Height in pixels.
        pub height: u16,
        /// Bytes per line.
        pub bytes_per_line: u16,
        /// Bits per pixel.
        pub bits_per_pixel: u16,
        /// Low half of the physical address.
        pub lfb_base: u32,
        /// Size in units of 64 KiB.
        pub lfb_size: u32,
        /// First bit of red.
        pub red_pos: u8,
        /// Bits of red.
        pub red_size: u8,
        /// First bit of green.
        pub green_pos: u8,
        /// Bits of green.
        pub green_size: u8,
        /// First bit of blue.
        pub blue_pos: u8,
        /// Bits of blue.
        pub blue_size: u8,
        /// First unused bit.
        pub rsvd_pos: u8,
        /// Unused bits.
        pub rsvd_size: u8,
        /// VESA capabilities.
        pub gbl_caps: u32,
        /// VESA mode attributes.
        pub mode_attrs: u16,
        /// Zero.
        pub pad: u16,
        /// High half of the physical address.
        pub ext_lfb_base: u32,
    }

    /// A bitmap in the caller's memory.
    pub struct XenctlBitmap[16] = "struct xenctl_bitmap" {
        /// The bits, the lowest of a byte first.
        pub bitmap: GuestHandle<u8>,
        /// Number of bits.
        pub nr_bits: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// A unique identifier, in the order in which it is written.
    pub struct Uuid[16] = "xen_uuid_t" {
        /// The bytes.
        pub a: [u8; 16],
    }
}

/// A domain's unique identifier (`xen_domain_handle_t`).
pub type DomainHandle = [u8; 16];

impl MmuextOp {
    /// An operation on a machine frame.
    pub const fn frame(cmd: u32, mfn: Mfn) -> Self {
        Self {
            cmd,
            _pad0: 0,
            arg1: mfn.0,
            arg2: 0,
        }
    }

    /// An operation on a linear address.
    pub const fn address(cmd: u32, linear_addr: u64) -> Self {
        Self {
            cmd,
            _pad0: 0,
            arg1: linear_addr,
            arg2: 0,
        }
    }

    /// `arg1` as a machine frame.
    pub const fn mfn(&self) -> Mfn {
        Mfn(self.arg1)
    }

    /// `arg1` as a linear address.
    pub const fn linear_addr(&self) -> u64 {
        self.arg1
    }

    /// `arg2` as a number of entries. The other half of the word is not defined.
    pub const fn nr_ents(&self) -> u32 {
        self.arg2 as u32
    }

    /// `arg2` as the address of a bitmap of vCPUs.
    pub const fn vcpumask(&self) -> GuestHandle<u8> {
        GuestHandle::new(self.arg2)
    }

    /// `arg2` as a machine frame.
    pub const fn src_mfn(&self) -> Mfn {
        Mfn(self.arg2)
    }
}
