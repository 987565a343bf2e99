//! The hypervisor, by hypercalls.
#![allow(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use control::{HostAction, HostInfo};
use dom0::xen::{DomainStatus, NewDomain, Xen};
use hypercall_abi::arch_x86::VcpuGuestContext;
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::{Domid, GuestHandle, Mfn, Port};
use pv_guest::counters::Counters;
use pv_guest::events::EventChannel;
use pv_guest::hypercall::{CallError, memory, toolstack};
use pv_guest::memory::{Access, ForeignDomain, Mapping};
use pv_guest::power::{self, Reason};
use pv_guest::{clock, println};
use split_drivers::shared_memory_by;

use super::nic::Card;
use super::storage::Disks;
use super::{host_info, signals, soft_off};

/// Domains that are listed at a time.
const LIST: usize = 64;
/// Bytes of the log that are read at a time.
const LOG: usize = 64 * 1024;

/// The hypervisor, with the ports of this domain that are bound to guests.
pub struct Hypervisor {
    ports: BTreeMap<Port, EventChannel>,
    pub(super) disks: Disks,
    pub(super) nic: Option<Card>,
}

/// A guest's frames.
#[derive(Debug)]
pub struct GuestFrames(pub(super) Mapping);

shared_memory_by!(GuestFrames, frames => *frames.0);

/// Errors that the interface does not name can only come from a newer hypervisor.
pub(super) fn errno(error: CallError) -> Errno {
    error.errno().unwrap_or(Errno::EIO)
}

/// An operation on a domain whose struct has no pointers.
fn domctl(op: &mut Domctl) -> Result<(), Errno> {
    // SAFETY: the operations of this module that come here have no handles, and concern other
    // domains: `others` sees to that.
    unsafe { toolstack::domctl(op) }.map(drop).map_err(errno)
}

/// Refuses operations on this domain itself.
fn others(domid: Domid) -> Result<Domid, Errno> {
    if domid.is_ordinary() && domid != dom0::toolstack::DOM0 {
        Ok(domid)
    } else {
        Err(Errno::EINVAL)
    }
}

fn foreign(domid: Domid) -> Result<ForeignDomain, Errno> {
    ForeignDomain::new(others(domid)?).ok_or(Errno::EINVAL)
}

fn status(info: &DomctlGetdomaininfo) -> DomainStatus {
    let has = |flag| info.flags & flag != 0;
    DomainStatus {
        domid: info.domain,
        dying: has(XEN_DOMINF_DYING),
        shutdown: has(XEN_DOMINF_SHUTDOWN).then(|| info.shutdown_reason() as u8),
        paused: has(XEN_DOMINF_PAUSED),
        blocked: has(XEN_DOMINF_BLOCKED),
        running: has(XEN_DOMINF_RUNNING),
        tot_pages: info.tot_pages,
        max_pages: info.max_pages,
        outstanding_pages: info.outstanding_pages,
        shared_info: Mfn(info.shared_info_frame),
        cpu_time: info.cpu_time,
        online_vcpus: info.nr_online_vcpus,
        max_vcpu_id: info.max_vcpu_id,
        ssidref: info.ssidref,
        handle: info.handle,
        cpupool: info.cpupool,
    }
}

pub(super) fn physinfo() -> Result<SysctlPhysinfo, Errno> {
    let mut op = Sysctl::new(XEN_SYSCTL_PHYSINFO);
    // SAFETY: the operation has no handles.
    unsafe { toolstack::sysctl(&mut op) }.map_err(errno)?;
    Ok(op.u.get())
}

pub(super) fn free_kib(info: &SysctlPhysinfo) -> u64 {
    info.free_pages.saturating_sub(info.outstanding_pages) * 4
}

impl Hypervisor {
    /// The hypervisor, with no guest known, and the host's disks and network card.
    pub fn new() -> Self {
        Self {
            ports: BTreeMap::new(),
            disks: Disks::find(),
            nic: Card::find(),
        }
    }

    fn list_from(&self, first: Domid) -> Result<Vec<DomainStatus>, Errno> {
        let mut buffer = Vec::new();
        buffer.resize(LIST, DomctlGetdomaininfo::default());
        let mut op = Sysctl::with(
            XEN_SYSCTL_GETDOMAININFOLIST,
            &SysctlGetdomaininfolist {
                first_domain: first,
                max_domains: LIST as u32,
                buffer: GuestHandle::from_mut_ptr(buffer.as_mut_ptr()),
                ..Default::default()
            },
        );
        // SAFETY: the buffer has room for so many.
        unsafe { toolstack::sysctl(&mut op) }.map_err(errno)?;
        let found = op.u.get::<SysctlGetdomaininfolist>().num_domains as usize;
        buffer.truncate(found);
        Ok(buffer.iter().map(status).collect())
    }
}

impl Xen for Hypervisor {
    type Mapping = GuestFrames;

    fn now(&self) -> u64 {
        clock::now()
    }

    fn wall_clock(&self) -> u64 {
        clock::wall_clock().as_secs()
    }

    fn log(&mut self, line: &str) {
        println!("{line}");
    }

    fn create_domain(&mut self, domain: &NewDomain) -> Result<Domid, Errno> {
        let mut op = Domctl::with(
            XEN_DOMCTL_CREATEDOMAIN,
            Domid::FIRST_RESERVED,
            &DomctlCreatedomain {
                handle: domain.handle,
                max_vcpus: domain.max_vcpus,
                max_evtchn_port: domain.max_port,
                max_grant_frames: -1,
                max_maptrack_frames: -1,
                grant_opts: 1,
                ..Default::default()
            },
        );
        domctl(&mut op)?;
        Ok(op.domain)
    }

    fn destroy_domain(&mut self, domid: Domid) -> Result<(), Errno> {
        let domid = others(domid)?;
        loop {
            match domctl(&mut Domctl::new(XEN_DOMCTL_DESTROYDOMAIN, domid)) {
                // It is long work, done in parts.
                Err(Errno::EAGAIN) => {}
                other => return other,
            }
        }
    }

    fn pause_domain(&mut self, domid: Domid) -> Result<(), Errno> {
        domctl(&mut Domctl::new(XEN_DOMCTL_PAUSEDOMAIN, others(domid)?))
    }

    fn unpause_domain(&mut self, domid: Domid) -> Result<(), Errno> {
        domctl(&mut Domctl::new(XEN_DOMCTL_UNPAUSEDOMAIN, others(domid)?))
    }

    fn set_handle(&mut self, domid: Domid, handle: [u8; 16]) -> Result<(), Errno> {
        let arm = DomctlSetdomainhandle { handle };
        domctl(&mut Domctl::with(
            XEN_DOMCTL_SETDOMAINHANDLE,
            others(domid)?,
            &arm,
        ))
    }

    fn set_max_vcpus(&mut self, domid: Domid, vcpus: u32) -> Result<(), Errno> {
        let arm = DomctlMaxVcpus { max: vcpus };
        domctl(&mut Domctl::with(
            XEN_DOMCTL_MAX_VCPUS,
            others(domid)?,
            &arm,
        ))
    }

    fn set_max_memory(&mut self, domid: Domid, kib: u64) -> Result<(), Errno> {
        let arm = DomctlMaxMem { max_memkb: kib };
        domctl(&mut Domctl::with(XEN_DOMCTL_MAX_MEM, others(domid)?, &arm))
    }

    fn send_trigger(&mut self, domid: Domid, trigger: u32, vcpu: u32) -> Result<(), Errno> {
        let arm = DomctlSendtrigger { trigger, vcpu };
        domctl(&mut Domctl::with(
            XEN_DOMCTL_SENDTRIGGER,
            others(domid)?,
            &arm,
        ))
    }

    fn set_vcpu_context(
        &mut self,
        domid: Domid,
        vcpu: u32,
        context: &VcpuGuestContext,
    ) -> Result<(), Errno> {
        let arm = DomctlVcpucontext {
            vcpu,
            ctxt: GuestHandle::from_ptr(context),
            ..Default::default()
        };
        let mut op = Domctl::with(XEN_DOMCTL_SETVCPUCONTEXT, others(domid)?, &arm);
        // SAFETY: the context is only read, and concerns another domain.
        unsafe { toolstack::domctl(&mut op) }
            .map(drop)
            .map_err(errno)
    }

    fn init_hypercall_page(&mut self, domid: Domid, page: Mfn) -> Result<(), Errno> {
        let arm = DomctlHypercallInit { gmfn: page.0 };
        domctl(&mut Domctl::with(
            XEN_DOMCTL_HYPERCALL_INIT,
            others(domid)?,
            &arm,
        ))
    }

    fn domain_status(&mut self, domid: Domid) -> Result<Option<DomainStatus>, Errno> {
        let mut op = Domctl::new(XEN_DOMCTL_GETDOMAININFO, domid);
        match domctl(&mut op) {
            // It answers for the next domain if there is none of this id.
            Ok(()) if op.domain == domid => Ok(Some(status(&op.u.get()))),
            Ok(()) | Err(Errno::ESRCH) => Ok(None),
            Err(errno) => Err(errno),
        }
    }

    fn domain_list(&mut self) -> Result<Vec<DomainStatus>, Errno> {
        let mut all = Vec::new();
        let mut first = Domid(0);
        loop {
            let found = self.list_from(first)?;
            let full = found.len() == LIST;
            let last = found.last().map(|status| status.domid);
            all.extend(found);
            match last {
                Some(Domid(last)) if full => first = Domid(last.saturating_add(1)),
                _ => return Ok(all),
            }
        }
    }

    fn counter(&mut self, name: &str) -> Result<Vec<u32>, Errno> {
        let counters = Counters::read().map_err(errno)?;
        Ok(counters.values(name).to_vec())
    }

    fn populate(&mut self, domid: Domid, order: u32, extents: &mut [u64]) -> Result<usize, Errno> {
        memory::populate_physmap(others(domid)?, extents, order, 0).map_err(errno)
    }

    fn map(&mut self, domid: Domid, frames: &[Mfn]) -> Result<GuestFrames, Errno> {
        foreign(domid)?
            .map(frames, Access::ReadWrite)
            .map(GuestFrames)
            .map_err(errno)
    }

    fn pin_root(&mut self, domid: Domid, root: Mfn) -> Result<(), Errno> {
        foreign(domid)?.pin_table(4, root).map_err(errno)
    }

    fn alloc_unbound(&mut self, domid: Domid) -> Result<Port, Errno> {
        EventChannel::alloc_unbound_for(others(domid)?, dom0::toolstack::DOM0).map_err(errno)
    }

    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> Result<Port, Errno> {
        let channel = EventChannel::bind_interdomain(others(domid)?, remote).map_err(errno)?;
        channel.set_handler(signals::raise);
        let port = channel.port();
        self.ports.insert(port, channel);
        Ok(port)
    }

    fn notify(&mut self, port: Port) -> Result<(), Errno> {
        let channel = self.ports.get(&port).ok_or(Errno::EINVAL)?;
        channel.notify().map_err(errno)
    }

    fn close_port(&mut self, port: Port) -> Result<(), Errno> {
        self.ports.remove(&port).map(drop).ok_or(Errno::EINVAL)
    }

    fn free_memory_kib(&mut self) -> Result<u64, Errno> {
        physinfo().map(|info| free_kib(&info))
    }

    fn host_info(&mut self) -> Result<HostInfo, Errno> {
        physinfo().map(|physinfo| host_info::read(&physinfo))
    }

    fn read_log(&mut self, clear: bool) -> Result<Vec<u8>, Errno> {
        let mut log = Vec::new();
        let mut index = None;
        loop {
            let start = log.len();
            log.resize(start + LOG, 0);
            let Some(room) = log.get_mut(start..) else {
                return Ok(log);
            };
            let mut op = Sysctl::with(
                XEN_SYSCTL_READCONSOLE,
                &SysctlReadconsole {
                    clear: clear.into(),
                    incremental: index.is_some().into(),
                    index: index.unwrap_or(0),
                    buffer: GuestHandle::from_mut_ptr(room.as_mut_ptr()),
                    count: LOG as u32,
                    ..Default::default()
                },
            );
            // SAFETY: the buffer has room for so many bytes.
            unsafe { toolstack::sysctl(&mut op) }.map_err(errno)?;
            let answer: SysctlReadconsole = op.u.get();
            let count = (answer.count as usize).min(LOG);
            log.truncate(start + count);
            if count < LOG {
                return Ok(log);
            }
            index = Some(answer.index);
        }
    }

    fn stop_host(&mut self, action: HostAction) -> Result<(), Errno> {
        power::shutdown(match action {
            HostAction::PowerOff => {
                soft_off::switch_off();
                Reason::PowerOff
            }
            HostAction::Reboot => Reason::Reboot,
        })
    }
}
