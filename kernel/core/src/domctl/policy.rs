//! What CPUID shows a domain, as its toolstack chooses.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;

use hypercall_abi::arch_x86::{CpuidLeaf, MsrEntry, XEN_CPUID_NO_SUBLEAF};
use hypercall_abi::domctl::{Domctl, DomctlCpuPolicy};
use hypercall_abi::errno::Errno;

use crate::cpuid::{self, MAX_LEAVES};
use crate::current::Current;
use crate::domain::Domain;
use crate::sysctl::{POLICY_MSRS, copy_leaves, copy_msrs};

/// What `err_leaf`, `err_subleaf` and `err_msr` hold where they name none.
const NONE: u32 = u32::MAX;
/// The first extended leaf.
const EXTENDED: u32 = 0x8000_0000;

/// `XEN_DOMCTL_get_cpu_policy`; without a buffer it says only how much room is enough.
///
/// # Errors
/// `EFAULT`, `ENOMEM`, `ENOBUFS` where there are more leaves or MSRs than room.
pub(super) fn get(cx: &Current<'_>, domain: &Domain, op: &mut Domctl) -> Result<bool, Errno> {
    let mut arm: DomctlCpuPolicy = op.u.get();
    arm.nr_leaves = copy_leaves(cx, arm.leaves.address(), arm.nr_leaves, || {
        cx.hv.cpuid.leaves_of(domain)
    })?;
    arm.nr_msrs = copy_msrs(cx, arm.msrs.address(), arm.nr_msrs)?;
    op.u.set(&arm);
    Ok(true)
}

/// `XEN_DOMCTL_set_cpu_policy`: leaves that replace those that the domain has. Features that it cannot have are
/// left out.
///
/// # Errors
/// `EINVAL` for the caller's own domain, more leaves than the policy has, or an MSR's value that cannot be; `EEXIST`
/// once the domain has run; `E2BIG`; `EFAULT`; `ERANGE` for a leaf or an MSR that no policy has. What is refused is
/// told in the caller's struct.
pub(super) fn set(cx: &Current<'_>, domain: &Arc<Domain>, op: &mut Domctl) -> Result<bool, Errno> {
    if Arc::ptr_eq(domain, cx.domain_arc) {
        return Err(Errno::EINVAL);
    }
    if domain.life.lock().started {
        return Err(Errno::EEXIST);
    }
    let mut arm: DomctlCpuPolicy = op.u.get();
    (arm.err_leaf, arm.err_subleaf, arm.err_msr) = (NONE, NONE, NONE);
    let result = merge(cx, domain, &mut arm);
    if result.is_err() {
        op.u.set(&arm);
    }
    result.map(|()| false)
}

fn merge(cx: &Current<'_>, domain: &Domain, arm: &mut DomctlCpuPolicy) -> Result<(), Errno> {
    if arm.nr_leaves > MAX_LEAVES {
        return Err(Errno::E2BIG);
    }
    let leaves: alloc::vec::Vec<CpuidLeaf> =
        cx.read_array(arm.leaves.address(), arm.nr_leaves as usize)?;
    let mut policy: BTreeMap<(u32, u32), [u32; 4]> = domain.cpuid.lock().clone();
    for leaf in leaves {
        if !cpuid::is_listed(&leaf) {
            (arm.err_leaf, arm.err_subleaf) = (leaf.leaf, leaf.subleaf);
            return Err(Errno::ERANGE);
        }
        let subleaf = match leaf.subleaf {
            XEN_CPUID_NO_SUBLEAF => 0,
            subleaf => subleaf,
        };
        policy.insert((leaf.leaf, subleaf), [leaf.a, leaf.b, leaf.c, leaf.d]);
    }
    check_msrs(cx, arm)?;
    let last = |first| policy.get(&(first, 0)).map_or(0, |leaf| leaf[0]);
    for (first, last) in [(0, last(0)), (EXTENDED, last(EXTENDED).max(EXTENDED))] {
        let (basic, extended) = match first {
            0 => (last, EXTENDED),
            _ => (0, last),
        };
        if !cx.hv.cpuid.has_leaves(basic, extended) {
            (arm.err_leaf, arm.err_subleaf) = (first, NONE);
            return Err(Errno::EINVAL);
        }
    }
    *domain.cpuid.lock() = policy;
    Ok(())
}

/// MSRs follow from the leaves; those that a policy names have one possible value.
fn check_msrs(cx: &Current<'_>, arm: &mut DomctlCpuPolicy) -> Result<(), Errno> {
    if arm.nr_msrs as usize > POLICY_MSRS.len() {
        return Err(Errno::E2BIG);
    }
    for index in 0..u64::from(arm.nr_msrs) {
        let msr: MsrEntry = cx.read_element(arm.msrs.address(), index)?;
        let refused = if !POLICY_MSRS.contains(&msr.idx) {
            Errno::ERANGE
        } else if msr.flags != 0 || msr.val != 0 {
            Errno::EINVAL
        } else {
            continue;
        };
        arm.err_msr = msr.idx;
        return Err(refused);
    }
    Ok(())
}
