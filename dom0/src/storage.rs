//! The host's disks and the guests' grants, as the block backends use them.

use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, GrantRef};
use split_drivers::SharedMemory;
use split_drivers::block::back::{Finished, Operation};
use split_drivers::grants::Copy;

/// A disk of the host's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostDisk {
    /// Its serial number.
    pub serial: String,
    /// Sectors of 512 bytes.
    pub sectors: u64,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Whether it can only be read.
    pub read_only: bool,
    /// Whether it keeps what was written for a while before that is permanent.
    pub flush: bool,
    /// What can be discarded at a time, in bytes, if that can be done.
    pub discard: Option<u32>,
    /// Parts of it that have names.
    pub partitions: Vec<Partition>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its label.
    pub label: String,
    /// Its first sector, of 512 bytes.
    pub first: u64,
    /// How many.
    pub sectors: u64,
}

/// Disks, buffers for them, and copies between these and guests.
pub trait Storage {
    /// Memory that disks transfer to and from.
    type Buffer: SharedMemory;
    /// Pages that a guest grants, mapped until they are dropped.
    type Granted: SharedMemory;

    /// The disks, by number from 0 on; always the same.
    fn disks(&self) -> &[HostDisk];

    /// Memory of so many bytes; none as long as too much is in use.
    fn buffer(&mut self, bytes: usize) -> Option<Self::Buffer>;

    /// Begins an operation of a disk, or gives it back if there is no room.
    ///
    /// # Errors
    ///
    /// The operation.
    fn start(
        &mut self,
        disk: usize,
        tag: u64,
        operation: Operation<Self::Buffer>,
    ) -> Result<(), Operation<Self::Buffer>>;

    /// An operation that has ended, of any disk.
    fn finished(&mut self) -> Option<Finished<Self::Buffer>>;

    /// Maps grants for reading and writing, one behind the other.
    fn map_ring(&mut self, domid: Domid, grants: &[GrantRef]) -> Result<Self::Granted, Errno>;

    /// Maps grants for reading and writing, each by itself; none where that is refused.
    fn map_pages(&mut self, domid: Domid, grants: &[GrantRef]) -> Vec<Option<Self::Granted>>;

    /// Copies between a guest and buffers; for each whether it was done.
    fn copy(&mut self, domid: Domid, copies: &[Copy<'_, Self::Buffer, Self::Granted>])
    -> Vec<bool>;
}
