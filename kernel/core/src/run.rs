//! The life of a CPU: ask the scheduler, run a vCPU until it leaves, see to why it left.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hv_machine::{Exit, Irq, LogLevel, MachineRef, Platform};

use spin::Once;

use crate::current::Current;
use crate::domain::Domain;
use crate::emulate::unhook::{self, ExitHandler};
use crate::hypervisor::Hypervisor;
use crate::vcpu::{Vcpu, VcpuState};
use crate::{descriptor, dom0, event, hypercall, mmu, msr, sched, time, trace, traps};

/// Heap that hypercalls may count on until the CPU next asks the scheduler: 1 MiB.
const HEAP_SPARE: usize = 1 << 20;

/// Frames that are scrubbed between two looks for interrupts: some tens of microseconds.
const SCRUB_STEP: u64 = 16;

/// Where nobody is to run any more, a CPU looks for work for 50 us before it sleeps. Who waits for an answer often has it
/// by then; to sleep and to be woken would take longer.
const LOOKS_PER_SECOND: u64 = 20_000;

/// The hypervisor, for the CPUs that come later.
static HYPERVISOR: Once<&'static Hypervisor> = Once::new();

/// Takes over the machine from the boot code: builds the control domain and runs guests for ever.
pub fn start(machine: MachineRef) -> ! {
    let hv = *HYPERVISOR.call_once(|| Box::leak(Box::new(Hypervisor::new(machine))));
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
    hv.machine.release_cpus();
    run(hv)
}

/// Another CPU comes from the boot code, to run guests for ever.
pub fn join(_machine: MachineRef) -> ! {
    run(HYPERVISOR.wait())
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
    let end = hv.machine.tsc() + SECONDS * hv.machine.tsc_info().hz;
    while hv.machine.tsc() < end {
        core::hint::spin_loop();
    }
    hv.machine.reboot()
}

/// Runs vCPUs on this CPU for ever.
pub fn run(hv: &Hypervisor) -> ! {
    let mut next = None;
    loop {
        next = step(hv, next);
    }
}

/// One turn: runs a vCPU, the one that was picked or another, for as long as it may, or waits for an interrupt. Returns
/// who was picked to run then.
fn step(hv: &Hypervisor, picked: Option<Arc<Vcpu>>) -> Option<Arc<Vcpu>> {
    match picked.or_else(|| pick(hv)) {
        Some(vcpu) => match vcpu.domain.upgrade() {
            Some(domain) => return run_vcpu(hv, &domain, &vcpu),
            None => sched::remove(hv, &vcpu),
        },
        None if trace::tell(hv) => {}
        None => {
            let irq = spare_time(hv);
            handle_interrupt(hv, irq);
        }
    }
    None
}

fn pick(hv: &Hypervisor) -> Option<Arc<Vcpu>> {
    hv.take_schedule_request();
    // Without frames there is no more to be had: what needs heap then fails with an errno as far as it can.
    let _ = hv.reserve_heap(HEAP_SPARE);
    trace::tell(hv);
    sched::pick(hv)
}

/// Picks who runs after `vcpu`, whose state is still in the CPU. Where that is nobody, it may be `vcpu` itself that is
/// wanted next: its state stays where it is until the first interrupt.
fn pick_soon(hv: &Hypervisor, domain: &Domain, vcpu: &Vcpu) -> Option<Arc<Vcpu>> {
    pick(hv).or_else(|| {
        if !vcpu.blocked.load(Ordering::Acquire) {
            return None;
        }
        let irq = look_for_work(hv).or_else(|| {
            // A domain's other vCPUs have every CPU flush that holds the state of one, and none unhooks tables meanwhile.
            let alone = hv.machine.cpu_count() == 1 || domain.vcpu_count() == 1;
            (alone && !trace::tell(hv)).then(|| spare_time(hv))
        })?;
        handle_interrupt(hv, irq);
        pick(hv)
    })
}

/// Looks for work for a moment; what brings it, if it comes.
fn look_for_work(hv: &Hypervisor) -> Option<Irq> {
    // A CPU that is alone has only interrupts to wait for, which end its sleep as fast.
    if hv.machine.cpu_count() == 1 {
        return None;
    }
    hv.look_for_request(hv.machine.tsc_info().hz / LOOKS_PER_SECOND)
}

/// Uses the time that no vCPU wants: scrubs freed memory, and sleeps when there is none left.
fn spare_time(hv: &Hypervisor) -> Irq {
    while hv.memory.scrub(SCRUB_STEP) > 0 {
        if let Some(irq) = hv.machine.poll() {
            return irq;
        }
    }
    hv.machine.idle()
}

/// Runs a vCPU until another is to run, or none; returns who.
#[inline(never)]
fn run_vcpu(hv: &Hypervisor, domain: &Arc<Domain>, vcpu: &Arc<Vcpu>) -> Option<Arc<Vcpu>> {
    // Where it ran last, its state may be in the CPU still.
    if let Some(cpu) = vcpu.runs_on() {
        hv.request_schedule(cpu);
    }
    let mut state = vcpu.state.lock();
    if !vcpu.is_runnable() || !state.initialised {
        sched::sleep(hv, vcpu);
        return None;
    }
    let mut cx = Current::new(hv, domain, vcpu, &mut state);
    sched::switching_in(hv, vcpu);
    domain.unhooking.wait(hv);
    let mut next = None;
    if switch_in(&mut cx) {
        loop {
            sched::switched_in(hv, vcpu);
            run_guest(&mut cx);
            sched::switched_out(hv, vcpu);
            next = pick_soon(hv, domain, vcpu);
            let goes_on = next.as_ref().is_some_and(|next| Arc::ptr_eq(next, vcpu));
            if !goes_on || !vcpu.is_runnable() {
                break;
            }
        }
        switch_out(hv, cx.state);
    }
    vcpu.running.store(false, Ordering::SeqCst);
    next
}

/// What there is to do before a guest is entered.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Enter,
    LookAgain,
    Leave,
}

/// Enters the guest and sees to why it left, again and again, until the scheduler is to be asked.
#[inline(never)]
fn run_guest(cx: &mut Current<'_>) {
    loop {
        if is_disturbed(cx) {
            match see_to(cx) {
                Next::Enter => {}
                Next::LookAgain => continue,
                Next::Leave => return,
            }
        }
        if event::upcall_due(cx.hv, cx.vcpu) {
            traps::enter_upcall(cx);
            // Delivery crashes a guest that has no stack for it.
            if !cx.vcpu.is_runnable() {
                return;
            }
        }
        unhook::enter(cx, Handler);
    }
}

/// Whether there is anything for [`see_to`] to do. It hardly ever is, so that all is asked with one branch.
#[inline(always)]
fn is_disturbed(cx: &Current<'_>) -> bool {
    let (hv, domain, vcpu) = (cx.hv, cx.domain, cx.vcpu);
    !vcpu.is_runnable()
        | vcpu.nmi_requested.load(Ordering::Acquire)
        | hv.schedule_requested()
        | !domain.owner.is_settled()
}

/// Sees to what keeps a vCPU from being entered just so.
#[cold]
#[inline(never)]
fn see_to(cx: &mut Current<'_>) -> Next {
    if !cx.vcpu.is_runnable() || cx.hv.take_schedule_request() {
        return Next::Leave;
    }
    if !settle(cx) {
        return Next::LookAgain;
    }
    if traps::nmi_due(cx) {
        traps::enter_nmi(cx);
        if !cx.vcpu.is_runnable() {
            return Next::Leave;
        }
    }
    Next::Enter
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

/// Takes a vCPU's state out of the CPU. Its root stays loaded until another is, or its tables change their use.
fn switch_out(hv: &Hypervisor, state: &mut VcpuState) {
    hv.machine.leave_root();
    state.segments = hv.machine.store_segments();
    hv.machine.set_task_switched(false);
    hv.machine.save_fpu(&mut state.fpu);
}

/// Takes apart the page tables that the guest let go of, before it goes on; `false` where there are more, and the
/// scheduler is to be asked in between.
fn settle(cx: &mut Current<'_>) -> bool {
    if cx.domain.owner.is_settled() {
        return true;
    }
    hypercall::start_clock(cx);
    if mmu::settle(cx, cx.domain.id) {
        return true;
    }
    while let Some(irq) = cx.machine().poll() {
        handle_interrupt(cx.hv, irq);
    }
    false
}

/// Sees to why a guest left.
struct Handler;

impl ExitHandler for Handler {
    #[inline(always)]
    fn handle(self, cx: &mut Current<'_>, exit: Exit) {
        match exit {
            Exit::Syscall if cx.state.kernel_mode => hypercall::enter(cx),
            Exit::Syscall => traps::enter_syscall(cx),
            Exit::Syscall32 => traps::enter_syscall32(cx),
            Exit::Sysenter => traps::enter_sysenter(cx),
            Exit::Exception {
                vector,
                error_code,
                fault_address,
            } => traps::handle_exception(cx, vector, error_code, fault_address),
            Exit::LdtFault { offset, error_code } => {
                traps::handle_ldt_fault(cx, offset, error_code);
            }
            Exit::BadFrame { vector, error_code } => {
                traps::handle_bad_frame(cx, vector, error_code);
            }
            Exit::Interrupt(irq) => handle_interrupt(cx.hv, irq),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    use hv_machine::sim::{self, Machine};
    use hv_machine::{GuestContext, MachineRef};
    use hypercall_abi::sched::{SCHEDOP_BLOCK, SCHEDOP_SHUTDOWN, SHUTDOWN_REBOOT, SchedShutdown};
    use hypercall_abi::version::XENVER_PAGESIZE;
    use hypercall_abi::xen::{HYPERVISOR_SCHED_OP, HYPERVISOR_XEN_VERSION, VIRQ_TIMER};

    use crate::lifecycle;
    use crate::memory::{Level, Pte};
    use crate::testing::{BUDGET, DOM0, DOMU, Host, RW, SCRATCH};

    /// A host on which only [`DOMU`] may run.
    fn host() -> Host {
        let host = Host::new();
        lifecycle::toolstack_pause(&host.hv, &host.domain(DOM0));
        host
    }

    /// The guest's registers as it makes a hypercall.
    fn call(number: u32, args: [u64; 2]) -> Option<GuestContext> {
        let mut context = GuestContext::default();
        context.regs.rax = u64::from(number);
        context.regs.rip = 0x1002;
        context.regs.rsp = SCRATCH + 0x8000;
        [context.regs.rdi, context.regs.rsi] = args;
        Some(context)
    }

    /// The hypercall that ends the domain, and with it the turn.
    fn shutdown(host: &Host) -> Option<GuestContext> {
        let argument = host.put(
            DOMU,
            &SchedShutdown {
                reason: SHUTDOWN_REBOOT,
            },
        );
        call(HYPERVISOR_SCHED_OP, [u64::from(SCHEDOP_SHUTDOWN), argument])
    }

    #[test]
    fn a_guest_goes_on_behind_its_hypercall_until_it_shuts_down() {
        let host = host();
        let machine = &host.hv.machine;
        machine.script(
            Exit::Syscall,
            call(HYPERVISOR_XEN_VERSION, [u64::from(XENVER_PAGESIZE), 0]),
        );
        machine.script(Exit::Syscall, shutdown(&host));
        step(&host.hv, None);
        let entered = machine.take_entered();
        assert_eq!(entered.len(), 2);
        assert_eq!((entered[1].regs.rax, entered[1].regs.rip), (4096, 0x1002));
        assert_eq!(
            host.domain(DOMU).life.lock().shutdown,
            Some(SHUTDOWN_REBOOT)
        );
        assert!(!host.vcpu(DOMU).running.load(Ordering::SeqCst));
    }

    #[test]
    fn a_pending_event_is_delivered_before_the_guest_is_entered() {
        let host = host();
        let machine = &host.hv.machine;
        host.as_guest(DOMU, |cx| {
            cx.state.callbacks.event = 0x5000;
            cx.state.context.regs.rsp = SCRATCH + 0x8000;
            cx.state.context.regs.rip = 0x1000;
        });
        event::bind_virq(&host.domain(DOMU), VIRQ_TIMER, 0).expect("a port");
        event::send_vcpu_virq(&host.hv, &host.vcpu(DOMU), VIRQ_TIMER);
        machine.script(Exit::Syscall, shutdown(&host));
        step(&host.hv, None);
        let entered = machine.take_entered();
        assert_eq!(entered[0].regs.rip, 0x5000);
        assert!(entered[0].regs.rsp < SCRATCH + 0x8000);
        assert_eq!(host.domain(DOMU).upcalls(), 1);
        assert_eq!(host.domain(DOM0).upcalls(), 0);
    }

    #[test]
    fn a_guest_goes_on_only_when_the_tables_that_it_let_go_of_are_taken_apart() {
        let host = host();
        let (hv, domain) = (&host.hv, host.domain(DOMU));
        let [.., l1] = host.layout(DOMU).tables;
        let l2 = hv.memory.allocate(&domain.owner, 0, u64::MAX);
        let l2 = l2.expect("a frame");
        for index in 0..8 {
            let entry = Pte::new(l1, RW).0;
            hv.machine.store_u64(l2, index, entry);
        }
        let pin = hv.memory.pin(l2, DOMU, Level::L2, &mut || false);
        assert_eq!(pin, Ok(()));
        assert!(hv.memory.unpin(l2));
        assert!(!domain.owner.is_settled());
        // Its time is up before that is done, and an interrupt waits.
        hv.machine.set_tsc_step(BUDGET / 2);
        hv.machine.type_input(b"xy");
        hv.machine.script(Exit::Interrupt(Irq::Console), None);
        hv.machine.script(Exit::Syscall, shutdown(&host));
        step(hv, None);
        assert!(domain.owner.is_settled());
        assert_eq!(hv.machine.take_entered().len(), 1, "after the interrupt");
        let mut typed = [0; 4];
        assert_eq!(hv.log.read_input(&mut typed), 2);
    }

    #[test]
    fn an_exception_without_a_handler_ends_the_guest_alone() {
        let host = host();
        host.hv.machine.script(
            Exit::Exception {
                vector: 6,
                error_code: 0,
                fault_address: 0,
            },
            None,
        );
        step(&host.hv, None);
        assert_eq!(
            host.domain(DOMU).life.lock().shutdown,
            Some(hypercall_abi::sched::SHUTDOWN_CRASH)
        );
        assert_eq!(host.domain(DOM0).life.lock().shutdown, None);
    }

    #[test]
    fn freed_memory_is_scrubbed_in_spare_time() {
        let host = host();
        lifecycle::toolstack_pause(&host.hv, &host.domain(DOMU));
        let (hv, mfn) = (&host.hv, host.layout(DOMU).scratch[9]);
        host.put_at(DOMU, SCRATCH + 9 * 4096, &0x5ec2e7_u64);
        assert!(lifecycle::destroy(hv, &host.domain(DOMU), &mut || false));
        assert!(hv.memory.dirty_frames() > 60);
        let free = hv.memory.free_frames();
        host.hv.machine.script(Exit::Interrupt(Irq::Spurious), None);
        while hv.memory.dirty_frames() > 0 {
            host.hv.machine.script(Exit::Interrupt(Irq::Spurious), None);
            step(hv, None);
        }
        assert_eq!(hv.machine.load_u64(mfn, 0), 0);
        assert_eq!(hv.memory.free_frames(), free);
    }

    #[test]
    fn a_vcpu_that_is_woken_at_once_goes_on_without_an_interrupt_and_without_being_loaded_anew() {
        let machine = MachineRef::new(Machine::with_cpus(4096, 2));
        let host: &Host = Box::leak(Box::new(Host::with_machine(machine)));
        lifecycle::toolstack_pause(&host.hv, &host.domain(DOM0));
        host.as_guest(DOMU, |cx| cx.state.callbacks.event = 0x5000);
        let (hv, port) = (
            &host.hv,
            event::bind_ipi(&host.domain(DOMU), 0).expect("a port"),
        );
        let send = move || {
            Machine::become_cpu(1);
            event::send(hv, &host.domain(DOMU), port).expect("it is bound");
            Machine::become_cpu(0);
        };
        hv.machine.script(Exit::Syscall, block());
        hv.machine.script(Exit::Syscall, shutdown(host));
        hv.machine.take_interrupted();
        let flushes = hv.machine.flush_time();
        sim::on_next_wait(send);
        step(hv, None);
        assert_eq!(hv.machine.take_entered().len(), 2);
        assert_eq!(hv.machine.take_interrupted(), 0);
        assert_eq!(hv.machine.flush_time() - flushes, 1, "as it began to run");
        // Whoever does not look has to be interrupted.
        Machine::become_cpu(1);
        hv.request_schedule(0);
        Machine::become_cpu(0);
        assert_eq!(hv.machine.take_interrupted(), 1);
    }

    /// The hypercall that waits for an event.
    fn block() -> Option<GuestContext> {
        call(HYPERVISOR_SCHED_OP, [u64::from(SCHEDOP_BLOCK), 0])
    }

    #[test]
    fn a_cpu_without_work_sleeps_until_an_interrupt() {
        let host = host();
        let machine = &host.hv.machine;
        machine.script(Exit::Syscall, block());
        machine.type_input(b"x");
        machine.script(Exit::Interrupt(Irq::Console), None);
        step(&host.hv, None);
        assert!(host.vcpu(DOMU).blocked.load(Ordering::SeqCst));
        assert!(!host.vcpu(DOMU).running.load(Ordering::SeqCst));
        machine.type_input(b"y");
        machine.script(Exit::Interrupt(Irq::Console), None);
        step(&host.hv, None);
        let mut typed = [0; 4];
        assert_eq!(host.hv.log.read_input(&mut typed), 2);
    }

    #[test]
    fn a_vcpu_that_an_interrupt_wakes_goes_on_without_being_loaded_anew() {
        let host = host();
        let (hv, vcpu) = (&host.hv, host.vcpu(DOMU));
        host.as_guest(DOMU, |cx| cx.state.callbacks.event = 0x5000);
        event::bind_virq(&host.domain(DOMU), VIRQ_TIMER, 0).expect("a port");
        time::set_singleshot(hv, &vcpu, time::now(hv) + 1_000);
        hv.machine.set_tsc_step(hv.machine.tsc_info().hz / 100_000);
        hv.machine.script(Exit::Syscall, block());
        hv.machine.script(Exit::Interrupt(Irq::Timer), None);
        hv.machine.script(Exit::Syscall, shutdown(&host));
        let flushes = hv.machine.flush_time();
        step(hv, None);
        let entered = hv.machine.take_entered();
        assert_eq!(entered.len(), 2);
        assert_eq!(entered[1].regs.rip, 0x5000);
        assert_eq!(hv.machine.flush_time() - flushes, 1, "as it began to run");
    }

    #[test]
    fn a_cpu_that_sleeps_with_a_state_is_woken_for_who_wants_it() {
        let machine = MachineRef::new(Machine::with_cpus(4096, 2));
        let host = Host::with_machine(machine);
        lifecycle::toolstack_pause(&host.hv, &host.domain(DOM0));
        let (hv, vcpu) = (&host.hv, host.vcpu(DOMU));
        let shutdown = shutdown(&host);
        vcpu.blocked.store(true, Ordering::SeqCst);
        sched::sleep(hv, &vcpu);
        sched::switching_in(hv, &vcpu);
        Machine::become_cpu(1);
        hv.machine.take_interrupted();
        lifecycle::pause_vcpu(hv, &vcpu);
        assert_eq!(hv.machine.take_interrupted(), 1, "to hold it back");
        lifecycle::unpause_vcpu(hv, &vcpu);
        sched::set_affinity(hv, &vcpu, 2);
        sched::unblock(hv, &vcpu);
        hv.machine.take_interrupted();
        hv.machine.script(Exit::Syscall, shutdown);
        step(hv, None);
        assert_eq!(hv.machine.take_interrupted(), 1, "to run it elsewhere");
        assert_eq!(vcpu.seat.cpu(), 1);
        Machine::become_cpu(0);
    }
}
