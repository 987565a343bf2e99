//! Grant tables (`xen/grant_table.h`): frames that a domain lets another map, copy from and to, or gives away.
//!
//! A domain writes what it grants into a table in pages that it shares with the hypervisor. It may do so at any moment,
//! so nothing there can be relied on for longer than the look at it. What makes grants safe are three counts:
//!
//! - The *frame's* reference and type ([`crate::memory`]). Whatever leads to a frame has them, be it another domain's
//!   page-table entry: so a frame that its owner gave up, or whose owner was destroyed, is nobody else's as long as it
//!   is mapped, and one that is mapped writable becomes no page table. The entry that maps a grant has its counts from
//!   the moment when it is made ([`map`]), like any other. The guest may overwrite it as any other, too, and so lose
//!   them; it cannot make a second one, nor get it back.
//! - The *pins* of the grant ([`active`]): how many mappings and copies use it now. While there is one, what was granted
//!   is known from the hypervisor's own record, and the entry is marked as used, by which its domain knows that it cannot
//!   take the grant back. The marks are changed with one instruction together with the check of what is granted, or
//!   before it ([`entry`]): a domain that took it back either is seen to have, or sees the mark.
//! - The *mappings* of the domain that mapped it ([`maptrack`]), which bound how many there can be, and say what is
//!   given back when it unmaps one or is destroyed. One record has one use, or a use by processors and one by devices.
//!
//! They are given back in one order ([`unmap`]): the page-table entry, then what processors remember of it, then the
//! frame's counts, then the pin and with it the mark. When a domain sees that its grant is not used, nothing leads to
//! the frame any more.
//!
//! All of these are values that give back what they stand for when they are dropped ([`crate::memory::Held`],
//! [`crate::memory::LooseEntry`], [`pin::Pin`]), so that an operation that fails half way leaves nothing behind.

mod active;
mod copy;
mod entry;
mod map;
mod maptrack;
mod pin;
#[cfg(any(test, fuzzing))]
pub mod recount;
mod setup;
mod table;
#[cfg(test)]
mod tests;
mod transfer;
mod unmap;

use alloc::vec::Vec;
use core::mem::offset_of;

use hv_machine::{PAGE_SHIFT, PAGE_SIZE, is_guest_range};
use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::Mfn;
use zerocopy::{FromBytes, IntoBytes};

use crate::current::Current;
use crate::hypercall::{Args, HypercallResult, Stop, should_preempt};
use crate::hypervisor::Hypervisor;
use crate::lock::{Mutex, rank};
use crate::memory::{L1Slot, Owner};
use maptrack::MapTrack;
use pin::Pin;
use table::Table;

/// `GNTST_*` other than [`GNTST_OKAY`].
type Status = i16;

/// Bits of the command word that say what to do; those above say where a continued cache flush goes on.
const COMMAND: u32 = (1 << 12) - 1;

/// How much of grants a domain may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Frames of its table.
    pub max_frames: u32,
    /// Frames of its record of mappings, as Xen counts them: of 256 mappings each.
    pub max_maptrack_frames: u32,
    /// Newest version of its table, 1 or 2.
    pub max_version: u32,
}

/// A domain's part in grants.
pub struct GrantTable {
    limits: Limits,
    /// As the one who grants.
    table: Mutex<Table, { rank::GRANTS }>,
    /// As the one to whom others grant.
    mappings: Mutex<MapTrack, { rank::GRANTS }>,
}

impl GrantTable {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            table: Mutex::new(Table::new()),
            mappings: Mutex::new(MapTrack::new()),
        }
    }

    /// Gives a new domain's table its first frame.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn open(&self, hv: &Hypervisor, owner: &Owner) -> Result<(), Errno> {
        let grown = self.table.lock().grow(hv, owner, &self.limits, 0);
        grown.ok_or(Errno::ENOMEM)
    }

    /// Whether a frame is one of the table's: the domain's to use, but not to give up.
    pub fn has_frame(&self, mfn: Mfn) -> bool {
        let table = self.table.lock();
        table.frames().contains(&mfn) || table.statuses().contains(&mfn)
    }

    /// The frames with the entries of a domain's table, of which there are `wanted` at least then, and no more than
    /// [`Limits::max_frames`].
    ///
    /// # Errors
    /// `EINVAL` where that is too many.
    pub fn entry_frames(
        &self,
        hv: &Hypervisor,
        owner: &Owner,
        wanted: usize,
    ) -> Result<Vec<Mfn>, Errno> {
        let mut table = self.table.lock();
        let grown = table.grow(hv, owner, &self.limits, wanted);
        grown.ok_or(Errno::EINVAL)?;
        Ok(table.frames().into())
    }

    /// As [`Self::entry_frames`], those with the statuses of a table of version 2.
    ///
    /// # Errors
    /// `EINVAL` where that is too many, and for version 1.
    pub fn status_frames(
        &self,
        hv: &Hypervisor,
        owner: &Owner,
        wanted: usize,
    ) -> Result<Vec<Mfn>, Errno> {
        let mut table = self.table.lock();
        if table.version() == 1 {
            return Err(Errno::EINVAL);
        }
        let frames = table::entry_frames(wanted);
        if frames > table.frames().len() {
            let grown = table.grow(hv, owner, &self.limits, frames);
            grown.ok_or(Errno::EINVAL)?;
        }
        Ok(table.statuses().into())
    }

    /// Most frames of each of the two kinds.
    pub fn most_frames(&self) -> (u32, u32) {
        let entries = self.limits.max_frames;
        (entries, table::status_frames(entries as usize) as u32)
    }

    /// Grants no more from here on, for a domain that is being taken apart. What is in use stays so until it is given
    /// back.
    pub fn close(&self, hv: &Hypervisor) {
        self.table.lock().close(hv);
    }

    /// Gives back what a domain had mapped whose page tables are taken apart, until `out_of_time` says so; whether that
    /// is finished.
    pub fn release_mappings(&self, hv: &Hypervisor, out_of_time: &mut dyn FnMut() -> bool) -> bool {
        loop {
            let Some(mapping) = self.mappings.lock().pop() else {
                return true;
            };
            if mapping.uses.device {
                drop(hv.memory.adopt_held(mapping.mfn, mapping.uses.write));
            }
            drop(Pin::adopt(hv, &mapping, mapping.uses));
            if out_of_time() {
                return false;
            }
        }
    }
}

/// A list of operations of one kind in guest memory.
struct Batch {
    command: u32,
    at: u64,
    count: u64,
    /// Bytes of an element.
    size: usize,
}

impl Batch {
    /// A list that lies in the guest's range.
    ///
    /// # Errors
    /// `EFAULT`.
    fn new<T>(command: u32, at: u64, count: u32) -> Result<Self, Errno> {
        let (count, size) = (u64::from(count), size_of::<T>());
        let good = is_guest_range(at, count.saturating_mul(size as u64));
        let batch = Self {
            command,
            at,
            count,
            size,
        };
        good.then_some(batch).ok_or(Errno::EFAULT)
    }

    /// The call that goes on from element `index`, at a `place` within it.
    fn again(&self, cx: &Current<'_>, index: u64, place: u32) -> Stop {
        let at = self.at.wrapping_add(index.wrapping_mul(self.size as u64));
        let command = u64::from(self.command | place);
        cx.again([command, at, self.count - index, 0, 0, 0])
    }

    /// If the time is up, the call that goes on from element `index`.
    fn pause(&self, cx: &Current<'_>, index: u64) -> Option<Stop> {
        should_preempt(cx).then(|| self.again(cx, index, 0))
    }

    /// Writes the status of an element, which is at this offset in it.
    fn tell(
        &self,
        cx: &Current<'_>,
        index: u64,
        offset: usize,
        status: Status,
    ) -> Result<(), Errno> {
        let element = self.at.wrapping_add(index.wrapping_mul(self.size as u64));
        cx.write(element.wrapping_add(offset as u64), &status)
    }

    /// Carries out each, unless the time is up before the last.
    fn each<T: FromBytes + IntoBytes>(
        &self,
        cx: &Current<'_>,
        offset: usize,
        mut carry_out: impl FnMut(&T) -> Result<(), Status>,
    ) -> HypercallResult {
        for index in 0..self.count {
            if index > 0
                && let Some(stop) = self.pause(cx, index)
            {
                return Err(stop);
            }
            let op: T = cx.read_element(self.at, index)?;
            self.tell(cx, index, offset, status_of(carry_out(&op)))?;
        }
        Ok(0)
    }
}

fn status_of(result: Result<(), Status>) -> Status {
    result.err().unwrap_or(GNTST_OKAY)
}

/// The page-table entry that `address` stands for: by itself, or as the one that translates it.
fn place_of(cx: &Current<'_>, address: u64, flags: u32) -> Option<L1Slot> {
    if flags & GNTMAP_CONTAINS_PTE == 0 {
        return cx.hv.memory.l1_slot(cx.state.root()?, address);
    }
    address.is_multiple_of(8).then_some(L1Slot {
        table: Mfn(address >> PAGE_SHIFT),
        index: address as usize % PAGE_SIZE / 8,
    })
}

/// `HYPERVISOR_grant_table_op(command, list, count)`.
///
/// # Errors
/// `EINVAL` for 2^31 elements and more, and for a command that claims to go on where it is not interrupted; `EFAULT` for a
/// list that is not the guest's or cannot be read or written, with the elements before carried out; `ENOSYS` for unknown
/// commands; others by command. Else each element has a status.
pub fn do_grant_table_op(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [raw, at, count, ..] = *args;
    let (raw, count) = (raw as u32, count as u32);
    let (command, place) = (raw & COMMAND, raw & !COMMAND);
    if count > i32::MAX as u32 || place != 0 && command != GNTTABOP_CACHE_FLUSH {
        return Err(Errno::EINVAL.into());
    }
    let cx = &*cx;
    match command {
        GNTTABOP_MAP_GRANT_REF => {
            map_all(cx, &Batch::new::<GnttabMapGrantRef>(command, at, count)?)
        }
        GNTTABOP_UNMAP_GRANT_REF => unmap::unmap_all::<GnttabUnmapGrantRef>(
            cx,
            &Batch::new::<GnttabUnmapGrantRef>(command, at, count)?,
            offset_of!(GnttabUnmapGrantRef, status),
        ),
        GNTTABOP_UNMAP_AND_REPLACE => unmap::unmap_all::<GnttabUnmapAndReplace>(
            cx,
            &Batch::new::<GnttabUnmapAndReplace>(command, at, count)?,
            offset_of!(GnttabUnmapAndReplace, status),
        ),
        GNTTABOP_COPY => copy::copy_all(cx, &Batch::new::<GnttabCopy>(command, at, count)?),
        GNTTABOP_TRANSFER => {
            transfer::transfer_all(cx, &Batch::new::<GnttabTransfer>(command, at, count)?)
        }
        GNTTABOP_SWAP_GRANT_REF => {
            setup::swap_all(cx, &Batch::new::<GnttabSwapGrantRef>(command, at, count)?)
        }
        GNTTABOP_CACHE_FLUSH => setup::cache_flush_all(
            cx,
            &Batch::new::<GnttabCacheFlush>(command, at, count)?,
            place,
        ),
        GNTTABOP_SETUP_TABLE => setup::setup_table(cx, at, count),
        GNTTABOP_QUERY_SIZE => setup::query_size(cx, at, count),
        GNTTABOP_GET_STATUS_FRAMES => setup::get_status_frames(cx, at, count),
        GNTTABOP_SET_VERSION => setup::set_version(cx, at),
        GNTTABOP_GET_VERSION => setup::get_version(cx, at),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn map_all(cx: &Current<'_>, batch: &Batch) -> HypercallResult {
    for index in 0..batch.count {
        if index > 0
            && let Some(stop) = batch.pause(cx, index)
        {
            return Err(stop);
        }
        let mut op: GnttabMapGrantRef = cx.read_element(batch.at, index)?;
        map::map(cx, &mut op);
        cx.write_element(batch.at, index, &op)?;
    }
    Ok(0)
}
