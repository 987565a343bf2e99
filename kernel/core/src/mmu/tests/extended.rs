use super::*;

use hv_machine::sim::Flush;

use crate::memory::{FrameType, Level};

const PINS: [(u32, Level); 4] = [
    (MMUEXT_PIN_L1_TABLE, Level::L1),
    (MMUEXT_PIN_L2_TABLE, Level::L2),
    (MMUEXT_PIN_L3_TABLE, Level::L3),
    (MMUEXT_PIN_L4_TABLE, Level::L4),
];

fn op(cmd: u32, arg1: u64, arg2: u64) -> MmuextOp {
    MmuextOp {
        cmd,
        _pad0: 0,
        arg1,
        arg2,
    }
}

fn operate(host: &Host, id: Domid, (cmd, arg1, arg2): (u32, u64, u64), foreign: u64) -> i64 {
    list(
        host,
        id,
        HYPERVISOR_MMUEXT_OP,
        &[op(cmd, arg1, arg2)],
        foreign,
    )
    .0
}

#[track_caller]
fn succeed(host: &Host, op: (u32, u64, u64)) {
    assert_eq!(operate(host, DOMU, op, SELF), 0, "{op:?}");
}

#[track_caller]
fn refuse(host: &Host, op: (u32, u64, u64), errno: Errno) {
    assert_eq!(operate(host, DOMU, op, SELF), errno.to_return(), "{op:x?}");
}

#[test]
fn a_table_of_each_level_is_pinned_and_unpinned() {
    let host = Host::new();
    let tables = host.layout(DOMU).tables;
    for ((cmd, level), mfn) in PINS.into_iter().zip(tables.into_iter().rev()) {
        succeed(&host, (cmd, mfn.0, 0));
        let state = host.hv.memory.state(mfn).expect("a frame");
        assert!(state.pinned && state.types == 2 && state.kind == FrameType::Table(level));
        for (again, _) in PINS {
            refuse(&host, (again, mfn.0, 0), Errno::EINVAL);
        }
        succeed(&host, (MMUEXT_UNPIN_TABLE, mfn.0, 0));
        refuse(&host, (MMUEXT_UNPIN_TABLE, mfn.0, 0), Errno::EINVAL);
    }
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn what_is_no_table_of_the_owner_is_not_pinned() {
    let host = Host::new();
    let descriptors = unmapped(&host, DOMU, 20);
    let gdt = host.put(DOMU, &descriptors);
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[gdt, 8]), 0);
    for mfn in [
        host.layout(DOMU).scratch[0],
        host.layout(DOM0).tables[3],
        host.layout(DOM0).scratch[0],
        host.domain(DOMU).shared_info,
        descriptors,
        Mfn(0),
        Mfn(1),
        DEVICE.0,
        NO_FRAME,
        Mfn(u64::MAX),
    ] {
        for cmd in MMUEXT_PIN_L1_TABLE..=MMUEXT_UNPIN_TABLE {
            refuse(&host, (cmd, mfn.0, 0), Errno::EINVAL);
        }
        refuse(&host, (MMUEXT_NEW_BASEPTR, mfn.0, 0), Errno::EINVAL);
        if mfn != Mfn(0) {
            refuse(&host, (MMUEXT_NEW_USER_BASEPTR, mfn.0, 0), Errno::EINVAL);
        }
    }
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn a_table_with_a_wrong_entry_is_told_by_the_entrys_errno_and_leaves_nothing_behind() {
    let host = Host::new();
    let table = unmapped(&host, DOMU, 20);
    let good = host.layout(DOMU).scratch[3];
    let before = host.hv.memory.state(good);
    for (bad, errno) in [
        (Pte::new(host.layout(DOM0).scratch[0], RO), Errno::EBUSY),
        (Pte::new(host.layout(DOMU).tables[1], RW), Errno::EBUSY),
        (Pte::new(table, RW), Errno::EBUSY),
        (Pte::new(DEVICE.0, RO), Errno::EPERM),
        (Pte::new(NO_FRAME, RO), Errno::EINVAL),
        (Pte::new(good, RO | Pte::PCD), Errno::EINVAL),
    ] {
        host.hv.machine.store_u64(table, 0, Pte::new(good, RW).0);
        host.hv.machine.store_u64(table, 511, bad.0);
        refuse(&host, (MMUEXT_PIN_L1_TABLE, table.0, 0), errno);
        assert_eq!(host.hv.memory.state(good), before);
    }
    for (cmd, _) in PINS.into_iter().skip(1) {
        refuse(&host, (cmd, table.0, 0), Errno::EINVAL);
        assert_eq!(host.hv.memory.state(good), before);
    }
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn roots_are_the_callers_own() {
    let host = Host::new();
    let theirs = host.layout(DOMU).tables[0];
    let domu = u64::from(DOMU.0);
    for cmd in [
        MMUEXT_NEW_BASEPTR,
        MMUEXT_NEW_USER_BASEPTR,
        MMUEXT_TLB_FLUSH_LOCAL,
        MMUEXT_INVLPG_LOCAL,
        MMUEXT_TLB_FLUSH_MULTI,
        MMUEXT_INVLPG_MULTI,
        MMUEXT_TLB_FLUSH_ALL,
        MMUEXT_INVLPG_ALL,
        MMUEXT_FLUSH_CACHE,
        MMUEXT_FLUSH_CACHE_GLOBAL,
        MMUEXT_SET_LDT,
    ] {
        for foreign in [domu, Domid::IO.0.into(), Domid::XEN.0.into()] {
            let result = operate(&host, DOM0, (cmd, theirs.0, UNMAPPED), foreign);
            assert_eq!(result, Errno::EPERM.to_return(), "{cmd}");
        }
    }
    refuse(&host, (MMUEXT_NEW_BASEPTR, 0, 0), Errno::EINVAL);
    for table in &host.layout(DOMU).tables[1..] {
        refuse(&host, (MMUEXT_NEW_BASEPTR, table.0, 0), Errno::EINVAL);
        refuse(&host, (MMUEXT_NEW_USER_BASEPTR, table.0, 0), Errno::EINVAL);
    }
    // The one that is in use stays in use.
    for _ in 0..2 {
        succeed(&host, (MMUEXT_NEW_BASEPTR, theirs.0, 0));
        succeed(&host, (MMUEXT_NEW_USER_BASEPTR, theirs.0, 0));
    }
    let state = host.hv.memory.state(theirs).expect("a frame");
    assert_eq!(state.types, 2);
    succeed(&host, (MMUEXT_NEW_USER_BASEPTR, 0, 0));
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn another_root_finds_its_own_ldt() {
    let host = Host::new();
    let [_, l3, ..] = host.layout(DOMU).tables;
    let ldt = host.layout(DOMU).scratch[30];
    let va = SCRATCH + 30 * 4096;
    let args = [va, Pte::new(ldt, RO).0, UVMF_INVLPG];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
    succeed(&host, (MMUEXT_SET_LDT, va, 8));
    host.as_guest(DOMU, |cx| {
        assert!(crate::descriptor::map_ldt_page(cx, 0));
    });
    assert_eq!(host.hv.machine.cpu(0).ldt[0], Some(ldt));
    let other = unmapped(&host, DOMU, 20);
    let entry = Pte::new(l3, RW).0;
    host.hv
        .machine
        .store_u64(other, Level::L4.index(SCRATCH), entry);
    succeed(&host, (MMUEXT_NEW_BASEPTR, other.0, 0));
    assert_eq!(host.hv.machine.cpu(0).ldt[0], None);
    assert_eq!(host.hv.machine.cpu(0).ldt_entries, 8);
    assert_eq!(host.hv.memory.type_in_use(ldt), FrameType::None);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn each_flush_reaches_those_that_it_names() {
    let host = Host::new();
    let va = SCRATCH + 0x123;
    let bitmap = |bits: u64| host.put(DOMU, &bits);
    let (first, none) = (bitmap(1), bitmap(!1));
    let all = vec![Flush::All(1)];
    let hypervisors = hv_machine::HYPERVISOR_VIRT_START;
    for (op, flushed) in [
        ((MMUEXT_TLB_FLUSH_LOCAL, 0, 0), all.clone()),
        ((MMUEXT_INVLPG_LOCAL, va, 0), vec![Flush::Page(0, SCRATCH)]),
        ((MMUEXT_INVLPG_LOCAL, hypervisors, 0), vec![]),
        ((MMUEXT_INVLPG_LOCAL, 1 << 47, 0), vec![]),
        ((MMUEXT_TLB_FLUSH_MULTI, 0, first), all.clone()),
        ((MMUEXT_TLB_FLUSH_MULTI, 0, none), vec![]),
        ((MMUEXT_INVLPG_MULTI, va, first), all.clone()),
        ((MMUEXT_INVLPG_MULTI, va, none), vec![]),
        ((MMUEXT_TLB_FLUSH_ALL, 0, 0), all.clone()),
        ((MMUEXT_INVLPG_ALL, va, 0), all),
    ] {
        host.hv.machine.take_flushes();
        succeed(&host, op);
        assert_eq!(host.hv.machine.take_flushes(), flushed, "{op:x?}");
    }
    for bad in BAD_ADDRESSES {
        if bad == SCRATCH + crate::testing::SCRATCH_PAGES * 4096 - 1 {
            continue; // The one byte that it takes is there.
        }
        for cmd in [MMUEXT_TLB_FLUSH_MULTI, MMUEXT_INVLPG_MULTI] {
            refuse(&host, (cmd, va, bad), Errno::EINVAL);
        }
    }
}

#[test]
fn caches_are_flushed_for_those_that_have_devices() {
    let host = Host::new();
    refuse(&host, (MMUEXT_FLUSH_CACHE, 0, 0), Errno::EACCES);
    refuse(&host, (MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0), Errno::EINVAL);
    assert_eq!(host.hv.machine.take_cache_flushes(), 0);
    let domain = host.domain(DOMU);
    domain
        .access
        .lock()
        .set_ports(0x300, 0x300, true)
        .expect("room for a range");
    succeed(&host, (MMUEXT_FLUSH_CACHE, 0, 0));
    succeed(&host, (MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0));
    domain
        .access
        .lock()
        .set_ports(0x300, 0x300, false)
        .expect("room for a range");
    domain
        .owner
        .set_io_memory(DEVICE.0, DEVICE.0, true)
        .expect("room for a range");
    succeed(&host, (MMUEXT_FLUSH_CACHE, 0, 0));
    assert_eq!(host.hv.machine.take_cache_flushes(), 3);
}

#[test]
fn an_ldt_is_whole_pages_of_the_guests() {
    let host = Host::new();
    let end = hv_machine::HYPERVISOR_VIRT_END;
    for (base, entries) in [(SCRATCH, 1), (SCRATCH, 8192), (end, 8), (0, 8192)] {
        succeed(&host, (MMUEXT_SET_LDT, base, entries));
        host.as_guest(DOMU, |cx| {
            assert_eq!(cx.state.ldt_base, base);
            assert_eq!(u64::from(cx.state.ldt_entries), entries);
        });
    }
    for (base, entries) in [
        (SCRATCH, 8193),
        (SCRATCH, u64::from(u32::MAX)),
        (SCRATCH + 8, 1),
        (SCRATCH + 4095, 1),
        (hv_machine::HYPERVISOR_VIRT_START, 1),
        (end - 4096, 8192),
        (1 << 47, 1),
        (u64::MAX, 1),
    ] {
        refuse(&host, (MMUEXT_SET_LDT, base, entries), Errno::EINVAL);
    }
    succeed(&host, (MMUEXT_SET_LDT, u64::MAX, 0));
    assert_eq!(host.hv.machine.cpu(0).ldt_entries, 0);
    // The number of entries has 32 bits.
    succeed(&host, (MMUEXT_SET_LDT, SCRATCH, 1 << 32));
    assert_eq!(host.hv.machine.cpu(0).ldt_entries, 0);
}

#[test]
fn pages_are_cleared_and_copied_if_the_owner_could() {
    let host = Host::new();
    let layout = host.layout(DOMU);
    let (page, table) = (layout.scratch[10], layout.tables[3]);
    let descriptors = unmapped(&host, DOMU, 20);
    let gdt = host.put(DOMU, &descriptors);
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[gdt, 8]), 0);
    let read_only = host.layout(DOMU).scratch[21];
    let args = [SCRATCH + 21 * 4096, Pte::new(read_only, RO).0, 0];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
    for bad in [
        host.layout(DOM0).scratch[0],
        Mfn(0),
        Mfn(1),
        DEVICE.0,
        NO_FRAME,
        Mfn(u64::MAX),
    ] {
        refuse(&host, (MMUEXT_CLEAR_PAGE, bad.0, 0), Errno::EINVAL);
        refuse(&host, (MMUEXT_COPY_PAGE, bad.0, page.0), Errno::EINVAL);
        refuse(&host, (MMUEXT_COPY_PAGE, page.0, bad.0), Errno::EINVAL);
    }
    for to in [table, descriptors] {
        refuse(&host, (MMUEXT_CLEAR_PAGE, to.0, 0), Errno::EINVAL);
        refuse(&host, (MMUEXT_COPY_PAGE, to.0, page.0), Errno::EINVAL);
    }
    succeed(&host, (MMUEXT_COPY_PAGE, page.0, table.0));
    let copied = host.hv.machine.load_u64(page, 1);
    assert_eq!(copied, host.hv.machine.load_u64(table, 1));
    succeed(&host, (MMUEXT_COPY_PAGE, page.0, page.0));
    succeed(&host, (MMUEXT_CLEAR_PAGE, read_only.0, 0));
    succeed(&host, (MMUEXT_CLEAR_PAGE, page.0, 0));
    assert_eq!(host.hv.machine.load_u64(page, 1), 0);
    let domu = u64::from(DOMU.0);
    host.hv.machine.store_u64(page, 1, 5);
    let clear = (MMUEXT_CLEAR_PAGE, page.0, 0);
    assert_eq!(operate(&host, DOM0, clear, domu), 0, "for another");
    assert_eq!(host.hv.machine.load_u64(page, 1), 0);
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn strangers_and_unknown_commands_are_turned_away() {
    let host = Host::new();
    let table = host.layout(DOMU).tables[3];
    for foreign in [DOM0, Domid::IO, Domid::XEN] {
        for cmd in (0..24).chain([u32::MAX]) {
            let result = operate(&host, DOMU, (cmd, table.0, 0), foreign.0.into());
            assert_eq!(result, Errno::EPERM.to_return(), "{cmd}");
        }
    }
    for cmd in [14, 21, 22, 63, 64, 1 << 31, u32::MAX] {
        refuse(&host, (cmd, table.0, 0), Errno::ENOSYS);
    }
    for cmd in [MMUEXT_MARK_SUPER, MMUEXT_UNMARK_SUPER] {
        refuse(&host, (cmd, table.0, 0), Errno::EOPNOTSUPP);
    }
    for foreign in [Domid::IO, Domid::XEN] {
        for cmd in [
            MMUEXT_PIN_L1_TABLE,
            MMUEXT_UNPIN_TABLE,
            MMUEXT_CLEAR_PAGE,
            MMUEXT_COPY_PAGE,
        ] {
            let result = operate(&host, DOM0, (cmd, table.0, 0), foreign.0.into());
            assert_eq!(result, Errno::EINVAL.to_return(), "{cmd}");
        }
    }
}

#[test]
fn the_control_domain_pins_for_others_that_live() {
    let host = Host::new();
    let table = host.layout(DOMU).tables[3];
    let domu = u64::from(DOMU.0);
    assert_eq!(
        operate(&host, DOM0, (MMUEXT_PIN_L1_TABLE, table.0, 0), domu),
        0
    );
    assert_eq!(
        operate(&host, DOM0, (MMUEXT_UNPIN_TABLE, table.0, 0), domu),
        0
    );
    let (mfn, held) = zombie(&host);
    for (cmd, _) in PINS {
        let result = operate(&host, DOM0, (cmd, mfn.0, 0), domu);
        assert_eq!(result, Errno::EINVAL.to_return());
    }
    drop(held);
    crate::lifecycle::reap(&host.hv);
    let pin = (MMUEXT_PIN_L1_TABLE, mfn.0, 0);
    assert_eq!(operate(&host, DOM0, pin, domu), Errno::ESRCH.to_return());
}

#[test]
fn a_long_list_goes_on_and_counts_right() {
    const COUNT: u64 = 100;
    let host = Host::new();
    let page = host.layout(DOMU).scratch[10];
    let mut ops: Vec<_> = (0..COUNT)
        .map(|_| op(MMUEXT_CLEAR_PAGE, page.0, 0))
        .collect();
    let flushes: Vec<_> = (0..COUNT)
        .map(|_| op(MMUEXT_TLB_FLUSH_LOCAL, 0, 0))
        .collect();
    assert!(is_interrupted(&host, HYPERVISOR_MMUEXT_OP, &flushes));
    host.hv.machine.set_tsc_step(1_000_000);
    let made = list(&host, DOMU, HYPERVISOR_MMUEXT_OP, &ops, SELF);
    assert_eq!(made, (0, COUNT as u32));
    ops[60].cmd = 99;
    let made = list(&host, DOMU, HYPERVISOR_MMUEXT_OP, &ops, SELF);
    assert_eq!(made, (Errno::ENOSYS.to_return(), 60));
}

#[test]
fn a_pin_of_another_domain_is_not_the_callers_to_take_away() {
    let host = Host::new();
    let root = host.layout(DOM0).tables[0];
    let pin = (MMUEXT_PIN_L4_TABLE, root.0, 0);
    assert_eq!(operate(&host, DOM0, pin, SELF), 0);
    refuse(&host, (MMUEXT_UNPIN_TABLE, root.0, 0), Errno::EINVAL);
    assert!(host.hv.memory.state(root).is_some_and(|it| it.pinned));
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn the_root_that_is_loaded_is_loaded_again_without_what_was_remembered() {
    let host = Host::new();
    let layout = host.layout(DOMU);
    let va = SCRATCH + 40 * 4096;
    host.put_at(DOMU, va, &1_u64);
    host.put_at(DOMU, va + 4096, &2_u64);
    let other = Pte::new(layout.scratch[41], RO).0;
    let args = [va, other, UVMF_NONE];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
    assert_eq!(host.get::<u64>(DOMU, va), 1, "nobody has asked for a flush");
    succeed(&host, (MMUEXT_NEW_BASEPTR, layout.tables[0].0, 0));
    assert_eq!(host.get::<u64>(DOMU, va), 2);
}
