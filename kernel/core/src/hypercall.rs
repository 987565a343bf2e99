//! Hypercalls: registers in, handler, result out.
//!
//! Registers of a 64-bit PV hypercall (`arch-x86/xen-x86_64.h`): number in RAX, arguments in RDI, RSI, RDX, R10,
//! R8, R9, result in RAX. `syscall` has overwritten RCX and R11.

use hv_machine::Platform;
use hypercall_abi::arch_x86::CpuUserRegs;
use hypercall_abi::errno::Errno;
use hypercall_abi::trace::TRC_PV_HYPERCALL_V2;
use hypercall_abi::xen::*;

use crate::{
    Current, callbacks, console_io, debugreg, descriptor, domctl, event, grant, iret, lifecycle,
    memory_op, mmu, multicall, physdev, platform_op, sched_op, sysctl, time, trace, vcpu_op,
    version, vm_assist,
};

/// The six argument registers.
pub type Args = [u64; 6];

/// Length of the instruction `syscall`, which a continued hypercall executes again.
const SYSCALL_LENGTH: u64 = 2;

/// Time that a handler may take before it asks to be continued: 500 us.
pub(crate) const BUDGET_PER_SECOND: u64 = 2000;

/// Why a handler has no result to give.
///
/// One word, as a result is: with it, what a handler answers is two words, which are given back in registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stop(u64);

impl Stop {
    /// It is not finished, and has said how it is to go on ([`Current::again`]).
    pub const AGAIN: Self = Self(0);
    /// The registers are already what the guest is to see (`iret`).
    pub const REGISTERS_SET: Self = Self(1);

    /// It failed.
    pub const fn error(errno: Errno) -> Self {
        Self(errno.to_return() as u64)
    }

    /// Of a call that failed, what its caller finds in RAX.
    pub const fn to_result(self) -> u64 {
        self.0
    }
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::error(errno)
    }
}

/// The non-negative result of a hypercall, or why there is none.
pub type HypercallResult = Result<u64, Stop>;

/// Carries out the hypercall that the registers of the current vCPU ask for.
#[inline(always)]
pub fn enter(cx: &mut Current<'_>) {
    let regs = &cx.state.context.regs;
    if regs.rax == HYPERVISOR_IRET.into() && may_begin(cx) {
        // It has neither arguments nor a result, and ends whatever the guest was interrupted by.
        iret::return_by_frame(cx);
        return;
    }
    let (number, args) = (regs.rax, arguments(regs));
    cx.deadline.set(None);
    if cx.hv.tracer.is_on() {
        trace::hypercall(cx, TRC_PV_HYPERCALL_V2, number, &args);
    }
    let result = dispatch(cx, number, &args);
    let regs = &mut cx.state.context.regs;
    match result {
        Ok(value) => regs.rax = value,
        Err(Stop::AGAIN) => {
            set_arguments(regs, &cx.continuation.get());
            regs.rip = regs.rip.wrapping_sub(SYSCALL_LENGTH);
        }
        Err(Stop::REGISTERS_SET) => {}
        Err(error) => regs.rax = error.to_result(),
    }
}

/// Whether a long operation has used up its time and is to return [`Current::again`]. An operation asks only after
/// it has got on by a step, so that it ends however slow the machine is.
#[inline(never)]
pub fn should_preempt(cx: &Current<'_>) -> bool {
    let now = cx.machine().tsc();
    match cx.deadline.get() {
        Some(deadline) => now >= deadline,
        None => {
            cx.deadline.set(Some(now.saturating_add(budget(cx))));
            false
        }
    }
}

/// Gives the vCPU the time that a hypercall may take, from this moment.
#[inline(never)]
pub fn start_clock(cx: &Current<'_>) {
    let deadline = cx.machine().tsc().saturating_add(budget(cx));
    cx.deadline.set(Some(deadline));
}

/// As [`start_clock`], unless the call has looked at the clock already. To be called before what may be long by itself;
/// most calls never read it.
pub(crate) fn begin_clock(cx: &Current<'_>) {
    if cx.deadline.get().is_none() {
        start_clock(cx);
    }
}

fn budget(cx: &Current<'_>) -> u64 {
    cx.machine().tsc_info().hz / BUDGET_PER_SECOND
}

fn arguments(regs: &CpuUserRegs) -> Args {
    [regs.rdi, regs.rsi, regs.rdx, regs.r10, regs.r8, regs.r9]
}

/// Gives a call that goes on its new arguments. Registers behind those that the call has are the guest's own, and
/// its stubs take them to be kept: there the arguments are 0, and nothing is changed.
fn set_arguments(regs: &mut CpuUserRegs, args: &Args) {
    let CpuUserRegs {
        rdi,
        rsi,
        rdx,
        r10,
        r8,
        r9,
        ..
    } = regs;
    for (register, argument) in [rdi, rsi, rdx, r10, r8, r9].into_iter().zip(*args) {
        if argument != 0 {
            *register = argument;
        }
    }
}

/// Carries out a hypercall. A domain that is being taken apart gets nothing done, and one that let go of page tables
/// nothing before they are taken apart.
#[inline(always)]
pub fn dispatch(cx: &mut Current<'_>, number: u64, args: &Args) -> HypercallResult {
    if !may_begin(cx) {
        put_off(cx, args)?;
    }
    match handle(cx, number, args) {
        // It got on with a page table, which remembers how far: the same call goes on.
        Err(RESTART) => Err(cx.again(*args)),
        result => result,
    }
}

/// Whether neither of the reasons is there for which [`dispatch`] puts a call off.
#[inline(always)]
fn may_begin(cx: &Current<'_>) -> bool {
    let domain = cx.domain;
    !lifecycle::is_dying(domain) & domain.owner.is_settled()
}

/// Why a call may not begin, if it still may not.
#[cold]
#[inline(never)]
fn put_off(cx: &Current<'_>, args: &Args) -> Result<(), Stop> {
    if lifecycle::is_dying(cx.domain) {
        return Err(Errno::EINVAL.into());
    }
    if !mmu::settle(cx, cx.domain.id) {
        return Err(cx.again(*args));
    }
    Ok(())
}

const RESTART: Stop = Stop::error(Errno::ERESTART);

/// The handler of each number.
#[inline(never)]
fn handle(cx: &mut Current<'_>, number: u64, args: &Args) -> HypercallResult {
    match u32::try_from(number).unwrap_or(u32::MAX) {
        HYPERVISOR_SET_TRAP_TABLE => callbacks::do_set_trap_table(cx, args),
        HYPERVISOR_MMU_UPDATE => mmu::do_mmu_update(cx, args),
        HYPERVISOR_SCHED_OP_COMPAT => sched_op::do_sched_op_compat(cx, args),
        HYPERVISOR_SET_TIMER_OP => time::do_set_timer_op(cx, args),
        HYPERVISOR_EVENT_CHANNEL_OP_COMPAT => event::do_event_channel_op_compat(cx, args),
        HYPERVISOR_PHYSDEV_OP_COMPAT => physdev::do_physdev_op_compat(cx, args),
        HYPERVISOR_GRANT_TABLE_OP => grant::do_grant_table_op(cx, args),
        HYPERVISOR_VCPU_OP => vcpu_op::do_vcpu_op(cx, args),
        HYPERVISOR_SCHED_OP => sched_op::do_sched_op(cx, args),
        HYPERVISOR_EVENT_CHANNEL_OP => event::do_event_channel_op(cx, args),
        HYPERVISOR_PHYSDEV_OP => physdev::do_physdev_op(cx, args),
        HYPERVISOR_SET_GDT => descriptor::do_set_gdt(cx, args),
        HYPERVISOR_STACK_SWITCH => iret::do_stack_switch(cx, args),
        HYPERVISOR_SET_CALLBACKS => callbacks::do_set_callbacks(cx, args),
        HYPERVISOR_FPU_TASKSWITCH => iret::do_fpu_taskswitch(cx, args),
        HYPERVISOR_SET_DEBUGREG => debugreg::do_set_debugreg(cx, args),
        HYPERVISOR_GET_DEBUGREG => debugreg::do_get_debugreg(cx, args),
        HYPERVISOR_UPDATE_DESCRIPTOR => descriptor::do_update_descriptor(cx, args),
        HYPERVISOR_VM_ASSIST => vm_assist::do_vm_assist(cx, args),
        HYPERVISOR_IRET => iret::do_iret(cx, args),
        HYPERVISOR_SET_SEGMENT_BASE => iret::do_set_segment_base(cx, args),
        HYPERVISOR_NMI_OP => callbacks::do_nmi_op(cx, args),
        HYPERVISOR_CALLBACK_OP => callbacks::do_callback_op(cx, args),
        HYPERVISOR_UPDATE_VA_MAPPING => mmu::do_update_va_mapping(cx, args),
        HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN => mmu::do_update_va_mapping_otherdomain(cx, args),
        HYPERVISOR_MMUEXT_OP => mmu::do_mmuext_op(cx, args),
        HYPERVISOR_DOMCTL => domctl::do_domctl(cx, args),
        HYPERVISOR_MEMORY_OP => memory_op::do_memory_op(cx, args),
        HYPERVISOR_MULTICALL => multicall::do_multicall(cx, args),
        HYPERVISOR_XEN_VERSION => version::do_xen_version(cx, args),
        HYPERVISOR_PLATFORM_OP => platform_op::do_platform_op(cx, args),
        HYPERVISOR_SYSCTL => sysctl::do_sysctl(cx, args),
        HYPERVISOR_CONSOLE_IO => console_io::do_console_io(cx, args),
        _ => Err(Errno::ENOSYS.into()),
    }
}

#[cfg(test)]
mod tests;
