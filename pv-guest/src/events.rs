//! Event channels: binding ports, waiting for them, sending.
//!
//! An upcall clears each pending port and marks it as fired; a port's task or handler then does the
//! work. A port has one waiter. Events coalesce: many before the waiter looks are one.
//!
//! They come in queues, or in the two-level bitmap where the hypervisor has no queues or the command line
//! says `xen.fifo_events=0`, as for Linux ([`are_queued`]).
//!
//! A port's upcalls come to one vCPU: the one that bound it for an interrupt or for itself, and the
//! boot vCPU for a port that has a peer, unless it is given to another ([`EventChannel::serve_on`]).

use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use critical_section::Mutex;
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::{BIND_PIRQ_WILL_SHARE, EvtchnStatus, EvtchnStatusUnbound};
use hypercall_abi::types::{Domid, Port};

use crate::evtchn_bits::Bound;
use crate::hypercall::{Result, event_channel};
use crate::vcpus::{self, MAX_VCPUS};
use crate::{cpu, evtchn_bits, queues};

/// Runs in the upcall, with upcalls masked: it must be short, and must not wait.
pub type Handler = fn(Port);

#[derive(Default)]
struct Slot {
    fired: bool,
    waker: Option<Waker>,
    handler: Option<Handler>,
}

/// By port number.
static SLOTS: Mutex<RefCell<Vec<Slot>>> = Mutex::new(RefCell::new(Vec::new()));

/// By vCPU: its ports.
static BOUND: [Bound; MAX_VCPUS] = [const { Bound::none() }; MAX_VCPUS];

fn with_slot<T>(port: Port, action: impl FnOnce(&mut Slot) -> T) -> T {
    critical_section::with(|cs| {
        let mut slots = SLOTS.borrow_ref_mut(cs);
        let index = port.0 as usize;
        if slots.len() <= index {
            slots.resize_with(index + 1, Slot::default);
        }
        action(&mut slots[index])
    })
}

/// Serves every pending port. Called with upcalls masked.
pub(crate) fn upcall() {
    let vcpu = vcpus::current() as usize;
    if are_queued() {
        queues::take_pending(vcpu, serve);
    } else {
        evtchn_bits::take_pending(cpu::shared(), cpu::vcpu(), &BOUND[vcpu], serve);
    }
}

fn serve(port: Port) {
    let (handler, waker) = with_slot(port, |slot| {
        slot.fired = true;
        (slot.handler, slot.waker.take())
    });
    if let Some(handler) = handler {
        handler(port);
    }
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// Whether events come in queues, which have priorities, and not in the two-level bitmap.
pub fn are_queued() -> bool {
    queues::are_used()
}

/// This domain's number, which no start info tells: a port that this domain may connect to itself
/// names it.
pub fn own_domid() -> Result<Domid> {
    let status = EventChannel::alloc_unbound(Domid::SELF)?.status()?;
    Ok(status.u.get::<EvtchnStatusUnbound>().dom)
}

/// Where upcalls of ports with a peer come.
const BOOT: u32 = 0;

/// A bound port. Dropping it closes the port.
#[derive(Debug)]
pub struct EventChannel {
    port: Port,
}

impl EventChannel {
    /// Takes over a port that the domain builder bound, such as the console's, and lets it cause
    /// upcalls.
    pub fn from_builder(port: Port) -> Self {
        Self::adopt(port, BOOT).expect("the first ports need no memory")
    }

    /// Takes over a port whose upcalls come to `vcpu`.
    fn adopt(port: Port, vcpu: u32) -> Result<Self> {
        let channel = Self { port };
        queues::ensure(port)?;
        with_slot(port, |slot| *slot = Slot::default());
        BOUND[vcpu as usize].add(port);
        channel.unmask();
        Ok(channel)
    }

    /// A port that `remote` may connect to.
    pub fn alloc_unbound(remote: Domid) -> Result<Self> {
        Self::alloc_unbound_for(Domid::SELF, remote).and_then(|port| Self::adopt(port, BOOT))
    }

    /// A port of another domain, that `remote` may connect to; for the domain builder. It is that
    /// domain's to close.
    pub fn alloc_unbound_for(domain: Domid, remote: Domid) -> Result<Port> {
        event_channel::alloc_unbound(domain, remote)
    }

    /// A port connected to another domain's unbound one.
    pub fn bind_interdomain(remote: Domid, remote_port: Port) -> Result<Self> {
        event_channel::bind_interdomain(remote, remote_port)
            .and_then(|port| Self::adopt(port, BOOT))
    }

    /// A port for a virtual interrupt (`VIRQ_*`); of one that each vCPU has, this vCPU's.
    pub fn bind_virq(virq: u32) -> Result<Self> {
        let vcpu = vcpus::current();
        event_channel::bind_virq(virq, vcpu).and_then(|port| Self::adopt(port, vcpu))
    }

    /// A port for a physical interrupt that `PHYSDEVOP_map_pirq` gave; `shared` if others may have
    /// it too.
    pub fn bind_pirq(pirq: u32, shared: bool) -> Result<Self> {
        let flags = if shared { BIND_PIRQ_WILL_SHARE } else { 0 };
        event_channel::bind_pirq(pirq, flags).and_then(|port| Self::adopt(port, BOOT))
    }

    /// A port to notify this vCPU itself.
    pub fn bind_ipi() -> Result<Self> {
        Self::bind_ipi_of(vcpus::current())
    }

    /// A port to notify a vCPU of this domain, which has its upcalls.
    pub fn bind_ipi_of(vcpu: u32) -> Result<Self> {
        if vcpu as usize >= MAX_VCPUS {
            return Err(Errno::ENOENT.into());
        }
        event_channel::bind_ipi(vcpu).and_then(|port| Self::adopt(port, vcpu))
    }

    /// Its number.
    pub fn port(&self) -> Port {
        self.port
    }

    /// Has `handler` called in the upcall of every event.
    pub fn set_handler(&self, handler: Handler) {
        with_slot(self.port, |slot| slot.handler = Some(handler));
    }

    /// Sends an event to the other end.
    pub fn notify(&self) -> Result<()> {
        event_channel::send(self.port)
    }

    /// Whether an event came since the last call.
    pub fn take(&self) -> bool {
        with_slot(self.port, |slot| core::mem::take(&mut slot.fired))
    }

    /// Ready when an event came since the last time; else has the task woken by the next one.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        with_slot(self.port, |slot| {
            if core::mem::take(&mut slot.fired) {
                return Poll::Ready(());
            }
            slot.waker = Some(context.waker().clone());
            Poll::Pending
        })
    }

    /// Waits until an event comes, or came since the last time.
    pub async fn wait(&self) {
        poll_fn(|context| self.poll(context)).await;
    }

    /// Has its upcalls come to another vCPU, if it is the guest's to choose.
    ///
    /// # Errors
    ///
    /// `ENOENT` for no such vCPU, `EINVAL` for a port that is one vCPU's.
    pub fn serve_on(&self, vcpu: u32) -> Result<()> {
        let bound = BOUND.get(vcpu as usize).ok_or(Errno::ENOENT)?;
        self.mask();
        let done = event_channel::bind_vcpu(self.port, vcpu);
        if done.is_ok() {
            for other in &BOUND {
                other.remove(self.port);
            }
            bound.add(self.port);
        }
        // What came meanwhile makes its upcall where it belongs.
        self.unmask();
        done
    }

    /// Holds its upcalls back.
    pub fn mask(&self) {
        if are_queued() {
            queues::mask(self.port);
        } else {
            evtchn_bits::mask(cpu::shared(), self.port);
        }
    }

    /// Lets upcalls in again; an event that came meanwhile makes one.
    pub fn unmask(&self) {
        let unmasked = if are_queued() {
            queues::unmask(self.port)
        } else {
            evtchn_bits::unmask(cpu::shared(), self.port)
        };
        if !unmasked {
            let done = event_channel::unmask(self.port);
            debug_assert!(done.is_ok());
        }
    }

    /// Whether an event came that no upcall has served yet.
    pub fn is_pending(&self) -> bool {
        if are_queued() {
            queues::is_pending(self.port)
        } else {
            evtchn_bits::is_pending(cpu::shared(), self.port)
        }
    }

    /// Forgets an event that no upcall has served yet; whether there was one.
    pub fn clear(&self) -> bool {
        if are_queued() {
            queues::clear(self.port)
        } else {
            evtchn_bits::clear(cpu::shared(), self.port)
        }
    }

    /// What the port is: the whole answer of `EVTCHNOP_status`.
    pub fn status(&self) -> Result<EvtchnStatus> {
        event_channel::status(Domid::SELF, self.port)
    }
}

impl Drop for EventChannel {
    fn drop(&mut self) {
        self.mask();
        // Another vCPU that binds a port of the same number next waits until all is forgotten.
        critical_section::with(|_| {
            // The one failure is a port that the peer's end already closed for good.
            _ = event_channel::close(self.port);
            for bound in &BOUND {
                bound.remove(self.port);
            }
            self.clear();
            with_slot(self.port, |slot| *slot = Slot::default());
        });
    }
}
