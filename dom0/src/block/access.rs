//! A use of a volume, and what is under way for whoever has it.

use alloc::collections::{BTreeMap, VecDeque};
use core::cell::RefCell;

use split_drivers::block::back::{Disk, Finished, Operation};

use super::volume::{Place, VolumeId, Volumes};
use crate::xen::Xen;

/// Operations under way: the use, and its own number for it.
pub type Tags = BTreeMap<u64, (u64, u64)>;

/// A use.
pub struct Access<B> {
    /// Its number among all there have ever been.
    pub key: u64,
    /// What is used.
    pub volume: VolumeId,
    finished: VecDeque<Finished<B>>,
    under_way: usize,
}

impl<B> Access<B> {
    /// A use by which nothing is under way.
    pub fn new(key: u64, volume: VolumeId) -> Self {
        Self {
            key,
            volume,
            finished: VecDeque::new(),
            under_way: 0,
        }
    }

    /// Operations of the volume that are under way.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// Takes what the volume has finished, and keeps it if somebody waits for it.
    pub fn take(&mut self, finished: Finished<B>, keep: bool) {
        self.under_way = self.under_way.saturating_sub(1);
        if keep {
            self.finished.push_back(finished);
        }
    }

    /// Whether something has finished that was not looked at.
    pub fn has_finished(&self) -> bool {
        !self.finished.is_empty()
    }

    /// Forgets what has finished.
    pub fn forget(&mut self) {
        self.finished.clear();
    }

    /// The volume, to be asked to do something.
    pub fn disk<'a, 'x, X: Xen<Buffer = B>>(
        &'a mut self,
        xen: &'a RefCell<&'x mut X>,
        volumes: &'a mut Volumes,
        tags: &'a mut Tags,
    ) -> VolumeDisk<'a, 'x, X> {
        VolumeDisk {
            xen,
            volumes,
            tags,
            access: self,
        }
    }
}

/// A volume, as one use has it.
pub struct VolumeDisk<'a, 'x, X: Xen> {
    xen: &'a RefCell<&'x mut X>,
    volumes: &'a mut Volumes,
    tags: &'a mut Tags,
    access: &'a mut Access<X::Buffer>,
}

impl<X: Xen> VolumeDisk<'_, '_, X> {
    /// Memory for a transfer; none as long as too much is in use.
    pub fn buffer(&self, bytes: usize) -> Option<X::Buffer> {
        self.xen.borrow_mut().buffer(bytes)
    }

    /// Nanoseconds since the host booted.
    pub fn now(&self) -> u64 {
        self.xen.borrow().now()
    }

    /// Operations that are under way.
    pub fn under_way(&self) -> usize {
        self.access.under_way
    }

    /// Whether operations of another use may still be under way, which is over.
    pub fn is_draining(&self) -> bool {
        self.volumes.is_draining(self.access.volume)
    }
}

impl<X: Xen> Disk for VolumeDisk<'_, '_, X> {
    type Buffer = X::Buffer;

    fn start(
        &mut self,
        tag: u64,
        operation: Operation<X::Buffer>,
    ) -> Result<(), Operation<X::Buffer>> {
        let Some(volume) = self.volumes.get(self.access.volume) else {
            return Err(operation);
        };
        match volume.place() {
            Place::Ram(ram) => {
                let buffer = ram.run(operation);
                self.access.finished.push_back(Finished {
                    tag,
                    done: true,
                    buffer,
                });
            }
            Place::Disk { disk, first } => {
                let operation = moved(operation, *first);
                // Numbers go up, so the next one is free.
                let number = self.tags.last_key_value().map_or(0, |(last, _)| last + 1);
                let first = *first;
                if let Err(back) = self.xen.borrow_mut().start(*disk, number, operation) {
                    return Err(moved(back, first.wrapping_neg()));
                }
                self.tags.insert(number, (self.access.key, tag));
                self.access.under_way += 1;
            }
        }
        Ok(())
    }

    fn finished(&mut self) -> Option<Finished<X::Buffer>> {
        self.access.finished.pop_front()
    }
}

/// An operation so many sectors further on.
fn moved<B>(mut operation: Operation<B>, by: u64) -> Operation<B> {
    match &mut operation {
        Operation::Read { sector, .. }
        | Operation::Write { sector, .. }
        | Operation::Discard { sector, .. } => *sector = sector.wrapping_add(by),
        Operation::Flush => {}
    }
    operation
}
