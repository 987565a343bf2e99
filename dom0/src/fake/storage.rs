//! Disks of the model, and what guests grant.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, GrantRef};
use split_drivers::SharedMemory;
use split_drivers::block::SECTOR;
use split_drivers::block::back::{Finished, Operation};
use split_drivers::grants::{Copy, Place};

use super::{Fake, Mapping};
use crate::storage::{HostDisk, Storage};
use crate::xen::PAGE_SIZE;

/// The disks, and what is under way.
#[derive(Debug, Default)]
pub struct Disks {
    pub disks: Vec<HostDisk>,
    /// What is on each.
    pub contents: Vec<Vec<u8>>,
    /// Operations that were begun: the disk, the number, what it is.
    pub started: VecDeque<(usize, u64, Operation<Buffer>)>,
    finished: VecDeque<Finished<Buffer>>,
    /// Nothing that they are asked is done.
    pub broken: bool,
    /// What guests have granted: the machine frame of each.
    pub grants: BTreeMap<(Domid, GrantRef), u64>,
    /// Buffers in use.
    pub buffers: Rc<Cell<usize>>,
}

/// Memory for a transfer.
#[derive(Debug)]
pub struct Buffer {
    bytes: std::cell::RefCell<Vec<u8>>,
    count: Rc<Cell<usize>>,
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

impl SharedMemory for Buffer {
    fn size(&self) -> usize {
        self.bytes.borrow().len()
    }

    fn load_index(&self, _: usize) -> u32 {
        unreachable!("a buffer has no indices")
    }

    fn store_index(&self, _: usize, _: u32) {
        unreachable!("a buffer has no indices")
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.bytes.borrow()[offset..offset + bytes.len()]);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

impl Disks {
    /// Adds a disk of zeroes.
    pub fn add(&mut self, serial: &str, sectors: u64) {
        self.contents.push(vec![0; sectors as usize * SECTOR]);
        self.disks.push(HostDisk {
            serial: serial.into(),
            sectors,
            sector_size: 512,
            read_only: false,
            flush: true,
            discard: None,
            partitions: Vec::new(),
        });
    }

    /// Does the operation that was begun first; false if there is none.
    pub fn step(&mut self) -> bool {
        let Some((disk, tag, operation)) = self.started.pop_front() else {
            return false;
        };
        let content = &mut self.contents[disk];
        let buffer = match operation {
            _ if self.broken => None,
            Operation::Read {
                sector,
                bytes,
                buffer,
            } => {
                let start = sector as usize * SECTOR;
                buffer.write(0, &content[start..start + bytes]);
                Some(buffer)
            }
            Operation::Write {
                sector,
                bytes,
                buffer,
            } => {
                let start = sector as usize * SECTOR;
                buffer.read(0, &mut content[start..start + bytes]);
                None
            }
            Operation::Flush => None,
            Operation::Discard { .. } => unreachable!("no disk offers it"),
        };
        self.finished.push_back(Finished {
            tag,
            done: !self.broken,
            buffer,
        });
        true
    }
}

impl Fake {
    fn granted(&mut self, domid: Domid, gref: GrantRef) -> Option<Mapping> {
        let mfn = *self.storage.grants.get(&(domid, gref))?;
        let frame = self.frames.get(&mfn)?.clone();
        frame.mappings.set(frame.mappings.get() + 1);
        Some(Mapping {
            frames: vec![frame],
            foreign: true,
        })
    }
}

impl Storage for Fake {
    type Buffer = Buffer;
    type Granted = Mapping;

    fn disks(&self) -> &[HostDisk] {
        &self.storage.disks
    }

    fn buffer(&mut self, bytes: usize) -> Option<Buffer> {
        let count = self.storage.buffers.clone();
        count.set(count.get() + 1);
        Some(Buffer {
            bytes: vec![0xee; bytes].into(),
            count,
        })
    }

    fn start(
        &mut self,
        disk: usize,
        tag: u64,
        operation: Operation<Buffer>,
    ) -> Result<(), Operation<Buffer>> {
        self.storage.started.push_back((disk, tag, operation));
        Ok(())
    }

    fn finished(&mut self) -> Option<Finished<Buffer>> {
        self.storage.finished.pop_front()
    }

    fn map_ring(&mut self, domid: Domid, grants: &[GrantRef]) -> Result<Mapping, Errno> {
        self.call("map_grant_ref")?;
        let mut ring = Mapping {
            frames: Vec::new(),
            foreign: true,
        };
        for gref in grants {
            let mut page = self.granted(domid, *gref).ok_or(Errno::ENOENT)?;
            ring.frames.append(&mut page.frames);
        }
        Ok(ring)
    }

    fn map_pages(&mut self, domid: Domid, grants: &[GrantRef]) -> Vec<Option<Mapping>> {
        let page = |gref: &GrantRef| self.granted(domid, *gref);
        grants.iter().map(page).collect()
    }

    fn copy(&mut self, domid: Domid, copies: &[Copy<'_, Buffer, Mapping>]) -> Vec<bool> {
        copies
            .iter()
            .map(|copy| {
                let mapped;
                let page = match copy.page {
                    Place::Mapped(page) => page,
                    Place::Grant(gref) => match self.granted(domid, gref) {
                        Some(page) => {
                            mapped = page;
                            &mapped
                        }
                        None => return false,
                    },
                };
                assert!(copy.offset + copy.bytes <= PAGE_SIZE);
                let mut bytes = vec![0; copy.bytes];
                if copy.to_guest {
                    copy.buffer.read(copy.at, &mut bytes);
                    page.write(copy.offset, &bytes);
                } else {
                    page.read(copy.offset, &mut bytes);
                    copy.buffer.write(copy.at, &bytes);
                }
                true
            })
            .collect()
    }
}
