//! Operations on what a PV domain has not: a physical map that the hypervisor keeps, memory populated on demand,
//! virtual NUMA nodes. Callers that ask get the answers of Xen.

use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::Domid;

use super::permitted_domain;
use crate::current::Current;
use crate::hypercall::HypercallResult;

/// `XENMEM_add_to_physmap`: `start` is how far an earlier call would have come.
///
/// # Errors
/// `EDOM` where `start` is more than there can be, `EFAULT`, `ENOSYS` for frames of other domains, `ESRCH`; `EACCES`.
pub(super) fn add_to_physmap(cx: &Current<'_>, start: u64, argument: u64) -> HypercallResult {
    u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let wanted: AddToPhysmap = cx.read(argument)?;
    if wanted.space == XENMAPSPACE_GMFN_FOREIGN {
        return Err(Errno::ENOSYS.into());
    }
    not_translated(cx, wanted.domid)
}

/// `XENMEM_add_to_physmap_batch`.
///
/// # Errors
/// `EDOM` where `start` is more than there can be, `EFAULT`, `EOPNOTSUPP` for a range, `ESRCH`; `EACCES`.
pub(super) fn add_to_physmap_batch(cx: &Current<'_>, start: u64, argument: u64) -> HypercallResult {
    u16::try_from(start).map_err(|_| Errno::EDOM)?;
    let wanted: AddToPhysmapBatch = cx.read(argument)?;
    if u32::from(wanted.space) == XENMAPSPACE_GMFN_RANGE {
        return Err(Errno::EOPNOTSUPP.into());
    }
    not_translated(cx, wanted.domid)
}

/// `XENMEM_remove_from_physmap`.
///
/// # Errors
/// `EFAULT`, `ESRCH`; `EACCES`.
pub(super) fn remove_from_physmap(cx: &Current<'_>, argument: u64) -> HypercallResult {
    let wanted: RemoveFromPhysmap = cx.read(argument)?;
    not_translated(cx, wanted.domid)
}

/// No domain has a physical map of the hypervisor's, whoever asks.
fn not_translated(cx: &Current<'_>, domid: Domid) -> HypercallResult {
    cx.any_domain(domid)?;
    Err(Errno::EACCES.into())
}

/// `XENMEM_set_pod_target` and `XENMEM_get_pod_target`.
///
/// # Errors
/// `EFAULT`, `ESRCH`; `EINVAL`.
pub(super) fn pod_target(cx: &Current<'_>, argument: u64) -> HypercallResult {
    let target: PodTarget = cx.read(argument)?;
    cx.any_domain(target.domid)?;
    Err(Errno::EINVAL.into())
}

/// `XENMEM_get_vnumainfo`: no domain is told of nodes.
///
/// # Errors
/// `EFAULT`, `EINVAL` where padding is not 0, `ESRCH`, `EPERM`; `EOPNOTSUPP`.
pub(super) fn vnuma_info(cx: &Current<'_>, argument: u64) -> HypercallResult {
    let topology: VnumaTopologyInfo = cx.read(argument)?;
    if topology.pad != 0 {
        return Err(Errno::EINVAL.into());
    }
    permitted_domain(cx, topology.domid)?;
    Err(Errno::EOPNOTSUPP.into())
}

/// `XENMEM_reserved_device_memory_map`: without an IOMMU no device has memory of its own.
///
/// # Errors
/// `EFAULT`, `EINVAL` for unknown flags.
pub(super) fn reserved_device_memory(cx: &Current<'_>, argument: u64) -> HypercallResult {
    let mut map: ReservedDeviceMemoryMap = cx.read(argument)?;
    if map.flags & !XENMEM_RDM_ALL != 0 {
        return Err(Errno::EINVAL.into());
    }
    map.nr_entries = 0;
    cx.write(argument, &map)?;
    Ok(0)
}
