//! Event channels in queues, with which a guest begins or not.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::SeqCst;

use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::*;
use hypercall_abi::types::Port;
use pv_guest::events::{EventChannel, are_queued};
use pv_guest::hypercall::{Result, event_channel};
use pv_guest::memory::DmaMemory;
use pv_guest::{boot, cpu};

use super::tap::{OK, Tap};

const INVALID: core::result::Result<(), Errno> = Err(Errno::EINVAL);

/// The ports that were served since this was 0, a decimal digit each.
static SERVED: AtomicU32 = AtomicU32::new(0);
/// The ports of [`priorities`], in the order of their digits.
static PORTS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];

pub fn run(tap: &mut Tap) {
    let wanted = !boot::command_line().contains("xen.fifo_events=0");
    tap.is(
        "events are in queues unless that is unwanted",
        are_queued(),
        wanted,
    );
    refusals(tap);
    if are_queued() {
        priorities(tap);
    } else {
        without(tap);
    }
}

/// A control block for a vCPU; each of these calls fails.
fn control(vcpu: u32, control_gfn: u64, offset: u32) -> Result<()> {
    let mut argument = EvtchnInitControl {
        control_gfn,
        offset,
        vcpu,
        ..Default::default()
    };
    // SAFETY: it fails.
    unsafe { event_channel::init_control(&mut argument) }
}

/// A page of words; each of these calls fails.
fn words(array_gfn: u64) -> Result<()> {
    // SAFETY: it fails.
    unsafe { event_channel::expand_array(array_gfn) }
}

fn refusals(tap: &mut Tap) {
    let Ok(page) = DmaMemory::new(4096, 64) else {
        tap.holds("there is a page", false);
        return;
    };
    let mfn = page.mfn().0;
    tap.call(
        "a control block of vCPU 99",
        control(99, mfn, 1),
        Err(Errno::ENOENT),
    );
    tap.call("one at an odd address", control(0, mfn, 4), INVALID);
    tap.call("one across two pages", control(0, mfn, 4096 - 64), INVALID);
    tap.call("one beyond its page", control(0, mfn, 4096), INVALID);
    tap.call("one in no page of ours", control(0, 1 << 40, 0), INVALID);
    let priority = event_channel::set_priority(Port(1 << 20), 0);
    tap.call("a priority of a port beyond all", priority, INVALID);
}

fn without(tap: &mut Tap) {
    let priority = event_channel::set_priority(Port(1), 0);
    tap.call("a priority without queues", priority, Err(Errno::ENOSYS));
    tap.call(
        "words without queues",
        words(1 << 40),
        Err(Errno::EOPNOTSUPP),
    );
}

fn note(port: Port) {
    let digit = PORTS.iter().position(|it| it.load(SeqCst) == port.0);
    let digit = digit.map_or(9, |digit| digit as u32 + 1);
    SERVED.store(SERVED.load(SeqCst) * 10 + digit, SeqCst);
}

fn priorities(tap: &mut Tap) {
    let Ok(page) = DmaMemory::new(4096, 64) else {
        tap.holds("there is a page", false);
        return;
    };
    let second = control(0, page.mfn().0, 0);
    tap.call("a second control block", second, INVALID);
    tap.call("words in no page of ours", words(1 << 40), INVALID);
    let (Ok(first), Ok(second), Ok(third)) = (
        EventChannel::bind_ipi(),
        EventChannel::bind_ipi(),
        EventChannel::bind_ipi(),
    ) else {
        tap.holds("ports to oneself can be had", false);
        return;
    };
    let channels = [first, second, third];
    for (channel, port) in channels.iter().zip(&PORTS) {
        port.store(channel.port().0, SeqCst);
        channel.set_handler(note);
    }
    let [first, second, third] = &channels;
    let set =
        |channel: &EventChannel, priority| event_channel::set_priority(channel.port(), priority);
    tap.call("a priority below the least", set(first, 16), INVALID);
    let free = event_channel::set_priority(Port(0), 0);
    tap.call("a priority of port 0", free, Err(Errno::EACCES));
    let mut round = |what: &str, order: u32| {
        SERVED.store(0, SeqCst);
        cpu::disable_upcalls();
        for channel in [third, first, second, first] {
            tap.call("sending with upcalls masked", channel.notify(), OK);
        }
        cpu::enable_upcalls();
        tap.is(what, SERVED.load(SeqCst), order);
    };
    round("events come once each, in the order of sending", 312);
    let done = set(first, 0).and(set(third, EVTCHN_FIFO_PRIORITY_MIN));
    round("the more urgent come first", 123);
    tap.call("priorities can be set", done, OK);
}
