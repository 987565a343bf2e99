//! Event channels.

use crate::caller::{Result, address_of_mut, check, hypercall2};
use crate::event_channel::*;
use crate::types::{Domid, Port};
use crate::xen::HYPERVISOR_EVENT_CHANNEL_OP;

/// An operation that touches no memory but its argument, as all do but those of the FIFO set-up.
fn op<T>(cmd: u32, argument: &mut T) -> Result<()> {
    // SAFETY: `argument` is the struct that `cmd` reads and writes.
    unsafe { unsafe_op(cmd, argument) }
}

/// # Safety
///
/// `argument` is the struct of the operation, and what that does is in order.
unsafe fn unsafe_op<T>(cmd: u32, argument: &mut T) -> Result<()> {
    let argument = address_of_mut(argument);
    // SAFETY: the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_EVENT_CHANNEL_OP>(u64::from(cmd), argument) })?;
    Ok(())
}

/// Makes a port of `dom` that `remote_dom` may connect to.
#[inline]
pub fn alloc_unbound(dom: Domid, remote_dom: Domid) -> Result<Port> {
    let mut argument = EvtchnAllocUnbound {
        dom,
        remote_dom,
        port: Port(0),
    };
    op(EVTCHNOP_ALLOC_UNBOUND, &mut argument)?;
    Ok(argument.port)
}

/// Makes a local port, connected to `remote_port` of `remote_dom`. It is pending at once.
#[inline]
pub fn bind_interdomain(remote_dom: Domid, remote_port: Port) -> Result<Port> {
    let mut argument = EvtchnBindInterdomain {
        remote_dom,
        remote_port,
        ..Default::default()
    };
    op(EVTCHNOP_BIND_INTERDOMAIN, &mut argument)?;
    Ok(argument.local_port)
}

/// Makes a port for the virtual interrupt `virq` (`VIRQ_*`) of `vcpu`, which is 0 for a global one.
#[inline]
pub fn bind_virq(virq: u32, vcpu: u32) -> Result<Port> {
    let mut argument = EvtchnBindVirq {
        virq,
        vcpu,
        port: Port(0),
    };
    op(EVTCHNOP_BIND_VIRQ, &mut argument)?;
    Ok(argument.port)
}

/// Makes a port for the physical interrupt `pirq`, with `BIND_PIRQ_WILL_SHARE` or 0.
#[inline]
pub fn bind_pirq(pirq: u32, flags: u32) -> Result<Port> {
    let mut argument = EvtchnBindPirq {
        pirq,
        flags,
        port: Port(0),
    };
    op(EVTCHNOP_BIND_PIRQ, &mut argument)?;
    Ok(argument.port)
}

/// Makes a port on which this domain notifies its `vcpu`.
#[inline]
pub fn bind_ipi(vcpu: u32) -> Result<Port> {
    let mut argument = EvtchnBindIpi {
        vcpu,
        port: Port(0),
    };
    op(EVTCHNOP_BIND_IPI, &mut argument)?;
    Ok(argument.port)
}

/// Closes a port. A connected one at the other end becomes unbound.
#[inline]
pub fn close(port: Port) -> Result<()> {
    op(EVTCHNOP_CLOSE, &mut EvtchnClose { port })
}

/// Makes the other end of a port pending.
#[inline]
pub fn send(port: Port) -> Result<()> {
    op(EVTCHNOP_SEND, &mut EvtchnSend { port })
}

/// What a port of `dom` is bound to.
#[inline]
pub fn status(dom: Domid, port: Port) -> Result<EvtchnStatus> {
    let mut argument = EvtchnStatus {
        dom,
        port,
        ..Default::default()
    };
    op(EVTCHNOP_STATUS, &mut argument)?;
    Ok(argument)
}

/// Unmasks a port, with an upcall if it is pending.
#[inline]
pub fn unmask(port: Port) -> Result<()> {
    op(EVTCHNOP_UNMASK, &mut EvtchnUnmask { port })
}

/// Chooses the vCPU that a port notifies.
#[inline]
pub fn bind_vcpu(port: Port, vcpu: u32) -> Result<()> {
    op(EVTCHNOP_BIND_VCPU, &mut EvtchnBindVcpu { port, vcpu })
}

/// Closes all ports of `dom` and returns it to event channels with bits in the shared page.
#[inline]
pub fn reset(dom: Domid) -> Result<()> {
    op(EVTCHNOP_RESET, &mut EvtchnReset { dom })
}

/// Sets the priority of a FIFO event channel, from `EVTCHN_FIFO_PRIORITY_MAX` (0) to
/// `EVTCHN_FIFO_PRIORITY_MIN` (15).
#[inline]
pub fn set_priority(port: Port, priority: u32) -> Result<()> {
    op(
        EVTCHNOP_SET_PRIORITY,
        &mut EvtchnSetPriority { port, priority },
    )
}

/// Gives a vCPU's control block for FIFO event channels, and fills in `link_bits`.
///
/// # Safety
///
/// The page at `control_gfn` is the hypervisor's to write from then on, until `reset`.
#[inline]
pub unsafe fn init_control(control: &mut EvtchnInitControl) -> Result<()> {
    // SAFETY: `control` is the struct of this operation, the rest is the caller's promise.
    unsafe { unsafe_op(EVTCHNOP_INIT_CONTROL, control) }
}

/// Adds a page to the array of FIFO event words.
///
/// # Safety
///
/// The page at `array_gfn` is the hypervisor's to write from then on, until `reset`.
#[inline]
pub unsafe fn expand_array(array_gfn: u64) -> Result<()> {
    // SAFETY: this is the struct of this operation, the rest is the caller's promise.
    unsafe { unsafe_op(EVTCHNOP_EXPAND_ARRAY, &mut EvtchnExpandArray { array_gfn }) }
}
