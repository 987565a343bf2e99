//! Calls that take longer than they may: made in pieces they come to what they come to in one go.

use super::*;

use core::fmt::Debug;
use core::mem::offset_of;
use std::vec::Vec;

use hv_machine::MachineRef;
use hv_machine::sim::Machine;
use hypercall_abi::domctl::XEN_DOMCTL_DESTROYDOMAIN;
use hypercall_abi::memory::{MemoryReservation, XENMEM_INCREASE_RESERVATION};
use hypercall_abi::sysctl::*;
use hypercall_abi::types::GuestHandle;
use zerocopy::{FromZeros, Immutable};

use crate::memory::recount;
use crate::testing::BUDGET;

/// A domain that nothing else is about.
const THIRD: Domid = Domid(7);

/// A host on which the time of a call is up when it has looked so often at the clock; 0 for never.
fn host(looks: u64) -> Host {
    let mut host = Host::with_machine(MachineRef::new(Machine::new(4096)));
    host.add_domain(THIRD, false);
    let step = BUDGET.checked_div(looks).unwrap_or(0);
    host.hv.machine.set_tsc_step(step);
    host
}

/// Makes a call in as many pieces as it takes, with a recount after each; gives result and pieces.
fn make(host: &Host, id: Domid, number: u32, args: &[u64]) -> (i64, u32) {
    host.begin_hypercall(id, 0, number, args);
    for pieces in 1..1000 {
        let result = host.go_on(id, 0, 1);
        recount::check(&host.hv).expect("all in order");
        if let Some(result) = result {
            return (result, pieces);
        }
    }
    panic!("call {number} does not end");
}

/// Does something on a host with all the time there is, which takes one call, and on hosts with little, which takes
/// more, and compares what it comes to.
fn compare<R: PartialEq + Debug>(work: impl Fn(&Host) -> (R, u32)) {
    let (whole, pieces) = work(&host(0));
    assert_eq!(pieces, 1);
    for looks in [1, 2, 5] {
        let (other, pieces) = work(&host(looks));
        assert!(pieces > 1, "it is done in one go");
        assert_eq!(other, whole);
    }
}

/// Which ports of a domain are pending.
fn pending(host: &Host, id: Domid) -> [u64; 64] {
    host.shared(id, offset_of!(SharedInfo, evtchn_pending))
}

/// An `event_channel_op` that succeeds; gives what became of its struct.
fn event<T: FromBytes + IntoBytes + Immutable>(host: &Host, id: Domid, command: u32, op: &T) -> T {
    let at = host.put(id, op);
    let args = [command.into(), at];
    assert_eq!(host.hypercall(id, HYPERVISOR_EVENT_CHANNEL_OP, &args), 0);
    host.get(id, at)
}

/// Ports between two domains, `count` of each.
fn connect(host: &Host, [one, other]: [Domid; 2], count: u32) {
    for _ in 0..count {
        let waits = EvtchnAllocUnbound {
            dom: Domid::SELF,
            remote_dom: other,
            port: Port(0),
        };
        let waits = event(host, one, EVTCHNOP_ALLOC_UNBOUND, &waits);
        let op = EvtchnBindInterdomain {
            remote_dom: one,
            remote_port: waits.port,
            ..FromZeros::new_zeroed()
        };
        event(host, other, EVTCHNOP_BIND_INTERDOMAIN, &op);
    }
}

/// What each port of a domain is, by number up to `count`.
fn ports(host: &Host, id: Domid, count: u32) -> Vec<u32> {
    let status = |port| EvtchnStatus {
        dom: id,
        port: Port(port),
        ..FromZeros::new_zeroed()
    };
    let ask = |port| event(host, DOM0, EVTCHNOP_STATUS, &status(port)).status;
    (0..count).map(ask).collect()
}

#[test]
fn a_domain_is_destroyed_in_pieces() {
    compare(|host| {
        let virq = EvtchnBindVirq {
            virq: VIRQ_DOM_EXC,
            ..FromZeros::new_zeroed()
        };
        event(host, DOM0, EVTCHNOP_BIND_VIRQ, &virq);
        connect(host, [DOM0, THIRD], 3);
        let at = host.put(DOM0, &Domctl::new(XEN_DOMCTL_DESTROYDOMAIN, THIRD));
        let (result, pieces) = make(host, DOM0, HYPERVISOR_DOMCTL, &[at]);
        let gone = host.hv.domain(THIRD).is_err();
        let left = (host.hv.memory.free_frames(), ports(host, DOM0, 6));
        ((result, gone, left, pending(host, DOM0)), pieces)
    });
}

#[test]
fn a_domain_that_is_destroyed_in_pieces_is_described_meanwhile_and_gets_nothing_done() {
    let host = host(1);
    let destroy = host.put(DOM0, &Domctl::new(XEN_DOMCTL_DESTROYDOMAIN, THIRD));
    host.begin_hypercall(DOM0, 0, HYPERVISOR_DOMCTL, &[destroy]);
    assert_eq!(host.go_on(DOM0, 0, 1), None);
    // The call is that of another vCPU as well.
    let args = [u64::from(XENVER_VERSION)];
    let refused = host.hypercall(THIRD, HYPERVISOR_XEN_VERSION, &args);
    assert_eq!(refused, Errno::EINVAL.to_return());
    assert_eq!(host.go_on(DOM0, 0, 1000), Some(0));
    let again = host.hypercall(DOM0, HYPERVISOR_DOMCTL, &[destroy]);
    assert_eq!(again, Errno::ESRCH.to_return());
}

#[test]
fn ports_are_reset_in_pieces() {
    for caller in [DOM0, THIRD] {
        compare(|host| {
            connect(host, [DOM0, THIRD], 400);
            let bound = host.domain(THIRD).events.active();
            crate::lifecycle::toolstack_pause(&host.hv, &host.domain(THIRD));
            let at = host.put(caller, &EvtchnReset { dom: THIRD });
            let args = [EVTCHNOP_RESET.into(), at];
            let (result, pieces) = make(host, caller, HYPERVISOR_EVENT_CHANNEL_OP, &args);
            let left = [THIRD, DOM0].map(|id| ports(host, id, 401));
            ((result, bound, left, pending(host, THIRD)), pieces)
        });
    }
}

#[test]
fn a_reset_in_pieces_says_when_ports_came_behind_it() {
    let host = host(1);
    connect(&host, [DOM0, THIRD], 200);
    let at = host.put(THIRD, &EvtchnReset { dom: Domid::SELF });
    let args = [EVTCHNOP_RESET.into(), at];
    host.begin_hypercall(THIRD, 0, HYPERVISOR_EVENT_CHANNEL_OP, &args);
    assert_eq!(host.go_on(THIRD, 0, 1), None);
    let late = EvtchnAllocUnbound {
        dom: THIRD,
        remote_dom: DOM0,
        port: Port(0),
    };
    assert_eq!(
        event(&host, DOM0, EVTCHNOP_ALLOC_UNBOUND, &late).port,
        Port(1)
    );
    assert_eq!(host.go_on(THIRD, 0, 1000), Some(Errno::EAGAIN.to_return()));
    assert_eq!(host.domain(THIRD).events.active(), 1);
    // It is over, so that there can be another.
    let again = host.hypercall(THIRD, HYPERVISOR_EVENT_CHANNEL_OP, &args);
    assert_eq!((again, host.domain(THIRD).events.active()), (0, 0));
}

#[test]
fn a_multicall_is_made_in_pieces() {
    const CALLS: usize = 24;
    compare(|host| {
        let entry = |op: u32, args: &[u64]| {
            let mut entry = MulticallEntry::new_zeroed();
            entry.op = op.into();
            entry.args[..args.len()].copy_from_slice(args);
            entry
        };
        let mut more = MemoryReservation::new_zeroed();
        (more.nr_extents, more.domid) = (30, Domid::SELF);
        let more = host.put(DOM0, &more);
        let destroy = host.put(DOM0, &Domctl::new(XEN_DOMCTL_DESTROYDOMAIN, THIRD));
        let entries: [_; CALLS] = core::array::from_fn(|index| match index {
            5 | 17 => entry(
                HYPERVISOR_MEMORY_OP,
                &[XENMEM_INCREASE_RESERVATION.into(), more],
            ),
            9 | 10 => entry(HYPERVISOR_DOMCTL, &[destroy]),
            12 => entry(HYPERVISOR_MULTICALL, &[]),
            13 => entry(HYPERVISOR_GRANT_TABLE_OP, &[]),
            _ => entry(HYPERVISOR_XEN_VERSION, &[XENVER_PAGESIZE.into()]),
        });
        let at = host.put_slice(DOM0, &entries);
        let args = [at, CALLS as u64];
        let (result, pieces) = make(host, DOM0, HYPERVISOR_MULTICALL, &args);
        let told: [MulticallEntry; CALLS] = host.get(DOM0, at);
        let frames = host.domain(DOM0).owner.frames();
        assert_eq!(told[5].result, 30);
        ((result, told.map(|entry| entry.result), frames), pieces)
    });
}

#[test]
fn devices_are_told_of_in_pieces() {
    const DEVICES: u32 = 20;
    compare(|host| {
        let device = |devfn| PhysdevPciDevice {
            seg: 0,
            bus: 1,
            devfn,
        };
        let known = PhysdevPciDevice { ..device(8) };
        let known = [
            PHYSDEVOP_PCI_DEVICE_ADD.into(),
            host.put(DOM0, &[known, device(0)]),
        ];
        assert_eq!(host.hypercall(DOM0, HYPERVISOR_PHYSDEV_OP, &known), 0);
        let devices: Vec<_> = (0..DEVICES as u8).map(device).collect();
        let devices = host.put_slice(DOM0, &devices);
        let nodes = host.put(DOM0, &[0_u32; DEVICES as usize]);
        // The caller goes on behind those that it was told of.
        let (mut done, mut pieces) = (0, 0);
        while done < DEVICES {
            let arm = SysctlPcitopoinfo {
                num_devs: DEVICES - done,
                devs: GuestHandle::new(devices + 4 * u64::from(done)),
                nodes: GuestHandle::new(nodes + 4 * u64::from(done)),
                ..Default::default()
            };
            let at = host.put(DOM0, &Sysctl::with(XEN_SYSCTL_PCITOPOINFO, &arm));
            assert_eq!(host.hypercall(DOM0, HYPERVISOR_SYSCTL, &[at]), 0);
            let told: SysctlPcitopoinfo = host.get::<Sysctl>(DOM0, at).u.get();
            assert!(told.num_devs > 0);
            done += told.num_devs;
            pieces += 1;
        }
        let nodes: [u32; DEVICES as usize] = host.get(DOM0, nodes);
        assert_eq!((nodes[7], nodes[8]), (XEN_INVALID_DEV, XEN_INVALID_NODE_ID));
        (nodes, pieces)
    });
}
