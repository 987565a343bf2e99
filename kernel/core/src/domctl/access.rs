//! What of the machine a domain may touch: the control domain hands on what it has.

use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;

use crate::current::Current;
use crate::domain::Domain;

/// Bits of the highest frame number that a page-table entry can hold.
const ADDRESSABLE_FRAMES: u32 = 40;

/// `XEN_DOMCTL_irq_permission`.
///
/// # Errors
/// `EINVAL` for a number that no line has, `EPERM` for one that the caller has not.
pub(super) fn irq(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlIrqPermission = op.u.get();
    if arm.pirq >= hv_machine::Platform::gsi_count(cx.machine()) {
        return Err(Errno::EINVAL);
    }
    if !cx.domain.access.lock().irq_allowed(arm.pirq) {
        return Err(Errno::EPERM);
    }
    domain
        .access
        .lock()
        .set_irqs(arm.pirq, arm.pirq, arm.allow_access != 0)?;
    Ok(false)
}

/// `XEN_DOMCTL_iomem_permission`.
///
/// # Errors
/// `EINVAL` for a range that is empty or wraps, `EPERM` for one that the caller has not; `ENOMEM`.
pub(super) fn io_memory(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlIomemPermission = op.u.get();
    let first = arm.first_mfn;
    let last = arm
        .nr_mfns
        .checked_sub(1)
        .and_then(|more| first.0.checked_add(more))
        .ok_or(Errno::EINVAL)?;
    if !cx.domain.owner.io_memory_allowed(first, Mfn(last)) {
        return Err(Errno::EPERM);
    }
    domain
        .owner
        .set_io_memory(first, Mfn(last), arm.allow_access != 0)?;
    Ok(false)
}

/// `XEN_DOMCTL_ioport_permission`.
///
/// # Errors
/// `EINVAL` for a range that is empty or goes beyond the last port, `EPERM` for one that the caller has not; `ENOMEM`.
pub(super) fn ports(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlIoportPermission = op.u.get();
    let last = arm
        .nr_ports
        .checked_sub(1)
        .and_then(|more| arm.first_port.checked_add(more))
        .filter(|&last| last <= 0xffff)
        .ok_or(Errno::EINVAL)?;
    if !cx.domain.access.lock().ports_allowed(arm.first_port, last) {
        return Err(Errno::EPERM);
    }
    domain
        .access
        .lock()
        .set_ports(arm.first_port, last, arm.allow_access != 0)?;
    Ok(false)
}

/// `XEN_DOMCTL_memory_mapping`: a PV domain maps I/O memory itself, so that this is but a question whether it may.
///
/// # Errors
/// `EINVAL` for a range that is empty, wraps or is beyond what the processor addresses; `EPERM` for one that the
/// caller or the domain has not.
pub(super) fn memory_mapping(
    cx: &Current<'_>,
    domain: &Domain,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlMemoryMapping = op.u.get();
    let first = arm.first_mfn;
    let more = arm.nr_mfns.checked_sub(1).ok_or(Errno::EINVAL)?;
    let last = first.0.checked_add(more).ok_or(Errno::EINVAL)?;
    arm.first_gfn.0.checked_add(more).ok_or(Errno::EINVAL)?;
    if last >> ADDRESSABLE_FRAMES != 0 {
        return Err(Errno::EINVAL);
    }
    let allowed = |domain: &Domain| domain.owner.io_memory_allowed(first, Mfn(last));
    if !allowed(cx.domain) || !allowed(domain) {
        return Err(Errno::EPERM);
    }
    Ok(false)
}
