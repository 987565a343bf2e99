//! The async executor: tasks of one vCPU, polled when something woke them.
//!
//! Tasks need not be `Send`: they are polled by one vCPU only. Wakers are `Send`, and may be used
//! from an upcall or another vCPU while the executor is doing anything at all, so they touch nothing
//! but the ready queue, inside a critical section.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::rc::Rc;
use alloc::sync::Arc;
use alloc::task::Wake;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::pin::Pin;
use core::sync::atomic::{AtomicBool, Ordering};
use core::task::{Context, Poll, Waker};

use critical_section::Mutex;

/// Tasks that were woken and not polled since.
#[derive(Debug)]
struct ReadyQueue {
    tasks: Mutex<RefCell<VecDeque<u64>>>,
    kick: Kick,
}

/// Makes the vCPU of an executor look at its ready queue. Called with the number that came with it,
/// after something was added, on whatever vCPU did that.
pub type Kick = (fn(u32), u32);

impl ReadyQueue {
    fn push(&self, task: u64) {
        critical_section::with(|cs| self.tasks.borrow_ref_mut(cs).push_back(task));
        let (kick, vcpu) = self.kick;
        kick(vcpu);
    }

    fn pop(&self) -> Option<u64> {
        critical_section::with(|cs| self.tasks.borrow_ref_mut(cs).pop_front())
    }

    fn len(&self) -> usize {
        critical_section::with(|cs| self.tasks.borrow_ref(cs).len())
    }
}

/// What a task's wakers share. A task is at most once in the ready queue.
struct TaskWaker {
    task: u64,
    queued: AtomicBool,
    ready: Arc<ReadyQueue>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            self.ready.push(self.task);
        }
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()>>>,
    waker: Arc<TaskWaker>,
}

/// A set of tasks and the queue of those to poll.
pub struct Executor {
    ready: Arc<ReadyQueue>,
    /// Tasks not being polled at the moment.
    tasks: RefCell<BTreeMap<u64, Task>>,
    spawned: Cell<u64>,
}

impl Executor {
    /// An executor with no tasks, whose vCPU is told by `kick` that there is one to poll.
    pub fn new(kick: Kick) -> Self {
        let ready = ReadyQueue {
            tasks: Mutex::new(RefCell::default()),
            kick,
        };
        Self {
            ready: Arc::new(ready),
            tasks: RefCell::default(),
            spawned: Cell::new(0),
        }
    }

    /// Adds a task, which is polled from the next [`Self::run_ready`] on. Dropping the handle lets
    /// it go on by itself.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        let result = Rc::new(RefCell::new(Outcome::Running(None)));
        let handle = JoinHandle(result.clone());
        let future = Box::pin(async move {
            let value = future.await;
            if let Outcome::Running(Some(joiner)) = result.replace(Outcome::Done(value)) {
                joiner.wake();
            }
        });
        let task = self.spawned.get();
        self.spawned.set(task + 1);
        let waker = Arc::new(TaskWaker {
            task,
            queued: AtomicBool::new(true),
            ready: self.ready.clone(),
        });
        self.tasks.borrow_mut().insert(task, Task { future, waker });
        self.ready.push(task);
        handle
    }

    /// Polls each task that is ready now, once; tasks that become ready meanwhile wait for the next
    /// call. Returns how many were polled.
    pub fn run_ready(&self) -> usize {
        let mut polled = 0;
        for _ in 0..self.ready.len() {
            let Some(id) = self.ready.pop() else { break };
            // The map is not borrowed while a task runs, so that tasks can spawn tasks.
            let Some(mut task) = self.tasks.borrow_mut().remove(&id) else {
                continue;
            };
            // A full barrier: a wake that still finds it queued is seen by the poll.
            task.waker.queued.swap(false, Ordering::SeqCst);
            let waker = Waker::from(task.waker.clone());
            polled += 1;
            if task
                .future
                .as_mut()
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
            {
                self.tasks.borrow_mut().insert(id, task);
            }
        }
        polled
    }

    /// Whether no task is ready. Only inside a critical section does the answer keep until it is
    /// used.
    pub fn is_idle(&self) -> bool {
        self.ready.len() == 0
    }

    /// Whether every task has ended.
    pub fn is_empty(&self) -> bool {
        self.tasks.borrow().is_empty()
    }
}

impl fmt::Debug for Executor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Executor")
            .field("spawned", &self.spawned.get())
            .field("ready", &self.ready.len())
            .finish_non_exhaustive()
    }
}

enum Outcome<T> {
    Running(Option<Waker>),
    Done(T),
    Taken,
}

/// Waits for a task's result. It never becomes ready a second time.
#[must_use = "a handle that is dropped detaches its task"]
pub struct JoinHandle<T>(Rc<RefCell<Outcome<T>>>);

impl<T> JoinHandle<T> {
    /// Whether the task has ended.
    pub fn is_finished(&self) -> bool {
        !matches!(*self.0.borrow(), Outcome::Running(_))
    }

    /// Lets the task go on by itself.
    pub fn detach(self) {}
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut outcome = self.0.borrow_mut();
        match core::mem::replace(&mut *outcome, Outcome::Taken) {
            Outcome::Done(value) => Poll::Ready(value),
            Outcome::Running(_) => {
                *outcome = Outcome::Running(Some(context.waker().clone()));
                Poll::Pending
            }
            Outcome::Taken => Poll::Pending,
        }
    }
}

impl<T> fmt::Debug for JoinHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinHandle")
            .field("finished", &self.is_finished())
            .finish()
    }
}

/// Lets every other ready task run once.
pub async fn yield_now() {
    let mut yielded = false;
    core::future::poll_fn(|context| {
        if core::mem::replace(&mut yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::future::poll_fn;

    fn drain(executor: &Executor) {
        while executor.run_ready() != 0 {}
    }

    #[test]
    fn a_task_is_polled_only_when_it_was_woken() {
        let executor = Executor::new((|_| (), 0));
        let polls = Rc::new(Cell::new(0));
        let kept = Rc::new(RefCell::new(None));
        let (task_polls, task_kept) = (polls.clone(), kept.clone());
        executor
            .spawn(poll_fn(move |context| {
                task_polls.set(task_polls.get() + 1);
                *task_kept.borrow_mut() = Some(context.waker().clone());
                if task_polls.get() < 3 {
                    Poll::Pending
                } else {
                    Poll::Ready(())
                }
            }))
            .detach();
        drain(&executor);
        assert_eq!(polls.get(), 1);
        assert!(executor.is_idle());
        let waker = kept.borrow().clone().unwrap();
        waker.wake_by_ref();
        waker.wake_by_ref();
        assert!(!executor.is_idle());
        drain(&executor);
        assert_eq!(polls.get(), 2, "two wakes before a poll are one");
        waker.wake_by_ref();
        drain(&executor);
        assert!(executor.is_empty());
        waker.wake();
        assert_eq!(
            executor.run_ready(),
            0,
            "waking an ended task polls nothing"
        );
    }

    #[test]
    fn a_task_that_wakes_itself_does_not_starve_the_others() {
        let executor = Executor::new((|_| (), 0));
        let log = Rc::new(RefCell::new(Vec::new()));
        for name in ["a", "b"] {
            let log = log.clone();
            executor
                .spawn(async move {
                    for _ in 0..2 {
                        log.borrow_mut().push(name);
                        yield_now().await;
                    }
                })
                .detach();
        }
        assert_eq!(executor.run_ready(), 2);
        drain(&executor);
        assert_eq!(*log.borrow(), ["a", "b", "a", "b"]);
    }

    #[test]
    fn a_handle_gives_the_result_whether_awaited_before_or_after_the_end() {
        let executor = Rc::new(Executor::new((|_| (), 0)));
        let inner = executor.clone();
        let outer = executor.spawn(async move {
            let child = inner.spawn(async {
                yield_now().await;
                20
            });
            let early = inner.spawn(async { 1 });
            let sum = child.await;
            sum + early.await
        });
        drain(&executor);
        assert!(outer.is_finished());
        let got = executor.spawn(async move { assert_eq!(outer.await, 21) });
        drain(&executor);
        assert!(got.is_finished());
    }

    #[test]
    fn the_vcpu_of_an_executor_is_kicked_for_each_task_that_becomes_ready() {
        static KICKS: Mutex<RefCell<Vec<u32>>> = Mutex::new(RefCell::new(Vec::new()));
        fn kick(vcpu: u32) {
            critical_section::with(|cs| KICKS.borrow_ref_mut(cs).push(vcpu));
        }
        let executor = Executor::new((kick, 3));
        executor.spawn(yield_now()).detach();
        drain(&executor);
        let kicks = critical_section::with(|cs| KICKS.take(cs));
        assert_eq!(
            kicks,
            [3, 3],
            "when it is spawned, and when it wakes itself"
        );
    }

    #[test]
    fn a_wake_from_another_thread_is_seen() {
        let executor = Executor::new((|_| (), 0));
        let fired = Arc::new(AtomicBool::new(false));
        let (wakers, receiver) = std::sync::mpsc::channel::<Waker>();
        let task_fired = fired.clone();
        let handle = executor.spawn(poll_fn(move |context| {
            if task_fired.load(Ordering::Acquire) {
                return Poll::Ready(());
            }
            wakers.send(context.waker().clone()).unwrap();
            Poll::Pending
        }));
        drain(&executor);
        std::thread::spawn(move || {
            fired.store(true, Ordering::Release);
            receiver.recv().unwrap().wake();
        })
        .join()
        .unwrap();
        drain(&executor);
        assert!(handle.is_finished());
    }
}
