use super::*;

use hv_machine::MachineRef;
use hv_machine::sim::{Flush, Machine};

use crate::memory::Level;

const VA: u64 = SCRATCH + 8 * 4096;

fn map(host: &Host, va: u64, entry: Pte, flags: u64) -> i64 {
    host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &[va, entry.0, flags])
}

fn map_of(host: &Host, id: Domid, entry: Pte, owner: u64) -> i64 {
    let args = [VA, entry.0, UVMF_INVLPG, owner];
    host.hypercall(id, HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN, &args)
}

fn entry_of(host: &Host, id: Domid) -> Pte {
    Pte(host.hv.machine.load_u64(host.layout(id).tables[3], 8))
}

#[test]
fn an_address_is_the_guests_and_has_a_table() {
    let host = Host::new();
    let entry = Pte::new(host.layout(DOMU).scratch[9], RO);
    let before = host.hv.memory.state(entry.mfn());
    for va in [
        0,
        UNMAPPED,
        SCRATCH + (1 << 39),
        SCRATCH + (1 << 30),
        SCRATCH + (1 << 21),
        1 << 47,
        hv_machine::HYPERVISOR_VIRT_START,
        hv_machine::HYPERVISOR_VIRT_START - 1,
        u64::MAX,
    ] {
        for flags in [UVMF_NONE, UVMF_TLB_FLUSH | UVMF_ALL, UVMF_INVLPG] {
            host.hv.machine.take_flushes();
            let result = map(&host, va, entry, flags);
            assert_eq!(result, Errno::EINVAL.to_return(), "{va:#x}");
            assert_eq!(host.hv.machine.take_flushes(), []);
        }
    }
    assert_eq!(host.hv.memory.state(entry.mfn()), before);
    assert_eq!(map(&host, VA + 0xfff, entry, UVMF_NONE), 0);
    assert_eq!(entry_of(&host, DOMU).mfn(), entry.mfn());
}

#[test]
fn an_entry_is_refused_as_mmu_update_refuses_it() {
    let host = Host::new();
    let before = entry_of(&host, DOMU);
    for (mfn, flags, errno) in [
        (host.layout(DOM0).scratch[0], RO, Errno::EBUSY),
        (host.layout(DOMU).tables[0], RW, Errno::EBUSY),
        (host.domain(DOM0).shared_info, RO, Errno::EBUSY),
        (DEVICE.0, RO, Errno::EPERM),
        (Mfn(1), RO, Errno::EPERM),
        (NO_FRAME, RO, Errno::EINVAL),
        (before.mfn(), RW | Pte::PCD, Errno::EINVAL),
    ] {
        host.hv.machine.take_flushes();
        let result = map(&host, VA, Pte::new(mfn, flags), UVMF_TLB_FLUSH | UVMF_ALL);
        assert_eq!(result, errno.to_return(), "{mfn}");
        assert_eq!(host.hv.machine.take_flushes(), []);
        assert_eq!(entry_of(&host, DOMU), before);
    }
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn each_flush_reaches_those_that_it_names() {
    let host = Host::new();
    let entry = Pte::new(host.layout(DOMU).scratch[9], RO);
    let bitmap = |bits: u64| host.put(DOMU, &bits);
    let (first, none, others) = (bitmap(1), bitmap(0), bitmap(!1));
    let all = vec![Flush::All(1)];
    let page = vec![Flush::Page(0, VA)];
    for (flags, flushed) in [
        (UVMF_NONE, vec![]),
        (UVMF_NONE | UVMF_ALL, vec![]),
        (3, vec![]),
        (3 | UNMAPPED, vec![]),
        (UVMF_TLB_FLUSH | UVMF_LOCAL, all.clone()),
        (UVMF_TLB_FLUSH | UVMF_ALL, all.clone()),
        (UVMF_TLB_FLUSH | UVMF_MULTI | first, all.clone()),
        (UVMF_TLB_FLUSH | UVMF_MULTI | none, vec![]),
        (UVMF_TLB_FLUSH | UVMF_MULTI | others, vec![]),
        (UVMF_INVLPG | UVMF_LOCAL, page),
        (UVMF_INVLPG | UVMF_ALL, all.clone()),
        (UVMF_INVLPG | UVMF_MULTI | first, all),
        (UVMF_INVLPG | UVMF_MULTI | none, vec![]),
        (UVMF_INVLPG | UVMF_MULTI | others, vec![]),
    ] {
        host.hv.machine.take_flushes();
        assert_eq!(map(&host, VA, entry, flags), 0);
        assert_eq!(host.hv.machine.take_flushes(), flushed, "{flags:#x}");
    }
}

#[test]
fn a_bitmap_that_cannot_be_read_is_told_after_the_entry_was_written() {
    let host = Host::new();
    let frames = host.layout(DOMU).scratch.clone();
    let bad = [UNMAPPED, hv_machine::HYPERVISOR_VIRT_START, 1 << 47, !7];
    for (index, bitmap) in bad.into_iter().enumerate() {
        for kind in [UVMF_TLB_FLUSH, UVMF_INVLPG] {
            let entry = Pte::new(frames[9 + index], RO);
            let result = map(&host, VA, entry, kind | bitmap);
            assert_eq!(result, Errno::EFAULT.to_return(), "{bitmap:#x}");
            assert_eq!(entry_of(&host, DOMU).mfn(), entry.mfn());
        }
    }
}

#[test]
fn frames_of_others_are_for_the_control_domain() {
    let host = Host::new();
    let theirs = Pte::new(host.layout(DOMU).scratch[4], RW);
    let domu = u64::from(DOMU.0);
    assert_eq!(map_of(&host, DOM0, theirs, domu), 0);
    assert_eq!(entry_of(&host, DOM0).mfn(), theirs.mfn());
    for nobody in NOBODY {
        let result = map_of(&host, DOM0, theirs, nobody.0.into());
        assert_eq!(result, Errno::ESRCH.to_return(), "{nobody:?}");
        let result = map_of(&host, DOMU, theirs, nobody.0.into());
        assert_eq!(result, Errno::ESRCH.to_return(), "{nobody:?}");
    }
    for id in [DOM0, DOMU] {
        let result = map_of(&host, id, Pte(0), id.0.into());
        assert_eq!(result, Errno::ESRCH.to_return(), "its own number");
        assert_eq!(map_of(&host, id, Pte(0), SELF), 0);
    }
    for owner in [DOM0, Domid::IO, Domid::XEN] {
        let result = map_of(&host, DOMU, Pte(0), owner.0.into());
        assert_eq!(result, Errno::EPERM.to_return());
    }
    for owner in [Domid::IO, Domid::XEN] {
        let result = map_of(&host, DOM0, theirs, owner.0.into());
        assert_eq!(result, Errno::EBUSY.to_return());
        let device = Pte::new(DEVICE.0, RW | Pte::PCD);
        let result = map_of(&host, DOM0, device, owner.0.into());
        assert_eq!(result, Errno::EPERM.to_return());
    }
    let owner = host.domain(DOM0).owner.clone();
    owner
        .set_io_memory(DEVICE.0, DEVICE.1, true)
        .expect("room for a range");
    let device = Pte::new(DEVICE.0, RW | Pte::PCD);
    assert_eq!(map_of(&host, DOM0, device, Domid::IO.0.into()), 0);
    assert_eq!(
        map_of(&host, DOM0, device, Domid::XEN.0.into()),
        Errno::EPERM.to_return()
    );
    recount::check(&host.hv).expect("all counts stand");
}

#[test]
fn processors_that_write_to_one_table_at_the_same_time_are_not_refused() {
    let host = Host::with_machine(MachineRef::new(Machine::with_cpus(1024, 4)));
    let layout = host.layout(DOMU);
    let table = layout.tables[3];
    let memory = &host.hv.memory;
    std::thread::scope(|scope| {
        for cpu in 0..4 {
            let mfn = layout.scratch[cpu as usize];
            scope.spawn(move || {
                Machine::become_cpu(cpu);
                for round in 0..20_000 {
                    let entry = Pte::new(mfn, [RO, RW][round % 2]);
                    let held = memory.get_valid(table, DOMU, Level::L1);
                    let held = held.expect("it stays an L1 table");
                    let index = 8 + cpu as usize;
                    let updated = memory.update_page(held.mfn(), index, entry, DOMU, false);
                    assert!(updated.is_ok());
                }
            });
        }
    });
    recount::check(&host.hv).expect("all in order");
}
