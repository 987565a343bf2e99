//! What is on volumes, on its way to and from xl.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

/// Bytes in each [`VolumeRequest::Chunk`] and [`VolumeReply::Chunk`] but the last: whole sectors of any disk.
pub const VOLUME_CHUNK: usize = 28 * 1024;

/// What xl asks about the content of volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeRequest {
    /// Here comes what is to be on a volume, from its beginning on. Answer: [`crate::Reply::Done`] when its
    /// chunks may come, and again when all of it is written for good. Until then nobody else has the volume.
    /// An error at any time ends it, as the channel's close does; the volume has what was written by then,
    /// and chunks still on their way are dropped.
    Import {
        /// The volume's name.
        name: String,
        /// How many bytes come, not more than the volume has. The rest of the last sector becomes zeroes.
        bytes: u64,
    },
    /// The next bytes: [`VOLUME_CHUNK`] of them, or those that are left.
    Chunk(#[serde(with = "serde_bytes")] Vec<u8>),
    /// Send what is on a volume. Answer: [`VolumeReply::Size`], then so many bytes in
    /// [`VolumeReply::Chunk`]s, at last [`crate::Reply::Done`]. Until then nobody writes to the volume.
    Export(String),
    /// Do something to a volume, and say how long that took. What is written is zeroes: what was on the volume is
    /// lost. Answer: [`VolumeReply::Measured`], then [`crate::Reply::Done`]. The channel's close ends it.
    Measure {
        /// The volume's name; on a disk.
        name: String,
        /// What is done.
        workload: Workload,
    },
}

/// What dom0 answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeReply {
    /// How many bytes will come.
    Size(u64),
    /// The next of them: [`VOLUME_CHUNK`], or those that are left.
    Chunk(#[serde(with = "serde_bytes")] Vec<u8>),
    /// From the first operation's beginning to the last one's end.
    Measured {
        /// Nanoseconds.
        ns: u64,
    },
}

/// Reads or writes of a volume, from and to nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Workload {
    /// Writes; else reads.
    pub write: bool,
    /// Not one behind the other.
    pub random: bool,
    /// Bytes of each: whole sectors, at most [`Workload::MAX_BYTES`].
    pub bytes: u32,
    /// How many are under way at a time, at most [`Workload::MAX_DEPTH`].
    pub depth: u32,
    /// How many in all, at most [`Workload::MAX_COUNT`].
    pub count: u32,
}

impl Workload {
    /// The most bytes of an operation.
    pub const MAX_BYTES: u32 = 128 * 1024;
    /// The most operations under way at a time: guests are to have room beside them.
    pub const MAX_DEPTH: u32 = 16;
    /// The most operations in all.
    pub const MAX_COUNT: u32 = 1 << 20;

    /// Where the operation of that number is, among so many places.
    pub fn place(&self, nth: u32, places: u64) -> u64 {
        let nth = u64::from(nth);
        let place = match self.random {
            true => nth.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16,
            false => nth,
        };
        place.checked_rem(places).unwrap_or(0)
    }
}
