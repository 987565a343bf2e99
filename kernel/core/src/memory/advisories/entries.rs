//! What an entry may say.

use super::*;

/// XSA-148, -176: a large page is the whole of two megabytes, whoever owns them; no entry has the bit, whether it is
/// new, changed by the fast path for the same frame, or found when a frame becomes a table.
#[test]
fn no_entry_above_l1_maps_a_large_page() {
    let host = Host::new();
    let [l4, l3, l2, l1] = host.layout(DOMU).tables;
    for (table, level, below) in [
        (l4, Level::L4, l3),
        (l3, Level::L3, l2),
        (l2, Level::L2, l1),
    ] {
        let index = level.index(SCRATCH);
        let before = host.hv.machine.load_u64(table, index);
        for entry in [
            Pte(before | Pte::PSE),
            Pte(before & !Pte::WRITABLE | Pte::PSE),
            Pte::new(below, RO | Pte::PSE),
            Pte::new(Mfn(0), RW | Pte::PSE),
        ] {
            assert_eq!(write(&host, table, index, entry), INVAL);
            assert_eq!(write(&host, table, 99, entry), INVAL);
            assert_eq!(host.hv.machine.load_u64(table, index), before);
        }
    }
    let hidden = unmapped(&host, 20);
    let entry = Pte::new(Mfn(0), RW | Pte::PSE);
    host.hv.machine.store_u64(hidden, 7, entry.0);
    for cmd in [
        MMUEXT_PIN_L2_TABLE,
        MMUEXT_PIN_L3_TABLE,
        MMUEXT_PIN_L4_TABLE,
    ] {
        assert_eq!(extended(&host, cmd, hidden), INVAL);
    }
    in_order(&host);
}

/// XSA-182: a fast path for entries that change little let the one bit through that matters.
#[test]
fn an_entry_does_not_become_writable_because_it_was_there() {
    let host = Host::new();
    let [.., l1] = host.layout(DOMU).tables;
    for table in host.layout(DOMU).tables {
        assert_eq!(map(&host, 8, Pte::new(table, RO)), 0);
        for command in [MMU_NORMAL_PT_UPDATE, MMU_PT_UPDATE_PRESERVE_AD] {
            let ptr = (l1.0 << 12) | (8 * 8) | command;
            assert_eq!(update(&host, DOMU, ptr, Pte::new(table, RW).0), BUSY);
        }
        assert_eq!(map(&host, 8, Pte::new(table, RW)), BUSY);
        let stored = Pte(host.hv.machine.load_u64(l1, 8));
        assert!(stored.mfn() == table && !stored.writable());
    }
    in_order(&host);
}

/// XSA-154: one frame of a device under two memory types stops some machines, so that nobody gets to cache it.
#[test]
fn device_memory_is_never_cached() {
    const DEVICE: Mfn = Mfn(0x1_0000);
    let host = Host::new();
    let [.., l1] = host.layout(DOMU).tables;
    host.domain(DOMU)
        .owner
        .set_io_memory(DEVICE, DEVICE, true)
        .expect("room for a range");
    for asked in (0..8).map(|bits| (bits & 3) << 3 | (bits & 4) << 5) {
        assert_eq!(map(&host, 8, Pte::new(DEVICE, RW | asked)), 0);
        let stored = Pte(host.hv.machine.load_u64(l1, 8));
        let kept = stored.0 & Pte::CACHE;
        let expected = match asked {
            0 => Pte::PWT | Pte::PCD,
            Pte::PWT => Pte::PWT | Pte::PCD,
            asked if asked == Pte::PWT | Pte::PAT => Pte::CACHE,
            other => other,
        };
        assert_eq!(kept, expected, "{asked:#x}");
    }
    let table = unmapped(&host, 20);
    host.hv.machine.store_u64(table, 0, Pte::new(DEVICE, RW).0);
    assert_eq!(extended(&host, MMUEXT_PIN_L1_TABLE, table), 0);
    let stored = Pte(host.hv.machine.load_u64(table, 0));
    assert!(stored.has(Pte::PCD), "nor by a whole table");
    in_order(&host);
}

/// XSA-402: what a device's domain writes past the caches is missing to whoever reads through them, be it the
/// hypervisor that looks through a new page table.
#[test]
fn memory_is_always_cached() {
    let host = Host::new();
    let [.., l1] = host.layout(DOMU).tables;
    let page = host.layout(DOMU).scratch[9];
    let owner = host.domain(DOMU).owner.clone();
    owner
        .set_io_memory(Mfn(0x1_0000), Mfn(0x1_0000), true)
        .expect("room for a range");
    for asked in [Pte::PCD, Pte::PWT, Pte::PAT, Pte::CACHE] {
        assert_eq!(map(&host, 8, Pte::new(page, RW | asked)), 0);
        let stored = Pte(host.hv.machine.load_u64(l1, 8));
        assert_eq!(stored.0 & Pte::CACHE, 0);
    }
    in_order(&host);
}

/// XSA-279, -286: what a guest flushes itself is not what the hypervisor must: a changed table above L1 is forgotten by
/// every CPU, and an address that is none reaches no instruction.
#[test]
fn a_changed_upper_table_is_flushed_everywhere_and_a_bad_address_nowhere() {
    use hv_machine::sim::Flush;
    let host = Host::new();
    let [l4, l3, l2, _] = host.layout(DOMU).tables;
    let (l2s, _) = tree(&host, 20, 2);
    assert_eq!(write(&host, l3, 99, Pte::new(l2s, RW)), 0);
    for (table, index) in [(l4, 99), (l3, 99), (l2, 99)] {
        let below = match table {
            table if table == l4 => l3,
            table if table == l3 => l2,
            _ => host.layout(DOMU).tables[3],
        };
        assert_eq!(write(&host, table, index, Pte::new(below, RW)), 0);
        host.hv.machine.take_flushes();
        assert_eq!(write(&host, table, index, Pte(0)), 0);
        assert!(host.hv.machine.take_flushes().contains(&Flush::All(1)));
    }
    for va in [
        1 << 47,
        0xffff_7fff_ffff_f000,
        hv_machine::HYPERVISOR_VIRT_START,
    ] {
        host.hv.machine.take_flushes();
        assert_eq!(extended(&host, MMUEXT_INVLPG_LOCAL, Mfn(va)), 0);
        assert_eq!(extended(&host, MMUEXT_INVLPG_ALL, Mfn(va)), 0);
        let flushes = host.hv.machine.take_flushes();
        let page = |flush: &Flush| matches!(flush, Flush::Page(..));
        assert!(!flushes.iter().any(page), "{va:#x}: {flushes:?}");
    }
    in_order(&host);
}

/// XSA-298: a selector behind the end of a descriptor table names nothing, least of all memory of the hypervisor.
#[test]
fn a_selector_beyond_its_table_names_nothing() {
    let host = Host::new();
    let mfn = unmapped(&host, 20);
    host.hv.machine.store_u64(mfn, 1, 0x00cf_f200_0000_ffff);
    let list = host.put(DOMU, &mfn);
    assert_eq!(host.hypercall(DOMU, HYPERVISOR_SET_GDT, &[list, 512]), 0);
    host.as_guest(DOMU, |cx| {
        assert_ne!(crate::descriptor::read(cx, 8 | 3), Some(0));
        for index in [512, 7167, 7168, 8191_u16] {
            for table in [0, 4] {
                let selector = index << 3 | table | 3;
                let read = crate::descriptor::read(cx, selector);
                let own = [0xe033, 0xe023, 0xe02b].contains(&selector);
                assert!(own || read == Some(0), "{selector:#x}: {read:x?}");
            }
        }
    });
    in_order(&host);
}
