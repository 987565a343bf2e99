//! What is on a volume, written or read on behalf of xl.
//!
//! Few operations are under way at a time, and no more is kept than these are about: whoever sends waits until
//! his bytes are on their way to the disk, and whoever reads slowly has little read for him. So guests have
//! the rest of the disk, and nobody's memory is used up.

use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::cell::RefCell;

use control::volume::VOLUME_CHUNK;
use control::{Error, Request, VolumeReply, VolumeRequest};
use split_drivers::SharedMemory;
use split_drivers::block::SECTOR;
use split_drivers::block::back::{Disk, Finished, Operation};

use super::access::{Access, Tags, VolumeDisk};
use super::volume::Volumes;
use super::workload::Workload;
use crate::xen::Xen;

/// Most operations under way for one transfer.
const MOST: usize = 4;
/// The number of the flush; others have the number of their chunk.
const FLUSH: u64 = u64::MAX;

/// What comes next of a transfer.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing, until the volume has done something or the client has sent something.
    Wait,
    /// Nothing, until there is room somewhere.
    Starved,
    /// The request was taken.
    Taken,
    /// This is for the client.
    Say(VolumeReply),
    /// All is done.
    End,
}

/// A transfer.
pub struct Transfer<B> {
    /// What is under way for it.
    pub access: Access<B>,
    name: String,
    bytes: u64,
    task: Task,
    starved: bool,
}

enum Task {
    Import(Import),
    Export(Export),
    Measure(Workload),
}

struct Import {
    /// What was begun to be written.
    begun: u64,
    /// Bytes of a sector.
    sector: usize,
    /// What was written has to be made permanent.
    flush: bool,
}

#[derive(Default)]
struct Export {
    /// What was begun to be read.
    begun: u64,
    /// Chunks that were sent.
    sent: u64,
    /// Those behind them, as far as they are read.
    chunks: VecDeque<Option<Vec<u8>>>,
}

impl<B: SharedMemory> Transfer<B> {
    /// Writes so many bytes to a volume with sectors of `sector` bytes.
    pub fn import(access: Access<B>, name: &str, bytes: u64, sector: u32, flush: bool) -> Self {
        let task = Task::Import(Import {
            begun: 0,
            sector: sector as usize,
            flush,
        });
        Self::new(access, name, bytes, task)
    }

    /// Reads all that a volume of so many bytes has.
    pub fn export(access: Access<B>, name: &str, bytes: u64) -> Self {
        Self::new(access, name, bytes, Task::Export(Export::default()))
    }

    /// Does something to a volume for as long as it takes.
    pub fn measure(access: Access<B>, name: &str, workload: Workload) -> Self {
        Self::new(access, name, 0, Task::Measure(workload))
    }

    /// Whether it only measures.
    pub fn is_measurement(&self) -> bool {
        matches!(self.task, Task::Measure(_))
    }

    fn new(access: Access<B>, name: &str, bytes: u64, task: Task) -> Self {
        Self {
            access,
            name: name.into(),
            bytes,
            task,
            starved: false,
        }
    }

    /// Whether it waits for room somewhere.
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Goes on, with the client's `next` request if one has come.
    ///
    /// # Errors
    ///
    /// That the volume failed, or that the request is none that may come here. That is the end.
    pub fn step<X: Xen<Buffer = B>>(
        &mut self,
        xen: &mut X,
        volumes: &mut Volumes,
        tags: &mut Tags,
        next: Option<&Request>,
    ) -> Result<Step, Error> {
        let xen = RefCell::new(xen);
        let mut disk = self.access.disk(&xen, volumes, tags);
        let (name, bytes) = (&self.name, self.bytes);
        let step = match &mut self.task {
            // What the use before this one has left under way would come in between.
            _ if disk.is_draining() => Step::Starved,
            Task::Import(import) => import.step(&mut disk, name, bytes, next)?,
            Task::Export(export) => export.step(&mut disk, name, bytes)?,
            Task::Measure(workload) => workload.step(&mut disk, name)?,
        };
        self.starved = step == Step::Starved;
        Ok(step)
    }
}

impl Import {
    fn step<X: Xen>(
        &mut self,
        disk: &mut VolumeDisk<'_, '_, X>,
        name: &str,
        bytes: u64,
        next: Option<&Request>,
    ) -> Result<Step, Error> {
        look(disk, name)?;
        let left = bytes - self.begun;
        if left > 0 {
            let chunk = match next {
                None => return Ok(Step::Wait),
                Some(Request::Volume(VolumeRequest::Chunk(chunk))) => chunk,
                Some(_) => return Err(bad("the import was not finished")),
            };
            if chunk.len() as u64 != left.min(VOLUME_CHUNK as u64) {
                return Err(bad("a chunk of another length than it should have"));
            }
            if disk.under_way() >= MOST {
                return Ok(Step::Wait);
            }
            return Ok(match self.write(disk, chunk) {
                true => Step::Taken,
                false => Step::Starved,
            });
        }
        if disk.under_way() > 0 {
            return Ok(Step::Wait);
        }
        if self.flush {
            if disk.start(FLUSH, Operation::Flush).is_err() {
                return Ok(Step::Starved);
            }
            self.flush = false;
            look(disk, name)?;
        }
        Ok(match disk.under_way() {
            0 => Step::End,
            _ => Step::Wait,
        })
    }

    /// Begins to write the next chunk; whether there was room for that.
    fn write<X: Xen>(&mut self, disk: &mut VolumeDisk<'_, '_, X>, chunk: &[u8]) -> bool {
        let whole = chunk.len().next_multiple_of(self.sector);
        let Some(buffer) = disk.buffer(whole) else {
            return false;
        };
        buffer.write(0, chunk);
        // What else is in the buffer is none of this volume's business.
        buffer.write(chunk.len(), &vec![0; whole - chunk.len()]);
        let write = Operation::Write {
            sector: self.begun / SECTOR as u64,
            bytes: whole,
            buffer,
        };
        let started = disk.start(self.begun / VOLUME_CHUNK as u64, write).is_ok();
        if started {
            self.begun += chunk.len() as u64;
        }
        started
    }
}

impl Export {
    fn step<X: Xen>(
        &mut self,
        disk: &mut VolumeDisk<'_, '_, X>,
        name: &str,
        bytes: u64,
    ) -> Result<Step, Error> {
        let mut starved = false;
        while self.begun < bytes && self.chunks.len() < MOST && !starved {
            starved = !self.read(disk, bytes - self.begun);
        }
        while let Some(finished) = disk.finished() {
            let nth = check(&finished, name)?.wrapping_sub(self.sent) as usize;
            let length = self.length(finished.tag, bytes);
            let mut chunk = vec![0; length];
            match (self.chunks.get_mut(nth), finished.buffer) {
                (Some(place), Some(buffer)) => {
                    buffer.read(0, &mut chunk);
                    *place = Some(chunk);
                }
                _ => return Err(Error::VolumeFailed(name.into())),
            }
        }
        Ok(match self.chunks.front_mut().map(Option::take) {
            Some(Some(chunk)) => {
                self.chunks.pop_front();
                self.sent += 1;
                Step::Say(VolumeReply::Chunk(chunk))
            }
            Some(None) if !starved => Step::Wait,
            None if self.begun == bytes => Step::End,
            _ => Step::Starved,
        })
    }

    /// Begins to read the next chunk, of the bytes that are left; whether there was room for that.
    fn read<X: Xen>(&mut self, disk: &mut VolumeDisk<'_, '_, X>, left: u64) -> bool {
        let bytes = left.min(VOLUME_CHUNK as u64) as usize;
        let Some(buffer) = disk.buffer(bytes) else {
            return false;
        };
        let read = Operation::Read {
            sector: self.begun / SECTOR as u64,
            bytes,
            buffer,
        };
        let started = disk.start(self.begun / VOLUME_CHUNK as u64, read).is_ok();
        if started {
            self.begun += bytes as u64;
            self.chunks.push_back(None);
        }
        started
    }

    /// The length of the chunk of that number.
    fn length(&self, number: u64, bytes: u64) -> usize {
        let at = number.saturating_mul(VOLUME_CHUNK as u64);
        bytes.saturating_sub(at).min(VOLUME_CHUNK as u64) as usize
    }
}

/// Looks at what has finished.
///
/// # Errors
///
/// If something of that was not done.
pub fn look<X: Xen>(disk: &mut VolumeDisk<'_, '_, X>, name: &str) -> Result<(), Error> {
    while let Some(finished) = disk.finished() {
        check(&finished, name)?;
    }
    Ok(())
}

/// The number of an operation that was done.
fn check<B>(finished: &Finished<B>, name: &str) -> Result<u64, Error> {
    match finished.done {
        true => Ok(finished.tag),
        false => Err(Error::VolumeFailed(name.into())),
    }
}

fn bad(why: &str) -> Error {
    Error::BadRequest(why.into())
}
