//! Event channels: binding ports, waiting for them, sending.
//!
//! An upcall clears each pending port and marks it as fired; a port's task or handler then does the
//! work. A port has one waiter. Events coalesce: many before the waiter looks are one.

use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Context, Poll, Waker};

use critical_section::Mutex;
use hypercall_abi::event_channel::{BIND_PIRQ_WILL_SHARE, EvtchnStatus, EvtchnStatusUnbound};
use hypercall_abi::types::{Domid, Port};

use crate::hypercall::{Result, event_channel};
use crate::{cpu, evtchn_bits};

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
    evtchn_bits::take_pending(cpu::shared(), cpu::vcpu(), |port| {
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
    });
}

/// This domain's number, which no start info tells: a port that this domain may connect to itself
/// names it.
pub fn own_domid() -> Result<Domid> {
    let status = EventChannel::alloc_unbound(Domid::SELF)?.status()?;
    Ok(status.u.get::<EvtchnStatusUnbound>().dom)
}

/// A bound port. Dropping it closes the port.
#[derive(Debug)]
pub struct EventChannel {
    port: Port,
}

impl EventChannel {
    /// Takes over a port that the domain builder bound, such as the console's, and lets it cause
    /// upcalls.
    pub fn from_builder(port: Port) -> Self {
        Self::adopt(port)
    }

    fn adopt(port: Port) -> Self {
        with_slot(port, |slot| *slot = Slot::default());
        let channel = Self { port };
        channel.unmask();
        channel
    }

    /// A port that `remote` may connect to.
    pub fn alloc_unbound(remote: Domid) -> Result<Self> {
        Self::alloc_unbound_for(Domid::SELF, remote).map(Self::adopt)
    }

    /// A port of another domain, that `remote` may connect to; for the domain builder. It is that
    /// domain's to close.
    pub fn alloc_unbound_for(domain: Domid, remote: Domid) -> Result<Port> {
        event_channel::alloc_unbound(domain, remote)
    }

    /// A port connected to another domain's unbound one.
    pub fn bind_interdomain(remote: Domid, remote_port: Port) -> Result<Self> {
        event_channel::bind_interdomain(remote, remote_port).map(Self::adopt)
    }

    /// A port for a virtual interrupt (`VIRQ_*`).
    pub fn bind_virq(virq: u32) -> Result<Self> {
        event_channel::bind_virq(virq, 0).map(Self::adopt)
    }

    /// A port for a physical interrupt that `PHYSDEVOP_map_pirq` gave; `shared` if others may have
    /// it too.
    pub fn bind_pirq(pirq: u32, shared: bool) -> Result<Self> {
        let flags = if shared { BIND_PIRQ_WILL_SHARE } else { 0 };
        event_channel::bind_pirq(pirq, flags).map(Self::adopt)
    }

    /// A port to notify this vCPU itself.
    pub fn bind_ipi() -> Result<Self> {
        event_channel::bind_ipi(0).map(Self::adopt)
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

    /// Holds its upcalls back.
    pub fn mask(&self) {
        evtchn_bits::mask(cpu::shared(), self.port);
    }

    /// Lets upcalls in again; an event that came meanwhile makes one.
    pub fn unmask(&self) {
        if !evtchn_bits::unmask(cpu::shared(), self.port) {
            let done = event_channel::unmask(self.port);
            debug_assert!(done.is_ok());
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
        // The one failure is a port that the peer's end already closed for good.
        _ = event_channel::close(self.port);
        evtchn_bits::clear(cpu::shared(), self.port);
        with_slot(self.port, |slot| *slot = Slot::default());
    }
}
