//! Volumes: what a disk of a guest can be, and who uses which.
//!
//! A volume that is written to has one user. A partition is a part of its disk: whoever uses the one
//! uses the other.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::block::{VolumeInfo, VolumeKind};
use control::{DiskConfig, Error};
use hypercall_abi::types::Domid;
use split_drivers::block::{Device, Discard, MAX_INDIRECT, SECTOR};

use super::ram::Ram;
use crate::storage::HostDisk;

/// A volume's place in the list; it stays the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VolumeId(usize);

/// Where the sectors are.
#[derive(Debug)]
pub enum Place {
    /// On a disk of the host's, from a sector on.
    Disk {
        /// Its number.
        disk: usize,
        /// The first sector.
        first: u64,
    },
    /// In memory.
    Ram(Ram),
}

/// A use of a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// Its number.
    pub key: u64,
    /// Whose it is.
    pub domid: Domid,
    /// Whether it may write.
    pub writes: bool,
    /// It takes no more requests, but some may be under way.
    pub leaving: bool,
}

/// A volume.
#[derive(Debug)]
pub struct Volume {
    name: String,
    kind: VolumeKind,
    sectors: u64,
    sector_size: u32,
    read_only: bool,
    flush: bool,
    discard: Option<u32>,
    place: Place,
    users: Vec<User>,
}

impl Volume {
    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.sectors.saturating_mul(SECTOR as u64)
    }

    /// Its kind.
    pub fn kind(&self) -> VolumeKind {
        self.kind
    }

    /// Bytes of a sector.
    pub fn sector_size(&self) -> u32 {
        self.sector_size
    }

    /// Whether it keeps what was written for a while before that is permanent.
    pub fn flush(&self) -> bool {
        self.flush
    }

    /// Where its sectors are.
    pub fn place(&mut self) -> &mut Place {
        &mut self.place
    }

    /// The volume as it is offered to a guest.
    pub fn device(&self, config: &DiskConfig) -> Device {
        let read_only = self.read_only || config.read_only;
        let granularity = self.discard.filter(|_| config.discard && !read_only);
        Device {
            sectors: self.sectors,
            sector_size: self.sector_size,
            physical_sector_size: self.sector_size,
            read_only,
            flush: self.flush,
            // Flushes are what guests ask for wherever they can.
            barrier: false,
            discard: granularity.map(|granularity| Discard {
                granularity,
                alignment: 0,
                secure: false,
            }),
            max_indirect: MAX_INDIRECT,
            persistent: true,
        }
    }

    /// The disk and the sectors that it has there.
    fn extent(&self) -> Option<(usize, u64, u64)> {
        match self.place {
            Place::Disk { disk, first } => Some((disk, first, first.saturating_add(self.sectors))),
            Place::Ram(_) => None,
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self.extent(), other.extent()) {
            (Some((disk, first, end)), Some((other, start, stop))) => {
                disk == other && first < stop && start < end
            }
            _ => core::ptr::eq(self, other),
        }
    }
}

/// All volumes.
#[derive(Debug, Default)]
pub struct Volumes {
    /// Those that were removed leave a gap.
    all: Vec<Option<Volume>>,
    /// Bytes that volumes of memory may still take.
    room: u64,
}

impl Volumes {
    /// The volumes of disks, and so many bytes of room for those of memory.
    pub fn new(disks: &[HostDisk], room: u64) -> Self {
        let mut volumes = Self {
            all: Vec::new(),
            room,
        };
        for (number, disk) in disks.iter().enumerate() {
            volumes.add_disk(number, disk);
        }
        volumes
    }

    fn add_disk(&mut self, number: usize, disk: &HostDisk) {
        let whole = Volume {
            name: self.free_name(&disk.serial),
            kind: VolumeKind::Disk,
            sectors: disk.sectors,
            sector_size: disk.sector_size,
            read_only: disk.read_only,
            flush: disk.flush,
            discard: disk.discard,
            place: Place::Disk {
                disk: number,
                first: 0,
            },
            users: Vec::new(),
        };
        self.all.push(Some(whole));
        for partition in &disk.partitions {
            let part = Volume {
                name: self.free_name(&partition.label),
                kind: VolumeKind::Partition,
                sectors: partition.sectors,
                sector_size: disk.sector_size,
                read_only: disk.read_only,
                flush: disk.flush,
                discard: disk.discard,
                place: Place::Disk {
                    disk: number,
                    first: partition.first,
                },
                users: Vec::new(),
            };
            self.all.push(Some(part));
        }
    }

    /// A name that no volume has: the one wanted if it is free.
    fn free_name(&self, wanted: &str) -> String {
        let wanted = match wanted {
            "" => "disk",
            other => other,
        };
        if self.find(wanted).is_none() {
            return wanted.to_string();
        }
        (2_u64..)
            .map(|nth| format!("{wanted}-{nth}"))
            .find(|name| self.find(name).is_none())
            .unwrap_or_default()
    }

    fn each(&self) -> impl Iterator<Item = &Volume> {
        self.all.iter().flatten()
    }

    /// The volume of that name.
    pub fn find(&self, name: &str) -> Option<VolumeId> {
        let named = |volume: &Option<Volume>| volume.as_ref().is_some_and(|it| it.name == name);
        self.all.iter().position(named).map(VolumeId)
    }

    /// A volume.
    pub fn get(&mut self, id: VolumeId) -> Option<&mut Volume> {
        self.all.get_mut(id.0).and_then(Option::as_mut)
    }

    /// Whether a volume can be had, and written to if `writes`, but for uses that are coming to their end.
    ///
    /// # Errors
    ///
    /// Says why not.
    pub fn check(&self, name: &str, writes: bool) -> Result<VolumeId, Error> {
        let no_such = || Error::NoSuchVolume(name.to_string());
        let id = self.find(name).ok_or_else(no_such)?;
        let Some(Some(volume)) = self.all.get(id.0) else {
            return Err(no_such());
        };
        if volume.read_only && writes {
            let why = format!("the volume {name:?} can only be read");
            return Err(Error::NotPermitted(why));
        }
        let others = self.others(volume);
        let in_the_way = others
            .filter(|user| !user.leaving)
            .find(|user| user.writes || writes);
        match in_the_way {
            None => Ok(id),
            Some(user) => Err(Error::VolumeInUse {
                volume: name.to_string(),
                domid: user.domid.0,
                writes: user.writes,
            }),
        }
    }

    /// The uses of a volume, or of one that has sectors in common with it.
    fn others<'a>(&'a self, volume: &'a Volume) -> impl Iterator<Item = &'a User> {
        self.each()
            .filter(|other| other.overlaps(volume))
            .flat_map(|other| &other.users)
    }

    /// Notes a use that was [checked](Self::check).
    pub fn claim(&mut self, id: VolumeId, user: User) {
        if let Some(volume) = self.get(id) {
            volume.users.push(user);
        }
    }

    /// A use is coming to its end.
    pub fn leave(&mut self, id: VolumeId, key: u64) {
        if let Some(volume) = self.get(id) {
            for user in volume.users.iter_mut().filter(|it| it.key == key) {
                user.leaving = true;
            }
        }
    }

    /// A use has ended.
    pub fn release(&mut self, id: VolumeId, key: u64) {
        if let Some(volume) = self.get(id) {
            volume.users.retain(|user| user.key != key);
        }
    }

    /// Whether requests of others may still be under way, from before.
    pub fn is_draining(&self, id: VolumeId) -> bool {
        match self.all.get(id.0) {
            Some(Some(volume)) => self.others(volume).any(|user| user.leaving),
            _ => false,
        }
    }

    /// Makes a volume of memory.
    ///
    /// # Errors
    ///
    /// If the name is taken or none, or there is not so much memory.
    pub fn create(&mut self, name: &str, bytes: u64) -> Result<(), Error> {
        let bad = |why: &str| Error::BadConfig {
            field: String::from("volume"),
            why: why.to_string(),
        };
        let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '/' | ',' | ':');
        if name.is_empty() || name.len() > DiskConfig::MAX_NAME || name.contains(odd) {
            return Err(bad(
                "a name has 1 to 144 bytes, and no spaces, slashes, commas or colons",
            ));
        }
        if self.find(name).is_some() {
            return Err(bad("there is one of that name"));
        }
        if bytes == 0 || !bytes.is_multiple_of(4096) {
            return Err(bad("the size must be a multiple of 4 KiB"));
        }
        let ram = (bytes <= self.room)
            .then(|| Ram::new(bytes))
            .flatten()
            .ok_or_else(|| Error::NoRoom(String::from("a volume of that size in memory")))?;
        self.room -= bytes;
        self.all.push(Some(Volume {
            name: name.to_string(),
            kind: VolumeKind::Ram,
            sectors: bytes / SECTOR as u64,
            sector_size: SECTOR as u32,
            read_only: false,
            flush: true,
            discard: Some(4096),
            place: Place::Ram(ram),
            users: Vec::new(),
        }));
        Ok(())
    }

    /// Removes a volume of memory.
    ///
    /// # Errors
    ///
    /// If there is none, or it is in use.
    pub fn remove(&mut self, name: &str) -> Result<(), Error> {
        let id = self
            .find(name)
            .ok_or_else(|| Error::NoSuchVolume(name.to_string()))?;
        let Some(slot) = self.all.get_mut(id.0) else {
            return Ok(());
        };
        if let Some(volume) = slot {
            if volume.kind != VolumeKind::Ram {
                let why = format!("{name:?} is on a disk of the host's");
                return Err(Error::NotPermitted(why));
            }
            if let Some(user) = volume.users.first() {
                return Err(Error::VolumeInUse {
                    volume: name.to_string(),
                    domid: user.domid.0,
                    writes: user.writes,
                });
            }
            self.room += volume.sectors * SECTOR as u64;
        }
        *slot = None;
        Ok(())
    }

    /// All volumes, by name.
    pub fn list(&self) -> Vec<VolumeInfo> {
        let mut list: Vec<_> = self
            .each()
            .map(|volume| VolumeInfo {
                name: volume.name.clone(),
                kind: volume.kind,
                bytes: volume.bytes(),
                sector_size: volume.sector_size,
                read_only: volume.read_only,
                users: volume.users.iter().map(|user| user.domid.0).collect(),
            })
            .collect();
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list
    }
}
