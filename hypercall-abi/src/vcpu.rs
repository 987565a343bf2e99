//! Operations on one virtual CPU: bring-up, runstate, timers, where its shared data are
//! (`xen/vcpu.h`).

use crate::layout::{constants, structs};
use crate::types::Mfn;

constants! {
    /// Set the state of a vCPU that was never up: `VcpuGuestContext`.
    pub const VCPUOP_INITIALISE: u32 = 0;
    /// Start it. No argument.
    pub const VCPUOP_UP: u32 = 1;
    /// Stop it. No argument.
    pub const VCPUOP_DOWN: u32 = 2;
    /// Returns 1 if it is up. No argument.
    pub const VCPUOP_IS_UP: u32 = 3;
    /// How long it was in each state: `VcpuRunstateInfo`.
    pub const VCPUOP_GET_RUNSTATE_INFO: u32 = 4;
    /// Keep runstate information at an address: `VcpuRegisterRunstateMemoryArea`.
    pub const VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA: u32 = 5;
    /// Start the periodic timer: `VcpuSetPeriodicTimer`.
    pub const VCPUOP_SET_PERIODIC_TIMER: u32 = 6;
    /// Stop the periodic timer. No argument.
    pub const VCPUOP_STOP_PERIODIC_TIMER: u32 = 7;
    /// Start the one-shot timer: `VcpuSetSingleshotTimer`.
    pub const VCPUOP_SET_SINGLESHOT_TIMER: u32 = 8;
    /// Stop the one-shot timer. No argument.
    pub const VCPUOP_STOP_SINGLESHOT_TIMER: u32 = 9;
    /// Move its `VcpuInfo` to another page: `VcpuRegisterVcpuInfo`.
    pub const VCPUOP_REGISTER_VCPU_INFO: u32 = 10;
    /// Send it an NMI. No argument.
    pub const VCPUOP_SEND_NMI: u32 = 11;
    /// Identifiers of the physical CPU it is pinned to: `VcpuGetPhysid`.
    pub const VCPUOP_GET_PHYSID: u32 = 12;
    /// Keep time information at an address: `VcpuRegisterTimeMemoryArea`.
    pub const VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA: u32 = 13;

    /// `VcpuRunstateInfo::state_entry_time`: the information is being written.
    pub const XEN_RUNSTATE_UPDATE: u64 = 1 << 63;
    /// On a physical CPU.
    pub const RUNSTATE_RUNNING: u32 = 0;
    /// Waiting for a physical CPU.
    pub const RUNSTATE_RUNNABLE: u32 = 1;
    /// Waiting for an event.
    pub const RUNSTATE_BLOCKED: u32 = 2;
    /// Neither runnable nor blocked: paused or down.
    pub const RUNSTATE_OFFLINE: u32 = 3;

    /// `VcpuSetSingleshotTimer::flags`: a time in the past is an error, ETIME.
    pub const VCPU_SSHOTTMR_FUTURE: u32 = 1 << 0;
}

structs! {
    /// How long a vCPU was in each state.
    pub struct VcpuRunstateInfo[48] = "struct vcpu_runstate_info" {
        /// `RUNSTATE_*`.
        pub state: u32,
        /// Zero.
        pub _pad0: u32,
        /// System time in nanoseconds at which it entered that state, and `XEN_RUNSTATE_UPDATE`.
        pub state_entry_time: u64,
        /// Nanoseconds in each state.
        pub time: [u64; 4],
    }

    /// `VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA`.
    pub struct VcpuRegisterRunstateMemoryArea[8] = "struct vcpu_register_runstate_memory_area" {
        /// Linear address of a `VcpuRunstateInfo`.
        pub addr: u64,
    }

    /// `VCPUOP_SET_PERIODIC_TIMER`.
    pub struct VcpuSetPeriodicTimer[8] = "struct vcpu_set_periodic_timer" {
        /// Period in nanoseconds.
        pub period_ns: u64,
    }

    /// `VCPUOP_SET_SINGLESHOT_TIMER`.
    pub struct VcpuSetSingleshotTimer[16] = "struct vcpu_set_singleshot_timer" {
        /// Absolute system time in nanoseconds.
        pub timeout_abs_ns: u64,
        /// `VCPU_SSHOTTMR_FUTURE` or 0.
        pub flags: u32,
        /// Zero.
        pub _pad0: u32,
    }

    /// `VCPUOP_REGISTER_VCPU_INFO`.
    pub struct VcpuRegisterVcpuInfo[16] = "struct vcpu_register_vcpu_info" {
        /// The page's frame.
        pub mfn: Mfn,
        /// Offset of the `VcpuInfo` in it, in bytes.
        pub offset: u32,
        /// Zero.
        pub rsvd: u32,
    }

    /// `VCPUOP_GET_PHYSID`.
    pub struct VcpuGetPhysid[8] = "struct vcpu_get_physid" {
        /// Low half: APIC identifier; high half: ACPI identifier.
        pub phys_id: u64,
    }

    /// `VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA`.
    pub struct VcpuRegisterTimeMemoryArea[8] = "struct vcpu_register_time_memory_area" {
        /// Linear address of a `VcpuTimeInfo`.
        pub addr: u64,
    }
}
