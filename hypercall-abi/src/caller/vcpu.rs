//! Operations on one virtual CPU of this domain.

use crate::arch_x86::VcpuGuestContext;
use crate::caller::{Result, address_of, address_of_mut, check, hypercall3};
use crate::types::Mfn;
use crate::vcpu::*;
use crate::xen::HYPERVISOR_VCPU_OP;

/// # Safety
///
/// `argument` is the address of what the operation reads and writes, or 0 where it has none.
unsafe fn op(cmd: u32, vcpu: u32, argument: u64) -> Result<u64> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall3::<HYPERVISOR_VCPU_OP>(u64::from(cmd), u64::from(vcpu), argument) })
}

/// Sets the state of a vCPU that was never up.
///
/// # Safety
///
/// The state is one in which code may run: entry points, stack, and tables are in order and stay
/// so.
#[inline]
pub unsafe fn initialise(vcpu: u32, context: &VcpuGuestContext) -> Result<()> {
    // SAFETY: the operation reads a `VcpuGuestContext`; the rest is the caller's promise.
    unsafe { op(VCPUOP_INITIALISE, vcpu, address_of(context))? };
    Ok(())
}

/// Starts a vCPU.
#[inline]
pub fn up(vcpu: u32) -> Result<()> {
    // SAFETY: the operation has no argument.
    unsafe { op(VCPUOP_UP, vcpu, 0)? };
    Ok(())
}

/// Stops a vCPU.
#[inline]
pub fn down(vcpu: u32) -> Result<()> {
    // SAFETY: the operation has no argument.
    unsafe { op(VCPUOP_DOWN, vcpu, 0)? };
    Ok(())
}

/// Whether a vCPU is up. There is no such vCPU: ENOENT.
#[inline]
pub fn is_up(vcpu: u32) -> Result<bool> {
    // SAFETY: the operation has no argument.
    Ok(unsafe { op(VCPUOP_IS_UP, vcpu, 0)? } != 0)
}

/// How long a vCPU was in each state.
#[inline]
pub fn runstate_info(vcpu: u32) -> Result<VcpuRunstateInfo> {
    let mut info = VcpuRunstateInfo::default();
    // SAFETY: the operation writes a `VcpuRunstateInfo`.
    unsafe { op(VCPUOP_GET_RUNSTATE_INFO, vcpu, address_of_mut(&mut info))? };
    Ok(info)
}

/// Has runstate information kept at `address`, a `VcpuRunstateInfo`; 0 ends it.
///
/// # Safety
///
/// The address is mapped in every address space that the vCPU runs on, and the memory is the
/// hypervisor's to write from then on.
#[inline]
pub unsafe fn register_runstate_memory_area(vcpu: u32, address: u64) -> Result<()> {
    let argument = VcpuRegisterRunstateMemoryArea { addr: address };
    // SAFETY: the operation reads this struct; the rest is the caller's promise.
    unsafe {
        op(
            VCPUOP_REGISTER_RUNSTATE_MEMORY_AREA,
            vcpu,
            address_of(&argument),
        )?
    };
    Ok(())
}

/// Has time information kept at `address`, a `VcpuTimeInfo`; 0 ends it.
///
/// # Safety
///
/// The address is mapped in every address space that the vCPU runs on, and the memory is the
/// hypervisor's to write from then on.
#[inline]
pub unsafe fn register_time_memory_area(vcpu: u32, address: u64) -> Result<()> {
    let argument = VcpuRegisterTimeMemoryArea { addr: address };
    // SAFETY: the operation reads this struct; the rest is the caller's promise.
    unsafe {
        op(
            VCPUOP_REGISTER_VCPU_TIME_MEMORY_AREA,
            vcpu,
            address_of(&argument),
        )?
    };
    Ok(())
}

/// Starts the periodic timer, of `period_ns` nanoseconds.
#[inline]
pub fn set_periodic_timer(vcpu: u32, period_ns: u64) -> Result<()> {
    let argument = VcpuSetPeriodicTimer { period_ns };
    // SAFETY: the operation reads this struct.
    unsafe { op(VCPUOP_SET_PERIODIC_TIMER, vcpu, address_of(&argument))? };
    Ok(())
}

/// Stops the periodic timer.
#[inline]
pub fn stop_periodic_timer(vcpu: u32) -> Result<()> {
    // SAFETY: the operation has no argument.
    unsafe { op(VCPUOP_STOP_PERIODIC_TIMER, vcpu, 0)? };
    Ok(())
}

/// Starts the one-shot timer of the calling vCPU, for an absolute system time in nanoseconds, with
/// `VCPU_SSHOTTMR_FUTURE` or 0.
#[inline]
pub fn set_singleshot_timer(vcpu: u32, timeout_abs_ns: u64, flags: u32) -> Result<()> {
    let argument = VcpuSetSingleshotTimer {
        timeout_abs_ns,
        flags,
        _pad0: 0,
    };
    // SAFETY: the operation reads this struct.
    unsafe { op(VCPUOP_SET_SINGLESHOT_TIMER, vcpu, address_of(&argument))? };
    Ok(())
}

/// Stops the one-shot timer of the calling vCPU.
#[inline]
pub fn stop_singleshot_timer(vcpu: u32) -> Result<()> {
    // SAFETY: the operation has no argument.
    unsafe { op(VCPUOP_STOP_SINGLESHOT_TIMER, vcpu, 0)? };
    Ok(())
}

/// Moves a vCPU's `VcpuInfo` to `offset` in frame `mfn`, for ever.
///
/// # Safety
///
/// That memory is the hypervisor's to write from then on.
#[inline]
pub unsafe fn register_vcpu_info(vcpu: u32, mfn: Mfn, offset: u32) -> Result<()> {
    let argument = VcpuRegisterVcpuInfo {
        mfn,
        offset,
        rsvd: 0,
    };
    // SAFETY: the operation reads this struct; the rest is the caller's promise.
    unsafe { op(VCPUOP_REGISTER_VCPU_INFO, vcpu, address_of(&argument))? };
    Ok(())
}

/// Sends a vCPU an NMI.
#[inline]
pub fn send_nmi(vcpu: u32) -> Result<()> {
    // SAFETY: the operation has no argument.
    unsafe { op(VCPUOP_SEND_NMI, vcpu, 0)? };
    Ok(())
}

/// Identifiers of the physical CPU that a vCPU is pinned to.
#[inline]
pub fn physid(vcpu: u32) -> Result<VcpuGetPhysid> {
    let mut argument = VcpuGetPhysid::default();
    // SAFETY: the operation writes this struct.
    unsafe { op(VCPUOP_GET_PHYSID, vcpu, address_of_mut(&mut argument))? };
    Ok(argument)
}
