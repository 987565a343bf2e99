//! `sched_op` on the simulated machine.

use super::*;

use core::mem::offset_of;

use hypercall_abi::event_channel::EVTCHNOP_UNMASK;
use hypercall_abi::types::{Domid, GuestHandle};
use hypercall_abi::xen::*;

use crate::testing::{DOM0, DOMU, Host, SCRATCH, SCRATCH_PAGES, UNMAPPED};
use crate::time::MILLISECOND;

fn errno(result: i64) -> Option<Errno> {
    Errno::from_return(result)
}

fn call<T: zerocopy::IntoBytes + zerocopy::Immutable>(host: &Host, command: u32, op: &T) -> i64 {
    let at = host.put(DOMU, op);
    host.hypercall(DOMU, HYPERVISOR_SCHED_OP, &[command.into(), at])
}

fn simple(host: &Host, command: u32) -> i64 {
    host.hypercall(DOMU, HYPERVISOR_SCHED_OP, &[command.into(), 0])
}

fn is_blocked(host: &Host) -> bool {
    host.vcpu(DOMU).blocked.load(Ordering::SeqCst)
}

fn poll_ports(host: &Host, ports: &[Port], timeout: u64) -> i64 {
    let list = host.put_slice(DOMU, ports);
    let op = SchedPoll {
        ports: GuestHandle::new(list),
        nr_ports: ports.len() as u32,
        _pad0: 0,
        timeout,
    };
    call(host, SCHEDOP_POLL, &op)
}

fn set_upcall_mask(host: &Host, value: u8) {
    let place = host.vcpu(DOMU).info();
    host.hv
        .machine
        .write_frame(place.mfn, place.offset + 1, &[value]);
}

fn pass(host: &Host, nanoseconds: u64) {
    host.hv.machine.pass_time(nanoseconds);
    time::run_expired(&host.hv);
}

#[test]
fn block_sleeps_with_upcalls_unmasked_until_an_event() {
    let host = Host::new();
    let port = event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    set_upcall_mask(&host, 1);
    assert_eq!(simple(&host, SCHEDOP_BLOCK), 0);
    assert!(is_blocked(&host));
    let mask: u8 = host.shared(DOMU, offset_of!(VcpuInfo, evtchn_upcall_mask));
    assert_eq!(mask, 0);
    event::send(&host.hv, &host.domain(DOMU), port).unwrap();
    assert!(!is_blocked(&host));
}

#[test]
fn block_returns_at_once_when_an_event_is_pending() {
    let host = Host::new();
    let port = event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    set_upcall_mask(&host, 1);
    event::send(&host.hv, &host.domain(DOMU), port).unwrap();
    assert_eq!(simple(&host, SCHEDOP_BLOCK), 0);
    assert!(!is_blocked(&host));
}

#[test]
fn a_vcpu_that_blocks_is_not_picked_until_it_wakes() {
    let host = Host::new();
    let port = event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    host.vcpu(DOM0).blocked.store(true, Ordering::SeqCst);
    sched::sleep(&host.hv, &host.vcpu(DOM0));
    assert_eq!(
        sched::pick(&host.hv).map(|vcpu| vcpu.domain.upgrade().unwrap().id),
        Some(DOMU)
    );
    simple(&host, SCHEDOP_BLOCK);
    assert!(host.hv.take_schedule_request());
    assert!(sched::pick(&host.hv).is_none());
    event::send(&host.hv, &host.domain(DOMU), port).unwrap();
    assert!(host.hv.take_schedule_request());
    assert!(sched::pick(&host.hv).is_some());
}

#[test]
fn yield_asks_the_scheduler() {
    let host = Host::new();
    host.hv.take_schedule_request();
    assert_eq!(simple(&host, SCHEDOP_YIELD), 0);
    assert!(host.hv.take_schedule_request());
}

#[test]
fn poll_ends_with_a_masked_event_that_it_waits_for_and_no_other() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let ports = [0; 3].map(|_| event::bind_ipi(&domain, 0).unwrap());
    set_upcall_mask(&host, 1);
    let mask = offset_of!(SharedInfo, evtchn_mask);
    host.hv
        .machine
        .write_frame(domain.shared_info, mask, &[0xff; 8]);
    assert_eq!(poll_ports(&host, &ports[..1], 0), 0);
    assert!(is_blocked(&host));
    event::send(&host.hv, &domain, ports[1]).unwrap();
    assert!(is_blocked(&host));
    event::send(&host.hv, &domain, ports[0]).unwrap();
    assert!(!is_blocked(&host));
    assert_eq!(host.vcpu(DOMU).polling.load(Ordering::SeqCst), 0);
    // One of several; the other two are pending already.
    assert_eq!(poll_ports(&host, &ports, 0), 0);
    assert!(!is_blocked(&host));
    assert_eq!(poll_ports(&host, &ports[2..], 0), 0);
    assert!(is_blocked(&host));
}

#[test]
fn poll_of_several_ports_ends_with_any_of_them() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let ports = [0; 2].map(|_| event::bind_ipi(&domain, 0).unwrap());
    set_upcall_mask(&host, 1);
    assert_eq!(poll_ports(&host, &ports, 0), 0);
    assert!(is_blocked(&host));
    event::send(&host.hv, &domain, ports[1]).unwrap();
    assert!(!is_blocked(&host));
}

#[test]
fn poll_gives_up_at_its_absolute_timeout() {
    let host = Host::new();
    let port = event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    set_upcall_mask(&host, 1);
    let deadline = time::now(&host.hv) + 5 * MILLISECOND;
    assert_eq!(poll_ports(&host, &[port], deadline), 0);
    pass(&host, 4 * MILLISECOND);
    assert!(is_blocked(&host));
    pass(&host, MILLISECOND);
    assert!(!is_blocked(&host));
    // The timeout of a poll that ended early does not end the next.
    let deadline = time::now(&host.hv) + 5 * MILLISECOND;
    poll_ports(&host, &[port], deadline);
    event::send(&host.hv, &host.domain(DOMU), port).unwrap();
    let other = event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    poll_ports(&host, &[other], 0);
    pass(&host, 50 * MILLISECOND);
    assert!(is_blocked(&host));
}

#[test]
fn a_poll_until_a_negative_time_ends_at_once() {
    let host = Host::new();
    for deadline in [1 << 63, u64::MAX] {
        assert_eq!(poll_ports(&host, &[], deadline), 0);
        pass(&host, 1);
        assert!(!is_blocked(&host), "{deadline:#x}");
    }
}

#[test]
fn poll_without_ports_is_a_sleep() {
    let host = Host::new();
    let deadline = time::now(&host.hv) + MILLISECOND;
    assert_eq!(poll_ports(&host, &[], deadline), 0);
    assert!(is_blocked(&host));
    pass(&host, MILLISECOND);
    assert!(!is_blocked(&host));
}

#[test]
fn a_poll_that_is_refused_leaves_the_vcpu_awake() {
    let host = Host::new();
    assert_eq!(errno(poll_ports(&host, &[Port(7)], 0)), Some(Errno::EINVAL));
    assert_eq!(
        errno(poll_ports(&host, &[Port(70000)], 0)),
        Some(Errno::EINVAL)
    );
    let waits = event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    host.put_at(DOMU, SCRATCH + SCRATCH_PAGES * 4096 - 4, &waits);
    let poll = |ports, nr_ports| SchedPoll {
        ports: GuestHandle::new(ports),
        nr_ports,
        _pad0: 0,
        timeout: 0,
    };
    let cases = [
        (poll(SCRATCH, 129), Errno::EINVAL),
        (poll(SCRATCH, u32::MAX), Errno::EINVAL),
        (poll(UNMAPPED, 1), Errno::EFAULT),
        (poll(0xffff_8000_0000_0000, 1), Errno::EFAULT),
        (poll(0xffff_8000_0000_0000, 0), Errno::EFAULT),
        (poll(1 << 47, 1), Errno::EFAULT),
        (poll(u64::MAX - 2, 1), Errno::EFAULT),
        // The second is on a page that is not there.
        (poll(SCRATCH + SCRATCH_PAGES * 4096 - 4, 2), Errno::EFAULT),
    ];
    for (op, expected) in cases {
        assert_eq!(errno(call(&host, SCHEDOP_POLL, &op)), Some(expected));
        assert!(!is_blocked(&host));
        assert_eq!(host.vcpu(DOMU).polling.load(Ordering::SeqCst), 0);
    }
}

#[test]
fn poll_returns_at_once_when_an_upcall_is_due() {
    let host = Host::new();
    let domain = host.domain(DOMU);
    let ports = [0; 2].map(|_| event::bind_ipi(&domain, 0).unwrap());
    event::send(&host.hv, &domain, ports[0]).unwrap();
    assert_eq!(poll_ports(&host, &ports[1..], 0), 0);
    assert!(!is_blocked(&host));
    let unmask = host.put(DOMU, &ports[1]);
    let args = [EVTCHNOP_UNMASK.into(), unmask];
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP, &args), 0);
}

#[test]
fn shutdown_stops_the_domain_and_keeps_the_first_reason() {
    let host = Host::new();
    assert_eq!(
        call(
            &host,
            SCHEDOP_SHUTDOWN,
            &SchedShutdown {
                reason: SHUTDOWN_REBOOT
            }
        ),
        0
    );
    assert_eq!(
        host.domain(DOMU).life.lock().shutdown,
        Some(SHUTDOWN_REBOOT)
    );
    assert!(!host.vcpu(DOMU).is_runnable());
    call(
        &host,
        SCHEDOP_SHUTDOWN,
        &SchedShutdown {
            reason: SHUTDOWN_CRASH,
        },
    );
    assert_eq!(
        host.domain(DOMU).life.lock().shutdown,
        Some(SHUTDOWN_REBOOT)
    );
}

#[test]
fn a_shutdown_has_the_reason_that_was_latched_before() {
    let host = Host::new();
    assert_eq!(
        call(
            &host,
            SCHEDOP_SHUTDOWN_CODE,
            &SchedShutdown {
                reason: SHUTDOWN_SUSPEND
            }
        ),
        0
    );
    assert_eq!(host.domain(DOMU).life.lock().shutdown, None);
    call(
        &host,
        SCHEDOP_SHUTDOWN,
        &SchedShutdown {
            reason: SHUTDOWN_POWEROFF,
        },
    );
    assert_eq!(
        host.domain(DOMU).life.lock().shutdown,
        Some(SHUTDOWN_SUSPEND)
    );
    lifecycle::resume(&host.hv, &host.domain(DOMU));
    call(
        &host,
        SCHEDOP_SHUTDOWN,
        &SchedShutdown {
            reason: SHUTDOWN_POWEROFF,
        },
    );
    assert_eq!(
        host.domain(DOMU).life.lock().shutdown,
        Some(SHUTDOWN_POWEROFF)
    );
}

#[test]
fn only_the_control_domain_shuts_others_down() {
    let host = Host::new();
    let op = |domain_id| SchedRemoteShutdown {
        domain_id,
        _pad0: 0,
        reason: SHUTDOWN_CRASH,
    };
    assert_eq!(
        errno(call(&host, SCHEDOP_REMOTE_SHUTDOWN, &op(DOM0))),
        Some(Errno::EPERM)
    );
    assert_eq!(
        errno(call(&host, SCHEDOP_REMOTE_SHUTDOWN, &op(Domid(9)))),
        Some(Errno::ESRCH)
    );
    assert_eq!(
        errno(call(&host, SCHEDOP_REMOTE_SHUTDOWN, &op(Domid::SELF))),
        Some(Errno::ESRCH)
    );
    for reserved in [Domid::SELF, Domid::IO, Domid::XEN, Domid::INVALID] {
        let at = host.put(DOM0, &op(reserved));
        let args = [SCHEDOP_REMOTE_SHUTDOWN.into(), at];
        let result = host.hypercall(DOM0, HYPERVISOR_SCHED_OP, &args);
        assert_eq!(errno(result), Some(Errno::ESRCH));
    }
    let at = host.put(DOM0, &op(DOMU));
    let args = [SCHEDOP_REMOTE_SHUTDOWN.into(), at];
    assert_eq!(host.hypercall(DOM0, HYPERVISOR_SCHED_OP, &args), 0);
    assert_eq!(host.domain(DOMU).life.lock().shutdown, Some(SHUTDOWN_CRASH));
}

#[test]
fn a_watchdog_that_is_not_poked_ends_the_domain() {
    let host = Host::new();
    let set = |id, timeout| call(&host, SCHEDOP_WATCHDOG, &SchedWatchdog { id, timeout });
    assert_eq!(set(0, 2), 1);
    pass(&host, 1900 * MILLISECOND);
    assert_eq!(set(1, 2), 0);
    pass(&host, 1900 * MILLISECOND);
    assert_eq!(host.domain(DOMU).life.lock().shutdown, None);
    pass(&host, 200 * MILLISECOND);
    assert_eq!(
        host.domain(DOMU).life.lock().shutdown,
        Some(SHUTDOWN_WATCHDOG)
    );
}

#[test]
fn a_domain_has_two_watchdogs_which_it_may_stop() {
    let host = Host::new();
    let set = |id, timeout| call(&host, SCHEDOP_WATCHDOG, &SchedWatchdog { id, timeout });
    assert_eq!(errno(set(1, 1)), Some(Errno::EINVAL));
    assert_eq!((set(0, 1), set(0, 1)), (1, 2));
    assert_eq!(errno(set(0, 1)), Some(Errno::ENOSPC));
    assert_eq!(errno(set(3, 1)), Some(Errno::EINVAL));
    assert_eq!((set(1, 0), set(2, 0)), (0, 0));
    assert_eq!(errno(set(2, 5)), Some(Errno::EINVAL));
    pass(&host, 5 * SECOND);
    assert_eq!(host.domain(DOMU).life.lock().shutdown, None);
    assert_eq!(set(0, 1), 1);
    stop_watchdogs(&host.hv, &host.domain(DOMU));
    pass(&host, 5 * SECOND);
    assert_eq!(host.domain(DOMU).life.lock().shutdown, None);
}

#[test]
fn a_pin_override_is_the_control_domains_and_ends_as_it_began() {
    let host = Host::new();
    let pin = |pcpu| {
        let at = host.put(DOM0, &SchedPinOverride { pcpu });
        errno(host.hypercall(
            DOM0,
            HYPERVISOR_SCHED_OP,
            &[SCHEDOP_PIN_OVERRIDE.into(), at],
        ))
    };
    let refused = call(&host, SCHEDOP_PIN_OVERRIDE, &SchedPinOverride { pcpu: 0 });
    assert_eq!(errno(refused), Some(Errno::EPERM));
    assert_eq!(pin(-1), Some(Errno::EINVAL));
    assert_eq!(pin(1), Some(Errno::EINVAL));
    assert_eq!(pin(i32::MAX), Some(Errno::EINVAL));
    assert_eq!(pin(0), None);
    assert_eq!(pin(0), Some(Errno::EBUSY));
    assert_eq!(pin(-1), None);
    assert_eq!(sched::affinity(&host.hv, &host.vcpu(DOM0)), 1);
}

#[test]
fn unknown_commands_are_refused() {
    let host = Host::new();
    for command in [8, 99, u64::from(u32::MAX)] {
        let result = host.hypercall(DOMU, HYPERVISOR_SCHED_OP, &[command, SCRATCH]);
        assert_eq!(errno(result), Some(Errno::ENOSYS));
    }
}

#[test]
fn the_compatible_form_takes_the_reason_itself() {
    let host = Host::new();
    let old = |command, arg| host.hypercall(DOMU, HYPERVISOR_SCHED_OP_COMPAT, &[command, arg]);
    assert_eq!(old(SCHEDOP_YIELD.into(), 0), 0);
    assert_eq!(errno(old(SCHEDOP_POLL.into(), 0)), Some(Errno::ENOSYS));
    assert_eq!(old(SCHEDOP_BLOCK.into(), 0), 0);
    assert!(is_blocked(&host));
    assert_eq!(old(SCHEDOP_SHUTDOWN.into(), 0x103), 0);
    assert_eq!(host.domain(DOMU).life.lock().shutdown, Some(SHUTDOWN_CRASH));
}
