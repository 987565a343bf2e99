//! Operations on the whole system, by the toolstack (`xen/sysctl.h`).
//!
//! The operations and their structs change with [`XEN_SYSCTL_INTERFACE_VERSION`]; this is the
//! version of Xen 4.17.

use crate::arch_x86::{CpuidLeaf, MsrEntry};
use crate::domctl::DomctlGetdomaininfo;
use crate::layout::{constants, structs};
use crate::physdev::PhysdevPciDevice;
use crate::types::{Domid, GuestHandle, Union};
use crate::xen::{DomainHandle, XenctlBitmap};

constants! {
    /// `Sysctl::interface_version`; another is answered with EACCES.
    pub const XEN_SYSCTL_INTERFACE_VERSION: u32 = 0x15;

    /// `SysctlTbufOp::cmd`: get size and frame.
    pub const XEN_SYSCTL_TBUFOP_GET_INFO: u32 = 0;
    /// `SysctlTbufOp::cmd`: set the CPUs that trace.
    pub const XEN_SYSCTL_TBUFOP_SET_CPU_MASK: u32 = 1;
    /// `SysctlTbufOp::cmd`: set the events that are traced.
    pub const XEN_SYSCTL_TBUFOP_SET_EVT_MASK: u32 = 2;
    /// `SysctlTbufOp::cmd`: set the size.
    pub const XEN_SYSCTL_TBUFOP_SET_SIZE: u32 = 3;
    /// `SysctlTbufOp::cmd`: on.
    pub const XEN_SYSCTL_TBUFOP_ENABLE: u32 = 4;
    /// `SysctlTbufOp::cmd`: off.
    pub const XEN_SYSCTL_TBUFOP_DISABLE: u32 = 5;

    /// `SysctlPhysinfo::capabilities`: hardware-virtualized guests.
    pub const XEN_SYSCTL_PHYSCAP_HVM: u32 = 1 << 0;
    /// `SysctlPhysinfo::capabilities`: PV guests.
    pub const XEN_SYSCTL_PHYSCAP_PV: u32 = 1 << 1;
    /// `SysctlPhysinfo::capabilities`: devices given to guests, behind an IOMMU.
    pub const XEN_SYSCTL_PHYSCAP_DIRECTIO: u32 = 1 << 2;
    /// `SysctlPhysinfo::capabilities`: hardware-assisted paging.
    pub const XEN_SYSCTL_PHYSCAP_HAP: u32 = 1 << 3;
    /// `SysctlPhysinfo::capabilities`: shadow tables.
    pub const XEN_SYSCTL_PHYSCAP_SHADOW: u32 = 1 << 4;
    /// `SysctlPhysinfo::capabilities`: page tables shared with the IOMMU.
    pub const XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE: u32 = 1 << 5;
    /// `SysctlPhysinfo::capabilities`: traces of vCPUs.
    pub const XEN_SYSCTL_PHYSCAP_VMTRACE: u32 = 1 << 6;
    /// `SysctlPhysinfo::capabilities`: performance counters.
    pub const XEN_SYSCTL_PHYSCAP_VPMU: u32 = 1 << 7;
    /// `SysctlPhysinfo::capabilities`: grant tables of version 1.
    pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V1: u32 = 1 << 8;
    /// `SysctlPhysinfo::capabilities`: grant tables of version 2.
    pub const XEN_SYSCTL_PHYSCAP_GNTTAB_V2: u32 = 1 << 9;
    /// The highest of these capabilities.
    pub const XEN_SYSCTL_PHYSCAP_MAX: u32 = XEN_SYSCTL_PHYSCAP_GNTTAB_V2;

    /// `SysctlPerfcOp::cmd`: reset the counters.
    pub const XEN_SYSCTL_PERFCOP_RESET: u32 = 1;
    /// `SysctlPerfcOp::cmd`: get the counters.
    pub const XEN_SYSCTL_PERFCOP_QUERY: u32 = 2;

    /// `SysctlGetPmstat::type_`: the bits of the kind of state.
    pub const PMSTAT_CATEGORY_MASK: u32 = 0xf0;
    /// `SysctlGetPmstat::type_`: performance states.
    pub const PMSTAT_PX: u32 = 0x10;
    /// `SysctlGetPmstat::type_`: idle states.
    pub const PMSTAT_CX: u32 = 0x20;
    /// `SysctlGetPmstat::type_`: number of performance states.
    pub const PMSTAT_GET_MAX_PX: u32 = PMSTAT_PX | 1;
    /// `SysctlGetPmstat::type_`: use of performance states.
    pub const PMSTAT_GET_PXSTAT: u32 = PMSTAT_PX | 2;
    /// `SysctlGetPmstat::type_`: count from 0.
    pub const PMSTAT_RESET_PXSTAT: u32 = PMSTAT_PX | 3;
    /// `SysctlGetPmstat::type_`: number of idle states.
    pub const PMSTAT_GET_MAX_CX: u32 = PMSTAT_CX | 1;
    /// `SysctlGetPmstat::type_`: use of idle states.
    pub const PMSTAT_GET_CXSTAT: u32 = PMSTAT_CX | 2;
    /// `SysctlGetPmstat::type_`: count from 0.
    pub const PMSTAT_RESET_CXSTAT: u32 = PMSTAT_CX | 3;

    /// `SysctlCpuHotplug::op`: bring the CPU up.
    pub const XEN_SYSCTL_CPU_HOTPLUG_ONLINE: u32 = 0;
    /// `SysctlCpuHotplug::op`: take the CPU down.
    pub const XEN_SYSCTL_CPU_HOTPLUG_OFFLINE: u32 = 1;
    /// `SysctlCpuHotplug::op`: bring sibling threads up.
    pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_ENABLE: u32 = 2;
    /// `SysctlCpuHotplug::op`: take sibling threads down.
    pub const XEN_SYSCTL_CPU_HOTPLUG_SMT_DISABLE: u32 = 3;

    /// Length of the name of a frequency driver or governor, in bytes.
    pub const CPUFREQ_NAME_LEN: usize = 16;
    /// `SetCpufreqPara::ctrl_type`: highest frequency.
    pub const SCALING_MAX_FREQ: u32 = 1;
    /// `SetCpufreqPara::ctrl_type`: lowest frequency.
    pub const SCALING_MIN_FREQ: u32 = 2;
    /// `SetCpufreqPara::ctrl_type`: frequency.
    pub const SCALING_SETSPEED: u32 = 3;
    /// `SetCpufreqPara::ctrl_type`: rate of samples.
    pub const SAMPLING_RATE: u32 = 4;
    /// `SetCpufreqPara::ctrl_type`: threshold to go up.
    pub const UP_THRESHOLD: u32 = 5;
    /// `SysctlPmOp::cmd`: the bits of the kind.
    pub const PM_PARA_CATEGORY_MASK: u32 = 0xf0;
    /// `SysctlPmOp::cmd`: frequencies.
    pub const CPUFREQ_PARA: u32 = 0x10;
    /// `SysctlPmOp::cmd`: get a CPU's frequencies.
    pub const GET_CPUFREQ_PARA: u32 = CPUFREQ_PARA | 1;
    /// `SysctlPmOp::cmd`: set the governor.
    pub const SET_CPUFREQ_GOV: u32 = CPUFREQ_PARA | 2;
    /// `SysctlPmOp::cmd`: set a parameter.
    pub const SET_CPUFREQ_PARA: u32 = CPUFREQ_PARA | 3;
    /// `SysctlPmOp::cmd`: get the average frequency.
    pub const GET_CPUFREQ_AVGFREQ: u32 = CPUFREQ_PARA | 4;
    /// `SysctlPmOp::cmd`: schedule for power between sibling threads.
    pub const XEN_SYSCTL_PM_OP_SET_SCHED_OPT_SMT: u32 = 0x21;
    /// `SysctlPmOp::cmd`: get the deepest idle state.
    pub const XEN_SYSCTL_PM_OP_GET_MAX_CSTATE: u32 = 0x22;
    /// `SysctlPmOp::cmd`: set the deepest idle state.
    pub const XEN_SYSCTL_PM_OP_SET_MAX_CSTATE: u32 = 0x23;
    /// `SysctlPmOp::cmd`: set the delay before a vCPU moves.
    pub const XEN_SYSCTL_PM_OP_SET_VCPU_MIGRATION_DELAY: u32 = 0x24;
    /// `SysctlPmOp::cmd`: get the delay before a vCPU moves.
    pub const XEN_SYSCTL_PM_OP_GET_VCPU_MIGRATION_DELAY: u32 = 0x25;
    /// `SysctlPmOp::cmd`: turbo on.
    pub const XEN_SYSCTL_PM_OP_ENABLE_TURBO: u32 = 0x26;
    /// `SysctlPmOp::cmd`: turbo off.
    pub const XEN_SYSCTL_PM_OP_DISABLE_TURBO: u32 = 0x27;
    /// `SysctlPmOp::u`: any idle state.
    pub const XEN_SYSCTL_CX_UNLIMITED: u32 = 0xffff_ffff;

    /// `SysctlPageOfflineOp::cmd`: take out of use.
    pub const SYSCTL_PAGE_OFFLINE: u32 = 1;
    /// `SysctlPageOfflineOp::cmd`: take into use.
    pub const SYSCTL_PAGE_ONLINE: u32 = 2;
    /// `SysctlPageOfflineOp::cmd`: get the state.
    pub const SYSCTL_QUERY_PAGE_OFFLINE: u32 = 3;
    /// State of a page: the bits of the result.
    pub const PG_OFFLINE_STATUS_MASK: u32 = 0xff;
    /// Result: no such page.
    pub const PG_OFFLINE_INVALID: u32 = 1 << 0;
    /// Result: out of use.
    pub const PG_OFFLINE_OFFLINED: u32 = 1 << 1;
    /// Result: out of use once it is freed.
    pub const PG_OFFLINE_PENDING: u32 = 1 << 2;
    /// Result: failed.
    pub const PG_OFFLINE_FAILED: u32 = 1 << 3;
    /// Result: try again.
    pub const PG_OFFLINE_AGAIN: u32 = 1 << 4;
    /// Result: failed.
    pub const PG_ONLINE_FAILED: u32 = PG_OFFLINE_FAILED;
    /// Result: in use.
    pub const PG_ONLINE_ONLINED: u32 = PG_OFFLINE_OFFLINED;
    /// State: out of use.
    pub const PG_OFFLINE_STATUS_OFFLINED: u32 = 1 << 1;
    /// State: in use.
    pub const PG_OFFLINE_STATUS_ONLINE: u32 = 1 << 2;
    /// State: out of use once it is freed.
    pub const PG_OFFLINE_STATUS_OFFLINE_PENDING: u32 = 1 << 3;
    /// State: broken.
    pub const PG_OFFLINE_STATUS_BROKEN: u32 = 1 << 4;
    /// State of a page: the bits of the owner.
    pub const PG_OFFLINE_MISC_MASK: u32 = 0xff << 4;
    /// The hypervisor's.
    pub const PG_OFFLINE_XENPAGE: u32 = 1 << 8;
    /// Dom0's.
    pub const PG_OFFLINE_DOM0PAGE: u32 = 1 << 9;
    /// Nobody's.
    pub const PG_OFFLINE_ANONYMOUS: u32 = 1 << 10;
    /// No RAM.
    pub const PG_OFFLINE_NOT_CONV_RAM: u32 = 1 << 11;
    /// A domain's, whose number is above `PG_OFFLINE_OWNER_SHIFT`.
    pub const PG_OFFLINE_OWNED: u32 = 1 << 12;
    /// Broken.
    pub const PG_OFFLINE_BROKEN: u32 = 1 << 13;
    /// Broken.
    pub const PG_ONLINE_BROKEN: u32 = PG_OFFLINE_BROKEN;
    /// Where the owner is.
    pub const PG_OFFLINE_OWNER_SHIFT: u32 = 16;

    /// `SysctlLockprofOp::cmd`: count from 0.
    pub const XEN_SYSCTL_LOCKPROF_RESET: u32 = 1;
    /// `SysctlLockprofOp::cmd`: get the counts.
    pub const XEN_SYSCTL_LOCKPROF_QUERY: u32 = 2;
    /// `SysctlLockprofData::type_`: a lock of the hypervisor.
    pub const LOCKPROF_TYPE_GLOBAL: i32 = 0;
    /// `SysctlLockprofData::type_`: a lock of a domain.
    pub const LOCKPROF_TYPE_PERDOM: i32 = 1;
    /// Number of types of lock.
    pub const LOCKPROF_TYPE_N: i32 = 2;

    /// No such core.
    pub const XEN_INVALID_CORE_ID: u32 = !0;
    /// No such socket.
    pub const XEN_INVALID_SOCKET_ID: u32 = !0;
    /// No such node.
    pub const XEN_INVALID_NODE_ID: u32 = !0;
    /// No memory there.
    pub const XEN_INVALID_MEM_SZ: u32 = !0;
    /// No distance known.
    pub const XEN_INVALID_NODE_DIST: u32 = !0;
    /// No such device.
    pub const XEN_INVALID_DEV: u32 = XEN_INVALID_NODE_ID - 1;

    /// `SysctlCpupoolOp::op`: create.
    pub const XEN_SYSCTL_CPUPOOL_OP_CREATE: u32 = 1;
    /// `SysctlCpupoolOp::op`: destroy.
    pub const XEN_SYSCTL_CPUPOOL_OP_DESTROY: u32 = 2;
    /// `SysctlCpupoolOp::op`: state of it, or of the next one.
    pub const XEN_SYSCTL_CPUPOOL_OP_INFO: u32 = 3;
    /// `SysctlCpupoolOp::op`: add a CPU.
    pub const XEN_SYSCTL_CPUPOOL_OP_ADDCPU: u32 = 4;
    /// `SysctlCpupoolOp::op`: remove a CPU.
    pub const XEN_SYSCTL_CPUPOOL_OP_RMCPU: u32 = 5;
    /// `SysctlCpupoolOp::op`: move a domain to it.
    pub const XEN_SYSCTL_CPUPOOL_OP_MOVEDOMAIN: u32 = 6;
    /// `SysctlCpupoolOp::op`: CPUs that are in no pool.
    pub const XEN_SYSCTL_CPUPOOL_OP_FREEINFO: u32 = 7;
    /// Any pool, or any CPU.
    pub const XEN_SYSCTL_CPUPOOL_PAR_ANY: u32 = 0xffff_ffff;

    /// Number of entries of an ARINC 653 schedule.
    pub const ARINC653_MAX_DOMAINS_PER_SCHEDULE: usize = 64;
    /// Longest time that a vCPU runs at least, in microseconds.
    pub const XEN_SYSCTL_SCHED_RATELIMIT_MAX: u32 = 500_000;
    /// Shortest time that a vCPU runs at least, in microseconds, other than 0.
    pub const XEN_SYSCTL_SCHED_RATELIMIT_MIN: u32 = 100;
    /// Longest slice in milliseconds.
    pub const XEN_SYSCTL_CSCHED_TSLICE_MAX: u32 = 1000;
    /// Shortest slice in milliseconds.
    pub const XEN_SYSCTL_CSCHED_TSLICE_MIN: u32 = 1;
    /// Longest delay before a vCPU moves, in microseconds.
    pub const XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US: u32 = 100_000;
    /// `SysctlSchedulerOp::cmd`: set.
    pub const XEN_SYSCTL_SCHEDOP_PUTINFO: u32 = 0;
    /// `SysctlSchedulerOp::cmd`: get.
    pub const XEN_SYSCTL_SCHEDOP_GETINFO: u32 = 1;

    /// First word of coverage data, "XCOV".
    pub const XEN_GCOV_FORMAT_MAGIC: u32 = 0x5843_4f56;
    /// `SysctlCoverageOp::cmd`: get the size.
    pub const XEN_SYSCTL_COVERAGE_GET_SIZE: u32 = 0;
    /// `SysctlCoverageOp::cmd`: get the data.
    pub const XEN_SYSCTL_COVERAGE_READ: u32 = 1;
    /// `SysctlCoverageOp::cmd`: count from 0.
    pub const XEN_SYSCTL_COVERAGE_RESET: u32 = 2;

    /// `SysctlPsrCmtOp::cmd`: number of identifiers.
    pub const XEN_SYSCTL_PSR_CMT_GET_TOTAL_RMID: u32 = 0;
    /// `SysctlPsrCmtOp::cmd`: bytes per count.
    pub const XEN_SYSCTL_PSR_CMT_GET_L3_UPSCALING_FACTOR: u32 = 1;
    /// `SysctlPsrCmtOp::cmd`: size of the cache in KiB.
    pub const XEN_SYSCTL_PSR_CMT_GET_L3_CACHE_SIZE: u32 = 2;
    /// `SysctlPsrCmtOp::cmd`: whether it is on.
    pub const XEN_SYSCTL_PSR_CMT_ENABLED: u32 = 3;
    /// `SysctlPsrCmtOp::cmd`: events there are.
    pub const XEN_SYSCTL_PSR_CMT_GET_L3_EVENT_MASK: u32 = 4;
    /// `SysctlPsrAlloc::cmd`: the third-level cache.
    pub const XEN_SYSCTL_PSR_GET_L3_INFO: u32 = 0;
    /// `SysctlPsrAlloc::cmd`: the second-level cache.
    pub const XEN_SYSCTL_PSR_GET_L2_INFO: u32 = 1;
    /// `SysctlPsrAlloc::cmd`: memory bandwidth.
    pub const XEN_SYSCTL_PSR_GET_MBA_INFO: u32 = 2;
    /// `SysctlPsrAllocCatInfo::flags`: parts for code and data.
    pub const XEN_SYSCTL_PSR_CAT_L3_CDP: u32 = 1 << 0;
    /// `SysctlPsrAllocMbaInfo::flags`: throttling is linear.
    pub const XEN_SYSCTL_PSR_MBA_LINEAR: u32 = 1 << 0;

    /// `SysctlCpuLevellingCaps::caps`: CPUID faults.
    pub const XEN_SYSCTL_CPU_LEVELCAP_FAULTING: u32 = 1 << 0;
    /// `SysctlCpuLevellingCaps::caps`: leaf 1, `ecx`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_ECX: u32 = 1 << 1;
    /// `SysctlCpuLevellingCaps::caps`: leaf 1, `edx`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_EDX: u32 = 1 << 2;
    /// `SysctlCpuLevellingCaps::caps`: leaf 0x80000001, `ecx`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_EXTD_ECX: u32 = 1 << 3;
    /// `SysctlCpuLevellingCaps::caps`: leaf 0x80000001, `edx`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_EXTD_EDX: u32 = 1 << 4;
    /// `SysctlCpuLevellingCaps::caps`: leaf 13, subleaf 1, `eax`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_XSAVE_EAX: u32 = 1 << 5;
    /// `SysctlCpuLevellingCaps::caps`: leaf 6, `ecx`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_THERMAL_ECX: u32 = 1 << 6;
    /// `SysctlCpuLevellingCaps::caps`: leaf 7, `eax`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_L7S0_EAX: u32 = 1 << 7;
    /// `SysctlCpuLevellingCaps::caps`: leaf 7, `ebx`.
    pub const XEN_SYSCTL_CPU_LEVELCAP_L7S0_EBX: u32 = 1 << 8;
    /// `SysctlCpuFeatureset::index`: the CPU's.
    pub const XEN_SYSCTL_CPU_FEATURESET_RAW: u32 = 0;
    /// `SysctlCpuFeatureset::index`: the hypervisor's.
    pub const XEN_SYSCTL_CPU_FEATURESET_HOST: u32 = 1;
    /// `SysctlCpuFeatureset::index`: what PV guests get.
    pub const XEN_SYSCTL_CPU_FEATURESET_PV: u32 = 2;
    /// `SysctlCpuFeatureset::index`: what hardware-virtualized guests get.
    pub const XEN_SYSCTL_CPU_FEATURESET_HVM: u32 = 3;
    /// `SysctlCpuFeatureset::index`: what PV guests can get.
    pub const XEN_SYSCTL_CPU_FEATURESET_PV_MAX: u32 = 4;
    /// `SysctlCpuFeatureset::index`: what hardware-virtualized guests can get.
    pub const XEN_SYSCTL_CPU_FEATURESET_HVM_MAX: u32 = 5;

    /// Version of the format of live patches.
    pub const LIVEPATCH_PAYLOAD_VERSION: u32 = 2;
    /// Longest name of a live patch in bytes, with its terminating zero.
    pub const XEN_LIVEPATCH_NAME_SIZE: usize = 128;
    /// `SysctlLivepatchOp::cmd`: `SysctlLivepatchUpload`.
    pub const XEN_SYSCTL_LIVEPATCH_UPLOAD: u32 = 0;
    /// `SysctlLivepatchOp::cmd`: `SysctlLivepatchGet`.
    pub const XEN_SYSCTL_LIVEPATCH_GET: u32 = 1;
    /// `SysctlLivepatchOp::cmd`: `SysctlLivepatchList`.
    pub const XEN_SYSCTL_LIVEPATCH_LIST: u32 = 2;
    /// `SysctlLivepatchOp::cmd`: `SysctlLivepatchAction`.
    pub const XEN_SYSCTL_LIVEPATCH_ACTION: u32 = 3;
    /// `LivepatchStatus::state`: not applied.
    pub const LIVEPATCH_STATE_CHECKED: u32 = 1;
    /// `LivepatchStatus::state`: applied.
    pub const LIVEPATCH_STATE_APPLIED: u32 = 2;
    /// `SysctlLivepatchAction::cmd`: unload.
    pub const LIVEPATCH_ACTION_UNLOAD: u32 = 1;
    /// `SysctlLivepatchAction::cmd`: revert.
    pub const LIVEPATCH_ACTION_REVERT: u32 = 2;
    /// `SysctlLivepatchAction::cmd`: apply.
    pub const LIVEPATCH_ACTION_APPLY: u32 = 3;
    /// `SysctlLivepatchAction::cmd`: revert all others and apply.
    pub const LIVEPATCH_ACTION_REPLACE: u32 = 4;
    /// `SysctlLivepatchAction::flags`: whatever it depends on.
    pub const LIVEPATCH_ACTION_APPLY_NODEPS: u32 = 1 << 0;

    /// `SysctlCpuPolicy::index`: the CPU's.
    pub const XEN_SYSCTL_CPU_POLICY_RAW: u32 = 0;
    /// `SysctlCpuPolicy::index`: the hypervisor's.
    pub const XEN_SYSCTL_CPU_POLICY_HOST: u32 = 1;
    /// `SysctlCpuPolicy::index`: what PV guests can get.
    pub const XEN_SYSCTL_CPU_POLICY_PV_MAX: u32 = 2;
    /// `SysctlCpuPolicy::index`: what hardware-virtualized guests can get.
    pub const XEN_SYSCTL_CPU_POLICY_HVM_MAX: u32 = 3;
    /// `SysctlCpuPolicy::index`: what PV guests get.
    pub const XEN_SYSCTL_CPU_POLICY_PV_DEFAULT: u32 = 4;
    /// `SysctlCpuPolicy::index`: what hardware-virtualized guests get.
    pub const XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT: u32 = 5;

    /// Read the console's log: `SysctlReadconsole`.
    pub const XEN_SYSCTL_READCONSOLE: u32 = 1;
    /// Trace buffers: `SysctlTbufOp`.
    pub const XEN_SYSCTL_TBUF_OP: u32 = 2;
    /// CPUs and memory: `SysctlPhysinfo`.
    pub const XEN_SYSCTL_PHYSINFO: u32 = 3;
    /// Which scheduler: `SysctlSchedId`.
    pub const XEN_SYSCTL_SCHED_ID: u32 = 4;
    /// Counters: `SysctlPerfcOp`.
    pub const XEN_SYSCTL_PERFC_OP: u32 = 5;
    /// State of the domains: `SysctlGetdomaininfolist`.
    pub const XEN_SYSCTL_GETDOMAININFOLIST: u32 = 6;
    /// Press debug keys: `SysctlDebugKeys`.
    pub const XEN_SYSCTL_DEBUG_KEYS: u32 = 7;
    /// Idle time of CPUs: `SysctlGetcpuinfo`.
    pub const XEN_SYSCTL_GETCPUINFO: u32 = 8;
    /// Free memory: `SysctlAvailheap`.
    pub const XEN_SYSCTL_AVAILHEAP: u32 = 9;
    /// Use of power states: `SysctlGetPmstat`.
    pub const XEN_SYSCTL_GET_PMSTAT: u32 = 10;
    /// CPUs up and down: `SysctlCpuHotplug`.
    pub const XEN_SYSCTL_CPU_HOTPLUG: u32 = 11;
    /// Power: `SysctlPmOp`.
    pub const XEN_SYSCTL_PM_OP: u32 = 12;
    /// Pages in and out of use: `SysctlPageOfflineOp`.
    pub const XEN_SYSCTL_PAGE_OFFLINE_OP: u32 = 14;
    /// Locks: `SysctlLockprofOp`.
    pub const XEN_SYSCTL_LOCKPROF_OP: u32 = 15;
    /// Cores, sockets and nodes of CPUs: `SysctlCputopoinfo`.
    pub const XEN_SYSCTL_CPUTOPOINFO: u32 = 16;
    /// Memory and distances of nodes: `SysctlNumainfo`.
    pub const XEN_SYSCTL_NUMAINFO: u32 = 17;
    /// CPU pools: `SysctlCpupoolOp`.
    pub const XEN_SYSCTL_CPUPOOL_OP: u32 = 18;
    /// Parameters of the scheduler: `SysctlSchedulerOp`.
    pub const XEN_SYSCTL_SCHEDULER_OP: u32 = 19;
    /// Coverage: `SysctlCoverageOp`.
    pub const XEN_SYSCTL_COVERAGE_OP: u32 = 20;
    /// Monitoring of caches: `SysctlPsrCmtOp`.
    pub const XEN_SYSCTL_PSR_CMT_OP: u32 = 21;
    /// Nodes of devices: `SysctlPcitopoinfo`.
    pub const XEN_SYSCTL_PCITOPOINFO: u32 = 22;
    /// Parts of caches: `SysctlPsrAlloc`.
    pub const XEN_SYSCTL_PSR_ALLOC: u32 = 23;
    /// CPUID leaves that can be changed: `SysctlCpuLevellingCaps`.
    pub const XEN_SYSCTL_GET_CPU_LEVELLING_CAPS: u32 = 25;
    /// Features of the CPU: `SysctlCpuFeatureset`.
    pub const XEN_SYSCTL_GET_CPU_FEATURESET: u32 = 26;
    /// Live patches: `SysctlLivepatchOp`.
    pub const XEN_SYSCTL_LIVEPATCH_OP: u32 = 27;
    /// CPUID leaves and MSRs: `SysctlCpuPolicy`.
    pub const XEN_SYSCTL_GET_CPU_POLICY: u32 = 29;
}

structs! {
    /// The argument of the hypercall.
    pub struct Sysctl[136] = "struct xen_sysctl" {
        /// `XEN_SYSCTL_*`.
        pub cmd: u32,
        /// `XEN_SYSCTL_INTERFACE_VERSION`.
        pub interface_version: u32,
        /// The operation's struct.
        pub u: Union<u64, 16>,
    }

    /// `XEN_SYSCTL_READCONSOLE`.
    pub struct SysctlReadconsole[24] = "struct xen_sysctl_readconsole" {
        /// In: not 0 to clear what was read.
        pub clear: u8,
        /// In: not 0 to begin at `index`.
        pub incremental: u8,
        /// Zero.
        pub pad0: u8,
        /// Zero.
        pub pad1: u8,
        /// In: where to begin; out: where the rest begins.
        pub index: u32,
        /// Out: the bytes.
        pub buffer: GuestHandle<u8>,
        /// In: size of the buffer; out: how many bytes were written.
        pub count: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XEN_SYSCTL_TBUF_OP`.
    pub struct SysctlTbufOp[48] = "struct xen_sysctl_tbuf_op" {
        /// In: `XEN_SYSCTL_TBUFOP_*`.
        pub cmd: u32,
        /// Zero.
        pub _pad0: u32,
        /// In: CPUs that trace.
        pub cpu_mask: XenctlBitmap,
        /// In or out: events that are traced.
        pub evt_mask: u32,
        /// Zero.
        pub _pad1: u32,
        /// Out: frame of the description of the buffers.
        pub buffer_mfn: u64,
        /// In: pages per CPU; out: size of the description in bytes.
        pub size: u32,
        /// Zero.
        pub _pad2: u32,
    }

    /// `XEN_SYSCTL_PHYSINFO`, all out.
    pub struct SysctlPhysinfo[112] = "struct xen_sysctl_physinfo" {
        /// Threads of a core.
        pub threads_per_core: u32,
        /// Cores of a socket.
        pub cores_per_socket: u32,
        /// CPUs that are up.
        pub nr_cpus: u32,
        /// Highest number of a CPU.
        pub max_cpu_id: u32,
        /// Nodes that are up.
        pub nr_nodes: u32,
        /// Highest number of a node.
        pub max_node_id: u32,
        /// Frequency of CPUs in kHz.
        pub cpu_khz: u32,
        /// `XEN_SYSCTL_PHYSCAP_*`.
        pub capabilities: u32,
        /// Capabilities of the architecture; x86 has none.
        pub arch_capabilities: u32,
        /// Zero.
        pub pad: u32,
        /// Pages of RAM.
        pub total_pages: u64,
        /// Pages that are free.
        pub free_pages: u64,
        /// Pages that are free but not yet scrubbed.
        pub scrub_pages: u64,
        /// Pages that are free but set aside.
        pub outstanding_pages: u64,
        /// Highest machine frame.
        pub max_mfn: u64,
        /// CPUID leaves 1 (`edx`, `ecx`), 0x80000001 (`edx`, `ecx`), 13 (`eax`), 7 (`ebx`) and so
        /// on.
        pub hw_cap: [u32; 8],
    }

    /// `XEN_SYSCTL_SCHED_ID`.
    pub struct SysctlSchedId[4] = "struct xen_sysctl_sched_id" {
        /// Out: `XEN_SCHEDULER_*`.
        pub sched_id: u32,
    }

    /// A counter.
    pub struct SysctlPerfcDesc[84] = "struct xen_sysctl_perfc_desc" {
        /// Its name, zero-terminated.
        pub name: [u8; 80],
        /// How many values it has.
        pub nr_vals: u32,
    }

    /// `XEN_SYSCTL_PERFC_OP`.
    pub struct SysctlPerfcOp[32] = "struct xen_sysctl_perfc_op" {
        /// In: `XEN_SYSCTL_PERFCOP_*`.
        pub cmd: u32,
        /// Out: number of counters.
        pub nr_counters: u32,
        /// Out: number of values.
        pub nr_vals: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: the counters, unless null.
        pub desc: GuestHandle<SysctlPerfcDesc>,
        /// Out: the values, unless null.
        pub val: GuestHandle<u32>,
    }

    /// `XEN_SYSCTL_GETDOMAININFOLIST`.
    pub struct SysctlGetdomaininfolist[24] = "struct xen_sysctl_getdomaininfolist" {
        /// In: lowest number of a domain.
        pub first_domain: Domid,
        /// Zero.
        pub _pad0: u16,
        /// In: room for domains.
        pub max_domains: u32,
        /// Out: their states.
        pub buffer: GuestHandle<DomctlGetdomaininfo>,
        /// Out: how many.
        pub num_domains: u32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `XEN_SYSCTL_DEBUG_KEYS`.
    pub struct SysctlDebugKeys[16] = "struct xen_sysctl_debug_keys" {
        /// The keys.
        pub keys: GuestHandle<u8>,
        /// How many.
        pub nr_keys: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// A CPU's idle time.
    pub struct SysctlCpuinfo[8] = "struct xen_sysctl_cpuinfo" {
        /// In nanoseconds.
        pub idletime: u64,
    }

    /// `XEN_SYSCTL_GETCPUINFO`.
    pub struct SysctlGetcpuinfo[24] = "struct xen_sysctl_getcpuinfo" {
        /// In: room for CPUs.
        pub max_cpus: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: their idle times.
        pub info: GuestHandle<SysctlCpuinfo>,
        /// Out: how many.
        pub nr_cpus: u32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `XEN_SYSCTL_AVAILHEAP`.
    pub struct SysctlAvailheap[24] = "struct xen_sysctl_availheap" {
        /// In: least bits of an address; 0 for any.
        pub min_bitwidth: u32,
        /// In: most bits of an address; 0 for any.
        pub max_bitwidth: u32,
        /// In: the node; -1 for all.
        pub node: i32,
        /// Zero.
        pub _pad0: u32,
        /// Out: bytes that are free.
        pub avail_bytes: u64,
    }

    /// Use of a performance state.
    pub struct PmPxVal[24] = "struct pm_px_val" {
        /// Frequency in MHz.
        pub freq: u64,
        /// Nanoseconds in it.
        pub residency: u64,
        /// How often it was entered.
        pub count: u64,
    }

    /// `SysctlGetPmstat::u` for performance states.
    pub struct PmPxStat[24] = "struct pm_px_stat" {
        /// In: room for states; out: how many there are.
        pub total: u8,
        /// Out: how many are used.
        pub usable: u8,
        /// Out: the one before.
        pub last: u8,
        /// Out: the present one.
        pub cur: u8,
        /// Zero.
        pub _pad0: u32,
        /// Out: counts of transitions.
        pub trans_pt: GuestHandle<u64>,
        /// Out: the states.
        pub pt: GuestHandle<PmPxVal>,
    }

    /// `SysctlGetPmstat::u` for idle states.
    pub struct PmCxStat[56] = "struct pm_cx_stat" {
        /// In: room for states; out: how many there are.
        pub nr: u32,
        /// Out: the last one.
        pub last: u32,
        /// Out: nanoseconds of idling since boot.
        pub idle_time: u64,
        /// Out: how often each was entered.
        pub triggers: GuestHandle<u64>,
        /// Out: nanoseconds in each.
        pub residencies: GuestHandle<u64>,
        /// In: room in `pc`; out: how many there are.
        pub nr_pc: u32,
        /// In: room in `cc`; out: how many there are.
        pub nr_cc: u32,
        /// Out: nanoseconds in each state of the package.
        pub pc: GuestHandle<u64>,
        /// Out: nanoseconds in each state of the core.
        pub cc: GuestHandle<u64>,
    }

    /// `XEN_SYSCTL_GET_PMSTAT`.
    pub struct SysctlGetPmstat[64] = "struct xen_sysctl_get_pmstat" {
        /// In: `PMSTAT_*`.
        pub type_: u32,
        /// In: the CPU.
        pub cpuid: u32,
        /// A `PmPxStat` or `PmCxStat`.
        pub u: Union<u64, 7>,
    }

    /// `XEN_SYSCTL_CPU_HOTPLUG`.
    pub struct SysctlCpuHotplug[8] = "struct xen_sysctl_cpu_hotplug" {
        /// The CPU.
        pub cpu: u32,
        /// `XEN_SYSCTL_CPU_HOTPLUG_*`.
        pub op: u32,
    }

    /// `GetCpufreqPara::u` of the governor "userspace".
    pub struct Userspace[4] = "struct xen_userspace" {
        /// Frequency in kHz.
        pub scaling_setspeed: u32,
    }

    /// `GetCpufreqPara::u` of the governor "ondemand".
    pub struct Ondemand[16] = "struct xen_ondemand" {
        /// Longest period of samples in microseconds.
        pub sampling_rate_max: u32,
        /// Shortest period of samples in microseconds.
        pub sampling_rate_min: u32,
        /// Period of samples in microseconds.
        pub sampling_rate: u32,
        /// Load in per cent above which the frequency goes up.
        pub up_threshold: u32,
    }

    /// `SysctlPmOp::u` for `GET_CPUFREQ_PARA`. Frequencies are in kHz, names zero-terminated.
    pub struct GetCpufreqPara[120] = "struct xen_get_cpufreq_para" {
        /// In: room for CPUs; out: how many there are.
        pub cpu_num: u32,
        /// In: room for frequencies; out: how many there are.
        pub freq_num: u32,
        /// In: room for governors; out: how many there are.
        pub gov_num: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: CPUs that have one frequency together.
        pub affected_cpus: GuestHandle<u32>,
        /// Out: frequencies.
        pub scaling_available_frequencies: GuestHandle<u32>,
        /// Out: names of governors.
        pub scaling_available_governors: GuestHandle<u8>,
        /// Out: name of the driver.
        pub scaling_driver: [u8; CPUFREQ_NAME_LEN],
        /// Out: the CPU's frequency.
        pub cpuinfo_cur_freq: u32,
        /// Out: the CPU's highest frequency.
        pub cpuinfo_max_freq: u32,
        /// Out: the CPU's lowest frequency.
        pub cpuinfo_min_freq: u32,
        /// Out: the frequency as the governor wants it.
        pub scaling_cur_freq: u32,
        /// Out: name of the governor.
        pub scaling_governor: [u8; CPUFREQ_NAME_LEN],
        /// Out: the highest frequency that is permitted.
        pub scaling_max_freq: u32,
        /// Out: the lowest frequency that is permitted.
        pub scaling_min_freq: u32,
        /// Out: a `Userspace` or `Ondemand`.
        pub u: Union<u32, 4>,
        /// Out: not 0 if turbo is on.
        pub turbo_enabled: i32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `SysctlPmOp::u` for `SET_CPUFREQ_GOV`.
    pub struct SetCpufreqGov[16] = "struct xen_set_cpufreq_gov" {
        /// Name of the governor, zero-terminated.
        pub scaling_governor: [u8; CPUFREQ_NAME_LEN],
    }

    /// `SysctlPmOp::u` for `SET_CPUFREQ_PARA`.
    pub struct SetCpufreqPara[8] = "struct xen_set_cpufreq_para" {
        /// Which parameter.
        pub ctrl_type: u32,
        /// Its value.
        pub ctrl_value: u32,
    }

    /// `XEN_SYSCTL_PM_OP`.
    pub struct SysctlPmOp[128] = "struct xen_sysctl_pm_op" {
        /// In: `GET_CPUFREQ_*`, `SET_CPUFREQ_*` or `XEN_SYSCTL_PM_OP_*`.
        pub cmd: u32,
        /// In: the CPU.
        pub cpuid: u32,
        /// A struct for frequencies, a `u64` for the average frequency, else a `u32`.
        pub u: Union<u64, 15>,
    }

    /// `XEN_SYSCTL_PAGE_OFFLINE_OP`.
    pub struct SysctlPageOfflineOp[24] = "struct xen_sysctl_page_offline_op" {
        /// In: `SYSCTL_PAGE_*`.
        pub cmd: u32,
        /// In: first frame.
        pub start: u32,
        /// In: last frame.
        pub end: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: their states, `PG_*`.
        pub status: GuestHandle<u32>,
    }

    /// Use of a lock.
    pub struct SysctlLockprofData[80] = "struct xen_sysctl_lockprof_data" {
        /// Its name, in which `%d` stands for `idx`.
        pub name: [u8; 40],
        /// `LOCKPROF_TYPE_*`.
        pub type_: i32,
        /// The domain.
        pub idx: i32,
        /// How often it was taken.
        pub lock_cnt: u64,
        /// How often it was waited for.
        pub block_cnt: u64,
        /// Nanoseconds that it was held.
        pub lock_time: u64,
        /// Nanoseconds that it was waited for.
        pub block_time: u64,
    }

    /// `XEN_SYSCTL_LOCKPROF_OP`.
    pub struct SysctlLockprofOp[32] = "struct xen_sysctl_lockprof_op" {
        /// In: `XEN_SYSCTL_LOCKPROF_*`.
        pub cmd: u32,
        /// In: room for locks.
        pub max_elem: u32,
        /// Out: how many there are.
        pub nr_elem: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: nanoseconds that were measured.
        pub time: u64,
        /// Out: the locks, unless null.
        pub data: GuestHandle<SysctlLockprofData>,
    }

    /// Where a CPU is.
    pub struct SysctlCputopo[12] = "struct xen_sysctl_cputopo" {
        /// Core, or `XEN_INVALID_CORE_ID`.
        pub core: u32,
        /// Socket, or `XEN_INVALID_SOCKET_ID`.
        pub socket: u32,
        /// Node, or `XEN_INVALID_NODE_ID`.
        pub node: u32,
    }

    /// `XEN_SYSCTL_CPUTOPOINFO`.
    pub struct SysctlCputopoinfo[16] = "struct xen_sysctl_cputopoinfo" {
        /// In: room for CPUs; out: how many there are.
        pub num_cpus: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: where they are.
        pub cputopo: GuestHandle<SysctlCputopo>,
    }

    /// A node's memory.
    pub struct SysctlMeminfo[16] = "struct xen_sysctl_meminfo" {
        /// Bytes, or `XEN_INVALID_MEM_SZ`.
        pub memsize: u64,
        /// Bytes that are free.
        pub memfree: u64,
    }

    /// `XEN_SYSCTL_NUMAINFO`.
    pub struct SysctlNumainfo[24] = "struct xen_sysctl_numainfo" {
        /// In: room for nodes; out: how many there are.
        pub num_nodes: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: their memory.
        pub meminfo: GuestHandle<SysctlMeminfo>,
        /// Out: a matrix of distances, or `XEN_INVALID_NODE_DIST`.
        pub distance: GuestHandle<u32>,
    }

    /// `XEN_SYSCTL_CPUPOOL_OP`.
    pub struct SysctlCpupoolOp[40] = "struct xen_sysctl_cpupool_op" {
        /// In: `XEN_SYSCTL_CPUPOOL_OP_*`.
        pub op: u32,
        /// In: the pool; out, where it was created or searched for.
        pub cpupool_id: u32,
        /// In or out: its scheduler, `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// In: the domain.
        pub domid: u32,
        /// In: the CPU.
        pub cpu: u32,
        /// Out: number of its domains.
        pub n_dom: u32,
        /// Out: its CPUs.
        pub cpumap: XenctlBitmap,
    }

    /// An entry of an ARINC 653 schedule.
    pub struct SysctlArinc653Entry[32] = "struct xen_sysctl_arinc653_schedule.sched_entries[0]" {
        /// The domain's unique identifier.
        pub dom_handle: DomainHandle,
        /// The vCPU.
        pub vcpu_id: u32,
        /// Zero.
        pub _pad0: u32,
        /// Nanoseconds that it runs.
        pub runtime: u64,
    }

    /// An ARINC 653 schedule.
    pub struct SysctlArinc653Schedule[2064] = "struct xen_sysctl_arinc653_schedule" {
        /// Nanoseconds after which it repeats.
        pub major_frame: u64,
        /// Number of entries.
        pub num_sched_entries: u8,
        /// Zero.
        pub _pad0: [u8; 7],
        /// The entries.
        pub sched_entries: [SysctlArinc653Entry; ARINC653_MAX_DOMAINS_PER_SCHEDULE],
    }

    /// Parameters of the credit scheduler.
    pub struct SysctlCreditSchedule[12] = "struct xen_sysctl_credit_schedule" {
        /// Slice in milliseconds.
        pub tslice_ms: u32,
        /// Time that a vCPU runs at least, in microseconds; 0 for none.
        pub ratelimit_us: u32,
        /// Delay before a vCPU moves, in microseconds.
        pub vcpu_migr_delay_us: u32,
    }

    /// Parameters of the second credit scheduler.
    pub struct SysctlCredit2Schedule[4] = "struct xen_sysctl_credit2_schedule" {
        /// Time that a vCPU runs at least, in microseconds; 0 for none.
        pub ratelimit_us: u32,
    }

    /// `SysctlSchedulerOp::u` for ARINC 653.
    pub struct SysctlSchedArinc653[8] = "struct xen_sysctl_sched_arinc653" {
        /// The schedule.
        pub schedule: GuestHandle<SysctlArinc653Schedule>,
    }

    /// `XEN_SYSCTL_SCHEDULER_OP`.
    pub struct SysctlSchedulerOp[32] = "struct xen_sysctl_scheduler_op" {
        /// In: the CPU pool.
        pub cpupool_id: u32,
        /// In: `XEN_SCHEDULER_*`.
        pub sched_id: u32,
        /// In: `XEN_SYSCTL_SCHEDOP_*`.
        pub cmd: u32,
        /// Zero.
        pub _pad0: u32,
        /// In or out: the scheduler's parameters.
        pub u: Union<u64, 2>,
    }

    /// `XEN_SYSCTL_COVERAGE_OP`.
    pub struct SysctlCoverageOp[16] = "struct xen_sysctl_coverage_op" {
        /// In: `XEN_SYSCTL_COVERAGE_*`.
        pub cmd: u32,
        /// In: size of the buffer in bytes; out: of the data.
        pub size: u32,
        /// Out: the data.
        pub buffer: GuestHandle<u8>,
    }

    /// `XEN_SYSCTL_PSR_CMT_OP`.
    pub struct SysctlPsrCmtOp[16] = "struct xen_sysctl_psr_cmt_op" {
        /// In: `XEN_SYSCTL_PSR_CMT_*`.
        pub cmd: u32,
        /// Zero.
        pub flags: u32,
        /// In: a `SysctlPsrCmtOpL3Cache`; out: a `u64`.
        pub u: Union<u64, 1>,
    }

    /// `SysctlPsrCmtOp::u` for the size of a cache.
    pub struct SysctlPsrCmtOpL3Cache[8] = "struct xen_sysctl_psr_cmt_op.u.l3_cache" {
        /// The CPU.
        pub cpu: u32,
        /// Zero.
        pub rsvd: u32,
    }

    /// `XEN_SYSCTL_PCITOPOINFO`.
    pub struct SysctlPcitopoinfo[24] = "struct xen_sysctl_pcitopoinfo" {
        /// In: number of devices; out: how many were done.
        pub num_devs: u32,
        /// Zero.
        pub _pad0: u32,
        /// In: the devices.
        pub devs: GuestHandle<PhysdevPciDevice>,
        /// Out: their nodes, or `XEN_INVALID_NODE_ID`, or `XEN_INVALID_DEV`.
        pub nodes: GuestHandle<u32>,
    }

    /// `XEN_SYSCTL_PSR_ALLOC`.
    pub struct SysctlPsrAlloc[20] = "struct xen_sysctl_psr_alloc" {
        /// In: `XEN_SYSCTL_PSR_*`.
        pub cmd: u32,
        /// In: the socket.
        pub target: u32,
        /// Out: a `SysctlPsrAllocCatInfo` or `SysctlPsrAllocMbaInfo`.
        pub u: Union<u32, 3>,
    }

    /// `SysctlPsrAlloc::u` for caches.
    pub struct SysctlPsrAllocCatInfo[12] = "struct xen_sysctl_psr_alloc.u.cat_info" {
        /// Bits of a part.
        pub cbm_len: u32,
        /// Highest number of a class.
        pub cos_max: u32,
        /// `XEN_SYSCTL_PSR_CAT_L3_CDP` or 0.
        pub flags: u32,
    }

    /// `SysctlPsrAlloc::u` for memory bandwidth.
    pub struct SysctlPsrAllocMbaInfo[12] = "struct xen_sysctl_psr_alloc.u.mba_info" {
        /// Strongest throttle.
        pub thrtl_max: u32,
        /// Highest number of a class.
        pub cos_max: u32,
        /// `XEN_SYSCTL_PSR_MBA_LINEAR` or 0.
        pub flags: u32,
    }

    /// `XEN_SYSCTL_GET_CPU_LEVELLING_CAPS`.
    pub struct SysctlCpuLevellingCaps[4] = "struct xen_sysctl_cpu_levelling_caps" {
        /// Out: `XEN_SYSCTL_CPU_LEVELCAP_*`.
        pub caps: u32,
    }

    /// `XEN_SYSCTL_GET_CPU_FEATURESET`.
    pub struct SysctlCpuFeatureset[16] = "struct xen_sysctl_cpu_featureset" {
        /// In: `XEN_SYSCTL_CPU_FEATURESET_*`.
        pub index: u32,
        /// In: room for words; out: how many there are.
        pub nr_features: u32,
        /// Out: the words.
        pub features: GuestHandle<u32>,
    }

    /// Name of a live patch.
    pub struct LivepatchName[16] = "struct xen_livepatch_name" {
        /// The name, zero-terminated.
        pub name: GuestHandle<u8>,
        /// Its size in bytes.
        pub size: u16,
        /// Zero.
        pub pad: [u16; 3],
    }

    /// `XEN_SYSCTL_LIVEPATCH_UPLOAD`.
    pub struct SysctlLivepatchUpload[32] = "struct xen_sysctl_livepatch_upload" {
        /// Its name.
        pub name: LivepatchName,
        /// Size in bytes.
        pub size: u64,
        /// The ELF file.
        pub payload: GuestHandle<u8>,
    }

    /// State of a live patch.
    pub struct LivepatchStatus[8] = "struct xen_livepatch_status" {
        /// `LIVEPATCH_STATE_*`.
        pub state: u32,
        /// 0, or a negated error.
        pub rc: i32,
    }

    /// `XEN_SYSCTL_LIVEPATCH_GET`.
    pub struct SysctlLivepatchGet[24] = "struct xen_sysctl_livepatch_get" {
        /// Its name.
        pub name: LivepatchName,
        /// Out: its state.
        pub status: LivepatchStatus,
    }

    /// `XEN_SYSCTL_LIVEPATCH_LIST`.
    pub struct SysctlLivepatchList[64] = "struct xen_sysctl_livepatch_list" {
        /// Out: changes with the list.
        pub version: u32,
        /// In: where to begin.
        pub idx: u32,
        /// In: room for live patches; out: how many are left.
        pub nr: u32,
        /// Zero.
        pub pad: u32,
        /// Out: size of all names.
        pub name_total_size: u32,
        /// Out: size of all metadata.
        pub metadata_total_size: u32,
        /// Out: states.
        pub status: GuestHandle<LivepatchStatus>,
        /// Out: names.
        pub name: GuestHandle<u8>,
        /// Out: sizes of names.
        pub len: GuestHandle<u32>,
        /// Out: metadata.
        pub metadata: GuestHandle<u8>,
        /// Out: sizes of metadata.
        pub metadata_len: GuestHandle<u32>,
    }

    /// `XEN_SYSCTL_LIVEPATCH_ACTION`.
    pub struct SysctlLivepatchAction[32] = "struct xen_sysctl_livepatch_action" {
        /// Its name.
        pub name: LivepatchName,
        /// `LIVEPATCH_ACTION_*`.
        pub cmd: u32,
        /// Nanoseconds to try; 0 for the hypervisor's default.
        pub timeout: u32,
        /// `LIVEPATCH_ACTION_APPLY_NODEPS` or 0.
        pub flags: u32,
        /// Zero.
        pub pad: u32,
    }

    /// `XEN_SYSCTL_LIVEPATCH_OP`.
    pub struct SysctlLivepatchOp[72] = "struct xen_sysctl_livepatch_op" {
        /// `XEN_SYSCTL_LIVEPATCH_*`.
        pub cmd: u32,
        /// Zero.
        pub pad: u32,
        /// The operation's struct.
        pub u: Union<u64, 8>,
    }

    /// `XEN_SYSCTL_GET_CPU_POLICY`.
    pub struct SysctlCpuPolicy[32] = "struct xen_sysctl_cpu_policy" {
        /// In: `XEN_SYSCTL_CPU_POLICY_*`.
        pub index: u32,
        /// In: room for leaves; out: how many there are.
        pub nr_leaves: u32,
        /// In: room for MSRs; out: how many there are.
        pub nr_msrs: u32,
        /// Zero.
        pub _rsvd: u32,
        /// Out: the leaves.
        pub leaves: GuestHandle<CpuidLeaf>,
        /// Out: the MSRs.
        pub msrs: GuestHandle<MsrEntry>,
    }
}

impl Sysctl {
    /// An operation without a struct, or with one that is only answered.
    pub fn new(cmd: u32) -> Self {
        Self {
            cmd,
            interface_version: XEN_SYSCTL_INTERFACE_VERSION,
            ..Default::default()
        }
    }

    /// An operation with its struct.
    pub fn with<A: zerocopy::IntoBytes + zerocopy::Immutable>(cmd: u32, arm: &A) -> Self {
        Self {
            u: Union::new(arm),
            ..Self::new(cmd)
        }
    }
}
