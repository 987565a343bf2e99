//! What the rewritten hypervisor asks at every check whether the check is the one that is to be wrong.
//!
//! This is no module of xtask: it is put into a copy of hv-core. `MUTANT` in the environment has the number of the
//! mutant; in the file that `MUTANTS_SEEN` names the numbers of those are noted that would have made a difference.
#![allow(missing_docs, clippy::all)]

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex};

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use crate::memory::{FrameRef, FrameType, Level, Memory, TypedRef};

const MOST: usize = 4096;

static ACTIVE: LazyLock<usize> = LazyLock::new(|| {
    let number = std::env::var("MUTANT").ok();
    number.and_then(|text| text.parse().ok()).unwrap_or(0)
});
static SEEN: [AtomicBool; MOST] = [const { AtomicBool::new(false) }; MOST];
static NOTES: LazyLock<Option<Mutex<std::fs::File>>> = LazyLock::new(|| {
    let path = std::env::var_os("MUTANTS_SEEN")?;
    let file = std::fs::File::options().create(true).append(true).open(path);
    file.ok().map(Mutex::new)
});

fn note(id: usize) {
    if !SEEN[id].load(Ordering::Relaxed)
        && !SEEN[id].swap(true, Ordering::Relaxed)
        && let Some(notes) = &*NOTES
    {
        let _ = writeln!(notes.lock().expect("no panic there"), "{id}");
    }
}

fn is(id: usize) -> bool {
    *ACTIVE == id
}

/// A condition: mutant `id` makes it true, the next one false.
pub fn condition(id: usize, real: bool) -> bool {
    note(if real { id + 1 } else { id });
    is(id) || real && !is(id + 1)
}

/// A condition that mutant `id` makes true: one of several that are all needed.
pub fn needed(id: usize, real: bool) -> bool {
    if !real {
        note(id);
    }
    is(id) || real
}

/// A condition that mutant `id` makes false: one of several that are each enough.
pub fn enough(id: usize, real: bool) -> bool {
    if real {
        note(id);
    }
    real && !is(id)
}

/// Whether a statement is carried out.
pub fn keep(id: usize) -> bool {
    note(id);
    !is(id)
}

/// `a < b`, or `a <= b`.
pub fn less<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    if a == b {
        note(id);
    }
    a < b || is(id) && a == b
}

/// `a <= b`, or `a < b`.
pub fn most<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    if a == b {
        note(id);
    }
    a < b || !is(id) && a == b
}

/// `a > b`, or `a >= b`.
pub fn more<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    less(id, b, a)
}

/// `a >= b`, or `a > b`.
pub fn least<T: PartialOrd>(id: usize, a: T, b: T) -> bool {
    most(id, b, a)
}

/// Bits that are taken for harmless.
pub fn bits(id: usize, bits: u64) -> u64 {
    note(id);
    if is(id) { bits } else { 0 }
}

impl Memory {
    /// [`Self::get`], whoever owns the frame.
    pub fn get_mutant(&self, id: usize, mfn: Mfn, owner: Domid) -> Option<FrameRef<'_>> {
        if self.owner_of(mfn) != Some(owner) {
            note(id);
        }
        if is(id) { self.get_any(mfn) } else { self.get(mfn, owner) }
    }

    /// [`Self::get_typed`], whoever owns the frame.
    pub fn get_typed_mutant(
        &self,
        id: usize,
        mfn: Mfn,
        owner: Domid,
        kind: FrameType,
    ) -> Result<TypedRef<'_>, Errno> {
        let frame = self.get_mutant(id, mfn, owner);
        frame.ok_or(Errno::EINVAL)?.with_type(kind)
    }

    /// [`Self::get_table`], whoever owns the frame.
    pub fn get_table_mutant(
        &self,
        id: usize,
        mfn: Mfn,
        owner: Domid,
        level: Level,
        out_of_time: &mut dyn FnMut() -> bool,
    ) -> Result<TypedRef<'_>, Errno> {
        let frame = self.get_mutant(id, mfn, owner).ok_or(Errno::EINVAL)?;
        frame.with_type_until(FrameType::Table(level), out_of_time)
    }
}
