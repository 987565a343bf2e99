//! Grants, which this domain makes for itself: mapped, unmapped, and copied from, a page at a time or many.

extern crate alloc;

use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, Union};
use hypercall_abi::xen::UVMF_INVLPG;
use pv_guest::events::own_domid;
use pv_guest::grants::Grant;
use pv_guest::hypercall::{grant_table, mmu};
use pv_guest::memory::{Access, DmaMemory, Frames};
use pv_guest::pte::{Flags, PAGE_SIZE, Pte};

use super::meter::Meter;
use super::page;

/// Pages that are mapped, and in a batch of many.
const PAGES: usize = 32;

pub fn run(meter: &Meter) {
    let own = own_domid().expect("a number");
    let memory = DmaMemory::new(2 * PAGE_SIZE, 64).expect("there is memory");
    let memory = Arc::new(memory);
    let grant = Grant::new(own, memory.clone(), 0, Access::ReadWrite).expect("a grant");
    let copy = GnttabCopy {
        source: GnttabCopyPtr {
            u: Union::new(&grant.reference().0),
            domid: own,
            ..Default::default()
        },
        dest: GnttabCopyPtr {
            u: Union::new(&(memory.mfn().0 + 1)),
            domid: Domid::SELF,
            ..Default::default()
        },
        len: PAGE_SIZE as u16,
        flags: GNTCOPY_SOURCE_GREF,
        ..Default::default()
    };
    copies(meter, "grant-copy", vec![copy]);
    copies(meter, "grant-copy-32", vec![copy; PAGES]);

    // The grants take the places of these.
    let block = Frames::zeroed(PAGES.trailing_zeros()).expect("there is memory");
    let place = |nth| page::address(&block, nth);
    for nth in 0..PAGES {
        set(place(nth), 0);
    }
    let wish = |nth| GnttabMapGrantRef {
        host_addr: place(nth),
        flags: GNTMAP_HOST_MAP,
        ref_: grant.reference(),
        dom: own,
        ..Default::default()
    };
    let wishes: Vec<_> = (0..PAGES).map(wish).collect();
    mappings(meter, ["grant-map", "grant-unmap"], &wishes, 1);
    mappings(meter, ["grant-map-32", "grant-unmap-32"], &wishes, PAGES);
    for nth in 0..PAGES {
        set(
            place(nth),
            Pte::new(page::mfn(&block, nth), Flags::READ_WRITE).0,
        );
    }
}

/// Sets the entry of a page of the block.
fn set(address: u64, entry: u64) {
    // SAFETY: nobody uses the block's memory.
    unsafe { mmu::update_va_mapping(address, entry, UVMF_INVLPG) }.expect("an update");
}

fn copies(meter: &Meter, name: &str, mut batch: Vec<GnttabCopy>) {
    meter.measure(name, |_| {
        // SAFETY: nobody uses the memory.
        unsafe { grant_table::copy(&mut batch) }.expect("copies");
    });
    assert!(batch.iter().all(|copy| copy.status == GNTST_OKAY));
}

/// Measures mapping all, and unmapping all, so many at a time.
fn mappings(meter: &Meter, names: [&str; 2], wishes: &[GnttabMapGrantRef], at_a_time: usize) {
    let mut wishes = wishes.to_vec();
    let mut ends = vec![GnttabUnmapGrantRef::default(); wishes.len()];
    meter.measure_turns(names, (PAGES / at_a_time) as u64, |unmap| {
        if unmap {
            for batch in ends.chunks_mut(at_a_time) {
                // SAFETY: nothing refers to what is mapped.
                unsafe { grant_table::unmap(batch) }.expect("a list");
            }
            return;
        }
        for batch in wishes.chunks_mut(at_a_time) {
            // SAFETY: nobody uses the addresses.
            unsafe { grant_table::map(batch) }.expect("a list");
        }
        for (wish, end) in wishes.iter().zip(&mut ends) {
            assert_eq!(wish.status, GNTST_OKAY);
            end.host_addr = wish.host_addr;
            end.handle = wish.handle;
        }
    });
    assert!(ends.iter().all(|end| end.status == GNTST_OKAY));
}
