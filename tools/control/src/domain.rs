//! What there is to say about a domain: its configuration and its state.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::block::DiskConfig;
use crate::image::Image;
use crate::net::VifConfig;
use crate::scheduling::Scheduling;

/// How the user named a domain. As in xl, a word of digits alone is a domid, all else a name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DomainRef {
    /// The domain with this id.
    Id(u16),
    /// The domain with this name.
    Name(String),
}

impl DomainRef {
    /// The longest name of a domain in bytes.
    pub const MAX_NAME: usize = 255;

    /// Reads what a user typed. A number too large for a domid is kept as a name, which no domain
    /// has.
    pub fn parse(text: &str) -> DomainRef {
        match text.parse() {
            Ok(id) if text.bytes().all(|byte| byte.is_ascii_digit()) => DomainRef::Id(id),
            _ => DomainRef::Name(text.into()),
        }
    }
}

impl fmt::Display for DomainRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DomainRef::Id(id) => write!(f, "{id}"),
            DomainRef::Name(name) => f.write_str(name),
        }
    }
}

/// A domain's UUID, shown with hyphens.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub struct Uuid(pub [u8; 16]);

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What is done when a domain stops: the values of `on_poweroff` and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// Take it down.
    Destroy,
    /// Take it down and create it again from the same configuration.
    Restart,
    /// Rename the stopped one, keep it, and create a new one.
    RenameRestart,
    /// Keep it as it is, for examination.
    Preserve,
    /// Write a core file, then destroy.
    CoredumpDestroy,
    /// Write a core file, then restart.
    CoredumpRestart,
    /// Reset it softly, keeping its memory.
    SoftReset,
}

impl Action {
    /// All actions, in the order of xl's manual.
    pub const ALL: [Action; 7] = [
        Action::Destroy,
        Action::Restart,
        Action::RenameRestart,
        Action::Preserve,
        Action::CoredumpDestroy,
        Action::CoredumpRestart,
        Action::SoftReset,
    ];

    /// The word for it in xl.cfg.
    pub fn name(self) -> &'static str {
        match self {
            Action::Destroy => "destroy",
            Action::Restart => "restart",
            Action::RenameRestart => "rename-restart",
            Action::Preserve => "preserve",
            Action::CoredumpDestroy => "coredump-destroy",
            Action::CoredumpRestart => "coredump-restart",
            Action::SoftReset => "soft-reset",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which action follows which end. The default is xl's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OnEvent {
    /// The domain shut down by itself.
    pub poweroff: Action,
    /// The domain asked for a reboot.
    pub reboot: Action,
    /// A watchdog of the domain ran out.
    pub watchdog: Action,
    /// The domain crashed.
    pub crash: Action,
    /// The domain asked for a soft reset.
    pub soft_reset: Action,
}

impl Default for OnEvent {
    fn default() -> OnEvent {
        OnEvent {
            poweroff: Action::Destroy,
            reboot: Action::Restart,
            watchdog: Action::Destroy,
            crash: Action::Destroy,
            soft_reset: Action::SoftReset,
        }
    }
}

/// All that dom0 needs to build a PV domain, and to build it again when it reboots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainConfig {
    /// Not empty, at most [`DomainRef::MAX_NAME`] bytes.
    pub name: String,
    /// Unique among the domains of the host.
    pub uuid: Uuid,
    /// Memory at start, in KiB.
    pub memory_kib: u64,
    /// The most memory that it may ever have, in KiB; not less than `memory_kib`.
    pub max_memory_kib: u64,
    /// Virtual CPUs online at start.
    pub vcpus: u32,
    /// Virtual CPUs in all; not less than `vcpus`.
    pub max_vcpus: u32,
    /// The highest event-channel port that it may have.
    pub max_event_channels: u32,
    /// The kernel, which the image cache must have.
    pub kernel: Image,
    /// The ramdisk, which the image cache must have.
    pub ramdisk: Option<Image>,
    /// The kernel's command line, at most [`DomainConfig::MAX_CMDLINE`] bytes.
    pub cmdline: String,
    /// How its vCPUs share the CPUs.
    pub scheduling: Scheduling,
    /// Its disks, at most [`DiskConfig::MAX_DISKS`].
    pub disks: Vec<DiskConfig>,
    /// Its network interfaces, at most [`VifConfig::MAX_VIFS`].
    pub vifs: Vec<VifConfig>,
    /// What follows when it stops.
    pub on: OnEvent,
}

impl DomainConfig {
    /// The longest command line in bytes: `start_info` has room for 1024 with the terminating zero.
    pub const MAX_CMDLINE: usize = 1023;
    /// The highest port that a domain may have where nothing is said of it, as with xl.
    pub const EVENT_CHANNELS: u32 = 1023;
}

/// Why a domain is shut down: Xen's `SHUTDOWN_*` of `public/sched.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShutdownReason(pub u8);

impl ShutdownReason {
    /// The domain powered itself off.
    pub const POWEROFF: ShutdownReason = ShutdownReason(0);
    /// It wants to start again.
    pub const REBOOT: ShutdownReason = ShutdownReason(1);
    /// It is suspended.
    pub const SUSPEND: ShutdownReason = ShutdownReason(2);
    /// It crashed.
    pub const CRASH: ShutdownReason = ShutdownReason(3);
    /// Its watchdog ran out.
    pub const WATCHDOG: ShutdownReason = ShutdownReason(4);
    /// It asked for a soft reset.
    pub const SOFT_RESET: ShutdownReason = ShutdownReason(5);
}

/// The states that `xl list` has letters for; any number of them can hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainState {
    /// One of its vCPUs is on a CPU right now.
    pub running: bool,
    /// All its vCPUs wait for an event.
    pub blocked: bool,
    /// Paused by the toolstack.
    pub paused: bool,
    /// Shut down; the reason is kept until the domain is destroyed.
    pub shutdown: Option<ShutdownReason>,
    /// Being destroyed.
    pub dying: bool,
}

/// What a domain's devices have passed on, all that it has of a kind together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceUse {
    /// Network interfaces.
    pub vifs: u32,
    /// Bytes that the domain has sent.
    pub sent: u64,
    /// Bytes that it was given.
    pub received: u64,
    /// Disks.
    pub vbds: u32,
    /// Times that a request had to wait for those before it.
    pub held: u64,
    /// Requests to read.
    pub reads: u64,
    /// Requests to write.
    pub writes: u64,
    /// Sectors of 512 bytes read.
    pub sectors_read: u64,
    /// Sectors of 512 bytes written.
    pub sectors_written: u64,
}

/// A domain as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DomainInfo {
    /// Its id.
    pub domid: u16,
    /// Its name.
    pub name: String,
    /// Its UUID; zero for dom0.
    pub uuid: Uuid,
    /// Memory that it has now, in KiB.
    pub memory_kib: u64,
    /// Memory that it may have at most, in KiB.
    pub max_memory_kib: u64,
    /// Memory claimed for it and not allocated yet, in KiB.
    pub outstanding_kib: u64,
    /// vCPUs online.
    pub vcpus: u32,
    /// vCPUs in all.
    pub max_vcpus: u32,
    /// CPU time used by all its vCPUs, in nanoseconds.
    pub cpu_time_ns: u64,
    /// Times that events interrupted one of its vCPUs; wraps around. None where the hypervisor does not count them, and
    /// in the answer to any request but [`crate::Request::Usage`].
    pub upcalls: Option<u32>,
    /// Time since it was created, in milliseconds; for dom0 since the host booted.
    pub uptime_ms: u64,
    /// Its state.
    pub state: DomainState,
    /// The id of its security label (`ssidref`).
    pub ssidref: u32,
    /// The CPU pool that it runs in.
    pub cpupool: u32,
    /// What its devices have passed on.
    pub devices: DeviceUse,
}
