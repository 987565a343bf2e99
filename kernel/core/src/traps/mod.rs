//! Exceptions and the other ways out of a guest that end in its own kernel.
//!
//! The processor brings every exception of a guest to the hypervisor, which handles what only it can (page tables,
//! privileged instructions, the LDT window) and hands the rest to the guest's kernel by the table that
//! `HYPERVISOR_set_trap_table` set. Kernel and user mode of a guest both run in ring 3; which of the two it was is in
//! [`crate::VcpuState::kernel_mode`], never in the selectors, which the guest chooses.

mod bounce;
mod crash;
mod hypercall_page;

use core::sync::atomic::Ordering;

use hv_machine::Platform;
use hypercall_abi::arch_x86::ArchVcpuInfo;
use hypercall_abi::xen::VcpuInfo;

use crate::counters::{self, Counter};
use crate::emulate;
use crate::{Current, descriptor, trace};

pub use crate::vcpu_context::is_canonical;
pub use bounce::Entry;
pub use crash::crash;
pub use hypercall_page::hypercall_page;

/// Exception vectors.
pub mod vector {
    /// #DB.
    pub const DEBUG: u8 = 1;
    /// NMI.
    pub const NMI: u8 = 2;
    /// #UD.
    pub const INVALID_OPCODE: u8 = 6;
    /// #NM.
    pub const DEVICE_NOT_AVAILABLE: u8 = 7;
    /// #SS.
    pub const STACK: u8 = 12;
    /// #GP.
    pub const GENERAL_PROTECTION: u8 = 13;
    /// #PF.
    pub const PAGE_FAULT: u8 = 14;
}

/// Bits of RFLAGS.
pub mod flags {
    /// Single step.
    pub const TF: u64 = 1 << 8;
    /// Interrupts.
    pub const IF: u64 = 1 << 9;
    /// Direction of string instructions.
    pub const DF: u64 = 1 << 10;
    /// Where [`IOPL`] begins.
    pub const IOPL_SHIFT: u32 = 12;
    /// I/O privilege level.
    pub const IOPL: u64 = 3 << IOPL_SHIFT;
    /// Nested task.
    pub const NT: u64 = 1 << 14;
    /// Resume.
    pub const RF: u64 = 1 << 16;
    /// Virtual 8086 mode.
    pub const VM: u64 = 1 << 17;
    /// Alignment check.
    pub const AC: u64 = 1 << 18;

    /// The I/O privilege level in a flags register.
    pub const fn iopl(rflags: u64) -> u32 {
        ((rflags & IOPL) >> IOPL_SHIFT) as u32
    }
}

/// Bits of error codes.
pub mod error_code {
    /// A selector's code: the IDT, by the instruction `int n`.
    pub const IDT: u32 = 1 << 1;
    /// A selector's code: the LDT.
    pub const LDT: u32 = 1 << 2;
    /// A selector's code: an event external to the program.
    pub const EXTERNAL: u32 = 1 << 0;
    /// A page fault's code: the page is there, and its rights forbid the access.
    pub const PRESENT: u32 = 1 << 0;
    /// A page fault's code: a write.
    pub const WRITE: u32 = 1 << 1;
    /// A page fault's code: from user mode.
    pub const USER: u32 = 1 << 2;
    /// A page fault's code: a reserved bit in the tables.
    pub const RESERVED: u32 = 1 << 3;
    /// A page fault's code: an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
}

/// Bits of DR6.
pub mod dr6 {
    /// What it reads when nothing happened: the reserved bits that are 1.
    pub const RESTING: u64 = 0xffff_0ff0;
    /// Single step.
    pub const STEP: u64 = 1 << 14;
}

/// Vectors whose exceptions have an error code.
const WITH_ERROR_CODE: u32 = 1 << 8 | 0x1f << 10 | 1 << 17 | 1 << 21;

/// An exception of the guest, as the processor reported it ([`hv_machine::Exit::Exception`]).
#[inline(always)]
pub fn handle_exception(cx: &mut Current<'_>, vector: u8, error_code: u32, fault_address: u64) {
    if vector == vector::PAGE_FAULT {
        page_fault(cx, error_code, fault_address);
    } else {
        other_exception(cx, vector, error_code);
    }
}

/// #PF: the hypervisor's own business, a store to a page table, or the guest's affair.
#[inline(never)]
fn page_fault(cx: &mut Current<'_>, error_code: u32, fault_address: u64) {
    cx.hv.count(Counter::PageFaults);
    if error_code & error_code::PRESENT != 0 && is_handled(cx, error_code, fault_address) {
        return;
    }
    let entry = page_fault_entry(cx, fault_address, error_code);
    record(cx, vector::PAGE_FAULT, entry.error_code);
    if entry.address == 0 {
        no_handler(cx, vector::PAGE_FAULT, entry.error_code.unwrap_or(0));
    } else {
        bounce::enter_inline(cx, entry);
    }
}

/// Whether nothing is left of a page fault on a page that is there.
#[inline(never)]
fn is_handled(cx: &mut Current<'_>, error_code: u32, fault_address: u64) -> bool {
    crate::mmu::fixup_fault(cx, fault_address, error_code)
        || emulate::store_to_page_table(cx, fault_address, error_code)
}

/// Every exception but #PF.
#[inline(never)]
fn other_exception(cx: &mut Current<'_>, vector: u8, error_code: u32) {
    match vector {
        vector::GENERAL_PROTECTION => general_protection(cx, error_code),
        vector::INVALID_OPCODE => {
            if !emulate::forced_emulation(cx) {
                inject(cx, vector, None);
            }
        }
        vector::DEVICE_NOT_AVAILABLE => device_not_available(cx),
        vector::DEBUG => {
            let found = cx.machine().take_debug_status();
            // Bits that rest at 0 stay set until the guest clears them; those that rest at 1 are cleared.
            if let Some(status) = cx.state.debug.get_mut(6) {
                *status |= found & !dr6::RESTING;
                *status &= found | !dr6::RESTING;
            }
            inject(cx, vector, None);
        }
        _ => pass_on(cx, vector, error_code),
    }
}

/// Has the guest's kernel handle an exception as the processor reported it.
fn pass_on(cx: &mut Current<'_>, vector: u8, error_code: u32) {
    let has_code = WITH_ERROR_CODE.checked_shr(u32::from(vector)).unwrap_or(0) & 1 != 0;
    inject(cx, vector, has_code.then_some(error_code));
}

/// A return to the guest that the processor refused ([`hv_machine::Exit::BadFrame`]): the guest sees the exception
/// as that of the instruction it was to go on with.
///
/// That instruction is not emulated, whatever it is. Interrupts are let in by guest mode alone, which a vCPU with
/// such a frame never reaches: it would have the CPU for itself for as long as it finds instructions to emulate.
/// The guest's handler begins with selectors that can be loaded.
pub fn handle_bad_frame(cx: &mut Current<'_>, vector: u8, error_code: u32) {
    pass_on(cx, vector, error_code);
}

/// A page fault in the window of the LDT ([`hv_machine::Exit::LdtFault`]).
pub fn handle_ldt_fault(cx: &mut Current<'_>, offset: u32, error_code: u32) {
    if descriptor::map_ldt_page(cx, offset) {
        return;
    }
    let address = cx.state.ldt_base.wrapping_add(u64::from(offset));
    if is_canonical(address) {
        inject_page_fault(cx, address, error_code);
    } else {
        let selector = offset & !(error_code::EXTERNAL | error_code::IDT) | error_code::LDT;
        inject(cx, vector::GENERAL_PROTECTION, Some(selector));
    }
}

/// Has the guest's kernel handle exception `vector`.
#[inline]
pub fn inject(cx: &mut Current<'_>, vector: u8, error_code: Option<u32>) {
    record(cx, vector, error_code);
    let Some(info) = cx.state.traps.get(usize::from(vector)) else {
        return;
    };
    let entry = Entry {
        address: info.address,
        masks_events: info.masks_events(),
        error_code,
    };
    if entry.address == 0 {
        no_handler(cx, vector, error_code.unwrap_or(0));
        return;
    }
    bounce::enter(cx, entry);
}

#[inline(always)]
fn record(cx: &Current<'_>, vector: u8, error_code: Option<u32>) {
    if cx.hv.tracer.is_on() {
        trace::exception(cx, vector, error_code);
    }
}

#[cold]
#[inline(never)]
fn no_handler(cx: &mut Current<'_>, vector: u8, code: u32) {
    crash(
        cx,
        format_args!("no handler for vector {vector} (error code {code:#06x})"),
    );
}

/// Has the guest's kernel handle a page fault at `address`. The user bit of the error code is that of the guest's
/// modes, as opposed to the processor's.
pub fn inject_page_fault(cx: &mut Current<'_>, address: u64, error_code: u32) {
    let entry = page_fault_entry(cx, address, error_code);
    inject(cx, vector::PAGE_FAULT, entry.error_code);
}

/// How the guest's kernel is to be entered for a page fault of which it has been told the address.
#[inline(always)]
fn page_fault_entry(cx: &mut Current<'_>, address: u64, error_code: u32) -> Entry {
    let user = if cx.state.kernel_mode {
        0
    } else {
        error_code::USER
    };
    set_cr2(cx, address);
    let info = &cx.state.traps[usize::from(vector::PAGE_FAULT)];
    Entry {
        address: info.address,
        masks_events: info.masks_events(),
        error_code: Some(error_code & !error_code::USER | user),
    }
}

/// Sets the guest's CR2, which it reads in its `vcpu_info`.
pub fn set_cr2(cx: &mut Current<'_>, address: u64) {
    const OFFSET: usize =
        core::mem::offset_of!(VcpuInfo, arch) + core::mem::offset_of!(ArchVcpuInfo, cr2);
    cx.state.cr2 = address;
    cx.machine().store_at(&cx.vcpu.place, OFFSET / 8, address);
}

/// Enters the event callback; the caller has seen that one is due ([`crate::event`]).
pub fn enter_upcall(cx: &mut Current<'_>) {
    let entry = Entry {
        address: cx.state.callbacks.event,
        masks_events: true,
        error_code: None,
    };
    counters::add(&cx.vcpu.upcalls, 1);
    bounce::enter(cx, entry);
}

/// Whether [`enter_nmi`] has something to deliver.
pub fn nmi_due(cx: &Current<'_>) -> bool {
    cx.vcpu.nmi_requested.load(Ordering::Acquire) && !cx.state.nmi_blocked
}

/// Delivers the pending NMI, if the guest has a handler and handles none yet. One without a handler is lost, until
/// a handler is registered.
pub fn enter_nmi(cx: &mut Current<'_>) {
    if !nmi_due(cx) {
        return;
    }
    cx.vcpu.nmi_requested.store(false, Ordering::Release);
    let has_handler = |info: &hypercall_abi::arch_x86::TrapInfo| info.address != 0;
    if cx
        .state
        .traps
        .get(usize::from(vector::NMI))
        .is_some_and(has_handler)
    {
        cx.state.nmi_blocked = true;
        inject(cx, vector::NMI, None);
    }
}

/// `syscall` of 64-bit user mode.
#[inline(never)]
pub fn enter_syscall(cx: &mut Current<'_>) {
    let callbacks = &cx.state.callbacks;
    let (address, masks_events) = (callbacks.syscall, callbacks.syscall_masks_events);
    system_call(cx, address, masks_events);
}

/// `syscall` of compatibility mode.
#[inline(never)]
pub fn enter_syscall32(cx: &mut Current<'_>) {
    let callbacks = &cx.state.callbacks;
    let (address, masks_events) = (callbacks.syscall32, callbacks.syscall32_masks_events);
    system_call(cx, address, masks_events);
}

fn system_call(cx: &mut Current<'_>, address: u64, masks_events: bool) {
    if address == 0 {
        // To a program whose kernel has no such entry the instruction is invalid, and is where it faulted.
        let regs = &mut cx.state.context.regs;
        regs.rip = regs.rip.wrapping_sub(2);
        inject(cx, vector::INVALID_OPCODE, None);
    } else {
        let entry = Entry {
            address,
            masks_events,
            error_code: None,
        };
        bounce::enter(cx, entry);
    }
    let regs = &mut cx.state.context.regs;
    regs.rflags &= !flags::DF;
    // As at every entry; see `bounce`.
    regs.r11 = regs.rflags;
}

/// `sysenter`. The processor keeps neither RIP nor RSP; the frame has zeros for them, and a null CS.
#[inline(never)]
pub fn enter_sysenter(cx: &mut Current<'_>) {
    let regs = &mut cx.state.context.regs;
    (regs.rip, regs.rsp) = (0, 0);
    regs.cs = 3;
    regs.ss = hypercall_abi::arch_x86::FLAT_USER_SS;
    let callbacks = &cx.state.callbacks;
    if callbacks.sysenter == 0 {
        inject(cx, vector::GENERAL_PROTECTION, Some(0));
        return;
    }
    let entry = Entry {
        address: callbacks.sysenter,
        masks_events: callbacks.sysenter_masks_events,
        error_code: None,
    };
    bounce::enter(cx, entry);
}

/// Data selectors of the vCPU ([`crate::VcpuState::segments`]) could not be loaded
/// ([`hv_machine::SelectorFault`]): the guest's failsafe callback is told which it had.
pub fn failsafe(cx: &mut Current<'_>) {
    bounce::enter_failsafe(cx);
}

/// #GP: `int n` by the guest's own table, a privileged instruction, or the guest's affair.
///
/// No gate of the real IDT that a guest may use by `int n` exists but those of vectors 3 and 4, so that any other
/// `int n` arrives here, with the vector in the error code, and cannot be taken for the exception of that vector.
fn general_protection(cx: &mut Current<'_>, error_code: u32) {
    if error_code & error_code::EXTERNAL == 0 && error_code & error_code::IDT != 0 {
        let vector = (error_code >> 3) as u8;
        let info = cx
            .state
            .traps
            .get(usize::from(vector))
            .copied()
            .unwrap_or_default();
        // The kernel counts as privilege level 1 here, as in a 32-bit guest.
        let needed = if cx.state.kernel_mode { 1 } else { 3 };
        if info.dpl() >= needed {
            let regs = &mut cx.state.context.regs;
            regs.rip = regs.rip.wrapping_add(2);
            inject(cx, vector, None);
            return;
        }
    }
    if error_code != 0 || !emulate::privileged_instruction(cx) {
        inject(cx, vector::GENERAL_PROTECTION, Some(error_code));
    }
}

/// #NM: the guest's own, if it set TS.
fn device_not_available(cx: &mut Current<'_>) {
    let its_own = cx.state.task_switched;
    crate::iret::set_task_switched(cx, false);
    if its_own {
        inject(cx, vector::DEVICE_NOT_AVAILABLE, None);
    }
}

#[cfg(test)]
mod tests;
