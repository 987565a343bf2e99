//! What a toolstack may learn of a domain.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;
use zerocopy::FromZeros;

use crate::current::Current;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::memory::{FrameType, Level};
use crate::{lifecycle, runstate};

/// Most frames in one call for frame types.
const MAX_FRAMES: u64 = 1024;

/// `XEN_DOMCTL_getdomaininfo`: of the domain named, or the next one behind that number.
///
/// # Errors
/// `EINVAL` for a reserved number, `ESRCH` where there is none behind it.
pub(super) fn get_domain_info(cx: &Current<'_>, op: &mut Domctl) -> Result<bool, Errno> {
    if !op.domain.is_ordinary() {
        return Err(Errno::EINVAL);
    }
    crate::lifecycle::reap(cx.hv);
    let domain: Option<Arc<Domain>> = {
        let domains = cx.hv.domains.read();
        domains
            .range(op.domain..)
            .next()
            .map(|(_, domain)| domain.clone())
    };
    let info = domain_info(cx.hv, &*domain.ok_or(Errno::ESRCH)?);
    op.domain = info.domain;
    op.u.set(&info);
    Ok(true)
}

/// All about a domain that `xl list` shows.
pub fn domain_info(hv: &Hypervisor, domain: &Domain) -> DomctlGetdomaininfo {
    let mut info = DomctlGetdomaininfo::new_zeroed();
    let life = *domain.life.lock();
    info.domain = domain.id;
    info.max_vcpu_id = XEN_INVALID_MAX_VCPU_ID;
    let mut flags = XEN_DOMINF_BLOCKED;
    for vcpu in domain.vcpus() {
        info.max_vcpu_id = vcpu.id;
        info.cpu_time = info
            .cpu_time
            .saturating_add(runstate::running_time(hv, &vcpu));
        if vcpu.down.load(Ordering::Acquire) {
            continue;
        }
        info.nr_online_vcpus += 1;
        if !vcpu.blocked.load(Ordering::Acquire) {
            flags &= !XEN_DOMINF_BLOCKED;
        }
        // On a machine of one CPU the asker alone is ever seen on it: who would run next counts as running.
        if vcpu.is_runnable() {
            flags |= XEN_DOMINF_RUNNING;
        }
    }
    if info.nr_online_vcpus == 0 {
        flags = 0;
    }
    if lifecycle::is_dying(domain) {
        flags |= XEN_DOMINF_DYING;
    }
    if life.toolstack_pauses > 0 {
        flags |= XEN_DOMINF_PAUSED;
    }
    if domain.debugged.load(Ordering::Acquire) {
        flags |= XEN_DOMINF_DEBUGGED;
    }
    if let Some(reason) = life.shutdown {
        flags |=
            XEN_DOMINF_SHUTDOWN | (reason & XEN_DOMINF_SHUTDOWNMASK) << XEN_DOMINF_SHUTDOWNSHIFT;
    }
    info.flags = flags;
    info.tot_pages = domain.owner.frames();
    info.max_pages = domain.owner.max_frames();
    info.outstanding_pages = domain.owner.claim();
    info.shared_info_frame = domain.shared_info.0;
    info.handle = *domain.handle.lock();
    info.gpaddr_bits = 46;
    info
}

/// `XEN_DOMCTL_getpageframeinfo3`: the type of each frame of a list.
///
/// # Errors
/// `E2BIG`, `EFAULT`.
pub(super) fn page_frame_info(
    cx: &Current<'_>,
    domain: &Domain,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlGetpageframeinfo3 = op.u.get();
    if arm.num > MAX_FRAMES {
        return Err(Errno::E2BIG);
    }
    for index in 0..arm.num {
        let frame: u64 = cx.read_element(arm.array.address(), index)?;
        cx.write_element(
            arm.array.address(),
            index,
            &u64::from(frame_info(cx, domain, Mfn(frame))),
        )?;
    }
    Ok(false)
}

fn frame_info(cx: &Current<'_>, domain: &Domain, mfn: Mfn) -> u32 {
    let Some(_frame) = cx.hv.memory.get(mfn, domain.id) else {
        return XEN_DOMCTL_PFINFO_XTAB;
    };
    if mfn == domain.shared_info {
        // The domain's, but not of its making: whoever saves it leaves the page out.
        return XEN_DOMCTL_PFINFO_XTAB;
    }
    let kind = match cx.hv.memory.type_in_use(mfn) {
        FrameType::Table(Level::L1) => XEN_DOMCTL_PFINFO_L1TAB,
        FrameType::Table(Level::L2) => XEN_DOMCTL_PFINFO_L2TAB,
        FrameType::Table(Level::L3) => XEN_DOMCTL_PFINFO_L3TAB,
        FrameType::Table(Level::L4) => XEN_DOMCTL_PFINFO_L4TAB,
        _ => XEN_DOMCTL_PFINFO_NOTAB,
    };
    let pinned = cx.hv.memory.state(mfn).is_some_and(|state| state.pinned);
    kind | if pinned { XEN_DOMCTL_PFINFO_LPINTAB } else { 0 }
}
