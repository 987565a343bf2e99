//! The hypervisor as the control domain uses it: one method for each operation of Xen's interface.
//!
//! Errors are the hypercalls' own. Nothing is retried or translated on the far side of this trait,
//! except what Xen asks every caller to repeat (`EAGAIN` of a long operation).

use alloc::string::String;
use alloc::vec::Vec;
use control::{HostAction, HostInfo};
use hypercall_abi::arch_x86::VcpuGuestContext;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Pfn, Port};
use split_drivers::SharedMemory;

use crate::nic::Nic;
use crate::scheduling::Scheduler;
use crate::storage::Storage;
use crate::trace::Tracing;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// What `XEN_DOMCTL_createdomain` is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDomain {
    /// The domain's handle, which is its UUID.
    pub handle: [u8; 16],
    /// How many vCPUs it may ever have.
    pub max_vcpus: u32,
    /// The highest event-channel port that it may have.
    pub max_port: u32,
}

/// What `XEN_DOMCTL_getdomaininfo` tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DomainStatus {
    /// Its id.
    pub domid: Domid,
    /// Being destroyed.
    pub dying: bool,
    /// Shut down, with its `SHUTDOWN_*`.
    pub shutdown: Option<u8>,
    /// Paused by its toolstack.
    pub paused: bool,
    /// All vCPUs wait for an event.
    pub blocked: bool,
    /// A vCPU is on a CPU.
    pub running: bool,
    /// Pages that it has.
    pub tot_pages: u64,
    /// Pages that it may have.
    pub max_pages: u64,
    /// Pages claimed for it that it does not have yet.
    pub outstanding_pages: u64,
    /// The frame of its shared info.
    pub shared_info: Mfn,
    /// CPU time that its vCPUs have used, in nanoseconds.
    pub cpu_time: u64,
    /// vCPUs online.
    pub online_vcpus: u32,
    /// The highest number of a vCPU, `u32::MAX` if there is none.
    pub max_vcpu_id: u32,
    /// Its security label.
    pub ssidref: u32,
    /// Its handle.
    pub handle: [u8; 16],
    /// The CPU pool that it runs in.
    pub cpupool: u32,
}

/// The hypervisor.
pub trait Xen: Nic + Scheduler + Storage + Tracing {
    /// Foreign frames in this domain's address space, one behind the other. They are unmapped when
    /// it is dropped.
    type Mapping: SharedMemory;

    /// Nanoseconds since the host booted.
    fn now(&self) -> u64;
    /// Seconds since 1970, UTC.
    fn wall_clock(&self) -> u64;
    /// Writes a line to this domain's own log.
    fn log(&mut self, line: &str);

    /// `XEN_DOMCTL_createdomain`, a PV domain.
    fn create_domain(&mut self, domain: &NewDomain) -> Result<Domid, Errno>;
    /// `XEN_DOMCTL_destroydomain`. The domain can linger as long as its frames are mapped.
    fn destroy_domain(&mut self, domid: Domid) -> Result<(), Errno>;
    /// `XEN_DOMCTL_pausedomain`.
    fn pause_domain(&mut self, domid: Domid) -> Result<(), Errno>;
    /// `XEN_DOMCTL_unpausedomain`.
    fn unpause_domain(&mut self, domid: Domid) -> Result<(), Errno>;
    /// `XEN_DOMCTL_setdomainhandle`.
    fn set_handle(&mut self, domid: Domid, handle: [u8; 16]) -> Result<(), Errno>;
    /// `XEN_DOMCTL_max_vcpus`.
    fn set_max_vcpus(&mut self, domid: Domid, vcpus: u32) -> Result<(), Errno>;
    /// `XEN_DOMCTL_max_mem`.
    fn set_max_memory(&mut self, domid: Domid, kib: u64) -> Result<(), Errno>;
    /// `XEN_DOMCTL_sendtrigger`.
    fn send_trigger(&mut self, domid: Domid, trigger: u32, vcpu: u32) -> Result<(), Errno>;
    /// `XEN_DOMCTL_setvcpucontext`.
    fn set_vcpu_context(
        &mut self,
        domid: Domid,
        vcpu: u32,
        context: &VcpuGuestContext,
    ) -> Result<(), Errno>;
    /// `XEN_DOMCTL_hypercall_init`.
    fn init_hypercall_page(&mut self, domid: Domid, page: Mfn) -> Result<(), Errno>;
    /// `XEN_DOMCTL_getdomaininfo`; `None` if there is no domain of exactly that id.
    fn domain_status(&mut self, domid: Domid) -> Result<Option<DomainStatus>, Errno>;
    /// `XEN_SYSCTL_getdomaininfolist`: all domains, by id.
    fn domain_list(&mut self) -> Result<Vec<DomainStatus>, Errno>;
    /// The values of a counter of `XEN_SYSCTL_perfc_op`, which wrap around; none of one that is not counted.
    fn counter(&mut self, name: &str) -> Result<Vec<u32>, Errno>;

    /// `XENMEM_populate_physmap`: gives the domain a chunk of `1 << order` frames for each element
    /// of `extents`, which goes in as the first guest frame and comes out as the first machine
    /// frame. Returns how many elements were done.
    fn populate(&mut self, domid: Domid, order: u32, extents: &mut [u64]) -> Result<usize, Errno>;
    /// Maps frames of a domain, writable.
    fn map(&mut self, domid: Domid, frames: &[Mfn]) -> Result<Self::Mapping, Errno>;
    /// `MMUEXT_PIN_L4_TABLE` on behalf of a domain.
    fn pin_root(&mut self, domid: Domid, root: Mfn) -> Result<(), Errno>;

    /// `EVTCHNOP_alloc_unbound`: a port of `domid` that this domain may bind to.
    fn alloc_unbound(&mut self, domid: Domid) -> Result<Port, Errno>;
    /// `EVTCHNOP_bind_interdomain`: a port of this domain.
    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> Result<Port, Errno>;
    /// `EVTCHNOP_send` on a port of this domain.
    fn notify(&mut self, port: Port) -> Result<(), Errno>;
    /// `EVTCHNOP_close` on a port of this domain.
    fn close_port(&mut self, port: Port) -> Result<(), Errno>;

    /// Memory that is free for domains, in KiB.
    fn free_memory_kib(&mut self) -> Result<u64, Errno>;
    /// What `XEN_SYSCTL_physinfo`, `XENVER_*` and their like tell of the host.
    fn host_info(&mut self) -> Result<HostInfo, Errno>;
    /// `XEN_SYSCTL_readconsole`: the hypervisor's log.
    fn read_log(&mut self, clear: bool) -> Result<Vec<u8>, Errno>;
    /// `SCHEDOP_shutdown` of the control domain, which takes the host along. Returns only if the
    /// hypervisor refuses.
    fn stop_host(&mut self, action: HostAction) -> Result<(), Errno>;
}

/// Names the operation that failed.
pub(crate) trait Context<T> {
    fn context(self, call: &str) -> Result<T, control::Error>;
}

impl<T> Context<T> for Result<T, Errno> {
    fn context(self, call: &str) -> Result<T, control::Error> {
        self.map_err(|errno| control::Error::Hypervisor {
            call: String::from(call),
            errno: errno as i32,
        })
    }
}

/// `count` consecutive guest frames from `first` on.
pub(crate) fn frames(first: Pfn, count: u64) -> impl Iterator<Item = Pfn> {
    (first.0..first.0.saturating_add(count)).map(Pfn)
}
