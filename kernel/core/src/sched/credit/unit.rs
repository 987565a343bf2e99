//! [`Unit`] and [`Cpu`]: what is scheduled, and where.

use alloc::collections::VecDeque;

use hypercall_abi::types::Domid;

use crate::sched::UnitId;

/// Who goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// In debt.
    Over,
    /// In credit.
    Under,
    /// In credit, and woken a moment ago.
    Boost,
}

/// All of them, the first first.
pub const PRIORITIES: [Priority; 3] = [Priority::Boost, Priority::Under, Priority::Over];

/// Where a unit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In no queue: not runnable, or parked.
    Out,
    /// In the queue of its priority on its processor.
    Queued,
    /// Its processor runs it.
    Running,
}

/// Something that is scheduled.
pub struct Unit<T> {
    /// What it is to others.
    pub payload: T,
    /// Whose it is.
    pub domain: Domid,
    /// Processors that it may use, bit n for processor n.
    pub affinity: u64,
    /// Processors that it had better use, allowed or not.
    pub soft: u64,
    /// Processors that it may use and had better use; all that it may use where there is none.
    pub liked: u64,
    /// The processor that it runs on, or waits for, or ran on last.
    pub cpu: usize,
    /// Nanoseconds; a debt where negative.
    pub credit: i64,
    /// When it is its turn.
    pub priority: Priority,
    /// How much longer it may run until it is boosted no more, in nanoseconds.
    pub boost: u64,
    /// Where it is.
    pub place: Place,
    /// Runnable.
    pub awake: bool,
    /// Wanted to run since credit was last handed out.
    pub active: bool,
    /// Held back because its domain's cap is reached.
    pub parked: bool,
}

impl<T> Unit<T> {
    /// Finds out which processors it likes, after either set has changed.
    pub fn prefer(&mut self) {
        let both = self.affinity & self.soft;
        self.liked = if both == 0 { self.affinity } else { both };
    }

    /// Whether it wants to run, or has since credit was last handed out.
    pub fn wants(&self) -> bool {
        self.awake || self.active
    }
}

/// A processor.
#[derive(Default)]
pub struct Cpu {
    /// Who waits, by priority.
    pub queues: [VecDeque<UnitId>; 3],
    /// Who runs.
    pub running: Option<UnitId>,
    /// When the running unit's slice began.
    pub since: u64,
    /// Up to when the running unit has paid.
    pub charged: u64,
    /// The running unit lets others go first.
    pub yielded: bool,
}

impl Cpu {
    /// The highest priority that waits.
    pub fn waiting(&self) -> Option<Priority> {
        PRIORITIES
            .into_iter()
            .find(|&priority| !self.queues[priority as usize].is_empty())
    }
}
