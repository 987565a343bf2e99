//! The two-level interface in a domain's shared-info page and its vCPUs' `vcpu_info`.

use core::mem::offset_of;

use event_protocol::two_level::{Bits, Raised, place, select};
use hv_machine::Platform;
use hypercall_abi::types::Port;
use hypercall_abi::xen::{SharedInfo, VcpuInfo};

use super::deliver::{UPCALL, mark_pending};
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

/// Makes a port pending and tells vCPU `vcpu`. Whether it was not pending before.
pub(super) fn raise(hv: &Hypervisor, domain: &Domain, port: Port, vcpu: u32) -> bool {
    let Some(bits) = bits(hv, domain, port) else {
        return false;
    };
    let raised = bits.raise();
    if raised == Raised::Ready {
        select_word(hv, domain, vcpu, port);
    }
    raised != Raised::Before
}

/// Unmasks a port and delivers what is pending.
pub(super) fn unmask(hv: &Hypervisor, domain: &Domain, port: Port, vcpu: u32) {
    if bits(hv, domain, port).is_some_and(|bits| bits.unmask_for_guest()) {
        select_word(hv, domain, vcpu, port);
    }
}

/// Points a vCPU at a port's word of pending bits.
fn select_word(hv: &Hypervisor, domain: &Domain, id: u32, port: Port) {
    let word = (port.0 / 64) as usize;
    let selector = |mfn, offset: usize| FrameWord {
        machine: &hv.machine,
        mfn,
        index: offset / 8 + SELECTOR,
    };
    match domain.vcpu(id) {
        Some(vcpu) => {
            let InfoPlace { mfn, offset } = vcpu.info();
            if select(&selector(mfn, offset), word) {
                mark_pending(hv, &vcpu);
            }
        }
        // A domain that is being built may get events before it has vCPUs. Vcpu 0 will find them.
        None if id == 0 => {
            select(&selector(domain.shared_info, 0), word);
            hv.machine.fetch_or_u64(domain.shared_info, UPCALL, 1);
        }
        None => {}
    }
}

/// Has a vCPU look at all words.
pub(super) fn select_all(hv: &Hypervisor, vcpu: &Vcpu) {
    let InfoPlace { mfn, offset } = vcpu.info();
    hv.machine.store_u64(mfn, offset / 8 + SELECTOR, u64::MAX);
}
