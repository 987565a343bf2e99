//! The operations by which a toolstack makes a domain.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hv_machine::Platform;
use hypercall_abi::arch_x86::{XEN_X86_EMU_PIT, XEN_X86_MSR_RELAXED};
use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use crate::current::Current;
use crate::domain::{Domain, MAX_VCPUS};
use crate::grant::Limits;
use crate::lifecycle::{self, NewDomain};
use crate::memory::FrameType;

/// CPU pools have no other number.
const POOL: u32 = 0;

/// `XEN_DOMCTL_createdomain`: number 0 or a reserved one has the hypervisor choose.
///
/// # Errors
/// `EEXIST` for a number in use, `EINVAL` for anything a PV domain here cannot have, `EOPNOTSUPP` for emulated devices,
/// `ESRCH` for another CPU pool than 0, `ENOMEM`.
pub(super) fn create(cx: &Current<'_>, op: &mut Domctl) -> Result<bool, Errno> {
    let wanted: DomctlCreatedomain = op.u.get();
    let known = XEN_DOMCTL_CDF_S3_INTEGRITY | XEN_DOMCTL_CDF_OOS_OFF | XEN_DOMCTL_CDF_XS_DOMAIN;
    let unsupported = wanted.flags & !known != 0
        || wanted.iommu_opts != 0
        || wanted.grant_opts & !XEN_DOMCTL_GRANT_VERSION_MASK != 0
        || wanted.vmtrace_size != 0
        || wanted.arch.misc_flags & !XEN_X86_MSR_RELAXED != 0;
    let chosen = op.domain.is_ordinary() && op.domain.0 > 0;
    if chosen && cx.hv.domain(op.domain).is_ok() {
        return Err(Errno::EEXIST);
    }
    if unsupported || wanted.max_vcpus == 0 || wanted.max_vcpus > MAX_VCPUS {
        return Err(Errno::EINVAL);
    }
    // What Xen calls a PIT is a port's emulation by the hypervisor, which is there in any case.
    if wanted.arch.emulation_flags & !XEN_X86_EMU_PIT != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let grants = grant_limits(&wanted, &cx.hv.options.grants.limits).ok_or(Errno::EINVAL)?;
    if wanted.cpupool_id != POOL {
        return Err(Errno::ESRCH);
    }
    let id = if chosen {
        op.domain
    } else {
        let next = cx.hv.next_domid.load(Ordering::Relaxed);
        let id = lifecycle::free_domid(cx.hv, Domid(next)).ok_or(Errno::ENOMEM)?;
        cx.hv.next_domid.store(id.0 + 1, Ordering::Relaxed);
        id
    };
    let new = NewDomain {
        id,
        privileged: false,
        handle: wanted.handle,
        max_vcpus: wanted.max_vcpus,
        max_port: wanted.max_evtchn_port,
        grants,
    };
    lifecycle::create(cx.hv, &new)?;
    op.domain = id;
    Ok(true)
}

/// How much of grants a domain is to have: negative numbers stand for the most; `None` for more than that, and for none.
fn grant_limits(wanted: &DomctlCreatedomain, most: &Limits) -> Option<Limits> {
    let limits = Limits {
        max_frames: u32::try_from(wanted.max_grant_frames).unwrap_or(most.max_frames),
        max_maptrack_frames: u32::try_from(wanted.max_maptrack_frames)
            .unwrap_or(most.max_maptrack_frames),
        max_version: wanted.grant_opts,
    };
    let good = (1..=most.max_frames).contains(&limits.max_frames)
        && limits.max_maptrack_frames <= most.max_maptrack_frames
        && (1..=most.max_version).contains(&limits.max_version);
    good.then_some(limits)
}

/// `XEN_DOMCTL_max_vcpus`: makes the vCPUs that the domain was created for.
///
/// # Errors
/// `EINVAL` for another number, the caller's own domain or one that is being taken apart; `ENOMEM`.
pub(super) fn max_vcpus(
    cx: &Current<'_>,
    domain: &Arc<Domain>,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlMaxVcpus = op.u.get();
    // vCPUs that come when the others have gone would never be let go of.
    let dying = lifecycle::is_dying(domain);
    if Arc::ptr_eq(domain, cx.domain_arc) || arm.max != domain.max_vcpus || dying {
        return Err(Errno::EINVAL);
    }
    lifecycle::create_vcpus(cx.hv, domain, arm.max)?;
    Ok(false)
}

/// `XEN_DOMCTL_hypercall_init`: writes the hypercall page into a frame of the domain.
///
/// # Errors
/// `EINVAL` where the frame is not the domain's, `EPERM` where it is a page or descriptor table.
pub(super) fn hypercall_init(
    cx: &Current<'_>,
    domain: &Domain,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlHypercallInit = op.u.get();
    let page = cx.hv.memory.get(Mfn(arm.gmfn), domain.id);
    let page = page
        .ok_or(Errno::EINVAL)?
        .with_type(FrameType::Writable)
        .map_err(|_| Errno::EPERM)?;
    cx.machine()
        .write_frame(page.mfn(), 0, &crate::traps::hypercall_page());
    Ok(false)
}
