//! Event channels through the hypercall, on the simulated machine.

use core::mem::offset_of;
use core::sync::atomic::Ordering;
use std::vec::Vec;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::*;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::*;
use proptest::prelude::*;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::hypercall::Stop;
use crate::testing::{DOM0, DOMU, Host};
use crate::{event, lifecycle};

const OTHER: Domid = Domid(2);

fn host() -> Host {
    let mut host = Host::new();
    host.add_domain(OTHER, false);
    host
}

/// Makes the hypercall with a copy of `op`, and gives back what became of that.
fn call<T: FromBytes + IntoBytes + Immutable>(
    host: &Host,
    id: Domid,
    command: u32,
    op: &T,
) -> (i64, T) {
    let at = host.put(id, op);
    let result = host.hypercall(id, HYPERVISOR_EVENT_CHANNEL_OP, &[command.into(), at]);
    (result, host.get(id, at))
}

fn outcome(result: i64) -> Result<(), Errno> {
    if result == 0 {
        Ok(())
    } else {
        Err(Errno::from_return(result).expect("an errno"))
    }
}

fn alloc(host: &Host, id: Domid, dom: Domid, remote_dom: Domid) -> Result<Port, Errno> {
    let op = EvtchnAllocUnbound {
        dom,
        remote_dom,
        port: Port(0),
    };
    let (result, op) = call(host, id, EVTCHNOP_ALLOC_UNBOUND, &op);
    outcome(result).map(|()| op.port)
}

fn connect(host: &Host, id: Domid, remote_dom: Domid, remote_port: Port) -> Result<Port, Errno> {
    let op = EvtchnBindInterdomain {
        remote_dom,
        _pad0: 0,
        remote_port,
        local_port: Port(0),
    };
    let (result, op) = call(host, id, EVTCHNOP_BIND_INTERDOMAIN, &op);
    outcome(result).map(|()| op.local_port)
}

fn bind_virq(host: &Host, id: Domid, virq: u32, vcpu: u32) -> Result<Port, Errno> {
    let op = EvtchnBindVirq {
        virq,
        vcpu,
        port: Port(0),
    };
    let (result, op) = call(host, id, EVTCHNOP_BIND_VIRQ, &op);
    outcome(result).map(|()| op.port)
}

fn bind_ipi(host: &Host, id: Domid, vcpu: u32) -> Result<Port, Errno> {
    let (result, op) = call(
        host,
        id,
        EVTCHNOP_BIND_IPI,
        &EvtchnBindIpi {
            vcpu,
            port: Port(0),
        },
    );
    outcome(result).map(|()| op.port)
}

fn send(host: &Host, id: Domid, port: Port) -> Result<(), Errno> {
    outcome(call(host, id, EVTCHNOP_SEND, &EvtchnSend { port }).0)
}

fn close(host: &Host, id: Domid, port: Port) -> Result<(), Errno> {
    outcome(call(host, id, EVTCHNOP_CLOSE, &EvtchnClose { port }).0)
}

fn unmask(host: &Host, id: Domid, port: Port) -> Result<(), Errno> {
    outcome(call(host, id, EVTCHNOP_UNMASK, &EvtchnUnmask { port }).0)
}

fn bind_vcpu(host: &Host, id: Domid, port: Port, vcpu: u32) -> Result<(), Errno> {
    outcome(call(host, id, EVTCHNOP_BIND_VCPU, &EvtchnBindVcpu { port, vcpu }).0)
}

fn status(host: &Host, id: Domid, dom: Domid, port: Port) -> Result<EvtchnStatus, Errno> {
    let op = EvtchnStatus {
        dom,
        _pad0: 0,
        port,
        status: 99,
        vcpu: 99,
        u: Default::default(),
    };
    let (result, op) = call(host, id, EVTCHNOP_STATUS, &op);
    outcome(result).map(|()| op)
}

fn pending(host: &Host, id: Domid, port: Port) -> bool {
    let at = offset_of!(SharedInfo, evtchn_pending) / 8 + port.0 as usize / 64;
    let word = host.hv.machine.load_u64(host.domain(id).shared_info, at);
    word >> (port.0 % 64) & 1 != 0
}

/// Takes all pending events, as a guest's upcall does.
fn take_events(host: &Host, id: Domid) -> Vec<Port> {
    let mfn = host.domain(id).shared_info;
    let place = host.vcpu(id).info();
    let machine = &host.hv.machine;
    machine.fetch_and_u64(place.mfn, place.offset / 8, !0xff);
    let selected = machine.fetch_and_u64(place.mfn, place.offset / 8 + 1, 0);
    let mut ports = Vec::new();
    for word in (0..64).filter(|word| selected >> word & 1 != 0) {
        let at = offset_of!(SharedInfo, evtchn_pending) / 8 + word;
        let masked = machine.load_u64(mfn, offset_of!(SharedInfo, evtchn_mask) / 8 + word);
        let taken = machine.fetch_and_u64(mfn, at, masked) & !masked;
        ports.extend(
            (0..64)
                .filter(|bit| taken >> bit & 1 != 0)
                .map(|bit| Port(word as u32 * 64 + bit)),
        );
    }
    ports
}

fn set_mask(host: &Host, id: Domid, port: Port) {
    let at = offset_of!(SharedInfo, evtchn_mask) / 8 + port.0 as usize / 64;
    host.hv
        .machine
        .fetch_or_u64(host.domain(id).shared_info, at, 1 << (port.0 % 64));
}

/// A connection from `DOM0` to `DOMU`: their ports.
fn connected(host: &Host) -> (Port, Port) {
    let theirs = alloc(host, DOMU, Domid::SELF, DOM0).unwrap();
    let ours = connect(host, DOM0, DOMU, theirs).unwrap();
    assert_eq!(take_events(host, DOM0), [ours]);
    (ours, theirs)
}

#[test]
fn ports_are_numbered_from_one_lowest_free_first() {
    let host = host();
    for expected in 1..=70 {
        assert_eq!(alloc(&host, DOMU, Domid::SELF, DOM0), Ok(Port(expected)));
    }
    close(&host, DOMU, Port(66)).unwrap();
    close(&host, DOMU, Port(3)).unwrap();
    assert_eq!(bind_ipi(&host, DOMU, 0), Ok(Port(3)));
    assert_eq!(bind_ipi(&host, DOMU, 0), Ok(Port(66)));
    assert_eq!(bind_ipi(&host, DOMU, 0), Ok(Port(71)));
}

#[test]
fn only_the_control_domain_makes_ports_for_others() {
    let host = host();
    assert_eq!(alloc(&host, DOM0, DOMU, OTHER), Ok(Port(1)));
    assert_eq!(alloc(&host, DOMU, OTHER, DOMU), Err(Errno::EPERM));
    assert_eq!(alloc(&host, DOMU, DOMU, OTHER), Ok(Port(2)));
    assert_eq!(alloc(&host, DOM0, Domid(77), DOM0), Err(Errno::ESRCH));
    assert_eq!(alloc(&host, DOM0, Domid::IO, DOM0), Err(Errno::ESRCH));
    // The remote end is the caller, not the owner of the port.
    assert_eq!(alloc(&host, DOM0, DOMU, Domid::SELF), Ok(Port(3)));
    let waits = status(&host, DOMU, Domid::SELF, Port(3)).unwrap();
    assert_eq!(waits.u.get::<EvtchnStatusUnbound>().dom, DOM0);
    // A refusal leaves no port behind.
    assert_eq!(bind_ipi(&host, OTHER, 0), Ok(Port(1)));
}

#[test]
fn a_domain_gets_no_more_ports_than_it_may_have() {
    let host = host();
    for _ in 1..=1024 {
        event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    }
    assert_eq!(alloc(&host, DOMU, Domid::SELF, DOM0), Err(Errno::ENOSPC));
    assert_eq!(bind_ipi(&host, DOMU, 0), Err(Errno::ENOSPC));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Err(Errno::ENOSPC));
    assert_eq!(connect(&host, DOMU, DOM0, Port(1)), Err(Errno::ENOSPC));
}

#[test]
fn no_domain_has_more_ports_than_the_shared_page_has_bits() {
    let mut table = super::table::Table::new(u32::MAX);
    for expected in 1..EVTCHN_2L_NR_CHANNELS {
        let port = table.free_port().unwrap();
        assert_eq!(port, Port(expected));
        table.bind(port, super::table::Binding::Ipi, 0);
    }
    assert_eq!(table.free_port(), Err(Errno::ENOSPC));
    table.free(Port(4095));
    assert_eq!(table.free_port(), Ok(Port(4095)));
}

#[test]
fn a_connection_carries_events_both_ways() {
    let host = host();
    let (ours, theirs) = connected(&host);
    send(&host, DOM0, ours).unwrap();
    assert_eq!(take_events(&host, DOMU), [theirs]);
    assert_eq!(take_events(&host, DOM0), []);
    send(&host, DOMU, theirs).unwrap();
    assert_eq!(take_events(&host, DOM0), [ours]);
    let end = status(&host, DOM0, DOMU, theirs).unwrap();
    assert_eq!((end.status, end.vcpu), (EVTCHNSTAT_INTERDOMAIN, 0));
    let peer: EvtchnStatusInterdomain = end.u.get();
    assert_eq!((peer.dom, peer.port), (DOM0, ours));
}

#[test]
fn a_port_waits_for_one_domain_only() {
    let host = host();
    let port = alloc(&host, DOMU, Domid::SELF, DOM0).unwrap();
    assert_eq!(connect(&host, OTHER, DOMU, port), Err(Errno::EINVAL));
    assert_eq!(connect(&host, DOM0, DOMU, Port(40)), Err(Errno::EINVAL));
    assert_eq!(connect(&host, DOM0, DOMU, Port(4096)), Err(Errno::EINVAL));
    assert_eq!(
        connect(&host, DOM0, DOMU, Port(u32::MAX)),
        Err(Errno::EINVAL)
    );
    assert_eq!(connect(&host, DOM0, Domid(77), port), Err(Errno::ESRCH));
    connect(&host, DOM0, DOMU, port).unwrap();
    assert_eq!(connect(&host, DOM0, DOMU, port), Err(Errno::EINVAL));
}

#[test]
fn a_domain_may_connect_to_itself() {
    let host = host();
    let first = alloc(&host, DOMU, Domid::SELF, Domid::SELF).unwrap();
    let second = connect(&host, DOMU, Domid::SELF, first).unwrap();
    take_events(&host, DOMU);
    send(&host, DOMU, first).unwrap();
    assert_eq!(take_events(&host, DOMU), [second]);
    close(&host, DOMU, first).unwrap();
    let left = status(&host, DOMU, Domid::SELF, second).unwrap();
    assert_eq!(left.status, EVTCHNSTAT_UNBOUND);
    assert_eq!(left.u.get::<EvtchnStatusUnbound>().dom, DOMU);
    close(&host, DOMU, second).unwrap();
    // The port that it is to connect to is not the one that it gets.
    assert_eq!(
        connect(&host, DOMU, Domid::SELF, Port(1)),
        Err(Errno::EINVAL)
    );
}

#[test]
fn closing_one_end_has_the_other_wait_again() {
    let host = host();
    let (ours, theirs) = connected(&host);
    close(&host, DOM0, ours).unwrap();
    let left = status(&host, DOMU, Domid::SELF, theirs).unwrap();
    assert_eq!(left.status, EVTCHNSTAT_UNBOUND);
    assert_eq!(
        send(&host, DOMU, theirs),
        Ok(()),
        "an event to nobody is dropped"
    );
    assert_eq!(connect(&host, DOM0, DOMU, theirs), Ok(ours));
    assert_eq!(close(&host, DOM0, Port(0)), Err(Errno::EINVAL));
    assert_eq!(close(&host, DOM0, Port(50)), Err(Errno::EINVAL));
    assert_eq!(close(&host, DOM0, Port(5000)), Err(Errno::EINVAL));
}

#[test]
fn a_closed_port_is_not_pending_for_its_next_owner() {
    let host = host();
    let (ours, _) = connected(&host);
    let port = bind_ipi(&host, DOM0, 0).unwrap();
    send(&host, DOM0, port).unwrap();
    assert!(pending(&host, DOM0, port));
    close(&host, DOM0, port).unwrap();
    assert!(!pending(&host, DOM0, port));
    assert!(!pending(&host, DOM0, ours));
}

#[test]
fn a_masked_port_is_delivered_when_it_is_unmasked() {
    let host = host();
    let port = bind_ipi(&host, DOMU, 0).unwrap();
    set_mask(&host, DOMU, port);
    send(&host, DOMU, port).unwrap();
    assert!(pending(&host, DOMU, port));
    assert!(!event::upcall_due(&host.hv, &host.vcpu(DOMU)));
    assert_eq!(take_events(&host, DOMU), []);
    unmask(&host, DOMU, port).unwrap();
    assert!(event::upcall_due(&host.hv, &host.vcpu(DOMU)));
    assert_eq!(take_events(&host, DOMU), [port]);
    assert_eq!(
        unmask(&host, DOMU, Port(9)),
        Ok(()),
        "a free port is left alone"
    );
    assert_eq!(unmask(&host, DOMU, Port(64)), Err(Errno::EINVAL));
}

#[test]
fn virtual_interrupts_are_bound_once_and_to_vcpus_that_exist() {
    let host = host();
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Ok(Port(1)));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Err(Errno::EEXIST));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 1), Ok(Port(2)));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 2), Err(Errno::ENOENT));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 1), Err(Errno::EINVAL));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 0), Ok(Port(3)));
    assert_eq!(bind_virq(&host, DOMU, NR_VIRQS, 0), Err(Errno::EINVAL));
    assert_eq!(bind_virq(&host, DOMU, u32::MAX, 0), Err(Errno::EINVAL));
    assert_eq!(
        send(&host, DOMU, Port(1)),
        Err(Errno::EINVAL),
        "no guest sends interrupts"
    );
    let timer = status(&host, DOMU, Domid::SELF, Port(2)).unwrap();
    assert_eq!(
        (timer.status, timer.vcpu, timer.u.get::<u32>()),
        (EVTCHNSTAT_VIRQ, 1, VIRQ_TIMER)
    );
    close(&host, DOMU, Port(1)).unwrap();
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Ok(Port(1)));
}

#[test]
fn a_virtual_interrupt_reaches_the_vcpu_it_is_for() {
    let host = host();
    let timer = bind_virq(&host, DOMU, VIRQ_TIMER, 0).unwrap();
    event::send_vcpu_virq(&host.hv, &host.vcpu(DOMU), VIRQ_TIMER);
    assert_eq!(take_events(&host, DOMU), [timer]);
    event::send_vcpu_virq(&host.hv, &host.vcpu(DOMU), VIRQ_DEBUG);
    assert_eq!(take_events(&host, DOMU), []);
}

#[test]
fn the_hosts_interrupts_go_to_their_handler() {
    let host = host();
    let control = bind_virq(&host, DOM0, VIRQ_DOM_EXC, 0).unwrap();
    let other = bind_virq(&host, OTHER, VIRQ_DOM_EXC, 0).unwrap();
    event::send_host_virq(&host.hv, VIRQ_DOM_EXC);
    assert_eq!(take_events(&host, DOM0), [control]);
    assert_eq!(take_events(&host, OTHER), []);
    event::set_virq_handler(&host.hv, &host.domain(OTHER), VIRQ_DOM_EXC).unwrap();
    event::send_host_virq(&host.hv, VIRQ_DOM_EXC);
    assert_eq!(take_events(&host, DOM0), []);
    assert_eq!(take_events(&host, OTHER), [other]);
    let refused = event::set_virq_handler(&host.hv, &host.domain(OTHER), VIRQ_TIMER);
    assert_eq!(refused, Err(Errno::EINVAL));
    event::close_all(&host.hv, &host.domain(OTHER));
    event::send_host_virq(&host.hv, VIRQ_DOM_EXC);
    assert_eq!(take_events(&host, DOM0), [control]);
}

#[test]
fn a_guest_chooses_the_vcpu_of_a_port_but_not_of_a_per_vcpu_interrupt() {
    let host = host();
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
    let waits = alloc(&host, DOMU, Domid::SELF, DOM0).unwrap();
    let timer = bind_virq(&host, DOMU, VIRQ_TIMER, 0).unwrap();
    let global = bind_virq(&host, DOMU, VIRQ_CONSOLE, 0).unwrap();
    let ipi = bind_ipi(&host, DOMU, 1).unwrap();
    assert_eq!(bind_vcpu(&host, DOMU, waits, 1), Ok(()));
    assert_eq!(bind_vcpu(&host, DOMU, global, 1), Ok(()));
    assert_eq!(bind_vcpu(&host, DOMU, timer, 0), Err(Errno::EINVAL));
    assert_eq!(bind_vcpu(&host, DOMU, ipi, 0), Err(Errno::EINVAL));
    assert_eq!(bind_vcpu(&host, DOMU, waits, 2), Err(Errno::ENOENT));
    assert_eq!(bind_vcpu(&host, DOMU, Port(20), 0), Err(Errno::EINVAL));
    assert_eq!(bind_vcpu(&host, DOMU, Port(1000), 0), Err(Errno::EINVAL));
    // What was global stays so: a second one cannot be bound.
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 0), Err(Errno::EEXIST));
    event::send_global_virq(&host.hv, &host.domain(DOMU), VIRQ_CONSOLE);
    assert_eq!(take_events(&host, DOMU), []);
    let second = host.domain(DOMU).vcpu(1).unwrap();
    assert!(event::upcall_due(&host.hv, &second));
    close(&host, DOMU, global).unwrap();
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 0), Ok(global));
    assert_eq!(status(&host, DOMU, Domid::SELF, global).unwrap().vcpu, 0);
}

#[test]
fn status_is_the_owners_and_the_control_domains_to_ask() {
    let host = host();
    let port = bind_ipi(&host, DOMU, 0).unwrap();
    assert_eq!(status(&host, OTHER, DOMU, port).err(), Some(Errno::EPERM));
    assert_eq!(
        status(&host, DOM0, DOMU, port).unwrap().status,
        EVTCHNSTAT_IPI
    );
    assert_eq!(
        status(&host, DOM0, Domid(55), port).err(),
        Some(Errno::ESRCH)
    );
    assert_eq!(
        status(&host, DOMU, Domid::SELF, Port(64)).err(),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        status(&host, DOMU, Domid::SELF, Port(0)).unwrap().status,
        EVTCHNSTAT_CLOSED
    );
}

#[test]
fn a_reset_closes_all_ports_of_a_domain_that_is_held() {
    let host = host();
    let (ours, theirs) = connected(&host);
    for _ in 0..100 {
        bind_ipi(&host, DOMU, 0).unwrap();
    }
    let reset = |id, dom| outcome(call(&host, id, EVTCHNOP_RESET, &EvtchnReset { dom }).0);
    assert_eq!(reset(DOM0, DOMU), Err(Errno::EINVAL));
    assert_eq!(reset(OTHER, DOMU), Err(Errno::EPERM));
    assert_eq!(reset(DOM0, Domid(9)), Err(Errno::ESRCH));
    lifecycle::toolstack_pause(&host.hv, &host.domain(DOMU));
    assert_eq!(reset(DOM0, DOMU), Ok(()));
    assert_eq!(host.domain(DOMU).events.active(), 0);
    assert_eq!(
        status(&host, DOM0, Domid::SELF, ours).unwrap().status,
        EVTCHNSTAT_UNBOUND
    );
    assert_eq!(
        status(&host, DOM0, DOMU, theirs).unwrap().status,
        EVTCHNSTAT_CLOSED
    );
    assert_eq!(reset(OTHER, Domid::SELF), Ok(()));
    // A continuation that was never begun.
    assert_eq!(
        outcome(call(&host, DOMU, 14, &EvtchnReset { dom: DOMU }).0),
        Err(Errno::EBUSY)
    );
}

#[test]
fn a_reset_that_takes_long_goes_on_where_it_stopped() {
    const CONTINUED: u64 = 14;
    let host = host();
    let domain = host.domain(DOMU);
    for _ in 0..300 {
        event::bind_ipi(&domain, 0).unwrap();
    }
    let at = host.put(DOMU, &EvtchnReset { dom: Domid::SELF });
    let step = |command| {
        host.as_guest(DOMU, |cx| {
            cx.deadline = 0;
            event::do_event_channel_op(cx, &[command, at, 0, 0, 0, 0])
        })
    };
    let again = Err(Stop::Again([CONTINUED, at, 0, 0, 0, 0]));
    let busy = Err(Stop::Error(Errno::EBUSY));
    let reset = u64::from(EVTCHNOP_RESET);
    assert_eq!(step(reset), again);
    assert_eq!(domain.events.active(), 300 - 63);
    assert_eq!(step(reset), busy, "one is under way");
    let mut rounds = 0;
    while step(CONTINUED) == again {
        rounds += 1;
    }
    assert_eq!((rounds, domain.events.active()), (3, 0));
    assert_eq!(step(CONTINUED), busy, "none is");
    assert_eq!(step(reset), Ok(0));
}

#[test]
fn a_domain_that_goes_leaves_waiting_ports_and_gets_no_more() {
    let host = host();
    let (ours, _) = connected(&host);
    let domain = host.domain(DOMU);
    event::close_all(&host.hv, &domain);
    assert_eq!(domain.events.active(), 0);
    let left = status(&host, DOM0, Domid::SELF, ours).unwrap();
    assert_eq!(left.status, EVTCHNSTAT_UNBOUND);
    assert_eq!(event::bind_ipi(&domain, 0), Err(Errno::EINVAL));
    assert_eq!(alloc(&host, DOM0, DOMU, DOM0), Err(Errno::EINVAL));
    assert_eq!(send(&host, DOM0, ours), Ok(()));
}

#[test]
fn an_event_wakes_a_blocked_vcpu_whether_upcalls_are_masked_or_not() {
    let host = host();
    let port = bind_ipi(&host, DOMU, 0).unwrap();
    let vcpu = host.vcpu(DOMU);
    for masked in [0, 1] {
        take_events(&host, DOMU);
        let place = vcpu.info();
        host.hv
            .machine
            .write_frame(place.mfn, place.offset + 1, &[masked]);
        vcpu.blocked.store(true, Ordering::SeqCst);
        send(&host, DOMU, port).unwrap();
        assert!(!vcpu.blocked.load(Ordering::SeqCst));
        assert_eq!(event::upcall_due(&host.hv, &vcpu), masked == 0);
    }
}

#[test]
fn events_for_a_domain_without_vcpus_are_not_lost() {
    let host = host();
    let new = lifecycle::NewDomain {
        id: Domid(5),
        privileged: false,
        handle: [0; 16],
        max_vcpus: 1,
        max_port: 99,
    };
    let domain = lifecycle::create(&host.hv, &new).unwrap();
    let theirs = alloc(&host, DOM0, Domid(5), Domid::SELF).unwrap();
    let ours = connect(&host, DOM0, Domid(5), theirs).unwrap();
    send(&host, DOM0, ours).unwrap();
    lifecycle::create_vcpus(&host.hv, &domain, 1).unwrap();
    assert!(event::upcall_due(&host.hv, &domain.vcpu(0).unwrap()));
    assert_eq!(take_events(&host, Domid(5)), [theirs]);
}

#[test]
fn unknown_commands_are_refused() {
    let host = host();
    let raw =
        |command: u32, at| host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP, &[command.into(), at]);
    let at = host.put(DOMU, &[0_u64; 4]);
    for command in [11, 12, EVTCHNOP_SET_PRIORITY, 15, 1000, u32::MAX] {
        assert_eq!(raw(command, at), Errno::ENOSYS.to_return());
    }
    let far = host.put(
        DOMU,
        &EvtchnSetPriority {
            port: Port(64),
            priority: 0,
        },
    );
    let refused = raw(EVTCHNOP_SET_PRIORITY, far);
    assert_eq!(refused, Errno::EINVAL.to_return());
}

#[test]
fn ports_and_vcpus_that_are_not_there_are_refused() {
    let host = host();
    for port in [64, 4095, 4096, u32::MAX].map(Port) {
        assert_eq!(close(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(send(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(unmask(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(bind_vcpu(&host, DOMU, port, 0), Err(Errno::EINVAL));
        assert_eq!(connect(&host, DOMU, DOM0, port), Err(Errno::EINVAL));
        let asked = status(&host, DOMU, Domid::SELF, port);
        assert_eq!(asked.err(), Some(Errno::EINVAL));
    }
    // Port 0 exists, and is nobody's; port 1 is free.
    for port in [0, 1].map(Port) {
        assert_eq!(close(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(send(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(bind_vcpu(&host, DOMU, port, 0), Err(Errno::EINVAL));
        assert_eq!(unmask(&host, DOMU, port), Ok(()));
    }
    let port = alloc(&host, DOMU, Domid::SELF, DOM0).unwrap();
    for vcpu in [1, 32, 128, u32::MAX] {
        assert_eq!(bind_ipi(&host, DOMU, vcpu), Err(Errno::ENOENT));
        assert_eq!(bind_vcpu(&host, DOMU, port, vcpu), Err(Errno::ENOENT));
        let timer = bind_virq(&host, DOMU, VIRQ_TIMER, vcpu);
        assert_eq!(timer, Err(Errno::ENOENT));
    }
}

#[test]
fn reserved_numbers_are_no_domains() {
    let host = host();
    for dom in [Domid::IO, Domid::XEN, Domid::COW, Domid::INVALID, Domid(77)] {
        for caller in [DOM0, DOMU] {
            let refused = Errno::ESRCH;
            assert_eq!(alloc(&host, caller, dom, DOM0), Err(refused));
            assert_eq!(connect(&host, caller, dom, Port(1)), Err(refused));
            let asked = status(&host, caller, dom, Port(1));
            assert_eq!(asked.err(), Some(refused));
            let reset = call(&host, caller, EVTCHNOP_RESET, &EvtchnReset { dom });
            assert_eq!(outcome(reset.0), Err(refused));
        }
    }
}

#[test]
fn a_domain_that_is_taken_apart_is_not_connected_to() {
    let host = host();
    let waits = alloc(&host, DOMU, Domid::SELF, DOM0).unwrap();
    assert!(!lifecycle::destroy(
        &host.hv,
        &host.domain(DOMU),
        &mut || { true }
    ));
    assert_eq!(alloc(&host, DOM0, DOMU, DOM0), Err(Errno::EINVAL));
    assert_eq!(connect(&host, DOM0, DOMU, waits), Err(Errno::EINVAL));
    assert_eq!(host.domain(DOM0).events.active(), 0);
}

#[test]
fn the_compatible_form_carries_command_and_struct_in_one() {
    let host = host();
    let u = hypercall_abi::types::Union::new(&EvtchnBindIpi {
        vcpu: 0,
        port: Port(0),
    });
    let at = host.put(
        DOMU,
        &EvtchnOp {
            cmd: EVTCHNOP_BIND_IPI,
            u,
        },
    );
    assert_eq!(
        host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP_COMPAT, &[at]),
        0
    );
    let op: EvtchnOp = host.get(DOMU, at);
    assert_eq!(op.u.get::<EvtchnBindIpi>().port, Port(1));
    let at = host.put(
        DOMU,
        &EvtchnOp {
            cmd: EVTCHNOP_RESET,
            u,
        },
    );
    let result = host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP_COMPAT, &[at]);
    assert_eq!(result, Errno::ENOSYS.to_return());
}

#[test]
fn two_processors_that_connect_and_disconnect_never_wait_for_each_other() {
    let host = host();
    let hv = &host.hv;
    let pair = [host.domain(DOM0), host.domain(DOMU)];
    std::thread::scope(|scope| {
        for me in 0..2_usize {
            let (own, other) = (&pair[me], &pair[1 - me]);
            scope.spawn(move || {
                hv_machine::sim::Machine::become_cpu(0);
                let mut seed = me as u32 + 1;
                for _ in 0..20_000 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let port = Port(1 + (seed >> 8) % 12);
                    // What fails because of the other processor fails.
                    let _ = match seed >> 28 {
                        0..5 => event::bind_interdomain(hv, own, other, port).map(drop),
                        5..8 => event::alloc_unbound(own, own, other.id).map(drop),
                        8..13 => event::close(hv, own, port),
                        _ => event::send(hv, own, port),
                    };
                    if seed >> 28 == 7 {
                        let _ = event::reset(hv, own, false, &mut || false);
                    }
                }
            });
        }
    });
    // What is connected is connected from both ends.
    for me in 0..2 {
        let table = pair[me].events.table.lock();
        for port in (1..table.len()).map(Port) {
            let Some(super::table::Binding::Interdomain { remote, port: end }) =
                table.get(port).map(|channel| channel.binding.clone())
            else {
                continue;
            };
            assert_eq!(remote.id, pair[1 - me].id);
            let theirs = remote.events.table.lock();
            match theirs.get(end).map(|channel| &channel.binding) {
                Some(super::table::Binding::Interdomain { remote, port: back }) => {
                    assert_eq!((remote.id, *back), (pair[me].id, port));
                }
                _ => panic!("one end of a connection knows nothing of the other"),
            }
        }
    }
}

/// What a port is, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Free,
    Waits(usize),
    Connected(usize, usize),
    Ipi,
    Timer,
}

const DOMAINS: [Domid; 3] = [DOM0, DOMU, OTHER];
const MODEL_PORTS: usize = 24;

struct World {
    ports: [[Model; MODEL_PORTS]; 3],
    pending: [[bool; MODEL_PORTS]; 3],
}

impl World {
    fn free(&self, domain: usize) -> usize {
        (1..MODEL_PORTS)
            .find(|&port| self.ports[domain][port] == Model::Free)
            .unwrap()
    }

    fn full(&self, domain: usize) -> bool {
        self.ports[domain][1..MODEL_PORTS - 1]
            .iter()
            .all(|&port| port != Model::Free)
    }

    fn close(&mut self, domain: usize, port: usize) -> Result<(), Errno> {
        match self.ports[domain][port] {
            Model::Free => return Err(Errno::EINVAL),
            Model::Connected(other, end) => self.ports[other][end] = Model::Waits(domain),
            _ => {}
        }
        self.ports[domain][port] = Model::Free;
        self.pending[domain][port] = false;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn three_domains_that_do_anything_see_what_the_model_says(
        steps in prop::collection::vec((0_usize..3, 0_u8..8, 0_usize..3, 0_usize..12), 1..120)
    ) {
        let host = host();
        let mut world = World { ports: [[Model::Free; MODEL_PORTS]; 3], pending: [[false; MODEL_PORTS]; 3] };
        for (who, what, other, port) in steps {
            let (id, remote, number) = (DOMAINS[who], DOMAINS[other], Port(port as u32));
            if world.full(who) {
                continue;
            }
            let free = world.free(who);
            match what {
                0 => {
                    let got = event::alloc_unbound(&host.domain(id), &host.domain(id), remote);
                    prop_assert_eq!(got, Ok(Port(free as u32)));
                    world.ports[who][free] = Model::Waits(other);
                }
                1 | 2 => {
                    let got = event::bind_interdomain(&host.hv, &host.domain(id), &host.domain(remote), number);
                    if world.ports[other][port] == Model::Waits(who) && port != 0 {
                        prop_assert_eq!(got, Ok(Port(free as u32)));
                        world.ports[who][free] = Model::Connected(other, port);
                        world.ports[other][port] = Model::Connected(who, free);
                        world.pending[who][free] = true;
                    } else {
                        prop_assert_eq!(got, Err(Errno::EINVAL));
                    }
                }
                3 => {
                    prop_assert_eq!(event::bind_ipi(&host.domain(id), 0), Ok(Port(free as u32)));
                    world.ports[who][free] = Model::Ipi;
                }
                4 => {
                    let got = event::bind_virq(&host.domain(id), VIRQ_TIMER, 0);
                    if world.ports[who].contains(&Model::Timer) {
                        prop_assert_eq!(got, Err(Errno::EEXIST));
                    } else {
                        prop_assert_eq!(got, Ok(Port(free as u32)));
                        world.ports[who][free] = Model::Timer;
                    }
                }
                5 => {
                    let got = event::close(&host.hv, &host.domain(id), number);
                    prop_assert_eq!(got, world.close(who, port));
                }
                6 => {
                    let got = event::send(&host.hv, &host.domain(id), number);
                    let expected = match world.ports[who][port] {
                        Model::Connected(other, end) => {
                            world.pending[other][end] = true;
                            Ok(())
                        }
                        Model::Ipi => {
                            world.pending[who][port] = true;
                            Ok(())
                        }
                        Model::Waits(_) => Ok(()),
                        Model::Free | Model::Timer => Err(Errno::EINVAL),
                    };
                    prop_assert_eq!(got, expected);
                }
                _ => {
                    let taken = take_events(&host, id);
                    let expected: Vec<Port> = (0..MODEL_PORTS)
                        .filter(|&port| std::mem::take(&mut world.pending[who][port]))
                        .map(|port| Port(port as u32))
                        .collect();
                    prop_assert_eq!(taken, expected);
                }
            }
            for (domain, &id) in DOMAINS.iter().enumerate() {
                let bound = world.ports[domain].iter().filter(|&&port| port != Model::Free).count();
                prop_assert_eq!(host.domain(id).events.active() as usize, bound);
                for port in 1..MODEL_PORTS {
                    let is_pending = pending(&host, id, Port(port as u32));
                    prop_assert_eq!(is_pending, world.pending[domain][port]);
                }
            }
        }
        for (domain, &id) in DOMAINS.iter().enumerate() {
            for port in 1..MODEL_PORTS {
                let seen = status(&host, DOM0, id, Port(port as u32)).unwrap().status;
                let expected = match world.ports[domain][port] {
                    Model::Free => EVTCHNSTAT_CLOSED,
                    Model::Waits(_) => EVTCHNSTAT_UNBOUND,
                    Model::Connected(..) => EVTCHNSTAT_INTERDOMAIN,
                    Model::Ipi => EVTCHNSTAT_IPI,
                    Model::Timer => EVTCHNSTAT_VIRQ,
                };
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
