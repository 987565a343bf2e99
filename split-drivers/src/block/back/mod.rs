//! The backend of a block device.
//!
//! It takes requests from the rings, a bounded number at a time and never more than so many bytes under
//! way, checks each, and has the disk carry it out from or into a buffer of this domain. Between buffer
//! and guest data is copied by grant, one batch for all requests of a turn, or, with persistent grants,
//! through pages that stay mapped. So nothing of the guest's is in use while the disk works, and a
//! guest that goes away takes nothing along.
//!
//! A request that is wrong in itself is answered with an error. A ring that makes no sense is a
//! [`Overrun`], and the end of the connection.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;
use core::fmt;
use core::ops::AddAssign;

use hypercall_abi::io::blkif::*;
use hypercall_abi::types::GrantRef;

use super::request::{Body, Refused, Request, Segment, Segments, Slot, Transfer};
use super::{Device, PAGE, SECTOR};
use crate::SharedMemory;
use crate::grants::Grants;
use crate::ring::{self, Overrun};

mod transfer;
use transfer::Batch;

/// Bytes that may be under way for a device, but for a single request of more.
const MAX_UNDER_WAY: usize = 2 * 1024 * 1024;
/// Grants that are kept mapped for a device.
const MAX_PERSISTENT: usize = 32 * 33;

/// What a disk is asked to do. Buffers may be larger than what is asked for.
#[derive(Debug, PartialEq, Eq)]
pub enum Operation<B> {
    /// Reads sectors into a buffer.
    Read {
        /// The first sector.
        sector: u64,
        /// Bytes.
        bytes: usize,
        /// The buffer.
        buffer: B,
    },
    /// Writes sectors from a buffer.
    Write {
        /// The first sector.
        sector: u64,
        /// Bytes.
        bytes: usize,
        /// The buffer.
        buffer: B,
    },
    /// Makes permanent what was written.
    Flush,
    /// Forgets sectors.
    Discard {
        /// The first sector.
        sector: u64,
        /// How many.
        count: u64,
        /// Whether they become unreadable.
        secure: bool,
    },
}

/// What has become of an operation.
#[derive(Debug)]
pub struct Finished<B> {
    /// Its number.
    pub tag: u64,
    /// Whether it was done.
    pub done: bool,
    /// The buffer of a read.
    pub buffer: Option<B>,
}

/// A disk, as one device uses it.
pub trait Disk {
    /// What it transfers to and from.
    type Buffer;

    /// Begins an operation, or gives it back if there is no room now.
    ///
    /// # Errors
    ///
    /// The operation.
    fn start(
        &mut self,
        tag: u64,
        operation: Operation<Self::Buffer>,
    ) -> Result<(), Operation<Self::Buffer>>;

    /// An operation that has ended, in any order.
    fn finished(&mut self) -> Option<Finished<Self::Buffer>>;
}

/// What a [turn](Back::turn) leaves to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Queues whose frontend is to be notified.
    pub notify: Vec<usize>,
    /// There is more to do at once.
    pub more: bool,
    /// There was no buffer, or no room in the disk: to be called again when there may be.
    pub starved: bool,
}

/// What a device was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Times that a request had to wait for others to end.
    pub held: u64,
    /// Requests to read that were begun.
    pub reads: u64,
    /// Requests to write that were begun.
    pub writes: u64,
    /// [Sectors](SECTOR) that those read.
    pub sectors_read: u64,
    /// [Sectors](SECTOR) that those wrote.
    pub sectors_written: u64,
}

impl AddAssign for Counters {
    fn add_assign(&mut self, other: Self) {
        self.held = self.held.wrapping_add(other.held);
        self.reads = self.reads.wrapping_add(other.reads);
        self.writes = self.writes.wrapping_add(other.writes);
        self.sectors_read = self.sectors_read.wrapping_add(other.sectors_read);
        self.sectors_written = self.sectors_written.wrapping_add(other.sectors_written);
    }
}

/// A request that was taken and has no response yet.
struct Job<B> {
    queue: usize,
    id: u64,
    operation: u8,
    /// Where what is read goes.
    segments: Vec<Segment>,
    /// Bytes that count as under way.
    bytes: usize,
    /// What is to be done next, from the last on.
    then: Vec<Operation<B>>,
}

/// The backend.
pub struct Back<R, B, P> {
    device: Device,
    rings: Vec<ring::Back<R>>,
    /// Where to begin to look for requests.
    first: usize,
    /// Grants that stay mapped, if the frontend agrees.
    persistent: Option<BTreeMap<GrantRef, P>>,
    jobs: BTreeMap<u64, Job<B>>,
    next_tag: u64,
    /// What the disk had no room for.
    waiting: VecDeque<(u64, Operation<B>)>,
    under_way: usize,
    /// A request that was taken and has to wait: for a buffer, or for all others.
    held: Option<(usize, Request)>,
    /// The barrier that no request passes.
    barrier: Option<u64>,
    closing: bool,
    counters: Counters,
}

impl<R: SharedMemory, B: SharedMemory, P: SharedMemory> Back<R, B, P> {
    /// Takes up the rings of a frontend, whose grants stay mapped if both ends are for it.
    ///
    /// # Errors
    ///
    /// If a ring makes no sense.
    ///
    /// # Panics
    ///
    /// If a ring is smaller than a page.
    pub fn attach(device: Device, rings: Vec<R>, persistent: bool) -> Result<Self, Overrun> {
        let rings = rings
            .into_iter()
            .map(|ring| ring::Back::attach(ring, BLKIF_ENTRY_SIZE))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            device,
            rings,
            first: 0,
            persistent: (persistent && device.persistent).then(BTreeMap::new),
            jobs: BTreeMap::new(),
            next_tag: 0,
            waiting: VecDeque::new(),
            under_way: 0,
            held: None,
            barrier: None,
            closing: false,
            counters: Counters::default(),
        })
    }

    /// Takes no more requests.
    pub fn close(&mut self) {
        self.closing = true;
        self.held = None;
    }

    /// Whether no request is under way.
    pub fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Requests under way.
    pub fn under_way(&self) -> usize {
        self.jobs.len()
    }

    /// What it was asked for.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Grants that are mapped at the moment.
    pub fn mapped(&self) -> usize {
        self.persistent.as_ref().map_or(0, BTreeMap::len)
    }

    /// Answers what the disk has finished, and takes at most `budget` requests.
    ///
    /// # Errors
    ///
    /// If a ring makes no sense. No ring is looked at any more.
    pub fn turn<G, D>(
        &mut self,
        grants: &mut G,
        disk: &mut D,
        budget: usize,
    ) -> Result<Turn, Overrun>
    where
        G: Grants<Buffer = B, Page = P>,
        D: Disk<Buffer = B>,
    {
        let mut turn = Turn::default();
        self.advance(grants, disk);
        let taken = self.take(grants, budget, &mut turn);
        let result = taken.map(|taken| self.begin(grants, taken));
        self.advance(grants, disk);
        turn.starved |= !self.waiting.is_empty();
        for (queue, ring) in self.rings.iter_mut().enumerate() {
            if ring.publish() {
                turn.notify.push(queue);
            }
        }
        result.inspect_err(|_| self.give_up())?;
        // Whoever holds a request back will look for others without being told.
        let held = self.held.is_some() || self.barrier.is_some();
        if !self.closing && !turn.more && !held {
            let more = self.rings.iter_mut().map(|ring| ring.sleep(1));
            let more: Result<Vec<bool>, _> = more.collect();
            turn.more = more.inspect_err(|_| self.give_up())?.contains(&true);
        }
        Ok(turn)
    }

    /// Lets go of everything that is the frontend's.
    fn give_up(&mut self) {
        self.close();
        self.rings.clear();
        self.persistent = None;
    }

    fn answer(&mut self, queue: usize, id: u64, operation: u8, status: i16) {
        let response = BlkifResponse {
            id,
            operation,
            status,
            ..BlkifResponse::default()
        };
        if let Some(ring) = self.rings.get_mut(queue) {
            ring.push(&response);
        }
    }

    fn end(&mut self, tag: u64, status: i16) {
        let Some(job) = self.jobs.remove(&tag) else {
            return;
        };
        self.under_way -= job.bytes;
        if self.barrier == Some(tag) {
            self.barrier = None;
        }
        self.answer(job.queue, job.id, job.operation, status);
    }

    /// Answers what the disk has finished, and gives it what comes next.
    fn advance<G, D>(&mut self, grants: &mut G, disk: &mut D)
    where
        G: Grants<Buffer = B, Page = P>,
        D: Disk<Buffer = B>,
    {
        self.start_waiting(disk);
        self.finish(grants, disk);
        self.start_waiting(disk);
    }

    /// Gives the disk what it had no room for.
    fn start_waiting<D: Disk<Buffer = B>>(&mut self, disk: &mut D) {
        while let Some((tag, operation)) = self.waiting.pop_front() {
            if let Err(operation) = disk.start(tag, operation) {
                self.waiting.push_front((tag, operation));
                return;
            }
        }
    }

    /// Answers what the disk has finished.
    fn finish<G, D>(&mut self, grants: &mut G, disk: &mut D)
    where
        G: Grants<Buffer = B, Page = P>,
        D: Disk<Buffer = B>,
    {
        let mut reads = Vec::new();
        while let Some(Finished { tag, done, buffer }) = disk.finished() {
            let Some(job) = self.jobs.get_mut(&tag) else {
                continue;
            };
            let segments = core::mem::take(&mut job.segments);
            if !done {
                self.end(tag, BLKIF_RSP_ERROR);
            } else if let Some(next) = job.then.pop() {
                self.waiting.push_back((tag, next));
            } else if segments.is_empty() {
                self.end(tag, BLKIF_RSP_OKAY);
            } else if let Some(buffer) = buffer {
                reads.push((tag, segments, buffer));
            } else {
                self.end(tag, BLKIF_RSP_ERROR);
            }
        }
        let mut batch = Batch::new(self.persistent.as_ref(), true);
        for (tag, segments, buffer) in &reads {
            batch.add(*tag, segments, buffer);
        }
        for (tag, copied) in batch.run(grants) {
            let status = match copied {
                true => BLKIF_RSP_OKAY,
                false => BLKIF_RSP_ERROR,
            };
            self.end(tag, status);
        }
    }

    /// The next request to look at.
    fn next(&mut self) -> Result<Option<(usize, Request)>, Overrun> {
        if self.closing || self.barrier.is_some() {
            return Ok(None);
        }
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        let count = self.rings.len();
        for nth in 0..count {
            let queue = (self.first + nth) % count;
            let Some(ring) = self.rings.get_mut(queue) else {
                break;
            };
            if let Some(slot) = ring.pop::<Slot>()? {
                self.first = (queue + 1) % count;
                return Ok(Some((queue, Request::parse(&slot, &self.device))));
            }
        }
        Ok(None)
    }

    /// Keeps a request for when others have ended.
    fn hold(&mut self, queue: usize, request: Request) {
        self.held = Some((queue, request));
        self.counters.held = self.counters.held.wrapping_add(1);
    }

    /// Takes requests, those that are wrong answered, and gets buffers for the others.
    fn take<G>(
        &mut self,
        grants: &mut G,
        budget: usize,
        turn: &mut Turn,
    ) -> Result<Vec<Taken<B>>, Overrun>
    where
        G: Grants<Buffer = B, Page = P>,
    {
        let mut taken = Vec::new();
        let mut bytes = 0;
        for _ in 0..budget {
            let Some((queue, request)) = self.next()? else {
                return Ok(taken);
            };
            let body = match request.body {
                Ok(body) => body,
                Err(Refused(status)) => {
                    self.answer(queue, request.id, request.operation, status);
                    continue;
                }
            };
            let request = Request {
                body: Ok(body.clone()),
                ..request
            };
            let barrier = matches!(body, Body::Barrier(_));
            if barrier && !(self.jobs.is_empty() && taken.is_empty()) {
                self.hold(queue, request);
                return Ok(taken);
            }
            let most = size(&body);
            let under_way = self.under_way + bytes;
            let buffer = match most {
                0 => None,
                _ if under_way > 0 && under_way + most > MAX_UNDER_WAY => {
                    // One of those under way has to end first, and does.
                    self.hold(queue, request);
                    return Ok(taken);
                }
                _ => match grants.buffer(most) {
                    None => {
                        self.hold(queue, request);
                        turn.starved = true;
                        return Ok(taken);
                    }
                    some => some,
                },
            };
            bytes += most;
            taken.push(Taken {
                queue,
                id: request.id,
                operation: request.operation,
                body,
                buffer,
                bytes: most,
                segments: Vec::new(),
            });
            if barrier {
                return Ok(taken);
            }
        }
        turn.more = true;
        Ok(taken)
    }

    /// Copies what requests need from the guest, and has them begin.
    fn begin<G>(&mut self, grants: &mut G, taken: Vec<Taken<B>>)
    where
        G: Grants<Buffer = B, Page = P>,
    {
        let taken = self.with_segments(grants, taken);
        if let Some(mapped) = &mut self.persistent {
            let grefs = taken.iter().flat_map(|it| &it.segments).map(|it| it.gref);
            map_all(mapped, grants, grefs);
        }
        let mut batch = Batch::new(self.persistent.as_ref(), false);
        for (nth, it) in taken.iter().enumerate() {
            if let (true, Some(buffer)) = (it.writes(), &it.buffer) {
                batch.add(nth as u64, &it.segments, buffer);
            }
        }
        let failed: Vec<u64> = batch
            .run(grants)
            .into_iter()
            .filter(|(_, copied)| !copied)
            .map(|(nth, _)| nth)
            .collect();
        for (nth, it) in taken.into_iter().enumerate() {
            if failed.contains(&(nth as u64)) {
                self.answer(it.queue, it.id, it.operation, BLKIF_RSP_ERROR);
            } else {
                self.begin_one(it);
            }
        }
    }

    /// Takes the segments of indirect requests out of their pages; requests that are wrong are
    /// answered and left out.
    fn with_segments<G>(&mut self, grants: &mut G, taken: Vec<Taken<B>>) -> Vec<Taken<B>>
    where
        G: Grants<Buffer = B, Page = P>,
    {
        if let Some(mapped) = &mut self.persistent {
            let lists = taken.iter().flat_map(transfer::indirect_pages).copied();
            map_all(mapped, grants, lists);
        }
        let lists = transfer::indirect_lists(grants, &taken, self.persistent.as_ref());
        let mut good = Vec::with_capacity(taken.len());
        for (mut it, list) in taken.into_iter().zip(lists) {
            match it.check(list.as_deref(), &self.device) {
                Ok(segments) => {
                    it.segments = segments;
                    good.push(it);
                }
                Err(Refused(status)) => self.answer(it.queue, it.id, it.operation, status),
            }
        }
        good
    }

    fn begin_one(&mut self, it: Taken<B>) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let bytes = it.segments.iter().map(Segment::bytes).sum();
        let mut segments = Vec::new();
        // From the last on.
        let mut then = Vec::new();
        match (it.body, it.buffer) {
            (Body::Read(Transfer { sector, .. }), Some(buffer)) => {
                segments = it.segments;
                count(
                    &mut self.counters.reads,
                    &mut self.counters.sectors_read,
                    bytes,
                );
                then.push(Operation::Read {
                    sector,
                    bytes,
                    buffer,
                });
            }
            (
                Body::Discard {
                    sector,
                    count,
                    secure,
                },
                _,
            ) => {
                then.push(Operation::Discard {
                    sector,
                    count,
                    secure,
                });
            }
            (body, buffer) => {
                let (before, after, transfer) = match body {
                    Body::Flush(transfer) => (true, false, transfer),
                    Body::Barrier(transfer) => {
                        self.barrier = Some(tag);
                        (true, transfer.is_some(), transfer)
                    }
                    Body::Write(transfer) => (false, false, Some(transfer)),
                    Body::Read(_) | Body::Discard { .. } => (false, false, None),
                };
                // A disk that cannot flush has no need to.
                if after && self.device.flush {
                    then.push(Operation::Flush);
                }
                if let (Some(Transfer { sector, .. }), Some(buffer)) = (transfer, buffer) {
                    count(
                        &mut self.counters.writes,
                        &mut self.counters.sectors_written,
                        bytes,
                    );
                    then.push(Operation::Write {
                        sector,
                        bytes,
                        buffer,
                    });
                }
                if before && self.device.flush {
                    then.push(Operation::Flush);
                }
            }
        }
        let first = then.pop();
        self.under_way += it.bytes;
        self.jobs.insert(
            tag,
            Job {
                queue: it.queue,
                id: it.id,
                operation: it.operation,
                segments,
                bytes: it.bytes,
                then,
            },
        );
        match first {
            Some(operation) => self.waiting.push_back((tag, operation)),
            None => self.end(tag, BLKIF_RSP_OKAY),
        }
    }
}

impl<R, B, P> fmt::Debug for Back<R, B, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Back")
            .field("device", &self.device)
            .field("under_way", &self.jobs.len())
            .field("closing", &self.closing)
            .finish_non_exhaustive()
    }
}

/// A request that was taken in this turn.
struct Taken<B> {
    queue: usize,
    id: u64,
    operation: u8,
    body: Body,
    buffer: Option<B>,
    bytes: usize,
    segments: Vec<Segment>,
}

impl<B> Taken<B> {
    fn transfer(&self) -> Option<&Transfer> {
        match &self.body {
            Body::Read(transfer) | Body::Write(transfer) => Some(transfer),
            Body::Flush(transfer) | Body::Barrier(transfer) => transfer.as_ref(),
            Body::Discard { .. } => None,
        }
    }

    fn writes(&self) -> bool {
        !matches!(self.body, Body::Read(_))
    }

    /// Its segments, the list of an indirect request being copied.
    fn check(&self, list: Option<&[u8]>, device: &Device) -> Result<Vec<Segment>, Refused> {
        let Some(transfer) = self.transfer() else {
            return Ok(Vec::new());
        };
        match &transfer.segments {
            Segments::Direct(segments) => Ok(segments.clone()),
            Segments::Indirect { count, .. } => {
                let list = list.ok_or(Refused(BLKIF_RSP_ERROR))?;
                transfer.segments_from(*count, list, device)
            }
        }
    }
}

/// Counts a request of so many bytes.
fn count(requests: &mut u64, sectors: &mut u64, bytes: usize) {
    *requests = requests.wrapping_add(1);
    *sectors = sectors.wrapping_add((bytes / SECTOR) as u64);
}

/// How many bytes a request has at most.
fn size(body: &Body) -> usize {
    let transfer = match body {
        Body::Read(transfer) | Body::Write(transfer) => transfer,
        Body::Flush(Some(transfer)) | Body::Barrier(Some(transfer)) => transfer,
        Body::Flush(None) | Body::Barrier(None) | Body::Discard { .. } => return 0,
    };
    match &transfer.segments {
        Segments::Direct(segments) => segments.iter().map(Segment::bytes).sum(),
        Segments::Indirect { count, .. } => count * PAGE,
    }
}

/// Maps what is not mapped, as long as there is room.
fn map_all<G: Grants>(
    mapped: &mut BTreeMap<GrantRef, G::Page>,
    grants: &mut G,
    grefs: impl Iterator<Item = GrantRef>,
) {
    let room = MAX_PERSISTENT - mapped.len();
    let mut new: Vec<GrantRef> = grefs.filter(|gref| !mapped.contains_key(gref)).collect();
    new.sort_unstable();
    new.dedup();
    new.truncate(room);
    if new.is_empty() {
        return;
    }
    let pages = grants.map(&new);
    // One that cannot be mapped may still be copied from.
    let found = new.into_iter().zip(pages);
    mapped.extend(found.filter_map(|(gref, page)| Some((gref, page?))));
}

const _: () = assert!(PAGE.is_multiple_of(SECTOR));
