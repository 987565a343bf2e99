//! What dom0 answers when it does not do what was asked. Each variant's text is one line, fit to be
//! shown to the user.

use alloc::string::String;

use serde::{Deserialize, Serialize};

use crate::domain::DomainRef;
use crate::image::ImageHash;

/// Why a request failed. Nothing of what was asked remains half done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum Error {
    /// No domain has that id or name.
    #[error("no such domain: {0}")]
    NoSuchDomain(DomainRef),
    /// Another domain has the name.
    #[error("the name {name:?} is in use by domain {domid}")]
    NameInUse {
        /// The name.
        name: String,
        /// Who has it.
        domid: u16,
    },
    /// Another domain has the UUID.
    #[error("the uuid is in use by domain {domid}")]
    UuidInUse {
        /// Who has it.
        domid: u16,
    },
    /// The host has not so much memory free.
    #[error("not enough memory: {needed_kib} KiB needed, {free_kib} KiB free")]
    NotEnoughMemory {
        /// What the domain takes in all, in KiB.
        needed_kib: u64,
        /// What is free, in KiB.
        free_kib: u64,
    },
    /// The kernel is no PV kernel that can be booted. The text says which header or note is missing
    /// or wrong.
    #[error("the kernel cannot be booted: {0}")]
    BadKernel(String),
    /// The ramdisk does not fit or cannot be read.
    #[error("the ramdisk cannot be used: {0}")]
    BadRamdisk(String),
    /// The image cache has no image of that hash; it can have been dropped for room since it was
    /// asked for.
    #[error("image {0} is not in the cache")]
    NoSuchImage(ImageHash),
    /// What was uploaded has another hash or size than was said.
    #[error("image {0} was damaged on its way")]
    DamagedImage(ImageHash),
    /// The image is larger than the cache has room for.
    #[error("an image of {size} bytes does not fit the cache, which has room for {room}")]
    ImageTooLarge {
        /// The image's size in bytes.
        size: u64,
        /// The room in bytes.
        room: u64,
    },
    /// A value of the configuration is out of its range.
    #[error("{field}: {why}")]
    BadConfig {
        /// The key as in xl.cfg.
        field: String,
        /// What is wrong with its value.
        why: String,
    },
    /// The domain is not in a state in which this can be done.
    #[error("domain {domid} {why}")]
    BadState {
        /// Which domain.
        domid: u16,
        /// What is in the way: "is dying", "is not paused".
        why: String,
    },
    /// The guest did not take a request to shut down or reboot.
    #[error("domain {domid} did not acknowledge the {request} request; destroy ends it")]
    NotAcknowledged {
        /// Which domain.
        domid: u16,
        /// The request.
        request: String,
    },
    /// No volume has that name.
    #[error("there is no volume {0:?}")]
    NoSuchVolume(String),
    /// The volume is in use in a way that does not go together with what was asked.
    #[error("the volume {volume:?} is in use by domain {domid}{}", for_writing(.writes))]
    VolumeInUse {
        /// Which volume.
        volume: String,
        /// Who uses it, or a part of it, or what it is a part of.
        domid: u16,
        /// Whether that domain writes to it.
        writes: bool,
    },
    /// What is to be on a volume is more than fits it.
    #[error("{bytes} bytes do not fit the volume {volume:?}, which has {room}")]
    VolumeTooSmall {
        /// Which volume.
        volume: String,
        /// How many bytes there are.
        bytes: u64,
        /// How many the volume has.
        room: u64,
    },
    /// The disk that a volume is on did not do what it was asked to.
    #[error("the disk under the volume {0:?} failed")]
    VolumeFailed(String),
    /// A connection of dom0's own came to an end before all was said.
    #[error("the connection was broken off")]
    Disconnected,
    /// dom0 has no address of its own.
    #[error("dom0 has no address: none was given, or no DHCP server has answered yet")]
    NoAddress,
    /// It must not be done to that domain, dom0 for example.
    #[error("not permitted: {0}")]
    NotPermitted(String),
    /// This version of dom0 cannot do it.
    #[error("not supported: {0}")]
    NotSupported(String),
    /// Something of which there is a limited number has run out.
    #[error("no more room for {0}")]
    NoRoom(String),
    /// The request made no sense where it came.
    #[error("bad request: {0}")]
    BadRequest(String),
    /// The store refused what the toolstack asked of it.
    #[error("the store refused {what}: error {errno}")]
    Store {
        /// What it was asked.
        what: String,
        /// Xen's error number, positive.
        errno: i32,
    },
    /// The hypervisor refused a hypercall that should have worked.
    #[error("the hypervisor refused {call}: error {errno}")]
    Hypervisor {
        /// Which operation.
        call: String,
        /// Xen's error number, positive.
        errno: i32,
    },
}

fn for_writing(writes: &bool) -> &'static str {
    if *writes { " for writing" } else { "" }
}
