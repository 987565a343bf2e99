//! The counts and the isolation of domains, worked out afresh from what is there, for tests.
//!
//! [`check`] believes no record. It adds up the references and types that page tables, pins, vCPUs, shared-info
//! pages and allocations stand for and compares the sums with the records. Then it walks the tables as a
//! processor would, and looks at every frame that ring 3 could reach. It is for a moment at which no hypercall is
//! in progress.

use std::collections::{BTreeMap, BTreeSet};
use std::format;
use std::string::String;
use std::vec::Vec;

use hv_machine::{FIRST_HYPERVISOR_SLOT, HYPERVISOR_SLOTS, Platform, TABLE_ENTRIES};
use hypercall_abi::types::{Domid, Mfn};

use super::{FrameType, L1Slot, Level, Memory, Pte, Stage, Way, is_guest_slot};
use crate::domain::Domain;
use crate::emulate::unhook::Unhooked;
use crate::hypervisor::Hypervisor;
use crate::lifecycle;

/// What a frame's counts must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Counts {
    references: u32,
    types: Vec<FrameType>,
}

/// Frames that ring 3 of some domain, or a processor on its behalf, may use at this moment.
#[derive(Clone, Debug, Default)]
pub struct Reach {
    /// Frames that some domain has a mapping of.
    pub mapped: BTreeSet<Mfn>,
    /// Frames that some domain may write to.
    pub writable: BTreeSet<Mfn>,
    /// Page tables under a root or a pin, and their levels.
    pub tables: BTreeMap<Mfn, Level>,
    /// Pages of descriptor tables.
    pub descriptors: BTreeSet<Mfn>,
}

/// Compares every record with what it must say, and looks for a breach of isolation.
///
/// # Errors
/// What is wrong, in words.
pub fn check(hv: &Hypervisor) -> Result<Reach, String> {
    check_again(hv, &mut BTreeSet::new())
}

/// As [`check`], but looks only at the contents of those free frames that are not in `scrubbed`, where all are
/// that were free the last time.
pub fn check_again(hv: &Hypervisor, scrubbed: &mut BTreeSet<Mfn>) -> Result<Reach, String> {
    counts(hv)?;
    lists(hv)?;
    free_frames(hv, scrubbed)?;
    isolation(hv)
}

impl Memory {
    /// All frames of an owner.
    pub(crate) fn frames_of(&self, owner: &super::Owner) -> Vec<Mfn> {
        let lists = owner.lists.lock();
        let mut frames = self.listed(&lists.allocated);
        frames.extend(self.listed(&lists.lingering));
        frames
    }
}

/// Adds up all counts and compares them (I5).
fn counts(hv: &Hypervisor) -> Result<(), String> {
    let memory = &hv.memory;
    let tables = Tables::new(hv);
    let mut expected: BTreeMap<Mfn, Counts> = BTreeMap::new();
    let mut refer = |mfn: Mfn, kind: FrameType| {
        let counts = expected.entry(mfn).or_default();
        counts.references += 1;
        if kind != FrameType::None {
            counts.types.push(kind);
        }
    };
    let mut linear: BTreeMap<Mfn, i16> = BTreeMap::new();
    for mfn in managed(memory) {
        let state = memory.state(mfn).ok_or("a frame without a record")?;
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
        if let FrameType::Table(level) = state.kind {
            let entries = tables.entries(mfn, level).into_iter();
            for (_, entry) in entries.take_while(|&(index, _)| index < count) {
                match level.below() {
                    Some(_) if entry.mfn() == mfn => {}
                    Some(_) if is_table(memory, entry.mfn(), level) => {
                        refer(entry.mfn(), state.kind);
                        *linear.entry(mfn).or_default() += 1;
                        *linear.entry(entry.mfn()).or_default() -= 1;
                    }
                    Some(below) => refer(entry.mfn(), FrameType::Table(below)),
                    None if !memory.is_ram(entry.mfn()) => {}
                    None if entry.writable() => refer(entry.mfn(), FrameType::Writable),
                    None => refer(entry.mfn(), FrameType::None),
                }
            }
        }
    }
    for domain in hv.domains.read().values() {
        refer(domain.shared_info, FrameType::Writable);
        for vcpu in domain.vcpus() {
            if !lifecycle::has_first_info_place(domain, &vcpu) {
                refer(vcpu.info().mfn, FrameType::Writable);
            }
            let state = vcpu.state.lock();
            for root in [state.kernel_root, state.user_root].into_iter().flatten() {
                refer(root, FrameType::Table(Level::L4));
            }
            for &mfn in state.gdt.iter().chain(state.ldt_frames.iter().flatten()) {
                refer(mfn, FrameType::Descriptors);
            }
        }
    }
    for mfn in managed(memory) {
        let state = memory.state(mfn).ok_or("a frame without a record")?;
        let counts = expected.remove(&mfn).unwrap_or_default();
        let same_type = counts.types.iter().all(|&kind| kind == state.kind);
        if state.references != counts.references
            || state.types as usize != counts.types.len()
            || !same_type
        {
            return Err(format!("frame {mfn}: {state:?}, but in truth {counts:?}"));
        }
        let named = memory.frame(mfn).map(|frame| frame.linear_count());
        if named != Some(linear.remove(&mfn).unwrap_or_default()) {
            return Err(format!("frame {mfn}: {named:?} linear entries"));
        }
        let above_l1 = matches!(state.kind, FrameType::Table(level) if level != Level::L1);
        let at_rest = match state.stage {
            Stage::Idle => !state.pinned,
            Stage::Valid => true,
            Stage::Partial(count) | Stage::Leaving(count) => {
                above_l1 && !state.pinned && count <= TABLE_ENTRIES
            }
            Stage::Busy => false,
        };
        if !at_rest {
            return Err(format!(
                "frame {mfn}: {state:?}, with no hypercall under way"
            ));
        }
    }
    match expected.first_key_value() {
        Some((mfn, counts)) => Err(format!("frame {mfn} is no RAM, but in truth {counts:?}")),
        None => Ok(()),
    }
}

/// Compares the owners' lists with the frames that they must have.
fn lists(hv: &Hypervisor) -> Result<(), String> {
    let memory = &hv.memory;
    let mut expected: BTreeMap<(Domid, bool), BTreeSet<Mfn>> = BTreeMap::new();
    for mfn in managed(memory) {
        let state = memory.state(mfn).ok_or("a frame without a record")?;
        if let Some(owner) = state.owner {
            let frames = expected.entry((owner, state.allocated)).or_default();
            frames.insert(mfn);
        }
    }
    for (&id, owner) in memory.owners.read().iter() {
        let lists = owner.lists.lock();
        for (list, allocated) in [(&lists.allocated, true), (&lists.lingering, false)] {
            let listed = memory.listed(list);
            let set: BTreeSet<_> = listed.iter().copied().collect();
            let frames = expected.remove(&(id, allocated)).unwrap_or_default();
            if set != frames || listed.len() != set.len() || listed.len() as u64 != list.len {
                return Err(format!(
                    "domain {}, allocated {allocated}: {} frames in the list, {} it should have",
                    id.0,
                    listed.len(),
                    frames.len()
                ));
            }
        }
    }
    if let Some((owner, frames)) = expected.first_key_value() {
        return Err(format!("{owner:?} is gone but owns {frames:?}"));
    }
    let mut leaving: BTreeMap<Domid, BTreeSet<Mfn>> = BTreeMap::new();
    for mfn in managed(memory) {
        let state = memory.state(mfn).ok_or("a frame without a record")?;
        if let (Stage::Leaving(_), Some(owner)) = (state.stage, state.owner) {
            leaving.entry(owner).or_default().insert(mfn);
        }
    }
    for (id, owner) in memory.owners.read().iter() {
        let (listed, len) = memory.listed_leaving(owner);
        let set: BTreeSet<_> = listed.iter().copied().collect();
        let tables = leaving.remove(id).unwrap_or_default();
        if set != tables || listed.len() != set.len() || listed.len() as u64 != len {
            return Err(format!(
                "{id:?} lets go of {tables:?}, but lists {len}: {listed:?}"
            ));
        }
    }
    Ok(())
}

/// Looks at the frames that nobody refers to (I4).
fn free_frames(hv: &Hypervisor, scrubbed: &mut BTreeSet<Mfn>) -> Result<(), String> {
    let memory = &hv.memory;
    // Free frames come to the heap when there is time to scrub them, which is now.
    memory.scrub(u64::MAX);
    let before = core::mem::take(scrubbed);
    let dirty: BTreeSet<_> = memory.listed(&memory.dirty.lock()).into_iter().collect();
    if dirty.len() as u64 != memory.dirty_frames() {
        return Err("the list of frames to be scrubbed is broken".into());
    }
    for mfn in managed(memory) {
        let state = memory.state(mfn).ok_or("a frame without a record")?;
        if state.references > 0 {
            if state.owner.is_none() {
                return Err(format!("frame {mfn}: {state:?}, of nobody"));
            }
            continue;
        }
        if state.owner.is_some() || state.allocated || state.types != 0 || state.pinned {
            return Err(format!("free frame {mfn}: {state:?}"));
        }
        if hv.machine.m2p(mfn) != u64::MAX {
            return Err(format!("free frame {mfn} has a guest's frame number"));
        }
        if dirty.contains(&mfn) {
            continue;
        }
        scrubbed.insert(mfn);
        if before.contains(&mfn) {
            continue;
        }
        if memory.free_frames_between(mfn.0, mfn.0 + 1) != 1 {
            return Err(format!("frame {mfn} is free but not in the heap"));
        }
        if (0..TABLE_ENTRIES).any(|index| hv.machine.load_u64(mfn, index) != 0) {
            return Err(format!("free frame {mfn} is not scrubbed"));
        }
    }
    let free = (scrubbed.len() + dirty.len()) as u64;
    let listed = memory.free_frames();
    if free == listed {
        Ok(())
    } else {
        Err(format!("{free} frames are free, {listed} in the lists"))
    }
}

/// Walks all tables (I1, I2).
fn isolation(hv: &Hypervisor) -> Result<Reach, String> {
    let memory = &hv.memory;
    let tables = Tables::new(hv);
    let mut reach = Reach::default();
    let mut pages: BTreeMap<(Domid, Mfn), u64> = BTreeMap::new();
    let mut waiting: Vec<(Domid, Mfn, Level)> = Vec::new();
    for mfn in managed(memory) {
        if let Some(state) = memory.state(mfn)
            && let (true, FrameType::Table(level), Some(owner)) =
                (state.pinned, state.kind, state.owner)
        {
            waiting.push((owner, mfn, level));
        }
    }
    for domain in hv.domains.read().values() {
        for vcpu in domain.vcpus() {
            let state = vcpu.state.lock();
            for root in [state.kernel_root, state.user_root].into_iter().flatten() {
                waiting.push((domain.id, root, Level::L4));
            }
            if let (Some((unhooked, _)), Some(root)) =
                (state.table_stores.unhooked(), state.kernel_root)
            {
                out_of_reach(hv, root, &unhooked)?;
            }
            let frames = state.gdt.iter().chain(state.ldt_frames.iter().flatten());
            for &mfn in frames {
                if memory.owner_of(mfn) != Some(domain.id) {
                    return Err(format!("frame {mfn}: descriptors of another domain"));
                }
                descriptors_are_harmless(hv, mfn)?;
                reach.descriptors.insert(mfn);
            }
        }
    }
    while let Some((id, mfn, level)) = waiting.pop() {
        if memory.owner_of(mfn) != Some(id) {
            return Err(format!("frame {mfn}: a table of domain {} only", id.0));
        }
        let state = memory.state(mfn).ok_or("a table without a record")?;
        if state.stage != Stage::Valid {
            return Err(format!("frame {mfn}: {state:?}, reachable as a table"));
        }
        match reach.tables.insert(mfn, level) {
            Some(before) if before != level => {
                return Err(format!("frame {mfn}: a table of {before:?} and {level:?}"));
            }
            Some(_) => continue,
            None => {}
        }
        if level == Level::L4 {
            hypervisor_slots_stand(hv, mfn)?;
        }
        for (index, entry) in tables.entries(mfn, level) {
            let superpage = level != Level::L1 && entry.has(Pte::PSE);
            if superpage || !entry.has(Pte::USER) || entry.has(Pte::GLOBAL) {
                return Err(format!("{level:?} {mfn} entry {index}: {entry:?}"));
            }
            match level.below() {
                Some(_) if is_table(memory, entry.mfn(), level) => {
                    if entry.writable() {
                        return Err(format!("{level:?} {mfn} entry {index}: {entry:?}, linear"));
                    }
                    waiting.push((id, entry.mfn(), level));
                }
                Some(below) => waiting.push((id, entry.mfn(), below)),
                None => *pages.entry((id, entry.mfn())).or_default() |= entry.flags(),
            }
        }
    }
    for ((id, mfn), flags) in pages {
        let domain = hv
            .domain(id)
            .map_err(|_| "tables of a domain that is gone")?;
        may_map(hv, &domain, mfn, flags)?;
        reach.mapped.insert(mfn);
        if flags & Pte::WRITABLE != 0 {
            if reach.tables.contains_key(&mfn) || reach.descriptors.contains(&mfn) {
                return Err(format!("domain {} may write to table {mfn}", id.0));
            }
            reach.writable.insert(mfn);
        }
    }
    Ok(reach)
}

/// Whether a frame is a table of this level, which an entry of a table of the same level then names as such.
fn is_table(memory: &Memory, mfn: Mfn, level: Level) -> bool {
    let state = memory.state(mfn);
    state.is_some_and(|state| state.kind == FrameType::Table(level) && state.types > 0)
}

/// Whether a domain may have mappings of a frame, with all of these flags.
fn may_map(hv: &Hypervisor, domain: &Domain, mfn: Mfn, flags: u64) -> Result<(), String> {
    let id = domain.id.0;
    if !hv.memory.is_ram(mfn) {
        let allowed = domain.owner.io_memory_allowed(mfn, mfn);
        let message = || format!("domain {id} maps {mfn}, which is no RAM");
        return allowed.then_some(()).ok_or_else(message);
    }
    let Some(owner) = hv.memory.owner_of(mfn) else {
        return Err(format!("domain {id} maps the free frame {mfn}"));
    };
    if owner != domain.id && !domain.privileged {
        return Err(format!("domain {id} maps {mfn} of domain {}", owner.0));
    }
    if flags & Pte::CACHE != 0 {
        return Err(format!("domain {id} maps {mfn}, which is RAM, uncached"));
    }
    Ok(())
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

/// Whether a descriptor table gives nobody more than ring 3.
fn descriptors_are_harmless(hv: &Hypervisor, mfn: Mfn) -> Result<(), String> {
    for index in 0..TABLE_ENTRIES {
        let descriptor = hv.machine.load_u64(mfn, index);
        let present = descriptor >> 47 & 1 != 0;
        let segment = descriptor >> 44 & 1 != 0;
        let level = descriptor >> 45 & 3;
        let kind = descriptor >> 40 & 0xf;
        let gate_behind_bars = kind == 0 || kind == 0xc && level == 0;
        if present && (segment && level != 3 || !segment && !gate_behind_bars) {
            return Err(format!("descriptor {index} of {mfn}: {descriptor:#x}"));
        }
    }
    Ok(())
}

/// The frames that have a record.
fn managed(memory: &Memory) -> impl Iterator<Item = Mfn> {
    let all = (0..memory.frames.len() as u64).map(Mfn);
    all.filter(|&mfn| memory.is_ram(mfn) && !memory.machine.is_private(mfn))
}

/// Page tables as the counts have them: an unhooked one as it was, as is the entry that maps it.
struct Tables<'a> {
    hv: &'a Hypervisor,
    before: BTreeMap<Mfn, Vec<u64>>,
    mappings: BTreeMap<(Mfn, usize), Pte>,
}

impl<'a> Tables<'a> {
    fn new(hv: &'a Hypervisor) -> Self {
        let mut tables = Self {
            hv,
            before: BTreeMap::new(),
            mappings: BTreeMap::new(),
        };
        for domain in hv.domains.read().values() {
            for vcpu in domain.vcpus() {
                let state = vcpu.state.lock();
                if let Some((unhooked, before)) = state.table_stores.unhooked() {
                    let L1Slot { table, index } = unhooked.mapping;
                    tables.before.insert(unhooked.table, before.to_vec());
                    tables.mappings.insert((table, index), unhooked.entry);
                }
            }
        }
        tables
    }

    /// The guest's present entries of a table, with their places.
    fn entries(&self, table: Mfn, level: Level) -> Vec<(usize, Pte)> {
        let entry = |index| match (self.before.get(&table), self.mappings.get(&(table, index))) {
            (_, Some(&mapping)) => mapping,
            (Some(before), _) => Pte(before[index]),
            _ => Pte(self.hv.machine.load_u64(table, index)),
        };
        (0..TABLE_ENTRIES)
            .filter(|&index| is_guest_slot(level, index))
            .map(|index| (index, entry(index)))
            .filter(|(_, entry)| entry.present())
            .collect()
    }
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
    let own = FIRST_HYPERVISOR_SLOT..FIRST_HYPERVISOR_SLOT + HYPERVISOR_SLOTS;
    assert_eq!(slots, own.collect::<Vec<_>>());
}
