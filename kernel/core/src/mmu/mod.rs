//! The hypercalls by which a guest keeps its page tables: `mmu_update`, `update_va_mapping`, `mmuext_op`, and the
//! faults that are the hypervisor's own business.

mod extended;
mod fault;
mod update;

pub(crate) use extended::hide_m2p;
pub use extended::{do_mmuext_op, write_cr3};
pub use fault::fixup_fault;
pub use update::{do_mmu_update, do_update_va_mapping, do_update_va_mapping_otherdomain};

use alloc::sync::Arc;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::should_preempt;
use crate::hypervisor::Hypervisor;

/// Set in `count` where the call is a continuation (`MMU_UPDATE_PREEMPTED` of the reference: bit 31).
const PREEMPTED: u64 = 1 << 31;

/// A domain that a caller names to work on: itself, or, for the control domain, any other.
///
/// # Errors
/// `ESRCH` for its own number spelt out and for a domain that is not there, `EPERM` for one that it does not
/// control.
fn foreign_domain(cx: &Current<'_>, id: Domid) -> Result<Arc<Domain>, Errno> {
    if id == Domid::SELF {
        return Ok(cx.domain.clone());
    }
    if id == cx.domain.id {
        return Err(Errno::ESRCH);
    }
    let domain = cx.hv.domain(id)?;
    if cx.domain.privileged {
        Ok(domain)
    } else {
        Err(Errno::EPERM)
    }
}

/// Whose frames a new entry may name.
///
/// # Errors
/// As [`foreign_domain`]; every domain may name [`Domid::IO`], whose frames are checked one by one.
fn frame_owner(cx: &Current<'_>, id: Domid) -> Result<Domid, Errno> {
    match id {
        Domid::IO => Ok(Domid::IO),
        _ => foreign_domain(cx, id).map(|domain| domain.id),
    }
}

/// Takes apart the page tables that a domain let go of ([`crate::memory::Memory::take_apart`]); whether that is
/// finished, or not for the caller to wait for: another domain that runs does it itself, and could make the caller wait
/// for ever with ever more of them.
pub(crate) fn settle(cx: &Current<'_>, id: Domid) -> bool {
    let memory = &cx.hv.memory;
    let mut out_of_time = || should_preempt(cx);
    if id == cx.domain.id {
        return memory.take_apart(&cx.domain.owner, &mut out_of_time);
    }
    let Ok(domain) = cx.hv.domain(id) else {
        return true;
    };
    memory.take_apart(&domain.owner, &mut out_of_time)
        || domain.vcpus().iter().any(|vcpu| vcpu.is_runnable())
}

/// Makes every CPU that may run the domain forget its translations.
fn flush_domain(hv: &Hypervisor, _domain: &Domain) {
    let cpus = hv.machine.cpu_count();
    hv.machine
        .flush_tlb_on(u64::MAX >> (64 - cpus.clamp(1, 64)));
}

/// Checks and copies a guest's bitmap of its vCPUs, one bit each, and gives whether any is set.
fn any_vcpu(cx: &Current<'_>, bitmap: u64) -> Result<bool, Errno> {
    let vcpus = cx.domain.vcpu_count() as usize;
    let bytes = cx.read_array::<u8>(bitmap, vcpus.div_ceil(8))?;
    Ok((0..vcpus).any(|id| {
        bytes
            .get(id / 8)
            .is_some_and(|byte| byte & 1 << (id % 8) != 0)
    }))
}
