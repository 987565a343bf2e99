//! Scheduling as the hypervisor does it.
#![allow(unsafe_code)]

use alloc::vec;
use alloc::vec::Vec;

use control::scheduling::{CpuSet, Parameters, Share, VcpuInfo};
use dom0::scheduling::{Affinity, Scheduler};
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::{Domid, GuestHandle};
use hypercall_abi::xen::XenctlBitmap;
use pv_guest::hypercall::toolstack;

use super::hypervisor::{Hypervisor, errno, physinfo};

/// The one pool of CPUs.
const POOL: u32 = 0;

/// An operation on a domain, which may be this one.
fn domctl(op: &mut Domctl) -> Result<(), Errno> {
    // SAFETY: the operations of this module change no memory but their own struct and the bitmaps that it names, which
    // live until the call returns.
    unsafe { toolstack::domctl(op) }.map(drop).map_err(errno)
}

pub(super) fn sysctl(op: &mut Sysctl) -> Result<(), Errno> {
    // SAFETY: the operations of this module and of `tracing` have no handles.
    unsafe { toolstack::sysctl(op) }.map(drop).map_err(errno)
}

/// A bit for each CPU of the host, for the hypervisor to read or write.
struct CpuMap(Vec<u8>, u32);

impl CpuMap {
    /// The host's CPUs among those of a set.
    fn of(set: &CpuSet, cpus: u32) -> Self {
        let mut map = vec![0u8; cpus.div_ceil(8) as usize];
        for cpu in set.cpus().filter(|cpu| u32::from(*cpu) < cpus) {
            if let Some(byte) = map.get_mut(usize::from(cpu / 8)) {
                *byte |= 1 << (cpu % 8);
            }
        }
        Self(map, cpus)
    }

    /// The set as it is in the map.
    fn set(&self) -> CpuSet {
        let has = |cpu: &u16| {
            let byte = self.0.get(usize::from(cpu / 8)).copied();
            byte.unwrap_or(0) >> (cpu % 8) & 1 != 0
        };
        CpuSet::of((0..CpuSet::MAX_CPUS).filter(has))
    }

    /// Names it to the hypervisor.
    fn bitmap(&mut self) -> XenctlBitmap {
        XenctlBitmap {
            bitmap: GuestHandle::from_mut_ptr(self.0.as_mut_ptr()),
            nr_bits: self.1,
            ..Default::default()
        }
    }
}

/// The scheduler's number: `XEN_SCHEDULER_*`.
pub(super) fn scheduler() -> Result<u32, Errno> {
    let mut op = Sysctl::new(XEN_SYSCTL_SCHED_ID);
    sysctl(&mut op)?;
    let SysctlSchedId { sched_id } = op.u.get();
    Ok(sched_id)
}

/// The number of the scheduler, if its shares are a weight and a cap: both have the same struct.
fn sharing_scheduler() -> Result<u32, Errno> {
    match scheduler()? {
        it @ (XEN_SCHEDULER_CREDIT | XEN_SCHEDULER_CREDIT2) => Ok(it),
        _ => Err(Errno::EOPNOTSUPP),
    }
}

fn share_op(domid: Domid, cmd: u32, share: Share) -> Result<DomctlSchedulerOp, Errno> {
    let mut arm = DomctlSchedulerOp {
        sched_id: sharing_scheduler()?,
        cmd,
        ..Default::default()
    };
    arm.u.set(&DomctlSchedCredit {
        weight: share.weight,
        cap: share.cap,
    });
    let mut op = Domctl::with(XEN_DOMCTL_SCHEDULER_OP, domid, &arm);
    domctl(&mut op)?;
    Ok(op.u.get())
}

fn parameters_op(cmd: u32, parameters: SysctlCreditSchedule) -> Result<Parameters, Errno> {
    let mut arm = SysctlSchedulerOp {
        cpupool_id: POOL,
        sched_id: XEN_SCHEDULER_CREDIT,
        cmd,
        ..Default::default()
    };
    arm.u.set(&parameters);
    let mut op = Sysctl::with(XEN_SYSCTL_SCHEDULER_OP, &arm);
    sysctl(&mut op)?;
    let arm: SysctlSchedulerOp = op.u.get();
    let found: SysctlCreditSchedule = arm.u.get();
    Ok(Parameters {
        timeslice_ms: found.tslice_ms,
        ratelimit_us: found.ratelimit_us,
        migration_delay_us: found.vcpu_migr_delay_us,
    })
}

impl Scheduler for Hypervisor {
    fn cpu_count(&mut self) -> Result<u32, Errno> {
        Ok(physinfo()?.max_cpu_id.saturating_add(1))
    }

    fn idle_times(&mut self) -> Result<Vec<u64>, Errno> {
        let cpus = self.cpu_count()?;
        let mut times = vec![SysctlCpuinfo::default(); cpus as usize];
        let arm = SysctlGetcpuinfo {
            max_cpus: cpus,
            info: GuestHandle::from_mut_ptr(times.as_mut_ptr()),
            ..Default::default()
        };
        let mut op = Sysctl::with(XEN_SYSCTL_GETCPUINFO, &arm);
        // SAFETY: the buffer has room for so many.
        unsafe { toolstack::sysctl(&mut op) }.map_err(errno)?;
        let SysctlGetcpuinfo { nr_cpus, .. } = op.u.get();
        times.truncate(nr_cpus as usize);
        Ok(times.into_iter().map(|cpu| cpu.idletime).collect())
    }

    fn vcpu_info(&mut self, domid: Domid, vcpu: u32) -> Result<VcpuInfo, Errno> {
        let arm = DomctlGetvcpuinfo {
            vcpu,
            ..Default::default()
        };
        let mut op = Domctl::with(XEN_DOMCTL_GETVCPUINFO, domid, &arm);
        domctl(&mut op)?;
        let info: DomctlGetvcpuinfo = op.u.get();
        let none = CpuSet::default();
        let cpus = self.cpu_count()?;
        let (mut hard, mut soft) = (CpuMap::of(&none, cpus), CpuMap::of(&none, cpus));
        let arm = DomctlVcpuaffinity {
            vcpu,
            flags: XEN_VCPUAFFINITY_HARD | XEN_VCPUAFFINITY_SOFT,
            cpumap_hard: hard.bitmap(),
            cpumap_soft: soft.bitmap(),
        };
        domctl(&mut Domctl::with(XEN_DOMCTL_GETVCPUAFFINITY, domid, &arm))?;
        Ok(VcpuInfo {
            id: vcpu,
            online: info.online != 0,
            blocked: info.blocked != 0,
            running: info.running != 0,
            cpu_time_ns: info.cpu_time,
            cpu: info.cpu,
            hard: hard.set(),
            soft: soft.set(),
        })
    }

    fn set_affinity(
        &mut self,
        domid: Domid,
        vcpu: u32,
        affinity: &Affinity<'_>,
    ) -> Result<(), Errno> {
        let flag = |given: bool, flag| if given { flag } else { 0 };
        let flags = flag(affinity.hard.is_some(), XEN_VCPUAFFINITY_HARD)
            | flag(affinity.soft.is_some(), XEN_VCPUAFFINITY_SOFT)
            | flag(affinity.force, XEN_VCPUAFFINITY_FORCE);
        let none = CpuSet::default();
        let cpus = self.cpu_count()?;
        let mut hard = CpuMap::of(affinity.hard.unwrap_or(&none), cpus);
        let mut soft = CpuMap::of(affinity.soft.unwrap_or(&none), cpus);
        let arm = DomctlVcpuaffinity {
            vcpu,
            flags,
            cpumap_hard: hard.bitmap(),
            cpumap_soft: soft.bitmap(),
        };
        domctl(&mut Domctl::with(XEN_DOMCTL_SETVCPUAFFINITY, domid, &arm))
    }

    fn share(&mut self, domid: Domid) -> Result<Share, Errno> {
        let none = Share { weight: 0, cap: 0 };
        let found = share_op(domid, XEN_DOMCTL_SCHEDOP_GETINFO, none)?;
        let share: DomctlSchedCredit = found.u.get();
        Ok(Share {
            weight: share.weight,
            cap: share.cap,
        })
    }

    fn set_share(&mut self, domid: Domid, share: Share) -> Result<(), Errno> {
        share_op(domid, XEN_DOMCTL_SCHEDOP_PUTINFO, share).map(drop)
    }

    fn parameters(&mut self) -> Result<Parameters, Errno> {
        parameters_op(XEN_SYSCTL_SCHEDOP_GETINFO, SysctlCreditSchedule::default())
    }

    fn set_parameters(&mut self, parameters: Parameters) -> Result<(), Errno> {
        let wanted = SysctlCreditSchedule {
            tslice_ms: parameters.timeslice_ms,
            ratelimit_us: parameters.ratelimit_us,
            vcpu_migr_delay_us: parameters.migration_delay_us,
        };
        parameters_op(XEN_SYSCTL_SCHEDOP_PUTINFO, wanted).map(drop)
    }
}
