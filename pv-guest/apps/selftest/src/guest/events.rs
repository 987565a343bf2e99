//! Event channels.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::*;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::{HYPERVISOR_EVENT_CHANNEL_OP, VIRQ_DEBUG, VIRQ_TIMER};
use pv_guest::events::{EventChannel, are_queued, own_domid};
use pv_guest::hypercall::{check, event_channel, hypercall3, sched};
use pv_guest::{boot, clock, cpu};

use super::calls::poll_until;
use super::queues;
use super::tap::{OK, Tap};

const INVALID: core::result::Result<(), Errno> = Err(Errno::EINVAL);

static UPCALLS: AtomicU32 = AtomicU32::new(0);

fn count(_: Port) {
    UPCALLS.fetch_add(1, SeqCst);
}

pub async fn run(tap: &mut Tap) {
    arguments(tap);
    queues::run(tap);
    loopback(tap);
    masking(tap);
    waiting(tap).await;
}

fn arguments(tap: &mut Tap) {
    // SAFETY: there is no such operation.
    tap.call(
        "operation 99",
        check(unsafe { hypercall3::<HYPERVISOR_EVENT_CHANNEL_OP>(99, 0, 0) }),
        Err(Errno::ENOSYS),
    );
    // SAFETY: it fails.
    tap.call(
        "an operation from nowhere",
        check(unsafe { hypercall3::<HYPERVISOR_EVENT_CHANNEL_OP>(4, 0x1000, 0) }),
        Err(Errno::EFAULT),
    );
    tap.call(
        "virtual interrupt 99",
        event_channel::bind_virq(99, 0),
        INVALID,
    );
    tap.call(
        "the timer, a second time",
        event_channel::bind_virq(VIRQ_TIMER, 0),
        Err(Errno::EEXIST),
    );
    tap.call(
        "the timer of vCPU 99",
        event_channel::bind_virq(VIRQ_TIMER, 99),
        Err(Errno::ENOENT),
    );
    tap.call(
        "a notification of vCPU 99",
        event_channel::bind_ipi(99),
        Err(Errno::ENOENT),
    );
    tap.call("closing port 0", event_channel::close(Port(0)), INVALID);
    tap.call(
        "closing port 4000",
        event_channel::close(Port(4000)),
        INVALID,
    );
    tap.call(
        "closing a port beyond all",
        event_channel::close(Port(u32::MAX)),
        INVALID,
    );
    tap.call("sending to port 0", event_channel::send(Port(0)), INVALID);
    tap.call(
        "sending to port 4000",
        event_channel::send(Port(4000)),
        INVALID,
    );
    tap.call(
        "unmasking a port beyond all",
        event_channel::unmask(Port(1 << 20)),
        INVALID,
    );
    tap.call("unmasking port 0", event_channel::unmask(Port(0)), OK);
    tap.call(
        "the status of port 1 << 20",
        event_channel::status(Domid::SELF, Port(1 << 20)),
        INVALID,
    );
    let status = event_channel::status(Domid::SELF, Port(0))
        .map(|status| status.status)
        .ok();
    tap.is("port 0 is closed", status, Some(EVTCHNSTAT_CLOSED));
    tap.call(
        "the status of a port of domain 77",
        event_channel::status(Domid(77), Port(1)),
        Err(Errno::ESRCH),
    );
    tap.call(
        "a port of domain 77",
        event_channel::alloc_unbound(Domid(77), Domid::SELF),
        Err(Errno::ESRCH),
    );
    tap.call(
        "a connection to domain 77",
        event_channel::bind_interdomain(Domid(77), Port(1)),
        Err(Errno::ESRCH),
    );
    tap.call(
        "a connection to port 0 of ours",
        event_channel::bind_interdomain(Domid::SELF, Port(0)),
        INVALID,
    );
    tap.call(
        "a port that vCPU 99 is to serve",
        event_channel::bind_vcpu(Port(1), 99),
        Err(Errno::ENOENT),
    );
    tap.call(
        "a port that is closed, for vCPU 0",
        event_channel::bind_vcpu(Port(4000), 0),
        INVALID,
    );
    tap.call(
        "physical interrupt 12345",
        event_channel::bind_pirq(12345, 0),
        INVALID,
    );
    tap.call(
        "all ports of domain 77",
        event_channel::reset(Domid(77)),
        Err(Errno::ESRCH),
    );
}

fn loopback(tap: &mut Tap) {
    let me = own_domid();
    tap.holds("this domain has a number", me.is_ok());
    if boot::is_initial_domain() {
        tap.is("the initial domain is number 0", me.ok(), Some(Domid(0)));
    } else {
        tap.holds("another has another number", me.ok() != Some(Domid(0)));
    }
    let Ok(listener) = EventChannel::alloc_unbound(Domid::SELF) else {
        tap.holds("a port can be had", false);
        return;
    };
    let status = listener.status().unwrap_or_default();
    tap.is(
        "an unbound port says so",
        (status.status, status.vcpu),
        (EVTCHNSTAT_UNBOUND, 0),
    );
    tap.call("sending to it", listener.notify(), OK);
    let Ok(connector) = EventChannel::bind_interdomain(Domid::SELF, listener.port()) else {
        tap.holds("a port can be connected", false);
        return;
    };
    let peer: EvtchnStatusInterdomain = connector.status().unwrap_or_default().u.get();
    tap.is(
        "a connected port names its peer",
        peer.port,
        listener.port(),
    );
    let state = listener.status().unwrap_or_default().status;
    tap.is("so does the other end", state, EVTCHNSTAT_INTERDOMAIN);
    tap.call(
        "connecting a second time",
        event_channel::bind_interdomain(Domid::SELF, listener.port()),
        INVALID,
    );
    tap.holds(
        "connecting makes the connecting end pending",
        connector.take(),
    );

    UPCALLS.store(0, SeqCst);
    listener.set_handler(count);
    connector.set_handler(count);
    tap.call("sending", connector.notify(), OK);
    tap.is(
        "has made an upcall when it returns",
        (UPCALLS.load(SeqCst), listener.take()),
        (1, true),
    );
    tap.call("sending the other way", listener.notify(), OK);
    tap.is("too", (UPCALLS.load(SeqCst), connector.take()), (2, true));
    let port = connector.port();
    drop(connector);
    let state = listener.status().unwrap_or_default();
    tap.is(
        "closing one end leaves the other unbound",
        state.status,
        EVTCHNSTAT_UNBOUND,
    );
    tap.call(
        "closing a port a second time",
        event_channel::close(port),
        INVALID,
    );

    let Ok(ipi) = EventChannel::bind_ipi() else {
        tap.holds("a port to oneself can be had", false);
        return;
    };
    UPCALLS.store(0, SeqCst);
    ipi.set_handler(count);
    tap.call("a notification of oneself", ipi.notify(), OK);
    tap.is("arrives", UPCALLS.load(SeqCst), 1);
    let state = ipi.status().unwrap_or_default().status;
    tap.is("its port says what it is", state, EVTCHNSTAT_IPI);
    tap.call(
        "for vCPU 0, which is chosen already",
        event_channel::bind_vcpu(ipi.port(), 0),
        INVALID,
    );
    match EventChannel::bind_virq(VIRQ_DEBUG) {
        Ok(debug) => {
            tap.call("sending to a virtual interrupt", debug.notify(), INVALID);
            let virq = debug.status().unwrap_or_default();
            tap.is(
                "its port says what it is",
                (virq.status, virq.u.get::<u32>()),
                (EVTCHNSTAT_VIRQ, VIRQ_DEBUG),
            );
        }
        Err(error) => tap.is(
            "the debug interrupt can be bound",
            Err(error.errno()),
            Ok(()),
        ),
    }
}

fn masking(tap: &mut Tap) {
    let Ok(ipi) = EventChannel::bind_ipi() else {
        tap.holds("a port to oneself can be had", false);
        return;
    };
    UPCALLS.store(0, SeqCst);
    ipi.set_handler(count);
    ipi.mask();
    tap.call("sending to a masked port", ipi.notify(), OK);
    tap.is("makes no upcall", UPCALLS.load(SeqCst), 0);
    tap.holds("but makes it pending", ipi.is_pending());
    ipi.unmask();
    tap.is("unmasking makes the upcall", UPCALLS.load(SeqCst), 1);

    cpu::disable_upcalls();
    tap.call("sending with upcalls masked", ipi.notify(), OK);
    tap.is("makes no upcall", UPCALLS.load(SeqCst), 1);
    let vcpu = cpu::vcpu();
    tap.is(
        "but sets the vCPU's flag",
        vcpu.upcall_pending.load(SeqCst),
        1,
    );
    if !are_queued() {
        tap.is(
            "and the word's bit",
            vcpu.pending_sel.load(SeqCst) >> (ipi.port().0 / 64) & 1,
            1,
        );
    }
    cpu::enable_upcalls();
    tap.is("which letting upcalls in delivers", UPCALLS.load(SeqCst), 2);
    tap.is("and clears", vcpu.upcall_pending.load(SeqCst), 0);

    ipi.mask();
    tap.call("sending to a masked port", ipi.notify(), OK);
    tap.call(
        "a poll of a pending port",
        sched::poll(&[ipi.port()], clock::now() + 1_000_000_000),
        OK,
    );
    tap.holds("comes back at once", ipi.clear());
    let deadline = clock::now() + 20_000_000;
    tap.holds(
        "a poll of a port that stays quiet takes its time",
        poll_until(&[ipi.port()], deadline),
    );
}

async fn waiting(tap: &mut Tap) {
    let (Ok(listener), Ok(ipi)) = (
        EventChannel::alloc_unbound(Domid::SELF),
        EventChannel::bind_ipi(),
    ) else {
        tap.holds("ports can be had", false);
        return;
    };
    let Ok(connector) = EventChannel::bind_interdomain(Domid::SELF, listener.port()) else {
        tap.holds("a port can be connected", false);
        return;
    };
    connector.take();
    let task = pv_guest::spawn(async move {
        for _ in 0..100 {
            connector.wait().await;
            connector.notify().expect("the peer is there");
        }
    });
    let mut rounds = 0;
    for _ in 0..100 {
        listener.notify().expect("the peer is there");
        listener.wait().await;
        rounds += 1;
    }
    task.await;
    tap.is("two tasks send each other a hundred events", rounds, 100);
    ipi.notify().expect("the port is bound");
    let quiet = clock::timeout(core::time::Duration::from_millis(1), listener.wait()).await;
    tap.holds("a port that nobody sends to stays quiet", quiet.is_err());
}
