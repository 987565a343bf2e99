//! `XENMEM_acquire_resource`: frames of what the hypervisor keeps for a domain, for its toolstack to map.

use core::mem::offset_of;

use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;

use super::COMMAND_BITS;
use crate::current::Current;
use crate::hypercall::HypercallResult;

/// `XENMEM_acquire_resource`: the frames of a grant table, which grows for that as far as it may; without a list how
/// many there can be. Emulators' resources and traces are hardware-virtualized domains'.
///
/// # Errors
/// `EFAULT`; `EINVAL` where padding is not 0, for frames that there cannot be, and for what no domain has; `EPERM` for the
/// caller's own domain, and for all but the control domain; `ESRCH`, `EOPNOTSUPP` for other resources.
pub(super) fn acquire(cx: &Current<'_>, start: u64, argument: u64) -> HypercallResult {
    let wanted: MemAcquireResource = cx.read(argument)?;
    let end = wanted.frame.checked_add(u64::from(wanted.nr_frames));
    let end = end.filter(|&end| wanted.pad == 0 && end <= u64::from(u32::MAX));
    let end = end.ok_or(Errno::EINVAL)? as usize;
    let domain = cx.hv.domain(wanted.domid)?;
    if domain.id == cx.domain.id || !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let (grants, owner) = (&domain.grants, &domain.owner);
    let most = match (wanted.type_, wanted.id) {
        (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED) => {
            grants.most_frames().0
        }
        (XENMEM_RESOURCE_GRANT_TABLE, XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS) => {
            grants.most_frames().1
        }
        (
            XENMEM_RESOURCE_GRANT_TABLE
            | XENMEM_RESOURCE_IOREQ_SERVER
            | XENMEM_RESOURCE_VMTRACE_BUF,
            _,
        ) => {
            return Err(Errno::EINVAL.into());
        }
        _ => return Err(Errno::EOPNOTSUPP.into()),
    };
    if wanted.frame_list.is_null() {
        if wanted.nr_frames != 0 || start != 0 {
            return Err(Errno::EINVAL.into());
        }
        let at = argument.wrapping_add(offset_of!(MemAcquireResource, nr_frames) as u64);
        cx.write(at, &most)?;
        return Ok(0);
    }
    if start >= u64::from(wanted.nr_frames) || wanted.nr_frames > u32::MAX >> COMMAND_BITS {
        return Err(Errno::EINVAL.into());
    }
    let frames = match wanted.id {
        XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED => grants.entry_frames(cx.hv, owner, end)?,
        _ => grants.status_frames(cx.hv, owner, end)?,
    };
    let frames = frames.iter().take(end).skip(wanted.frame as usize);
    for (index, mfn) in (0..).zip(frames) {
        cx.write_element(wanted.frame_list.address(), index, &mfn.0)?;
    }
    Ok(0)
}
