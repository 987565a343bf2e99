//! The frontend of a network device.
//!
//! What is sent is copied to pages that the backend may read, what is received out of pages that it may
//! write. The pages are used again and again; since everything is copied, the backend changes nothing
//! that was taken out, whatever it does with them at whatever time.
//!
//! What is sent goes to the queue of its [flow](super::flow); the backend chooses for itself where it puts what
//! is received.
//!
//! An answer to what was not asked, or not in its turn, is a [`Violation`], and the end of the connection, in
//! whichever queue it is.

use alloc::vec::Vec;

use super::extra::Extra;
use super::{Features, Frame, MAX_FRAME, Mac, PAGE, Violation, flow, offload};
use crate::SharedMemory;
use crate::grants::{GrantedPage, Pages};

mod queue;
use queue::Queue;

/// Why a frame is not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The ring is full: there is room when the backend has taken something.
    Full,
    /// There are no pages to grant.
    NoPages,
    /// It is longer than what the backend takes, or empty.
    BadLength,
    /// The backend does not do such a thing.
    Unsupported,
    /// The connection has ended.
    Lost,
}

/// The frontend.
#[derive(Debug)]
pub struct Front<R, P> {
    /// None once the connection has ended.
    queues: Vec<Queue<R, P>>,
    /// What the backend takes.
    features: Features,
    /// Pages to be filled at a time, in each queue.
    depth: usize,
}

impl<R: SharedMemory, P: GrantedPage> Front<R, P> {
    /// A frontend with new rings of a page each, by queue: what is sent, what is received. The backend takes
    /// what `features` say. Each queue has up to `depth` pages for frames to come.
    ///
    /// # Panics
    ///
    /// If a ring is smaller than a page.
    pub fn new(rings: Vec<(R, R)>, features: Features, depth: usize) -> Self {
        let queue = |(tx, rx)| Queue::new(tx, rx);
        Self {
            queues: rings.into_iter().map(queue).collect(),
            features,
            depth,
        }
    }

    /// What the backend takes.
    pub fn features(&self) -> &Features {
        &self.features
    }

    /// How many queues there are; none when the connection has ended.
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// Frames and parts of frames that were sent and that the backend has not answered.
    pub fn under_way(&self) -> usize {
        self.queues.iter().map(Queue::under_way).sum()
    }

    /// Whether the connection has ended.
    pub fn is_lost(&self) -> bool {
        self.queues.is_empty()
    }

    /// Whether a frame in one page is sure to have room, whatever its queue.
    pub fn has_room(&self) -> bool {
        !self.is_lost() && self.queues.iter().all(|queue| queue.room() >= 2)
    }

    /// Sends a frame, once it is [published](Self::publish).
    ///
    /// # Errors
    ///
    /// Why not; nothing is sent then.
    pub fn send<G: Pages<Page = P>>(
        &mut self,
        pages: &mut G,
        frame: &Frame,
    ) -> Result<(), Refused> {
        let nth = flow::queue(&frame.bytes, self.queues.len());
        let queue = self.queues.get_mut(nth).ok_or(Refused::Lost)?;
        let length = frame.bytes.len();
        let most = if self.features.sg { MAX_FRAME } else { PAGE };
        if length == 0 || length > most {
            return Err(Refused::BadLength);
        }
        if !offload::is_fit(frame, &self.features) {
            return Err(Refused::Unsupported);
        }
        queue.send(pages, frame)
    }

    /// Asks for a multicast group, or no more.
    ///
    /// # Errors
    ///
    /// Why not.
    pub fn group(&mut self, group: Mac, join: bool) -> Result<(), Refused> {
        let queue = self.queues.first_mut().ok_or(Refused::Lost)?;
        if !self.features.multicast {
            return Err(Refused::Unsupported);
        }
        queue.send_extra(match join {
            true => Extra::Join(group),
            false => Extra::Leave(group),
        })
    }

    /// Has pages filled, as many as there are to be, or can be had.
    pub fn fill<G: Pages<Page = P>>(&mut self, pages: &mut G) {
        for queue in &mut self.queues {
            queue.fill(pages, self.depth);
        }
    }

    /// Has the backend see what is new in a queue; whether it is to be notified, of what was sent and of pages
    /// to fill.
    pub fn publish(&mut self, queue: usize) -> (bool, bool) {
        let queue = self.queues.get_mut(queue);
        queue.map_or((false, false), Queue::publish)
    }

    /// Takes answers, and the frames that have come.
    ///
    /// # Errors
    ///
    /// If the backend breaks the protocol: nothing of it is believed any more.
    pub fn turn(&mut self) -> Result<Vec<Frame>, Violation> {
        let mut frames = Vec::new();
        let mut queues = self.queues.iter_mut();
        match queues.try_for_each(|queue| queue.turn(&mut frames)) {
            Ok(()) => Ok(frames),
            Err(violation) => {
                self.fail();
                Err(violation)
            }
        }
    }

    /// The connection has ended: nothing is sent or received any more.
    pub fn fail(&mut self) {
        self.queues.clear();
    }
}
