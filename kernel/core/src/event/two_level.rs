//! The two-level interface in a domain's shared-info page and its vCPUs' `vcpu_info`.

use alloc::sync::Arc;
use core::mem::offset_of;

use event_protocol::two_level::{Bits, Raised, place, select};
use hv_machine::Platform;
use hypercall_abi::types::Port;
use hypercall_abi::xen::{SharedInfo, VcpuInfo};

use super::deliver::{UPCALL, mark};
use super::word::FrameWord;
use crate::vcpu::InfoPlace;
use crate::{Domain, Hypervisor, Vcpu};

const PENDING: usize = offset_of!(SharedInfo, evtchn_pending) / 8;
const MASK: usize = offset_of!(SharedInfo, evtchn_mask) / 8;
const SELECTOR: usize = offset_of!(VcpuInfo, evtchn_pending_sel) / 8;

/// A port's bits; `None` for one that has none.
#[inline]
pub(super) fn bits<'a>(
    hv: &'a Hypervisor,
    domain: &Domain,
    port: Port,
) -> Option<Bits<FrameWord<'a>>> {
    let (word, bit) = place(port)?;
    let at = |first| FrameWord {
        machine: &hv.machine,
        mfn: domain.shared_info,
        index: first + word,
    };
    Some(Bits {
        pending: at(PENDING),
        mask: at(MASK),
        bit,
    })
}

/// Makes a port pending. Whether it was not pending before, and vCPU `vcpu` where that is to look.
pub(super) fn raise(
    hv: &Hypervisor,
    domain: &Domain,
    port: Port,
    vcpu: u32,
) -> (bool, Option<Arc<Vcpu>>) {
    let Some(bits) = bits(hv, domain, port) else {
        return (false, None);
    };
    match bits.raise() {
        Raised::Before => (false, None),
        Raised::Ready => (true, select_word(hv, domain, vcpu, port)),
        _ => (true, None),
    }
}

/// Unmasks a port. Returns vCPU `vcpu` where it is to look.
pub(super) fn unmask(hv: &Hypervisor, domain: &Domain, port: Port, vcpu: u32) -> Option<Arc<Vcpu>> {
    let bits = bits(hv, domain, port)?;
    let ready = bits.unmask_for_guest();
    ready.then(|| select_word(hv, domain, vcpu, port)).flatten()
}

/// Points a vCPU at a port's word of pending bits. Returns the vCPU where that is to look.
fn select_word(hv: &Hypervisor, domain: &Domain, id: u32, port: Port) -> Option<Arc<Vcpu>> {
    let word = (port.0 / 64) as usize;
    let selector = |mfn, offset: usize| FrameWord {
        machine: &hv.machine,
        mfn,
        index: offset / 8 + SELECTOR,
    };
    match domain.vcpu(id) {
        Some(vcpu) => {
            let InfoPlace { mfn, offset } = vcpu.info();
            let new = select(&selector(mfn, offset), word) && mark(hv, &vcpu);
            new.then_some(vcpu)
        }
        // A domain that is being built may get events before it has vCPUs. Vcpu 0 will find them.
        None if id == 0 => {
            select(&selector(domain.shared_info, 0), word);
            hv.machine.fetch_or_u64(domain.shared_info, UPCALL, 1);
            None
        }
        None => None,
    }
}

/// Has a vCPU look at all words.
pub(super) fn select_all(hv: &Hypervisor, vcpu: &Vcpu) {
    let InfoPlace { mfn, offset } = vcpu.info();
    hv.machine.store_u64(mfn, offset / 8 + SELECTOR, u64::MAX);
}
