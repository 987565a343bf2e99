//! The two-level table of pending events in guest memory, and what wakes a vCPU.

use alloc::sync::Arc;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use hv_machine::Platform;
use hypercall_abi::types::Port;
use hypercall_abi::xen::{SharedInfo, VcpuInfo};

use crate::vcpu::InfoPlace;
use crate::{Domain, Hypervisor, Vcpu, sched};

const PENDING: usize = offset_of!(SharedInfo, evtchn_pending) / 8;
const MASK: usize = offset_of!(SharedInfo, evtchn_mask) / 8;
/// Words of a `vcpu_info`: the first holds the upcall's pending byte and, next to it, the mask's.
const UPCALL: usize = offset_of!(VcpuInfo, evtchn_upcall_pending) / 8;
const SELECTOR: usize = offset_of!(VcpuInfo, evtchn_pending_sel) / 8;
const UPCALL_PENDING: u64 = 0x00ff;
const UPCALL_MASK: u64 = 0xff00;
const _: () = assert!(offset_of!(VcpuInfo, evtchn_upcall_pending) % 8 == 0);
const _: () = assert!(offset_of!(VcpuInfo, evtchn_upcall_mask) % 8 == 1);

fn word_and_bit(port: Port) -> (usize, u64) {
    (port.0 as usize / 64 % 64, 1 << (port.0 % 64))
}

/// Makes a port pending and tells vCPU `vcpu` and all that poll for it; the domain's table is locked.
pub(super) fn set_pending(hv: &Hypervisor, domain: &Domain, port: Port, vcpu: u32) {
    let (word, bit) = word_and_bit(port);
    if hv
        .machine
        .fetch_or_u64(domain.shared_info, PENDING + word, bit)
        & bit
        != 0
    {
        return;
    }
    if !is_masked(hv, domain, port) {
        select(hv, domain, vcpu, word);
    }
    if domain.events.pollers.load(Ordering::SeqCst) != 0 {
        wake_pollers(hv, domain, port);
    }
}

/// Takes a pending event back.
pub(super) fn clear_pending(hv: &Hypervisor, domain: &Domain, port: Port) {
    let (word, bit) = word_and_bit(port);
    hv.machine
        .fetch_and_u64(domain.shared_info, PENDING + word, !bit);
}

/// Unmasks a port and delivers what is pending.
pub(super) fn unmask(hv: &Hypervisor, domain: &Domain, port: Port, vcpu: u32) {
    let (word, bit) = word_and_bit(port);
    let before = hv
        .machine
        .fetch_and_u64(domain.shared_info, MASK + word, !bit);
    if before & bit != 0 && is_pending(hv, domain, port) {
        select(hv, domain, vcpu, word);
    }
}

/// Whether a port is pending.
pub(super) fn is_pending(hv: &Hypervisor, domain: &Domain, port: Port) -> bool {
    let (word, bit) = word_and_bit(port);
    hv.machine.load_u64(domain.shared_info, PENDING + word) & bit != 0
}

/// Whether the guest masks a port.
pub(super) fn is_masked(hv: &Hypervisor, domain: &Domain, port: Port) -> bool {
    let (word, bit) = word_and_bit(port);
    hv.machine.load_u64(domain.shared_info, MASK + word) & bit != 0
}

/// Points a vCPU at a word of pending bits.
fn select(hv: &Hypervisor, domain: &Domain, id: u32, word: usize) {
    let bit = 1 << word;
    match domain.vcpu(id) {
        Some(vcpu) => {
            let InfoPlace { mfn, offset } = vcpu.info();
            if hv.machine.fetch_or_u64(mfn, offset / 8 + SELECTOR, bit) & bit == 0 {
                mark_pending(hv, &vcpu);
            }
        }
        // A domain that is being built may get events before it has vCPUs. Vcpu 0 will find them.
        None if id == 0 => {
            hv.machine.fetch_or_u64(domain.shared_info, SELECTOR, bit);
            hv.machine.fetch_or_u64(domain.shared_info, UPCALL, 1);
        }
        None => {}
    }
}

/// Tells a vCPU that its selector is not empty.
fn mark_pending(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let InfoPlace { mfn, offset } = vcpu.info();
    if hv.machine.fetch_or_u64(mfn, offset / 8 + UPCALL, 1) & 1 == 0 {
        sched::kick(hv, vcpu);
    }
}

/// Has a vCPU look at all its events: its information moved, and an event may have come in between.
pub fn mark_all_pending(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let InfoPlace { mfn, offset } = vcpu.info();
    hv.machine.store_u64(mfn, offset / 8 + SELECTOR, u64::MAX);
    mark_pending(hv, vcpu);
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
