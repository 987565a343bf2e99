//! The life of a CPU: ask the scheduler, run a vCPU until it leaves, see to why it left.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hv_machine::{Exit, Irq, LogLevel, MachineRef, Platform};

use crate::current::Current;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;
use crate::vcpu::{Vcpu, VcpuState};
use crate::{descriptor, dom0, event, hypercall, msr, sched, time, traps};

/// Heap that hypercalls may count on until the CPU next asks the scheduler: 1 MiB.
const HEAP_SPARE: usize = 1 << 20;

/// Takes over the machine from the boot code: builds the control domain and runs guests for ever.
pub fn start(machine: MachineRef) -> ! {
    let hv: &'static Hypervisor = Box::leak(Box::new(Hypervisor::new(machine)));
    let memory = &hv.memory;
    hv.log(
        LogLevel::Error,
        format_args!("Xenolith {}, Xen 4.17 interface", env!("CARGO_PKG_VERSION")),
    );
    hv.log(
        LogLevel::Info,
        format_args!("Command line: {}", hv.options.line),
    );
    hv.log(
        LogLevel::Info,
        format_args!(
            "Memory: {} MiB, {} MiB free",
            memory.total_frames() >> 8,
            memory.free_frames() >> 8
        ),
    );
    if let Err(error) = dom0::build(hv) {
        hv.log(
            LogLevel::Error,
            format_args!("Could not construct dom0: {error}"),
        );
        give_up(hv);
    }
    run(hv)
}

/// There is nothing to run: stops the machine if the command line says `noreboot`, else restarts it when there was
/// time to read why.
fn give_up(hv: &Hypervisor) -> ! {
    const SECONDS: u64 = 5;
    if hv.options.no_reboot {
        hv.machine.halt();
    }
    hv.log(
        LogLevel::Error,
        format_args!("Restarting in {SECONDS} seconds"),
    );
    let end = hv.machine.tsc() + SECONDS * 1000 * hv.machine.tsc_info().khz;
    while hv.machine.tsc() < end {
        core::hint::spin_loop();
    }
    hv.machine.reboot()
}

/// Runs vCPUs on this CPU for ever.
pub fn run(hv: &Hypervisor) -> ! {
    loop {
        step(hv);
    }
}

/// One turn: picks a vCPU and runs it for as long as it may, or waits for an interrupt.
fn step(hv: &Hypervisor) {
    hv.take_schedule_request();
    // Without frames there is no more to be had: what needs heap then fails with an errno as far as it can.
    let _ = hv.reserve_heap(HEAP_SPARE);
    match sched::pick(hv) {
        Some(vcpu) => match vcpu.domain.upgrade() {
            Some(domain) => run_vcpu(hv, &domain, &vcpu),
            None => sched::remove(hv, &vcpu),
        },
        None => {
            let irq = hv.machine.idle();
            handle_interrupt(hv, irq);
        }
    }
}

/// Runs a vCPU until the scheduler is to be asked again.
fn run_vcpu(hv: &Hypervisor, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) {
    let mut state = vcpu.state.lock();
    if !vcpu.is_runnable() || !state.initialised {
        sched::sleep(hv, vcpu);
        return;
    }
    let mut cx = Current {
        hv,
        domain,
        vcpu,
        state: &mut state,
        deadline: 0,
    };
    vcpu.running.store(true, Ordering::SeqCst);
    if switch_in(&mut cx) {
        sched::switched_in(hv, vcpu);
        while vcpu.is_runnable() && !hv.take_schedule_request() {
            deliver_pending(&mut cx);
            // Delivery crashes a guest that has no stack for it.
            if !vcpu.is_runnable() {
                break;
            }
            let exit = hv.machine.enter_guest(&mut cx.state.context);
            handle_exit(&mut cx, exit);
        }
        sched::switched_out(hv, vcpu);
        switch_out(hv, cx.state);
    }
    vcpu.running.store(false, Ordering::SeqCst);
}

/// Puts a vCPU's state into the CPU; `false` where it has no root to run on.
fn switch_in(cx: &mut Current<'_>) -> bool {
    let machine = cx.machine();
    let Some(root) = cx.state.root() else {
        traps::crash(cx, format_args!("no page table for its mode"));
        return false;
    };
    machine.load_root(root);
    descriptor::load(machine, cx.state);
    machine.load_fpu(&cx.state.fpu);
    machine.set_task_switched(cx.state.task_switched);
    machine.set_control_bits(cx.state.cr4);
    msr::load(cx);
    machine.load_debug_registers(&cx.state.debug);
    let segments = cx.state.segments;
    if machine.load_segments(&segments).is_err() {
        traps::failsafe(cx);
    }
    true
}

/// Takes a vCPU's state out of the CPU. Its root stays loaded until another is, or it is destroyed.
fn switch_out(hv: &Hypervisor, state: &mut VcpuState) {
    state.segments = hv.machine.store_segments();
    hv.machine.set_task_switched(false);
    hv.machine.save_fpu(&mut state.fpu);
}

/// Makes the guest see what waits for it: an NMI, and its event callback where the NMI's handler does not mask it.
fn deliver_pending(cx: &mut Current<'_>) {
    if traps::nmi_due(cx) {
        traps::enter_nmi(cx);
    }
    if event::upcall_due(cx.hv, cx.vcpu) {
        traps::enter_upcall(cx);
    }
}

fn handle_exit(cx: &mut Current<'_>, exit: Exit) {
    match exit {
        Exit::Syscall if cx.state.kernel_mode => hypercall::enter(cx),
        Exit::Syscall => traps::enter_syscall(cx),
        Exit::Syscall32 => traps::enter_syscall32(cx),
        Exit::Sysenter => traps::enter_sysenter(cx),
        Exit::Exception {
            vector,
            error_code,
            fault_address,
        } => {
            traps::handle_exception(cx, vector, error_code, fault_address);
        }
        Exit::LdtFault { offset, error_code } => traps::handle_ldt_fault(cx, offset, error_code),
        Exit::BadFrame { vector, error_code } => traps::handle_bad_frame(cx, vector, error_code),
        Exit::Interrupt(irq) => handle_interrupt(cx.hv, irq),
    }
}

fn handle_interrupt(hv: &Hypervisor, irq: Irq) {
    match irq {
        Irq::Timer => time::run_expired(hv),
        Irq::Console => hv.console_interrupt(),
        Irq::Gsi(gsi) => event::send_pirq(hv, gsi),
        Irq::Ipi | Irq::Spurious | Irq::Message(_) => {}
        Irq::Nmi => hv.log(
            LogLevel::Warning,
            format_args!("NMI without a known reason"),
        ),
    }
}
