//! Disks of domains, and the volumes that they are.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::domain::DomainRef;

/// A disk of a domain, as its configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// What the guest calls it: `xvda` and so on.
    pub vdev: String,
    /// The name of the volume that it is.
    pub volume: String,
    /// Whether the guest may only read it.
    pub read_only: bool,
    /// Whether the guest may say that it does not need sectors any more, if the volume knows such a
    /// thing.
    pub discard: bool,
}

impl DiskConfig {
    /// How many disks a domain may have.
    pub const MAX_DISKS: usize = 64;
    /// The longest name of a volume in bytes: a partition's label has 36 characters.
    pub const MAX_NAME: usize = 144;
}

/// What xl asks about disks and volumes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockRequest {
    /// Give a domain a disk. Answer: [`crate::Reply::Done`].
    Attach {
        /// Which domain.
        domain: DomainRef,
        /// The disk.
        disk: DiskConfig,
    },
    /// Take a disk away. Answer: [`crate::Reply::Done`] when the guest has let it go.
    Detach {
        /// Which domain.
        domain: DomainRef,
        /// Its name, or its number.
        vdev: String,
        /// Do not ask the guest.
        force: bool,
    },
    /// The disks of a domain. Answer: [`BlockReply::Devices`].
    Devices(DomainRef),
    /// All volumes. Answer: [`BlockReply::Volumes`].
    Volumes,
    /// Make a volume of memory. Answer: [`crate::Reply::Done`].
    CreateVolume {
        /// Its name.
        name: String,
        /// Its size.
        bytes: u64,
    },
    /// Remove a volume that was made. Answer: [`crate::Reply::Done`].
    RemoveVolume(String),
}

/// What dom0 answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum BlockReply {
    /// Disks, by number.
    Devices(Vec<DeviceInfo>),
    /// Volumes, by name.
    Volumes(Vec<VolumeInfo>),
}

/// A disk of a domain as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    /// Its number.
    pub devid: u32,
    /// Whose it is.
    pub domid: u16,
    /// `XenbusState*` of the guest's end.
    pub state: u32,
    /// The guest's port, once it is connected.
    pub event_channel: Option<u32>,
    /// The grant of the first page of its ring, once it is connected.
    pub ring_ref: Option<u32>,
    /// Where the backend has its nodes.
    pub path: String,
}

/// What kind a volume is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeKind {
    /// A whole disk of the host's.
    Disk,
    /// A partition of one.
    Partition,
    /// Memory.
    Ram,
}

/// A volume as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeInfo {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: VolumeKind,
    /// Its size.
    pub bytes: u64,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Whether it can be read only.
    pub read_only: bool,
    /// Ids of the domains that use it.
    pub users: Vec<u16>,
}
