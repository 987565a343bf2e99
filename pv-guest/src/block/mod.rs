//! Disks that another domain serves: the frontend of [`split_drivers::block`], with the store, grants and
//! event channels of this domain.
//!
//! A [`Disk`] lasts as long as its domain. The device behind it may be taken away and come back: what is
//! under way then is [`Error::Lost`] or answered, what is asked meanwhile is [`Error::NotConnected`], and
//! [`Disk::ready`] waits until it is there.

mod driver;

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use core::future::poll_fn;
use core::task::{Poll, Waker};

pub use split_drivers::block::Device;
use split_drivers::block::SECTOR;
use split_drivers::block::front::{Failure, Front, Refused, Request, RequestId};

use crate::events::EventChannel;
use crate::frontend::{GuestPage, Ring, Source};
use crate::spawn;
use crate::store::Store;

/// How a disk is to be connected, as far as its backend offers it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Rings.
    pub queues: u32,
    /// Pages of a ring, as a power of two.
    pub ring_order: u32,
    /// Whether granted pages are used again.
    pub persistent: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            queues: 1,
            ring_order: 0,
            persistent: true,
        }
    }
}

/// Why something was not read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// There is no connection at the moment.
    NotConnected,
    /// The connection ended before there was an answer: whether it was done is not known.
    Lost,
    /// The backend has failed to do it.
    Failed,
    /// The disk does not do such a thing.
    Unsupported,
    /// The disk can only be read.
    ReadOnly,
    /// It is not within the disk, or not in whole sectors of it.
    BadRange,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotConnected => "the disk is not connected",
            Self::Lost => "the connection to the disk has ended meanwhile",
            Self::Failed => "the disk has failed",
            Self::Unsupported => "the disk does no such thing",
            Self::ReadOnly => "the disk is read-only",
            Self::BadRange => "it is not within the disk",
        })
    }
}

impl core::error::Error for Error {}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Failed => Self::Failed,
            Failure::Unsupported => Self::Unsupported,
            Failure::Lost => Self::Lost,
        }
    }
}

/// A connection to the backend.
struct Link {
    front: Front<Ring, GuestPage>,
    source: Source,
    /// Of each queue.
    channels: Vec<EventChannel>,
    /// Which of all the disk's connections this is.
    number: u64,
}

#[derive(Default)]
struct State {
    link: Option<Link>,
    /// Whether requests are taken.
    ready: bool,
    connections: u64,
    next_queue: usize,
    /// Of requests under way.
    waiting: BTreeMap<RequestId, Waker>,
    /// Of those who wait for room or for a connection.
    others: Vec<Waker>,
}

impl State {
    /// Takes responses; false if the backend breaks the protocol.
    fn turn(&mut self) -> bool {
        let Some(link) = &mut self.link else {
            return true;
        };
        match link.front.turn() {
            Ok(ended) => {
                if !ended.is_empty() {
                    self.wake(&ended);
                }
                true
            }
            Err(violation) => {
                crate::println!("block: the backend breaks the protocol: {violation}");
                self.lose();
                false
            }
        }
    }

    fn wake(&mut self, ended: &[RequestId]) {
        for id in ended {
            if let Some(waker) = self.waiting.remove(id) {
                waker.wake();
            }
        }
        self.wake_others();
    }

    fn wake_others(&mut self) {
        self.others.drain(..).for_each(Waker::wake);
    }

    /// The backend answers nothing any more.
    fn lose(&mut self) {
        self.ready = false;
        if let Some(link) = &mut self.link {
            let lost = link.front.fail();
            self.wake(&lost);
        }
    }

    /// Makes a request and tells the backend; the connection that it is on, and its number.
    fn submit(&mut self, request: Request<'_>) -> Result<(u64, RequestId), Option<Error>> {
        let (Some(link), true) = (&mut self.link, self.ready) else {
            return Err(Some(Error::NotConnected));
        };
        self.next_queue = (self.next_queue + 1) % link.front.queues();
        let queue = self.next_queue;
        let id = link
            .front
            .submit(&mut link.source, queue, request)
            .map_err(|refused| match refused {
                Refused::Full | Refused::NoPages => None,
                Refused::BadRange => Some(Error::BadRange),
                Refused::ReadOnly => Some(Error::ReadOnly),
                Refused::Unsupported => Some(Error::Unsupported),
            })?;
        if link.front.publish(queue) {
            // A backend that is gone is noticed by its state.
            _ = link.channels[queue].notify();
        }
        Ok((link.number, id))
    }
}

/// A disk.
#[derive(Clone)]
pub struct Disk(Rc<RefCell<State>>);

impl Disk {
    /// The disk of that name, `xvda` and so on, or of that number, whether it is there yet or not. It is
    /// served on the vCPU that asks, the boot one. `None` if no disk has such a name.
    pub fn open(store: Store, name: &str, options: Options) -> Option<Self> {
        let number = name
            .parse()
            .ok()
            .or_else(|| split_drivers::block::vdev::number(name))?;
        let disk = Self(Rc::default());
        let path = format!("device/vbd/{number}");
        spawn(driver::drive(disk.clone(), store, path, options)).detach();
        Some(disk)
    }

    /// Waits until it is connected; what it is like then.
    pub async fn ready(&self) -> Device {
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            match &state.link {
                Some(link) if state.ready => Poll::Ready(*link.front.device()),
                _ => {
                    state.others.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// Reads sectors of 512 bytes.
    pub async fn read(&self, sector: u64, bytes: &mut [u8]) -> Result<(), Error> {
        if !bytes.len().is_multiple_of(SECTOR) {
            return Err(Error::BadRange);
        }
        let mut next = sector;
        for part in bytes.chunks_mut(self.most()?) {
            let count = part.len() / SECTOR;
            let request = Request::Read {
                sector: next,
                count,
            };
            self.request(request, part).await?;
            next += count as u64;
        }
        Ok(())
    }

    /// Writes sectors of 512 bytes.
    pub async fn write(&self, sector: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut next = sector;
        for part in bytes.chunks(self.most()?) {
            let request = Request::Write {
                sector: next,
                bytes: part,
            };
            self.request(request, &mut []).await?;
            next += (part.len() / SECTOR) as u64;
        }
        Ok(())
    }

    /// Makes permanent all whose writing has ended.
    pub async fn flush(&self) -> Result<(), Error> {
        self.request(Request::Flush, &mut []).await
    }

    /// Says that sectors are not needed any more.
    pub async fn discard(&self, sector: u64, count: u64) -> Result<(), Error> {
        let request = Request::Discard {
            sector,
            count,
            secure: false,
        };
        self.request(request, &mut []).await
    }

    /// The most bytes of a request.
    fn most(&self) -> Result<usize, Error> {
        let state = self.0.borrow();
        let link = state.link.as_ref().ok_or(Error::NotConnected)?;
        Ok(link.front.max_sectors() * SECTOR)
    }

    async fn request(&self, request: Request<'_>, into: &mut [u8]) -> Result<(), Error> {
        let (link, id) = poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            match state.submit(request) {
                Ok(made) => Poll::Ready(Ok(made)),
                Err(Some(error)) => Poll::Ready(Err(error)),
                Err(None) => {
                    state.others.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await?;
        // Should nobody wait for it any more, its pages are not to stay granted.
        let _under_way = UnderWay {
            disk: self,
            link,
            id,
        };
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            let current = state.link.as_mut().filter(|it| it.number == link);
            let Some(current) = current else {
                return Poll::Ready(Err(Error::Lost));
            };
            if let Some(result) = current.front.take(id, into) {
                return Poll::Ready(result.map_err(Error::from));
            }
            state.waiting.insert(id, context.waker().clone());
            Poll::Pending
        })
        .await
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Disk").finish_non_exhaustive()
    }
}

struct UnderWay<'a> {
    disk: &'a Disk,
    link: u64,
    id: RequestId,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut state = self.disk.0.borrow_mut();
        let current = state.link.as_mut().filter(|it| it.number == self.link);
        if let Some(current) = current {
            current.front.abandon(self.id);
            state.waiting.remove(&self.id);
        }
    }
}
