//! Tests of frames, byte by byte, and of what leads to them.

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
        assert_eq!(
            (regs.rcx, regs.r11),
            (regs.rip, regs.rflags),
            "as `syscall`"
        );
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
