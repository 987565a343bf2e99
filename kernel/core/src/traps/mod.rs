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

use crate::emulate;
use crate::{Current, descriptor};

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
pub fn handle_exception(cx: &mut Current<'_>, vector: u8, error_code: u32, fault_address: u64) {
    match vector {
        vector::PAGE_FAULT => {
            if !crate::mmu::fixup_fault(cx, fault_address, error_code)
                && !emulate::store_to_page_table(cx, fault_address, error_code)
            {
                inject_page_fault(cx, fault_address, error_code);
            }
        }
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
        _ => {
            let has_code = WITH_ERROR_CODE.checked_shr(u32::from(vector)).unwrap_or(0) & 1 != 0;
            inject(cx, vector, has_code.then_some(error_code));
        }
    }
}

/// A return to the guest that the processor refused ([`hv_machine::Exit::BadFrame`]): the guest sees the exception
/// as that of the instruction it was to go on with.
pub fn handle_bad_frame(cx: &mut Current<'_>, vector: u8, error_code: u32) {
    handle_exception(cx, vector, error_code, 0);
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
pub fn inject(cx: &mut Current<'_>, vector: u8, error_code: Option<u32>) {
    let Some(info) = cx.state.traps.get(usize::from(vector)).copied() else {
        return;
    };
    if info.address == 0 {
        let code = error_code.unwrap_or(0);
        crash(
            cx,
            format_args!("no handler for vector {vector} (error code {code:#06x})"),
        );
        return;
    }
    let entry = Entry {
        address: info.address,
        masks_events: info.masks_events(),
        error_code,
    };
    bounce::enter(cx, entry);
}

/// Has the guest's kernel handle a page fault at `address`. The user bit of the error code is that of the guest's
/// modes, as opposed to the processor's.
pub fn inject_page_fault(cx: &mut Current<'_>, address: u64, error_code: u32) {
    let user = if cx.state.kernel_mode {
        0
    } else {
        error_code::USER
    };
    set_cr2(cx, address);
    let error_code = error_code & !error_code::USER | user;
    inject(cx, vector::PAGE_FAULT, Some(error_code));
}

/// Sets the guest's CR2, which it reads in its `vcpu_info`.
pub fn set_cr2(cx: &mut Current<'_>, address: u64) {
    const OFFSET: usize =
        core::mem::offset_of!(VcpuInfo, arch) + core::mem::offset_of!(ArchVcpuInfo, cr2);
    cx.state.cr2 = address;
    let info = cx.vcpu.info();
    cx.machine()
        .store_u64(info.mfn, (info.offset + OFFSET) / 8, address);
}

/// Enters the event callback; the caller has seen that one is due ([`crate::event`]).
pub fn enter_upcall(cx: &mut Current<'_>) {
    let entry = Entry {
        address: cx.state.callbacks.event,
        masks_events: true,
        error_code: None,
    };
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
pub fn enter_syscall(cx: &mut Current<'_>) {
    let callbacks = &cx.state.callbacks;
    let (address, masks_events) = (callbacks.syscall, callbacks.syscall_masks_events);
    system_call(cx, address, masks_events);
}

/// `syscall` of compatibility mode.
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
    cx.state.context.regs.rflags &= !flags::DF;
}

/// `sysenter`. The processor keeps neither RIP nor RSP; the frame has zeros for them, and a null CS.
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
mod tests {
    use super::*;

    use hypercall_abi::arch_x86::{
        FLAT_KERNEL_CS, FLAT_KERNEL_SS, FLAT_USER_CS32, FLAT_USER_SS, TrapInfo,
    };
    use hypercall_abi::sched::SHUTDOWN_CRASH;
    use hypercall_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

    use crate::testing::{DOMU, Host, SCRATCH, UNMAPPED};

    const HANDLER: u64 = 0xffff_8880_0000_1000;
    const STACK: u64 = SCRATCH + 0x3008;

    fn with_handlers(host: &Host) {
        host.as_guest(DOMU, |cx| {
            for (vector, slot) in (0..=255).zip(cx.state.traps.iter_mut()) {
                *slot = TrapInfo {
                    vector,
                    address: HANDLER + u64::from(vector),
                    cs: FLAT_KERNEL_CS,
                    ..Default::default()
                };
            }
            let regs = &mut cx.state.context.regs;
            regs.rcx = 0x1111;
            regs.r11 = 0x2222;
            regs.rip = 0x3333;
            regs.cs = FLAT_KERNEL_CS;
            regs.rflags = 0x346 | 0x10000;
            regs.rsp = STACK;
            regs.ss = FLAT_KERNEL_SS;
            cx.vcpu.set_upcalls_masked(cx.machine(), false);
        });
    }

    /// Gives the domain a user mode on the same tables, and enters it.
    fn enter_user_mode(host: &Host) {
        host.as_guest(DOMU, |cx| {
            cx.state.user_root = cx.state.kernel_root;
            cx.state.kernel_sp = SCRATCH + 0x5000;
            assert!(crate::vcpu::toggle_mode(cx));
        });
    }

    fn words(host: &Host, at: u64, count: usize) -> Vec<u64> {
        host.as_guest(DOMU, |cx| cx.read_array(at, count).expect("the frame"))
    }

    fn crashed(host: &Host) -> bool {
        host.domain(DOMU).life.lock().shutdown == Some(SHUTDOWN_CRASH)
    }

    #[test]
    fn an_exception_of_the_kernel_leaves_a_frame_with_level_0_on_its_own_stack() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| handle_exception(cx, 0, 0, 0));
        let rsp = host.as_guest(DOMU, |cx| {
            let regs = &cx.state.context.regs;
            assert_eq!((regs.rip, regs.cs), (HANDLER, FLAT_KERNEL_CS));
            assert_eq!(regs.ss, FLAT_KERNEL_SS);
            // TF and RF are cleared; IF stays.
            assert_eq!(regs.rflags, 0x246);
            regs.rsp
        });
        assert_eq!(rsp, (STACK & !0xf) - 56);
        let frame = words(&host, rsp, 7);
        let cs = u64::from(FLAT_KERNEL_CS & !3);
        assert_eq!(
            frame,
            [
                0x1111,
                0x2222,
                0x3333,
                cs,
                0x10346,
                STACK,
                u64::from(FLAT_KERNEL_SS)
            ]
        );
    }

    #[test]
    fn an_error_code_stands_between_r11_and_rip() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| handle_exception(cx, 11, 0x58, 0));
        let rsp = host.as_guest(DOMU, |cx| cx.state.context.regs.rsp);
        assert_eq!(rsp, (STACK & !0xf) - 64);
        assert_eq!(words(&host, rsp, 4), [0x1111, 0x2222, 0x58, 0x3333]);
    }

    #[test]
    fn an_exception_of_user_mode_goes_to_the_kernel_stack_in_kernel_mode() {
        let host = Host::new();
        with_handlers(&host);
        enter_user_mode(&host);
        host.as_guest(DOMU, |cx| {
            cx.machine()
                .set_segment_base(hv_machine::SegmentBase::Gs, 0x77);
            handle_exception(cx, 16, 0, 0);
            assert!(cx.state.kernel_mode);
            assert_eq!(cx.machine().store_segments().gs_base_shadow, 0x77);
            let rsp = cx.state.context.regs.rsp;
            assert_eq!(rsp, SCRATCH + 0x5000 - 56);
            let cs: u64 = cx.read(rsp + 24).expect("the frame");
            assert_eq!(
                cs,
                u64::from(FLAT_KERNEL_CS),
                "level 3 stands for user mode"
            );
        });
    }

    #[test]
    fn a_masking_handler_is_entered_with_events_masked_and_the_frame_has_the_old_mask() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.traps[6] = cx.state.traps[6].with_masked_events(true);
            inject(cx, 6, None);
            assert!(cx.vcpu.upcalls_masked(cx.machine()));
            let rsp = cx.state.context.regs.rsp;
            let [cs, rflags]: [u64; 2] = cx.read(rsp + 24).expect("the frame");
            assert_eq!((cs >> 32, rflags & flags::IF), (0, flags::IF));
            inject(cx, 6, None);
            let rsp = cx.state.context.regs.rsp;
            let [cs, rflags]: [u64; 2] = cx.read(rsp + 24).expect("the frame");
            assert_eq!((cs >> 32, rflags & flags::IF), (1, 0));
        });
    }

    #[test]
    fn a_frame_shows_the_virtual_iopl_to_who_asked_for_it() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.iopl = 3;
            inject(cx, 0, None);
            let rflags: u64 = cx.read(cx.state.context.regs.rsp + 32).expect("the frame");
            assert_eq!(rflags & flags::IOPL, 0);
            cx.domain.vm_assist.store(
                1 << VMASST_TYPE_ARCHITECTURAL_IOPL,
                core::sync::atomic::Ordering::Relaxed,
            );
            inject(cx, 0, None);
            let rflags: u64 = cx.read(cx.state.context.regs.rsp + 32).expect("the frame");
            assert_eq!(rflags & flags::IOPL, flags::IOPL);
            assert_eq!(cx.state.context.regs.rflags & flags::IOPL, 0);
        });
    }

    #[test]
    fn a_page_fault_reports_the_address_and_the_guests_own_mode() {
        let host = Host::new();
        with_handlers(&host);
        let info = host.vcpu(DOMU).info();
        host.as_guest(DOMU, |cx| {
            handle_exception(cx, 14, 0x6, UNMAPPED + 8);
            let code: u64 = cx.read(cx.state.context.regs.rsp + 16).expect("the frame");
            assert_eq!(code, 0x2, "a write by the kernel");
            assert_eq!(cx.state.cr2, UNMAPPED + 8);
            assert_eq!(
                cx.machine().load_u64(info.mfn, info.offset / 8 + 2),
                UNMAPPED + 8
            );
        });
        enter_user_mode(&host);
        host.as_guest(DOMU, |cx| {
            handle_exception(cx, 14, 0x6, UNMAPPED);
            let code: u64 = cx.read(cx.state.context.regs.rsp + 16).expect("the frame");
            assert_eq!(code, 0x6);
        });
    }

    #[test]
    fn a_stack_that_cannot_take_a_frame_crashes_the_domain_alone() {
        for stack in [
            UNMAPPED,
            hv_machine::HYPERVISOR_VIRT_START + 8192,
            hv_machine::HYPERVISOR_VIRT_END + 16,
            hv_machine::HYPERVISOR_VIRT_START,
            0,
            8,
            0x0000_8000_0000_0010,
        ] {
            let host = Host::new();
            with_handlers(&host);
            host.as_guest(DOMU, |cx| {
                cx.state.context.regs.rsp = stack;
                inject(cx, 13, Some(0));
            });
            assert!(crashed(&host), "{stack:#x}");
            let log = host.hv.machine.take_output();
            assert!(log.contains("d1v0") && log.contains("RIP:"), "{log}");
        }
    }

    #[test]
    fn an_exception_without_a_handler_crashes_the_domain() {
        let host = Host::new();
        host.as_guest(DOMU, |cx| {
            cx.state.context.regs.rsp = STACK;
            handle_exception(cx, 3, 0, 0);
        });
        assert!(crashed(&host));
    }

    #[test]
    fn a_software_interrupt_is_delivered_if_its_entry_lets_the_mode_raise_it() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            // Level 0: nobody may, and the #GP names the gate.
            handle_exception(cx, 13, 0x80 << 3 | 2, 0);
            let regs = &cx.state.context.regs;
            assert_eq!(regs.rip, HANDLER + 13);
            let frame: [u64; 4] = cx.read(regs.rsp).expect("the frame");
            assert_eq!(frame[2..], [0x402, 0x3333]);

            cx.state.traps[0x80] = cx.state.traps[0x80].with_dpl(1);
            let interrupted = cx.state.context.regs.rip;
            handle_exception(cx, 13, 0x80 << 3 | 2, 0);
            let regs = &cx.state.context.regs;
            assert_eq!(regs.rip, HANDLER + 0x80);
            let frame: [u64; 3] = cx.read(regs.rsp).expect("the frame");
            assert_eq!(frame[2], interrupted + 2, "behind the instruction");
        });
        enter_user_mode(&host);
        host.as_guest(DOMU, |cx| {
            handle_exception(cx, 13, 0x80 << 3 | 2, 0);
            assert_eq!(
                cx.state.context.regs.rip,
                HANDLER + 13,
                "level 1 is not for user mode"
            );
        });
    }

    #[test]
    fn debug_exceptions_add_to_dr6() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.debug[6] = dr6::RESTING | 1;
            cx.machine().set_debug_status(dr6::RESTING | dr6::STEP);
            handle_exception(cx, 1, 0, 0);
            assert_eq!(cx.state.debug[6], dr6::RESTING | dr6::STEP | 1);
            assert_eq!(cx.state.context.regs.rip, HANDLER + 1);
        });
    }

    #[test]
    fn no_device_is_the_guests_own_only_after_it_set_ts() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            handle_exception(cx, 7, 0, 0);
            assert_eq!(cx.state.context.regs.rip, 0x3333);
            crate::iret::set_task_switched(cx, true);
            assert!(cx.machine().cpu(0).task_switched);
            handle_exception(cx, 7, 0, 0);
            assert_eq!(cx.state.context.regs.rip, HANDLER + 7);
            assert!(!cx.state.task_switched && !cx.machine().cpu(0).task_switched);
        });
    }

    #[test]
    fn an_upcall_masks_events() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.callbacks.event = HANDLER;
            enter_upcall(cx);
            assert_eq!(cx.state.context.regs.rip, HANDLER);
            assert!(cx.vcpu.upcalls_masked(cx.machine()));
        });
    }

    #[test]
    fn a_second_nmi_waits_for_iret_and_one_without_handler_is_dropped() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            cx.vcpu.nmi_requested.store(true, Ordering::Release);
            enter_nmi(cx);
            assert_eq!(cx.state.context.regs.rip, HANDLER + 2);
            cx.vcpu.nmi_requested.store(true, Ordering::Release);
            assert!(!nmi_due(cx));
            cx.state.nmi_blocked = false;
            cx.state.traps[2].address = 0;
            enter_nmi(cx);
            assert!(!nmi_due(cx) && !cx.state.nmi_blocked);
            assert_eq!(cx.state.context.regs.rip, HANDLER + 2);
        });
        assert!(!crashed(&host));
    }

    #[test]
    fn system_calls_enter_their_callbacks_with_the_direction_flag_clear() {
        let host = Host::new();
        with_handlers(&host);
        enter_user_mode(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.callbacks.syscall = HANDLER + 0x100;
            cx.state.callbacks.syscall_masks_events = true;
            cx.state.context.regs.rflags |= flags::DF;
            enter_syscall(cx);
            let regs = &cx.state.context.regs;
            assert_eq!(regs.rip, HANDLER + 0x100);
            assert_eq!(regs.rflags & flags::DF, 0);
            assert!(cx.vcpu.upcalls_masked(cx.machine()));
            let frame: [u64; 5] = cx.read(regs.rsp).expect("the frame");
            assert_ne!(frame[4] & flags::DF, 0, "the program's flags are kept");
        });
    }

    #[test]
    fn a_system_call_without_callback_is_an_invalid_opcode() {
        let host = Host::new();
        with_handlers(&host);
        enter_user_mode(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.context.regs.cs = FLAT_USER_CS32;
            enter_syscall32(cx);
            let regs = &cx.state.context.regs;
            assert_eq!(regs.rip, HANDLER + 6);
            let frame: [u64; 4] = cx.read(regs.rsp).expect("the frame");
            assert_eq!(frame[2..], [0x3331, u64::from(FLAT_USER_CS32)]);
        });
    }

    #[test]
    fn sysenter_has_no_place_to_return_to() {
        let host = Host::new();
        with_handlers(&host);
        enter_user_mode(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.callbacks.sysenter = HANDLER + 0x200;
            enter_sysenter(cx);
            let regs = &cx.state.context.regs;
            assert_eq!(regs.rip, HANDLER + 0x200);
            let frame: [u64; 7] = cx.read(regs.rsp).expect("the frame");
            assert_eq!((frame[2], frame[3], frame[5]), (0, 3, 0));
            assert_eq!(frame[6], u64::from(FLAT_USER_SS));
        });
        enter_user_mode(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.callbacks.sysenter = 0;
            enter_sysenter(cx);
            assert_eq!(cx.state.context.regs.rip, HANDLER + 13);
        });
    }

    #[test]
    fn the_failsafe_callback_finds_the_selectors_in_its_frame() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            cx.state.callbacks.failsafe = HANDLER + 0x300;
            cx.state.callbacks.failsafe_masks_events = true;
            cx.state.segments.ds = 0x13;
            cx.state.segments.es = 0x23;
            cx.state.segments.fs = 0x33;
            cx.state.segments.gs = 0x43;
            failsafe(cx);
            let regs = &cx.state.context.regs;
            assert_eq!(regs.rip, HANDLER + 0x300);
            assert!(cx.vcpu.upcalls_masked(cx.machine()));
            assert_eq!(regs.rsp, (STACK & !0xf) - 88);
            let frame: [u64; 11] = cx.read(regs.rsp).expect("the frame");
            let expected = [
                0x1111,
                0x2222,
                0x13,
                0x23,
                0x33,
                0x43,
                0x3333,
                u64::from(FLAT_KERNEL_CS & !3),
                0x10346,
                STACK,
                u64::from(FLAT_KERNEL_SS),
            ];
            assert_eq!(frame, expected);
        });
    }

    #[test]
    fn an_ldt_fault_becomes_a_page_fault_in_the_guests_ldt() {
        let host = Host::new();
        with_handlers(&host);
        host.as_guest(DOMU, |cx| {
            crate::descriptor::set_ldt(cx, UNMAPPED, 1024).expect("an LDT");
            handle_ldt_fault(cx, 0x1008, 0);
            assert_eq!(cx.state.context.regs.rip, HANDLER + 14);
            assert_eq!(cx.state.cr2, UNMAPPED + 0x1008);
        });
    }

    #[test]
    fn an_ldt_page_is_mapped_when_the_processor_asks_for_it() {
        let host = Host::new();
        with_handlers(&host);
        // A page that is mapped writable cannot be a descriptor table.
        host.as_guest(DOMU, |cx| {
            crate::descriptor::set_ldt(cx, SCRATCH + 0x8000, 512).expect("an LDT");
            handle_ldt_fault(cx, 0, 0);
            assert_eq!(cx.state.context.regs.rip, HANDLER + 14);
        });
    }
}
