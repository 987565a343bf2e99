//! Entering the guest's kernel: the frame that an exception, an event or a system call leaves on its stack.
//!
//! From the stack pointer up: RCX, R11, the error code where there is one, RIP, CS with the event mask in byte 4,
//! RFLAGS, RSP, SS. Handlers return by `HYPERVISOR_iret`. What differs from the processor's own frame: CS has
//! privilege level 0 where the kernel was interrupted, IF is the inverse of the event mask, and IOPL is the virtual
//! one, for guests that asked to see it.

use core::mem::size_of_val;

use hv_machine::Platform;
use hypercall_abi::arch_x86::{CpuUserRegs, FLAT_KERNEL_CS, FLAT_KERNEL_SS};
use hypercall_abi::xen::VMASST_TYPE_ARCHITECTURAL_IOPL;
use zerocopy::IntoBytes;

use super::{crash, flags};
use crate::Current;
use crate::vcpu::toggle_mode;

/// How the kernel is entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where.
    pub address: u64,
    /// Whether events are masked from there on.
    pub masks_events: bool,
    /// The error code, for exceptions that have one.
    pub error_code: Option<u32>,
}

/// What the guest was doing, as a frame reports it.
struct Interrupted {
    /// Without the bits that say IF and IOPL.
    cs: u16,
    masked: bool,
    rflags: u64,
    rsp: u64,
    /// The stack on which the frame goes.
    stack: u64,
}

/// Leaves an exception frame on the kernel's stack and goes on at `entry`. A stack that cannot take the frame, or
/// an entry that was never set, crashes the domain.
#[inline]
pub fn enter(cx: &mut Current<'_>, entry: Entry) {
    enter_at(cx, entry.address, entry.masks_events, entry.error_code);
}

/// As [`enter`], with what an [`Entry`] has in registers.
#[inline(never)]
fn enter_at(cx: &mut Current<'_>, address: u64, masks_events: bool, error_code: Option<u32>) {
    let entry = Entry {
        address,
        masks_events,
        error_code,
    };
    enter_inline(cx, entry);
}

/// As [`enter`], as a part of the caller.
#[inline(always)]
pub fn enter_inline(cx: &mut Current<'_>, entry: Entry) {
    let Some(interrupted) = interrupt(cx) else {
        return;
    };
    let regs = &cx.state.context.regs;
    let [rip, cs, rflags, rsp, ss] = return_frame(regs, &interrupted);
    let (first, head) = match entry.error_code {
        Some(code) => (0, [regs.rcx, regs.r11, code.into()]),
        None => (1, [0, regs.rcx, regs.r11]),
    };
    let words = [head[0], head[1], head[2], rip, cs, rflags, rsp, ss];
    let words = words.get(first..).unwrap_or_default();
    push(cx, &interrupted, words, entry.address, entry.masks_events);
}

/// Leaves the frame of the failsafe callback, which has the data selectors that could not be loaded between R11 and
/// RIP (DS, ES, FS, GS), and goes on there.
pub fn enter_failsafe(cx: &mut Current<'_>) {
    let address = cx.state.callbacks.failsafe;
    let masks_events = cx.state.callbacks.failsafe_masks_events;
    let Some(interrupted) = interrupt(cx) else {
        return;
    };
    let regs = &cx.state.context.regs;
    let wanted = &cx.state.segments;
    let selectors = [wanted.ds, wanted.es, wanted.fs, wanted.gs];
    let mut words = [0; 11];
    let frame = [regs.rcx, regs.r11]
        .into_iter()
        .chain(selectors.map(u64::from))
        .chain(return_frame(regs, &interrupted));
    for (slot, word) in words.iter_mut().zip(frame) {
        *slot = word;
    }
    push(cx, &interrupted, &words, address, masks_events);
}

/// Sees to it that the vCPU is in kernel mode; `None` where the domain had to be crashed.
#[inline]
fn interrupt(cx: &mut Current<'_>) -> Option<Interrupted> {
    let in_kernel = cx.state.kernel_mode;
    if !in_kernel && !toggle_mode(cx) {
        return None;
    }
    let regs = &cx.state.context.regs;
    let iopl = if cx.domain.assisted(VMASST_TYPE_ARCHITECTURAL_IOPL) {
        u64::from(cx.state.iopl) << flags::IOPL_SHIFT
    } else {
        0
    };
    let masked = cx.vcpu.upcalls_masked(cx.machine());
    let interrupts = if masked { 0 } else { flags::IF };
    Some(Interrupted {
        cs: if in_kernel { regs.cs & !3 } else { regs.cs },
        masked,
        rflags: regs.rflags & !(flags::IF | flags::IOPL) | interrupts | iopl,
        rsp: regs.rsp,
        stack: if in_kernel {
            regs.rsp
        } else {
            cx.state.kernel_sp
        },
    })
}

/// RIP, CS and event mask, RFLAGS, RSP, SS.
fn return_frame(regs: &CpuUserRegs, interrupted: &Interrupted) -> [u64; 5] {
    [
        regs.rip,
        u64::from(interrupted.cs) | u64::from(interrupted.masked) << 32,
        interrupted.rflags,
        interrupted.rsp,
        u64::from(regs.ss),
    ]
}

/// RCX and R11, which are on the stack, get what `syscall` would leave in them: then the machine can go to the guest by
/// `sysret`.
#[inline(always)]
fn push(
    cx: &mut Current<'_>,
    interrupted: &Interrupted,
    words: &[u64],
    address: u64,
    masks_events: bool,
) {
    // Frames are aligned as the processor's are.
    let top = interrupted.stack & !0xf;
    let stack = top.wrapping_sub(size_of_val(words) as u64);
    // The copy refuses whatever is the hypervisor's.
    if cx.machine().copy_to_guest(stack, words.as_bytes()).is_err() {
        no_stack(cx, stack);
        return;
    }
    if address == 0 {
        crash(cx, format_args!("the kernel has no entry for this"));
        return;
    }
    if masks_events && !interrupted.masked {
        cx.vcpu.set_upcalls_masked(cx.machine(), true);
    }
    let regs = &mut cx.state.context.regs;
    regs.rflags &= !(flags::AC | flags::VM | flags::RF | flags::NT | flags::TF | flags::IOPL);
    regs.ss = FLAT_KERNEL_SS;
    regs.rsp = stack;
    regs.cs = FLAT_KERNEL_CS;
    regs.rip = address;
    (regs.rcx, regs.r11) = (regs.rip, regs.rflags);
}

#[cold]
#[inline(never)]
fn no_stack(cx: &mut Current<'_>, stack: u64) {
    crash(
        cx,
        format_args!("the kernel's stack at {stack:#x} cannot take a frame"),
    );
}
