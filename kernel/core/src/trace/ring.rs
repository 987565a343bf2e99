//! [`Ring`]: the records of one CPU (`struct t_buf`).
//!
//! The pages belong to whoever reads as much as to the hypervisor, so of what is in them only the reader's index is
//! ever looked at, once for each record, and checked. The index of the writer is the ring's own.

use alloc::vec::Vec;

use hv_machine::{Machine, PAGE_SIZE, Platform};
use hypercall_abi::trace::*;
use hypercall_abi::types::Mfn;
use zerocopy::IntoBytes;

/// Bytes of indices before the records.
const HEADER: u32 = size_of::<TBuf>() as u32;
/// Longest record, in words: header, time stamp, data.
const MOST_WORDS: usize = 3 + TRACE_EXTRA_MAX as usize;
/// Bytes of a record that says how many were lost.
const LOST_RECORD: u32 = 4 * 7;
/// How often the reader's index may change while the writer's is stored. A reader changes it once for all that it has
/// read.
const TRIES: u32 = 64;

/// The reader's index is none that it can have.
#[derive(Debug, PartialEq, Eq)]
pub struct Hostile;

/// A CPU's buffer, and where its next record goes.
pub struct Ring {
    frames: Vec<Mfn>,
    /// Offset of the next record, modulo twice [`Self::size`].
    next: u32,
    /// Records for which there was no room.
    lost: u32,
    /// When that began.
    lost_since: u64,
    /// What the CPU runs, as the trace has it: domain and vCPU in a word.
    pub running: Option<u32>,
}

impl Ring {
    /// An empty buffer in these frames, which are zero.
    pub fn new(frames: Vec<Mfn>) -> Self {
        Self {
            frames,
            next: 0,
            lost: 0,
            lost_since: 0,
            running: None,
        }
    }

    /// No record is lost, and what runs is not known.
    pub fn forget(&mut self) {
        (self.lost, self.running) = (0, None);
    }

    /// Its pages.
    #[cfg(any(test, fuzzing))]
    pub fn frames(&self) -> Vec<Mfn> {
        self.frames.clone()
    }

    /// Bytes for records.
    fn size(&self) -> u32 {
        (self.frames.len() * PAGE_SIZE) as u32 - HEADER
    }

    /// Bytes up to the end, behind which records go on at the start; no record lies across it.
    fn to_end(&self) -> u32 {
        self.size() - self.next % self.size()
    }

    /// Bytes that are not read yet.
    fn unread(&self, machine: &Machine) -> Result<u32, Hostile> {
        let Some(&first) = self.frames.first() else {
            return Err(Hostile);
        };
        let (read, whole) = (machine.load_u64(first, 0) as u32, 2 * self.size());
        if read % 4 != 0 || read >= whole {
            return Err(Hostile);
        }
        let unread = (self.next + whole - read) % whole;
        if unread > self.size() {
            return Err(Hostile);
        }
        Ok(unread)
    }

    /// Adds a record, where there is room, else counts it as lost; whether more than half is unread now, and was not.
    pub fn put(
        &mut self,
        machine: &Machine,
        event: u32,
        tsc: u64,
        data: &[u32],
    ) -> Result<bool, Hostile> {
        let (unread, size) = (self.unread(machine)?, self.size());
        let len = 4 * (3 + data.len() as u32);
        // What the record takes, with that of those lost before it, and what is skipped at the end for either.
        let mut to_end = self.to_end();
        let mut wanted = 0;
        for part in [if self.lost > 0 { LOST_RECORD } else { 0 }, len] {
            if part > to_end {
                wanted += to_end;
                to_end = size;
            }
            wanted += part;
            to_end -= part;
        }
        if wanted > size - unread {
            if self.lost == 0 {
                self.lost_since = tsc;
            }
            self.lost = self.lost.saturating_add(1);
            return Ok(false);
        }
        if self.lost > 0 {
            // Domain and vCPU are the other way round here.
            let (running, since) = (
                self.running.unwrap_or(u32::MAX).rotate_left(16),
                self.lost_since,
            );
            let lost = [self.lost, running, since as u32, (since >> 32) as u32];
            self.append(machine, TRC_LOST_RECORDS, tsc, &lost);
            self.lost = 0;
        }
        self.append(machine, event, tsc, data);
        self.publish(machine)?;
        Ok(unread < size / 2 && unread + wanted >= size / 2)
    }

    fn append(&mut self, machine: &Machine, event: u32, tsc: u64, data: &[u32]) {
        let mut words = [0; MOST_WORDS];
        let count = data.len() as u32 & TRACE_EXTRA_MAX;
        let stamp = [tsc as u32, (tsc >> 32) as u32];
        let header = event | count << TRACE_EXTRA_SHIFT | TRC_HD_CYCLE_FLAG;
        let all = [header]
            .into_iter()
            .chain(stamp)
            .chain(data.iter().copied());
        for (word, value) in words.iter_mut().zip(all) {
            *word = value;
        }
        let len = 3 + count as usize;
        if 4 * len as u32 > self.to_end() {
            self.skip(machine);
        }
        self.store(machine, words.get(..len).unwrap_or(&[]));
    }

    /// Fills the rest up to the end with a record that says so.
    fn skip(&mut self, machine: &Machine) {
        let len = self.to_end() / 4;
        let (extra, stamped) = match len - 1 {
            extra @ ..=TRACE_EXTRA_MAX => (extra, 0),
            extra => (extra - 2, TRC_HD_CYCLE_FLAG),
        };
        let mut words = [0; MOST_WORDS];
        words[0] = TRC_TRACE_WRAP_BUFFER | extra << TRACE_EXTRA_SHIFT | stamped;
        self.store(machine, words.get(..len as usize).unwrap_or(&[]));
    }

    /// Stores words, which end before the end does.
    fn store(&mut self, machine: &Machine, words: &[u32]) {
        let mut at = (HEADER + self.next % self.size()) as usize;
        let mut bytes = words.as_bytes();
        self.next = (self.next + bytes.len() as u32) % (2 * self.size());
        while let Some(&mfn) = self
            .frames
            .get(at / PAGE_SIZE)
            .filter(|_| !bytes.is_empty())
        {
            let offset = at % PAGE_SIZE;
            let (part, rest) = bytes.split_at(bytes.len().min(PAGE_SIZE - offset));
            machine.write_frame(mfn, offset, part);
            at += part.len();
            bytes = rest;
        }
    }

    /// Lets the reader have what was stored, by the writer's index, which is in a word with the reader's.
    fn publish(&self, machine: &Machine) -> Result<(), Hostile> {
        let first = *self.frames.first().ok_or(Hostile)?;
        let mut found = machine.load_u64(first, 0);
        for _ in 0..TRIES {
            let both = u64::from(self.next) << 32 | found & 0xffff_ffff;
            match machine.compare_exchange_u64(first, 0, found, both) {
                Ok(_) => return Ok(()),
                Err(other) => found = other,
            }
        }
        Err(Hostile)
    }
}
