use super::*;

use hypercall_abi::arch_x86::{
    VGCF_IN_KERNEL, VGCF_ONLINE, VcpuGuestContext, XEN_X86_EMU_PIT, XEN_X86_MSR_RELAXED,
};
use hypercall_abi::memory::{MemoryReservation, XENMEM_POPULATE_PHYSMAP};
use hypercall_abi::sched::SHUTDOWN_SUSPEND;
use hypercall_abi::types::Port;
use hypercall_abi::xen::{
    HYPERVISOR_MEMORY_OP, HYPERVISOR_MMUEXT_OP, HYPERVISOR_UPDATE_VA_MAPPING,
    HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN, MMUEXT_PIN_L4_TABLE, MmuextOp, UVMF_INVLPG,
    VIRQ_CONSOLE, VIRQ_DOM_EXC, VIRQ_TIMER,
};

use crate::memory::{FrameType, Level, Pte};
use crate::testing::{RW, SCRATCH};

fn wish() -> DomctlCreatedomain {
    DomctlCreatedomain {
        handle: [0xab; 16],
        max_vcpus: 2,
        max_evtchn_port: 1023,
        max_grant_frames: -1,
        max_maptrack_frames: -1,
        grant_opts: 2,
        ..Default::default()
    }
}

fn create(host: &Host, id: Domid, wish: &DomctlCreatedomain) -> (i64, Domid) {
    let (result, op) = submit(host, &Domctl::with(XEN_DOMCTL_CREATEDOMAIN, id, wish));
    (result, op.domain)
}

/// The new domain's frames by pseudo-physical number.
fn populate(host: &Host, id: Domid, count: u64) -> Vec<Mfn> {
    let list: Vec<u64> = (0..count).collect();
    let list = host.put_slice(DOM0, &list);
    let arm = MemoryReservation {
        extent_start: GuestHandle::new(list),
        nr_extents: count,
        domid: id,
        ..Default::default()
    };
    let at = host.put(DOM0, &arm);
    let args = [u64::from(XENMEM_POPULATE_PHYSMAP), at];
    let done = host.hypercall(DOM0, HYPERVISOR_MEMORY_OP, &args);
    let done = u64::try_from(done).expect("a count");
    (0..done)
        .map(|index| host.get(DOM0, list + 8 * index))
        .collect()
}

/// Writes a table of another domain as its builder does, through a foreign mapping.
fn write_entry(host: &Host, id: Domid, table: Mfn, index: usize, entry: u64) {
    let own = host.layout(DOM0).scratch.len() - 1;
    let va = SCRATCH + 4096 * own as u64;
    let foreign = [va, Pte::new(table, RW).0, UVMF_INVLPG, u64::from(id.0)];
    let result = host.hypercall(DOM0, HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN, &foreign);
    assert_eq!(result, 0);
    host.put_at(DOM0, va + 8 * index as u64, &entry);
    let back = Pte::new(host.layout(DOM0).scratch[own], RW).0;
    let back = [va, back, UVMF_INVLPG];
    let result = host.hypercall(DOM0, HYPERVISOR_UPDATE_VA_MAPPING, &back);
    assert_eq!(result, 0);
}

/// Builds a domain of 16 frames whose first four are tables that map its fifth, and starts it.
fn build(host: &Host) -> (Domid, Vec<Mfn>) {
    let (result, id) = create(host, Domid(0), &wish());
    assert_eq!(result, 0);
    let arm = DomctlMaxVcpus { max: 2 };
    succeed(host, XEN_DOMCTL_MAX_VCPUS, id, &arm);
    let arm = DomctlMaxMem { max_memkb: 64 };
    succeed(host, XEN_DOMCTL_MAX_MEM, id, &arm);
    let p2m = populate(host, id, 20);
    assert_eq!(p2m.len(), 16, "no more than its limit");
    for (tables, level) in p2m.windows(2).zip([Level::L4, Level::L3, Level::L2]) {
        let entry = Pte::new(tables[1], RW).0;
        write_entry(host, id, tables[0], level.index(SCRATCH), entry);
    }
    write_entry(host, id, p2m[3], 0, Pte::new(p2m[4], RW).0);
    let arm = DomctlHypercallInit { gmfn: p2m[5].0 };
    succeed(host, XEN_DOMCTL_HYPERCALL_INIT, id, &arm);
    let pin = MmuextOp {
        cmd: MMUEXT_PIN_L4_TABLE,
        arg1: p2m[0].0,
        ..Default::default()
    };
    let args = [host.put(DOM0, &pin), 1, 0, u64::from(id.0)];
    assert_eq!(host.hypercall(DOM0, HYPERVISOR_MMUEXT_OP, &args), 0);
    let mut context = VcpuGuestContext {
        flags: VGCF_IN_KERNEL | VGCF_ONLINE,
        gdt_ents: 8,
        ..Default::default()
    };
    context.user_regs.rip = SCRATCH;
    context.ctrlreg[3] = p2m[0].0 << 12;
    context.gdt_frames[0] = p2m[6];
    let arm = DomctlVcpucontext {
        ctxt: GuestHandle::new(host.put(DOM0, &context)),
        ..Default::default()
    };
    succeed(host, XEN_DOMCTL_SETVCPUCONTEXT, id, &arm);
    act(host, XEN_DOMCTL_UNPAUSEDOMAIN, id);
    (id, p2m)
}

#[test]
fn a_domain_is_built_started_and_destroyed_and_leaves_nothing() {
    let host = Host::new();
    let before = host.hv.memory.free_frames();
    let (id, p2m) = build(&host);
    let (_, op) = submit(&host, &Domctl::new(XEN_DOMCTL_GETDOMAININFO, id));
    let info: DomctlGetdomaininfo = op.u.get();
    assert_eq!((info.tot_pages, info.max_pages), (16, 16));
    assert_eq!((info.nr_online_vcpus, info.max_vcpu_id), (1, 1));
    assert_eq!(info.flags, XEN_DOMINF_RUNNING);
    assert_eq!(info.handle, [0xab; 16]);
    assert!(host.vcpu(id).is_runnable());
    let kind = |mfn| host.hv.memory.type_in_use(mfn);
    assert_eq!(kind(p2m[0]), FrameType::Table(Level::L4));
    assert_eq!(kind(p2m[3]), FrameType::Table(Level::L1));
    assert_eq!(kind(p2m[6]), FrameType::Descriptors);
    act(&host, XEN_DOMCTL_DESTROYDOMAIN, id);
    assert_eq!(host.hv.domain(id).err(), Some(Errno::ESRCH));
    assert_eq!(host.hv.memory.free_frames(), before);
    refuse(&host, XEN_DOMCTL_DESTROYDOMAIN, id, Errno::ESRCH);
}

#[test]
fn a_domain_is_destroyed_in_as_many_steps_as_it_takes() {
    let host = Host::new();
    let before = host.hv.memory.free_frames();
    let (id, _) = build(&host);
    let at = host.put(DOM0, &Domctl::new(XEN_DOMCTL_DESTROYDOMAIN, id));
    let step = || {
        host.as_guest(DOM0, |cx| {
            cx.deadline.set(Some(0));
            let result = do_domctl(cx, &[at, 0, 0, 0, 0, 0]);
            (result, cx.continuation.get())
        })
    };
    let mut steps = 0;
    loop {
        match step() {
            (Err(Stop::AGAIN), args) => assert_eq!(args[0], at),
            (result, _) => {
                assert_eq!(result, Ok(0));
                break;
            }
        }
        steps += 1;
        // Meanwhile it is nobody's to change.
        assert!(!host.vcpu(id).is_runnable());
        for (cmd, errno) in [
            (XEN_DOMCTL_SETVCPUCONTEXT, Errno::EINVAL),
            (XEN_DOMCTL_MAX_VCPUS, Errno::EINVAL),
        ] {
            let arm = DomctlMaxVcpus { max: 2 };
            fail(&host, cmd, id, &arm, errno);
        }
        assert_eq!(populate(&host, id, 1).len(), 0);
        let (_, op) = submit(&host, &Domctl::new(XEN_DOMCTL_GETDOMAININFO, id));
        let info: DomctlGetdomaininfo = op.u.get();
        assert_ne!(info.flags & XEN_DOMINF_DYING, 0);
    }
    assert!(steps > 1, "{steps}");
    assert_eq!(host.hv.memory.free_frames(), before);
}

#[test]
fn a_hundred_rounds_leave_the_heap_as_it_was() {
    let before = {
        let host = Host::new();
        host.hv.memory.free_frames()
    };
    for _ in 0..10 {
        let host = Host::new();
        for _ in 0..10 {
            let (id, _) = build(&host);
            act(&host, XEN_DOMCTL_DESTROYDOMAIN, id);
        }
        assert_eq!(host.hv.memory.free_frames(), before);
    }
}

#[test]
fn a_new_domain_is_paused_and_has_nothing() {
    let host = Host::new();
    let (result, id) = create(&host, Domid(9), &wish());
    assert_eq!((result, id), (0, Domid(9)));
    let domain = host.domain(id);
    assert_eq!(domain.vcpu_count(), 0);
    assert_eq!((domain.owner.frames(), domain.owner.max_frames()), (0, 0));
    assert_eq!(domain.life.lock().toolstack_pauses, 1);
    assert!(!domain.privileged);
    assert!(!domain.may_flush_caches());
    assert_eq!(populate(&host, id, 1).len(), 0);
}

#[test]
fn numbers_are_given_in_order_and_not_twice() {
    let host = Host::new();
    let next = |asked| {
        let (result, id) = create(&host, asked, &wish());
        assert_eq!(result, 0);
        id
    };
    let first = next(Domid(0));
    assert!(first > DOMU);
    let second = next(Domid::INVALID);
    assert!(second > first);
    act(&host, XEN_DOMCTL_DESTROYDOMAIN, second);
    assert!(next(Domid(0)) > second, "not the one that just ended");
    for taken in [DOMU, first] {
        assert_eq!(create(&host, taken, &wish()).0, Errno::EEXIST.to_return());
    }
}

#[test]
fn a_domain_that_cannot_be_is_not_made() {
    let host = Host::new();
    let before = host.hv.memory.free_frames();
    let good = wish();
    let arch = |emulation_flags, misc_flags| {
        let mut wish = good;
        wish.arch.emulation_flags = emulation_flags;
        wish.arch.misc_flags = misc_flags;
        wish
    };
    for (wish, errno) in [
        (
            DomctlCreatedomain {
                flags: XEN_DOMCTL_CDF_HVM,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                flags: XEN_DOMCTL_CDF_IOMMU,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                flags: 1 << 31,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                iommu_opts: 1,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                max_vcpus: 0,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                max_vcpus: u32::MAX,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                grant_opts: 3,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                grant_opts: 0,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                max_grant_frames: 0,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                max_grant_frames: 65,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                max_maptrack_frames: 1025,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                grant_opts: 0x12,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                vmtrace_size: 4096,
                ..good
            },
            Errno::EINVAL,
        ),
        (
            DomctlCreatedomain {
                cpupool_id: 1,
                ..good
            },
            Errno::ESRCH,
        ),
        (arch(1, 0), Errno::EOPNOTSUPP),
        (arch(0, 1 << 7), Errno::EINVAL),
    ] {
        assert_eq!(create(&host, Domid(0), &wish).0, errno.to_return());
    }
    assert_eq!(host.hv.domains.read().len(), 2);
    assert_eq!(host.hv.memory.free_frames(), before);
    assert_eq!(
        create(&host, Domid(0), &arch(XEN_X86_EMU_PIT, XEN_X86_MSR_RELAXED)).0,
        0
    );
}

#[test]
fn no_number_for_a_domain_is_told() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let numbers = || (0..Domid::FIRST_RESERVED.0).map(Domid);
    {
        let mut domains = host.hv.domains.write();
        for id in numbers() {
            domains.entry(id).or_insert_with(|| domain.clone());
        }
    }
    let free = host.hv.memory.free_frames();
    let refused = Errno::ENOMEM.to_return();
    assert_eq!(create(&host, Domid(0), &wish()).0, refused);
    assert_eq!(host.hv.memory.free_frames(), free);
    let last = numbers().next_back().expect("there are numbers");
    host.hv.domains.write().remove(&last);
    assert_eq!(create(&host, Domid(0), &wish()), (0, last));
}

#[test]
fn no_memory_for_a_domain_is_told() {
    let host = Host::new();
    let owner = host.domain(DOMU).owner.clone();
    owner.set_max_frames(u64::MAX);
    let memory = &host.hv.memory;
    let frame = || memory.allocate(&owner, 0, u64::MAX).ok();
    let taken: Vec<_> = std::iter::from_fn(frame).collect();
    let mut refused = 0;
    for mfn in taken {
        let free = memory.free_frames();
        let (result, _) = create(&host, Domid(0), &wish());
        if result == 0 {
            break;
        }
        assert_eq!(result, Errno::ENOMEM.to_return());
        assert_eq!(memory.free_frames(), free);
        assert_eq!(host.hv.domains.read().len(), 2);
        refused += 1;
        assert!(memory.release_allocation(memory.get(mfn, DOMU).expect("its own")));
    }
    assert!(refused > 1, "it takes frames of several kinds");
    assert_eq!(host.hv.domains.read().len(), 3);
}

#[test]
fn a_domain_gets_the_vcpus_that_it_was_made_for() {
    let host = Host::new();
    let (_, id) = create(&host, Domid(0), &wish());
    for max in [0, 1, 3, u32::MAX] {
        let arm = DomctlMaxVcpus { max };
        fail(&host, XEN_DOMCTL_MAX_VCPUS, id, &arm, Errno::EINVAL);
    }
    let arm = DomctlMaxVcpus { max: 2 };
    succeed(&host, XEN_DOMCTL_MAX_VCPUS, id, &arm);
    succeed(&host, XEN_DOMCTL_MAX_VCPUS, id, &arm);
    assert_eq!(host.domain(id).vcpu_count(), 2);
    assert!(!host.vcpu(id).is_runnable());
}

#[test]
fn pauses_count_and_do_not_go_below_none() {
    let host = Host::new();
    act(&host, XEN_DOMCTL_PAUSEDOMAIN, DOMU);
    act(&host, XEN_DOMCTL_PAUSEDOMAIN, DOMU);
    act(&host, XEN_DOMCTL_UNPAUSEDOMAIN, DOMU);
    assert!(!host.vcpu(DOMU).is_runnable());
    act(&host, XEN_DOMCTL_UNPAUSEDOMAIN, DOMU);
    assert!(host.vcpu(DOMU).is_runnable());
    refuse(&host, XEN_DOMCTL_UNPAUSEDOMAIN, DOMU, Errno::EINVAL);
}

#[test]
fn a_suspension_is_told_by_the_port_for_it() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let offered = crate::event::alloc_unbound(&domain, &domain, DOM0).expect("a port");
    let port = crate::event::bind_interdomain(&host.hv, &host.domain(DOM0), &domain, offered)
        .expect("a port");
    let bell = crate::event::bind_virq(&host.domain(DOM0), VIRQ_DOM_EXC, 0).expect("a port");
    let pending = |port: Port| {
        let word: u64 = host.shared(
            DOM0,
            core::mem::offset_of!(hypercall_abi::xen::SharedInfo, evtchn_pending),
        );
        word >> port.0 & 1 != 0
    };
    // Binding told the caller of what might have been sent before.
    let word = core::mem::offset_of!(hypercall_abi::xen::SharedInfo, evtchn_pending) / 8;
    let shared = host.domain(DOM0).shared_info;
    hv_machine::Platform::store_u64(&*host.hv.machine, shared, word, 0);
    let arm = DomctlSubscribe { port: offered };
    succeed(&host, XEN_DOMCTL_SUBSCRIBE, DOMU, &arm);
    crate::lifecycle::shutdown(&host.hv, &domain, SHUTDOWN_SUSPEND);
    assert!(pending(port));
    assert!(!pending(bell));
    act(&host, XEN_DOMCTL_RESUMEDOMAIN, DOMU);
    assert!(host.vcpu(DOMU).is_runnable());
    crate::lifecycle::crash(&host.hv, &domain);
    assert!(pending(bell), "any other end is told as always");
}

#[test]
fn global_interrupts_can_be_given_to_another_domain() {
    let host = Host::new();
    let arm = |virq| DomctlSetVirqHandler { virq };
    let cmd = XEN_DOMCTL_SET_VIRQ_HANDLER;
    succeed(&host, cmd, DOMU, &arm(VIRQ_CONSOLE));
    let port = crate::event::bind_virq(&host.domain(DOMU), VIRQ_CONSOLE, 0).expect("a port");
    crate::event::send_host_virq(&host.hv, VIRQ_CONSOLE);
    let word: u64 = host.shared(
        DOMU,
        core::mem::offset_of!(hypercall_abi::xen::SharedInfo, evtchn_pending),
    );
    assert_eq!(word, 1 << port.0);
    for virq in [VIRQ_TIMER, 24, u32::MAX] {
        fail(&host, cmd, DOMU, &arm(virq), Errno::EINVAL);
    }
    let domain = host.domain(DOMU);
    assert!(!lifecycle::destroy(&host.hv, &domain, &mut || true));
    fail(&host, cmd, DOMU, &arm(VIRQ_CONSOLE), Errno::EINVAL);
}

#[test]
fn small_settings_are_kept() {
    let host = Host::new();
    let handle = DomctlSetdomainhandle { handle: [7; 16] };
    succeed(&host, XEN_DOMCTL_SETDOMAINHANDLE, DOMU, &handle);
    assert_eq!(*host.domain(DOMU).handle.lock(), [7; 16]);
    for (max_memkb, frames) in [(1 << 20, 1 << 18), (7, 1), (u64::MAX, u64::from(u32::MAX))] {
        let arm = DomctlMaxMem { max_memkb };
        succeed(&host, XEN_DOMCTL_MAX_MEM, DOMU, &arm);
        assert_eq!(host.domain(DOMU).owner.max_frames(), frames);
    }
    let arm = DomctlSettimeoffset {
        time_offset_seconds: -3600,
    };
    succeed(&host, XEN_DOMCTL_SETTIMEOFFSET, DOMU, &arm);
    assert_eq!(
        host.domain(DOMU).time_offset.load(Ordering::Relaxed) as i64,
        -3600
    );
}

#[test]
fn guests_have_64_bits() {
    let host = Host::new();
    let arm = |size| DomctlAddressSize { size };
    let got = succeed(&host, XEN_DOMCTL_GET_ADDRESS_SIZE, DOMU, &arm(0));
    assert_eq!(got.size, 64);
    let set = XEN_DOMCTL_SET_ADDRESS_SIZE;
    succeed(&host, set, DOMU, &arm(64));
    fail(&host, set, DOMU, &arm(32), Errno::EOPNOTSUPP);
    fail(&host, set, DOMU, &arm(16), Errno::EINVAL);
}

#[test]
fn the_hypercall_page_goes_into_a_page_of_the_domain() {
    let host = Host::new();
    let layout = host.layout(DOMU);
    let arm = |mfn: Mfn| DomctlHypercallInit { gmfn: mfn.0 };
    let cmd = XEN_DOMCTL_HYPERCALL_INIT;
    let page = layout.scratch[3];
    succeed(&host, cmd, DOMU, &arm(page));
    let mut text = [0; 4096];
    hv_machine::Platform::read_frame(&*host.hv.machine, page, 0, &mut text);
    assert_eq!(text, crate::traps::hypercall_page());
    for table in layout.tables {
        fail(&host, cmd, DOMU, &arm(table), Errno::EPERM);
    }
    let foreign = host.layout(DOM0).scratch[0];
    for mfn in [foreign, Mfn(0), Mfn(u64::MAX)] {
        fail(&host, cmd, DOMU, &arm(mfn), Errno::EINVAL);
    }
}
