//! The executor of this vCPU: spawning tasks, running them, and going to sleep when there is
//! nothing to do.

use spin::Once;

use crate::executor::{Executor, JoinHandle};
use crate::power::{self, Reason};
use crate::{console, cpu, hypercall};

struct Local(Executor);

// SAFETY: there is one vCPU and no thread on it but the one that runs the executor. An upcall is no
// second thread: it runs to its end before that one goes on, and what it does to tasks goes through
// wakers, which are `Send`.
unsafe impl Send for Local {}
// SAFETY: as above.
unsafe impl Sync for Local {}

static EXECUTOR: Once<Local> = Once::new();

pub(crate) fn init() {
    EXECUTOR.call_once(|| Local(Executor::new()));
}

fn executor() -> &'static Executor {
    &EXECUTOR.get().expect("the executor exists before main").0
}

/// Starts a task.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    executor().spawn(future)
}

/// Runs the guest: `main` and all that it spawns. When `main` is done, the domain powers off.
pub fn run(main: impl Future<Output = ()> + 'static) -> ! {
    let executor = executor();
    let main = executor.spawn(main);
    while !main.is_finished() {
        if executor.run_ready() == 0 {
            idle(executor);
        }
    }
    console::flush();
    power::shutdown(Reason::PowerOff)
}

/// Waits for an event, unless a task is ready.
fn idle(executor: &Executor) {
    cpu::disable_upcalls();
    // With upcalls masked no waker can run, so what is true here is still true when the vCPU
    // blocks. Blocking unmasks upcalls in the same step, and an event that is pending by then ends
    // it at once.
    if executor.is_idle() {
        hypercall::sched::block();
    }
    cpu::enable_upcalls();
}
