//! Processes, and which of them may run.

extern crate alloc;

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use pv_guest::hypercall::Result;
use pv_guest::println;
use pv_guest::sync::Mutex;
use pv_guest::user::{Access, Exit, Fault, Space, Thread};

use super::program::{self, CHILDREN, CODE, DATA, STACK, call};

/// A process. It is where it waits: in one of the queues of [`Processes`], or with the vCPU that runs
/// it.
struct Process {
    /// 0 is the first one.
    number: u32,
    thread: Thread,
}

/// All processes that are not running.
struct Processes {
    ready: VecDeque<Process>,
    /// Children that wait for the others.
    meeting: Vec<Process>,
    /// The first process, where it waits for its children.
    waiting: Option<Process>,
    forked: u32,
    ended: u32,
    /// Children that found something wrong, or were ended by the kernel.
    wrong: u32,
    /// What the first process found wrong, once it has ended.
    result: Option<u64>,
    /// vCPUs without a process to run.
    idle: Vec<Waker>,
}

static PROCESSES: Mutex<Processes> = Mutex::new(Processes {
    ready: VecDeque::new(),
    meeting: Vec::new(),
    waiting: None,
    forked: 0,
    ended: 0,
    wrong: 0,
    result: None,
    idle: Vec::new(),
});

impl Processes {
    fn make_ready(&mut self, process: Process) {
        self.ready.push_back(process);
        self.idle.drain(..).for_each(Waker::wake);
    }

    fn end(&mut self, number: u32, found: u64) {
        if number == 0 {
            self.result = Some(found);
            self.idle.drain(..).for_each(Waker::wake);
            return;
        }
        self.ended += 1;
        self.wrong += u32::from(found != 0);
        // Those that meet would wait for ever for one that ended early.
        self.try_meet();
        if self.ended == self.forked
            && let Some(mut first) = self.waiting.take()
        {
            first.thread.registers_mut().rax = self.wrong.into();
            self.make_ready(first);
        }
    }

    /// Lets the children that met go on if they are all.
    fn try_meet(&mut self) {
        if self.meeting.len() as u32 + self.ended >= CHILDREN {
            for process in core::mem::take(&mut self.meeting) {
                self.make_ready(process);
            }
        }
    }
}

/// Starts the first process.
///
/// # Errors
///
/// Without memory.
pub fn start() -> Result<()> {
    let space = Space::new()?;
    space.map(CODE, Access::Execute)?;
    space.map(DATA, Access::Write)?;
    space.map(STACK, Access::Write)?;
    if let Err(fault) = space.load(CODE.start, program::text()) {
        panic!("the program cannot be loaded: {fault:?}");
    }
    let thread = Thread::new(space, CODE.start, STACK.end);
    let mut processes = PROCESSES.lock();
    processes.forked = 0;
    processes.ended = 0;
    processes.wrong = 0;
    processes.result = None;
    processes.make_ready(Process { number: 0, thread });
    Ok(())
}

/// What the processes of this round found wrong, if they are done.
pub fn result() -> Option<u64> {
    PROCESSES.lock().result
}

/// Runs a process until it has to stop for another, if there is one to run.
pub fn run_one() -> bool {
    let Some(process) = PROCESSES.lock().ready.pop_front() else {
        return false;
    };
    run(process);
    true
}

/// Waits until there is a process to run; or, if that is asked for, until all are done.
pub async fn work(or_done: bool) {
    poll_fn(|context| {
        let mut processes = PROCESSES.lock();
        if !processes.ready.is_empty() || or_done && processes.result.is_some() {
            return Poll::Ready(());
        }
        processes.idle.push(context.waker().clone());
        Poll::Pending
    })
    .await;
}

fn run(mut process: Process) {
    loop {
        match process.thread.run() {
            Exit::SystemCall => {}
            Exit::Event => return PROCESSES.lock().make_ready(process),
            other => {
                println!("forks: process {}: {other:x?}", process.number);
                let Process { number, thread } = process;
                drop(thread);
                return PROCESSES.lock().end(number, 1);
            }
        }
        let registers = process.thread.registers_mut();
        let (number, argument, size) = (registers.rax, registers.rdi, registers.rsi);
        registers.rax = 0;
        match number {
            call::EXIT => {
                let Process { number, thread } = process;
                // Whoever learns of the end finds the memory free.
                drop(thread);
                return PROCESSES.lock().end(number, argument);
            }
            call::YIELD => return PROCESSES.lock().make_ready(process),
            call::MEET => {
                let mut processes = PROCESSES.lock();
                processes.meeting.push(process);
                return processes.try_meet();
            }
            call::WAIT => {
                let mut processes = PROCESSES.lock();
                if processes.ended < processes.forked {
                    processes.waiting = Some(process);
                    return;
                }
                process.thread.registers_mut().rax = processes.wrong.into();
            }
            call::FORK => {
                let forked = fork(&process);
                process.thread.registers_mut().rax = forked;
            }
            call::WRITE => {
                if let Err(fault) = write(process.thread.space(), argument, size) {
                    println!("forks: cannot print what is at {argument:#x}: {fault:?}");
                    process.thread.registers_mut().rax = u64::MAX;
                }
            }
            _ => process.thread.registers_mut().rax = u64::MAX,
        }
    }
}

/// The number of the new process, or the largest value.
fn fork(process: &Process) -> u64 {
    match process.thread.fork() {
        Ok(thread) => {
            let mut processes = PROCESSES.lock();
            processes.forked += 1;
            let number = processes.forked;
            processes.make_ready(Process { number, thread });
            number.into()
        }
        Err(error) => {
            println!("forks: fork: {error}");
            u64::MAX
        }
    }
}

fn write(space: &Space, address: u64, size: u64) -> core::result::Result<(), Fault> {
    let mut text = [0; 128];
    let text = &mut text[..(size as usize).min(128)];
    space.read(address, text)?;
    pv_guest::console::write(text);
    Ok(())
}
