//! The hypercalls by which a guest keeps its page tables: `mmu_update`, `update_va_mapping`, `mmuext_op`, and the
//! faults that are the hypervisor's own business.

mod extended;
mod fault;
mod update;

pub(crate) use extended::hide_m2p;
pub use extended::{do_mmuext_op, write_cr3};
pub use fault::fixup_fault;
pub use update::{do_mmu_update, do_update_va_mapping, do_update_va_mapping_otherdomain};

use hv_machine::{Platform, is_guest_range};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use crate::current::Current;
use crate::domain::Domain;
use crate::emulate::unhook::Hold;
use crate::hypercall::{begin_clock, should_preempt};
use crate::hypervisor::Hypervisor;

/// Set in `count` where the call is a continuation (`MMU_UPDATE_PREEMPTED` of the reference: bit 31).
const PREEMPTED: u64 = 1 << 31;

/// What a list of requests says of itself: how many there are, and how many calls before this one have done.
///
/// # Errors
/// `EFAULT` where the list does not begin in the guest's own range, even an empty one.
fn begin(cx: &Current<'_>, list: u64, raw_count: u64, done_at: u64) -> Result<(u64, u32), Errno> {
    if !is_guest_range(list, 1) {
        return Err(Errno::EFAULT);
    }
    let done = if raw_count & PREEMPTED != 0 && done_at != 0 {
        // The caller's loss if it took its counter away.
        cx.read(done_at).unwrap_or_default()
    } else {
        0
    };
    Ok((raw_count & (PREEMPTED - 1), done))
}

/// Whose frames a call is about: the caller's own, another domain's, or those of [`Domid::IO`] or [`Domid::XEN`],
/// which are no domains. Whether the caller may is another question ([`require_control`]).
///
/// # Errors
/// `ESRCH` for the caller's own number spelt out, and for a domain that is not there.
#[inline(always)]
fn frame_owner(cx: &Current<'_>, id: Domid) -> Result<Domid, Errno> {
    match id {
        Domid::SELF => Ok(cx.domain.id),
        _ => other_owner(cx, id),
    }
}

#[inline(never)]
fn other_owner(cx: &Current<'_>, id: Domid) -> Result<Domid, Errno> {
    match id {
        _ if id == cx.domain.id => Err(Errno::ESRCH),
        Domid::IO | Domid::XEN => Ok(id),
        _ => cx.hv.domain(id).map(|domain| domain.id),
    }
}

/// Has the tables of a domain that is not the caller's stay as its vCPUs know them.
#[inline(always)]
pub(crate) fn hold_tables(cx: &Current<'_>, owner: Domid) -> Option<Hold> {
    if owner == cx.domain.id {
        return None;
    }
    hold_others(cx, owner)
}

#[inline(never)]
fn hold_others(cx: &Current<'_>, owner: Domid) -> Option<Hold> {
    let domain = cx.hv.domain(owner).ok()?;
    Some(Hold::new(cx.hv, domain))
}

/// Lets a caller at its own frames, and the control domain at everybody's.
///
/// # Errors
/// `EPERM` for all others.
fn require_control(cx: &Current<'_>, owner: Domid) -> Result<(), Errno> {
    if owner == cx.domain.id || cx.domain.privileged {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Takes apart the page tables that a domain let go of ([`crate::memory::Memory::take_apart`]); whether that is
/// finished, or not for the caller to wait for: another domain that runs does it itself, and could make the caller wait
/// for ever with ever more of them.
#[inline(always)]
pub(crate) fn settle(cx: &Current<'_>, id: Domid) -> bool {
    id == cx.domain.id && cx.domain.owner.is_settled() || settle_some(cx, id)
}

#[cold]
fn settle_some(cx: &Current<'_>, id: Domid) -> bool {
    begin_clock(cx);
    let memory = &cx.hv.memory;
    let mut out_of_time = || should_preempt(cx);
    if id == cx.domain.id {
        return memory.take_apart(&cx.domain.owner, &mut out_of_time);
    }
    // Who may not touch another's tables does not tidy up for it either.
    let Some(domain) = cx.hv.domain(id).ok().filter(|_| cx.domain.privileged) else {
        return true;
    };
    memory.take_apart(&domain.owner, &mut out_of_time)
        || domain.vcpus().iter().any(|vcpu| vcpu.is_runnable())
}

/// Makes every CPU that runs a vCPU of the domain forget its translations. The others do so by themselves before they
/// run one.
#[inline(never)]
pub(crate) fn flush_domain(hv: &Hypervisor, domain: &Domain) {
    flush_vcpus(hv, domain, |_| true);
}

/// As [`flush_domain`], for those vCPUs that are `chosen` by number.
fn flush_vcpus(hv: &Hypervisor, domain: &Domain, chosen: impl Fn(u32) -> bool) {
    let cpus = domain.running_on(chosen);
    if cpus != 0 {
        hv.machine.flush_tlb_on(cpus);
    }
}

/// As [`flush_domain`], for the vCPUs in a bitmap of the guest's, one bit each, which is copied once.
///
/// # Errors
/// `EFAULT`.
#[inline(never)]
fn flush_bitmap(cx: &Current<'_>, bitmap: u64) -> Result<(), Errno> {
    let vcpus = cx.domain.vcpu_count() as usize;
    let bytes = cx.read_array::<u8>(bitmap, vcpus.div_ceil(8))?;
    flush_vcpus(cx.hv, cx.domain, |id| {
        let byte = bytes.get(id as usize / 8);
        byte.is_some_and(|byte| byte & 1 << (id % 8) != 0)
    });
    Ok(())
}

#[cfg(test)]
mod tests;
