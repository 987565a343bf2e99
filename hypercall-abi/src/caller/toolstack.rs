//! Operations on domains, on the system and on the machine, by the toolstack and by dom0.

use crate::caller::{Result, address_of_mut, check, hypercall1};
use crate::domctl::Domctl;
use crate::platform::PlatformOp;
use crate::sysctl::Sysctl;
use crate::xen::{HYPERVISOR_DOMCTL, HYPERVISOR_PLATFORM_OP, HYPERVISOR_SYSCTL};

/// An operation on a domain. What it answers is in `op`.
///
/// # Safety
///
/// The handles in `op` are addresses of what the operation reads and writes through them, and what
/// it does to the caller's own domain is in order.
#[inline]
pub unsafe fn domctl(op: &mut Domctl) -> Result<u64> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall1::<HYPERVISOR_DOMCTL>(address_of_mut(op)) })
}

/// An operation on the whole system. What it answers is in `op`.
///
/// # Safety
///
/// The handles in `op` are addresses of what the operation reads and writes through them.
#[inline]
pub unsafe fn sysctl(op: &mut Sysctl) -> Result<u64> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall1::<HYPERVISOR_SYSCTL>(address_of_mut(op)) })
}

/// An operation on the machine. What it answers is in `op`.
///
/// # Safety
///
/// The handles in `op` are addresses of what the operation reads and writes through them.
#[inline]
pub unsafe fn platform_op(op: &mut PlatformOp) -> Result<u64> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall1::<HYPERVISOR_PLATFORM_OP>(address_of_mut(op)) })
}
