//! Requests as they are in the ring: taken apart and checked for the backend, put together by the
//! frontend.

use alloc::vec::Vec;

use hypercall_abi::io::blkif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::FromBytes;

use super::{Device, PAGE_SECTORS, PAGE_SEGMENTS, SECTOR};

/// An entry of the ring.
pub type Slot = [u8; BLKIF_ENTRY_SIZE];

/// Why a request is refused: a `BLKIF_RSP_*` that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused(pub i16);

const ERROR: Refused = Refused(BLKIF_RSP_ERROR);
const UNSUPPORTED: Refused = Refused(BLKIF_RSP_EOPNOTSUPP);

/// A request that is checked, but for its grants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The frontend's own.
    pub id: u64,
    /// What the response says that it was: for an indirect request the operation proper, which is what
    /// Linux's frontend insists on.
    pub operation: u8,
    /// What to do.
    pub body: Result<Body, Refused>,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// Disk to guest.
    Read(Transfer),
    /// Guest to disk.
    Write(Transfer),
    /// The disk keeps what was written; then data may follow.
    Flush(Option<Transfer>),
    /// As a flush, but all that came before is carried out before it, and all that comes later after.
    Barrier(Option<Transfer>),
    /// So many sectors from one on are not needed.
    Discard {
        /// The first.
        sector: u64,
        /// How many.
        count: u64,
        /// Whether they become unreadable.
        secure: bool,
    },
}

/// Sectors, and the pages of the guest that they go to or come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The first sector on the disk.
    pub sector: u64,
    /// The pages.
    pub segments: Segments,
}

/// Where a transfer's segments are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Segments {
    /// In the request; checked.
    Direct(Vec<Segment>),
    /// In granted pages, to be [taken out](Transfer::segments_from) before they can be checked.
    Indirect {
        /// How many segments, at least 1.
        count: usize,
        /// The pages, as many as that takes.
        pages: Vec<GrantRef>,
    },
}

/// A part of a granted page, within it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub gref: GrantRef,
    /// First sector.
    pub first: u8,
    /// How many, at least 1.
    pub count: u8,
}

impl Segment {
    /// The byte where it begins in its page.
    pub fn offset(&self) -> usize {
        usize::from(self.first) * SECTOR
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> usize {
        usize::from(self.count) * SECTOR
    }

    fn check(raw: &BlkifRequestSegment, device: &Device) -> Result<Self, Refused> {
        let (first, last) = (raw.first_sect, raw.last_sect);
        if first > last || usize::from(last) >= PAGE_SECTORS {
            return Err(ERROR);
        }
        let unit = device.sector_size / SECTOR as u32;
        let count = last - first + 1;
        if !u32::from(first).is_multiple_of(unit) || !u32::from(count).is_multiple_of(unit) {
            return Err(ERROR);
        }
        Ok(Self {
            gref: raw.gref,
            first,
            count,
        })
    }
}

/// Checks segments, and that what they make is on the disk.
fn check_all(
    raw: &[BlkifRequestSegment],
    sector: u64,
    device: &Device,
) -> Result<Vec<Segment>, Refused> {
    let segments = raw
        .iter()
        .map(|raw| Segment::check(raw, device))
        .collect::<Result<Vec<_>, _>>()?;
    let count = segments.iter().map(|it| u64::from(it.count)).sum();
    match device.contains(sector, count) {
        true => Ok(segments),
        false => Err(ERROR),
    }
}

impl Transfer {
    /// The segments of an indirect transfer, out of the copied pages.
    ///
    /// # Errors
    ///
    /// If one of them is not within its page, or they go beyond the disk.
    pub fn segments_from(
        &self,
        count: usize,
        pages: &[u8],
        device: &Device,
    ) -> Result<Vec<Segment>, Refused> {
        let size = size_of::<BlkifRequestSegment>();
        let bytes = pages.get(..count * size).ok_or(ERROR)?;
        let raw = bytes
            .chunks_exact(size)
            .map(BlkifRequestSegment::read_from_bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| ERROR)?;
        check_all(&raw, self.sector, device)
    }
}

impl Request {
    /// Takes an entry apart and checks it against what the device is and offers. The number of the
    /// device in it is not looked at: a ring has one.
    pub fn parse(slot: &Slot, device: &Device) -> Self {
        let (Ok((plain, _)), Ok((indirect, _)), Ok((discard, _))) = (
            BlkifRequest::read_from_prefix(slot),
            BlkifRequestIndirect::read_from_prefix(slot),
            BlkifRequestDiscard::read_from_prefix(slot),
        ) else {
            unreachable!("an entry has room for each");
        };
        let (id, operation, body) = match plain.operation {
            BLKIF_OP_INDIRECT => (
                indirect.id,
                indirect.indirect_op,
                check_indirect(&indirect, device),
            ),
            BLKIF_OP_DISCARD => (
                discard.id,
                BLKIF_OP_DISCARD,
                check_discard(&discard, device),
            ),
            operation => (plain.id, operation, check_plain(&plain, device)),
        };
        Self {
            id,
            operation,
            body,
        }
    }
}

fn check_plain(raw: &BlkifRequest, device: &Device) -> Result<Body, Refused> {
    match raw.operation {
        BLKIF_OP_READ | BLKIF_OP_WRITE => {}
        BLKIF_OP_FLUSH_DISKCACHE if device.flush => {}
        BLKIF_OP_WRITE_BARRIER if device.barrier => {}
        _ => return Err(UNSUPPORTED),
    }
    let raw_segments = raw.seg.get(..raw.nr_segments.into()).ok_or(ERROR)?;
    let transfer = match raw_segments {
        [] => None,
        some => Some(Transfer {
            sector: raw.sector_number,
            segments: Segments::Direct(check_all(some, raw.sector_number, device)?),
        }),
    };
    let writes = raw.operation != BLKIF_OP_READ && transfer.is_some();
    if writes && device.read_only {
        return Err(ERROR);
    }
    Ok(match (raw.operation, transfer) {
        (BLKIF_OP_READ, Some(transfer)) => Body::Read(transfer),
        (BLKIF_OP_WRITE, Some(transfer)) => Body::Write(transfer),
        (BLKIF_OP_FLUSH_DISKCACHE, transfer) => Body::Flush(transfer),
        (BLKIF_OP_WRITE_BARRIER, transfer) => Body::Barrier(transfer),
        _ => return Err(ERROR),
    })
}

fn check_indirect(raw: &BlkifRequestIndirect, device: &Device) -> Result<Body, Refused> {
    if device.max_indirect == 0 {
        return Err(UNSUPPORTED);
    }
    let count = usize::from(raw.nr_segments);
    if count == 0 || count > device.max_indirect.into() {
        return Err(ERROR);
    }
    let pages = raw.indirect_grefs.get(..count.div_ceil(PAGE_SEGMENTS));
    let transfer = Transfer {
        sector: raw.sector_number,
        segments: Segments::Indirect {
            count,
            pages: pages.ok_or(ERROR)?.to_vec(),
        },
    };
    // There is at least a sector, whatever the segments are.
    if raw.sector_number >= device.sectors {
        return Err(ERROR);
    }
    match raw.indirect_op {
        BLKIF_OP_READ => Ok(Body::Read(transfer)),
        BLKIF_OP_WRITE if !device.read_only => Ok(Body::Write(transfer)),
        _ => Err(ERROR),
    }
}

fn check_discard(raw: &BlkifRequestDiscard, device: &Device) -> Result<Body, Refused> {
    let Some(discard) = device.discard else {
        return Err(UNSUPPORTED);
    };
    let good = raw.flag & !BLKIF_DISCARD_SECURE == 0
        && raw.nr_sectors > 0
        && device.contains(raw.sector_number, raw.nr_sectors)
        && !device.read_only;
    match good {
        true => Ok(Body::Discard {
            sector: raw.sector_number,
            count: raw.nr_sectors,
            // Without an offer of it, the flag is ignored.
            secure: discard.secure && raw.flag & BLKIF_DISCARD_SECURE != 0,
        }),
        false => Err(ERROR),
    }
}
