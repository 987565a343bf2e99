//! The hypercall `event_channel_op` (`xen/event_channel.h`).

use alloc::sync::Arc;
use core::mem::offset_of;

use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::*;
use hypercall_abi::types::{Mfn, Union};

use super::fifo;
use super::table::Binding;
use crate::hypercall::{Args, HypercallResult, Stop, should_preempt};
use crate::{Current, Domain};

/// A reset that goes on after a continuation; Xen's number for it, which the public headers leave out.
const EVTCHNOP_RESET_CONT: u32 = 14;
/// Heap that must be free before a port is made: 4 KiB, more than a port takes unless the table grows.
const NEW_PORT_HEAP: usize = 4 << 10;

/// `HYPERVISOR_event_channel_op`: a command and the address of its struct.
pub fn do_event_channel_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    run(cx, args[0] as u32, args[1], args)
}

/// `HYPERVISOR_event_channel_op_compat`: the address of command and struct.
pub fn do_event_channel_op_compat(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let op: EvtchnOp = cx.read(args[0])?;
    if op.cmd > EVTCHNOP_UNMASK {
        return Err(Errno::ENOSYS.into());
    }
    run(
        cx,
        op.cmd,
        args[0].wrapping_add(offset_of!(EvtchnOp, u) as u64),
        args,
    )
}

fn run(cx: &mut Current<'_>, command: u32, at: u64, args: &Args) -> HypercallResult {
    let hv = cx.hv;
    if let EVTCHNOP_ALLOC_UNBOUND
    | EVTCHNOP_BIND_INTERDOMAIN
    | EVTCHNOP_BIND_VIRQ
    | EVTCHNOP_BIND_IPI
    | EVTCHNOP_BIND_PIRQ = command
    {
        hv.reserve_heap(NEW_PORT_HEAP)?;
    }
    match command {
        EVTCHNOP_ALLOC_UNBOUND => {
            let mut op: EvtchnAllocUnbound = cx.read(at)?;
            let domain = cx.any_domain(op.dom)?;
            op.port = super::alloc_unbound(cx.domain, &domain, op.remote_dom)?;
            cx.write(at, &op)?;
        }
        EVTCHNOP_BIND_INTERDOMAIN => {
            let mut op: EvtchnBindInterdomain = cx.read(at)?;
            let remote = cx.any_domain(op.remote_dom)?;
            op.local_port = super::bind_interdomain(hv, cx.domain_arc, &remote, op.remote_port)?;
            cx.write(at, &op)?;
        }
        EVTCHNOP_BIND_VIRQ => {
            let mut op: EvtchnBindVirq = cx.read(at)?;
            op.port = super::bind_virq(cx.domain, op.virq, op.vcpu)?;
            cx.write(at, &op)?;
        }
        EVTCHNOP_BIND_IPI => {
            let mut op: EvtchnBindIpi = cx.read(at)?;
            op.port = super::bind_ipi(cx.domain, op.vcpu)?;
            cx.write(at, &op)?;
        }
        EVTCHNOP_BIND_PIRQ => {
            let mut op: EvtchnBindPirq = cx.read(at)?;
            op.port = super::bind_pirq(hv, cx.domain_arc, op.pirq, op.flags)?;
            cx.write(at, &op)?;
        }
        EVTCHNOP_CLOSE => {
            let op: EvtchnClose = cx.read(at)?;
            super::close(hv, cx.domain_arc, op.port)?;
        }
        EVTCHNOP_SEND => {
            let op: EvtchnSend = cx.read(at)?;
            super::send(hv, cx.domain, op.port)?;
        }
        EVTCHNOP_STATUS => {
            let mut op: EvtchnStatus = cx.read(at)?;
            status(cx, &mut op)?;
            cx.write(at, &op)?;
        }
        EVTCHNOP_BIND_VCPU => {
            let op: EvtchnBindVcpu = cx.read(at)?;
            super::bind_vcpu(cx.domain, op.port, op.vcpu)?;
        }
        EVTCHNOP_UNMASK => {
            let op: EvtchnUnmask = cx.read(at)?;
            super::unmask(hv, cx.domain, op.port)?;
        }
        EVTCHNOP_RESET | EVTCHNOP_RESET_CONT => {
            let op: EvtchnReset = cx.read(at)?;
            let domain = cx.any_domain(op.dom)?;
            reset(cx, &domain, command == EVTCHNOP_RESET_CONT, args)?;
        }
        EVTCHNOP_INIT_CONTROL => {
            let mut op: EvtchnInitControl = cx.read(at)?;
            hv.reserve_heap(fifo::HEAP)?;
            let mfn = Mfn(op.control_gfn);
            fifo::init_control(hv, cx.domain, op.vcpu, mfn, op.offset)?;
            op.link_bits = EVTCHN_FIFO_LINK_BITS as u8;
            cx.write(at, &op)?;
        }
        EVTCHNOP_EXPAND_ARRAY => {
            let op: EvtchnExpandArray = cx.read(at)?;
            fifo::expand_array(hv, cx.domain, Mfn(op.array_gfn))?;
        }
        EVTCHNOP_SET_PRIORITY => {
            let op: EvtchnSetPriority = cx.read(at)?;
            fifo::set_priority(cx.domain, op.port, op.priority)?;
        }
        _ => return Err(Errno::ENOSYS.into()),
    }
    Ok(0)
}

/// A privileged domain may do to any domain what that may do to itself.
fn may_target(cx: &Current<'_>, domain: &Domain) -> Result<(), Errno> {
    if domain.id == cx.domain.id || cx.domain.privileged {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

fn status(cx: &Current<'_>, op: &mut EvtchnStatus) -> Result<(), Errno> {
    let domain = cx.any_domain(op.dom)?;
    let table = domain.events.table.lock();
    let channel = table.get(op.port).ok_or(Errno::EINVAL)?;
    may_target(cx, &domain)?;
    op.vcpu = channel.vcpu;
    match &channel.binding {
        Binding::Free | Binding::Reserved => op.status = EVTCHNSTAT_CLOSED,
        Binding::Unbound { remote } => {
            op.status = EVTCHNSTAT_UNBOUND;
            op.u = Union::new(&EvtchnStatusUnbound { dom: *remote });
        }
        Binding::Interdomain { remote, port } => {
            op.status = EVTCHNSTAT_INTERDOMAIN;
            op.u = Union::new(&EvtchnStatusInterdomain {
                dom: remote.id,
                _pad0: 0,
                port: *port,
            });
        }
        Binding::Pirq(pirq) => {
            op.status = EVTCHNSTAT_PIRQ;
            op.u = Union::new(pirq);
        }
        Binding::Virq(virq) => {
            op.status = EVTCHNSTAT_VIRQ;
            op.u = Union::new(virq);
        }
        Binding::Ipi => op.status = EVTCHNSTAT_IPI,
    }
    Ok(())
}

/// Another domain's ports are reset only while the toolstack holds it still.
fn reset(cx: &Current<'_>, domain: &Arc<Domain>, resume: bool, args: &Args) -> Result<(), Stop> {
    may_target(cx, domain)?;
    if domain.id != cx.domain.id && domain.life.lock().toolstack_pauses == 0 {
        return Err(Errno::EINVAL.into());
    }
    match super::reset(cx.hv, domain, resume, &mut || should_preempt(cx))? {
        Some(()) => Ok(()),
        None => {
            let mut again = *args;
            again[0] = EVTCHNOP_RESET_CONT.into();
            Err(cx.again(again))
        }
    }
}
