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
}

/// What dom0 answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeReply {
    /// How many bytes will come.
    Size(u64),
    /// The next of them: [`VOLUME_CHUNK`], or those that are left.
    Chunk(#[serde(with = "serde_bytes")] Vec<u8>),
}
