//! Reads or writes of a volume by this domain itself, to see how fast the disk is without a guest.

use alloc::vec;

use control::volume::Workload as Wanted;
use control::{Error, VolumeReply};
use split_drivers::SharedMemory;
use split_drivers::block::SECTOR;
use split_drivers::block::back::{Disk, Operation};

use super::access::VolumeDisk;
use super::transfer::{Step, look};
use crate::xen::Xen;

/// What was asked for, and how far it is.
pub struct Workload {
    wanted: Wanted,
    /// Places on the volume for an operation.
    places: u64,
    begun: u32,
    since: Option<u64>,
    said: bool,
}

impl Workload {
    /// Nothing begun, of a volume with so many bytes and sectors of `sector` bytes.
    ///
    /// # Errors
    ///
    /// If it is none that can be asked for.
    pub fn new(wanted: Wanted, bytes: u64, sector: u32) -> Result<Self, Error> {
        let good = (1..=Wanted::MAX_BYTES).contains(&wanted.bytes)
            && wanted.bytes.is_multiple_of(sector)
            && (1..=Wanted::MAX_DEPTH).contains(&wanted.depth)
            && (1..=Wanted::MAX_COUNT).contains(&wanted.count);
        let places = bytes.checked_div(wanted.bytes.into()).unwrap_or(0);
        if !good || places == 0 {
            return Err(Error::BadRequest("no such workload".into()));
        }
        Ok(Self {
            wanted,
            places,
            begun: 0,
            since: None,
            said: false,
        })
    }

    /// Goes on.
    ///
    /// # Errors
    ///
    /// If the disk failed.
    pub fn step<X: Xen>(
        &mut self,
        disk: &mut VolumeDisk<'_, '_, X>,
        name: &str,
    ) -> Result<Step, Error> {
        let now = disk.now();
        let since = *self.since.get_or_insert(now);
        look(disk, name)?;
        while self.begun < self.wanted.count && disk.under_way() < self.wanted.depth as usize {
            if !self.begin(disk) {
                return Ok(Step::Starved);
            }
        }
        Ok(if disk.under_way() > 0 {
            Step::Wait
        } else if self.said {
            Step::End
        } else {
            self.said = true;
            let ns = disk.now().saturating_sub(since);
            Step::Say(VolumeReply::Measured { ns })
        })
    }

    /// Begins the next operation; whether there was room for it.
    fn begin<X: Xen>(&mut self, disk: &mut VolumeDisk<'_, '_, X>) -> bool {
        let bytes = self.wanted.bytes as usize;
        let Some(buffer) = disk.buffer(bytes) else {
            return false;
        };
        let place = self.wanted.place(self.begun, self.places);
        let sector = place * (bytes / SECTOR) as u64;
        let operation = if self.wanted.write {
            // What is in it comes from somewhere for others, too.
            buffer.write(0, &vec![0; bytes]);
            Operation::Write {
                sector,
                bytes,
                buffer,
            }
        } else {
            Operation::Read {
                sector,
                bytes,
                buffer,
            }
        };
        let started = disk.start(self.begun.into(), operation).is_ok();
        self.begun += u32::from(started);
        started
    }
}
