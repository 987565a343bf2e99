//! Grants: memory of this guest that others may map or copy, and memory of others that it maps.
//!
//! The guest has one table of version 1, which grows as grants are made. A [`Grant`] is an entry of
//! it, and ends with it; what it is of is memory that is never behind a Rust reference, and lives as
//! long as the other domain uses it. A [`GrantMapping`] is somebody else's memory.

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::ops::Deref;

use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantHandle, GrantRef, Mfn};

use crate::hypercall::{Result, grant_table};
use crate::memory::{Access, DmaMemory, Mapping, Room, Window, tables};
use crate::pte::PAGE_SIZE;
use crate::sync::Mutex;

const ENTRY: usize = size_of::<GrantEntryV1>();
/// Entries in a frame of the table.
const IN_FRAME: u32 = (PAGE_SIZE / ENTRY) as u32;

static TABLE: Mutex<Table> = Mutex::new(Table::new());

/// This guest's table.
struct Table {
    frames: Vec<Mapping>,
    free: Vec<GrantRef>,
}

impl Table {
    const fn new() -> Self {
        Self {
            frames: Vec::new(),
            free: Vec::new(),
        }
    }

    /// Maps one frame more.
    fn grow(&mut self) -> Result<()> {
        let count = self.frames.len() + 1;
        let mut frames = vec![0; count];
        error_of(grant_table::setup_table(Domid::SELF, &mut frames)?)?;
        let frame = Mfn(frames[count - 1]);
        let mapping = Mapping::foreign(Domid::SELF, &[frame], Access::ReadWrite)?;
        self.frames.push(mapping);
        let first = (count as u32 - 1) * IN_FRAME;
        // The first few are the toolstack's.
        let new = first.max(GNTTAB_NR_RESERVED_ENTRIES)..first + IN_FRAME;
        self.free.extend(new.rev().map(GrantRef));
        Ok(())
    }

    fn entry(&self, reference: GrantRef) -> (&Window, usize) {
        let frame = &self.frames[(reference.0 / IN_FRAME) as usize];
        (frame, (reference.0 % IN_FRAME) as usize * ENTRY)
    }
}

/// A page that another domain may use. When it is dropped, the other domain may not begin to any
/// more; if it still does, the entry and the memory are never used for anything else.
#[derive(Debug)]
pub struct Grant {
    reference: GrantRef,
    memory: Option<Arc<DmaMemory>>,
}

impl Grant {
    /// Grants page `page` of some memory to a domain.
    ///
    /// # Errors
    ///
    /// `EINVAL` where the memory has no such page, `ENOSPC` where the table is full.
    pub fn new(domain: Domid, memory: Arc<DmaMemory>, page: usize, access: Access) -> Result<Self> {
        if page >= memory.size() / PAGE_SIZE {
            return Err(Errno::EINVAL.into());
        }
        let flags = match access {
            Access::ReadOnly => GTF_PERMIT_ACCESS | GTF_READONLY,
            Access::ReadWrite => GTF_PERMIT_ACCESS,
        };
        let frame = memory.mfn().0 + page as u64;
        let frame = u32::try_from(frame).map_err(|_| Errno::ENOSPC)?;
        let mut table = TABLE.lock();
        if table.free.is_empty() {
            table.grow().map_err(|_| Errno::ENOSPC)?;
        }
        let reference = table.free.pop().ok_or(Errno::ENOSPC)?;
        let (window, at) = table.entry(reference);
        window.set(at + offset_of!(GrantEntryV1, frame), frame);
        window.set(at + offset_of!(GrantEntryV1, domid), domain.0);
        // Last: from here on it counts.
        let (invalid, at) = (GTF_INVALID, at + offset_of!(GrantEntryV1, flags));
        let written = window.compare_exchange(at, invalid, flags);
        written.map_err(|_| Errno::EBUSY)?;
        Ok(Self {
            reference,
            memory: Some(memory),
        })
    }

    /// Its number, which the other domain is told.
    pub fn reference(&self) -> GrantRef {
        self.reference
    }

    /// Whether the other domain uses it.
    pub fn is_used(&self) -> bool {
        let table = TABLE.lock();
        let (window, at) = table.entry(self.reference);
        let flags: u16 = window.get(at + offset_of!(GrantEntryV1, flags));
        flags & (GTF_READING | GTF_WRITING) != 0
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        let mut table = TABLE.lock();
        let (window, at) = table.entry(self.reference);
        let at = at + offset_of!(GrantEntryV1, flags);
        let mut flags = window.get(at);
        while flags & (GTF_READING | GTF_WRITING) == 0 {
            match window.compare_exchange(at, flags, GTF_INVALID) {
                Ok(_) => {
                    table.free.push(self.reference);
                    return;
                }
                Err(found) => flags = found,
            }
        }
        core::mem::forget(self.memory.take());
    }
}

/// Pages that another domain, or this one, grants, mapped at consecutive addresses until it is
/// dropped.
#[derive(Debug)]
pub struct GrantMapping {
    room: Room,
    handles: Vec<GrantHandle>,
}

impl GrantMapping {
    /// Maps grants of a domain.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where no table or address can be had; what [`error_of`] says of the first grant that
    /// is refused. Nothing stays mapped.
    pub fn new(domain: Domid, references: &[GrantRef], access: Access) -> Result<Self> {
        let room = Room::new(references.len())?;
        let flags = match access {
            Access::ReadOnly => GNTMAP_HOST_MAP | GNTMAP_READONLY,
            Access::ReadWrite => GNTMAP_HOST_MAP,
        };
        let first = room.window().address();
        let mut batch = Vec::with_capacity(references.len());
        for (page, &reference) in references.iter().enumerate() {
            let host_addr = first + (page * PAGE_SIZE) as u64;
            tables::table_for(host_addr)?;
            batch.push(GnttabMapGrantRef {
                host_addr,
                flags,
                ref_: reference,
                dom: domain,
                // What is not reached is not mapped.
                status: GNTST_GENERAL_ERROR,
                ..Default::default()
            });
        }
        // SAFETY: the addresses were free.
        let called = unsafe { grant_table::map(&mut batch) };
        let wrong = batch.iter().find(|op| op.status != GNTST_OKAY);
        let Some(status) = wrong.map(|op| op.status) else {
            called?;
            let handles = batch.iter().map(|op| op.handle).collect();
            return Ok(Self { room, handles });
        };
        unmap(
            batch
                .iter()
                .filter(|op| op.status == GNTST_OKAY)
                .map(|op| (op.host_addr, op.handle)),
        );
        called?;
        error_of(status)?;
        Err(Errno::EINVAL.into())
    }
}

impl Deref for GrantMapping {
    type Target = Window;

    fn deref(&self) -> &Window {
        self.room.window()
    }
}

impl Drop for GrantMapping {
    fn drop(&mut self) {
        let first = self.room.window().address();
        let pages = (first..).step_by(PAGE_SIZE);
        unmap(pages.zip(self.handles.iter().copied()));
    }
}

/// Undoes mappings that nothing refers to.
fn unmap(mappings: impl Iterator<Item = (u64, GrantHandle)>) {
    let mut batch: Vec<_> = mappings
        .map(|(host_addr, handle)| GnttabUnmapGrantRef {
            host_addr,
            handle,
            ..Default::default()
        })
        .collect();
    // SAFETY: the callers give up the addresses.
    unsafe { grant_table::unmap(&mut batch) }.expect("the list is good");
    let good = batch.iter().all(|op| op.status == GNTST_OKAY);
    assert!(good, "what was mapped can be unmapped: {batch:?}");
}

/// A status as an error: `EPERM`, `ESRCH` (domain), `ENOENT` (grant), `ENOSPC`, `EAGAIN`, `EINVAL` for all
/// others.
///
/// # Errors
///
/// For every status but success.
pub fn error_of(status: i16) -> Result<()> {
    Err(match status {
        GNTST_OKAY => return Ok(()),
        GNTST_PERMISSION_DENIED => Errno::EPERM,
        GNTST_BAD_DOMAIN => Errno::ESRCH,
        GNTST_BAD_GNTREF => Errno::ENOENT,
        GNTST_NO_SPACE => Errno::ENOSPC,
        GNTST_EAGAIN => Errno::EAGAIN,
        _ => Errno::EINVAL,
    }
    .into())
}
