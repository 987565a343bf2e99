//! What the initial domain may do: other domains, their memory and tables, the whole system.

use core::time::Duration;

use hypercall_abi::arch_x86::VcpuGuestContext;
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::EVTCHNSTAT_INTERDOMAIN;
use hypercall_abi::sched::{SHUTDOWN_MAX, SHUTDOWN_REBOOT};
use hypercall_abi::sysctl::*;
use hypercall_abi::types::{Domid, GuestHandle, Mfn, Pfn};
use hypercall_abi::xen::MmuUpdate;
use pv_guest::events::EventChannel;
use pv_guest::hypercall::mmu::{self, Foreign};
use pv_guest::hypercall::{Result, memory, sched, toolstack};
use pv_guest::memory::{Access, ForeignDomain, Mapping};
use pv_guest::pte::{Flags, Pte};
use pv_guest::{boot, clock};

use super::tap::{OK, Tap};

const INVALID: core::result::Result<(), Errno> = Err(Errno::EINVAL);
const BUSY: core::result::Result<(), Errno> = Err(Errno::EBUSY);
const NOT_PERMITTED: core::result::Result<(), Errno> = Err(Errno::EPERM);
const NONE: core::result::Result<(), Errno> = Err(Errno::ESRCH);

/// A number that no domain has.
const ABSENT: Domid = Domid(77);

fn call(mut op: Domctl) -> Result<Domctl> {
    // SAFETY: the tests' operations have no handles, or those of what they own, and none harms this
    // domain.
    unsafe { toolstack::domctl(&mut op) }.map(|_| op)
}

fn simple(cmd: u32, domain: Domid) -> Result<()> {
    call(Domctl::new(cmd, domain)).map(drop)
}

fn query(mut op: Sysctl) -> Result<Sysctl> {
    // SAFETY: the tests' operations have no handles, or those of what they own.
    unsafe { toolstack::sysctl(&mut op) }.map(|_| op)
}

fn info(domain: Domid) -> Result<DomctlGetdomaininfo> {
    call(Domctl::new(XEN_DOMCTL_GETDOMAININFO, domain)).map(|op| op.u.get())
}

fn free_pages() -> u64 {
    let physinfo = query(Sysctl::new(XEN_SYSCTL_PHYSINFO)).map(|op| op.u.get::<SysctlPhysinfo>());
    physinfo.map(|info| info.free_pages).unwrap_or_default()
}

/// How the tests create a domain.
fn configuration() -> DomctlCreatedomain {
    DomctlCreatedomain {
        max_vcpus: 1,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        // The highest version of its grant table is 1.
        grant_opts: 1,
        ..DomctlCreatedomain::default()
    }
}

fn create(configuration: &DomctlCreatedomain) -> Result<Domid> {
    call(Domctl::with(
        XEN_DOMCTL_CREATEDOMAIN,
        Domid(0),
        configuration,
    ))
    .map(|op| op.domain)
}

pub async fn run(tap: &mut Tap) {
    if !boot::is_initial_domain() {
        unprivileged(tap);
        return;
    }
    whole_system(tap);
    arguments(tap);
    // The first domain ever leaves behind what the hypervisor keeps for the next.
    if let Ok(domain) = create(&configuration()) {
        tap.call(
            "a domain comes and goes",
            simple(XEN_DOMCTL_DESTROYDOMAIN, domain),
            OK,
        );
        settle().await;
    }
    let free = free_pages();
    match create(&configuration()) {
        Ok(domain) => life(tap, domain),
        Err(error) => tap.is("a domain can be created", Err(error.errno()), Ok(())),
    }
    settle().await;
    tap.is("nothing is left of it", free_pages(), free);
}

/// Gives the hypervisor time to free what it frees later.
async fn settle() {
    clock::sleep(Duration::from_millis(200)).await;
}

/// What an ordinary domain is refused.
fn unprivileged(tap: &mut Tap) {
    let refused: core::result::Result<(), Errno> = Err(Errno::EPERM);
    tap.call("another domain's state", info(Domid(0)), refused);
    tap.call("a domain", create(&configuration()), refused);
    tap.call(
        "the system's state",
        query(Sysctl::new(XEN_SYSCTL_PHYSINFO)),
        refused,
    );
}

fn whole_system(tap: &mut Tap) {
    let physinfo = query(Sysctl::new(XEN_SYSCTL_PHYSINFO)).map(|op| op.u.get::<SysctlPhysinfo>());
    let physinfo = physinfo.unwrap_or_default();
    tap.holds("the system has a CPU", physinfo.nr_cpus >= 1);
    tap.holds(
        "and memory",
        physinfo.total_pages > boot::start_info().nr_pages,
    );
    tap.holds(
        "some of it free",
        physinfo.free_pages < physinfo.total_pages,
    );
    let capable = physinfo.capabilities & XEN_SYSCTL_PHYSCAP_PV;
    tap.is("it runs PV guests", capable, XEN_SYSCTL_PHYSCAP_PV);
    let mut domains = [DomctlGetdomaininfo::default(); 4];
    let list = SysctlGetdomaininfolist {
        max_domains: 4,
        buffer: GuestHandle::from_mut_ptr(domains.as_mut_ptr()),
        ..SysctlGetdomaininfolist::default()
    };
    let op = query(Sysctl::with(XEN_SYSCTL_GETDOMAININFOLIST, &list));
    let count = op
        .map(|op| op.u.get::<SysctlGetdomaininfolist>().num_domains)
        .ok();
    tap.is("one domain is listed", count, Some(1));
    tap.is("which is this one", domains[0].domain, Domid(0));
    tap.is(
        "and is running",
        domains[0].flags & XEN_DOMINF_RUNNING,
        XEN_DOMINF_RUNNING,
    );
    tap.call(
        "an operation that does not exist",
        query(Sysctl::new(9999)),
        Err(Errno::ENOSYS),
    );
    let mut old = Sysctl::new(XEN_SYSCTL_PHYSINFO);
    old.interface_version -= 1;
    tap.call(
        "an operation of another version",
        query(old),
        Err(Errno::EACCES),
    );
}

fn arguments(tap: &mut Tap) {
    tap.call(
        "an operation that does not exist",
        simple(9999, Domid(0)),
        Err(Errno::ENOSYS),
    );
    let mut old = Domctl::new(XEN_DOMCTL_GETDOMAININFO, Domid(0));
    old.interface_version += 1;
    tap.call(
        "an operation of another version",
        call(old),
        Err(Errno::EACCES),
    );
    let own = info(Domid(0)).unwrap_or_default();
    tap.is(
        "the initial domain's pages",
        own.tot_pages,
        boot::start_info().nr_pages,
    );
    tap.is(
        "and its vCPUs",
        (own.nr_online_vcpus, own.max_vcpu_id),
        (1, 0),
    );
    tap.is(
        "and its shared page",
        own.shared_info_frame,
        boot::start_info().shared_info >> 12,
    );
    tap.call(
        "the state of a domain that is not there",
        info(ABSENT),
        NONE,
    );
    tap.call("pausing one", simple(XEN_DOMCTL_PAUSEDOMAIN, ABSENT), NONE);
    tap.call(
        "destroying one",
        simple(XEN_DOMCTL_DESTROYDOMAIN, ABSENT),
        NONE,
    );
    tap.call(
        "pausing oneself",
        simple(XEN_DOMCTL_PAUSEDOMAIN, Domid(0)),
        INVALID,
    );
    tap.call(
        "destroying oneself",
        simple(XEN_DOMCTL_DESTROYDOMAIN, Domid(0)),
        INVALID,
    );
    tap.call(
        "unpausing oneself",
        simple(XEN_DOMCTL_UNPAUSEDOMAIN, Domid(0)),
        INVALID,
    );
    tap.call(
        "shutting down one that is not there",
        sched::remote_shutdown(ABSENT, 0),
        NONE,
    );

    let good = configuration();
    let bad = [
        (
            "without vCPUs",
            DomctlCreatedomain {
                max_vcpus: 0,
                ..good
            },
        ),
        (
            "with too many vCPUs",
            DomctlCreatedomain {
                max_vcpus: 8193,
                ..good
            },
        ),
        (
            "with unknown flags",
            DomctlCreatedomain {
                flags: 1 << 31,
                ..good
            },
        ),
        (
            "with a mapped TLB of an IOMMU that it does not use",
            DomctlCreatedomain {
                iommu_opts: 1,
                ..good
            },
        ),
        (
            "with an unknown grant option",
            DomctlCreatedomain {
                grant_opts: 1 << 31,
                ..good
            },
        ),
        (
            "with hardware-assisted paging",
            DomctlCreatedomain {
                flags: XEN_DOMCTL_CDF_HAP,
                ..good
            },
        ),
    ];
    for (name, configuration) in bad {
        let created = create(&configuration);
        tap.call(name, created, INVALID);
        if let Ok(domain) = created {
            _ = simple(XEN_DOMCTL_DESTROYDOMAIN, domain);
        }
    }
}

/// A domain from its creation to its end.
fn life(tap: &mut Tap, domain: Domid) {
    tap.holds(
        "a domain has a number",
        domain.is_ordinary() && domain != Domid(0),
    );
    let again = call(Domctl::with(
        XEN_DOMCTL_CREATEDOMAIN,
        domain,
        &configuration(),
    ));
    tap.call("which no other can have", again, Err(Errno::EEXIST));
    let state = info(domain).unwrap_or_default();
    tap.is("it is paused", state.flags & 0xff, XEN_DOMINF_PAUSED);
    tap.is("it has no pages", state.tot_pages, 0);
    tap.is(
        "nor vCPUs",
        (state.nr_online_vcpus, state.max_vcpu_id),
        (0, u32::MAX),
    );
    let handle = DomctlSetdomainhandle {
        handle: *b"0123456789abcdef",
    };
    let op = Domctl::with(XEN_DOMCTL_SETDOMAINHANDLE, domain, &handle);
    tap.call("it is given an identifier", call(op), OK);
    tap.is(
        "and has it",
        info(domain).map(|state| state.handle).ok(),
        Some(handle.handle),
    );

    let max_vcpus = |max: u32| {
        call(Domctl::with(
            XEN_DOMCTL_MAX_VCPUS,
            domain,
            &DomctlMaxVcpus { max },
        ))
    };
    tap.call("it cannot have two vCPUs", max_vcpus(2), INVALID);
    tap.call("it is given one", max_vcpus(1), OK);
    tap.is(
        "and has one",
        info(domain).map(|state| state.max_vcpu_id).ok(),
        Some(0),
    );
    let max_mem = DomctlMaxMem { max_memkb: 64 };
    tap.call(
        "it may have 64 KiB",
        call(Domctl::with(XEN_DOMCTL_MAX_MEM, domain, &max_mem)),
        OK,
    );
    tap.is(
        "and 16 pages",
        info(domain).map(|state| state.max_pages).ok(),
        Some(16),
    );

    let mut frames: [u64; 20] = core::array::from_fn(|pfn| pfn as u64);
    let populated = memory::populate_physmap(domain, &mut frames, 0, 0).ok();
    tap.is("of 20 pages, it is given 16", populated, Some(16));
    tap.is(
        "and has them",
        info(domain).map(|state| state.tot_pages).ok(),
        Some(16),
    );
    let frames: [Mfn; 16] = core::array::from_fn(|pfn| Mfn(frames[pfn]));
    let Some(foreign) = ForeignDomain::new(domain) else {
        return;
    };
    foreign_memory(tap, foreign, &frames);
    foreign_tables(tap, foreign, &frames);
    channels(tap, domain);
    vcpu(tap, domain);

    tap.call(
        "it is shut down",
        sched::remote_shutdown(domain, SHUTDOWN_REBOOT),
        OK,
    );
    let state = info(domain).unwrap_or_default();
    let shutdown = (state.flags & XEN_DOMINF_SHUTDOWN, state.shutdown_reason());
    tap.is(
        "to reboot",
        shutdown,
        (XEN_DOMINF_SHUTDOWN, SHUTDOWN_REBOOT),
    );
    tap.call(
        "not for a reason beyond all",
        sched::remote_shutdown(domain, SHUTDOWN_MAX + 1),
        OK,
    );

    let mapping = foreign.map(&frames[15..], Access::ReadWrite).ok();
    tap.call(
        "it is destroyed",
        simple(XEN_DOMCTL_DESTROYDOMAIN, domain),
        OK,
    );
    let state = info(domain).unwrap_or_default();
    tap.is(
        "while a page of it is mapped, it is dying",
        state.flags & XEN_DOMINF_DYING,
        XEN_DOMINF_DYING,
    );
    tap.is("and has that page", state.tot_pages, 1);
    drop(mapping);
    tap.call("then it is gone", info(domain), NONE);
    tap.call(
        "and its pages with it",
        foreign.map(&frames[..1], Access::ReadOnly),
        NONE,
    );
}

fn foreign_memory(tap: &mut Tap, foreign: ForeignDomain, frames: &[Mfn; 16]) {
    match foreign.map(frames, Access::ReadWrite) {
        Ok(mapping) => {
            tap.is("its pages can be mapped", mapping.size(), 16 * 4096);
            let zero = (0..mapping.size())
                .step_by(8)
                .all(|at| mapping.get::<u64>(at) == 0);
            tap.holds("and are clean", zero);
            mapping.copy_in(4094, b"across");
            let mut bytes = [0; 6];
            mapping.copy_out(4094, &mut bytes);
            tap.is("they can be written and read", &bytes, b"across");
        }
        Err(error) => tap.is("its pages can be mapped", Err(error.errno()), Ok(())),
    }
    let mapping = foreign.map(&frames[1..2], Access::ReadOnly);
    let word = mapping.as_ref().map(|mapping| mapping.get::<u32>(0)).ok();
    tap.is(
        "what was written stays",
        word,
        Some(u32::from_le_bytes(*b"ross")),
    );
    drop(mapping);
    tap.call(
        "they are not this domain's",
        Mapping::foreign(Domid::SELF, &frames[..1], Access::ReadOnly),
        BUSY,
    );
    // SAFETY: the test does not use what it maps.
    let device = |frame: Mfn| unsafe { Mapping::device(frame, 1) };
    tap.call("nor registers", device(frames[0]), BUSY);
    tap.call(
        "nor a third domain's",
        Mapping::foreign(ABSENT, &frames[..1], Access::ReadOnly),
        NONE,
    );
    let own = [pv_guest::memory::root()];
    tap.call(
        "this domain's are not its",
        foreign.map(&own, Access::ReadOnly),
        INVALID,
    );
    let shared = info(foreign.id())
        .map(|state| Mfn(state.shared_info_frame))
        .unwrap_or(Mfn(0));
    tap.call(
        "its shared page can be mapped",
        foreign.map(&[shared], Access::ReadWrite),
        OK,
    );
    let hypervisor = foreign.map(&[Mfn(1 << 39)], Access::ReadOnly);
    tap.call(
        "a frame that does not exist cannot",
        hypervisor,
        NOT_PERMITTED,
    );

    let numbered = [(frames[3], Pfn(0x333))];
    tap.call(
        "its frames are numbered",
        foreign.set_machine_to_physical(&numbered),
        OK,
    );
    let absent = [(Mfn(1 << 39), Pfn(1))];
    tap.call(
        "not those that do not exist",
        foreign.set_machine_to_physical(&absent),
        INVALID,
    );
    let apic = device(Mfn(0xfee00));
    tap.call(
        "the hypervisor's local APIC cannot be mapped",
        apic,
        NOT_PERMITTED,
    );
    let text = device(Mfn(0xb8));
    tap.call("device registers can be mapped", text, OK);
}

/// Tables in frames of the domain: 0 to 3 are those of level 1 to 4, and map frame 4.
fn foreign_tables(tap: &mut Tap, foreign: ForeignDomain, frames: &[Mfn; 16]) {
    let domain = foreign.id();
    let Ok(mapping) = foreign.map(&frames[..4], Access::ReadWrite) else {
        tap.holds("its tables can be written", false);
        return;
    };
    for (level, offset) in (0..4).zip((0..).step_by(4096)) {
        let entry = match level {
            0 => Pte::new(frames[4], Flags::READ_WRITE),
            _ => Pte::new(frames[level - 1], Flags::TABLE),
        };
        mapping.fill(offset, 4096, 0);
        mapping.set(offset, entry.0);
    }
    tap.call(
        "a table that we have mapped writable",
        foreign.pin_table(4, frames[3]),
        INVALID,
    );
    drop(mapping);
    tap.call(
        "a tree of tables is pinned",
        foreign.pin_table(4, frames[3]),
        OK,
    );
    tap.call(
        "and cannot be mapped writable",
        foreign.map(&frames[..1], Access::ReadWrite),
        BUSY,
    );
    tap.call(
        "but to be read",
        foreign.map(&frames[..4], Access::ReadOnly),
        OK,
    );
    let both = Foreign::new(domain, domain);
    let update = |place: u64, entry: Pte| {
        let update = MmuUpdate {
            ptr: (frames[0].0 << 12) | (place * 8),
            val: entry.0,
        };
        // SAFETY: it changes a table of the other domain's.
        unsafe { mmu::mmu_update(&[update], None, both) }
    };
    tap.call(
        "its entries can be set",
        update(1, Pte::new(frames[5], Flags::READ_WRITE)),
        OK,
    );
    tap.call(
        "not to a table, writable",
        update(2, Pte::new(frames[1], Flags::READ_WRITE)),
        BUSY,
    );
    tap.call(
        "nor to a frame of ours",
        update(2, Pte::new(pv_guest::memory::root(), Flags::READ)),
        BUSY,
    );
    let mut types = [frames[0].0, frames[3].0, frames[4].0, 1 << 39];
    let query = DomctlGetpageframeinfo3 {
        num: 4,
        array: GuestHandle::from_mut_ptr(types.as_mut_ptr()),
    };
    tap.call(
        "types are told",
        call(Domctl::with(XEN_DOMCTL_GETPAGEFRAMEINFO3, domain, &query)),
        OK,
    );
    let wanted = [
        XEN_DOMCTL_PFINFO_L1TAB,
        XEN_DOMCTL_PFINFO_L4TAB | XEN_DOMCTL_PFINFO_LPINTAB,
        XEN_DOMCTL_PFINFO_NOTAB,
        XEN_DOMCTL_PFINFO_XTAB,
    ];
    tap.is("as they are", types, wanted.map(u64::from));
    tap.call("the tree is unpinned", foreign.unpin_table(frames[3]), OK);
    tap.call(
        "and can be written",
        foreign.map(&frames[..4], Access::ReadWrite),
        OK,
    );
}

fn channels(tap: &mut Tap, domain: Domid) {
    let Ok(port) = EventChannel::alloc_unbound_for(domain, Domid::SELF) else {
        tap.holds("it is given a port", false);
        return;
    };
    tap.holds("it is given a port", port.0 != 0);
    match EventChannel::bind_interdomain(domain, port) {
        Ok(channel) => {
            tap.call("to which we send", channel.notify(), OK);
            let status = channel.status().unwrap_or_default().status;
            tap.is("being connected", status, EVTCHNSTAT_INTERDOMAIN);
        }
        Err(error) => tap.is("to which we connect", Err(error.errno()), Ok(())),
    }
    let port = EventChannel::alloc_unbound_for(domain, ABSENT);
    tap.call("a port for a domain that is not there yet", port, OK);
}

fn vcpu(tap: &mut Tap, domain: Domid) {
    let mut context = VcpuGuestContext::default();
    let mut argument = DomctlVcpucontext {
        ctxt: GuestHandle::from_mut_ptr(&raw mut context),
        ..DomctlVcpucontext::default()
    };
    let get = |argument: &DomctlVcpucontext| {
        call(Domctl::with(XEN_DOMCTL_GETVCPUCONTEXT, domain, argument))
    };
    let set = |argument: &DomctlVcpucontext| {
        call(Domctl::with(XEN_DOMCTL_SETVCPUCONTEXT, domain, argument))
    };
    tap.call(
        "a vCPU that was never set has no state",
        get(&argument),
        Err(Errno::ENODATA),
    );
    tap.call("nor is an empty one accepted", set(&argument), INVALID);
    argument.vcpu = 5;
    tap.call("there is no vCPU 5, to be asked", get(&argument), INVALID);
    tap.call("to be set", set(&argument), INVALID);
    tap.call(
        "its vCPU is paused",
        simple(XEN_DOMCTL_PAUSEDOMAIN, domain),
        OK,
    );
    tap.call("and unpaused", simple(XEN_DOMCTL_UNPAUSEDOMAIN, domain), OK);
}
