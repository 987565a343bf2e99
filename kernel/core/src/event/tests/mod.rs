//! Event channels through the hypercall, on the simulated machine.

mod fifo;
mod fifo_hostile;
mod model;
mod refusals;

use core::mem::offset_of;
use core::sync::atomic::Ordering;
use std::vec::Vec;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::*;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::*;
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
    assert!(event::close_all(&host.hv, &host.domain(OTHER), &mut || {
        false
    }));
    event::send_host_virq(&host.hv, VIRQ_DOM_EXC);
    assert_eq!(take_events(&host, DOM0), [control]);
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
            cx.deadline.set(Some(0));
            let result = event::do_event_channel_op(cx, &[command, at, 0, 0, 0, 0]);
            if result == Err(Stop::AGAIN) {
                assert_eq!(cx.continuation.get(), [CONTINUED, at, 0, 0, 0, 0]);
            }
            result
        })
    };
    let again = Err(Stop::AGAIN);
    let busy = Err(Errno::EBUSY.into());
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
    assert!(event::close_all(&host.hv, &domain, &mut || false));
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
        grants: host.hv.options.grants.limits,
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
    let u = hypercall_abi::types::Union::new(&EvtchnBindIpi {
        vcpu: 99,
        port: Port(0),
    });
    let cmd = EVTCHNOP_BIND_IPI;
    let at = host.put(DOMU, &EvtchnOp { cmd, u });
    let result = host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP_COMPAT, &[at]);
    assert_eq!(result, Errno::ENOENT.to_return());
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
