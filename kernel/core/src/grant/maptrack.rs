//! [`MapTrack`]: a domain as the one to whom others grant: what it has mapped, by handle.

use alloc::sync::Weak;
use alloc::vec::Vec;

use hypercall_abi::types::{GrantHandle, GrantRef, Mfn};

use super::active::Uses;
use crate::domain::Domain;
use crate::hypervisor::Hypervisor;

/// Mappings that a unit of the limit stands for: those that Xen keeps in a frame.
const IN_FRAME: usize = 256;

/// A grant that is mapped.
///
/// The mapping for processors is a page-table entry, which has the counts of the frame: the domain's tables are taken
/// apart with it, and a domain that overwrites it has lost what it would give back. The mapping for devices is this
/// record alone, which then has counts of its own.
pub struct Mapping {
    /// Who grants it, unless that domain is gone.
    pub(super) granter: Weak<Domain>,
    /// Its grant.
    pub(super) reference: GrantRef,
    /// The frame.
    pub(super) mfn: Mfn,
    /// As it was asked for, `GNTMAP_*`.
    pub(super) flags: u32,
    /// Uses that are left.
    pub(super) uses: Uses,
}

enum Slot {
    /// Before this one on the list of those.
    Free(Option<u32>),
    /// For a mapping that is being made.
    Reserved,
    Used(Mapping),
}

/// A domain's mappings.
pub struct MapTrack {
    /// So many slots each.
    frames: Vec<Vec<Slot>>,
    free: Option<u32>,
}

impl MapTrack {
    /// None.
    pub(super) fn new() -> Self {
        Self {
            frames: Vec::new(),
            free: None,
        }
    }

    fn slot(&mut self, handle: u32) -> Option<&mut Slot> {
        let handle = handle as usize;
        let frame = self.frames.get_mut(handle / IN_FRAME)?;
        frame.get_mut(handle % IN_FRAME)
    }

    /// A handle for a mapping that is to be made; `None` where there is no room within `most` frames.
    pub(super) fn reserve(&mut self, hv: &Hypervisor, most: u32) -> Option<GrantHandle> {
        if self.free.is_none() {
            self.grow(hv, most)?;
        }
        let handle = self.free?;
        let slot = self.slot(handle)?;
        if let Slot::Free(next) = core::mem::replace(slot, Slot::Reserved) {
            self.free = next;
        }
        Some(GrantHandle(handle))
    }

    fn grow(&mut self, hv: &Hypervisor, most: u32) -> Option<()> {
        let first = self.frames.len() * IN_FRAME;
        if self.frames.len() >= most as usize {
            return None;
        }
        // The list of frames may have to move.
        let bytes = IN_FRAME * size_of::<Slot>() + 2 * size_of_val(self.frames.as_slice());
        hv.reserve_heap(bytes + 1024).ok()?;
        let mut slots = Vec::new();
        slots.try_reserve_exact(IN_FRAME).ok()?;
        self.frames.try_reserve(1).ok()?;
        let next = |index: usize| (index + 1 < IN_FRAME).then_some((first + index + 1) as u32);
        slots.extend((0..IN_FRAME).map(|index| Slot::Free(next(index))));
        self.frames.push(slots);
        self.free = Some(first as u32);
        Some(())
    }

    /// Puts a mapping where room was reserved for it.
    pub(super) fn put(&mut self, handle: GrantHandle, mapping: Mapping) {
        if let Some(slot) = self.slot(handle.0) {
            *slot = Slot::Used(mapping);
        }
    }

    /// The mapping with this handle.
    pub(super) fn get(&mut self, handle: GrantHandle) -> Option<&mut Mapping> {
        match self.slot(handle.0)? {
            Slot::Used(mapping) => Some(mapping),
            Slot::Free(_) | Slot::Reserved => None,
        }
    }

    /// Gives a handle back.
    pub(super) fn release(&mut self, handle: GrantHandle) {
        let next = self.free;
        if let Some(slot) = self.slot(handle.0) {
            *slot = Slot::Free(next);
            self.free = Some(handle.0);
        }
    }

    /// Takes mappings out of the record of a domain that makes none any more, and gives one.
    pub(super) fn pop(&mut self) -> Option<Mapping> {
        self.free = None;
        while let Some(frame) = self.frames.last_mut() {
            while let Some(slot) = frame.pop() {
                if let Slot::Used(mapping) = slot {
                    return Some(mapping);
                }
            }
            self.frames.pop();
        }
        None
    }

    /// All mappings.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn all(&self) -> impl Iterator<Item = &Mapping> {
        let slots = self.frames.iter().flatten();
        slots.filter_map(|slot| match slot {
            Slot::Used(mapping) => Some(mapping),
            _ => None,
        })
    }
}
