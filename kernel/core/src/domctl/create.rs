//! The operations by which a toolstack makes a domain.

use alloc::sync::Arc;

use hv_machine::Platform;
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use crate::current::Current;
use crate::domain::{Domain, MAX_VCPUS};
use crate::lifecycle::{self, NewDomain};
use crate::memory::FrameType;

/// Newest version of grant tables that a domain may be allowed.
const MAX_GRANT_VERSION: u32 = 2;
/// Most CPUID leaves in a policy.
const MAX_LEAVES: u32 = 512;

/// `XEN_DOMCTL_createdomain`: number 0 or a reserved one has the hypervisor choose.
///
/// # Errors
/// `EINVAL` for anything a PV domain here cannot have, `EEXIST` for a number in use, `ENOMEM`.
pub(super) fn create(cx: &mut Current<'_>, op: &mut Domctl) -> Result<bool, Errno> {
    let wanted: DomctlCreatedomain = op.u.get();
    let known = XEN_DOMCTL_CDF_S3_INTEGRITY | XEN_DOMCTL_CDF_OOS_OFF | XEN_DOMCTL_CDF_XS_DOMAIN;
    let unsupported = wanted.flags & !known != 0
        || wanted.iommu_opts != 0
        || wanted.grant_opts & 0xf > MAX_GRANT_VERSION
        || wanted.grant_opts & !0xf != 0
        || wanted.vmtrace_size != 0
        || wanted.cpupool_id != 0
        || wanted.arch.emulation_flags != 0
        || wanted.arch.misc_flags & !hypercall_abi::arch_x86::XEN_X86_MSR_RELAXED != 0;
    if unsupported || wanted.max_vcpus == 0 || wanted.max_vcpus > MAX_VCPUS {
        return Err(Errno::EINVAL);
    }
    let id = if op.domain.is_ordinary() && op.domain.0 > 0 {
        op.domain
    } else {
        let next = cx.hv.next_domid.load(core::sync::atomic::Ordering::Relaxed);
        let id = lifecycle::free_domid(cx.hv, Domid(next)).ok_or(Errno::ENOMEM)?;
        cx.hv
            .next_domid
            .store(id.0 + 1, core::sync::atomic::Ordering::Relaxed);
        id
    };
    let new = NewDomain {
        id,
        privileged: false,
        handle: wanted.handle,
        max_vcpus: wanted.max_vcpus,
        max_port: wanted.max_evtchn_port,
    };
    lifecycle::create(cx.hv, &new)?;
    op.domain = id;
    Ok(true)
}

/// `XEN_DOMCTL_max_vcpus`: makes the vCPUs that the domain was created for.
///
/// # Errors
/// `EINVAL` for another number, `ENOMEM`.
pub(super) fn max_vcpus(
    cx: &mut Current<'_>,
    domain: &Arc<Domain>,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlMaxVcpus = op.u.get();
    if Arc::ptr_eq(domain, cx.domain) || arm.max != domain.max_vcpus {
        return Err(Errno::EINVAL);
    }
    lifecycle::create_vcpus(cx.hv, domain, arm.max)?;
    Ok(false)
}

/// `XEN_DOMCTL_hypercall_init`: writes the hypercall page into a frame of the domain.
///
/// # Errors
/// `EACCES` where the frame is not the domain's, or is a page table.
pub(super) fn hypercall_init(
    cx: &Current<'_>,
    domain: &Domain,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlHypercallInit = op.u.get();
    let page = cx
        .hv
        .memory
        .get_typed(Mfn(arm.gmfn), domain.id, FrameType::Writable)
        .map_err(|_| Errno::EACCES)?;
    cx.machine()
        .write_frame(page.mfn(), 0, &crate::traps::hypercall_page());
    Ok(false)
}

/// `XEN_DOMCTL_set_cpu_policy`: CPUID leaves that replace the default ones. MSRs follow from the leaves.
///
/// # Errors
/// `EEXIST` once the domain has run, `E2BIG`, `EFAULT`, `EINVAL` for MSRs that no policy can set.
pub(super) fn set_cpu_policy(
    cx: &Current<'_>,
    domain: &Domain,
    op: &mut Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlCpuPolicy = op.u.get();
    if domain
        .vcpus()
        .iter()
        .any(|vcpu| !vcpu.down.load(core::sync::atomic::Ordering::Acquire))
    {
        return Err(Errno::EEXIST);
    }
    if arm.nr_leaves > MAX_LEAVES {
        return Err(Errno::E2BIG);
    }
    let leaves = cx.read_array::<hypercall_abi::arch_x86::CpuidLeaf>(
        arm.leaves.address(),
        arm.nr_leaves as usize,
    )?;
    let mut policy = domain.cpuid.lock();
    for leaf in leaves {
        let subleaf = match leaf.subleaf {
            hypercall_abi::arch_x86::XEN_CPUID_NO_SUBLEAF => 0,
            subleaf => subleaf,
        };
        policy.insert((leaf.leaf, subleaf), [leaf.a, leaf.b, leaf.c, leaf.d]);
    }
    Ok(false)
}
