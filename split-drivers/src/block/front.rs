//! The frontend of a block device.
//!
//! Data goes through pages that are granted to the backend: copied into them when a request is made, and
//! out of them when its response is taken. With persistent grants the pages are used again; else each
//! grant ends with its request. So the backend, whatever it does with the pages at whatever time, changes
//! nothing that was taken out already.
//!
//! A response that answers nothing, or not what was asked, is a [`Violation`], and the end of the
//! connection.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::fmt;

use hypercall_abi::io::blkif::*;
use zerocopy::IntoBytes;

use super::{Device, PAGE, PAGE_SECTORS, PAGE_SEGMENTS, SECTOR};
use crate::SharedMemory;
use crate::grants::{GrantedPage, Pages};
use crate::ring::{self, Overrun};

/// What is asked of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// Reads sectors.
    Read {
        /// The first.
        sector: u64,
        /// How many.
        count: usize,
    },
    /// Writes sectors.
    Write {
        /// The first.
        sector: u64,
        /// What: whole sectors.
        bytes: &'a [u8],
    },
    /// Makes permanent what was written and answered.
    Flush,
    /// Says that sectors are not needed.
    Discard {
        /// The first.
        sector: u64,
        /// How many.
        count: u64,
        /// Whether they are to become unreadable.
        secure: bool,
    },
}

/// The number of a request under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RequestId(u64);

/// Why a request is not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The ring is full: there is room when a response was taken.
    Full,
    /// There are no pages to grant.
    NoPages,
    /// No sectors, more than [`Front::max_sectors`], beyond the disk's end, or not aligned to its own
    /// sectors.
    BadRange,
    /// The disk can only be read.
    ReadOnly,
    /// The backend does not offer it.
    Unsupported,
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The backend says so.
    Failed,
    /// The backend does not do such a thing, and will not be asked again.
    Unsupported,
    /// The connection was over before there was an answer: whether it was done is not known.
    Lost,
}

/// What the backend may not do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A ring makes no sense.
    Ring(Overrun),
    /// A response to nothing that was asked on its queue.
    Unasked(u64),
    /// A response that says that it is to another operation.
    WrongOperation(u64),
}

impl From<Overrun> for Violation {
    fn from(overrun: Overrun) -> Self {
        Self::Ring(overrun)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(overrun) => overrun.fmt(f),
            Self::Unasked(id) => write!(f, "a response to request {id}, which is not under way"),
            Self::WrongOperation(id) => {
                write!(f, "a response to request {id}, as if it were another")
            }
        }
    }
}

impl core::error::Error for Violation {}

/// A request.
struct Job<P> {
    queue: usize,
    /// As responses may call it.
    operations: [u8; 2],
    /// The data.
    pages: Vec<P>,
    /// The lists of segments.
    lists: Vec<P>,
    result: Option<Result<(), Failure>>,
    /// Nobody waits for it.
    abandoned: bool,
}

/// The frontend.
pub struct Front<R, P> {
    device: Device,
    rings: Vec<ring::Front<R>>,
    /// Granted pages to use again, if they are; the last one used first.
    spare: Option<Vec<P>>,
    jobs: BTreeMap<u64, Job<P>>,
    /// Numbers are not used twice, so that no late response is taken for another.
    next: u64,
}

impl<R: SharedMemory, P: GrantedPage> Front<R, P> {
    /// Makes rings of zeroed pages. The device is as good as nothing until it is
    /// [known](Self::start); `persistent` is what the backend is told.
    ///
    /// # Panics
    ///
    /// If a ring is smaller than a page.
    pub fn new(rings: Vec<R>, persistent: bool) -> Self {
        let new = |ring| ring::Front::new(ring, BLKIF_ENTRY_SIZE);
        Self {
            device: Device {
                sectors: 0,
                sector_size: SECTOR as u32,
                physical_sector_size: SECTOR as u32,
                read_only: true,
                flush: false,
                barrier: false,
                discard: None,
                max_indirect: 0,
                persistent: false,
            },
            rings: rings.into_iter().map(new).collect(),
            spare: persistent.then(Vec::new),
            jobs: BTreeMap::new(),
            next: 0,
        }
    }

    /// The backend has connected, and says what the device is like.
    pub fn start(&mut self, device: Device) {
        self.device = device;
    }

    /// What the device is like.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// How many queues there are.
    pub fn queues(&self) -> usize {
        self.rings.len()
    }

    /// The pages of a queue's ring.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub fn ring(&self, queue: usize) -> &R {
        self.rings[queue].memory()
    }

    /// How many sectors a request may have.
    pub fn max_sectors(&self) -> usize {
        self.device.max_segments() * PAGE_SECTORS
    }

    /// Whether no request waits for its response.
    pub fn is_idle(&self) -> bool {
        self.jobs.values().all(|job| job.result.is_some())
    }

    /// Makes a request. The backend sees it when it is [published](Self::publish).
    ///
    /// # Errors
    ///
    /// Says why not; nothing has changed.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    pub fn submit(
        &mut self,
        pages: &mut impl Pages<Page = P>,
        queue: usize,
        request: Request<'_>,
    ) -> Result<RequestId, Refused> {
        if self.rings[queue].room() == 0 {
            return Err(Refused::Full);
        }
        let id = self.next;
        let job = match request {
            Request::Read { sector, count } => self.transfer(pages, queue, sector, count, None)?,
            Request::Write { sector, bytes } => {
                if !bytes.len().is_multiple_of(SECTOR) {
                    return Err(Refused::BadRange);
                }
                if self.device.read_only {
                    return Err(Refused::ReadOnly);
                }
                self.transfer(pages, queue, sector, bytes.len() / SECTOR, Some(bytes))?
            }
            Request::Flush => self.flush(queue)?,
            Request::Discard {
                sector,
                count,
                secure,
            } => self.discard(queue, sector, count, secure)?,
        };
        self.next += 1;
        self.jobs.insert(id, job);
        Ok(RequestId(id))
    }

    fn push(&mut self, queue: usize, entry: &(impl IntoBytes + zerocopy::Immutable)) {
        let pushed = self.rings[queue].push(entry);
        assert!(pushed, "there is room, as was looked at first");
    }

    fn transfer(
        &mut self,
        pages: &mut impl Pages<Page = P>,
        queue: usize,
        sector: u64,
        count: usize,
        bytes: Option<&[u8]>,
    ) -> Result<Job<P>, Refused> {
        let good =
            count > 0 && count <= self.max_sectors() && self.device.contains(sector, count as u64);
        if !good {
            return Err(Refused::BadRange);
        }
        let writes = bytes.is_some();
        let operation = match writes {
            true => BLKIF_OP_WRITE,
            false => BLKIF_OP_READ,
        };
        let segments = count.div_ceil(PAGE_SECTORS);
        let indirect = segments > BLKIF_MAX_SEGMENTS_PER_REQUEST;
        let lists = match indirect {
            true => segments.div_ceil(PAGE_SEGMENTS),
            false => 0,
        };
        let mut data = self.pages(pages, segments + lists, writes)?;
        let lists = data.split_off(segments);
        if let Some(bytes) = bytes {
            for (page, bytes) in data.iter().zip(bytes.chunks(PAGE)) {
                page.write(0, bytes);
            }
        }
        let list = data.iter().enumerate().map(|(nth, page)| {
            let rest = count - nth * PAGE_SECTORS;
            BlkifRequestSegment {
                gref: page.reference(),
                first_sect: 0,
                last_sect: (rest.min(PAGE_SECTORS) - 1) as u8,
                _pad0: 0,
            }
        });
        let id = self.next;
        if indirect {
            let list: Vec<_> = list.collect();
            for (page, part) in lists.iter().zip(list.chunks(PAGE_SEGMENTS)) {
                page.write(0, part.as_bytes());
            }
            let mut request = BlkifRequestIndirect {
                operation: BLKIF_OP_INDIRECT,
                indirect_op: operation,
                nr_segments: segments as u16,
                id,
                sector_number: sector,
                ..Default::default()
            };
            for (gref, page) in request.indirect_grefs.iter_mut().zip(&lists) {
                *gref = page.reference();
            }
            self.push(queue, &request);
        } else {
            let mut request = BlkifRequest {
                operation,
                nr_segments: segments as u8,
                id,
                sector_number: sector,
                ..Default::default()
            };
            for (place, segment) in request.seg.iter_mut().zip(list) {
                *place = segment;
            }
            self.push(queue, &request);
        }
        let other = match indirect {
            true => BLKIF_OP_INDIRECT,
            false => operation,
        };
        Ok(Job::new(queue, [operation, other], data, lists))
    }

    /// So many granted pages.
    fn pages(
        &mut self,
        pages: &mut impl Pages<Page = P>,
        count: usize,
        read_only: bool,
    ) -> Result<Vec<P>, Refused> {
        let mut got = Vec::with_capacity(count);
        while got.len() < count {
            let page = match &mut self.spare {
                // Those that are used again are for both directions.
                Some(spare) => spare.pop().or_else(|| pages.page(false)),
                None => pages.page(read_only),
            };
            match page {
                Some(page) => got.push(page),
                None => {
                    self.recycle(got);
                    return Err(Refused::NoPages);
                }
            }
        }
        Ok(got)
    }

    fn recycle(&mut self, pages: Vec<P>) {
        if let Some(spare) = &mut self.spare {
            spare.extend(pages);
        }
    }

    fn flush(&mut self, queue: usize) -> Result<Job<P>, Refused> {
        let operation = match (self.device.flush, self.device.barrier) {
            (true, _) => BLKIF_OP_FLUSH_DISKCACHE,
            (false, true) => BLKIF_OP_WRITE_BARRIER,
            (false, false) => return Err(Refused::Unsupported),
        };
        let request = BlkifRequest {
            operation,
            id: self.next,
            ..Default::default()
        };
        self.push(queue, &request);
        Ok(Job::new(queue, [operation; 2], Vec::new(), Vec::new()))
    }

    fn discard(
        &mut self,
        queue: usize,
        sector: u64,
        count: u64,
        secure: bool,
    ) -> Result<Job<P>, Refused> {
        let offered = self.device.discard.ok_or(Refused::Unsupported)?;
        if secure && !offered.secure {
            return Err(Refused::Unsupported);
        }
        if self.device.read_only {
            return Err(Refused::ReadOnly);
        }
        if count == 0 || !self.device.contains(sector, count) {
            return Err(Refused::BadRange);
        }
        let request = BlkifRequestDiscard {
            operation: BLKIF_OP_DISCARD,
            flag: if secure { BLKIF_DISCARD_SECURE } else { 0 },
            id: self.next,
            sector_number: sector,
            nr_sectors: count,
            ..Default::default()
        };
        self.push(queue, &request);
        let operations = [BLKIF_OP_DISCARD; 2];
        Ok(Job::new(queue, operations, Vec::new(), Vec::new()))
    }

    /// Has the backend see what was asked on a queue; whether it is to be notified.
    ///
    /// # Panics
    ///
    /// If there is no such queue.
    #[must_use]
    pub fn publish(&mut self, queue: usize) -> bool {
        self.rings[queue].publish()
    }

    /// Takes responses; the requests that have ended.
    ///
    /// # Errors
    ///
    /// If the backend breaks the protocol; [`Self::fail`] is to follow.
    pub fn turn(&mut self) -> Result<Vec<RequestId>, Violation> {
        let mut ended = Vec::new();
        for queue in 0..self.rings.len() {
            loop {
                let Some(response) = self.rings[queue].pop::<BlkifResponse>()? else {
                    if self.rings[queue].sleep()? {
                        continue;
                    }
                    break;
                };
                ended.extend(self.end(queue, &response)?);
            }
        }
        Ok(ended)
    }

    fn end(
        &mut self,
        queue: usize,
        response: &BlkifResponse,
    ) -> Result<Option<RequestId>, Violation> {
        let id = response.id;
        let job = match self.jobs.get_mut(&id) {
            Some(job) if job.result.is_none() && job.queue == queue => job,
            _ => return Err(Violation::Unasked(id)),
        };
        if !job.operations.contains(&response.operation) {
            return Err(Violation::WrongOperation(id));
        }
        job.result = Some(match response.status {
            BLKIF_RSP_OKAY => Ok(()),
            BLKIF_RSP_EOPNOTSUPP => Err(Failure::Unsupported),
            _ => Err(Failure::Failed),
        });
        let unsupported = response.status == BLKIF_RSP_EOPNOTSUPP;
        match job.operations[0] {
            BLKIF_OP_FLUSH_DISKCACHE if unsupported => self.device.flush = false,
            BLKIF_OP_WRITE_BARRIER if unsupported => self.device.barrier = false,
            BLKIF_OP_DISCARD if unsupported => self.device.discard = None,
            _ => {}
        }
        if !job.abandoned {
            return Ok(Some(RequestId(id)));
        }
        self.remove(id);
        Ok(None)
    }

    /// The result of a request, once; none while it is under way. What was read is copied to `into`, as
    /// much as there is room for.
    pub fn take(&mut self, id: RequestId, into: &mut [u8]) -> Option<Result<(), Failure>> {
        let job = self.jobs.get(&id.0)?;
        let result = job.result?;
        if result.is_ok() {
            for (page, part) in job.pages.iter().zip(into.chunks_mut(PAGE)) {
                page.read(0, part);
            }
        }
        self.remove(id.0);
        Some(result)
    }

    fn remove(&mut self, id: u64) {
        if let Some(job) = self.jobs.remove(&id) {
            // What the connection's end has left is granted for nothing.
            if job.result != Some(Err(Failure::Lost)) {
                self.recycle(job.lists);
                self.recycle(job.pages);
            }
        }
    }

    /// Nobody will ask for the result of a request.
    pub fn abandon(&mut self, id: RequestId) {
        match self.jobs.get_mut(&id.0) {
            Some(job) if job.result.is_none() => job.abandoned = true,
            _ => self.remove(id.0),
        }
    }

    /// The connection is over: what is under way is lost; which that is. Its grants end, but for those
    /// that the backend still uses.
    pub fn fail(&mut self) -> Vec<RequestId> {
        self.spare = None;
        self.jobs.retain(|_, job| !job.abandoned);
        let mut lost = Vec::new();
        for (id, job) in &mut self.jobs {
            if job.result.is_none() {
                job.result = Some(Err(Failure::Lost));
                job.pages.clear();
                job.lists.clear();
                lost.push(RequestId(*id));
            }
        }
        lost
    }
}

impl<P> Job<P> {
    fn new(queue: usize, operations: [u8; 2], pages: Vec<P>, lists: Vec<P>) -> Self {
        Self {
            queue,
            operations,
            pages,
            lists,
            result: None,
            abandoned: false,
        }
    }
}

impl<R, P> fmt::Debug for Front<R, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Front")
            .field("device", &self.device)
            .field("jobs", &self.jobs.len())
            .finish_non_exhaustive()
    }
}
