//! The executor of each vCPU: spawning tasks, running them, and going to sleep when there is
//! nothing to do.

use spin::Once;

use crate::executor::{Executor, JoinHandle};
use crate::power::{self, Reason};
use crate::vcpus::{self, MAX_VCPUS};
use crate::{console, cpu, hotplug, hypercall, user};

struct Local(Executor);

// SAFETY: only its own vCPU uses it, by `executor`, and there is no thread on that but the one that
// runs the executor. An upcall is no second thread: it runs to its end before that one goes on, and
// what it does to tasks goes through wakers, which are `Send`.
unsafe impl Send for Local {}
// SAFETY: as above.
unsafe impl Sync for Local {}

/// By vCPU.
static EXECUTORS: [Once<Local>; MAX_VCPUS] = [const { Once::new() }; MAX_VCPUS];

/// The executor of this vCPU.
fn executor() -> &'static Executor {
    let vcpu = vcpus::current();
    &EXECUTORS[vcpu as usize]
        .call_once(|| Local(Executor::new((vcpus::kick, vcpu))))
        .0
}

/// Starts a task on this vCPU.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    executor().spawn(future)
}

/// Runs the guest: `main` and all that it spawns. When `main` is done, the domain powers off.
pub fn run(main: impl Future<Output = ()> + 'static) -> ! {
    run_here(main);
    console::flush();
    power::shutdown(Reason::PowerOff)
}

/// Runs `main`, and all that is spawned on this vCPU, until `main` is done.
pub(crate) fn run_here(main: impl Future<Output = ()> + 'static) {
    let executor = executor();
    let main = executor.spawn(main);
    while !main.is_finished() {
        hotplug::rest();
        if executor.run_ready() == 0 {
            idle(executor);
        }
    }
}

/// Waits for an event, unless a task is ready.
fn idle(executor: &Executor) {
    // The memory of a process that ended elsewhere meanwhile is not to wait for the next one here.
    user::leave();
    cpu::disable_upcalls();
    // With upcalls masked no waker can run here, so what is true here is still true when the vCPU
    // blocks. Blocking unmasks upcalls in the same step, and an event that is pending by then ends
    // it at once; so does the one that a waker on another vCPU sends behind what it queued.
    if executor.is_idle() {
        hypercall::sched::block();
    }
    cpu::enable_upcalls();
}
