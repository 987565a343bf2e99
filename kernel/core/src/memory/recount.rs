//! The counts and the isolation of domains, worked out afresh from what is there, for tests.
//!
//! [`Recount::check`] believes no record. It adds up the references and types that page tables, pins, vCPUs,
//! shared-info pages and allocations stand for and compares the sums with the records. Then it walks the tables as a
//! processor would, and looks at every frame that ring 3 could reach, by the tables as they are and by what each
//! processor may remember of how they were. It is for a moment at which no hypercall is in progress.

mod descriptors;

use alloc::sync::Arc;
use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec;
use std::vec::Vec;

use hv_machine::sim::Remembered;
use hv_machine::{FIRST_HYPERVISOR_SLOT, Platform, TABLE_ENTRIES};
use hypercall_abi::types::{Domid, Mfn};

use super::{FrameState, FrameType, L1Slot, Level, Memory, Pte, Stage, Way, is_guest_slot};
use crate::domain::Domain;
use crate::emulate::unhook::Unhooked;
use crate::grant;
use crate::hypervisor::Hypervisor;
use crate::{lifecycle, trace};

/// Compares every record with what it must say, and looks for a breach of isolation. Free frames are scrubbed for it.
///
/// # Errors
/// What is wrong, in words.
pub fn check(hv: &Hypervisor) -> Result<(), String> {
    hv.memory.scrub(u64::MAX);
    Recount::default().check(hv)
}

/// What was found of frames that need no second look as long as nobody writes to them.
#[derive(Default)]
pub struct Recount {
    seen: Vec<Seen>,
    /// The root of each CPU that has one, and whose it was when it was last anybody's.
    roots: BTreeMap<u32, (Mfn, Domid)>,
    /// Unhooked tables as they count, which is as they were.
    before: BTreeMap<Mfn, Vec<u64>>,
    /// The entries that map unhooked tables, by table and place, as they were.
    mappings: BTreeMap<(Mfn, usize), Pte>,
    /// Frames that the control domain mapped for domains that do not own them: for whom, which, and whose they were.
    pub shared: BTreeSet<(Domid, Mfn, Domid)>,
}

#[derive(Clone, Default)]
struct Seen {
    /// [`hv_machine::sim::Machine::writes`] at the time, and what was looked for.
    at: Option<(u32, Look)>,
    /// The guest's present entries of a table, with their places.
    entries: Arc<[(usize, Pte)]>,
}

/// What a frame's contents were looked at for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Zero,
    Descriptors,
    Entries(Level),
}

/// What a frame's counts must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    references: u32,
    types: u32,
    /// The type of all of them.
    kind: Option<FrameType>,
    /// Not all of them have the same.
    torn: bool,
}

impl Counts {
    fn add(&mut self, kind: FrameType) {
        self.references += 1;
        if kind != FrameType::None {
            self.types += 1;
            self.torn |= self.kind.replace(kind).is_some_and(|it| it != kind);
        }
    }
}

/// The records of all frames, by number; `None` where the hypervisor has none.
type States = [Option<FrameState>];

fn managed(states: &States) -> impl Iterator<Item = (Mfn, FrameState)> {
    let all = states.iter().zip(0..);
    all.filter_map(|(state, number)| Some((Mfn(number), (*state)?)))
}

fn state_of(states: &States, mfn: Mfn) -> Option<FrameState> {
    states.get(usize::try_from(mfn.0).ok()?).copied().flatten()
}

impl Memory {
    /// All frames of an owner.
    pub(crate) fn frames_of(&self, owner: &super::Owner) -> Vec<Mfn> {
        let lists = owner.lists.lock();
        let mut frames = self.listed(&lists.allocated);
        frames.extend(self.listed(&lists.lingering));
        frames
    }

    fn states(&self) -> Vec<Option<FrameState>> {
        let all = (0..self.frames.len() as u64).map(Mfn);
        all.map(|mfn| {
            let state = self.state(mfn);
            state.filter(|_| !self.machine.is_private(mfn))
        })
        .collect()
    }
}

impl Recount {
    /// Compares every record with what it must say, and looks for a breach of isolation.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn check(&mut self, hv: &Hypervisor) -> Result<(), String> {
        self.note_roots(hv);
        self.compare(hv)
    }

    /// Notes whose root each CPU has, while it is anybody's.
    fn note_roots(&mut self, hv: &Hypervisor) {
        for cpu in 0..hv.machine.cpu_count() {
            let root = hv.machine.cpu(cpu).root;
            let owned = root.and_then(|root| Some((root, hv.memory.owner_of(root)?)));
            self.roots.extend(owned.map(|owned| (cpu, owned)));
        }
    }

    fn compare(&mut self, hv: &Hypervisor) -> Result<(), String> {
        let states = &hv.memory.states()[..];
        self.seen.resize(states.len(), Seen::default());
        self.note_unhooked(hv)?;
        self.counts(hv, states)?;
        grant::recount::check(hv)?;
        lists(hv, states)?;
        let dirty = self.free_frames(hv, states)?;
        self.isolation(hv, states)?;
        self.processors(hv, states, &dirty)
    }

    /// Notes which tables are unhooked, and looks whether a processor can get at them.
    fn note_unhooked(&mut self, hv: &Hypervisor) -> Result<(), String> {
        self.before.clear();
        self.mappings.clear();
        for domain in hv.domains.read().values() {
            for vcpu in domain.vcpus() {
                let state = vcpu.state.lock_out_of_order();
                let Some((unhooked, before)) = state.table_stores.unhooked() else {
                    continue;
                };
                let L1Slot { table, index } = unhooked.mapping;
                self.before.insert(unhooked.table, before.to_vec());
                self.mappings.insert((table, index), unhooked.entry);
                if let Some(root) = state.kernel_root {
                    out_of_reach(hv, root, &unhooked)?;
                }
            }
        }
        Ok(())
    }

    /// The guest's present entries of a table, with their places; an unhooked one as it was, as is the entry that maps
    /// it.
    fn entries(&mut self, hv: &Hypervisor, table: Mfn, level: Level) -> Arc<[(usize, Pte)]> {
        let now = |index| match (self.before.get(&table), self.mappings.get(&(table, index))) {
            (_, Some(&mapping)) => mapping,
            (Some(before), _) => Pte(before[index]),
            _ => Pte(hv.machine.load_u64(table, index)),
        };
        let seen = &mut self.seen[table.0 as usize];
        let at = Some((hv.machine.writes(table), Look::Entries(level)));
        if seen.at != at || !self.before.is_empty() {
            seen.entries = (0..TABLE_ENTRIES)
                .filter(|&index| is_guest_slot(level, index))
                .map(|index| (index, now(index)))
                .filter(|(_, entry)| entry.present())
                .collect();
            seen.at = at.filter(|_| self.before.is_empty());
        }
        seen.entries.clone()
    }

    /// Whether a frame has changed since it was last found in order; it is taken to be in order.
    fn is_new(&mut self, hv: &Hypervisor, mfn: Mfn, look: Look) -> bool {
        let seen = &mut self.seen[mfn.0 as usize];
        let at = Some((hv.machine.writes(mfn), look));
        core::mem::replace(&mut seen.at, at) != at
    }

    /// Adds up all counts and compares them (I5).
    fn counts(&mut self, hv: &Hypervisor, states: &States) -> Result<(), String> {
        let memory = &hv.memory;
        let mut expected = vec![Counts::default(); states.len()];
        let mut linear = vec![0_i16; states.len()];
        let mut stray = None;
        let mut refer = |mfn: Mfn, kind: FrameType| match expected.get_mut(mfn.0 as usize) {
            Some(counts) => counts.add(kind),
            None => stray = Some(mfn),
        };
        for (mfn, state) in managed(states) {
            if state.allocated {
                refer(mfn, FrameType::None);
            }
            if state.pinned {
                refer(mfn, state.kind);
            }
            let count = match state.stage {
                Stage::Idle | Stage::Busy => 0,
                Stage::Valid => TABLE_ENTRIES,
                Stage::Partial(count) | Stage::Leaving(count) => {
                    refer(mfn, state.kind);
                    count
                }
            };
            if let FrameType::Table(level) = state.kind
                && count > 0
            {
                let entries = self.entries(hv, mfn, level);
                for &(_, entry) in entries.iter().take_while(|&&(index, _)| index < count) {
                    match level.below() {
                        Some(_) if entry.mfn() == mfn => {}
                        Some(_) if is_table(states, entry.mfn(), level) => {
                            refer(entry.mfn(), state.kind);
                            linear[mfn.0 as usize] += 1;
                            linear[entry.mfn().0 as usize] -= 1;
                        }
                        Some(below) => refer(entry.mfn(), FrameType::Table(below)),
                        None if !memory.is_ram(entry.mfn()) => {}
                        None if entry.writable() => refer(entry.mfn(), FrameType::Writable),
                        None => refer(entry.mfn(), FrameType::None),
                    }
                }
            }
        }
        for mfn in trace::frames(hv) {
            refer(mfn, FrameType::Writable);
        }
        for domain in hv.domains.read().values() {
            refer(domain.shared_info, FrameType::Writable);
            for mfn in grant::recount::frames(domain)
                .into_iter()
                .chain(domain.events.frames())
            {
                refer(mfn, FrameType::Writable);
            }
            for (mfn, write) in grant::recount::held_for_devices(domain) {
                let read = FrameType::None;
                refer(mfn, if write { FrameType::Writable } else { read });
            }
            for vcpu in domain.vcpus() {
                if !lifecycle::has_first_info_place(domain, &vcpu) {
                    refer(vcpu.info().mfn, FrameType::Writable);
                }
                let state = vcpu.state.lock_out_of_order();
                for root in [state.kernel_root, state.user_root].into_iter().flatten() {
                    refer(root, FrameType::Table(Level::L4));
                }
                for &mfn in state.gdt.iter().chain(state.ldt_frames.iter().flatten()) {
                    refer(mfn, FrameType::Descriptors);
                }
            }
        }
        for ((counts, state), number) in expected.iter().zip(states).zip(0..) {
            let mfn = Mfn(number);
            let right = match state {
                None => *counts == Counts::default(),
                Some(state) => {
                    !counts.torn
                        && counts.references == state.references
                        && counts.types == state.types
                        && counts.kind.is_none_or(|kind| kind == state.kind)
                }
            };
            if !right {
                return Err(format!("frame {mfn}: {state:?}, but in truth {counts:?}"));
            }
            let named = memory.frame(mfn).map(|frame| frame.linear_count());
            if state.is_some() && named != Some(linear[number as usize]) {
                return Err(format!("frame {mfn}: {named:?} linear entries"));
            }
            if !state.is_none_or(|state| is_at_rest(&state)) {
                return Err(format!(
                    "frame {mfn}: {state:?}, with no hypercall under way"
                ));
            }
        }
        match stray {
            Some(mfn) => Err(format!("frame {mfn} is no RAM, but is counted on")),
            None => Ok(()),
        }
    }

    /// Looks at the frames that nobody refers to (I4); which of them wait to be scrubbed.
    fn free_frames(&mut self, hv: &Hypervisor, states: &States) -> Result<Vec<bool>, String> {
        let memory = &hv.memory;
        let mut dirty = vec![false; states.len()];
        let listed = memory.listed(&memory.dirty.lock());
        for mfn in &listed {
            dirty[mfn.0 as usize] = true;
        }
        if listed.len() as u64 != memory.dirty_frames() {
            return Err("the list of frames to be scrubbed is broken".into());
        }
        let mut free = 0;
        for (mfn, state) in managed(states) {
            if state.references > 0 {
                if state.owner.is_none() {
                    return Err(format!("frame {mfn}: {state:?}, of nobody"));
                }
                continue;
            }
            free += 1;
            if state.owner.is_some() || state.allocated || state.types != 0 || state.pinned {
                return Err(format!("free frame {mfn}: {state:?}"));
            }
            if hv.machine.m2p(mfn) != u64::MAX {
                return Err(format!("free frame {mfn} has a guest's frame number"));
            }
            if dirty[mfn.0 as usize] || !self.is_new(hv, mfn, Look::Zero) {
                continue;
            }
            if memory.free_frames_between(mfn.0, mfn.0 + 1) != 1 {
                return Err(format!("frame {mfn} is free but not in the heap"));
            }
            if (0..TABLE_ENTRIES).any(|index| hv.machine.load_u64(mfn, index) != 0) {
                return Err(format!("free frame {mfn} is not scrubbed"));
            }
        }
        let listed = memory.free_frames();
        if free == listed {
            Ok(dirty)
        } else {
            Err(format!("{free} frames are free, {listed} in the lists"))
        }
    }

    /// Walks all tables (I1, I2).
    fn isolation(&mut self, hv: &Hypervisor, states: &States) -> Result<(), String> {
        let mut tables: Vec<Option<Level>> = vec![None; states.len()];
        let mut descriptors = vec![false; states.len()];
        let mut pages: Vec<(Domid, Mfn, u64)> = Vec::new();
        let mut waiting: Vec<(Domid, Mfn, Level)> = Vec::new();
        for (mfn, state) in managed(states) {
            if let (true, FrameType::Table(level), Some(owner)) =
                (state.pinned, state.kind, state.owner)
            {
                waiting.push((owner, mfn, level));
            }
        }
        let domains: Vec<_> = hv.domains.read().values().cloned().collect();
        for domain in &domains {
            for vcpu in domain.vcpus() {
                let state = vcpu.state.lock_out_of_order();
                for root in [state.kernel_root, state.user_root].into_iter().flatten() {
                    waiting.push((domain.id, root, Level::L4));
                }
                for &mfn in state.gdt.iter().chain(state.ldt_frames.iter().flatten()) {
                    if state_of(states, mfn).and_then(|it| it.owner) != Some(domain.id) {
                        return Err(format!("frame {mfn}: descriptors of another domain"));
                    }
                    if self.is_new(hv, mfn, Look::Descriptors) {
                        descriptors::are_harmless(hv, mfn)?;
                    }
                    descriptors[mfn.0 as usize] = true;
                }
            }
        }
        while let Some((id, mfn, level)) = waiting.pop() {
            if state_of(states, mfn).and_then(|it| it.owner) != Some(id) {
                return Err(format!("frame {mfn}: a table of domain {} only", id.0));
            }
            let stage = state_of(states, mfn).map(|state| state.stage);
            if stage != Some(Stage::Valid) {
                return Err(format!("frame {mfn}: {stage:?}, reachable as a table"));
            }
            match tables[mfn.0 as usize].replace(level) {
                Some(before) if before != level => {
                    return Err(format!("frame {mfn}: a table of {before:?} and {level:?}"));
                }
                Some(_) => continue,
                None => {}
            }
            if level == Level::L4 {
                hypervisor_slots_stand(hv, mfn)?;
            }
            for &(index, entry) in self.entries(hv, mfn, level).iter() {
                let superpage = level != Level::L1 && entry.has(Pte::PSE);
                if superpage || !entry.has(Pte::USER) || entry.has(Pte::GLOBAL) {
                    return Err(format!("{level:?} {mfn} entry {index}: {entry:?}"));
                }
                match level.below() {
                    Some(_) if is_table(states, entry.mfn(), level) => {
                        if entry.writable() {
                            return Err(format!(
                                "{level:?} {mfn} entry {index}: {entry:?}, linear"
                            ));
                        }
                        waiting.push((id, entry.mfn(), level));
                    }
                    Some(below) => waiting.push((id, entry.mfn(), below)),
                    None => pages.push((id, entry.mfn(), entry.flags())),
                }
            }
        }
        for (id, mfn, flags) in pages {
            let domain = domains.iter().find(|domain| domain.id == id);
            let domain = domain.ok_or("tables of a domain that is gone")?;
            self.may_map(domain, state_of(states, mfn), mfn, flags)?;
            let index = mfn.0 as usize;
            let is_table = index < states.len() && (tables[index].is_some() || descriptors[index]);
            if flags & Pte::WRITABLE != 0 && is_table {
                return Err(format!("domain {} may write to table {mfn}", id.0));
            }
        }
        Ok(())
    }

    /// Looks at what processors may remember of tables as they were: whatever a guest reaches by that must still be a
    /// page of its, or wait to be scrubbed.
    fn processors(
        &mut self,
        hv: &Hypervisor,
        states: &States,
        dirty: &[bool],
    ) -> Result<(), String> {
        let waits = |mfn: Mfn| dirty.get(mfn.0 as usize).is_some_and(|&dirty| dirty);
        for cpu in 0..hv.machine.cpu_count() {
            let state = hv.machine.cpu(cpu);
            let Some(root) = state.root else {
                continue;
            };
            // All that the CPU remembers is from under this root, because a change of the root is a flush.
            let nobodys = |state: FrameState| state.owner.is_none();
            if state_of(states, root).is_none_or(nobodys) && !waits(root) {
                return Err(format!("CPU {cpu} has the free frame {root} as its root"));
            }
            let owner = self
                .roots
                .get(&cpu)
                .filter(|it| it.0 == root)
                .map(|it| it.1);
            let domain = owner.and_then(|id| hv.domain(id).ok());
            if state.ldt_entries > 8192 {
                return Err(format!("CPU {cpu} looks behind the window of the LDT"));
            }
            let descriptors = state.gdt.iter().chain(state.ldt.iter().flatten());
            for &mfn in descriptors.filter(|_| !state.root_left) {
                let used = state_of(states, mfn)
                    .filter(|it| it.types > 0 && it.owner == owner)
                    .map(|it| it.kind);
                if used != Some(FrameType::Descriptors) {
                    return Err(format!("CPU {cpu} has {mfn} for descriptors: {used:?}"));
                }
            }
            for (mfn, remembered) in hv.machine.remembered(cpu) {
                // No guest runs on a root that was left, so that what was granted to it is not used, and nobody walks
                // ahead to devices.
                let foreign = state_of(states, mfn).is_none_or(|it| it.owner != owner);
                let page = !matches!(remembered, Remembered::Table { .. });
                let idle = state.root_left && foreign && page;
                if waits(mfn) || idle {
                    continue;
                }
                let state = state_of(states, mfn);
                if remembered == Remembered::WritablePage && self.before.contains_key(&mfn) {
                    continue;
                }
                if !domain
                    .as_ref()
                    .is_some_and(|domain| self.may_remember(domain, state, mfn, remembered))
                {
                    return Err(format!(
                        "CPU {cpu}, of domain {owner:?}, may use frame {mfn} as a {remembered:?}: {state:?}"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Whether a domain may have mappings of a frame, with all of these flags.
    fn may_map(
        &self,
        domain: &Domain,
        state: Option<FrameState>,
        mfn: Mfn,
        flags: u64,
    ) -> Result<(), String> {
        let id = domain.id.0;
        let Some(state) = state else {
            let allowed = domain.owner.io_memory_allowed(mfn, mfn);
            let cached = matches!(flags & Pte::CACHE, 0 | Pte::PWT)
                || flags & Pte::CACHE == Pte::PAT | Pte::PWT;
            let message =
                || format!("domain {id} maps {mfn}, which is no RAM, with flags {flags:#x}");
            return (allowed && !cached).then_some(()).ok_or_else(message);
        };
        let Some(owner) = state.owner else {
            return Err(format!("domain {id} maps the free frame {mfn}"));
        };
        let shared = self.shared.contains(&(domain.id, mfn, owner));
        let write = flags & Pte::WRITABLE != 0;
        let granted = || grant::recount::is_mapped(domain, mfn, owner, write);
        if owner != domain.id && !domain.privileged && !shared && !granted() {
            return Err(format!("domain {id} maps {mfn} of domain {}", owner.0));
        }
        if flags & Pte::CACHE != 0 {
            return Err(format!("domain {id} maps {mfn}, which is RAM, uncached"));
        }
        Ok(())
    }

    /// Whether a processor may remember this of a frame that it reached from a domain's root.
    fn may_remember(
        &self,
        domain: &Domain,
        state: Option<FrameState>,
        mfn: Mfn,
        remembered: Remembered,
    ) -> bool {
        let used = state.filter(|state| state.types > 0).map(|it| it.kind);
        let own = state.is_some_and(|state| state.owner == Some(domain.id));
        let flags = match remembered {
            // What is no RAM is not cached.
            _ if state.is_none() => Pte::PCD,
            Remembered::WritablePage => Pte::WRITABLE,
            _ => 0,
        };
        let right = match (remembered, used) {
            (Remembered::Page, _) => true,
            (Remembered::WritablePage, used) => used.is_none_or(|it| it == FrameType::Writable),
            (Remembered::Table { .. }, None) => own,
            // A table of a higher level may be a linear one, through which nobody writes.
            (Remembered::Table { level, writable }, Some(FrameType::Table(now))) => {
                own && (now as u32 == level || now as u32 > level && !writable)
            }
            (Remembered::Table { .. }, Some(_)) => false,
        };
        right && self.may_map(domain, state, mfn, flags).is_ok()
    }
}

/// Whether a frame is in a stage that it may stay in.
fn is_at_rest(state: &FrameState) -> bool {
    match state.stage {
        Stage::Idle => !state.pinned,
        Stage::Valid => true,
        Stage::Partial(count) | Stage::Leaving(count) => {
            let above_l1 = matches!(state.kind, FrameType::Table(level) if level != Level::L1);
            above_l1 && !state.pinned && count <= TABLE_ENTRIES
        }
        Stage::Busy => false,
    }
}

/// Compares the owners' lists with the frames that they must have.
fn lists(hv: &Hypervisor, states: &States) -> Result<(), String> {
    let memory = &hv.memory;
    let mut listed = vec![None; states.len()];
    for (&id, owner) in memory.owners.read().iter() {
        let lists = owner.lists.lock();
        for (list, allocated) in [(&lists.allocated, true), (&lists.lingering, false)] {
            let frames = memory.listed(list);
            for &mfn in &frames {
                let before = listed[mfn.0 as usize].replace((id, allocated));
                if before.is_some() {
                    return Err(format!("frame {mfn} is listed twice"));
                }
            }
            if frames.len() as u64 != list.len {
                return Err(format!("a list of domain {} is broken", id.0));
            }
        }
    }
    let owners: Vec<_> = memory.owners.read().values().cloned().collect();
    if let Some(owner) = owners.iter().find(|it| it.frames() > it.max_frames()) {
        return Err(format!("{:?} owns more than it may", owner.id));
    }
    let claims: u64 = owners.iter().map(|it| it.claim()).sum();
    if claims != memory.claimed_frames() {
        return Err(format!(
            "{claims} frames are claimed, not {}",
            memory.claimed_frames()
        ));
    }
    let mut leaving = 0;
    for (id, owner) in memory.owners.read().iter() {
        let (tables, len) = memory.listed_leaving(owner);
        let owned = tables
            .iter()
            .filter(|&&mfn| state_of(states, mfn).is_some_and(|state| state.owner == Some(*id)));
        if owned.count() as u64 != len {
            return Err(format!(
                "{id:?} lets go of {len} tables, but lists {tables:?}"
            ));
        }
        leaving += len;
    }
    let states_leaving = managed(states).filter(|it| matches!(it.1.stage, Stage::Leaving(_)));
    if states_leaving.count() as u64 != leaving {
        return Err(format!("not {leaving} tables are to be taken apart"));
    }
    for (mfn, state) in managed(states) {
        let place = listed[mfn.0 as usize];
        if place != state.owner.map(|owner| (owner, state.allocated)) {
            return Err(format!("frame {mfn}: {state:?}, but listed by {place:?}"));
        }
    }
    Ok(())
}

/// Whether a frame is a table of this level, which an entry of a table of the same level then names as such.
fn is_table(states: &States, mfn: Mfn, level: Level) -> bool {
    let state = state_of(states, mfn);
    state.is_some_and(|state| state.kind == FrameType::Table(level) && state.types > 0)
}

/// The frames that some domain has a mapping of, by tables that are in use or for devices.
pub fn mapped(hv: &Hypervisor) -> BTreeSet<Mfn> {
    let states = hv.memory.states();
    let mut recount = Recount::default();
    recount.seen.resize(states.len(), Seen::default());
    let tables = managed(&states).filter(|(_, state)| state.types > 0);
    let entries = tables
        .filter(|(_, state)| state.kind == FrameType::Table(Level::L1))
        .flat_map(|(mfn, _)| recount.entries(hv, mfn, Level::L1).to_vec());
    let domains: Vec<_> = hv.domains.read().values().cloned().collect();
    let devices = domains
        .iter()
        .flat_map(|domain| grant::recount::held_for_devices(domain));
    let mapped = entries.map(|(_, entry)| entry.mfn());
    mapped.chain(devices.map(|(mfn, _)| mfn)).collect()
}

/// Whether slots 256 to 271 of a root are the hypervisor's own.
fn hypervisor_slots_stand(hv: &Hypervisor, root: Mfn) -> Result<(), String> {
    for (slot, entry) in hv.machine.hypervisor_slots().into_iter().enumerate() {
        let found = hv.machine.load_u64(root, FIRST_HYPERVISOR_SLOT + slot);
        let hidden = slot == 0 && found == 0;
        if found != entry && !hidden {
            return Err(format!("root {root}, slot {slot}: {found:#x}"));
        }
    }
    Ok(())
}

/// Whether a processor that leaves out the range of an unhooked table cannot get at it, and so whatever the guest
/// writes there.
fn out_of_reach(hv: &Hypervisor, root: Mfn, unhooked: &Unhooked) -> Result<(), String> {
    let mut waiting = vec![(root, Level::L4, 0_u64)];
    while let Some((table, level, base)) = waiting.pop() {
        if table == unhooked.table {
            return Err(format!("unhooked table {table} is reached at {base:#x}"));
        }
        // The hypervisor's own tables are in a root that a linear page table shows as one of a lower level.
        let own = hv.machine.is_private(table);
        let Some(below) = level.below().filter(|_| !own) else {
            continue;
        };
        for index in (0..TABLE_ENTRIES).filter(|&index| is_guest_slot(level, index)) {
            let entry = Pte(hv.machine.load_u64(table, index));
            let va = base | (index as u64) << (12 + 9 * (level as u32 - 1));
            let va = (((va << 16) as i64) >> 16) as u64;
            let left_out = level == Level::L2 && unhooked.way == Way::Only(va);
            if entry.present() && !left_out {
                waiting.push((entry.mfn(), below, va));
            }
        }
    }
    Ok(())
}

/// The part of the address space that no guest has: a walk that trusted [`is_guest_slot`] alone would not see it
/// change.
#[test]
fn the_hypervisors_slots_are_no_guests() {
    let slots: Vec<_> = (0..TABLE_ENTRIES)
        .filter(|&index| !is_guest_slot(Level::L4, index))
        .collect();
    let own = FIRST_HYPERVISOR_SLOT..FIRST_HYPERVISOR_SLOT + hv_machine::HYPERVISOR_SLOTS;
    assert_eq!(slots, own.collect::<Vec<_>>());
}
