//! A disk, for tests and fuzzing, and peers that do whatever some bytes say.

use std::collections::VecDeque;

use hypercall_abi::io::blkif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::IntoBytes;

use super::back::{Back, Disk, Finished, Operation};
use super::front::{Front, Refused, Request};
use super::{Device, Discard, PAGE, SECTOR};
use crate::SharedMemory;
use crate::grants::Pages;
use crate::world::{Buffer, Choices, ENTRIES, Guest, GuestPage, Host, INDICES, Memory};

/// A disk that does things in whatever order it is told.
#[derive(Debug)]
pub struct Platter {
    device: Device,
    /// What is on it.
    pub bytes: Vec<u8>,
    started: Vec<(u64, Operation<Buffer>)>,
    finished: VecDeque<Finished<Buffer>>,
    /// How many operations it takes at a time.
    pub depth: usize,
    /// Flushes done.
    pub flushes: usize,
    /// Tags of the operations, in the order in which they were done.
    pub done: Vec<&'static str>,
}

impl Platter {
    /// A disk as `device` says, all zeroes.
    pub fn new(device: Device) -> Self {
        Self {
            device,
            bytes: vec![0; device.sectors as usize * SECTOR],
            started: Vec::new(),
            finished: VecDeque::new(),
            depth: 4,
            flushes: 0,
            done: Vec::new(),
        }
    }

    /// Does one of the operations begun, or fails it; false if there is none.
    pub fn step(&mut self, pick: usize, fail: bool) -> bool {
        if self.started.is_empty() {
            return false;
        }
        let (tag, operation) = self.started.swap_remove(pick % self.started.len());
        let place = |sector: u64, bytes: usize| {
            let start = sector as usize * SECTOR;
            start..start + bytes
        };
        let (name, buffer) = match operation {
            Operation::Read {
                sector,
                bytes,
                buffer,
            } => {
                if !fail {
                    buffer.write(0, &self.bytes[place(sector, bytes)]);
                }
                ("read", Some(buffer))
            }
            Operation::Write {
                sector,
                bytes,
                buffer,
            } => {
                if !fail {
                    buffer.read(0, &mut self.bytes[place(sector, bytes)]);
                }
                ("write", None)
            }
            Operation::Flush => {
                self.flushes += 1;
                ("flush", None)
            }
            Operation::Discard { sector, count, .. } => {
                self.bytes[place(sector, count as usize * SECTOR)].fill(0);
                ("discard", None)
            }
        };
        self.done.push(name);
        let done = !fail;
        self.finished.push_back(Finished { tag, done, buffer });
        true
    }
}

impl Disk for Platter {
    type Buffer = Buffer;

    fn start(&mut self, tag: u64, operation: Operation<Buffer>) -> Result<(), Operation<Buffer>> {
        let good = match &operation {
            Operation::Read {
                sector,
                bytes,
                buffer,
            } => self.device.contains(*sector, (*bytes / SECTOR) as u64) && *bytes <= buffer.size(),
            Operation::Write {
                sector,
                bytes,
                buffer,
            } => {
                self.device.contains(*sector, (*bytes / SECTOR) as u64)
                    && *bytes <= buffer.size()
                    && !self.device.read_only
            }
            Operation::Flush => self.device.flush,
            Operation::Discard { sector, count, .. } => {
                self.device.discard.is_some()
                    && self.device.contains(*sector, *count)
                    && !self.device.read_only
            }
        };
        assert!(good, "the disk was asked for what it is not: {operation:?}");
        if self.started.len() >= self.depth {
            return Err(operation);
        }
        self.started.push((tag, operation));
        Ok(())
    }

    fn finished(&mut self) -> Option<Finished<Buffer>> {
        self.finished.pop_front()
    }
}

/// A disk of so many sectors, with everything that can be had.
pub fn device(sectors: u64, sector_size: u32) -> Device {
    Device {
        sectors,
        sector_size,
        physical_sector_size: sector_size,
        read_only: false,
        flush: true,
        barrier: true,
        discard: Some(Discard {
            granularity: sector_size,
            alignment: 0,
            secure: false,
        }),
        max_indirect: 64,
        persistent: true,
    }
}

/// A frontend that does what `bytes` say, against the backend: what is wrong panics.
pub fn hostile_front(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    // Beyond the end, the choices are over.
    let _ = play_front(&mut choices);
}

fn play_front(choices: &mut Choices<'_>) -> Option<()> {
    let kind = choices.byte()?;
    let mut device = device(256, if kind & 1 == 0 { 512 } else { 4096 });
    device.read_only = kind & 2 != 0;
    device.flush = kind & 8 == 0;
    let mut guest = Guest::default();
    let mut host = Host::new(&guest);
    let mut disk = Platter::new(device);
    let before = disk.bytes.clone();
    let mut pages: Vec<GuestPage> = (0..8).filter_map(|nth| guest.page(nth % 3 == 0)).collect();
    let rings = [Memory::new(PAGE), Memory::new(2 * PAGE)];
    let mut back = Back::attach(device, rings.to_vec(), kind & 4 != 0).ok()?;
    let mut closed = false;
    while let Some(strike) = choices.byte() {
        let ring = &rings[usize::from(strike >> 7)];
        match strike % 10 {
            0 => ring.store_index(INDICES[choices.index(4)?], choices.word()?),
            1 => {
                let index = INDICES[choices.index(4)?];
                let value = ring.load_index(index).wrapping_add(choices.byte()?.into());
                ring.store_index(index, value);
            }
            2 => {
                let place = ENTRIES + choices.index(32)? * BLKIF_ENTRY_SIZE;
                ring.write(place, &choices.bytes::<BLKIF_ENTRY_SIZE>()?);
            }
            // Something that may be good, at the place of the next request.
            3..=5 => {
                let place = ring.load_index(0) as usize % 32;
                let entry = entry(choices, &pages)?;
                ring.write(ENTRIES + place * BLKIF_ENTRY_SIZE, &entry);
                ring.store_index(0, ring.load_index(0).wrapping_add(1));
            }
            6 => {
                let page = &pages[choices.index(pages.len())?];
                let offset = choices.index(128)? * 8;
                page.write(offset, &segment(choices, &pages)?);
            }
            7 => {
                let nth = choices.index(pages.len())?;
                pages[nth] = guest.page(choices.byte()? & 1 == 0)?;
            }
            8 => _ = disk.step(choices.byte()?.into(), strike & 64 != 0),
            _ => {
                let result = back.turn(&mut host, &mut disk, choices.index(40)?);
                assert!(!closed || result.is_ok(), "it was closed before");
                closed |= result.is_err();
            }
        }
    }
    back.close();
    drop(pages);
    for _ in 0..1000 {
        _ = back.turn(&mut host, &mut disk, 16);
        if !disk.step(0, false) && back.is_idle() {
            break;
        }
    }
    assert!(back.is_idle(), "requests are left: {back:?}");
    drop(back);
    assert_eq!(host.room.get(), 2 << 20, "buffers are left");
    if device.read_only {
        assert!(disk.bytes == before, "a read-only disk was written to");
    }
    Some(())
}

fn gref(choices: &mut Choices<'_>, pages: &[GuestPage]) -> Option<GrantRef> {
    let choice = choices.byte()?;
    Some(match pages.get(usize::from(choice)) {
        Some(page) => page.gref,
        None if choice < 200 => pages[usize::from(choice) % pages.len()].gref,
        None => GrantRef(u32::from(choice) << (choice & 24)),
    })
}

fn segment(choices: &mut Choices<'_>, pages: &[GuestPage]) -> Option<[u8; 8]> {
    let [first, last] = choices.bytes()?;
    let segment = BlkifRequestSegment {
        gref: gref(choices, pages)?,
        // Mostly good, and else just behind the end.
        first_sect: if first < 250 { first % 8 } else { first - 242 },
        last_sect: if last < 250 { last % 8 } else { last - 242 },
        _pad0: 0,
    };
    segment.as_bytes().try_into().ok()
}

fn entry(choices: &mut Choices<'_>, pages: &[GuestPage]) -> Option<[u8; BLKIF_ENTRY_SIZE]> {
    let [operation, count, sector] = choices.bytes()?;
    let sector_number = match sector {
        255 => u64::MAX - 3,
        sector => u64::from(sector) * 8 / 8,
    };
    let mut entry = [0; BLKIF_ENTRY_SIZE];
    let mut put = |bytes: &[u8]| entry[..bytes.len()].copy_from_slice(bytes);
    match operation % 8 {
        BLKIF_OP_DISCARD => put(BlkifRequestDiscard {
            operation: BLKIF_OP_DISCARD,
            flag: count & 1,
            id: choices.byte()?.into(),
            sector_number,
            nr_sectors: choices.byte()?.into(),
            ..Default::default()
        }
        .as_bytes()),
        BLKIF_OP_INDIRECT => {
            let mut request = BlkifRequestIndirect {
                operation: BLKIF_OP_INDIRECT,
                indirect_op: choices.byte()? % 4,
                nr_segments: u16::from(count) % 80,
                id: choices.byte()?.into(),
                sector_number,
                ..Default::default()
            };
            request.indirect_grefs[0] = gref(choices, pages)?;
            put(request.as_bytes());
        }
        operation => {
            let mut request = BlkifRequest {
                operation,
                nr_segments: count % 14,
                id: choices.byte()?.into(),
                sector_number,
                ..Default::default()
            };
            for place in request.seg.iter_mut().take((count % 14).into()) {
                let bytes = segment(choices, pages)?;
                *place = zerocopy::FromBytes::read_from_bytes(&bytes).ok()?;
            }
            put(request.as_bytes());
        }
    }
    Some(entry)
}

/// A backend that does what `bytes` say, against the frontend: what is wrong panics.
pub fn hostile_back(bytes: &[u8]) {
    let mut choices = Choices(bytes);
    let _ = play_back(&mut choices);
}

fn play_back(choices: &mut Choices<'_>) -> Option<()> {
    let kind = choices.byte()?;
    let device = device(256, if kind & 1 == 0 { 512 } else { 4096 });
    let mut guest = Guest::default();
    let rings = [Memory::new(PAGE), Memory::new(PAGE)];
    let mut front = Front::new(rings.to_vec(), kind & 2 != 0);
    front.start(device);
    let mut asked = Vec::new();
    let mut ended = Vec::new();
    while let Some(strike) = choices.byte() {
        let queue = usize::from(strike >> 7);
        let ring = &rings[queue];
        match strike % 8 {
            0 | 1 => {
                let sector = u64::from(choices.byte()?) & !7;
                let count = choices.index(120)?;
                let data = vec![0x5a; count * SECTOR];
                let request = match strike & 0x60 {
                    0 => Request::Read { sector, count },
                    0x20 => Request::Write {
                        sector,
                        bytes: &data,
                    },
                    0x40 => Request::Flush,
                    _ => Request::Discard {
                        sector,
                        count: count as u64,
                        secure: false,
                    },
                };
                match front.submit(&mut guest, queue, request) {
                    Ok(id) => asked.push(id),
                    Err(refused) => assert_ne!(refused, Refused::NoPages),
                }
            }
            2 => _ = front.publish(queue),
            3 => ring.store_index(INDICES[choices.index(4)?], choices.word()?),
            // A response, mostly to something that was asked.
            4 | 5 => {
                let place = ENTRIES + ring.load_index(8) as usize % 32 * BLKIF_ENTRY_SIZE;
                let response = BlkifResponse {
                    id: choices.byte()?.into(),
                    operation: choices.byte()? % 8,
                    status: i16::from(choices.byte()? as i8) / 32,
                    ..Default::default()
                };
                ring.write(place, response.as_bytes());
                ring.store_index(8, ring.load_index(8).wrapping_add(1));
            }
            6 => {
                let grefs: Vec<GrantRef> = guest.table.borrow().keys().copied().collect();
                if let Some(gref) = grefs.get(choices.index(grefs.len().max(1))?) {
                    let (page, _) = guest.granted(*gref)?;
                    page.write(choices.index(PAGE)?, &[choices.byte()?]);
                }
            }
            _ => match front.turn() {
                Ok(ids) => {
                    for id in ids {
                        assert!(asked.contains(&id) && !ended.contains(&id), "{id:?}");
                        ended.push(id);
                        let mut into = vec![0; 64 * 1024];
                        assert!(front.take(id, &mut into).is_some());
                        assert!(front.take(id, &mut into).is_none(), "a result comes once");
                    }
                }
                Err(_) => break,
            },
        }
    }
    for id in front.fail() {
        assert!(asked.contains(&id) && !ended.contains(&id));
        assert!(front.take(id, &mut []).is_some());
    }
    drop(front);
    assert_eq!(guest.grants(), 0, "grants are left");
    Some(())
}
