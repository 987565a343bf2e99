//! What the host has: processors, memory, domains.

use alloc::sync::Arc;
use alloc::vec::Vec;

use hv_machine::{PAGE_SHIFT, PAGE_SIZE, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::Domid;

use super::topology;
use crate::current::Current;
use crate::domain::Domain;
use crate::{domctl, lifecycle, sched};

/// Domains whose state is copied out between two looks at the list.
const BATCH: usize = 64;

/// One bit for each CPU.
pub(super) fn all_cpus(cx: &Current<'_>) -> u64 {
    u64::MAX >> (u64::BITS - cx.machine().cpu_count().clamp(1, u64::BITS))
}

/// `XEN_SYSCTL_physinfo`.
pub(super) fn physinfo(cx: &Current<'_>, op: &mut Sysctl) {
    // Frames of domains that have just ended are free already.
    lifecycle::reap(cx.hv);
    let machine = cx.machine();
    let cpus = machine.cpu_count();
    let topology = topology::Topology::of(machine);
    let memory = &cx.hv.memory;
    let grant_versions = match cx.hv.options.grants.limits.max_version {
        1 => XEN_SYSCTL_PHYSCAP_GNTTAB_V1,
        _ => XEN_SYSCTL_PHYSCAP_GNTTAB_V1 | XEN_SYSCTL_PHYSCAP_GNTTAB_V2,
    };
    op.u.set(&SysctlPhysinfo {
        threads_per_core: topology.threads_per_core,
        cores_per_socket: topology.cores_per_socket,
        nr_cpus: cpus,
        max_cpu_id: cpus.saturating_sub(1),
        nr_nodes: 1,
        max_node_id: 0,
        cpu_khz: u32::try_from(machine.tsc_info().khz()).unwrap_or(u32::MAX),
        capabilities: XEN_SYSCTL_PHYSCAP_PV | grant_versions,
        arch_capabilities: 0,
        pad: 0,
        total_pages: memory.total_frames(),
        free_pages: memory.free_frames(),
        scrub_pages: memory.dirty_frames(),
        outstanding_pages: memory.claimed_frames(),
        max_mfn: machine.frame_limit().saturating_sub(1),
        hw_cap: cx.hv.cpuid.hardware_features(),
    });
}

/// `XEN_SYSCTL_getdomaininfolist`: of at most `max_domains` domains from `first_domain` on, in order of their numbers.
///
/// # Errors
/// `EFAULT`.
pub(super) fn domains(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlGetdomaininfolist = op.u.get();
    lifecycle::reap(cx.hv);
    let mut count = 0;
    let mut next = Some(arm.first_domain);
    while let Some(first) = next {
        let room = (arm.max_domains - count) as usize;
        let batch: Vec<Arc<Domain>> = {
            let domains = cx.hv.domains.read();
            let found = domains.range(first..).map(|(_, domain)| domain.clone());
            found.take(room.min(BATCH)).collect()
        };
        next = batch
            .last()
            .and_then(|domain| domain.id.0.checked_add(1))
            .map(Domid);
        for domain in batch {
            let info = domctl::domain_info(cx.hv, &domain);
            cx.write_element(arm.buffer.address(), u64::from(count), &info)?;
            count += 1;
        }
    }
    arm.num_domains = count;
    op.u.set(&arm);
    Ok(())
}

/// `XEN_SYSCTL_getcpuinfo`: how long each CPU has been idle.
///
/// # Errors
/// `EFAULT`.
pub(super) fn cpu_info(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlGetcpuinfo = op.u.get();
    arm.nr_cpus = arm.max_cpus.min(cx.machine().cpu_count());
    for cpu in 0..arm.nr_cpus {
        let info = SysctlCpuinfo {
            idletime: sched::idle_time(cx.hv, cpu),
        };
        cx.write_element(arm.info.address(), u64::from(cpu), &info)?;
    }
    op.u.set(&arm);
    Ok(())
}

/// `XEN_SYSCTL_availheap`: free memory on node 0 or on all; with `min_bitwidth` or `max_bitwidth` only what is scrubbed
/// already and has addresses that need so many bits.
pub(super) fn available(cx: &Current<'_>, op: &mut Sysctl) {
    let mut arm: SysctlAvailheap = op.u.get();
    let frame_at = |bits: u32| {
        1_u64
            .checked_shl(bits.saturating_sub(PAGE_SHIFT))
            .unwrap_or(u64::MAX)
    };
    let low = match arm.min_bitwidth {
        0 => 0,
        bits => frame_at(bits - 1),
    };
    let high = match arm.max_bitwidth {
        0 => u64::MAX,
        bits => frame_at(bits),
    };
    let frames = match arm.node {
        -1 | 0 if (low, high) == (0, u64::MAX) => cx.hv.memory.free_frames(),
        -1 | 0 => cx.hv.memory.free_frames_between(low, high),
        _ => 0,
    };
    arm.avail_bytes = frames * PAGE_SIZE as u64;
    op.u.set(&arm);
}
