//! Entry points, descriptor tables, segments and debug registers of the calling vCPU.

use crate::arch_x86::TrapInfo;
use crate::callback::{
    CALLBACKOP_REGISTER, CALLBACKOP_UNREGISTER, CallbackRegister, CallbackUnregister,
};
use crate::caller::{Result, address_of, check, hypercall1, hypercall2, hypercall3};
use crate::nmi::{XENNMI_REGISTER_CALLBACK, XENNMI_UNREGISTER_CALLBACK, XennmiCallback};
use crate::types::Mfn;
use crate::xen::*;

/// Adds entries to the virtual IDT, up to one whose address is 0.
///
/// # Safety
///
/// `traps` has an entry with address 0, and the others are handlers.
#[inline]
pub unsafe fn set_trap_table(traps: &[TrapInfo]) -> Result<()> {
    // SAFETY: the call reads `traps` up to the entry that ends them; the rest is the caller's
    // promise.
    check(unsafe { hypercall1::<HYPERVISOR_SET_TRAP_TABLE>(address_of(traps)) })?;
    Ok(())
}

/// Sets the GDT: `entries` entries in `frames`.
///
/// # Safety
///
/// The frames are not mapped writable, and no selector in use changes its meaning.
#[inline]
pub unsafe fn set_gdt(frames: &[Mfn], entries: u32) -> Result<()> {
    // SAFETY: the call reads as many frames as `entries` fill; the rest is the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_SET_GDT>(address_of(frames), u64::from(entries)) })?;
    Ok(())
}

/// Writes the descriptor at `machine_address`.
///
/// # Safety
///
/// The frame is a descriptor table, or the caller's to write; no selector in use changes its
/// meaning.
#[inline]
pub unsafe fn update_descriptor(machine_address: u64, descriptor: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_UPDATE_DESCRIPTOR>(machine_address, descriptor) })?;
    Ok(())
}

/// Sets the kernel's stack for traps from user mode.
///
/// # Safety
///
/// It is the top of a stack that nothing else uses.
#[inline]
pub unsafe fn stack_switch(ss: u16, sp: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_STACK_SWITCH>(u64::from(ss), sp) })?;
    Ok(())
}

/// Sets the entry points for events, for a failed return to the guest, and for the instruction
/// `syscall`.
///
/// # Safety
///
/// They are such handlers.
#[inline]
pub unsafe fn set_callbacks(event: u64, failsafe: u64, syscall: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall3::<HYPERVISOR_SET_CALLBACKS>(event, failsafe, syscall) })?;
    Ok(())
}

/// Sets one entry point.
///
/// # Safety
///
/// It is a handler for `callback.type_`.
#[inline]
pub unsafe fn register_callback(callback: &CallbackRegister) -> Result<()> {
    let (cmd, argument) = (u64::from(CALLBACKOP_REGISTER), address_of(callback));
    // SAFETY: the operation reads this struct; the rest is the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_CALLBACK_OP>(cmd, argument) })?;
    Ok(())
}

/// Removes one entry point, `CALLBACKTYPE_*`.
#[inline]
pub fn unregister_callback(type_: u16) -> Result<()> {
    let argument = CallbackUnregister { type_, _unused: 0 };
    let (cmd, argument) = (u64::from(CALLBACKOP_UNREGISTER), address_of(&argument));
    // SAFETY: the operation reads this struct. Without an entry point the vCPU fails, but runs
    // nothing wrong.
    check(unsafe { hypercall2::<HYPERVISOR_CALLBACK_OP>(cmd, argument) })?;
    Ok(())
}

/// Sets the NMI handler of vCPU 0.
///
/// # Safety
///
/// It is a handler for NMIs.
#[inline]
pub unsafe fn register_nmi(handler_address: u64) -> Result<()> {
    let argument = XennmiCallback {
        handler_address,
        pad: 0,
    };
    let (cmd, argument) = (u64::from(XENNMI_REGISTER_CALLBACK), address_of(&argument));
    // SAFETY: the operation reads this struct; the rest is the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_NMI_OP>(cmd, argument) })?;
    Ok(())
}

/// Removes the NMI handler of vCPU 0.
#[inline]
pub fn unregister_nmi() -> Result<()> {
    // SAFETY: the operation has no argument.
    check(unsafe { hypercall2::<HYPERVISOR_NMI_OP>(u64::from(XENNMI_UNREGISTER_CALLBACK), 0) })?;
    Ok(())
}

/// Sets a segment base or selector, `SEGBASE_*`.
///
/// # Safety
///
/// Nothing relies on what it was.
#[inline]
pub unsafe fn set_segment_base(which: u32, base: u64) -> Result<()> {
    // SAFETY: the caller's promise.
    check(unsafe { hypercall2::<HYPERVISOR_SET_SEGMENT_BASE>(u64::from(which), base) })?;
    Ok(())
}

/// Sets or clears the virtual CR0.TS, with which the next use of the FPU traps.
#[inline]
pub fn fpu_taskswitch(set: bool) {
    // SAFETY: the argument is a number. The call cannot fail.
    unsafe { hypercall1::<HYPERVISOR_FPU_TASKSWITCH>(u64::from(set)) };
}

/// Writes a debug register, 0 to 3, 6 or 7.
#[inline]
pub fn set_debugreg(register: u32, value: u64) -> Result<()> {
    // SAFETY: the arguments are numbers, and a debug exception is the handler's affair.
    check(unsafe { hypercall2::<HYPERVISOR_SET_DEBUGREG>(u64::from(register), value) })?;
    Ok(())
}

/// Reads a debug register, 0 to 3, 6 or 7.
#[inline]
pub fn get_debugreg(register: u32) -> u64 {
    // SAFETY: the argument is a number.
    unsafe { hypercall1::<HYPERVISOR_GET_DEBUGREG>(u64::from(register)) as u64 }
}
