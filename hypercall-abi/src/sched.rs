//! Yielding, blocking, polling and shutting down (`xen/sched.h`).

use crate::layout::{constants, structs};
use crate::types::{Domid, GuestHandle, Port};

constants! {
    /// Let others run. No argument.
    pub const SCHEDOP_YIELD: u32 = 0;
    /// Unmask upcalls and sleep until one. No argument.
    pub const SCHEDOP_BLOCK: u32 = 1;
    /// Stop the domain: `SchedShutdown`.
    pub const SCHEDOP_SHUTDOWN: u32 = 2;
    /// Sleep until one of some ports is pending, masked or not: `SchedPoll`.
    pub const SCHEDOP_POLL: u32 = 3;
    /// Stop another domain: `SchedRemoteShutdown`.
    pub const SCHEDOP_REMOTE_SHUTDOWN: u32 = 4;
    /// Latch the reason before stopping: `SchedShutdown`.
    pub const SCHEDOP_SHUTDOWN_CODE: u32 = 5;
    /// Set, poke or stop a watchdog: `SchedWatchdog`.
    pub const SCHEDOP_WATCHDOG: u32 = 6;
    /// Pin the vCPU for a while: `SchedPinOverride`.
    pub const SCHEDOP_PIN_OVERRIDE: u32 = 7;

    /// Stopped of its own will.
    pub const SHUTDOWN_POWEROFF: u32 = 0;
    /// Wants to be started again.
    pub const SHUTDOWN_REBOOT: u32 = 1;
    /// Ready to be saved.
    pub const SHUTDOWN_SUSPEND: u32 = 2;
    /// Crashed.
    pub const SHUTDOWN_CRASH: u32 = 3;
    /// A watchdog expired.
    pub const SHUTDOWN_WATCHDOG: u32 = 4;
    /// Wants to be reset with its memory kept.
    pub const SHUTDOWN_SOFT_RESET: u32 = 5;
    /// The highest reason.
    pub const SHUTDOWN_MAX: u32 = 5;
}

structs! {
    /// `SCHEDOP_SHUTDOWN` and `SCHEDOP_SHUTDOWN_CODE`.
    pub struct SchedShutdown[4] = "struct sched_shutdown" {
        /// `SHUTDOWN_*`.
        pub reason: u32,
    }

    /// `SCHEDOP_POLL`.
    pub struct SchedPoll[24] = "struct sched_poll" {
        /// The ports.
        pub ports: GuestHandle<Port>,
        /// How many, at most 128.
        pub nr_ports: u32,
        /// Zero.
        pub _pad0: u32,
        /// Absolute system time in nanoseconds at which to give up; 0 for never.
        pub timeout: u64,
    }

    /// `SCHEDOP_REMOTE_SHUTDOWN`.
    pub struct SchedRemoteShutdown[8] = "struct sched_remote_shutdown" {
        /// The domain.
        pub domain_id: Domid,
        /// Zero.
        pub _pad0: u16,
        /// `SHUTDOWN_*`.
        pub reason: u32,
    }

    /// `SCHEDOP_WATCHDOG`.
    pub struct SchedWatchdog[8] = "struct sched_watchdog" {
        /// Which; 0 for a new one.
        pub id: u32,
        /// Seconds; 0 to stop it.
        pub timeout: u32,
    }

    /// `SCHEDOP_PIN_OVERRIDE`.
    pub struct SchedPinOverride[4] = "struct sched_pin_override" {
        /// The physical CPU; negative to end it.
        pub pcpu: i32,
    }
}
