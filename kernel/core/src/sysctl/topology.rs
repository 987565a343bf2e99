//! Threads, cores, sockets and nodes. There is one node, which has all CPUs and all memory.

use hv_machine::{PAGE_SIZE, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::physdev::PhysdevPciDevice;
use hypercall_abi::sysctl::*;

use crate::current::Current;
use crate::hypercall::should_preempt;

/// Distance of a node to itself, as firmware tables give it.
const LOCAL_DISTANCE: u32 = 10;
/// CPUID leaf of the extended topology.
const TOPOLOGY_LEAF: u32 = 0xb;
/// Bit of leaf 1 EDX: a package has several logical processors.
const HTT: u32 = 1 << 28;

/// How CPUs are grouped; numbers go by socket, then by core, then by thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Topology {
    /// Threads of a core, at least 1.
    pub(super) threads_per_core: u32,
    /// Cores of a socket, at least 1.
    pub(super) cores_per_socket: u32,
}

impl Topology {
    /// What CPUID says, as far as CPUs are up.
    pub(super) fn of(machine: &impl Platform) -> Self {
        let cpus = machine.cpu_count().max(1);
        let max_leaf = machine.cpuid(0, 0)[0];
        let level = |subleaf| match max_leaf {
            TOPOLOGY_LEAF.. => machine.cpuid(TOPOLOGY_LEAF, subleaf)[1] & 0xffff,
            _ => 0,
        };
        let leaf1 = machine.cpuid(1, 0);
        let (threads, per_socket) = match (level(0), level(1)) {
            (0, _) if leaf1[3] & HTT != 0 => (1, leaf1[1] >> 16 & 0xff),
            (0, _) => (1, 1),
            (threads, 0) => (threads, threads),
            known => known,
        };
        let threads = threads.clamp(1, cpus);
        Self {
            threads_per_core: threads,
            cores_per_socket: per_socket.clamp(threads, cpus) / threads,
        }
    }

    fn place(self, cpu: u32) -> SysctlCputopo {
        let core = cpu / self.threads_per_core;
        SysctlCputopo {
            core: core % self.cores_per_socket,
            socket: core / self.cores_per_socket,
            node: 0,
        }
    }
}

/// `XEN_SYSCTL_cputopoinfo`; without a buffer it says only how many CPUs there are.
///
/// # Errors
/// `EFAULT`.
pub(super) fn cpus(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlCputopoinfo = op.u.get();
    let mut count = cx.machine().cpu_count();
    if !arm.cputopo.is_null() {
        count = count.min(arm.num_cpus);
        let topology = Topology::of(cx.machine());
        for cpu in 0..count {
            let place = topology.place(cpu);
            cx.write_element(arm.cputopo.address(), u64::from(cpu), &place)?;
        }
    }
    arm.num_cpus = count;
    op.u.set(&arm);
    Ok(())
}

/// `XEN_SYSCTL_numainfo`; without buffers it says only how many nodes there are.
///
/// # Errors
/// `EFAULT`.
pub(super) fn nodes(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlNumainfo = op.u.get();
    let mut count = 1;
    if !arm.meminfo.is_null() || !arm.distance.is_null() {
        count = arm.num_nodes.min(1);
    }
    if count > 0 && !arm.meminfo.is_null() {
        let info = SysctlMeminfo {
            memsize: cx.machine().frame_limit() * PAGE_SIZE as u64,
            memfree: cx.hv.memory.free_frames() * PAGE_SIZE as u64,
        };
        cx.write(arm.meminfo.address(), &info)?;
    }
    if count > 0 && !arm.distance.is_null() {
        cx.write(arm.distance.address(), &LOCAL_DISTANCE)?;
    }
    arm.num_nodes = count;
    op.u.set(&arm);
    Ok(())
}

/// `XEN_SYSCTL_pcitopoinfo`: no node is known of any device, so that it tells which devices there are. It may stop
/// after some, and says how many.
///
/// # Errors
/// `EINVAL` without buffers, `EFAULT`.
pub(super) fn devices(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlPcitopoinfo = op.u.get();
    if arm.devs.is_null() || arm.nodes.is_null() {
        return Err(Errno::EINVAL);
    }
    let mut done = 0;
    while done < arm.num_devs && (done == 0 || !should_preempt(cx)) {
        let device: PhysdevPciDevice = cx.read_element(arm.devs.address(), done.into())?;
        let function = (device.seg, device.bus, device.devfn);
        let node = match cx.hv.pirqs.lock().pci_devices.contains(&function) {
            true => XEN_INVALID_NODE_ID,
            false => XEN_INVALID_DEV,
        };
        cx.write_element(arm.nodes.address(), done.into(), &node)?;
        done += 1;
    }
    arm.num_devs = done;
    op.u.set(&arm);
    Ok(())
}
