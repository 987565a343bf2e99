//! The block protocol (`xen/io/blkif.h`), in the layout `x86_64-abi`.

use crate::layout::{constants, structs};
use crate::types::GrantRef;

constants! {
    /// Read sectors: `BlkifRequest`.
    pub const BLKIF_OP_READ: u8 = 0;
    /// Write sectors: `BlkifRequest`.
    pub const BLKIF_OP_WRITE: u8 = 1;
    /// Write sectors after all that was written before and ahead of all that is written later:
    /// `BlkifRequest`.
    pub const BLKIF_OP_WRITE_BARRIER: u8 = 2;
    /// Have the disk keep what was written: `BlkifRequest`.
    pub const BLKIF_OP_FLUSH_DISKCACHE: u8 = 3;
    /// Withdrawn.
    pub const BLKIF_OP_RESERVED_1: u8 = 4;
    /// Sectors are no longer needed: `BlkifRequestDiscard`.
    pub const BLKIF_OP_DISCARD: u8 = 5;
    /// Read or write with segments in granted pages: `BlkifRequestIndirect`.
    pub const BLKIF_OP_INDIRECT: u8 = 6;
    /// Most segments in a request.
    pub const BLKIF_MAX_SEGMENTS_PER_REQUEST: usize = 11;
    /// Most pages of segments in an indirect request.
    pub const BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: usize = 8;
    /// `BlkifRequestDiscard::flag`: the sectors become unreadable.
    pub const BLKIF_DISCARD_SECURE: u8 = 1 << 0;
    /// `BlkifResponse::status`: not supported.
    pub const BLKIF_RSP_EOPNOTSUPP: i16 = -2;
    /// `BlkifResponse::status`: failed.
    pub const BLKIF_RSP_ERROR: i16 = -1;
    /// `BlkifResponse::status`: done.
    pub const BLKIF_RSP_OKAY: i16 = 0;
    /// Bit of the backend's store node `info`: CD.
    pub const VDISK_CDROM: u32 = 0x1;
    /// Bit of the backend's store node `info`: removable.
    pub const VDISK_REMOVABLE: u32 = 0x2;
    /// Bit of the backend's store node `info`: read-only.
    pub const VDISK_READONLY: u32 = 0x4;
    /// Size of a ring's entry in bytes.
    pub const BLKIF_ENTRY_SIZE: usize = 112 => "sizeof(union blkif_sring_entry)";
}

structs! {
    /// Part of a granted page, in sectors of 512 bytes.
    pub struct BlkifRequestSegment[8] = "struct blkif_request_segment" {
        /// The page.
        pub gref: GrantRef,
        /// First sector, 0 to 7.
        pub first_sect: u8,
        /// Last sector, 0 to 7.
        pub last_sect: u8,
        /// Zero.
        pub _pad0: u16,
    }

    /// A request to read, write or flush.
    pub struct BlkifRequest[112] = "struct blkif_request" {
        /// `BLKIF_OP_*`.
        pub operation: u8,
        /// Number of segments.
        pub nr_segments: u8,
        /// The disk's number.
        pub handle: u16,
        /// Zero.
        pub _pad0: u32,
        /// The frontend's own, the same in the response.
        pub id: u64,
        /// First sector on the disk, of 512 bytes.
        pub sector_number: u64,
        /// The segments.
        pub seg: [BlkifRequestSegment; BLKIF_MAX_SEGMENTS_PER_REQUEST],
    }

    /// A request to discard.
    pub struct BlkifRequestDiscard[32] = "struct blkif_request_discard" {
        /// `BLKIF_OP_DISCARD`.
        pub operation: u8,
        /// `BLKIF_DISCARD_SECURE` or 0.
        pub flag: u8,
        /// The disk's number.
        pub handle: u16,
        /// Zero.
        pub _pad0: u32,
        /// The frontend's own, the same in the response.
        pub id: u64,
        /// First sector on the disk, of 512 bytes.
        pub sector_number: u64,
        /// Number of sectors.
        pub nr_sectors: u64,
    }

    /// A request whose segments are in granted pages, 512 to a page.
    pub struct BlkifRequestIndirect[64] = "struct blkif_request_indirect" {
        /// `BLKIF_OP_INDIRECT`.
        pub operation: u8,
        /// `BLKIF_OP_READ` or `BLKIF_OP_WRITE`.
        pub indirect_op: u8,
        /// Number of segments.
        pub nr_segments: u16,
        /// Zero.
        pub _pad0: u32,
        /// The frontend's own, the same in the response.
        pub id: u64,
        /// First sector on the disk, of 512 bytes.
        pub sector_number: u64,
        /// The disk's number.
        pub handle: u16,
        /// Zero.
        pub _pad1: u16,
        /// The pages.
        pub indirect_grefs: [GrantRef; BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST],
        /// Zero.
        pub _pad2: u32,
    }

    /// A response.
    pub struct BlkifResponse[16] = "struct blkif_response" {
        /// The request's.
        pub id: u64,
        /// The request's.
        pub operation: u8,
        /// Zero.
        pub _pad0: u8,
        /// `BLKIF_RSP_*`.
        pub status: i16,
        /// Zero.
        pub _pad1: u32,
    }
}
