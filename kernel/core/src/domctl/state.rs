//! What a vCPU has beyond its context (`vcpu_guest_context`), for saving and restoring it: extended floating-point
//! state, MSRs, and entry points of 32-bit system calls.

use alloc::sync::Arc;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::Ordering;

use hypercall_abi::domctl::*;
use hypercall_abi::errno::Errno;

use crate::cpuid;
use crate::current::Current;
use crate::domain::Domain;
use crate::msr::{self, MISC_FEATURES_ENABLES, TSC_AUX};
use crate::vcpu::{Vcpu, VcpuState};
use crate::vcpu_context::is_canonical;

/// Before the image come XCR0 and all components that it ever had.
const HEADER: usize = 16;
/// MSRs that a vCPU may have a value of.
const MSRS: [u32; 2] = [MISC_FEATURES_ENABLES, TSC_AUX];

/// Works on the state of a vCPU that is not the caller.
///
/// # Errors
/// `ESRCH` where there is no such vCPU, `EBUSY` while it runs; `own` for the caller itself.
fn with_state<R>(
    cx: &Current<'_>,
    domain: &Domain,
    id: u32,
    own: Errno,
    work: impl FnOnce(&Arc<Vcpu>, &mut VcpuState) -> Result<R, Errno>,
) -> Result<R, Errno> {
    let vcpu = domain.vcpu(id).ok_or(Errno::ESRCH)?;
    if Arc::ptr_eq(&vcpu, cx.vcpu_arc) {
        return Err(own);
    }
    super::vcpu::while_paused(cx, &vcpu, work)
}

/// `XEN_DOMCTL_getvcpuextstate`; without a buffer it says only how much room is enough.
///
/// # Errors
/// `ESRCH`; `EINVAL` for the caller itself, too little room, or other components than there are; `EFAULT`, `ENOMEM`.
pub(super) fn get_extended(
    cx: &Current<'_>,
    domain: &Domain,
    op: &mut Domctl,
) -> Result<bool, Errno> {
    let mut arm: DomctlVcpuextstate = op.u.get();
    let components = cx.hv.cpuid.components();
    let size = HEADER + image_size(cx, components);
    let question = arm.size == 0 && arm.xfeature_mask == 0 || arm.buffer.is_null();
    let found = with_state(cx, domain, arm.vcpu, Errno::EINVAL, |_, state| {
        if question {
            return Ok(Vec::new());
        }
        if arm.size < size as u64 || arm.xfeature_mask != components {
            return Err(Errno::EINVAL);
        }
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(size).map_err(|_| Errno::ENOMEM)?;
        let enabled = state.fpu.enabled() & components;
        bytes.extend_from_slice(&enabled.to_le_bytes());
        bytes.extend_from_slice(&components.to_le_bytes());
        bytes.extend_from_slice(state.fpu.extended(size - HEADER));
        Ok(bytes)
    })?;
    cx.write_bytes(arm.buffer.address(), &found)?;
    arm.xfeature_mask = components;
    arm.size = size as u64;
    op.u.set(&arm);
    Ok(true)
}

/// `XEN_DOMCTL_setvcpuextstate`.
///
/// # Errors
/// `ESRCH`; `EINVAL` for the caller itself, or a state that is none; `EOPNOTSUPP` for a compacted one; `EFAULT`,
/// `ENOMEM`.
pub(super) fn set_extended(cx: &Current<'_>, domain: &Domain, op: &Domctl) -> Result<bool, Errno> {
    let arm: DomctlVcpuextstate = op.u.get();
    let components = cx.hv.cpuid.components();
    with_state(cx, domain, arm.vcpu, Errno::EINVAL, |_, state| {
        let most = HEADER + image_size(cx, components);
        if !(HEADER as u64..=most as u64).contains(&arm.size) {
            return Err(Errno::EINVAL);
        }
        let at = arm.buffer.address();
        let [enabled, ever]: [u64; 2] = cx.read(at)?;
        let image =
            cx.read_array::<u8>(at.wrapping_add(HEADER as u64), arm.size as usize - HEADER)?;
        if enabled | ever != 0 {
            let valid = |value| cpuid::is_valid_xcr0(cx, value);
            if !valid(enabled) || !valid(ever) || enabled & !ever != 0 {
                return Err(Errno::EINVAL);
            }
        }
        if image.is_empty() {
            return Ok(());
        }
        if image.get(COMPACTED).is_some_and(|byte| byte & 0x80 != 0) {
            return Err(Errno::EOPNOTSUPP);
        }
        if image.len() != image_size(cx, ever) {
            return Err(Errno::EINVAL);
        }
        if !state.fpu.set_extended(&image, ever) {
            return Err(Errno::EINVAL);
        }
        state.fpu.enable(enabled);
        Ok(())
    })?;
    Ok(false)
}

/// Where the topmost byte of XCOMP_BV is in an image.
const COMPACTED: usize = 512 + 15;

fn image_size(cx: &Current<'_>, components: u64) -> usize {
    match components {
        0 => 0,
        components => cx.hv.cpuid.state_size(components) as usize,
    }
}

/// `XEN_DOMCTL_get_vcpu_msrs`: those that are not 0; without a buffer it says only how many there can be.
///
/// # Errors
/// `ESRCH`, `EINVAL` for the caller itself, `EFAULT`, `ENOBUFS` where there are more than room.
pub(super) fn get_msrs(cx: &Current<'_>, domain: &Domain, op: &mut Domctl) -> Result<bool, Errno> {
    let mut arm: DomctlVcpuMsrs = op.u.get();
    let tsc_aux = with_state(cx, domain, arm.vcpu, Errno::EINVAL, |_, state| {
        Ok(state.tsc_aux)
    })?;
    let room = arm.msr_count;
    if arm.msrs.is_null() {
        arm.msr_count = MSRS.len() as u32;
        op.u.set(&arm);
        return Ok(true);
    }
    arm.msr_count = u32::from(tsc_aux != 0 && cpuid::offers_tsc_aux(cx.hv, domain));
    op.u.set(&arm);
    if arm.msr_count > room {
        return Err(Errno::ENOBUFS);
    }
    if arm.msr_count > 0 {
        let msr = DomctlVcpuMsr {
            index: TSC_AUX,
            reserved: 0,
            value: u64::from(tsc_aux),
        };
        cx.write(arm.msrs.address(), &msr)?;
    }
    Ok(true)
}

/// `XEN_DOMCTL_set_vcpu_msrs`.
///
/// # Errors
/// `ESRCH`; `EINVAL` for the caller itself, too many, or one that the vCPU cannot have; `EFAULT`. How many were set is
/// told in the caller's struct.
pub(super) fn set_msrs(cx: &Current<'_>, domain: &Domain, op: &mut Domctl) -> Result<bool, Errno> {
    let mut arm: DomctlVcpuMsrs = op.u.get();
    let (done, result) = with_state(cx, domain, arm.vcpu, Errno::EINVAL, |_, state| {
        if arm.msr_count as usize > MSRS.len() {
            return Err(Errno::EINVAL);
        }
        for index in 0..arm.msr_count {
            let set = cx
                .read_element(arm.msrs.address(), u64::from(index))
                .and_then(|msr| set_msr(cx, domain, state, &msr));
            if set.is_err() {
                return Ok((index, set));
            }
        }
        Ok((arm.msr_count, Ok(())))
    })?;
    arm.msr_count = done;
    op.u.set(&arm);
    result.map(|()| false)
}

fn set_msr(
    cx: &Current<'_>,
    domain: &Domain,
    state: &mut VcpuState,
    msr: &DomctlVcpuMsr,
) -> Result<(), Errno> {
    match msr.index {
        _ if msr.reserved != 0 => Err(Errno::EINVAL),
        MISC_FEATURES_ENABLES if msr.value == 0 => Ok(()),
        TSC_AUX if cpuid::offers_tsc_aux(cx.hv, domain) => {
            state.tsc_aux = u32::try_from(msr.value).map_err(|_| Errno::EINVAL)?;
            Ok(())
        }
        _ => Err(Errno::EINVAL),
    }
}

/// `XEN_DOMCTL_get_ext_vcpucontext`. A 64-bit guest's entry points have no selectors.
///
/// # Errors
/// `ESRCH`, also for the caller itself.
pub(super) fn get_entries(
    cx: &Current<'_>,
    domain: &Domain,
    op: &mut Domctl,
) -> Result<bool, Errno> {
    let asked: DomctlExtVcpucontext = op.u.get();
    let arm = with_state(cx, domain, asked.vcpu, Errno::ESRCH, |_, state| {
        let callbacks = &state.callbacks;
        Ok(DomctlExtVcpucontext {
            vcpu: asked.vcpu,
            size: size_of::<DomctlExtVcpucontext>() as u32,
            syscall32_callback_eip: callbacks.syscall32,
            sysenter_callback_eip: callbacks.sysenter,
            syscall32_disables_events: u8::from(callbacks.syscall32_masks_events),
            sysenter_disables_events: u8::from(callbacks.sysenter_masks_events),
            vmce: HvmVmceVcpu {
                caps: msr::machine_check_capabilities(cx.hv),
                ..Default::default()
            },
            ..Default::default()
        })
    })?;
    op.u.set(&arm);
    Ok(true)
}

/// `XEN_DOMCTL_set_ext_vcpucontext`. Virtual machine checks are the same for all, so that nothing is kept of them.
///
/// # Errors
/// `ESRCH`, also for the caller's own domain; `EINVAL` for a struct that is cut off, or an address that is not
/// canonical.
pub(super) fn set_entries(
    cx: &Current<'_>,
    domain: &Arc<Domain>,
    op: &Domctl,
) -> Result<bool, Errno> {
    let arm: DomctlExtVcpucontext = op.u.get();
    if Arc::ptr_eq(domain, cx.domain_arc) {
        return Err(Errno::ESRCH);
    }
    let vcpu = domain.vcpu(arm.vcpu).ok_or(Errno::ESRCH)?;
    super::vcpu::while_paused(cx, &vcpu, |_, state| {
        let entries = [arm.syscall32_callback_eip, arm.sysenter_callback_eip];
        let complete = arm.size as usize >= offset_of!(DomctlExtVcpucontext, vmce);
        if !complete || !entries.into_iter().all(is_canonical) {
            return Err(Errno::EINVAL);
        }
        let callbacks = &mut state.callbacks;
        callbacks.syscall32 = arm.syscall32_callback_eip;
        callbacks.syscall32_masks_events = arm.syscall32_disables_events != 0;
        callbacks.sysenter = arm.sysenter_callback_eip;
        callbacks.sysenter_masks_events = arm.sysenter_disables_events != 0;
        Ok(())
    })?;
    Ok(false)
}

/// `XEN_DOMCTL_gettscinfo`: the mode and, unless it is never emulated, the time and the rate that the counter shows.
///
/// # Errors
/// `EINVAL` for the caller's own domain.
pub(super) fn get_tsc(
    cx: &Current<'_>,
    domain: &Arc<Domain>,
    op: &mut Domctl,
) -> Result<bool, Errno> {
    if Arc::ptr_eq(domain, cx.domain_arc) {
        return Err(Errno::EINVAL);
    }
    let choice = *domain.tsc.lock();
    let mut arm = DomctlTscInfo {
        tsc_mode: choice.mode,
        incarnation: choice.incarnation,
        ..Default::default()
    };
    if choice.mode != NEVER_EMULATE {
        let machine = cx.machine();
        let khz = hv_machine::Platform::tsc_info(machine).khz();
        let ticks = hv_machine::Platform::tsc(machine);
        arm.gtsc_khz = khz as u32;
        arm.elapsed_nsec = crate::time::Scale::ratio(NS_PER_MS, khz).apply(ticks);
    }
    op.u.set(&arm);
    Ok(true)
}

/// `XEN_DOMCTL_settscinfo`. The counter is the processor's, so that only what needs no emulation is accepted.
///
/// # Errors
/// `EINVAL` for the caller's own domain or an unknown mode, `EOPNOTSUPP` for an emulated counter.
pub(super) fn set_tsc(cx: &Current<'_>, domain: &Arc<Domain>, op: &Domctl) -> Result<bool, Errno> {
    if Arc::ptr_eq(domain, cx.domain_arc) {
        return Err(Errno::EINVAL);
    }
    let arm: DomctlTscInfo = op.u.get();
    let host = hv_machine::Platform::tsc_info(cx.machine()).khz();
    let same_rate = arm.gtsc_khz == 0 || u64::from(arm.gtsc_khz) == host;
    match arm.tsc_mode {
        NEVER_EMULATE => {}
        DEFAULT if same_rate => {}
        DEFAULT | ALWAYS_EMULATE => return Err(Errno::EOPNOTSUPP),
        _ => return Err(Errno::EINVAL),
    }
    let mut choice = domain.tsc.lock();
    choice.mode = arm.tsc_mode;
    choice.incarnation = arm.incarnation.wrapping_add(1);
    Ok(false)
}

/// `DomctlTscInfo::tsc_mode`.
const DEFAULT: u32 = 0;
/// `DomctlTscInfo::tsc_mode`.
const ALWAYS_EMULATE: u32 = 1;
/// `DomctlTscInfo::tsc_mode`.
const NEVER_EMULATE: u32 = 2;
const NS_PER_MS: u64 = 1_000_000;

/// `XEN_DOMCTL_setdebugging`.
///
/// # Errors
/// `EINVAL` for the caller's own domain.
pub(super) fn set_debugging(
    cx: &Current<'_>,
    domain: &Arc<Domain>,
    op: &Domctl,
) -> Result<bool, Errno> {
    if Arc::ptr_eq(domain, cx.domain_arc) {
        return Err(Errno::EINVAL);
    }
    let arm: DomctlSetdebugging = op.u.get();
    domain.debugged.store(arm.enable != 0, Ordering::Release);
    Ok(false)
}
