//! The backend of a network device.
//!
//! A turn takes a bounded number of frames that the frontend sends, of all its queues, copies those of a queue by
//! grant in one batch, and hands them out; and it passes on as many of those that wait for the frontend as there are
//! pages for, in one batch of a queue, too. Nothing of the frontend's stays in use between turns, so a guest that goes away takes
//! nothing along, and one that takes nothing has but a bounded queue.
//!
//! A frame that is wrong in itself is answered with an error and dropped. What no frontend does by mistake
//! is a [`Violation`], and the end of the connection.

use alloc::vec::Vec;

use super::credit::Rate;
use super::sources::Sources;
use super::{Counters, Features, Frame, Mac, Violation, flow};
use crate::SharedMemory;
use crate::grants::Grants;

mod interface;
mod queue;
mod transmit;
use interface::Interface;
use queue::{Done, Queue};

/// Frames that wait for a frontend at most, and their bytes, in all its queues. Each has the same share, so that one
/// which is not served takes no room from the others.
const MAX_WAITING: usize = 512;
const MAX_WAITING_BYTES: usize = 1024 * 1024;

/// What a frontend may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The only Ethernet address that it may send from, if it is held to one.
    pub source: Option<Mac>,
    /// The IP addresses that it may send from, if it is held to some.
    pub addresses: Option<Sources>,
    /// How much it may send.
    pub rate: Option<Rate>,
}

/// What a [turn](Back::turn) leaves to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Queues whose frontend is to be notified of what it has sent.
    pub notify_tx: Vec<usize>,
    /// Queues whose frontend is to be notified of what it receives.
    pub notify_rx: Vec<usize>,
    /// There is more to do at once.
    pub more: bool,
    /// There was no buffer: to be called again when there may be.
    pub starved: bool,
    /// When the frontend may send again, in nanoseconds.
    pub wake_at: Option<u64>,
}

/// The backend.
#[derive(Debug)]
pub struct Back<R> {
    /// None when the connection has ended.
    queues: Vec<Queue<R>>,
    /// Which is served first.
    first: usize,
    interface: Interface,
}

impl<R: SharedMemory> Back<R> {
    /// Takes up the rings of a frontend that takes what `features` say, by queue: what it sends, what it receives.
    ///
    /// # Errors
    ///
    /// If a ring makes no sense.
    ///
    /// # Panics
    ///
    /// If a ring is smaller than a page.
    pub fn attach(
        rings: Vec<(R, R)>,
        features: Features,
        policy: Policy,
        now: u64,
    ) -> Result<Self, Violation> {
        let queues = rings.into_iter().map(|(tx, rx)| Queue::attach(tx, rx));
        Ok(Self {
            queues: queues.collect::<Result<_, _>>()?,
            first: 0,
            interface: Interface::new(features, policy, now),
        })
    }

    /// What the frontend has sent so far.
    pub fn sent(&self) -> Counters {
        self.interface.sent
    }

    /// What the frontend was given so far.
    pub fn received(&self) -> Counters {
        self.interface.received
    }

    /// Whether something waits for the frontend.
    pub fn has_queued(&self) -> bool {
        self.queues.iter().any(Queue::has_waiting)
    }

    /// Lets go of everything that is the frontend's.
    pub fn close(&mut self) {
        self.queues.clear();
    }

    /// Queues a frame for the frontend, in a form that it takes, or drops it.
    pub fn deliver(&mut self, frame: Frame) {
        let count = self.queues.len();
        // Its segments are of the same flow.
        let nth = flow::queue(&frame.bytes, count);
        let Some(queue) = self.queues.get_mut(nth) else {
            return;
        };
        if !self.interface.wants(&frame) {
            return;
        }
        let most = (MAX_WAITING / count, MAX_WAITING_BYTES / count);
        for frame in self.interface.fit(frame) {
            if !queue.push(frame, most) {
                self.interface.received.count_dropped();
            }
        }
    }

    /// Takes at most `budget` frames that the frontend sends, which go to `out`, and gives it what waits for
    /// it.
    ///
    /// # Errors
    ///
    /// If the frontend breaks the protocol. Its rings are let go of.
    pub fn turn<G: Grants>(
        &mut self,
        grants: &mut G,
        now: u64,
        mut budget: usize,
        out: &mut Vec<Frame>,
    ) -> Result<Turn, Violation> {
        let mut turn = Turn::default();
        // Should there be an error, they are dropped.
        let mut queues = core::mem::take(&mut self.queues);
        let count = queues.len();
        // Whoever is served first may leave no budget for the others.
        let first = self.first;
        let mut last = first;
        for nth in (0..count).map(|nth| (first + nth) % count) {
            let Some(queue) = queues.get_mut(nth) else {
                break;
            };
            // While one waits for credit, the others do not take it away.
            let tx = match turn.wake_at {
                None => queue.transmit(&mut self.interface, grants, now, budget, out)?,
                Some(_) => Done::default(),
            };
            if tx.wake_at.is_some() {
                turn.wake_at = tx.wake_at;
                // It keeps its place until it has had some.
                last = if tx.taken == 0 { nth + count - 1 } else { nth };
            }
            budget -= tx.taken;
            let rx = queue.receive(&mut self.interface, grants)?;
            for (notify, list) in [
                (tx.notify, &mut turn.notify_tx),
                (rx.notify, &mut turn.notify_rx),
            ] {
                if notify {
                    list.push(nth);
                }
            }
            turn.more |= tx.more || rx.more;
            turn.starved |= tx.starved || rx.starved;
        }
        self.queues = queues;
        self.first = (last + 1).checked_rem(count).unwrap_or(0);
        Ok(turn)
    }
}
