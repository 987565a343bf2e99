//! Operations on one domain, by the toolstack (`xen/domctl.h`).
//!
//! The operations and their structs change with [`XEN_DOMCTL_INTERFACE_VERSION`]; this is the
//! version of Xen 4.17.

use crate::arch_x86::{ArchDomainconfig, CpuidLeaf, MsrEntry, VcpuGuestContext};
use crate::layout::{constants, structs};
use crate::memory::Vmemrange;
use crate::types::{Domid, GuestHandle, Mfn, Pfn, Port, Union};
use crate::xen::{DomainHandle, XenctlBitmap};

constants! {
    /// `Domctl::interface_version`; another is answered with EACCES.
    pub const XEN_DOMCTL_INTERFACE_VERSION: u32 = 0x15;

    /// `DomctlCreatedomain::flags`: hardware-virtualized.
    pub const XEN_DOMCTL_CDF_HVM: u32 = 1 << 0;
    /// `DomctlCreatedomain::flags`: hardware-assisted paging.
    pub const XEN_DOMCTL_CDF_HAP: u32 = 1 << 1;
    /// `DomctlCreatedomain::flags`: memory verified over a sleep of the machine.
    pub const XEN_DOMCTL_CDF_S3_INTEGRITY: u32 = 1 << 2;
    /// `DomctlCreatedomain::flags`: shadow tables are never out of step.
    pub const XEN_DOMCTL_CDF_OOS_OFF: u32 = 1 << 3;
    /// `DomctlCreatedomain::flags`: a domain for the store.
    pub const XEN_DOMCTL_CDF_XS_DOMAIN: u32 = 1 << 4;
    /// `DomctlCreatedomain::flags`: may use the IOMMU.
    pub const XEN_DOMCTL_CDF_IOMMU: u32 = 1 << 5;
    /// `DomctlCreatedomain::flags`: nested virtualization.
    pub const XEN_DOMCTL_CDF_NESTED_VIRT: u32 = 1 << 6;
    /// `DomctlCreatedomain::flags`: performance counters.
    pub const XEN_DOMCTL_CDF_VPMU: u32 = 1 << 7;
    /// The highest of these flags.
    pub const XEN_DOMCTL_CDF_MAX: u32 = XEN_DOMCTL_CDF_VPMU;
    /// `DomctlCreatedomain::iommu_opts`: page tables not shared with the IOMMU.
    pub const XEN_DOMCTL_IOMMU_NO_SHAREPT: u32 = 1 << 0;
    /// The highest of these options.
    pub const XEN_DOMCTL_IOMMU_MAX: u32 = XEN_DOMCTL_IOMMU_NO_SHAREPT;
    /// `DomctlCreatedomain::grant_opts`: the highest version of grant tables.
    pub const XEN_DOMCTL_GRANT_VERSION_MASK: u32 = 0xf;

    /// `DomctlGetdomaininfo::flags`: being destroyed.
    pub const XEN_DOMINF_DYING: u32 = 1 << 0;
    /// `DomctlGetdomaininfo::flags`: hardware-virtualized.
    pub const XEN_DOMINF_HVM_GUEST: u32 = 1 << 1;
    /// `DomctlGetdomaininfo::flags`: stopped, for the reason above `XEN_DOMINF_SHUTDOWNSHIFT`.
    pub const XEN_DOMINF_SHUTDOWN: u32 = 1 << 2;
    /// `DomctlGetdomaininfo::flags`: paused by the toolstack.
    pub const XEN_DOMINF_PAUSED: u32 = 1 << 3;
    /// `DomctlGetdomaininfo::flags`: no vCPU can run.
    pub const XEN_DOMINF_BLOCKED: u32 = 1 << 4;
    /// `DomctlGetdomaininfo::flags`: a vCPU is running.
    pub const XEN_DOMINF_RUNNING: u32 = 1 << 5;
    /// `DomctlGetdomaininfo::flags`: being debugged.
    pub const XEN_DOMINF_DEBUGGED: u32 = 1 << 6;
    /// `DomctlGetdomaininfo::flags`: a domain for the store.
    pub const XEN_DOMINF_XS_DOMAIN: u32 = 1 << 7;
    /// `DomctlGetdomaininfo::flags`: hardware-assisted paging.
    pub const XEN_DOMINF_HAP: u32 = 1 << 8;
    /// The bits of the reason, once shifted down.
    pub const XEN_DOMINF_SHUTDOWNMASK: u32 = 255;
    /// Where the reason, `SHUTDOWN_*`, is in `DomctlGetdomaininfo::flags`.
    pub const XEN_DOMINF_SHUTDOWNSHIFT: u32 = 16;
    /// `DomctlGetdomaininfo::max_vcpu_id` of a domain without vCPUs.
    pub const XEN_INVALID_MAX_VCPU_ID: u32 = !0;

    /// Where the type is in an element of `DomctlGetpageframeinfo3::array`.
    pub const XEN_DOMCTL_PFINFO_LTAB_SHIFT: u32 = 28;
    /// No page table.
    pub const XEN_DOMCTL_PFINFO_NOTAB: u32 = 0 << 28;
    /// Page table of level 1.
    pub const XEN_DOMCTL_PFINFO_L1TAB: u32 = 1 << 28;
    /// Page table of level 2.
    pub const XEN_DOMCTL_PFINFO_L2TAB: u32 = 2 << 28;
    /// Page table of level 3.
    pub const XEN_DOMCTL_PFINFO_L3TAB: u32 = 3 << 28;
    /// Page table of level 4.
    pub const XEN_DOMCTL_PFINFO_L4TAB: u32 = 4 << 28;
    /// The bits of the level.
    pub const XEN_DOMCTL_PFINFO_LTABTYPE_MASK: u32 = 7 << 28;
    /// Pinned.
    pub const XEN_DOMCTL_PFINFO_LPINTAB: u32 = 1 << 31;
    /// No such page.
    pub const XEN_DOMCTL_PFINFO_XTAB: u32 = 0xf << 28;
    /// A page to be allocated, without contents.
    pub const XEN_DOMCTL_PFINFO_XALLOC: u32 = 0xe << 28;
    /// A broken page.
    pub const XEN_DOMCTL_PFINFO_BROKEN: u32 = 0xd << 28;
    /// The bits of the type.
    pub const XEN_DOMCTL_PFINFO_LTAB_MASK: u32 = 0xf << 28;

    /// `DomctlShadowOp::op`: off.
    pub const XEN_DOMCTL_SHADOW_OP_OFF: u32 = 0;
    /// `DomctlShadowOp::op`: on, as `mode` says.
    pub const XEN_DOMCTL_SHADOW_OP_ENABLE: u32 = 32;
    /// `DomctlShadowOp::op`: get the bitmap of dirty pages, and clear it.
    pub const XEN_DOMCTL_SHADOW_OP_CLEAN: u32 = 11;
    /// `DomctlShadowOp::op`: get the bitmap of dirty pages.
    pub const XEN_DOMCTL_SHADOW_OP_PEEK: u32 = 12;
    /// `DomctlShadowOp::op`: get the size of the shadow memory.
    pub const XEN_DOMCTL_SHADOW_OP_GET_ALLOCATION: u32 = 30;
    /// `DomctlShadowOp::op`: set the size of the shadow memory.
    pub const XEN_DOMCTL_SHADOW_OP_SET_ALLOCATION: u32 = 31;
    /// `DomctlShadowOp::op`: on, without a mode.
    pub const XEN_DOMCTL_SHADOW_OP_ENABLE_TEST: u32 = 1;
    /// `DomctlShadowOp::op`: on, with a bitmap of dirty pages.
    pub const XEN_DOMCTL_SHADOW_OP_ENABLE_LOGDIRTY: u32 = 2;
    /// `DomctlShadowOp::mode`: shadow tables hold references.
    pub const XEN_DOMCTL_SHADOW_ENABLE_REFCOUNT: u32 = 1 << 1;
    /// `DomctlShadowOp::mode`: a bitmap of dirty pages.
    pub const XEN_DOMCTL_SHADOW_ENABLE_LOG_DIRTY: u32 = 1 << 2;
    /// `DomctlShadowOp::mode`: guest-physical addresses are translated.
    pub const XEN_DOMCTL_SHADOW_ENABLE_TRANSLATE: u32 = 1 << 3;
    /// `DomctlShadowOp::mode`: the guest's own tables are never used.
    pub const XEN_DOMCTL_SHADOW_ENABLE_EXTERNAL: u32 = 1 << 4;
    /// `DomctlShadowOp::mode` with the bitmap: the last round.
    pub const XEN_DOMCTL_SHADOW_LOGDIRTY_FINAL: u32 = 1 << 0;

    /// `DomctlVcpuaffinity::flags`: CPUs that the vCPU may run on.
    pub const XEN_VCPUAFFINITY_HARD: u32 = 1 << 0;
    /// `DomctlVcpuaffinity::flags`: CPUs that the vCPU had better run on.
    pub const XEN_VCPUAFFINITY_SOFT: u32 = 1 << 1;
    /// `DomctlVcpuaffinity::flags`: undo `SCHEDOP_PIN_OVERRIDE`.
    pub const XEN_VCPUAFFINITY_FORCE: u32 = 1 << 2;

    /// The credit scheduler.
    pub const XEN_SCHEDULER_CREDIT: u32 = 5;
    /// The second credit scheduler.
    pub const XEN_SCHEDULER_CREDIT2: u32 = 6;
    /// The scheduler of ARINC 653.
    pub const XEN_SCHEDULER_ARINC653: u32 = 7;
    /// The deadline scheduler.
    pub const XEN_SCHEDULER_RTDS: u32 = 8;
    /// The scheduler that gives every vCPU a CPU.
    pub const XEN_SCHEDULER_NULL: u32 = 9;
    /// `DomctlSchedRtds::flags`: may run beyond its budget.
    pub const XEN_DOMCTL_SCHEDRT_EXTRA: u32 = 1 << 0;
    /// `DomctlSchedulerOp::cmd`: set a domain's parameters.
    pub const XEN_DOMCTL_SCHEDOP_PUTINFO: u32 = 0;
    /// `DomctlSchedulerOp::cmd`: get a domain's parameters.
    pub const XEN_DOMCTL_SCHEDOP_GETINFO: u32 = 1;
    /// `DomctlSchedulerOp::cmd`: set vCPUs' parameters.
    pub const XEN_DOMCTL_SCHEDOP_PUTVCPUINFO: u32 = 2;
    /// `DomctlSchedulerOp::cmd`: get vCPUs' parameters.
    pub const XEN_DOMCTL_SCHEDOP_GETVCPUINFO: u32 = 3;

    /// `DomctlSendtrigger::trigger`: NMI.
    pub const XEN_DOMCTL_SENDTRIGGER_NMI: u32 = 0;
    /// `DomctlSendtrigger::trigger`: reset.
    pub const XEN_DOMCTL_SENDTRIGGER_RESET: u32 = 1;
    /// `DomctlSendtrigger::trigger`: INIT.
    pub const XEN_DOMCTL_SENDTRIGGER_INIT: u32 = 2;
    /// `DomctlSendtrigger::trigger`: power button.
    pub const XEN_DOMCTL_SENDTRIGGER_POWER: u32 = 3;
    /// `DomctlSendtrigger::trigger`: sleep button.
    pub const XEN_DOMCTL_SENDTRIGGER_SLEEP: u32 = 4;

    /// `DomctlAssignDevice::dev`: a PCI function.
    pub const XEN_DOMCTL_DEV_PCI: u32 = 0;
    /// `DomctlAssignDevice::dev`: a node of a device tree.
    pub const XEN_DOMCTL_DEV_DT: u32 = 1;
    /// `DomctlAssignDevice::flags`: overlaps with memory that the device claims are put up with.
    pub const XEN_DOMCTL_DEV_RDM_RELAXED: u32 = 1;
    /// `DomctlBindPtIrq::irq_type`: PCI interrupt.
    pub const PT_IRQ_TYPE_PCI: u32 = 0;
    /// `DomctlBindPtIrq::irq_type`: ISA interrupt.
    pub const PT_IRQ_TYPE_ISA: u32 = 1;
    /// `DomctlBindPtIrq::irq_type`: MSI.
    pub const PT_IRQ_TYPE_MSI: u32 = 2;
    /// `DomctlBindPtIrq::irq_type`: MSI, translated.
    pub const PT_IRQ_TYPE_MSI_TRANSLATE: u32 = 3;
    /// `DomctlBindPtIrq::irq_type`: Arm's shared interrupt.
    pub const PT_IRQ_TYPE_SPI: u32 = 4;
    /// `DomctlBindPtIrqMsi::gflags`: destination.
    pub const XEN_DOMCTL_VMSI_X86_DEST_ID_MASK: u32 = 0x00_00ff;
    /// `DomctlBindPtIrqMsi::gflags`: redirection hint.
    pub const XEN_DOMCTL_VMSI_X86_RH_MASK: u32 = 0x00_0100;
    /// `DomctlBindPtIrqMsi::gflags`: destination mode.
    pub const XEN_DOMCTL_VMSI_X86_DM_MASK: u32 = 0x00_0200;
    /// `DomctlBindPtIrqMsi::gflags`: delivery mode.
    pub const XEN_DOMCTL_VMSI_X86_DELIV_MASK: u32 = 0x00_7000;
    /// `DomctlBindPtIrqMsi::gflags`: trigger mode.
    pub const XEN_DOMCTL_VMSI_X86_TRIG_MASK: u32 = 0x00_8000;
    /// `DomctlBindPtIrqMsi::gflags`: unmasked.
    pub const XEN_DOMCTL_VMSI_X86_UNMASKED: u32 = 0x01_0000;
    /// `DomctlMemoryMapping::add_mapping` and `DomctlIoportMapping::add_mapping`: map.
    pub const DPCI_ADD_MAPPING: u32 = 1;
    /// `DomctlMemoryMapping::add_mapping` and `DomctlIoportMapping::add_mapping`: unmap.
    pub const DPCI_REMOVE_MAPPING: u32 = 0;
    /// Caching: none.
    pub const XEN_DOMCTL_MEM_CACHEATTR_UC: u32 = 0;
    /// Caching: write-combining.
    pub const XEN_DOMCTL_MEM_CACHEATTR_WC: u32 = 1;
    /// Caching: write-through.
    pub const XEN_DOMCTL_MEM_CACHEATTR_WT: u32 = 4;
    /// Caching: write-protected.
    pub const XEN_DOMCTL_MEM_CACHEATTR_WP: u32 = 5;
    /// Caching: write-back.
    pub const XEN_DOMCTL_MEM_CACHEATTR_WB: u32 = 6;
    /// Caching: none, unless an MTRR says otherwise.
    pub const XEN_DOMCTL_MEM_CACHEATTR_UCM: u32 = 7;
    /// Caching: as it was.
    pub const XEN_DOMCTL_DELETE_MEM_CACHEATTR: u32 = !0;
    /// A subleaf that a CPUID leaf does not have.
    pub const XEN_CPUID_INPUT_UNUSED: u32 = 0xffff_ffff;
    /// `DomctlDebugOp::op`: stop single steps.
    pub const XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_OFF: u32 = 0;
    /// `DomctlDebugOp::op`: single steps.
    pub const XEN_DOMCTL_DEBUG_OP_SINGLE_STEP_ON: u32 = 1;

    /// `DomctlVmEventOp::op`: enable.
    pub const XEN_VM_EVENT_ENABLE: u32 = 0;
    /// `DomctlVmEventOp::op`: disable.
    pub const XEN_VM_EVENT_DISABLE: u32 = 1;
    /// `DomctlVmEventOp::op`: take answers from the ring.
    pub const XEN_VM_EVENT_RESUME: u32 = 2;
    /// `DomctlVmEventOp::op`: get the version.
    pub const XEN_VM_EVENT_GET_VERSION: u32 = 3;
    /// `DomctlVmEventOp::mode`: paging.
    pub const XEN_DOMCTL_VM_EVENT_OP_PAGING: u32 = 1;
    /// `DomctlVmEventOp::mode`: monitoring.
    pub const XEN_DOMCTL_VM_EVENT_OP_MONITOR: u32 = 2;
    /// `DomctlVmEventOp::mode`: sharing.
    pub const XEN_DOMCTL_VM_EVENT_OP_SHARING: u32 = 3;
    /// `DomctlMemSharingOp::op`: on or off.
    pub const XEN_DOMCTL_MEM_SHARING_CONTROL: u32 = 0;

    /// `DomctlPsrCmtOp::cmd`: stop monitoring the cache.
    pub const XEN_DOMCTL_PSR_CMT_OP_DETACH: u32 = 0;
    /// `DomctlPsrCmtOp::cmd`: monitor the cache.
    pub const XEN_DOMCTL_PSR_CMT_OP_ATTACH: u32 = 1;
    /// `DomctlPsrCmtOp::cmd`: get the identifier.
    pub const XEN_DOMCTL_PSR_CMT_OP_QUERY_RMID: u32 = 2;
    /// `DomctlMonitorOp::op`: enable an event.
    pub const XEN_DOMCTL_MONITOR_OP_ENABLE: u32 = 0;
    /// `DomctlMonitorOp::op`: disable an event.
    pub const XEN_DOMCTL_MONITOR_OP_DISABLE: u32 = 1;
    /// `DomctlMonitorOp::op`: get the events there are.
    pub const XEN_DOMCTL_MONITOR_OP_GET_CAPABILITIES: u32 = 2;
    /// `DomctlMonitorOp::op`: emulate repetitions one by one.
    pub const XEN_DOMCTL_MONITOR_OP_EMULATE_EACH_REP: u32 = 3;
    /// `DomctlMonitorOp::op`: have control registers in events.
    pub const XEN_DOMCTL_MONITOR_OP_CONTROL_REGISTERS: u32 = 4;
    /// `DomctlMonitorOp::event`: control register written.
    pub const XEN_DOMCTL_MONITOR_EVENT_WRITE_CTRLREG: u32 = 0;
    /// `DomctlMonitorOp::event`: MSR written.
    pub const XEN_DOMCTL_MONITOR_EVENT_MOV_TO_MSR: u32 = 1;
    /// `DomctlMonitorOp::event`: single step.
    pub const XEN_DOMCTL_MONITOR_EVENT_SINGLESTEP: u32 = 2;
    /// `DomctlMonitorOp::event`: breakpoint.
    pub const XEN_DOMCTL_MONITOR_EVENT_SOFTWARE_BREAKPOINT: u32 = 3;
    /// `DomctlMonitorOp::event`: the guest's request.
    pub const XEN_DOMCTL_MONITOR_EVENT_GUEST_REQUEST: u32 = 4;
    /// `DomctlMonitorOp::event`: debug exception.
    pub const XEN_DOMCTL_MONITOR_EVENT_DEBUG_EXCEPTION: u32 = 5;
    /// `DomctlMonitorOp::event`: CPUID.
    pub const XEN_DOMCTL_MONITOR_EVENT_CPUID: u32 = 6;
    /// `DomctlMonitorOp::event`: privileged call.
    pub const XEN_DOMCTL_MONITOR_EVENT_PRIVILEGED_CALL: u32 = 7;
    /// `DomctlMonitorOp::event`: interrupt.
    pub const XEN_DOMCTL_MONITOR_EVENT_INTERRUPT: u32 = 8;
    /// `DomctlMonitorOp::event`: descriptor accessed.
    pub const XEN_DOMCTL_MONITOR_EVENT_DESC_ACCESS: u32 = 9;
    /// `DomctlMonitorOp::event`: instruction that is not emulated.
    pub const XEN_DOMCTL_MONITOR_EVENT_EMUL_UNIMPLEMENTED: u32 = 10;
    /// `DomctlMonitorOp::event`: page fault within the guest.
    pub const XEN_DOMCTL_MONITOR_EVENT_INGUEST_PAGEFAULT: u32 = 11;
    /// `DomctlMonitorOp::event`: exit.
    pub const XEN_DOMCTL_MONITOR_EVENT_VMEXIT: u32 = 12;
    /// `DomctlPsrAlloc::cmd`: set the part of the third-level cache.
    pub const XEN_DOMCTL_PSR_SET_L3_CBM: u32 = 0;
    /// `DomctlPsrAlloc::cmd`: get the part of the third-level cache.
    pub const XEN_DOMCTL_PSR_GET_L3_CBM: u32 = 1;
    /// `DomctlPsrAlloc::cmd`: set the part for code.
    pub const XEN_DOMCTL_PSR_SET_L3_CODE: u32 = 2;
    /// `DomctlPsrAlloc::cmd`: set the part for data.
    pub const XEN_DOMCTL_PSR_SET_L3_DATA: u32 = 3;
    /// `DomctlPsrAlloc::cmd`: get the part for code.
    pub const XEN_DOMCTL_PSR_GET_L3_CODE: u32 = 4;
    /// `DomctlPsrAlloc::cmd`: get the part for data.
    pub const XEN_DOMCTL_PSR_GET_L3_DATA: u32 = 5;
    /// `DomctlPsrAlloc::cmd`: set the part of the second-level cache.
    pub const XEN_DOMCTL_PSR_SET_L2_CBM: u32 = 6;
    /// `DomctlPsrAlloc::cmd`: get the part of the second-level cache.
    pub const XEN_DOMCTL_PSR_GET_L2_CBM: u32 = 7;
    /// `DomctlPsrAlloc::cmd`: set the throttle on memory bandwidth.
    pub const XEN_DOMCTL_PSR_SET_MBA_THRTL: u32 = 8;
    /// `DomctlPsrAlloc::cmd`: get the throttle on memory bandwidth.
    pub const XEN_DOMCTL_PSR_GET_MBA_THRTL: u32 = 9;
    /// `DomctlVuartOp::cmd`: set up.
    pub const XEN_DOMCTL_VUART_OP_INIT: u32 = 0;
    /// `DomctlVuartOp::type_`: PL011.
    pub const XEN_DOMCTL_VUART_TYPE_VPL011: u32 = 0;
    /// `DomctlVmtraceOp::cmd`: on.
    pub const XEN_DOMCTL_VMTRACE_ENABLE: u32 = 1;
    /// `DomctlVmtraceOp::cmd`: off.
    pub const XEN_DOMCTL_VMTRACE_DISABLE: u32 = 2;
    /// `DomctlVmtraceOp::cmd`: from the start.
    pub const XEN_DOMCTL_VMTRACE_RESET_AND_ENABLE: u32 = 3;
    /// `DomctlVmtraceOp::cmd`: get the position.
    pub const XEN_DOMCTL_VMTRACE_OUTPUT_POSITION: u32 = 4;
    /// `DomctlVmtraceOp::cmd`: get an option.
    pub const XEN_DOMCTL_VMTRACE_GET_OPTION: u32 = 5;
    /// `DomctlVmtraceOp::cmd`: set an option.
    pub const XEN_DOMCTL_VMTRACE_SET_OPTION: u32 = 6;

    /// Create a domain, paused: `DomctlCreatedomain`; `Domctl::domain` is its number, or
    /// `Domid::FIRST_RESERVED` for any.
    pub const XEN_DOMCTL_CREATEDOMAIN: u32 = 1;
    /// Destroy it, which takes several calls. No struct.
    pub const XEN_DOMCTL_DESTROYDOMAIN: u32 = 2;
    /// Pause it. No struct.
    pub const XEN_DOMCTL_PAUSEDOMAIN: u32 = 3;
    /// Let it run. No struct.
    pub const XEN_DOMCTL_UNPAUSEDOMAIN: u32 = 4;
    /// State of it, or of the next one that exists: `DomctlGetdomaininfo`.
    pub const XEN_DOMCTL_GETDOMAININFO: u32 = 5;
    /// Set the CPUs of a vCPU: `DomctlVcpuaffinity`.
    pub const XEN_DOMCTL_SETVCPUAFFINITY: u32 = 9;
    /// Shadow tables and dirty pages: `DomctlShadowOp`.
    pub const XEN_DOMCTL_SHADOW_OP: u32 = 10;
    /// Set the limit of its memory: `DomctlMaxMem`.
    pub const XEN_DOMCTL_MAX_MEM: u32 = 11;
    /// Set a vCPU's state: `DomctlVcpucontext`.
    pub const XEN_DOMCTL_SETVCPUCONTEXT: u32 = 12;
    /// Get a vCPU's state: `DomctlVcpucontext`.
    pub const XEN_DOMCTL_GETVCPUCONTEXT: u32 = 13;
    /// What a vCPU does: `DomctlGetvcpuinfo`.
    pub const XEN_DOMCTL_GETVCPUINFO: u32 = 14;
    /// Allocate its vCPUs: `DomctlMaxVcpus`.
    pub const XEN_DOMCTL_MAX_VCPUS: u32 = 15;
    /// Parameters of the scheduler: `DomctlSchedulerOp`.
    pub const XEN_DOMCTL_SCHEDULER_OP: u32 = 16;
    /// Set its unique identifier: `DomctlSetdomainhandle`.
    pub const XEN_DOMCTL_SETDOMAINHANDLE: u32 = 17;
    /// Whether it is being debugged: `DomctlSetdebugging`.
    pub const XEN_DOMCTL_SETDEBUGGING: u32 = 18;
    /// Permit an interrupt: `DomctlIrqPermission`.
    pub const XEN_DOMCTL_IRQ_PERMISSION: u32 = 19;
    /// Permit memory-mapped I/O: `DomctlIomemPermission`.
    pub const XEN_DOMCTL_IOMEM_PERMISSION: u32 = 20;
    /// Permit I/O ports: `DomctlIoportPermission`.
    pub const XEN_DOMCTL_IOPORT_PERMISSION: u32 = 21;
    /// Fill in a hypercall page: `DomctlHypercallInit`.
    pub const XEN_DOMCTL_HYPERCALL_INIT: u32 = 22;
    /// Set the wallclock's offset: `DomctlSettimeoffset`.
    pub const XEN_DOMCTL_SETTIMEOFFSET: u32 = 24;
    /// Get the CPUs of a vCPU: `DomctlVcpuaffinity`.
    pub const XEN_DOMCTL_GETVCPUAFFINITY: u32 = 25;
    /// PowerPC's, withdrawn.
    pub const XEN_DOMCTL_REAL_MODE_AREA: u32 = 26;
    /// Let it run again after a suspend that was cancelled. No struct.
    pub const XEN_DOMCTL_RESUMEDOMAIN: u32 = 27;
    /// Press a button: `DomctlSendtrigger`.
    pub const XEN_DOMCTL_SENDTRIGGER: u32 = 28;
    /// Be told by a port when it stops: `DomctlSubscribe`.
    pub const XEN_DOMCTL_SUBSCRIBE: u32 = 29;
    /// Get a hardware-virtualized domain's state: `DomctlHvmcontext`.
    pub const XEN_DOMCTL_GETHVMCONTEXT: u32 = 33;
    /// Set a hardware-virtualized domain's state: `DomctlHvmcontext`.
    pub const XEN_DOMCTL_SETHVMCONTEXT: u32 = 34;
    /// Make it a 32-bit or 64-bit domain: `DomctlAddressSize`.
    pub const XEN_DOMCTL_SET_ADDRESS_SIZE: u32 = 35;
    /// Whether it is a 32-bit or 64-bit domain: `DomctlAddressSize`.
    pub const XEN_DOMCTL_GET_ADDRESS_SIZE: u32 = 36;
    /// Give it a device: `DomctlAssignDevice`.
    pub const XEN_DOMCTL_ASSIGN_DEVICE: u32 = 37;
    /// Pass an interrupt through: `DomctlBindPtIrq`.
    pub const XEN_DOMCTL_BIND_PT_IRQ: u32 = 38;
    /// Map memory-mapped I/O: `DomctlMemoryMapping`.
    pub const XEN_DOMCTL_MEMORY_MAPPING: u32 = 39;
    /// Map I/O ports: `DomctlIoportMapping`.
    pub const XEN_DOMCTL_IOPORT_MAPPING: u32 = 40;
    /// Set more of a vCPU's state: `DomctlExtVcpucontext`.
    pub const XEN_DOMCTL_SET_EXT_VCPUCONTEXT: u32 = 42;
    /// Get more of a vCPU's state: `DomctlExtVcpucontext`.
    pub const XEN_DOMCTL_GET_EXT_VCPUCONTEXT: u32 = 43;
    /// Itanium's, withdrawn.
    pub const XEN_DOMCTL_SET_OPT_FEATURE: u32 = 44;
    /// Whether a device could be given: `DomctlAssignDevice`.
    pub const XEN_DOMCTL_TEST_ASSIGN_DEVICE: u32 = 45;
    /// Make it the device model of another domain: `DomctlSetTarget`.
    pub const XEN_DOMCTL_SET_TARGET: u32 = 46;
    /// Take a device away: `DomctlAssignDevice`.
    pub const XEN_DOMCTL_DEASSIGN_DEVICE: u32 = 47;
    /// Stop passing an interrupt through: `DomctlBindPtIrq`.
    pub const XEN_DOMCTL_UNBIND_PT_IRQ: u32 = 48;
    /// Devices that can be given only together: `DomctlGetDeviceGroup`.
    pub const XEN_DOMCTL_GET_DEVICE_GROUP: u32 = 50;
    /// Single steps: `DomctlDebugOp`.
    pub const XEN_DOMCTL_DEBUG_OP: u32 = 54;
    /// Get part of a hardware-virtualized domain's state: `DomctlHvmcontextPartial`.
    pub const XEN_DOMCTL_GETHVMCONTEXT_PARTIAL: u32 = 55;
    /// Rings of events: `DomctlVmEventOp`.
    pub const XEN_DOMCTL_VM_EVENT_OP: u32 = 56;
    /// Shared memory: `DomctlMemSharingOp`.
    pub const XEN_DOMCTL_MEM_SHARING_OP: u32 = 57;
    /// Get how it sees the TSC: `DomctlTscInfo`.
    pub const XEN_DOMCTL_GETTSCINFO: u32 = 59;
    /// Set how it sees the TSC: `DomctlTscInfo`.
    pub const XEN_DOMCTL_SETTSCINFO: u32 = 60;
    /// Types of pages: `DomctlGetpageframeinfo3`.
    pub const XEN_DOMCTL_GETPAGEFRAMEINFO3: u32 = 61;
    /// Set a vCPU's extended state: `DomctlVcpuextstate`.
    pub const XEN_DOMCTL_SETVCPUEXTSTATE: u32 = 62;
    /// Get a vCPU's extended state: `DomctlVcpuextstate`.
    pub const XEN_DOMCTL_GETVCPUEXTSTATE: u32 = 63;
    /// Whether it stops when nobody listens to its events: `DomctlSetAccessRequired`.
    pub const XEN_DOMCTL_SET_ACCESS_REQUIRED: u32 = 64;
    /// Check the tables against each other: `DomctlAuditP2m`.
    pub const XEN_DOMCTL_AUDIT_P2M: u32 = 65;
    /// Give it a global virtual interrupt: `DomctlSetVirqHandler`.
    pub const XEN_DOMCTL_SET_VIRQ_HANDLER: u32 = 66;
    /// Mark a page broken: `DomctlSetBrokenPageP2m`.
    pub const XEN_DOMCTL_SET_BROKEN_PAGE_P2M: u32 = 67;
    /// Set its nodes: `DomctlNodeaffinity`.
    pub const XEN_DOMCTL_SETNODEAFFINITY: u32 = 68;
    /// Get its nodes: `DomctlNodeaffinity`.
    pub const XEN_DOMCTL_GETNODEAFFINITY: u32 = 69;
    /// Flush caches: `DomctlCacheflush`.
    pub const XEN_DOMCTL_CACHEFLUSH: u32 = 71;
    /// Get a vCPU's MSRs: `DomctlVcpuMsrs`.
    pub const XEN_DOMCTL_GET_VCPU_MSRS: u32 = 72;
    /// Set a vCPU's MSRs: `DomctlVcpuMsrs`.
    pub const XEN_DOMCTL_SET_VCPU_MSRS: u32 = 73;
    /// Set its virtual NUMA topology: `DomctlVnuma`.
    pub const XEN_DOMCTL_SETVNUMAINFO: u32 = 74;
    /// Monitor its use of the cache: `DomctlPsrCmtOp`.
    pub const XEN_DOMCTL_PSR_CMT_OP: u32 = 75;
    /// Choose the events to be told of: `DomctlMonitorOp`.
    pub const XEN_DOMCTL_MONITOR_OP: u32 = 77;
    /// Its part of the caches: `DomctlPsrAlloc`.
    pub const XEN_DOMCTL_PSR_ALLOC: u32 = 78;
    /// Reset it, keeping its memory. No struct.
    pub const XEN_DOMCTL_SOFT_RESET: u32 = 79;
    /// Give it a virtual UART: `DomctlVuartOp`.
    pub const XEN_DOMCTL_VUART_OP: u32 = 81;
    /// Get its CPUID leaves and MSRs: `DomctlCpuPolicy`.
    pub const XEN_DOMCTL_GET_CPU_POLICY: u32 = 82;
    /// Set its CPUID leaves and MSRs: `DomctlCpuPolicy`.
    pub const XEN_DOMCTL_SET_CPU_POLICY: u32 = 83;
    /// Trace a vCPU: `DomctlVmtraceOp`.
    pub const XEN_DOMCTL_VMTRACE_OP: u32 = 84;
    /// Get the size of its pool for page tables: `DomctlPagingMempool`.
    pub const XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE: u32 = 85;
    /// Set the size of its pool for page tables: `DomctlPagingMempool`.
    pub const XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE: u32 = 86;
    /// Debugger: memory: `DomctlGdbsxMemio`.
    pub const XEN_DOMCTL_GDBSX_GUESTMEMIO: u32 = 1000;
    /// Debugger: pause a vCPU: `DomctlGdbsxPauseunpVcpu`.
    pub const XEN_DOMCTL_GDBSX_PAUSEVCPU: u32 = 1001;
    /// Debugger: let a vCPU run: `DomctlGdbsxPauseunpVcpu`.
    pub const XEN_DOMCTL_GDBSX_UNPAUSEVCPU: u32 = 1002;
    /// Debugger: state: `DomctlGdbsxDomstatus`.
    pub const XEN_DOMCTL_GDBSX_DOMSTATUS: u32 = 1003;
}

structs! {
    /// The argument of the hypercall.
    pub struct Domctl[144] = "struct xen_domctl" {
        /// `XEN_DOMCTL_*`.
        pub cmd: u32,
        /// `XEN_DOMCTL_INTERFACE_VERSION`.
        pub interface_version: u32,
        /// The domain.
        pub domain: Domid,
        /// Zero.
        pub _pad: [u16; 3],
        /// The operation's struct.
        pub u: Union<u64, 16>,
    }

    /// `XEN_DOMCTL_CREATEDOMAIN`.
    pub struct DomctlCreatedomain[64] = "struct xen_domctl_createdomain" {
        /// Label of the security module.
        pub ssidref: u32,
        /// Unique identifier.
        pub handle: DomainHandle,
        /// `XEN_DOMCTL_CDF_*`.
        pub flags: u32,
        /// `XEN_DOMCTL_IOMMU_*`.
        pub iommu_opts: u32,
        /// How many vCPUs it may have, at least 1.
        pub max_vcpus: u32,
        /// The highest port that it may have.
        pub max_evtchn_port: u32,
        /// How many pages its grant table may have; negative for the hypervisor's default.
        pub max_grant_frames: i32,
        /// How many pages its list of mapped grants may have; negative for the hypervisor's
        /// default.
        pub max_maptrack_frames: i32,
        /// Highest version of its grant table.
        pub grant_opts: u32,
        /// Size of a vCPU's trace, in bytes; 0 for none.
        pub vmtrace_size: u32,
        /// CPU pool.
        pub cpupool_id: u32,
        /// The architecture's part.
        pub arch: ArchDomainconfig,
    }

    /// `XEN_DOMCTL_GETDOMAININFO`, all out.
    pub struct DomctlGetdomaininfo[112] = "struct xen_domctl_getdomaininfo" {
        /// The domain.
        pub domain: Domid,
        /// Zero.
        pub pad1: u16,
        /// `XEN_DOMINF_*` and the reason of a shutdown.
        pub flags: u32,
        /// Pages that it has.
        pub tot_pages: u64,
        /// Pages that it may have.
        pub max_pages: u64,
        /// Pages that are set aside for it.
        pub outstanding_pages: u64,
        /// Pages that it shares.
        pub shr_pages: u64,
        /// Pages that are paged out.
        pub paged_pages: u64,
        /// Frame of its shared page.
        pub shared_info_frame: u64,
        /// Nanoseconds that its vCPUs ran.
        pub cpu_time: u64,
        /// Number of vCPUs that are up.
        pub nr_online_vcpus: u32,
        /// Number of its last vCPU, or `XEN_INVALID_MAX_VCPU_ID`.
        pub max_vcpu_id: u32,
        /// Label of the security module.
        pub ssidref: u32,
        /// Unique identifier.
        pub handle: DomainHandle,
        /// CPU pool.
        pub cpupool: u32,
        /// Bits of a guest-physical address.
        pub gpaddr_bits: u8,
        /// Zero.
        pub pad2: [u8; 7],
        /// The architecture's part.
        pub arch_config: ArchDomainconfig,
    }

    /// `XEN_DOMCTL_GETPAGEFRAMEINFO3`.
    pub struct DomctlGetpageframeinfo3[16] = "struct xen_domctl_getpageframeinfo3" {
        /// Number of pages.
        pub num: u64,
        /// In: their frames; out: their types, `XEN_DOMCTL_PFINFO_*`.
        pub array: GuestHandle<u64>,
    }

    /// Counts of a `DomctlShadowOp`.
    pub struct DomctlShadowOpStats[8] = "struct xen_domctl_shadow_op_stats" {
        /// Faults since the last time.
        pub fault_count: u32,
        /// Pages dirtied since the last time.
        pub dirty_count: u32,
    }

    /// `XEN_DOMCTL_SHADOW_OP`.
    pub struct DomctlShadowOp[40] = "struct xen_domctl_shadow_op" {
        /// In: `XEN_DOMCTL_SHADOW_OP_*`.
        pub op: u32,
        /// In: `XEN_DOMCTL_SHADOW_ENABLE_*` or `XEN_DOMCTL_SHADOW_LOGDIRTY_*`.
        pub mode: u32,
        /// In or out: shadow memory in MiB.
        pub mb: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: a bit per page.
        pub dirty_bitmap: GuestHandle<u8>,
        /// In: number of bits; out: how many were written.
        pub pages: u64,
        /// Out: counts.
        pub stats: DomctlShadowOpStats,
    }

    /// `XEN_DOMCTL_MAX_MEM`.
    pub struct DomctlMaxMem[8] = "struct xen_domctl_max_mem" {
        /// Limit in KiB.
        pub max_memkb: u64,
    }

    /// `XEN_DOMCTL_SETVCPUCONTEXT` and `XEN_DOMCTL_GETVCPUCONTEXT`.
    pub struct DomctlVcpucontext[16] = "struct xen_domctl_vcpucontext" {
        /// In: the vCPU.
        pub vcpu: u32,
        /// Zero.
        pub _pad0: u32,
        /// In or out: its state; null to reset it.
        pub ctxt: GuestHandle<VcpuGuestContext>,
    }

    /// `XEN_DOMCTL_GETVCPUINFO`.
    pub struct DomctlGetvcpuinfo[24] = "struct xen_domctl_getvcpuinfo" {
        /// In: the vCPU.
        pub vcpu: u32,
        /// Out: not 0 if it is up.
        pub online: u8,
        /// Out: not 0 if it waits for an event.
        pub blocked: u8,
        /// Out: not 0 if it is on a CPU.
        pub running: u8,
        /// Zero.
        pub _pad0: u8,
        /// Out: nanoseconds that it ran.
        pub cpu_time: u64,
        /// Out: the CPU it is on, or was last.
        pub cpu: u32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `XEN_DOMCTL_SETNODEAFFINITY` and `XEN_DOMCTL_GETNODEAFFINITY`.
    pub struct DomctlNodeaffinity[16] = "struct xen_domctl_nodeaffinity" {
        /// The nodes.
        pub nodemap: XenctlBitmap,
    }

    /// `XEN_DOMCTL_SETVCPUAFFINITY` and `XEN_DOMCTL_GETVCPUAFFINITY`.
    pub struct DomctlVcpuaffinity[40] = "struct xen_domctl_vcpuaffinity" {
        /// In: the vCPU.
        pub vcpu: u32,
        /// In: `XEN_VCPUAFFINITY_*`.
        pub flags: u32,
        /// In and out: CPUs that it may run on.
        pub cpumap_hard: XenctlBitmap,
        /// In and out: CPUs that it had better run on.
        pub cpumap_soft: XenctlBitmap,
    }

    /// `XEN_DOMCTL_MAX_VCPUS`.
    pub struct DomctlMaxVcpus[4] = "struct xen_domctl_max_vcpus" {
        /// How many.
        pub max: u32,
    }

    /// Parameters of the credit scheduler.
    pub struct DomctlSchedCredit[4] = "struct xen_domctl_sched_credit" {
        /// Share of the CPUs, 1 to 65535; 256 is usual.
        pub weight: u16,
        /// Limit in hundredths of a CPU; 0 for none.
        pub cap: u16,
    }

    /// Parameters of the second credit scheduler.
    pub struct DomctlSchedCredit2[4] = "struct xen_domctl_sched_credit2" {
        /// Share of the CPUs, 1 to 65535; 256 is usual.
        pub weight: u16,
        /// Limit in hundredths of a CPU; 0 for none.
        pub cap: u16,
    }

    /// Parameters of the deadline scheduler.
    pub struct DomctlSchedRtds[12] = "struct xen_domctl_sched_rtds" {
        /// Period in microseconds.
        pub period: u32,
        /// Budget in it, in microseconds.
        pub budget: u32,
        /// `XEN_DOMCTL_SCHEDRT_EXTRA` or 0.
        pub flags: u32,
    }

    /// Parameters of a vCPU.
    pub struct DomctlSchedparamVcpu[16] = "struct xen_domctl_schedparam_vcpu" {
        /// The scheduler's parameters.
        pub u: Union<u32, 3>,
        /// The vCPU.
        pub vcpuid: u32,
    }

    /// `XEN_DOMCTL_SCHEDULER_OP`.
    pub struct DomctlSchedulerOp[24] = "struct xen_domctl_scheduler_op" {
        /// In: `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// In: `XEN_DOMCTL_SCHEDOP_*`.
        pub cmd: u32,
        /// In or out: the scheduler's parameters, or a `DomctlSchedulerOpV`.
        pub u: Union<u64, 2>,
    }

    /// `DomctlSchedulerOp::u` for vCPUs.
    pub struct DomctlSchedulerOpV[16] = "struct xen_domctl_scheduler_op.u.v" {
        /// Their parameters.
        pub vcpus: GuestHandle<DomctlSchedparamVcpu>,
        /// How many; out: how many were done.
        pub nr_vcpus: u32,
        /// Zero.
        pub padding: u32,
    }

    /// `XEN_DOMCTL_SETDOMAINHANDLE`.
    pub struct DomctlSetdomainhandle[16] = "struct xen_domctl_setdomainhandle" {
        /// Unique identifier.
        pub handle: DomainHandle,
    }

    /// `XEN_DOMCTL_SETDEBUGGING`.
    pub struct DomctlSetdebugging[1] = "struct xen_domctl_setdebugging" {
        /// Not 0 for yes.
        pub enable: u8,
    }

    /// `XEN_DOMCTL_IRQ_PERMISSION`.
    pub struct DomctlIrqPermission[8] = "struct xen_domctl_irq_permission" {
        /// The interrupt, as the caller knows it.
        pub pirq: u32,
        /// Not 0 to permit it.
        pub allow_access: u8,
        /// Zero.
        pub pad: [u8; 3],
    }

    /// `XEN_DOMCTL_IOMEM_PERMISSION`.
    pub struct DomctlIomemPermission[24] = "struct xen_domctl_iomem_permission" {
        /// First frame.
        pub first_mfn: Mfn,
        /// Number of frames.
        pub nr_mfns: u64,
        /// Not 0 to permit it.
        pub allow_access: u8,
        /// Zero.
        pub _pad0: [u8; 7],
    }

    /// `XEN_DOMCTL_IOPORT_PERMISSION`.
    pub struct DomctlIoportPermission[12] = "struct xen_domctl_ioport_permission" {
        /// First port.
        pub first_port: u32,
        /// Number of ports.
        pub nr_ports: u32,
        /// Not 0 to permit it.
        pub allow_access: u8,
        /// Zero.
        pub _pad0: [u8; 3],
    }

    /// `XEN_DOMCTL_HYPERCALL_INIT`.
    pub struct DomctlHypercallInit[8] = "struct xen_domctl_hypercall_init" {
        /// The page's frame.
        pub gmfn: u64,
    }

    /// `XEN_DOMCTL_SETTIMEOFFSET`.
    pub struct DomctlSettimeoffset[8] = "struct xen_domctl_settimeoffset" {
        /// Seconds.
        pub time_offset_seconds: i64,
    }

    /// `XEN_DOMCTL_GETHVMCONTEXT` and `XEN_DOMCTL_SETHVMCONTEXT`.
    pub struct DomctlHvmcontext[16] = "struct xen_domctl_hvmcontext" {
        /// In: size of the buffer in bytes; out: how many were written.
        pub size: u32,
        /// Zero.
        pub _pad0: u32,
        /// The state.
        pub buffer: GuestHandle<u8>,
    }

    /// `XEN_DOMCTL_SET_ADDRESS_SIZE` and `XEN_DOMCTL_GET_ADDRESS_SIZE`.
    pub struct DomctlAddressSize[4] = "struct xen_domctl_address_size" {
        /// 32 or 64.
        pub size: u32,
    }

    /// `XEN_DOMCTL_SENDTRIGGER`.
    pub struct DomctlSendtrigger[8] = "struct xen_domctl_sendtrigger" {
        /// `XEN_DOMCTL_SENDTRIGGER_*`.
        pub trigger: u32,
        /// The vCPU.
        pub vcpu: u32,
    }

    /// `XEN_DOMCTL_ASSIGN_DEVICE` and its kin.
    pub struct DomctlAssignDevice[24] = "struct xen_domctl_assign_device" {
        /// `XEN_DOMCTL_DEV_*`.
        pub dev: u32,
        /// `XEN_DOMCTL_DEV_RDM_RELAXED` or 0.
        pub flags: u32,
        /// A `DomctlAssignDevicePci` or a `DomctlAssignDeviceDt`.
        pub u: Union<u64, 2>,
    }

    /// `DomctlAssignDevice::u` for a PCI function.
    pub struct DomctlAssignDevicePci[4] = "struct xen_domctl_assign_device.u.pci" {
        /// Segment, bus, device and function.
        pub machine_sbdf: u32,
    }

    /// `DomctlAssignDevice::u` for a node of a device tree.
    pub struct DomctlAssignDeviceDt[16] = "struct xen_domctl_assign_device.u.dt" {
        /// Length of the path in bytes.
        pub size: u32,
        /// Zero.
        pub _pad0: u32,
        /// The path.
        pub path: GuestHandle<u8>,
    }

    /// `XEN_DOMCTL_GET_DEVICE_GROUP`.
    pub struct DomctlGetDeviceGroup[24] = "struct xen_domctl_get_device_group" {
        /// In: segment, bus, device and function.
        pub machine_sbdf: u32,
        /// In: room for devices.
        pub max_sdevs: u32,
        /// Out: how many there are.
        pub num_sdevs: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: the devices.
        pub sdev_array: GuestHandle<u32>,
    }

    /// `XEN_DOMCTL_BIND_PT_IRQ` and `XEN_DOMCTL_UNBIND_PT_IRQ`.
    pub struct DomctlBindPtIrq[24] = "struct xen_domctl_bind_pt_irq" {
        /// The machine's interrupt.
        pub machine_irq: u32,
        /// `PT_IRQ_TYPE_*`.
        pub irq_type: u32,
        /// A struct for each type.
        pub u: Union<u64, 2>,
    }

    /// `DomctlBindPtIrq::u` for ISA.
    pub struct DomctlBindPtIrqIsa[1] = "struct xen_domctl_bind_pt_irq.u.isa" {
        /// The guest's interrupt.
        pub isa_irq: u8,
    }

    /// `DomctlBindPtIrq::u` for PCI.
    pub struct DomctlBindPtIrqPci[3] = "struct xen_domctl_bind_pt_irq.u.pci" {
        /// Bus.
        pub bus: u8,
        /// Device.
        pub device: u8,
        /// Pin.
        pub intx: u8,
    }

    /// `DomctlBindPtIrq::u` for MSI.
    pub struct DomctlBindPtIrqMsi[16] = "struct xen_domctl_bind_pt_irq.u.msi" {
        /// The guest's vector.
        pub gvec: u8,
        /// Zero.
        pub _pad0: [u8; 3],
        /// `XEN_DOMCTL_VMSI_X86_*`.
        pub gflags: u32,
        /// Guest-physical address of the MSI-X table.
        pub gtable: u64,
    }

    /// `DomctlBindPtIrq::u` for Arm's shared interrupts.
    pub struct DomctlBindPtIrqSpi[2] = "struct xen_domctl_bind_pt_irq.u.spi" {
        /// The guest's interrupt.
        pub spi: u16,
    }

    /// `XEN_DOMCTL_MEMORY_MAPPING`.
    pub struct DomctlMemoryMapping[32] = "struct xen_domctl_memory_mapping" {
        /// First guest-physical frame.
        pub first_gfn: Pfn,
        /// First machine frame.
        pub first_mfn: Mfn,
        /// Number of frames.
        pub nr_mfns: u64,
        /// `DPCI_*`.
        pub add_mapping: u32,
        /// Zero.
        pub padding: u32,
    }

    /// `XEN_DOMCTL_IOPORT_MAPPING`.
    pub struct DomctlIoportMapping[16] = "struct xen_domctl_ioport_mapping" {
        /// First port of the guest.
        pub first_gport: u32,
        /// First port of the machine.
        pub first_mport: u32,
        /// Number of ports.
        pub nr_ports: u32,
        /// `DPCI_*`.
        pub add_mapping: u32,
    }

    /// A vCPU's virtual machine checks.
    pub struct HvmVmceVcpu[32] = "struct hvm_vmce_vcpu" {
        /// MCG_CAP.
        pub caps: u64,
        /// MC0_CTL2.
        pub mci_ctl2_bank0: u64,
        /// MC1_CTL2.
        pub mci_ctl2_bank1: u64,
        /// MCG_EXT_CTL.
        pub mcg_ext_ctl: u64,
    }

    /// `XEN_DOMCTL_SET_EXT_VCPUCONTEXT` and `XEN_DOMCTL_GET_EXT_VCPUCONTEXT`.
    pub struct DomctlExtVcpucontext[64] = "struct xen_domctl_ext_vcpucontext" {
        /// In: the vCPU.
        pub vcpu: u32,
        /// In: size of this struct that is given; out: that is filled in.
        pub size: u32,
        /// Entry for the instruction `syscall` in 32-bit mode.
        pub syscall32_callback_eip: u64,
        /// Entry for the instruction `sysenter`.
        pub sysenter_callback_eip: u64,
        /// Its code selector.
        pub syscall32_callback_cs: u16,
        /// Its code selector.
        pub sysenter_callback_cs: u16,
        /// Not 0 if it masks events.
        pub syscall32_disables_events: u8,
        /// Not 0 if it masks events.
        pub sysenter_disables_events: u8,
        /// Zero.
        pub _pad0: u16,
        /// Virtual machine checks.
        pub vmce: HvmVmceVcpu,
    }

    /// `XEN_DOMCTL_SET_TARGET`.
    pub struct DomctlSetTarget[2] = "struct xen_domctl_set_target" {
        /// The other domain.
        pub target: Domid,
    }

    /// `XEN_DOMCTL_GET_CPU_POLICY` and `XEN_DOMCTL_SET_CPU_POLICY`.
    pub struct DomctlCpuPolicy[40] = "struct xen_domctl_cpu_policy" {
        /// Number of leaves; out: how many were written.
        pub nr_leaves: u32,
        /// Number of MSRs; out: how many were written.
        pub nr_msrs: u32,
        /// The leaves.
        pub leaves: GuestHandle<CpuidLeaf>,
        /// The MSRs.
        pub msrs: GuestHandle<MsrEntry>,
        /// Out: leaf that is refused, or all ones.
        pub err_leaf: u32,
        /// Out: its subleaf, or all ones.
        pub err_subleaf: u32,
        /// Out: MSR that is refused, or all ones.
        pub err_msr: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XEN_DOMCTL_SUBSCRIBE`.
    pub struct DomctlSubscribe[4] = "struct xen_domctl_subscribe" {
        /// The port.
        pub port: Port,
    }

    /// `XEN_DOMCTL_DEBUG_OP`.
    pub struct DomctlDebugOp[8] = "struct xen_domctl_debug_op" {
        /// `XEN_DOMCTL_DEBUG_OP_*`.
        pub op: u32,
        /// The vCPU.
        pub vcpu: u32,
    }

    /// `XEN_DOMCTL_GETHVMCONTEXT_PARTIAL`.
    pub struct DomctlHvmcontextPartial[24] = "struct xen_domctl_hvmcontext_partial" {
        /// In: type of the record.
        pub type_: u32,
        /// In: which of that type.
        pub instance: u32,
        /// In: size of the buffer in bytes; out: how many were written.
        pub bufsz: u64,
        /// Out: the record.
        pub buffer: GuestHandle<u8>,
    }

    /// `XEN_DOMCTL_GETTSCINFO` and `XEN_DOMCTL_SETTSCINFO`.
    pub struct DomctlTscInfo[24] = "struct xen_domctl_tsc_info" {
        /// 0 for default, 1 for always emulated, 2 for never.
        pub tsc_mode: u32,
        /// Frequency in kHz.
        pub gtsc_khz: u32,
        /// Counts saves and restores.
        pub incarnation: u32,
        /// Zero.
        pub pad: u32,
        /// Nanoseconds that the domain exists.
        pub elapsed_nsec: u64,
    }

    /// `XEN_DOMCTL_GDBSX_GUESTMEMIO`.
    pub struct DomctlGdbsxMemio[40] = "struct xen_domctl_gdbsx_memio" {
        /// In: a root table's entry, or 0.
        pub pgd3val: u64,
        /// In: the guest's address.
        pub gva: u64,
        /// In: the caller's address.
        pub uva: u64,
        /// In: number of bytes.
        pub len: u32,
        /// In: 0 to read the guest's memory, 1 to write it.
        pub gwr: u8,
        /// Zero.
        pub _pad0: [u8; 3],
        /// Out: bytes that were not copied.
        pub remain: u32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `XEN_DOMCTL_GDBSX_PAUSEVCPU` and `XEN_DOMCTL_GDBSX_UNPAUSEVCPU`.
    pub struct DomctlGdbsxPauseunpVcpu[4] = "struct xen_domctl_gdbsx_pauseunp_vcpu" {
        /// The vCPU.
        pub vcpu: u32,
    }

    /// `XEN_DOMCTL_GDBSX_DOMSTATUS`, all out.
    pub struct DomctlGdbsxDomstatus[12] = "struct xen_domctl_gdbsx_domstatus" {
        /// Not 0 if it is paused.
        pub paused: u8,
        /// Zero.
        pub _pad0: [u8; 3],
        /// A vCPU with an event, or all ones.
        pub vcpu_id: u32,
        /// The event.
        pub vcpu_ev: u32,
    }

    /// `XEN_DOMCTL_VM_EVENT_OP`.
    pub struct DomctlVmEventOp[12] = "struct xen_domctl_vm_event_op" {
        /// In: `XEN_VM_EVENT_*`.
        pub op: u32,
        /// In: `XEN_DOMCTL_VM_EVENT_OP_*`.
        pub mode: u32,
        /// Out: the ring's port, or the version.
        pub u: u32,
    }

    /// `XEN_DOMCTL_MEM_SHARING_OP`.
    pub struct DomctlMemSharingOp[2] = "struct xen_domctl_mem_sharing_op" {
        /// `XEN_DOMCTL_MEM_SHARING_CONTROL`.
        pub op: u8,
        /// Not 0 for on.
        pub u: u8,
    }

    /// `XEN_DOMCTL_AUDIT_P2M`, all out.
    pub struct DomctlAuditP2m[24] = "struct xen_domctl_audit_p2m" {
        /// Frames that nothing names.
        pub orphans: u64,
        /// Wrong entries of the machine-to-phys table.
        pub m2p_bad: u64,
        /// Wrong entries of the phys-to-machine table.
        pub p2m_bad: u64,
    }

    /// `XEN_DOMCTL_SET_VIRQ_HANDLER`.
    pub struct DomctlSetVirqHandler[4] = "struct xen_domctl_set_virq_handler" {
        /// `VIRQ_*`.
        pub virq: u32,
    }

    /// `XEN_DOMCTL_SETVCPUEXTSTATE` and `XEN_DOMCTL_GETVCPUEXTSTATE`.
    pub struct DomctlVcpuextstate[32] = "struct xen_domctl_vcpuextstate" {
        /// In: the vCPU.
        pub vcpu: u32,
        /// Zero.
        pub _pad0: u32,
        /// Bits of XCR0 that it used.
        pub xfeature_mask: u64,
        /// Size of the buffer in bytes.
        pub size: u64,
        /// The state.
        pub buffer: GuestHandle<u64>,
    }

    /// `XEN_DOMCTL_SET_ACCESS_REQUIRED`.
    pub struct DomctlSetAccessRequired[1] = "struct xen_domctl_set_access_required" {
        /// Not 0 for yes.
        pub access_required: u8,
    }

    /// `XEN_DOMCTL_SET_BROKEN_PAGE_P2M`.
    pub struct DomctlSetBrokenPageP2m[8] = "struct xen_domctl_set_broken_page_p2m" {
        /// The frame.
        pub pfn: Pfn,
    }

    /// `XEN_DOMCTL_CACHEFLUSH`.
    pub struct DomctlCacheflush[16] = "struct xen_domctl_cacheflush" {
        /// First frame.
        pub start_pfn: Pfn,
        /// Number of frames; both change as the call goes on.
        pub nr_pfns: u64,
    }

    /// `XEN_DOMCTL_GET_PAGING_MEMPOOL_SIZE` and `XEN_DOMCTL_SET_PAGING_MEMPOOL_SIZE`.
    pub struct DomctlPagingMempool[8] = "struct xen_domctl_paging_mempool" {
        /// In bytes.
        pub size: u64,
    }

    /// An MSR of a vCPU.
    pub struct DomctlVcpuMsr[16] = "struct xen_domctl_vcpu_msr" {
        /// Index.
        pub index: u32,
        /// Zero.
        pub reserved: u32,
        /// Value.
        pub value: u64,
    }

    /// `XEN_DOMCTL_GET_VCPU_MSRS` and `XEN_DOMCTL_SET_VCPU_MSRS`.
    pub struct DomctlVcpuMsrs[16] = "struct xen_domctl_vcpu_msrs" {
        /// In: the vCPU.
        pub vcpu: u32,
        /// In: number of MSRs; out: how many there are, or were done.
        pub msr_count: u32,
        /// The MSRs.
        pub msrs: GuestHandle<DomctlVcpuMsr>,
    }

    /// `XEN_DOMCTL_SETVNUMAINFO`.
    pub struct DomctlVnuma[48] = "struct xen_domctl_vnuma" {
        /// Number of nodes, at least 1.
        pub nr_vnodes: u32,
        /// Number of ranges of memory.
        pub nr_vmemranges: u32,
        /// Number of vCPUs.
        pub nr_vcpus: u32,
        /// Zero.
        pub pad: u32,
        /// Distances between nodes.
        pub vdistance: GuestHandle<u32>,
        /// The node of each vCPU.
        pub vcpu_to_vnode: GuestHandle<u32>,
        /// The machine's node for each node.
        pub vnode_to_pnode: GuestHandle<u32>,
        /// The ranges.
        pub vmemrange: GuestHandle<Vmemrange>,
    }

    /// `XEN_DOMCTL_PSR_CMT_OP`.
    pub struct DomctlPsrCmtOp[8] = "struct xen_domctl_psr_cmt_op" {
        /// `XEN_DOMCTL_PSR_CMT_OP_*`.
        pub cmd: u32,
        /// Out: the identifier.
        pub data: u32,
    }

    /// `XEN_DOMCTL_MONITOR_OP`.
    pub struct DomctlMonitorOp[24] = "struct xen_domctl_monitor_op" {
        /// `XEN_DOMCTL_MONITOR_OP_*`.
        pub op: u32,
        /// `XEN_DOMCTL_MONITOR_EVENT_*`; out: the events there are.
        pub event: u32,
        /// A struct for some events.
        pub u: Union<u64, 2>,
    }

    /// `DomctlMonitorOp::u` for control registers.
    pub struct DomctlMonitorOpMovToCr[16] = "struct xen_domctl_monitor_op.u.mov_to_cr" {
        /// Which one.
        pub index: u8,
        /// Not 0 to stop the vCPU until the answer.
        pub sync: u8,
        /// Not 0 for changes only.
        pub onchangeonly: u8,
        /// Zero.
        pub pad1: u8,
        /// Zero.
        pub pad2: u32,
        /// Bits whose change is no event.
        pub bitmask: u64,
    }

    /// `DomctlMonitorOp::u` for MSRs.
    pub struct DomctlMonitorOpMovToMsr[8] = "struct xen_domctl_monitor_op.u.mov_to_msr" {
        /// Which one.
        pub msr: u32,
        /// Not 0 for changes only.
        pub onchangeonly: u8,
        /// Zero.
        pub _pad0: [u8; 3],
    }

    /// `DomctlMonitorOp::u` for the guest's requests.
    pub struct DomctlMonitorOpGuestRequest[2] = "struct xen_domctl_monitor_op.u.guest_request" {
        /// Not 0 to stop the vCPU until the answer.
        pub sync: u8,
        /// Not 0 if user mode may make requests.
        pub allow_userspace: u8,
    }

    /// `DomctlMonitorOp::u` for debug exceptions.
    pub struct DomctlMonitorOpDebugException[1] = "struct xen_domctl_monitor_op.u.debug_exception" {
        /// Not 0 to stop the vCPU until the answer.
        pub sync: u8,
    }

    /// `DomctlMonitorOp::u` for exits.
    pub struct DomctlMonitorOpVmexit[1] = "struct xen_domctl_monitor_op.u.vmexit" {
        /// Not 0 to leave the exit to the listener.
        pub sync: u8,
    }

    /// `XEN_DOMCTL_PSR_ALLOC`.
    pub struct DomctlPsrAlloc[16] = "struct xen_domctl_psr_alloc" {
        /// In: `XEN_DOMCTL_PSR_*`.
        pub cmd: u32,
        /// In: the socket.
        pub target: u32,
        /// In or out: the part.
        pub data: u64,
    }

    /// `XEN_DOMCTL_VUART_OP`.
    pub struct DomctlVuartOp[24] = "struct xen_domctl_vuart_op" {
        /// In: `XEN_DOMCTL_VUART_OP_INIT`.
        pub cmd: u32,
        /// In: `XEN_DOMCTL_VUART_TYPE_VPL011`.
        pub type_: u32,
        /// In: frame of the ring.
        pub gfn: u64,
        /// In: the console's domain.
        pub console_domid: Domid,
        /// Zero.
        pub pad: [u8; 2],
        /// Out: its port.
        pub evtchn: Port,
    }

    /// `XEN_DOMCTL_VMTRACE_OP`.
    pub struct DomctlVmtraceOp[24] = "struct xen_domctl_vmtrace_op" {
        /// In: `XEN_DOMCTL_VMTRACE_*`.
        pub cmd: u32,
        /// In: the vCPU.
        pub vcpu: u32,
        /// In: an option's number.
        pub key: u64,
        /// In or out: its value, or the position.
        pub value: u64,
    }
}

impl Domctl {
    /// An operation on `domain` without a struct.
    pub fn new(cmd: u32, domain: Domid) -> Self {
        Self {
            cmd,
            interface_version: XEN_DOMCTL_INTERFACE_VERSION,
            domain,
            ..Default::default()
        }
    }

    /// An operation on `domain` with its struct.
    pub fn with<A: zerocopy::IntoBytes + zerocopy::Immutable>(
        cmd: u32,
        domain: Domid,
        arm: &A,
    ) -> Self {
        Self {
            u: Union::new(arm),
            ..Self::new(cmd, domain)
        }
    }
}

impl DomctlGetdomaininfo {
    /// The reason of the shutdown, `SHUTDOWN_*`, which means something with `XEN_DOMINF_SHUTDOWN`
    /// only.
    pub const fn shutdown_reason(&self) -> u32 {
        self.flags >> XEN_DOMINF_SHUTDOWNSHIFT & XEN_DOMINF_SHUTDOWNMASK
    }
}
