//! `HYPERVISOR_iret` and the small hypercalls about stacks, segments and the FPU: `stack_switch`,
//! `set_segment_base`, `fpu_taskswitch`.

use hv_machine::{Platform, SegmentBase};
use hypercall_abi::arch_x86::{
    FLAT_USER_CS32, FLAT_USER_CS64, FLAT_USER_SS, IretContext, SEGBASE_FS, SEGBASE_GS_KERNEL,
    SEGBASE_GS_USER, SEGBASE_GS_USER_SEL, VGCF_IN_SYSCALL,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;

use crate::Current;
use crate::hypercall::{Args, HypercallResult, Stop};
use crate::traps::{self, flags, is_canonical};
use crate::vcpu::toggle_mode;
use crate::vcpu_context::guest_rflags;

/// `iret()`: goes on where the [`IretContext`] on the kernel's stack says. A code selector with privilege level 3
/// stands for user mode. A context that cannot be read crashes the domain; one that the processor refuses comes
/// back as an exception of the guest.
pub fn do_iret(cx: &mut Current<'_>, _args: &Args) -> HypercallResult {
    return_by_frame(cx);
    Err(Stop::REGISTERS_SET)
}

/// As [`do_iret`].
#[inline(never)]
pub fn return_by_frame(cx: &mut Current<'_>) {
    let rsp = cx.state.context.regs.rsp;
    let Ok(frame) = cx.machine().read_from_guest::<IretContext>(rsp) else {
        traps::crash(cx, format_args!("the frame of iret cannot be read"));
        return;
    };
    if frame.cs & 3 == 3 && !toggle_mode(cx) {
        return;
    }
    if cx.domain.assisted(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        cx.state.iopl = flags::iopl(frame.rflags);
    }
    cx.vcpu
        .set_upcalls_masked(cx.machine(), frame.rflags & flags::IF == 0);
    cx.state.nmi_blocked = false;

    let regs = &mut cx.state.context.regs;
    regs.rax = frame.rax;
    regs.rip = frame.rip;
    regs.cs = frame.cs as u16 | 3;
    regs.rflags = guest_rflags(frame.rflags);
    regs.rsp = frame.rsp;
    regs.ss = frame.ss as u16 | 3;
    if frame.flags & VGCF_IN_SYSCALL == 0 {
        regs.r11 = frame.r11;
        regs.rcx = frame.rcx;
    } else if is_canonical(frame.rip) {
        // What `sysret` does: the selectors are the flat ones, RCX and R11 have where it went and its flags.
        if regs.cs != FLAT_USER_CS32 {
            regs.cs = FLAT_USER_CS64;
        }
        regs.ss = FLAT_USER_SS;
        regs.rcx = regs.rip;
        regs.r11 = regs.rflags;
        regs.rflags &= !flags::RF;
    }
}

/// `stack_switch(ss, sp)`: the kernel stack for entries from user mode.
pub fn do_stack_switch(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    cx.state.kernel_ss = args[0] as u16 | 3;
    cx.state.kernel_sp = args[1];
    Ok(0)
}

/// `set_segment_base(which, base)`.
///
/// # Errors
/// `EINVAL` for an unknown segment or a base that is not canonical. A GS selector that cannot be loaded is no
/// error: the null selector takes its place.
pub fn do_set_segment_base(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let base = args[1];
    let segment = match args[0] as u32 {
        SEGBASE_FS => SegmentBase::Fs,
        SEGBASE_GS_USER => SegmentBase::GsShadow,
        SEGBASE_GS_KERNEL => SegmentBase::Gs,
        SEGBASE_GS_USER_SEL => {
            let selector = base as u16;
            let selector = if selector > 3 { selector | 3 } else { selector };
            let _ = cx.machine().load_user_gs(selector);
            return Ok(0);
        }
        _ => return Err(Errno::EINVAL.into()),
    };
    if !is_canonical(base) {
        return Err(Errno::EINVAL.into());
    }
    cx.machine().set_segment_base(segment, base);
    Ok(0)
}

/// `fpu_taskswitch(set)`: whether the next floating-point instruction raises #NM.
pub fn do_fpu_taskswitch(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    // The argument is an `int`.
    set_task_switched(cx, args[0] as u32 != 0);
    Ok(0)
}

/// Sets or clears the guest's CR0.TS.
pub fn set_task_switched(cx: &mut Current<'_>, on: bool) {
    cx.state.task_switched = on;
    cx.machine().set_task_switched(on);
}

#[cfg(test)]
mod tests {
    use super::*;

    use hypercall_abi::arch_x86::{FLAT_KERNEL_CS, FLAT_KERNEL_SS, FLAT_USER_CS};
    use hypercall_abi::sched::SHUTDOWN_CRASH;
    use hypercall_abi::xen::{
        HYPERVISOR_FPU_TASKSWITCH, HYPERVISOR_IRET, HYPERVISOR_SET_SEGMENT_BASE,
        HYPERVISOR_STACK_SWITCH,
    };

    use crate::hypercall;
    use crate::testing::{BAD_ADDRESSES, DOMU, Host};

    const NOT_CANONICAL: u64 = 0x0000_8000_0000_0000;

    fn frame() -> IretContext {
        IretContext {
            rax: 1,
            r11: 2,
            rcx: 3,
            flags: 0,
            rip: 0x4000,
            cs: u64::from(FLAT_KERNEL_CS & !3),
            rflags: flags::IF | 1,
            rsp: 0x5000,
            ss: u64::from(FLAT_KERNEL_SS & !3),
        }
    }

    fn call_iret(cx: &mut Current<'_>, rsp: u64) {
        cx.state.context.regs.rax = HYPERVISOR_IRET.into();
        cx.state.context.regs.rsp = rsp;
        hypercall::enter(cx);
    }

    fn return_by(host: &Host, frame: &IretContext) {
        let va = host.put(DOMU, frame);
        host.as_guest(DOMU, |cx| {
            call_iret(cx, va);
        });
    }

    fn crashed(host: &Host) -> bool {
        host.domain(DOMU).life.lock().shutdown == Some(SHUTDOWN_CRASH)
    }

    #[test]
    fn iret_to_the_kernel_restores_all_registers_and_the_event_mask() {
        let host = Host::new();
        host.as_guest(DOMU, |cx| {
            cx.vcpu.set_upcalls_masked(cx.machine(), true);
            cx.state.nmi_blocked = true;
        });
        return_by(&host, &frame());
        host.as_guest(DOMU, |cx| {
            let regs = &cx.state.context.regs;
            assert_eq!((regs.rax, regs.r11, regs.rcx), (1, 2, 3));
            assert_eq!((regs.rip, regs.rsp), (0x4000, 0x5000));
            assert_eq!((regs.cs, regs.ss), (FLAT_KERNEL_CS, FLAT_KERNEL_SS));
            assert_eq!(regs.rflags, 0x203);
            assert!(cx.state.kernel_mode);
            assert!(!cx.vcpu.upcalls_masked(cx.machine()));
            assert!(!cx.state.nmi_blocked);
        });
    }

    #[test]
    fn iret_with_if_clear_masks_events_and_not_interrupts() {
        let host = Host::new();
        return_by(
            &host,
            &IretContext {
                rflags: 3 << flags::IOPL_SHIFT,
                ..frame()
            },
        );
        host.as_guest(DOMU, |cx| {
            assert!(cx.vcpu.upcalls_masked(cx.machine()));
            let rflags = cx.state.context.regs.rflags;
            assert_eq!(rflags & (flags::IF | flags::IOPL), flags::IF);
            assert_eq!(cx.state.iopl, 0, "nobody asked for the architectural rule");
        });
    }

    #[test]
    fn iret_sets_the_virtual_iopl_of_who_asked_for_it() {
        let host = Host::new();
        host.domain(DOMU).vm_assist.store(
            1 << VMASST_TYPE_ARCHITECTURAL_IOPL,
            core::sync::atomic::Ordering::Relaxed,
        );
        return_by(
            &host,
            &IretContext {
                rflags: 3 << flags::IOPL_SHIFT,
                ..frame()
            },
        );
        host.as_guest(DOMU, |cx| assert_eq!(cx.state.iopl, 3));
    }

    #[test]
    fn a_code_selector_of_level_3_leads_to_user_mode() {
        let host = Host::new();
        host.as_guest(DOMU, |cx| cx.state.user_root = cx.state.kernel_root);
        let user = IretContext {
            cs: FLAT_USER_CS.into(),
            flags: VGCF_IN_SYSCALL,
            ss: 0x2b,
            ..frame()
        };
        return_by(&host, &user);
        host.as_guest(DOMU, |cx| {
            assert!(!cx.state.kernel_mode);
            let regs = &cx.state.context.regs;
            assert_eq!((regs.rcx, regs.r11), (regs.rip, regs.rflags));
            assert_eq!((regs.cs, regs.ss), (FLAT_USER_CS64, FLAT_USER_SS));
        });
        assert!(!crashed(&host));
    }

    #[test]
    fn user_mode_without_page_tables_crashes_the_domain() {
        let host = Host::new();
        let user = IretContext {
            cs: FLAT_USER_CS.into(),
            ..frame()
        };
        return_by(&host, &user);
        assert!(crashed(&host));
        assert!(host.hv.machine.take_output().contains("user mode"));
    }

    #[test]
    fn a_frame_that_cannot_be_read_crashes_the_domain() {
        for rsp in BAD_ADDRESSES {
            let host = Host::new();
            host.as_guest(DOMU, |cx| {
                call_iret(cx, rsp);
            });
            assert!(crashed(&host), "{rsp:#x}");
        }
    }

    #[test]
    fn stack_switch_never_lets_less_than_level_3_in() {
        let host = Host::new();
        let args = [0xe028, 0x1234];
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_STACK_SWITCH, &args), 0);
        host.as_guest(DOMU, |cx| {
            assert_eq!((cx.state.kernel_ss, cx.state.kernel_sp), (0xe02b, 0x1234));
        });
    }

    #[test]
    fn segment_bases_go_to_their_registers() {
        let host = Host::new();
        let call = |which: u32, base| {
            host.hypercall(DOMU, HYPERVISOR_SET_SEGMENT_BASE, &[which.into(), base])
        };
        assert_eq!(call(SEGBASE_FS, 0x10), 0);
        assert_eq!(call(SEGBASE_GS_USER, 0x20), 0);
        assert_eq!(call(SEGBASE_GS_KERNEL, 0x30), 0);
        assert_eq!(call(SEGBASE_GS_USER_SEL, 0x33), 0);
        let segments = host.hv.machine.cpu(0).segments;
        assert_eq!(segments.fs_base, 0x10);
        assert_eq!((segments.gs_base_shadow, segments.gs_base), (0x20, 0x30));
        for which in [SEGBASE_FS, SEGBASE_GS_USER, SEGBASE_GS_KERNEL] {
            assert_eq!(call(which, NOT_CANONICAL), Errno::EINVAL.to_return());
        }
        for which in [4, u32::MAX] {
            assert_eq!(call(which, 0), Errno::EINVAL.to_return());
        }
    }

    #[test]
    fn fpu_taskswitch_sets_and_clears_ts() {
        let host = Host::new();
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_FPU_TASKSWITCH, &[1]), 0);
        assert!(host.hv.machine.cpu(0).task_switched);
        assert_eq!(host.hypercall(DOMU, HYPERVISOR_FPU_TASKSWITCH, &[0]), 0);
        assert!(!host.hv.machine.cpu(0).task_switched);
    }
}
