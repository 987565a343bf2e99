//! `HYPERVISOR_memory_op` (`xen/memory.h`): a domain's reservation, and what it may know of the machine's memory.

mod absent;
mod exchange;
mod maps;
mod reservation;
mod resource;

use alloc::sync::Arc;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::Domid;

use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::{Args, HypercallResult, begin_clock};

/// Bits of the command word that say what to do; those above say where a continued call goes on.
const COMMAND_BITS: u32 = 6;

/// `HYPERVISOR_memory_op(command, argument)`.
///
/// # Errors
/// By command; `ENOSYS` for one that is unknown or not for PV domains, `EINVAL` (or `ENOSYS`) for one that claims to go
/// on though it is never interrupted. The reservation calls return how many extents they did instead of an error.
pub fn do_memory_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    begin_clock(cx);
    let [raw, argument, ..] = *args;
    let command = raw as u32 & ((1 << COMMAND_BITS) - 1);
    let start = raw >> COMMAND_BITS;
    match command {
        XENMEM_INCREASE_RESERVATION | XENMEM_DECREASE_RESERVATION | XENMEM_POPULATE_PHYSMAP => {
            reservation::change(cx, command, start, argument)
        }
        XENMEM_ADD_TO_PHYSMAP => absent::add_to_physmap(cx, start, argument),
        XENMEM_ADD_TO_PHYSMAP_BATCH => absent::add_to_physmap_batch(cx, start, argument),
        XENMEM_ACQUIRE_RESOURCE => resource::acquire(cx, start, argument),
        _ if start != 0 => Err(refusal_to_go_on(command).into()),
        XENMEM_EXCHANGE => exchange::exchange(cx, argument),
        XENMEM_MAXIMUM_RAM_PAGE => Ok(cx.machine().frame_limit()),
        XENMEM_CURRENT_RESERVATION => Ok(named_domain(cx, argument)?.owner.frames()),
        XENMEM_MAXIMUM_RESERVATION => Ok(named_domain(cx, argument)?.owner.max_frames()),
        XENMEM_MAXIMUM_GPFN => {
            let domain = named_domain(cx, argument)?;
            let mut max_pfn = [0; 8];
            let offset = core::mem::offset_of!(hypercall_abi::xen::SharedInfo, arch)
                + core::mem::offset_of!(hypercall_abi::arch_x86::ArchSharedInfo, max_pfn);
            cx.machine()
                .read_frame(domain.shared_info, offset, &mut max_pfn);
            // As the guest says; what it says of the size of a list is nobody's bound.
            Ok(u64::from_le_bytes(max_pfn).saturating_sub(1) & (u64::MAX >> 1))
        }
        XENMEM_MACHPHYS_MFN_LIST => maps::machphys_mfn_list(cx, argument),
        // It would be the table of 32-bit domains.
        XENMEM_MACHPHYS_COMPAT_MFN_LIST => Err(Errno::EOPNOTSUPP.into()),
        XENMEM_MACHPHYS_MAPPING => maps::machphys_mapping(cx, argument),
        XENMEM_MEMORY_MAP => maps::memory_map(cx, argument),
        XENMEM_MACHINE_MEMORY_MAP => maps::machine_memory_map(cx, argument),
        XENMEM_SET_MEMORY_MAP => maps::set_memory_map(cx, argument),
        XENMEM_CLAIM_PAGES => reservation::claim(cx, argument),
        XENMEM_REMOVE_FROM_PHYSMAP => absent::remove_from_physmap(cx, argument),
        XENMEM_SET_POD_TARGET | XENMEM_GET_POD_TARGET => absent::pod_target(cx, argument),
        XENMEM_GET_VNUMAINFO => absent::vnuma_info(cx, argument),
        XENMEM_RESERVED_DEVICE_MEMORY_MAP => absent::reserved_device_memory(cx, argument),
        XENMEM_GET_SHARING_FREED_PAGES | XENMEM_GET_SHARING_SHARED_PAGES => Ok(0),
        // Access rights, paging and sharing by a monitor, as Xen built without them.
        _ => Err(Errno::ENOSYS.into()),
    }
}

/// What a command answers that is never interrupted, and so cannot go on.
fn refusal_to_go_on(command: u32) -> Errno {
    match command {
        XENMEM_EXCHANGE
        | XENMEM_MAXIMUM_RAM_PAGE
        | XENMEM_CURRENT_RESERVATION
        | XENMEM_MAXIMUM_RESERVATION
        | XENMEM_MAXIMUM_GPFN
        | XENMEM_REMOVE_FROM_PHYSMAP
        | XENMEM_CLAIM_PAGES
        | XENMEM_GET_VNUMAINFO
        | XENMEM_RESERVED_DEVICE_MEMORY_MAP => Errno::EINVAL,
        _ => Errno::ENOSYS,
    }
}

/// A domain that the caller may work on.
fn permitted_domain(cx: &Current<'_>, id: Domid) -> Result<Arc<Domain>, Errno> {
    if id == Domid::SELF || id == cx.domain.id {
        return Ok(cx.domain_arc.clone());
    }
    let domain = cx.hv.domain(id)?;
    if cx.domain.privileged {
        Ok(domain)
    } else {
        Err(Errno::EPERM)
    }
}

fn named_domain(cx: &Current<'_>, argument: u64) -> Result<Arc<Domain>, Errno> {
    let named: MemoryDomain = cx.read(argument)?;
    permitted_domain(cx, named.domid)
}

#[cfg(test)]
mod tests;
