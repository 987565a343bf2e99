//! Making ports pending by either interface, and what wakes a vCPU.

use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use hv_machine::Platform;
use hypercall_abi::types::Port;
use hypercall_abi::xen::VcpuInfo;

use super::table::{Abi, Table};
use super::two_level;
use crate::vcpu::InfoPlace;
use crate::{Domain, Hypervisor, Vcpu, sched, trace};

/// Word of a `vcpu_info` that holds the upcall's pending byte and, next to it, the mask's.
pub(super) const UPCALL: usize = offset_of!(VcpuInfo, evtchn_upcall_pending) / 8;
const UPCALL_PENDING: u64 = 0x00ff;
const UPCALL_MASK: u64 = 0xff00;
const _: () = assert!(offset_of!(VcpuInfo, evtchn_upcall_pending) % 8 == 0);
const _: () = assert!(offset_of!(VcpuInfo, evtchn_upcall_mask) % 8 == 1);

/// Makes a port pending and tells vCPU `vcpu` and all that poll for it.
pub(super) fn set_pending(
    hv: &Hypervisor,
    domain: &Domain,
    table: &mut Table,
    port: Port,
    vcpu: u32,
) {
    kick(hv, raise(hv, domain, table, port, vcpu));
}

/// Has a vCPU look at its events, where [`raise`] says so.
#[inline]
pub(super) fn kick(hv: &Hypervisor, vcpu: Option<Arc<Vcpu>>) {
    if let Some(vcpu) = vcpu {
        sched::kick(hv, &vcpu);
    }
}

/// Makes a port pending and tells all that poll for it. Returns vCPU `vcpu` where it is to be told. That is better done
/// with the ports unlocked: it may begin at once on another CPU to send events itself, and would wait for this one.
#[must_use]
#[inline]
pub(super) fn raise(
    hv: &Hypervisor,
    domain: &Domain,
    table: &mut Table,
    port: Port,
    vcpu: u32,
) -> Option<Arc<Vcpu>> {
    let (newly, told) = match table.fifo_and_channel(port) {
        None => two_level::raise(hv, domain, port, vcpu),
        Some((fifo, channel)) => match fifo.raise((port, &mut channel.fifo), vcpu) {
            None => {
                channel.pending = !fifo.has_word(port);
                (false, None)
            }
            Some(raised) => {
                let told = raised.upcall.then(|| told(hv, domain, vcpu));
                (raised.newly, told.flatten())
            }
        },
    };
    if newly && hv.tracer.is_on() {
        trace::pending(hv, domain, port);
    }
    if newly && domain.events.pollers.load(Ordering::SeqCst) != 0 {
        wake_pollers(hv, domain, port);
    }
    told
}

/// Takes a pending event back.
pub(super) fn clear_pending(hv: &Hypervisor, domain: &Domain, table: &mut Table, port: Port) {
    match &table.abi {
        Abi::Fifo(fifo) => fifo.clear_pending(port),
        Abi::TwoLevel => {
            if let Some(bits) = two_level::bits(hv, domain, port) {
                bits.clear();
            }
        }
    }
}

/// Unmasks a port and delivers what is pending.
pub(super) fn unmask(hv: &Hypervisor, domain: &Domain, table: &mut Table, port: Port, vcpu: u32) {
    let told = match table.fifo_and_channel(port) {
        None => two_level::unmask(hv, domain, port, vcpu),
        Some((fifo, channel)) => {
            let upcall = fifo.unmask((port, &mut channel.fifo), vcpu);
            upcall.then(|| told(hv, domain, vcpu)).flatten()
        }
    };
    kick(hv, told);
}

/// Marks that a vCPU has events in its queues. Returns the vCPU where that is new to it.
fn told(hv: &Hypervisor, domain: &Domain, vcpu: u32) -> Option<Arc<Vcpu>> {
    domain.vcpu(vcpu).filter(|vcpu| mark(hv, vcpu))
}

/// Whether a port is pending.
pub(super) fn is_pending(hv: &Hypervisor, domain: &Domain, table: &Table, port: Port) -> bool {
    match &table.abi {
        Abi::TwoLevel => two_level::bits(hv, domain, port).is_some_and(|it| it.is_pending()),
        Abi::Fifo(fifo) => fifo.is_pending(port),
    }
}

/// Whether the guest masks a port.
pub(super) fn is_masked(hv: &Hypervisor, domain: &Domain, table: &Table, port: Port) -> bool {
    match &table.abi {
        Abi::TwoLevel => two_level::bits(hv, domain, port).is_none_or(|it| it.is_masked()),
        Abi::Fifo(fifo) => fifo.is_masked(port),
    }
}

/// Marks that a vCPU has events; whether that is new to it.
pub(super) fn mark(hv: &Hypervisor, vcpu: &Vcpu) -> bool {
    let InfoPlace { mfn, offset } = vcpu.info();
    hv.machine.fetch_or_u64(mfn, offset / 8 + UPCALL, 1) & 1 == 0
}

/// Has a vCPU look at all its events: its information moved, and an event may have come in between.
pub fn mark_all_pending(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    two_level::select_all(hv, vcpu);
    if mark(hv, vcpu) {
        sched::kick(hv, vcpu);
    }
}

/// Whether a vCPU is to be given an upcall: an event is pending, and it does not mask upcalls.
#[inline]
pub fn upcall_due(hv: &Hypervisor, vcpu: &Vcpu) -> bool {
    let word = hv.machine.load_at(&vcpu.place, UPCALL);
    word & UPCALL_PENDING != 0 && word & UPCALL_MASK == 0
}

/// Keeps upcalls from a vCPU until it asks for them, as it is to be when a domain starts.
pub fn mask_upcalls(hv: &Hypervisor, vcpu: &Vcpu) {
    hv.machine.set_at(&vcpu.place, UPCALL, 1 << 8);
}

/// Lets a vCPU have upcalls.
pub(crate) fn unmask_upcalls(hv: &Hypervisor, vcpu: &Vcpu) {
    hv.machine.keep_at(&vcpu.place, UPCALL, !UPCALL_MASK);
}

/// Ends the polls of those that wait for this port, or for several.
fn wake_pollers(hv: &Hypervisor, domain: &Domain, port: Port) {
    for vcpu in domain.vcpus() {
        let polled = vcpu.polling.load(Ordering::SeqCst);
        if polled == u32::MAX || polled != 0 && polled == port.0 {
            sched::end_poll(hv, &vcpu);
        }
    }
}
