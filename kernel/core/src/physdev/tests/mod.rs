//! `physdev_op` and the delivery of interrupt lines, on the simulated machine.

mod pci;

use super::*;

use hv_machine::MachineRef;
use hypercall_abi::event_channel::*;
use hypercall_abi::types::{Domid, GuestHandle, Pfn, Port};
use hypercall_abi::xen::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::memory::FrameType;
use crate::testing::{DOM0, DOMU, Host, SCRATCH, SCRATCH_PAGES};

fn call<T: FromBytes + IntoBytes + Immutable>(
    host: &Host,
    id: Domid,
    command: u32,
    op: &T,
) -> Result<T, Errno> {
    let at = host.put(id, op);
    let result = host.hypercall(id, HYPERVISOR_PHYSDEV_OP, &[command.into(), at]);
    match Errno::from_return(result) {
        None => {
            assert_eq!(result, 0);
            Ok(host.get(id, at))
        }
        Some(errno) => Err(errno),
    }
}

fn errno<T>(result: Result<T, Errno>) -> Option<Errno> {
    result.err()
}

fn map(host: &Host, caller: Domid, domid: Domid, index: i32, pirq: i32) -> Result<i32, Errno> {
    let op = PhysdevMapPirq {
        domid,
        _pad0: 0,
        type_: MAP_PIRQ_TYPE_GSI,
        index,
        pirq,
        bus: 0,
        devfn: 0,
        entry_nr: 0,
        _pad1: 0,
        table_base: 0,
    };
    call(host, caller, PHYSDEVOP_MAP_PIRQ, &op).map(|op| op.pirq)
}

fn setup(host: &Host, gsi: i32, level: bool) -> Result<(), Errno> {
    let op = PhysdevSetupGsi {
        gsi,
        triggering: level.into(),
        polarity: level.into(),
        _pad0: 0,
    };
    call(host, DOM0, PHYSDEVOP_SETUP_GSI, &op).map(|_| ())
}

fn bind(host: &Host, id: Domid, pirq: u32, flags: u32) -> Result<Port, Errno> {
    let op = EvtchnBindPirq {
        pirq,
        flags,
        port: Port(0),
    };
    let at = host.put(id, &op);
    let args = [EVTCHNOP_BIND_PIRQ.into(), at];
    let result = host.hypercall(id, HYPERVISOR_EVENT_CHANNEL_OP, &args);
    match Errno::from_return(result) {
        Some(errno) => Err(errno),
        None => Ok(host.get::<EvtchnBindPirq>(id, at).port),
    }
}

fn eoi(host: &Host, id: Domid, irq: u32) -> Result<(), Errno> {
    call(host, id, PHYSDEVOP_EOI, &PhysdevEoi { irq }).map(|_| ())
}

/// Whether a port is pending; takes it back.
fn take(host: &Host, id: Domid, port: Port) -> bool {
    let at = core::mem::offset_of!(SharedInfo, evtchn_pending) / 8;
    let mfn = host.domain(id).shared_info;
    host.hv.machine.fetch_and_u64(mfn, at, !(1 << port.0)) & 1 << port.0 != 0
}

fn masked(host: &Host, gsi: u32) -> bool {
    host.hv.machine.gsi(gsi).expect("the line is routed").masked
}

/// The machine masks a level-triggered line that fires.
fn fire(host: &Host, gsi: u32) {
    if host
        .hv
        .machine
        .gsi(gsi)
        .is_some_and(|line| line.trigger == TriggerMode::Level)
    {
        host.hv.machine.mask_gsi(gsi);
    }
    event::send_pirq(&host.hv, gsi);
}

#[test]
fn a_level_triggered_line_is_held_back_until_its_end() {
    let host = Host::new();
    setup(&host, 18, true).unwrap();
    assert_eq!(map(&host, DOM0, Domid::SELF, 18, 18), Ok(18));
    let port = bind(&host, DOM0, 18, 0).unwrap();
    let line = host.hv.machine.gsi(18).unwrap();
    assert_eq!(
        (line.trigger, line.polarity, line.masked),
        (TriggerMode::Level, Polarity::Low, false)
    );
    for _ in 0..2 {
        fire(&host, 18);
        assert!(take(&host, DOM0, port));
        assert!(masked(&host, 18));
        eoi(&host, DOM0, 18).unwrap();
        assert!(!masked(&host, 18));
    }
    event::close(&host.hv, &host.domain(DOM0), port).unwrap();
    assert!(masked(&host, 18));
    fire(&host, 18);
    assert!(!take(&host, DOM0, port));
}

#[test]
fn an_edge_triggered_line_needs_no_end() {
    let host = Host::new();
    map(&host, DOM0, Domid::SELF, 5, 5).unwrap();
    let port = bind(&host, DOM0, 5, 0).unwrap();
    assert_eq!(host.hv.machine.gsi(5).unwrap().trigger, TriggerMode::Edge);
    fire(&host, 5);
    assert!(take(&host, DOM0, port));
    assert!(!masked(&host, 5));
}

#[test]
fn an_interrupt_is_bound_by_those_who_may_and_once() {
    let host = Host::new();
    assert_eq!(bind(&host, DOM0, 10_000, 0), Err(Errno::EINVAL));
    assert_eq!(
        bind(&host, DOM0, 17, 0),
        Err(Errno::EPERM),
        "it means no line yet"
    );
    map(&host, DOM0, Domid::SELF, 17, 17).unwrap();
    let domain = host.domain(DOM0);
    for _ in 1..=1024 {
        event::bind_ipi(&domain, 0).unwrap();
    }
    assert_eq!(bind(&host, DOM0, 17, 0), Err(Errno::ENOSPC));
    let all = event::reset(&host.hv, &domain, false, &mut || false);
    assert_eq!(all, Ok(Some(())));
    let port = bind(&host, DOM0, 17, 0).unwrap();
    assert_eq!(bind(&host, DOM0, 17, 0), Err(Errno::EEXIST));
    map(&host, DOM0, DOMU, 17, 17).unwrap();
    assert_eq!(
        bind(&host, DOMU, 17, BIND_PIRQ_WILL_SHARE),
        Err(Errno::EBUSY)
    );
    event::close(&host.hv, &host.domain(DOM0), port).unwrap();
    assert!(bind(&host, DOMU, 17, 0).is_ok());
    let op = EvtchnStatus {
        dom: DOMU,
        _pad0: 0,
        port: Port(1),
        status: 0,
        vcpu: 0,
        u: Default::default(),
    };
    let at = host.put(DOM0, &op);
    let args = [EVTCHNOP_STATUS.into(), at];
    assert_eq!(host.hypercall(DOM0, HYPERVISOR_EVENT_CHANNEL_OP, &args), 0);
    let op: EvtchnStatus = host.get(DOM0, at);
    assert_eq!((op.status, op.u.get::<u32>()), (EVTCHNSTAT_PIRQ, 17));
}

#[test]
fn a_shared_line_waits_for_all_who_were_told() {
    let host = Host::new();
    setup(&host, 20, true).unwrap();
    map(&host, DOM0, Domid::SELF, 20, 20).unwrap();
    map(&host, DOM0, DOMU, 20, 20).unwrap();
    let ports = [DOM0, DOMU].map(|id| bind(&host, id, 20, BIND_PIRQ_WILL_SHARE).unwrap());
    let query = PhysdevIrqStatusQuery { irq: 20, flags: 0 };
    let query = call(&host, DOMU, PHYSDEVOP_IRQ_STATUS_QUERY, &query).unwrap();
    assert_eq!(query.flags, XENIRQSTAT_NEEDS_EOI | XENIRQSTAT_SHARED);
    fire(&host, 20);
    assert!(take(&host, DOM0, ports[0]) && take(&host, DOMU, ports[1]));
    eoi(&host, DOM0, 20).unwrap();
    assert!(masked(&host, 20));
    eoi(&host, DOM0, 20).unwrap();
    assert!(masked(&host, 20), "one domain cannot answer for the other");
    eoi(&host, DOMU, 20).unwrap();
    assert!(!masked(&host, 20));
    // One that goes does not keep the others waiting.
    fire(&host, 20);
    eoi(&host, DOM0, 20).unwrap();
    assert!(event::close_all(&host.hv, &host.domain(DOMU), &mut || {
        false
    }));
    assert!(!masked(&host, 20));
}

#[test]
fn lines_are_mapped_by_the_control_domain_only() {
    let host = Host::new();
    assert_eq!(map(&host, DOMU, Domid::SELF, 17, 17), Err(Errno::EPERM));
    assert_eq!(map(&host, DOMU, DOM0, 17, 17), Err(Errno::EPERM));
    assert_eq!(map(&host, DOM0, Domid(77), 17, 17), Err(Errno::ESRCH));
    assert_eq!(map(&host, DOM0, Domid::SELF, -1, 17), Err(Errno::EINVAL));
    assert_eq!(map(&host, DOM0, Domid::SELF, 24, 17), Err(Errno::EINVAL));
    assert_eq!(map(&host, DOM0, Domid::SELF, 0, 0), Err(Errno::EINVAL));
    assert_eq!(
        map(&host, DOM0, Domid::SELF, 17, 100_000),
        Err(Errno::EINVAL)
    );
    assert_eq!(map(&host, DOM0, Domid::SELF, 17, -1), Ok(16));
    assert_eq!(map(&host, DOM0, Domid::SELF, 17, 16), Ok(16));
    assert_eq!(map(&host, DOM0, Domid::SELF, 17, 18), Err(Errno::EEXIST));
    assert_eq!(map(&host, DOM0, Domid::SELF, 17, -1), Err(Errno::EPERM));
    assert!(!host.domain(DOMU).access.lock().irq_allowed(17));
    assert_eq!(map(&host, DOM0, DOMU, 16, 30), Ok(30));
    assert!(
        host.domain(DOMU).access.lock().irq_allowed(17),
        "number 16 of the caller is line 17"
    );
    let unmap = |caller, domid, pirq| {
        let op = PhysdevUnmapPirq {
            domid,
            _pad0: 0,
            pirq,
        };
        errno(call(&host, caller, PHYSDEVOP_UNMAP_PIRQ, &op))
    };
    assert_eq!(unmap(DOMU, Domid::SELF, 30), Some(Errno::EPERM));
    assert_eq!(unmap(DOM0, DOMU, 31), Some(Errno::EINVAL));
    assert_eq!(unmap(DOM0, DOMU, -1), Some(Errno::EINVAL));
    assert_eq!(unmap(DOM0, Domid(66), 1), Some(Errno::ESRCH));
    bind(&host, DOMU, 30, 0).unwrap();
    assert_eq!(unmap(DOM0, DOMU, 30), None);
    assert!(masked(&host, 17), "a bound line is torn from the domain");
    assert!(!host.domain(DOMU).access.lock().irq_allowed(17));
}

#[test]
fn other_kinds_of_interrupt_are_refused() {
    let host = Host::new();
    for (type_, table_base, expected) in [
        (MAP_PIRQ_TYPE_MSI, 0, Errno::ENOSYS),
        (MAP_PIRQ_TYPE_MSI_SEG, 0, Errno::ENOSYS),
        (MAP_PIRQ_TYPE_MULTI_MSI, 1, Errno::EINVAL),
        (MAP_PIRQ_TYPE_UNKNOWN, 0, Errno::EINVAL),
        (77, 0, Errno::EINVAL),
    ] {
        let op = PhysdevMapPirq {
            domid: Domid::SELF,
            _pad0: 0,
            type_,
            index: -1,
            pirq: -1,
            bus: 0,
            devfn: 8,
            entry_nr: 0,
            _pad1: 0,
            table_base,
        };
        assert_eq!(
            errno(call(&host, DOM0, PHYSDEVOP_MAP_PIRQ, &op)),
            Some(expected)
        );
    }
}

#[test]
fn a_line_is_set_up_once() {
    let host = Host::new();
    assert_eq!(setup(&host, 19, true), Ok(()));
    assert_eq!(setup(&host, 19, false), Err(Errno::EEXIST));
    assert_eq!(setup(&host, 24, true), Err(Errno::EINVAL));
    assert_eq!(setup(&host, -1, true), Err(Errno::EINVAL));
    let op = PhysdevSetupGsi {
        gsi: 21,
        triggering: 1,
        polarity: 1,
        _pad0: 0,
    };
    assert_eq!(
        errno(call(&host, DOMU, PHYSDEVOP_SETUP_GSI, &op)),
        Some(Errno::EPERM)
    );
}

#[test]
fn the_consoles_line_stays_the_hypervisors() {
    let mut machine = hv_machine::sim::Machine::new(4096);
    machine.set_command_line("com1=115200,8n1 console=com1");
    let host = Host::with_machine(MachineRef::new(machine));
    assert_eq!(setup(&host, 4, false), Err(Errno::EEXIST));
    map(&host, DOM0, Domid::SELF, 4, 4).unwrap();
    assert_eq!(bind(&host, DOM0, 4, 0), Err(Errno::EBUSY));
    assert_eq!(host.hv.machine.gsi(4), None);
    assert_eq!(host.domain(DOM0).events.active(), 0);
}

#[test]
fn free_numbers_are_lines_from_below_and_others_from_above() {
    let host = Host::new();
    let free = |type_| {
        call(
            &host,
            DOMU,
            PHYSDEVOP_GET_FREE_PIRQ,
            &PhysdevGetFreePirq { type_, pirq: 0 },
        )
    };
    assert_eq!(free(MAP_PIRQ_TYPE_GSI).unwrap().pirq, 16);
    assert_eq!(free(MAP_PIRQ_TYPE_MSI).unwrap().pirq, 55);
    for _ in 0..31 {
        free(MAP_PIRQ_TYPE_MSI).unwrap();
    }
    assert_eq!(errno(free(MAP_PIRQ_TYPE_MSI)), Some(Errno::ENOSPC));
    assert_eq!(free(MAP_PIRQ_TYPE_GSI).unwrap().pirq, 17);
    assert_eq!(map(&host, DOM0, DOMU, 22, -1), Ok(18));
    assert_eq!(
        map(&host, DOM0, DOMU, 23, 16),
        Ok(16),
        "a reserved number is there to be used"
    );
    while free(MAP_PIRQ_TYPE_GSI).is_ok() {}
    assert_eq!(errno(free(MAP_PIRQ_TYPE_GSI)), Some(Errno::ENOSPC));
    assert_eq!(map(&host, DOM0, DOMU, 5, -1), Err(Errno::ENOSPC));
}

#[test]
fn an_end_is_for_numbers_that_mean_something() {
    let host = Host::new();
    assert_eq!(eoi(&host, DOMU, 3), Err(Errno::EINVAL));
    assert_eq!(eoi(&host, DOM0, u32::MAX), Err(Errno::EINVAL));
    map(&host, DOM0, DOMU, 18, 3).unwrap();
    assert_eq!(eoi(&host, DOMU, 3), Ok(()));
    let query = PhysdevIrqStatusQuery {
        irq: 9999,
        flags: 0,
    };
    let refused = call(&host, DOM0, PHYSDEVOP_IRQ_STATUS_QUERY, &query);
    assert_eq!(errno(refused), Some(Errno::EINVAL));
}

#[test]
fn the_bitmap_of_ends_shows_which_interrupts_need_one() {
    let host = Host::new();
    let page = host.layout(DOM0).scratch[20];
    let share = |command, mfn: Mfn| {
        let op = PhysdevPirqEoiGmfn { gmfn: Pfn(mfn.0) };
        errno(call(&host, DOM0, command, &op))
    };
    assert_eq!(
        share(PHYSDEVOP_PIRQ_EOI_GMFN_V2, host.layout(DOM0).tables[1]),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        share(PHYSDEVOP_PIRQ_EOI_GMFN_V2, host.layout(DOMU).scratch[0]),
        Some(Errno::EINVAL)
    );
    assert_eq!(share(PHYSDEVOP_PIRQ_EOI_GMFN_V1, page), None);
    assert_eq!(share(PHYSDEVOP_PIRQ_EOI_GMFN_V2, page), Some(Errno::EBUSY));
    setup(&host, 18, true).unwrap();
    map(&host, DOM0, Domid::SELF, 18, 18).unwrap();
    map(&host, DOM0, Domid::SELF, 5, 5).unwrap();
    let port = bind(&host, DOM0, 18, 0).unwrap();
    bind(&host, DOM0, 5, 0).unwrap();
    assert_eq!(host.hv.machine.load_u64(page, 0), 1 << 18);
    // The first form unmasks the port as well.
    let mask = core::mem::offset_of!(SharedInfo, evtchn_mask) / 8;
    let shared = host.domain(DOM0).shared_info;
    host.hv.machine.store_u64(shared, mask, 1 << port.0);
    fire(&host, 18);
    eoi(&host, DOM0, 18).unwrap();
    assert_eq!(host.hv.machine.load_u64(shared, mask), 0);
    // The page is given back with the domain.
    let state = |host: &Host| host.hv.memory.state(page).unwrap();
    assert_eq!(state(&host).kind, FrameType::Writable);
    let before = state(&host).types;
    interrupt::release_domain(&host.hv, &host.domain(DOM0));
    assert_eq!(state(&host).types, before - 1);
}

#[test]
fn an_unmask_notice_ends_what_is_not_masked() {
    let host = Host::new();
    setup(&host, 18, true).unwrap();
    map(&host, DOM0, Domid::SELF, 18, 18).unwrap();
    let port = bind(&host, DOM0, 18, 0).unwrap();
    let mask = core::mem::offset_of!(SharedInfo, evtchn_mask) / 8;
    let shared = host.domain(DOM0).shared_info;
    let notify = || {
        host.hypercall(
            DOM0,
            HYPERVISOR_PHYSDEV_OP,
            &[PHYSDEVOP_IRQ_UNMASK_NOTIFY.into(), 0],
        )
    };
    host.hv.machine.store_u64(shared, mask, 1 << port.0);
    fire(&host, 18);
    assert_eq!(notify(), 0);
    assert!(masked(&host, 18));
    host.hv.machine.store_u64(shared, mask, 0);
    assert_eq!(notify(), 0);
    assert!(!masked(&host, 18));
}

#[test]
fn io_privilege_is_the_vcpus_own() {
    let host = Host::new();
    let iopl = |iopl| {
        errno(call(
            &host,
            DOMU,
            PHYSDEVOP_SET_IOPL,
            &PhysdevSetIopl { iopl },
        ))
    };
    assert_eq!(iopl(4), Some(Errno::EINVAL));
    assert_eq!(iopl(3), None);
    host.as_guest(DOMU, |cx| assert_eq!(cx.state.iopl, 3));
    host.as_guest(DOM0, |cx| assert_eq!(cx.state.iopl, 0));
    let bitmap = |address, nr_ports| {
        let op = PhysdevSetIobitmap {
            bitmap: GuestHandle::new(address),
            nr_ports,
            _pad0: 0,
        };
        errno(call(&host, DOMU, PHYSDEVOP_SET_IOBITMAP, &op))
    };
    assert_eq!(bitmap(SCRATCH, 65537), Some(Errno::EINVAL));
    assert_eq!(bitmap(0xffff_8000_0000_0000, 8), Some(Errno::EINVAL));
    assert_eq!(bitmap(SCRATCH, 65536), None);
    host.as_guest(DOMU, |cx| {
        assert_eq!(
            (cx.state.io_bitmap, cx.state.io_bitmap_ports),
            (SCRATCH, 65536)
        );
    });
}

#[test]
fn the_io_apic_is_what_the_lines_are() {
    let host = Host::new();
    let apic = |reg, value| PhysdevApic {
        apic_physbase: 0xfec0_0000,
        reg,
        value,
    };
    let read = |reg| call(&host, DOM0, PHYSDEVOP_APIC_READ, &apic(reg, 0)).map(|op| op.value);
    let write = |reg, value| errno(call(&host, DOM0, PHYSDEVOP_APIC_WRITE, &apic(reg, value)));
    assert_eq!(read(1), Ok(23 << 16 | 0x20));
    assert_eq!(
        read(0x10 + 2 * 18),
        Ok(ENTRY_MASKED | ENTRY_LEVEL | ENTRY_POLARITY_LOW)
    );
    assert_eq!(write(0x10 + 2 * 18, 18), None);
    assert_eq!(read(0x10 + 2 * 18), Ok(ENTRY_MASKED));
    bind(&host, DOM0, 18, 0).unwrap();
    assert_eq!(read(0x10 + 2 * 18), Ok(0));
    map(&host, DOM0, Domid::SELF, 19, 30).unwrap();
    assert_eq!(
        write(0x10 + 2 * 19, 19),
        Some(Errno::EEXIST),
        "the line has another number"
    );
    assert_eq!(write(0x10 + 2 * 18, ENTRY_LEVEL | 18), None);
    assert_eq!(read(0x10 + 2 * 18), Ok(0), "a line in use stays as it is");
    assert_eq!(write(0x10 + 2 * 19, 2 << 8), Some(Errno::EINVAL));
    assert_eq!(write(0x10 + 2 * 24, 1), Some(Errno::EINVAL));
    assert_eq!((write(0x11, 5), write(3, 5)), (None, None));
    let elsewhere = PhysdevApic {
        apic_physbase: 0xfed0_0000,
        reg: 1,
        value: 0,
    };
    for command in [PHYSDEVOP_APIC_READ, PHYSDEVOP_APIC_WRITE] {
        assert_eq!(
            errno(call(&host, DOM0, command, &elsewhere)),
            Some(Errno::EINVAL)
        );
        assert_eq!(
            errno(call(&host, DOMU, command, &apic(1, 0))),
            Some(Errno::EPERM)
        );
    }
    let irq = PhysdevIrq { irq: 9, vector: 0 };
    let vector = call(&host, DOM0, PHYSDEVOP_ALLOC_IRQ_VECTOR, &irq)
        .unwrap()
        .vector;
    assert_eq!(vector, 9);
    assert_eq!(
        errno(call(&host, DOMU, PHYSDEVOP_ALLOC_IRQ_VECTOR, &irq)),
        Some(Errno::EPERM)
    );
}

#[test]
fn unknown_commands_and_callers_without_the_right_are_refused() {
    let host = Host::new();
    for command in [0, 1, 2, 3, 11, 18, 22, 32, 99, u32::MAX] {
        for caller in [DOM0, DOMU] {
            let result = call(&host, caller, command, &[0_u64; 8]);
            assert_eq!(errno(result), Some(Errno::ENOSYS), "{command}");
        }
    }
    for command in [
        PHYSDEVOP_APIC_READ,
        PHYSDEVOP_APIC_WRITE,
        PHYSDEVOP_ALLOC_IRQ_VECTOR,
        PHYSDEVOP_MAP_PIRQ,
        PHYSDEVOP_UNMAP_PIRQ,
        PHYSDEVOP_MANAGE_PCI_ADD,
        PHYSDEVOP_MANAGE_PCI_REMOVE,
        PHYSDEVOP_MANAGE_PCI_ADD_EXT,
        PHYSDEVOP_SETUP_GSI,
        PHYSDEVOP_PCI_MMCFG_RESERVED,
        PHYSDEVOP_PCI_DEVICE_ADD,
        PHYSDEVOP_PCI_DEVICE_REMOVE,
        PHYSDEVOP_DBGP_OP,
    ] {
        // Zeroes name domain 0.
        let result = call(&host, DOMU, command, &[0_u64; 8]);
        assert_eq!(errno(result), Some(Errno::EPERM), "{command}");
    }
    for reserved in [Domid::IO, Domid::XEN, Domid::COW, Domid::INVALID] {
        assert_eq!(map(&host, DOM0, reserved, 17, 17), Err(Errno::ESRCH));
        let op = PhysdevUnmapPirq {
            domid: reserved,
            _pad0: 0,
            pirq: 17,
        };
        let result = call(&host, DOM0, PHYSDEVOP_UNMAP_PIRQ, &op);
        assert_eq!(errno(result), Some(Errno::ESRCH));
    }
}

#[test]
fn the_compatible_form_carries_command_and_struct_in_one() {
    let host = Host::new();
    let u = hypercall_abi::types::Union::new(&PhysdevSetIopl { iopl: 1 });
    let at = host.put(
        DOMU,
        &PhysdevOp {
            cmd: PHYSDEVOP_SET_IOPL,
            _pad0: 0,
            u,
        },
    );
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_PHYSDEV_OP_COMPAT, &[at]), 0);
    host.as_guest(DOMU, |cx| assert_eq!(cx.state.iopl, 1));
    host.put_at(DOMU, at, &u32::MAX);
    assert_eq!(
        host.hypercall(DOMU, HYPERVISOR_PHYSDEV_OP_COMPAT, &[at]),
        Errno::ENOSYS.to_return()
    );
}
