//! The entries that a domain writes to its grant table, in pages that it shares with the hypervisor.
//!
//! Its vCPUs write to them at any moment. So an entry of version 1, which is one word, is read and changed as a whole;
//! of one of version 2, which has its status elsewhere, the status is set before the flags are read that count. Either
//! way a domain that takes a grant back, and finds it unused, can rely on it.

use hv_machine::{Machine, PAGE_SIZE, Platform};
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantRef, Mfn};

use super::Status;

/// Times that an entry is tried which its domain changes meanwhile. It may have a reason to, but not for ever.
const ATTEMPTS: u32 = 5;
/// What is set in an entry, or its status, while it is used.
const USED: u16 = GTF_READING | GTF_WRITING;

/// Entries of version 1 in a frame.
pub(super) const V1_ENTRIES: usize = PAGE_SIZE / size_of::<GrantEntryV1>();
/// Entries of version 2 in a frame.
pub(super) const V2_ENTRIES: usize = PAGE_SIZE / size_of::<GrantEntryV2>();
/// Statuses of version 2 in a frame.
pub(super) const STATUSES: usize = PAGE_SIZE / size_of::<u16>();

/// Where an entry is.
#[derive(Clone, Copy)]
pub(super) struct Place {
    /// Its frame.
    pub(super) frame: Mfn,
    /// The number of its first word there.
    pub(super) word: usize,
    /// Where its status is that is not in its flags: the frame, the word, and the lowest bit there.
    pub(super) status: Option<(Mfn, usize, u32)>,
}

/// What an entry says.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    /// Flags, domain, and by the kind a frame (version 1), a part of a frame or a domain.
    pub(super) first: u64,
    /// Of version 2: a frame, or the grant of another domain.
    pub(super) second: u64,
}

impl Entry {
    pub(super) fn flags(self) -> u16 {
        self.first as u16
    }

    pub(super) fn kind(self) -> u16 {
        self.flags() & GTF_TYPE_MASK
    }

    pub(super) fn domid(self) -> Domid {
        Domid((self.first >> 16) as u16)
    }

    /// What it grants of which frame: the first byte, and how many.
    fn frame(self, version: u32) -> (Mfn, u16, u16) {
        let whole = PAGE_SIZE as u16;
        if version == 1 {
            (Mfn(self.first >> 32), 0, whole)
        } else if self.flags() & GTF_SUB_PAGE == 0 {
            (Mfn(self.second), 0, whole)
        } else {
            let part = self.first >> 32;
            (Mfn(self.second), part as u16, (part >> 16) as u16)
        }
    }

    /// What it grants.
    pub(super) fn target(self, version: u32) -> Target {
        if version == 2 && self.kind() == GTF_TRANSITIVE {
            return Target::Grant {
                domid: Domid((self.first >> 32) as u16),
                reference: GrantRef(self.second as u32),
            };
        }
        let (mfn, start, len) = self.frame(version);
        let part = version == 2 && self.flags() & GTF_SUB_PAGE != 0;
        Target::Frame {
            mfn,
            start,
            len,
            part,
        }
    }
}

/// What a grant is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `len` bytes of a frame from `start` on; a `part` is for copies alone.
    Frame {
        mfn: Mfn,
        start: u16,
        len: u16,
        part: bool,
    },
    /// The grant of another domain.
    Grant { domid: Domid, reference: GrantRef },
}

/// What is asked of an entry.
#[derive(Clone, Copy)]
pub(super) struct Demand {
    /// Who asks.
    pub(super) domid: Domid,
    /// To write.
    pub(super) write: bool,
    /// To map, which takes a grant of a whole frame.
    pub(super) map: bool,
    /// The grant is in use already, by the same domain, so that what it was then still holds.
    pub(super) pinned: bool,
}

impl Demand {
    /// Whether an entry grants it.
    fn met_by(self, entry: Entry, version: u32) -> bool {
        let part = self.map && entry.flags() & GTF_SUB_PAGE != 0;
        let kind = match entry.kind() {
            GTF_PERMIT_ACCESS => !part,
            GTF_TRANSITIVE => version == 2 && !self.map,
            _ => false,
        };
        let write = !self.write || entry.flags() & GTF_READONLY == 0;
        (self.pinned || kind && entry.domid() == self.domid) && write
    }
}

impl Place {
    /// Marks the entry as used, if it grants what is asked; gives it as it was then.
    ///
    /// # Errors
    /// `GNTST_general_error`, also where the domain changes it all the time.
    pub(super) fn take(self, machine: &Machine, demand: Demand) -> Result<Entry, Status> {
        let bits = match demand.write {
            false => GTF_READING,
            true => USED,
        };
        match self.status {
            None => self.take_v1(machine, demand, bits),
            Some(status) => self.take_v2(machine, demand, bits, status),
        }
        .ok_or(GNTST_GENERAL_ERROR)
    }

    fn take_v1(self, machine: &Machine, demand: Demand, bits: u16) -> Option<Entry> {
        let mut entry = self.read(machine);
        for _ in 0..ATTEMPTS {
            if !demand.met_by(entry, 1) {
                return None;
            }
            let next = entry.first | u64::from(bits);
            match machine.compare_exchange_u64(self.frame, self.word, entry.first, next) {
                Ok(_) => return Some(entry),
                Err(found) => entry.first = found,
            }
        }
        None
    }

    fn take_v2(
        self,
        machine: &Machine,
        demand: Demand,
        bits: u16,
        (frame, word, shift): (Mfn, usize, u32),
    ) -> Option<Entry> {
        if !demand.met_by(self.read(machine), 2) {
            return None;
        }
        machine.fetch_or_u64(frame, word, u64::from(bits) << shift);
        // Who takes the grant back after this sees that it is used; who did before, is seen here.
        let entry = self.read(machine);
        if demand.met_by(entry, 2) {
            return Some(entry);
        }
        // One that is in use already is marked as read.
        let added = if demand.pinned { GTF_WRITING } else { bits };
        self.give_back(machine, added);
        None
    }

    /// Takes marks of use away.
    pub(super) fn give_back(self, machine: &Machine, bits: u16) {
        let (frame, word, shift) = self.status.unwrap_or((self.frame, self.word, 0));
        machine.fetch_and_u64(frame, word, !(u64::from(bits) << shift));
    }

    /// The entry at this moment.
    pub(super) fn read(self, machine: &Machine) -> Entry {
        let first = machine.load_u64(self.frame, self.word);
        let second = match self.status {
            None => 0,
            Some(_) => machine.load_u64(self.frame, self.word + 1),
        };
        Entry { first, second }
    }

    /// Writes the entry, first word last.
    pub(super) fn write(self, machine: &Machine, entry: Entry) {
        if self.status.is_some() {
            machine.store_u64(self.frame, self.word + 1, entry.second);
        }
        machine.store_u64(self.frame, self.word, entry.first);
    }

    /// Marks of use.
    pub(super) fn marks(self, machine: &Machine) -> u16 {
        let (frame, word, shift) = self.status.unwrap_or((self.frame, self.word, 0));
        (machine.load_u64(frame, word) >> shift) as u16 & USED
    }

    /// Replaces the marks of use.
    pub(super) fn set_marks(self, machine: &Machine, bits: u16) {
        let (frame, word, shift) = self.status.unwrap_or((self.frame, self.word, 0));
        self.give_back(machine, USED & !bits);
        machine.fetch_or_u64(frame, word, u64::from(bits & USED) << shift);
    }

    /// Commits an entry that accepts a frame from `domid` to its transfer.
    pub(super) fn commit(self, machine: &Machine, domid: Domid) -> bool {
        for _ in 0..ATTEMPTS {
            let entry = self.read(machine);
            if entry.flags() != GTF_ACCEPT_TRANSFER || entry.domid() != domid {
                return false;
            }
            let next = entry.first | u64::from(GTF_TRANSFER_COMMITTED);
            let changed = machine.compare_exchange_u64(self.frame, self.word, entry.first, next);
            if changed.is_ok() {
                return true;
            }
        }
        false
    }

    /// Tells of the frame that was transferred; gives the number that the domain had for it.
    pub(super) fn complete(self, machine: &Machine, mfn: Mfn) -> u64 {
        let done = u64::from(GTF_TRANSFER_COMPLETED);
        if self.status.is_some() {
            let pfn = machine.load_u64(self.frame, self.word + 1);
            machine.store_u64(self.frame, self.word + 1, mfn.0);
            machine.fetch_or_u64(self.frame, self.word, done);
            return pfn;
        }
        let pfn = machine.load_u64(self.frame, self.word) >> 32;
        // The frame's number, 0 before it: whatever the domain writes meanwhile, it gets no other's.
        machine.fetch_and_u64(self.frame, self.word, u32::MAX.into());
        machine.fetch_or_u64(self.frame, self.word, mfn.0 << 32 | done);
        pfn
    }
}
