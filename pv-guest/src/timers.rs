//! The queue of sleepers: who is to be woken when, earliest first.

use alloc::collections::BTreeMap;
use core::task::Waker;

/// Names an entry of a [`TimerQueue`]. Entries of one deadline are told apart, and ordered, by the
/// second number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TimerId {
    deadline: u64,
    sequence: u64,
}

/// Sleepers by deadline, in nanoseconds of system time.
#[derive(Debug, Default)]
pub struct TimerQueue {
    sleepers: BTreeMap<TimerId, Waker>,
    sequence: u64,
}

impl TimerQueue {
    /// An empty queue.
    pub const fn new() -> Self {
        Self {
            sleepers: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Has `waker` woken at `deadline`.
    pub fn insert(&mut self, deadline: u64, waker: Waker) -> TimerId {
        let id = TimerId {
            deadline,
            sequence: self.sequence,
        };
        self.sequence += 1;
        self.sleepers.insert(id, waker);
        id
    }

    /// Replaces the waker of an entry that is still there.
    pub fn update(&mut self, id: TimerId, waker: &Waker) {
        if let Some(sleeper) = self.sleepers.get_mut(&id) {
            sleeper.clone_from(waker);
        }
    }

    /// Takes an entry out; nothing happens if it was due already.
    pub fn remove(&mut self, id: TimerId) {
        self.sleepers.remove(&id);
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<u64> {
        self.sleepers.first_key_value().map(|(id, _)| id.deadline)
    }

    /// Takes out the earliest entry that is due at `now`.
    pub fn pop_due(&mut self, now: u64) -> Option<Waker> {
        let entry = self.sleepers.first_entry()?;
        (entry.key().deadline <= now).then(|| entry.remove())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn counting() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (count.clone(), count.into())
    }

    #[test]
    fn sleepers_come_out_by_deadline_and_not_before() {
        let mut queue = TimerQueue::new();
        let (late, late_waker) = counting();
        let (early, early_waker) = counting();
        queue.insert(20, late_waker);
        queue.insert(10, early_waker);
        assert_eq!(queue.next_deadline(), Some(10));
        assert!(queue.pop_due(9).is_none());
        queue.pop_due(10).unwrap().wake();
        assert!(queue.pop_due(19).is_none());
        assert_eq!(
            (
                early.0.load(Ordering::Relaxed),
                late.0.load(Ordering::Relaxed)
            ),
            (1, 0)
        );
        assert_eq!(queue.next_deadline(), Some(20));
    }

    #[test]
    fn sleepers_of_one_deadline_are_all_kept() {
        let mut queue = TimerQueue::new();
        let ids = [
            queue.insert(5, Waker::noop().clone()),
            queue.insert(5, Waker::noop().clone()),
        ];
        assert_ne!(ids[0], ids[1]);
        queue.remove(ids[0]);
        queue.remove(ids[0]);
        assert!(queue.pop_due(5).is_some());
        assert!(queue.pop_due(5).is_none());
    }

    #[test]
    fn an_updated_entry_wakes_the_new_waker() {
        let mut queue = TimerQueue::new();
        let (old, old_waker) = counting();
        let (new, new_waker) = counting();
        let id = queue.insert(1, old_waker);
        queue.update(id, &new_waker);
        queue.pop_due(1).unwrap().wake();
        assert_eq!(
            (old.0.load(Ordering::Relaxed), new.0.load(Ordering::Relaxed)),
            (0, 1)
        );
    }
}
