//! The block protocol (`xen/io/blkif.h`): disks of one domain that another uses.
//!
//! Sectors are of 512 bytes everywhere on the wire and here, whatever the disk's own are; those only
//! say what a request must be aligned to ([`Device::sector_size`]).
//!
//! | module | what it is for |
//! |---|---|
//! | [`nodes`] | what the two ends write to the store, and read there |
//! | [`request`] | requests as they are in the ring, checked |
//! | [`front`] | the frontend: makes requests, takes responses |
//! | [`back`] | the backend: carries requests out, a bounded number at a time |
//! | [`vdev`] | names and numbers of disks |

use hypercall_abi::io::blkif::BLKIF_MAX_SEGMENTS_PER_REQUEST;

pub mod back;
pub mod front;
pub mod nodes;
pub mod request;
#[cfg(test)]
mod tests;
pub mod vdev;
#[cfg(any(test, fuzzing))]
pub mod world;

pub use nodes::{Connection, QueueNodes, Transport};

/// Bytes of a sector, on the wire.
pub const SECTOR: usize = 512;
/// Bytes of a granted page.
pub const PAGE: usize = 4096;
/// Sectors in a page.
pub const PAGE_SECTORS: usize = PAGE / SECTOR;
/// Segments in a page of an indirect request.
pub const PAGE_SEGMENTS: usize = 512;
/// Most segments that an indirect request may have here: 1 MiB.
pub const MAX_INDIRECT: u16 = 256;
/// Most pages of a ring, as a power of two.
pub const MAX_RING_ORDER: u32 = 4;
/// Most queues.
pub const MAX_QUEUES: u32 = 16;

/// How sectors can be discarded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Discard {
    /// What can be discarded at a time, in bytes.
    pub granularity: u32,
    /// Where the first such unit is, in bytes.
    pub alignment: u32,
    /// Whether they can be made unreadable.
    pub secure: bool,
}

/// A disk as the backend describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// What requests are aligned to, in bytes: a power of two from 512 to 4096.
    pub sector_size: u32,
    /// What the disk itself writes at a time, in bytes.
    pub physical_sector_size: u32,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Whether what was written can be made permanent.
    pub flush: bool,
    /// Whether writes can be barriers.
    pub barrier: bool,
    /// How to discard, if that can be done.
    pub discard: Option<Discard>,
    /// Most segments of an indirect request, 0 if there is none.
    pub max_indirect: u16,
    /// Whether the backend keeps grants mapped.
    pub persistent: bool,
}

impl Device {
    /// Whether `count` sectors from `sector` on are on the disk, and aligned to its own sectors.
    pub fn contains(&self, sector: u64, count: u64) -> bool {
        let unit = u64::from(self.sector_size) / SECTOR as u64;
        let end = sector.checked_add(count);
        unit > 0
            && sector.is_multiple_of(unit)
            && count.is_multiple_of(unit)
            && end.is_some_and(|end| end <= self.sectors)
    }

    /// The most segments that a request can have.
    pub fn max_segments(&self) -> usize {
        usize::from(self.max_indirect.min(MAX_INDIRECT)).max(BLKIF_MAX_SEGMENTS_PER_REQUEST)
    }
}
