//! What there is to say about the whole host: the lines of `xl info`.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::net::OwnAddress;

/// How the host's processors were used, up to a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// The moment, in nanoseconds since the host booted.
    pub time_ns: u64,
    /// Nanoseconds for which each CPU has run no vCPU; at most [`Usage::MAX_CPUS`].
    pub idle_ns: Vec<u64>,
}

impl Usage {
    /// How many CPUs are told of.
    pub const MAX_CPUS: usize = 1024;
}

/// The host as it is now. Text that is unknown is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostInfo {
    /// The host's name.
    pub hostname: String,
    /// dom0's release, as `uname -r` has it.
    pub release: String,
    /// dom0's version, as `uname -v` has it.
    pub version: String,
    /// The machine, as `uname -m` has it.
    pub machine: String,

    /// CPUs online.
    pub nr_cpus: u32,
    /// The highest CPU id that is possible.
    pub max_cpu_id: u32,
    /// NUMA nodes.
    pub nr_nodes: u32,
    /// Cores of a socket.
    pub cores_per_socket: u32,
    /// Threads of a core.
    pub threads_per_core: u32,
    /// The frequency of the CPUs' time-stamp counter in kHz.
    pub cpu_khz: u32,
    /// `hw_cap` of `XEN_SYSCTL_physinfo`: the words of the CPU's feature set.
    pub hw_cap: [u32; 8],
    /// What virtualization the host offers, in the words of xl: `pv` and others.
    pub virt_caps: String,
    /// Memory of the machine in KiB.
    pub total_memory_kib: u64,
    /// Memory free for domains in KiB.
    pub free_memory_kib: u64,
    /// Memory claimed and not allocated yet, in KiB.
    pub outstanding_kib: u64,
    /// Frames saved by sharing.
    pub sharing_freed_frames: u64,
    /// Frames that are shared.
    pub sharing_used_frames: u64,
    /// CPUs in no CPU pool.
    pub free_cpus: u32,

    /// The hypervisor's major version.
    pub xen_major: u32,
    /// The hypervisor's minor version.
    pub xen_minor: u32,
    /// What follows the minor version, with its dot.
    pub xen_extra: String,
    /// `XENVER_capabilities`.
    pub xen_caps: String,
    /// The scheduler's name.
    pub xen_scheduler: String,
    /// The size of a page in bytes.
    pub xen_pagesize: u32,
    /// Where the hypervisor's addresses begin.
    pub virt_start: u64,
    /// `XENVER_changeset`.
    pub xen_changeset: String,
    /// The hypervisor's command line.
    pub xen_commandline: String,
    /// The compiler.
    pub cc_compiler: String,
    /// Who compiled it.
    pub cc_compile_by: String,
    /// Where it was compiled.
    pub cc_compile_domain: String,
    /// When it was compiled.
    pub cc_compile_date: String,
    /// The build id in hexadecimal digits.
    pub build_id: String,
    /// Time since the host booted, in milliseconds.
    pub uptime_ms: u64,
    /// Event-channel ports that dom0 has, as the hypervisor counts them.
    pub dom0_ports: u32,
    /// Memory that dom0 uses, in bytes, but for buffers that it only keeps.
    pub dom0_used: u64,
    /// dom0's own address on the bridge, if it has one.
    pub address: Option<OwnAddress>,
}
