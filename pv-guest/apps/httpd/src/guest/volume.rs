//! The FAT volume on a disk: the whole of it, or its first partition.
//!
//! The crate that knows FAT reads blocks and does not wait; the disk has to be waited for. So blocks are
//! kept, and what misses one is done again once it is there.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};
use core::fmt;
use core::ops::ControlFlow;

use embedded_sdmmc::{
    Block, BlockCount, BlockDevice, BlockIdx, DirEntry, Directory, LfnBuffer, Mode, ShortFileName,
    TimeSource, Timestamp, VolumeIdx, VolumeManager,
};
use pv_guest::block::Disk;

/// Blocks that are read at a time.
const AHEAD: u32 = 64;
/// Blocks that are kept at most.
const KEPT: usize = 8192;
/// What a directory is shown as if it has this.
const INDEX: &str = "index.html";
/// The longest name in bytes: 255 characters.
const NAME: usize = 255 * 3;

/// Why something is not to be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// There is no such file.
    NotFound,
    /// The disk fails, or has no FAT volume.
    Disk,
}

/// What a path leads to.
#[derive(Debug)]
pub enum Found {
    /// A directory: the names in it.
    Directory(Vec<String>),
    /// A file.
    File {
        /// Its short names, from the root on.
        path: Vec<ShortFileName>,
        /// Its size in bytes.
        size: usize,
    },
}

/// The volume.
pub struct Volume {
    disk: Disk,
    blocks: Rc<Blocks>,
}

/// A block that has to be read first.
#[derive(Debug)]
struct Missing;

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not read yet")
    }
}

impl core::error::Error for Missing {}

/// The blocks that were read.
///
/// What the crate sees is a disk with one partition, behind a partition table of ours.
#[derive(Default)]
struct Blocks {
    kept: RefCell<BTreeMap<u32, [u8; Block::LEN]>>,
    missing: Cell<Option<u32>>,
    /// The volume's first block and its length, once they are known.
    place: Cell<Option<(u32, u32)>>,
}

impl Blocks {
    /// The partition table: one FAT volume behind it.
    fn table(length: u32) -> [u8; Block::LEN] {
        let mut table = [0; Block::LEN];
        let entry = &mut table[446..462];
        entry[4] = 0x0c;
        entry[8..12].copy_from_slice(&1_u32.to_le_bytes());
        entry[12..16].copy_from_slice(&length.to_le_bytes());
        table[510..].copy_from_slice(&[0x55, 0xaa]);
        table
    }
}

struct Device(Rc<Blocks>);

impl BlockDevice for Device {
    type Error = Missing;

    fn read(&self, blocks: &mut [Block], start: BlockIdx) -> Result<(), Missing> {
        let (first, length) = self.0.place.get().ok_or(Missing)?;
        let kept = self.0.kept.borrow();
        for (number, block) in (start.0..).zip(blocks) {
            let Some(behind) = number.checked_sub(1) else {
                block.contents = Blocks::table(length);
                continue;
            };
            let number = first.checked_add(behind).ok_or(Missing)?;
            match kept.get(&number) {
                Some(bytes) => block.contents = *bytes,
                None => {
                    self.0.missing.set(Some(number));
                    return Err(Missing);
                }
            }
        }
        Ok(())
    }

    fn write(&self, _: &[Block], _: BlockIdx) -> Result<(), Missing> {
        // Nothing here opens a file to write.
        Err(Missing)
    }

    fn num_blocks(&self) -> Result<BlockCount, Missing> {
        let (_, length) = self.0.place.get().ok_or(Missing)?;
        Ok(BlockCount(length.saturating_add(1)))
    }
}

/// No file is written, so no time is needed.
struct NoTime;

impl TimeSource for NoTime {
    fn get_timestamp(&self) -> Timestamp {
        Timestamp {
            year_since_1970: 0,
            zero_indexed_month: 0,
            zero_indexed_day: 0,
            hours: 0,
            minutes: 0,
            seconds: 0,
        }
    }
}

type Error = embedded_sdmmc::Error<Missing>;
type Folder<'a> = Directory<'a, Device, NoTime, 4, 4, 1>;

impl Volume {
    /// The volume of a disk, which need not be there yet.
    pub fn new(disk: Disk) -> Self {
        Self {
            disk,
            blocks: Rc::default(),
        }
    }

    /// Looks a path up, without regard to case.
    pub async fn find(&self, path: &str) -> Result<Found, Wrong> {
        let names: Vec<&str> = path
            .split('/')
            .filter(|name| !matches!(*name, "" | "."))
            .collect();
        self.run(|root| look_up(root, &names)).await
    }

    /// Reads a part of a file, which is to be as long.
    pub async fn read(
        &self,
        path: &[ShortFileName],
        from: usize,
        bytes: &mut [u8],
    ) -> Result<(), Wrong> {
        let from = u32::try_from(from).map_err(|_| Wrong::NotFound)?;
        self.run(|mut folder| {
            let (name, folders) = path.split_last().ok_or(Error::NotFound)?;
            for name in folders {
                folder.change_dir(name)?;
            }
            let file = folder.open_file_in_dir(name, Mode::ReadOnly)?;
            file.seek_from_start(from)?;
            let mut done = 0;
            while done < bytes.len() {
                match file.read(&mut bytes[done..])? {
                    0 => return Err(Error::EndOfFile),
                    count => done += count,
                }
            }
            Ok(())
        })
        .await
    }

    /// Does something with the root directory, as often as blocks are missing for it.
    async fn run<R>(
        &self,
        mut action: impl FnMut(Folder<'_>) -> Result<R, Error>,
    ) -> Result<R, Wrong> {
        if self.blocks.place.get().is_none() {
            self.find_place().await?;
        }
        loop {
            // A volume's handles do not outlast what missed a block.
            let manager = VolumeManager::<_, _, 4, 4, 1>::new_with_limits(
                Device(self.blocks.clone()),
                NoTime,
                0,
            );
            let result = manager
                .open_volume(VolumeIdx(0))
                .and_then(|volume| action(volume.open_root_dir()?));
            match result {
                Ok(result) => return Ok(result),
                Err(Error::NotFound | Error::OpenedDirAsFile | Error::OpenedFileAsDir) => {
                    return Err(Wrong::NotFound);
                }
                Err(Error::FilenameError(_)) => return Err(Wrong::NotFound),
                Err(_) => match self.blocks.missing.take() {
                    Some(number) => self.fetch(number).await?,
                    None => return Err(Wrong::Disk),
                },
            }
        }
    }

    /// Finds the volume: in the first partition of the disk, or from its first block on.
    async fn find_place(&self) -> Result<(), Wrong> {
        let device = self.disk.ready().await;
        let sectors = u32::try_from(device.sectors).unwrap_or(u32::MAX);
        self.fetch(0).await?;
        let kept = self.blocks.kept.borrow();
        let first = kept.get(&0).ok_or(Wrong::Disk)?;
        let word = |at: usize| {
            let bytes = first.get(at..at + 4)?;
            Some(u32::from_le_bytes(bytes.try_into().ok()?))
        };
        let whole = [54, 82].iter().any(|at| first[*at..].starts_with(b"FAT"));
        let place = match (whole, word(454), word(458)) {
            (true, _, _) => (0, sectors),
            (false, Some(start), Some(length)) if start > 0 && start < sectors => {
                (start, length.min(sectors - start))
            }
            _ => return Err(Wrong::Disk),
        };
        self.blocks.place.set(Some(place));
        Ok(())
    }

    /// Reads a block and some behind it.
    async fn fetch(&self, number: u32) -> Result<(), Wrong> {
        let device = self.disk.ready().await;
        let unit = (device.sector_size / 512).max(1);
        let first = u64::from(number - number % unit);
        let count = u64::from(AHEAD).min(device.sectors.saturating_sub(first));
        if count == 0 {
            return Err(Wrong::Disk);
        }
        let mut bytes = vec![0; count as usize * Block::LEN];
        let read = self.disk.read(first, &mut bytes).await;
        read.map_err(|_| Wrong::Disk)?;
        let mut kept = self.blocks.kept.borrow_mut();
        if kept.len() + AHEAD as usize > KEPT {
            kept.clear();
        }
        for (number, bytes) in (first..).zip(bytes.as_chunks().0) {
            kept.insert(number as u32, *bytes);
        }
        Ok(())
    }
}

fn look_up(mut folder: Folder<'_>, names: &[&str]) -> Result<Found, Error> {
    let mut path = Vec::new();
    for (nth, name) in names.iter().enumerate() {
        let entry = entry(&folder, name)?.ok_or(Error::NotFound)?;
        if entry.attributes.is_directory() {
            folder.change_dir(entry.name)?;
            path.push(entry.name);
        } else if nth + 1 == names.len() {
            return Ok(file(path, &entry));
        } else {
            return Err(Error::NotFound);
        }
    }
    if let Some(index) = entry(&folder, INDEX)?
        && !index.attributes.is_directory()
    {
        return Ok(file(path, &index));
    }
    let mut names = Vec::new();
    each(&folder, |entry, name| {
        let slash = if entry.attributes.is_directory() {
            "/"
        } else {
            ""
        };
        names.push(name + slash);
        ControlFlow::Continue(())
    })?;
    Ok(Found::Directory(names))
}

fn file(mut path: Vec<ShortFileName>, entry: &DirEntry) -> Found {
    path.push(entry.name);
    Found::File {
        path,
        size: entry.size as usize,
    }
}

/// The entry of that name, long or short.
fn entry(folder: &Folder<'_>, wanted: &str) -> Result<Option<DirEntry>, Error> {
    let mut found = None;
    each(folder, |entry, name| {
        let short = entry.name.to_string();
        if name.eq_ignore_ascii_case(wanted) || short.eq_ignore_ascii_case(wanted) {
            found = Some(entry.clone());
            return ControlFlow::Break(());
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

/// Goes through the files and directories in a directory, by their long names where they have such.
fn each(
    folder: &Folder<'_>,
    mut action: impl FnMut(&DirEntry, String) -> ControlFlow<()>,
) -> Result<(), Error> {
    let mut room = [0; NAME];
    let mut buffer = LfnBuffer::new(&mut room);
    folder.iterate_dir_lfn(&mut buffer, |entry, long| {
        let short = entry.name.to_string();
        if entry.attributes.is_volume() || matches!(short.as_str(), "." | "..") {
            return ControlFlow::Continue(());
        }
        action(entry, long.map_or(short, str::to_string))
    })
}
