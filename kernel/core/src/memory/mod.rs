//! Machine memory: who owns each frame, what it may be used for, and who still refers to it.
//!
//! Every frame of RAM that is not private to the machine has one [`Frame`] record with two counts:
//!
//! - The *reference count* says how many things keep the frame from going back to the heap: the owner's
//!   allocation itself, and every page-table entry, registered structure or hypercall in progress that names it.
//!   A frame whose count is zero is in the heap (or on its way there) and cannot be referred to.
//! - The *type count* says how many of these references depend on what the frame is: a page table of some level,
//!   a descriptor table, or writable. A frame has one type at a time, and changes it only while nobody depends on
//!   it. That alone keeps a guest from writing to a page table that the processor walks: to be a page table the
//!   frame must have no writable mapping, and while it is one it gets none.
//!
//! Taking a type as a page table *validates* the frame: each of its entries is checked and takes the reference
//! and the type that it implies in the frame it names, so that the counts always equal what the tables say.
//! Giving the last one back takes the entries' references away again. Both take time, as large as a tree of tables
//! can be, and so are done in pieces: [`type_word`] has the rules, [`teardown`] says who does the rest.
//!
//! [`FrameRef`] and [`TypedRef`] are these counts as values: getting one counts up, dropping it counts down, and
//! storing a page-table entry turns it into bits ([`TypedRef::into_bits`]) that a later overwrite turns back.

#[cfg(test)]
mod advisories;
mod claim;
mod frame;
mod heap;
mod linear;
mod loose;
mod owner;
mod page_table;
mod pin;
mod pte;
#[cfg(any(test, fuzzing))]
pub(crate) mod recount;
mod renew;
#[cfg(any(test, fuzzing))]
pub mod search;
mod teardown;
mod type_word;
mod unowned;
mod walk;

pub use claim::Wanted;
pub use frame::{Frame, FrameRef, FrameState, FrameType, TypedRef};
pub use heap::MAX_ORDER;
pub use loose::{Held, LooseEntry};
pub use owner::Owner;
pub use page_table::{Updated, is_guest_slot};
pub use pte::{Level, Pte};
pub use renew::{Renewed, Way};
pub use type_word::Stage;
pub use unowned::Unowned;
pub use walk::L1Slot;

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hv_machine::{MachineRef, MemoryKind, PAGE_SHIFT, PAGE_SIZE, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use crate::lock::{Mutex, RwLock, rank};
use frame::List;
use heap::Heap;

/// Frames that are scrubbed at a time when memory is wanted at once.
const SCRUB_BATCH: u64 = 512;

/// The frame table, the heap, and the owners of frames.
pub struct Memory {
    machine: MachineRef,
    /// A record for every frame number below the highest of RAM; [`None`] in effect (see [`Self::frame`]) for
    /// frames that are private to the machine or no RAM at all.
    frames: Vec<Slot>,
    heap: Mutex<Heap, { rank::HEAP }>,
    /// Free frames that are not scrubbed yet, to which some CPU may still translate, and which so are not in the
    /// heap: linked through the frame table.
    dirty: Mutex<List, { rank::DIRTY }>,
    /// Free frames on the way from there to the heap. Changed under the lock of where they come from or go to.
    scrubbing: AtomicU64,
    /// Free frames that owners have a claim on. Held while an owner is given frames, too.
    claimed: Mutex<u64, { rank::CLAIMS }>,
    owners: RwLock<BTreeMap<Domid, Arc<Owner>>, { rank::OWNERS }>,
    total: u64,
}

/// A frame's record, and whether the hypervisor manages the frame at all.
struct Slot {
    managed: bool,
    frame: Frame,
}

impl Memory {
    /// Takes all RAM that is neither private to the machine nor a boot module into the heap, with whatever was in
    /// it before the machine started; see [`Self::distrust_free_frames`].
    pub fn new(machine: MachineRef) -> Self {
        let limit = machine.frame_limit();
        let mut heap = Heap::new(limit);
        let mut frames = Vec::with_capacity(limit as usize);
        frames.resize_with(limit as usize, || Slot {
            managed: false,
            frame: Frame::new(),
        });
        let mut total = 0;
        for region in machine
            .memory_map()
            .iter()
            .filter(|region| region.kind == MemoryKind::Ram)
        {
            let first = region.base.div_ceil(PAGE_SIZE as u64);
            let end = (region.base.saturating_add(region.size) >> PAGE_SHIFT).min(limit);
            for number in first..end {
                if machine.is_private(Mfn(number)) {
                    continue;
                }
                if let Some(slot) = frames.get_mut(number as usize) {
                    slot.managed = true;
                    total += 1;
                }
                let in_module = |module: &hv_machine::BootModule| {
                    let end = module.first.0 + module.len.div_ceil(PAGE_SIZE as u64);
                    (module.first.0..end).contains(&number)
                };
                if !machine.boot_modules().iter().any(in_module) {
                    heap.free(Mfn(number), 0);
                }
            }
        }
        Self {
            machine,
            frames,
            heap: Mutex::new(heap),
            dirty: Mutex::new(List::EMPTY),
            scrubbing: AtomicU64::new(0),
            claimed: Mutex::new(0),
            owners: RwLock::new(BTreeMap::new()),
            total,
        }
    }

    /// Frames that the hypervisor manages.
    pub fn total_frames(&self) -> u64 {
        self.total
    }

    /// Frames that nobody owns.
    pub fn free_frames(&self) -> u64 {
        let heap = self.heap.lock();
        let dirty = self.dirty.lock();
        heap.free_frames() + dirty.len + self.scrubbing.load(Ordering::Relaxed)
    }

    /// Frames that nobody owns and that [`Self::scrub`] has not been at.
    pub fn dirty_frames(&self) -> u64 {
        self.dirty.lock().len
    }

    /// Scrubs up to `most` free frames and puts them on the heap; gives how many.
    ///
    /// A guest that freed a frame may have kept a translation to it, through which it would write to the frame after
    /// it was scrubbed: every CPU that has not flushed since forgets those first.
    pub fn scrub(&self, most: u64) -> u64 {
        let mut batch = List::EMPTY;
        let mut freed = 0;
        {
            let mut dirty = self.dirty.lock();
            while batch.len < most {
                let mfn = Mfn(u64::from(dirty.head));
                let Some(frame) = self.frame(mfn) else { break };
                self.unlink(mfn, frame, &mut dirty);
                self.link(mfn, frame, &mut batch);
                freed = freed.max(self.last_use(frame));
            }
            self.scrubbing.fetch_add(batch.len, Ordering::Relaxed);
        }
        let done = batch.len;
        if done > 0 {
            self.flush_since(freed);
        }
        while let Some(frame) = self.frame(Mfn(u64::from(batch.head))) {
            let mfn = Mfn(u64::from(batch.head));
            self.unlink(mfn, frame, &mut batch);
            self.machine.zero_frame(mfn);
            let mut heap = self.heap.lock();
            heap.free(mfn, 0);
            self.scrubbing.fetch_sub(1, Ordering::Relaxed);
        }
        done
    }

    /// Has all that is in the heap scrubbed before anybody gets it. What is taken before holds what it held when the
    /// machine started: before a warm restart it may have been another system's.
    pub fn distrust_free_frames(&self) {
        let mut heap = self.heap.lock();
        let mut dirty = self.dirty.lock();
        for order in (0..=MAX_ORDER).rev() {
            while let Some(first) = heap.allocate(order, u64::MAX) {
                for number in first.0..first.0 + (1 << order) {
                    if let Some(frame) = self.frame(Mfn(number)) {
                        self.link(Mfn(number), frame, &mut dirty);
                    }
                }
            }
        }
    }

    /// Takes a block from the heap, for which free frames are scrubbed as needed.
    fn take_block(&self, order: u32, limit: u64) -> Option<Mfn> {
        loop {
            let block = self.heap.lock().allocate(order, limit);
            if block.is_some() || self.scrub(SCRUB_BATCH) == 0 {
                return block;
            }
        }
    }

    /// Frames that nobody owns from frame `low` up to, not including, frame `high`.
    pub fn free_frames_between(&self, low: u64, high: u64) -> u64 {
        self.heap.lock().free_frames_between(low, high)
    }

    /// Whether the hypervisor manages the frame: it is RAM and not private to the machine.
    pub fn is_ram(&self, mfn: Mfn) -> bool {
        self.frame(mfn).is_some()
    }

    /// Opens an account for a domain.
    pub fn create_owner(&self, id: Domid, max_frames: u64) -> Arc<Owner> {
        let owner = Arc::new(Owner::new(id, max_frames));
        self.owners.write().insert(id, owner.clone());
        owner
    }

    /// Closes the account of a domain that owns nothing any more.
    pub fn remove_owner(&self, id: Domid) {
        self.owners.write().remove(&id);
    }

    /// The account of a domain.
    pub fn owner(&self, id: Domid) -> Option<Arc<Owner>> {
        self.owners.read().get(&id).cloned()
    }

    /// Takes a frame for an owner that serves the hypervisor (its shared-info page, its grant table): outside its limit,
    /// in no physical map, and for as long as it lives a writable page, so that it cannot become a table.
    ///
    /// # Errors
    /// `ENOMEM` where the heap is empty.
    pub fn allocate_shared(&self, owner: &Owner) -> Result<Mfn, Errno> {
        let mfn = self.take_block(0, u64::MAX).ok_or(Errno::ENOMEM)?;
        // Dom0's is taken before all free memory is scrubbed.
        self.machine.zero_frame(mfn);
        self.machine.set_m2p(mfn, u64::MAX);
        owner.count_shared(1);
        self.assign(mfn, 1, owner);
        self.get_typed(mfn, owner.id, FrameType::Writable)?
            .into_bits();
        Ok(mfn)
    }

    /// Gives back what [`Self::allocate_shared`] took; the frame is freed once no guest maps it.
    pub fn release_shared(&self, mfn: Mfn) {
        if let Some(owner) = self.owner_of(mfn).and_then(|id| self.owner(id)) {
            owner.count_shared(-1);
        }
        drop(self.adopt_typed(mfn, FrameType::Writable));
    }

    /// Takes a block for the machine's own heap, which never comes back.
    pub fn donate_to_machine(&self, order: u32) -> bool {
        let Some(first) = self.take_block(order, u64::MAX) else {
            return false;
        };
        self.machine.donate_to_heap(first, order);
        true
    }

    /// Gives the frames of a boot module that is not needed any more to the heap.
    pub fn free_boot_frames(&self, first: Mfn, frames: u64) {
        for number in first.0..first.0.saturating_add(frames) {
            if let Some(frame) = self.frame(Mfn(number)) {
                self.free(Mfn(number), frame);
            }
        }
    }

    /// The record of a frame that the hypervisor manages.
    #[inline]
    fn frame(&self, mfn: Mfn) -> Option<&Frame> {
        let slot = self.frames.get(usize::try_from(mfn.0).ok()?)?;
        slot.managed.then_some(&slot.frame)
    }

    /// Frees a frame that nobody refers to. What it held stays in it until [`Self::scrub`] comes.
    fn free(&self, mfn: Mfn, frame: &Frame) {
        self.machine.set_m2p(mfn, u64::MAX);
        self.note_last_use(frame);
        self.link(mfn, frame, &mut self.dirty.lock());
    }

    /// Makes every CPU forget what it may remember of translations that were in the tables at `time`.
    fn flush_since(&self, time: u64) {
        let cpus = self.machine.unflushed_since(time);
        if cpus != 0 {
            self.machine.flush_tlb_on(cpus);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use hv_machine::sim::{Flush, Machine};
    use hypercall_abi::xen::{HYPERVISOR_UPDATE_VA_MAPPING, UVMF_NONE};

    use crate::testing::{DOM0, DOMU, Host, RO, SCRATCH};

    #[test]
    fn a_freed_frame_is_out_of_every_cpus_reach_before_it_is_scrubbed() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let domain = host.domain(DOMU);
        let mfn = memory.allocate(&domain.owner, 0, u64::MAX).expect("room");
        host.hv.machine.store_u64(mfn, 0, 1);
        host.hv.machine.take_flushes();
        let frame = memory.get(mfn, DOMU).expect("its own");
        assert!(memory.release_allocation(frame));
        assert_eq!(host.hv.machine.take_flushes(), []);
        assert_eq!(memory.scrub(u64::MAX), 1);
        assert_eq!(host.hv.machine.take_flushes(), [Flush::All(1)]);
        assert_eq!(host.hv.machine.load_u64(mfn, 0), 0);
        memory.allocate(&domain.owner, 0, u64::MAX).expect("room");
        assert_eq!(host.hv.machine.take_flushes(), [], "once is enough");
    }

    #[test]
    fn scrubbing_does_as_much_as_is_asked_and_flushes_nobody_who_has() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let owner = &host.domain(DOMU).owner;
        for _ in 0..3 {
            let mfn = memory.allocate(owner, 0, u64::MAX).expect("room");
            assert!(memory.release_allocation(memory.get(mfn, DOMU).expect("its own")));
        }
        host.hv.machine.flush_tlb_on(1);
        host.hv.machine.take_flushes();
        assert_eq!(memory.scrub(1), 1);
        assert_eq!(memory.dirty_frames(), 2);
        assert_eq!(memory.scrub(u64::MAX), 2);
        assert_eq!(memory.scrub(u64::MAX), 0);
        assert_eq!(host.hv.machine.take_flushes(), []);
    }

    #[test]
    fn a_frame_that_was_only_read_is_out_of_reach_before_it_is_scrubbed() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let mfn = used_as(&host, FrameType::Writable);
        host.hv.machine.flush_tlb_on(1);
        let map = |entry: u64| {
            let args = [SCRATCH + 5 * 4096, entry, UVMF_NONE];
            assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
        };
        map(Pte::new(mfn, RO).0);
        host.get::<u64>(DOMU, SCRATCH + 5 * 4096);
        map(0);
        assert!(memory.release_allocation(memory.get(mfn, DOMU).expect("its own")));
        host.hv.machine.take_flushes();
        assert_eq!(memory.scrub(u64::MAX), 1);
        assert_eq!(host.hv.machine.take_flushes(), [Flush::All(1)]);
    }

    #[test]
    fn a_table_is_in_use_until_it_is_taken_apart() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let mfn = used_as(&host, FrameType::Table(Level::L2));
        host.hv.machine.flush_tlb_on(1);
        assert!(memory.take_apart(&host.domain(DOMU).owner, &mut || false));
        host.hv.machine.take_flushes();
        drop(memory.get_typed(mfn, DOMU, FrameType::Writable));
        assert_eq!(host.hv.machine.take_flushes(), [Flush::All(1)]);
    }

    #[test]
    fn what_serves_the_hypervisor_shows_nothing_of_what_was_there_at_boot() {
        let machine = MachineRef::new(Machine::new(512));
        for mfn in (0..512).map(Mfn).filter(|&mfn| !machine.is_private(mfn)) {
            machine.store_u64(mfn, 511, u64::MAX);
            machine.set_m2p(mfn, 7);
        }
        let memory = Memory::new(machine.clone());
        let owner = memory.create_owner(DOM0, 0);
        let mfn = memory.allocate_shared(&owner).expect("room");
        assert_eq!(
            (machine.load_u64(mfn, 511), machine.m2p(mfn)),
            (0, u64::MAX)
        );
    }

    #[test]
    fn what_the_firmware_keeps_is_nobodys_memory() {
        let mut machine = Machine::new(512);
        machine.reserve_last(10);
        let memory = Memory::new(MachineRef::new(machine));
        assert!(memory.is_ram(Mfn(501)) && !memory.is_ram(Mfn(502)));
        assert_eq!(memory.free_frames(), memory.total_frames());
        assert_eq!(memory.free_frames_between(502, 512), 0);
    }

    /// A frame of [`DOMU`]'s that was of a type, of which processors remember it, and an end to what is recorded.
    fn used_as(host: &Host, kind: FrameType) -> Mfn {
        let memory = &host.hv.memory;
        let owner = &host.domain(DOMU).owner;
        let mfn = memory.allocate(owner, 0, u64::MAX).expect("room");
        drop(memory.get_typed(mfn, DOMU, kind).expect("empty"));
        host.hv.machine.take_flushes();
        mfn
    }

    #[test]
    fn a_change_of_type_flushes_cpus_that_have_not_since_the_last_use() {
        let host = Host::with_machine(MachineRef::new(Machine::with_cpus(4096, 3)));
        let memory = &host.hv.memory;
        let mfn = used_as(&host, FrameType::Writable);
        // One CPU loads a root, and another flushes for a reason of its own.
        host.get::<u64>(DOMU, SCRATCH);
        host.hv.machine.flush_tlb_on(0b100);
        host.hv.machine.take_flushes();
        let table = FrameType::Table(Level::L1);
        drop(memory.get_typed(mfn, DOMU, table).expect("empty"));
        assert_eq!(host.hv.machine.take_flushes(), [Flush::All(0b10)]);
        // The same type again is no change.
        drop(memory.get_typed(mfn, DOMU, table).expect("empty"));
        assert_eq!(host.hv.machine.take_flushes(), []);
    }

    #[test]
    fn a_frame_that_failed_to_be_a_table_again_is_still_remembered_as_one() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let table = FrameType::Table(Level::L1);
        let mfn = used_as(&host, table);
        let nobodys = Pte::new(host.layout(DOM0).scratch[0], RO);
        host.hv.machine.store_u64(mfn, 0, nobodys.0);
        assert!(memory.get_typed(mfn, DOMU, table).is_err());
        assert_eq!(host.hv.machine.take_flushes(), []);
        drop(memory.get_typed(mfn, DOMU, FrameType::Writable));
        assert_eq!(host.hv.machine.take_flushes(), [Flush::All(1)]);
    }

    #[test]
    fn a_use_so_long_ago_that_its_time_has_wrapped_counts_as_a_late_one() {
        let host = Host::new();
        let memory = &host.hv.memory;
        let frame = memory.frame(host.layout(DOMU).scratch[0]).expect("RAM");
        memory.note_last_use(frame);
        let noted = host.hv.machine.flush_time();
        assert_eq!(memory.last_use(frame), noted);
        for _ in 0..3 {
            host.hv.machine.flush_tlb();
        }
        assert_eq!(memory.last_use(frame), noted);
        let ahead = (noted as u32).wrapping_add(2);
        assert_eq!(super::frame::unwrap_time(noted + 3, ahead), noted + 2);
        assert_eq!(super::frame::unwrap_time(1 << 32 | 5, 7), 7);
        assert_eq!(super::frame::unwrap_time(3 << 32 | 7, 5), 3 << 32 | 5);
    }
}
