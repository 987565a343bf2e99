//! CPUID as the toolstack reads it, to decide what a guest is to see.

use alloc::vec::Vec;

use hypercall_abi::arch_x86::{CpuidLeaf, MsrEntry};
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::*;
use zerocopy::IntoBytes;

use crate::cpuid::{MAX_LEAVES, View, WORD_COUNT};
use crate::current::Current;
use crate::msr::{ARCH_CAPABILITIES, PLATFORM_INFO};

/// The MSRs of a policy, all of which read as 0.
pub(crate) const POLICY_MSRS: [u32; 2] = [PLATFORM_INFO, ARCH_CAPABILITIES];

/// `XEN_SYSCTL_get_cpu_featureset`; without a buffer it says only how many words there are.
///
/// # Errors
/// `EINVAL` for an unknown set, `EOPNOTSUPP` for hardware-virtualized guests', `EFAULT`, `ENOBUFS` where there are
/// more words than room.
pub(super) fn features(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlCpuFeatureset = op.u.get();
    let all = WORD_COUNT as u32;
    if arm.features.is_null() {
        arm.nr_features = all;
        op.u.set(&arm);
        return Ok(());
    }
    let view = match arm.index {
        XEN_SYSCTL_CPU_FEATURESET_RAW => View::Raw,
        XEN_SYSCTL_CPU_FEATURESET_HOST => View::Host,
        XEN_SYSCTL_CPU_FEATURESET_PV => View::Default,
        XEN_SYSCTL_CPU_FEATURESET_HVM => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    };
    let count = arm.nr_features.min(all);
    let words = cx.hv.cpuid.words(view);
    for (index, word) in (0..u64::from(count)).zip(words) {
        cx.write_element(arm.features.address(), index, &word)?;
    }
    arm.nr_features = count;
    op.u.set(&arm);
    if count < all {
        return Err(Errno::ENOBUFS);
    }
    Ok(())
}

/// `XEN_SYSCTL_get_cpu_policy`; without a buffer it says only how much room is enough.
///
/// # Errors
/// `EINVAL` for an unknown policy, `EOPNOTSUPP` for hardware-virtualized guests', `EFAULT`, `ENOMEM`, `ENOBUFS` where
/// there are more leaves or MSRs than room.
pub(super) fn policy(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlCpuPolicy = op.u.get();
    if arm._rsvd != 0 {
        return Err(Errno::EINVAL);
    }
    let view = match arm.index {
        XEN_SYSCTL_CPU_POLICY_RAW => View::Raw,
        XEN_SYSCTL_CPU_POLICY_HOST => View::Host,
        XEN_SYSCTL_CPU_POLICY_PV_MAX => View::Most,
        XEN_SYSCTL_CPU_POLICY_PV_DEFAULT => View::Default,
        XEN_SYSCTL_CPU_POLICY_HVM_MAX | XEN_SYSCTL_CPU_POLICY_HVM_DEFAULT => {
            return Err(Errno::EOPNOTSUPP);
        }
        _ => return Err(Errno::EINVAL),
    };
    arm.nr_leaves = copy_leaves(cx, arm.leaves.address(), arm.nr_leaves, || {
        cx.hv.cpuid.leaves(cx.machine(), view)
    })?;
    arm.nr_msrs = copy_msrs(cx, arm.msrs.address(), arm.nr_msrs)?;
    op.u.set(&arm);
    Ok(())
}

/// Writes leaves to a buffer with room for `room`; gives how many they are. Without a buffer it gives how much room is
/// enough.
///
/// # Errors
/// `EFAULT`, `ENOBUFS`, `ENOMEM`.
pub(crate) fn copy_leaves(
    cx: &Current<'_>,
    buffer: u64,
    room: u32,
    leaves: impl FnOnce() -> Result<Vec<CpuidLeaf>, Errno>,
) -> Result<u32, Errno> {
    if buffer == 0 {
        return Ok(MAX_LEAVES);
    }
    let leaves = leaves()?;
    let count = leaves.len() as u32;
    if count > room {
        return Err(Errno::ENOBUFS);
    }
    cx.write_bytes(buffer, leaves.as_bytes())?;
    Ok(count)
}

/// Writes a policy's MSRs to a buffer with room for `room`; gives how many they are.
///
/// # Errors
/// `EFAULT`, `ENOBUFS`.
pub(crate) fn copy_msrs(cx: &Current<'_>, buffer: u64, room: u32) -> Result<u32, Errno> {
    let count = POLICY_MSRS.len() as u32;
    if buffer == 0 {
        return Ok(count);
    }
    if count > room {
        return Err(Errno::ENOBUFS);
    }
    for (index, idx) in (0..).zip(POLICY_MSRS) {
        let entry = MsrEntry {
            idx,
            flags: 0,
            val: 0,
        };
        cx.write_element(buffer, index, &entry)?;
    }
    Ok(count)
}
