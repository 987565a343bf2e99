//! Linear page tables: an entry that names a table of its own level, so that the processor takes a table for one of the
//! level below, and the guest sees its page tables as memory, in one range of addresses (NetBSD does).
//!
//! Nothing of what is checked in an entry is lost by that as long as
//!
//! - the entry is read-only: whatever is reached through it is. Bits that mean something else a level below, such as the
//!   one for large pages, are in no entry above L1;
//! - the table named is the one that the entry is in, or valid already: its own validation waits for nobody;
//! - the tables form no circle, or none of them would ever lose its last use. So a table in which another is named so
//!   is not named so itself ([`super::frame::Frame::linear`]). An entry that names its own table counts as nothing.

use core::sync::atomic::Ordering;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Mfn;

use super::frame::FrameRef;
use super::type_word::{Stage, TypeWord};
use super::{FrameType, Level, Memory, Pte};

/// An entry that names another table of its level.
const NAMES: i16 = 1;
/// A table that such an entry names.
const NAMED: i16 = -1;

impl Memory {
    /// Takes what an entry refers to that names no table of the level below: itself, or another of its level.
    ///
    /// # Errors
    /// `EINVAL` where it is not that, is writable, or would make a chain.
    pub(super) fn acquire_linear(&self, entry: Pte, table: Mfn, level: Level) -> Result<(), Errno> {
        if entry.writable() {
            return Err(Errno::EINVAL);
        }
        let named = entry.mfn();
        if named == table {
            return Ok(());
        }
        let reference = self.get(named, self.holder(table)).ok_or(Errno::EINVAL)?;
        if !self.begin(table, NAMES) {
            return Err(Errno::EINVAL);
        }
        if !self.begin(named, NAMED) {
            self.end(table, NAMES);
            return Err(Errno::EINVAL);
        }
        if !self.share_valid(&reference, level) {
            self.end(named, NAMED);
            self.end(table, NAMES);
            return Err(Errno::EINVAL);
        }
        reference.into_bits();
        Ok(())
    }

    /// Whether an entry above L1 that counts names a table of its own level.
    pub(super) fn is_linear(&self, entry: Pte, table: Mfn, level: Level) -> bool {
        let named = self.frame(entry.mfn());
        entry.mfn() == table
            || named.is_some_and(|frame| frame.word().kind() == FrameType::Table(level))
    }

    /// Gives back what [`Self::acquire_linear`] took.
    pub(super) fn release_linear(&self, entry: Pte, table: Mfn, level: Level) {
        let named = entry.mfn();
        if named != table {
            self.end(named, NAMED);
            self.end(table, NAMES);
            drop(self.adopt_typed(named, FrameType::Table(level)));
        }
    }

    /// Counts one more use of a valid table.
    fn share_valid(&self, reference: &FrameRef<'_>, level: Level) -> bool {
        let Some(frame) = self.frame(reference.mfn()) else {
            return false;
        };
        loop {
            let word = frame.word();
            if word.stage() != Stage::Valid || word.kind() != FrameType::Table(level) {
                return false;
            }
            if frame.replace_word(word, TypeWord(word.0 + 1)) {
                return true;
            }
        }
    }

    /// Counts a table as one that names, or is named, unless it is the other already.
    fn begin(&self, mfn: Mfn, role: i16) -> bool {
        let more = |count: i16| {
            let same = count == 0 || count.signum() == role;
            same.then(|| count.checked_add(role)).flatten()
        };
        self.frame(mfn).is_some_and(|frame| {
            let linear = &frame.linear;
            linear
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
                .is_ok()
        })
    }

    fn end(&self, mfn: Mfn, role: i16) {
        if let Some(frame) = self.frame(mfn) {
            frame.linear.fetch_sub(role, Ordering::AcqRel);
        }
    }
}

#[cfg(any(test, fuzzing))]
impl super::frame::Frame {
    /// Entries of the table that name others of its level, or, negative, such entries elsewhere that name it.
    pub(super) fn linear_count(&self) -> i16 {
        self.linear.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use hv_machine::Platform;
    use hypercall_abi::types::Domid;
    use hypercall_abi::xen::*;

    use crate::memory::recount;
    use crate::testing::{BUDGET, DOM0, DOMU, Host, RO, RW, SCRATCH};

    const SELF: u64 = Domid::SELF.0 as u64;
    const INVAL: i64 = Errno::EINVAL.to_return();
    const PINS: [(u32, Level); 3] = [
        (MMUEXT_PIN_L2_TABLE, Level::L2),
        (MMUEXT_PIN_L3_TABLE, Level::L3),
        (MMUEXT_PIN_L4_TABLE, Level::L4),
    ];

    fn update(host: &Host, ptr: u64, entry: Pte) -> i64 {
        let at = host.put(DOMU, &MmuUpdate { ptr, val: entry.0 });
        host.hypercall(DOMU, HYPERVISOR_MMU_UPDATE, &[at, 1, 0, SELF])
    }

    fn write(host: &Host, table: Mfn, index: usize, entry: Pte) -> i64 {
        update(host, (table.0 << 12) | (index as u64 * 8), entry)
    }

    fn extended(host: &Host, cmd: u32, mfn: Mfn) -> i64 {
        let op = MmuextOp {
            cmd,
            _pad0: 0,
            arg1: mfn.0,
            arg2: 0,
        };
        let at = host.put(DOMU, &op);
        host.hypercall(DOMU, HYPERVISOR_MMUEXT_OP, &[at, 1, 0, SELF])
    }

    /// Frames of scratch pages that are mapped no more.
    fn idle<const N: usize>(host: &Host, first: usize) -> [Mfn; N] {
        core::array::from_fn(|index| {
            let va = SCRATCH + (first + index) as u64 * 4096;
            let args = [va, 0, UVMF_INVLPG];
            assert_eq!(host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args), 0);
            host.layout(DOMU).scratch[first + index]
        })
    }

    #[track_caller]
    fn in_order(host: &Host) {
        recount::check(&host.hv).expect("all in order");
    }

    #[test]
    fn a_root_that_names_itself_shows_the_tables_below_it() {
        const SLOT: usize = 300;
        let host = Host::new();
        let [l4, l3, l2, l1] = host.layout(DOMU).tables;
        let before = host.hv.memory.state(l4);
        assert_eq!(write(&host, l4, SLOT, Pte::new(l4, RO)), 0);
        assert_eq!(host.hv.memory.state(l4), before, "it counts as nothing");
        let slot = SLOT as u64;
        let at = |indices: [u64; 4]| {
            let address = indices.iter().fold(0, |all, index| all << 9 | index);
            0xffff_0000_0000_0000 | address << 12
        };
        let [i4, i3, i2] =
            [Level::L4, Level::L3, Level::L2].map(|level| level.index(SCRATCH) as u64);
        for (table, va) in [
            (l1, at([slot, i4, i3, i2])),
            (l2, at([slot, slot, i4, i3])),
            (l3, at([slot, slot, slot, i4])),
            (l4, at([slot; 4])),
        ] {
            for index in [0, 1, 4, 300] {
                let seen: u64 = host.get(DOMU, va + index * 8);
                assert_eq!(seen, host.hv.machine.load_u64(table, index as usize));
            }
            host.as_guest(DOMU, |cx| assert!(cx.write(va, &0_u64).is_err()));
            let entry = Pte::new(host.layout(DOMU).scratch[9], RO).0;
            let args = [va, entry, UVMF_NONE];
            let result = host.hypercall(DOMU, HYPERVISOR_UPDATE_VA_MAPPING, &args);
            assert_eq!(result, INVAL, "what translates it is no L1 table");
        }
        in_order(&host);
        assert_eq!(write(&host, l4, SLOT, Pte(0)), 0);
        in_order(&host);
    }

    /// XSA-182: an entry that is there already is checked again when it becomes writable.
    #[test]
    fn no_table_is_seen_writable() {
        let host = Host::new();
        let [new, other] = idle(&host, 20);
        for (cmd, _) in PINS {
            for table in [new, other] {
                assert_eq!(extended(&host, cmd, table), 0);
            }
            for named in [new, other] {
                assert_eq!(write(&host, new, 5, Pte::new(named, RW)), INVAL);
                assert_eq!(write(&host, new, 5, Pte::new(named, RO)), 0);
                for command in [MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_PRESERVE_AD] {
                    let ptr = (new.0 << 12) | (5 * 8) | command;
                    assert_eq!(update(&host, ptr, Pte::new(named, RW)), INVAL);
                    let harmless = Pte::new(named, RO | Pte::AVAILABLE | Pte::NO_EXECUTE);
                    assert_eq!(update(&host, ptr, harmless), 0);
                }
                in_order(&host);
            }
            for table in [new, other] {
                assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, table), 0);
            }
            in_order(&host);
            host.hv.machine.zero_frame(new);
            host.hv.machine.store_u64(new, 5, Pte::new(new, RW).0);
            assert_eq!(extended(&host, cmd, new), INVAL, "nor in a new table");
            host.hv.machine.zero_frame(new);
        }
        in_order(&host);
    }

    /// XSA-240, -309: tables that name each other stay for ever, and chains of them are taken apart for as long.
    #[test]
    fn a_table_names_others_or_is_named() {
        let host = Host::new();
        let [a, b, c] = idle(&host, 20);
        for (cmd, level) in PINS {
            for table in [a, b, c] {
                assert_eq!(extended(&host, cmd, table), 0);
            }
            let name = |from, index, to| write(&host, from, index, Pte::new(to, RO));
            assert_eq!(name(a, 5, b), 0);
            assert_eq!(name(a, 6, b), 0);
            assert_eq!(name(b, 5, c), INVAL, "a chain");
            assert_eq!(name(b, 5, a), INVAL, "a circle");
            assert_eq!(name(c, 5, a), INVAL, "a chain from the other end");
            assert_eq!(name(c, 5, b), 0);
            assert_eq!(name(b, 7, b), 0, "itself is neither");
            in_order(&host);
            // The one that is named lives as long as it is named.
            assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, b), 0);
            assert_eq!(host.hv.memory.type_in_use(b), FrameType::Table(level));
            assert_eq!(write(&host, a, 5, Pte(0)), 0);
            assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, a), 0);
            in_order(&host);
            assert_eq!(host.hv.memory.type_in_use(b), FrameType::Table(level));
            assert_eq!(write(&host, c, 5, Pte(0)), 0);
            assert_eq!(host.hv.memory.type_in_use(b), FrameType::None);
            // Free of its role, it may have the other.
            assert_eq!(extended(&host, cmd, b), 0);
            host.hv.machine.zero_frame(a);
            assert_eq!(extended(&host, cmd, a), 0);
            assert_eq!(write(&host, b, 5, Pte::new(a, RO)), 0);
            in_order(&host);
            for table in [a, b, c] {
                assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, table), 0);
            }
            in_order(&host);
            for table in [a, b, c] {
                assert_eq!(host.hv.memory.type_in_use(table), FrameType::None);
                host.hv.machine.zero_frame(table);
            }
        }
    }

    #[test]
    fn only_a_valid_table_of_the_domain_is_named() {
        let host = Host::new();
        let [table, l2, data] = idle(&host, 20);
        assert_eq!(extended(&host, MMUEXT_PIN_L4_TABLE, table), 0);
        assert_eq!(extended(&host, MMUEXT_PIN_L2_TABLE, l2), 0);
        host.hv.machine.store_u64(data, 0, Pte::new(Mfn(1), RO).0);
        for named in [
            l2,
            data,
            host.layout(DOMU).tables[3],
            host.layout(DOMU).scratch[0],
            host.layout(DOM0).tables[0],
            Mfn(1),
            Mfn(1 << 39),
        ] {
            assert_eq!(
                write(&host, table, 5, Pte::new(named, RO)),
                INVAL,
                "{named}"
            );
        }
        for flags in [RO | Pte::PSE, RO | Pte::GLOBAL, RO | Pte::PCD] {
            assert_eq!(write(&host, table, 5, Pte::new(table, flags)), INVAL);
        }
        in_order(&host);
    }

    #[test]
    fn a_table_whose_check_was_given_up_half_way_is_not_named() {
        let host = Host::new();
        let [table, named, a, b] = idle(&host, 20);
        assert_eq!(extended(&host, MMUEXT_PIN_L4_TABLE, table), 0);
        for (index, below) in [(1, a), (2, b)] {
            let entry = Pte::new(below, RO).0;
            host.hv.machine.store_u64(named, index, entry);
        }
        let op = MmuextOp {
            cmd: MMUEXT_PIN_L4_TABLE,
            _pad0: 0,
            arg1: named.0,
            arg2: 0,
        };
        let args = [host.put(DOMU, &op), 1, 0, SELF];
        host.hv.machine.set_tsc_step(BUDGET);
        host.begin_hypercall(DOMU, 0, HYPERVISOR_MMUEXT_OP, &args);
        assert_eq!(host.go_on(DOMU, 0, 1), None);
        host.hv.machine.set_tsc_step(0);
        let stage = host.hv.memory.state(named).map(|state| state.stage);
        assert!(matches!(stage, Some(Stage::Partial(_))), "{stage:?}");
        assert_eq!(write(&host, table, 5, Pte::new(named, RO)), INVAL);
        in_order(&host);
    }

    #[test]
    fn linear_tables_are_validated_in_pieces_and_go_with_their_domain() {
        let host = Host::new();
        let [named, a, b] = idle(&host, 20);
        assert_eq!(extended(&host, MMUEXT_PIN_L4_TABLE, named), 0);
        host.hv.machine.set_tsc_step(BUDGET);
        for (table, last) in [(a, Pte(0)), (b, Pte::new(Mfn(1), RO))] {
            for (index, entry) in [(1, table), (2, named), (3, named), (400, table)] {
                let entry = Pte::new(entry, RO).0;
                host.hv.machine.store_u64(table, index, entry);
            }
            host.hv.machine.store_u64(table, 511, last.0);
        }
        assert_eq!(extended(&host, MMUEXT_PIN_L4_TABLE, a), 0);
        assert_eq!(extended(&host, MMUEXT_PIN_L4_TABLE, b), INVAL);
        host.hv.machine.set_tsc_step(0);
        in_order(&host);
        assert_eq!(extended(&host, MMUEXT_UNPIN_TABLE, named), 0);
        assert_eq!(host.hv.memory.type_in_use(b), FrameType::None);
        let domain = host.domain(DOMU);
        while !crate::lifecycle::destroy(&host.hv, &domain, &mut || true) {}
        assert!(host.hv.domain(DOMU).is_err());
        in_order(&host);
    }
}
