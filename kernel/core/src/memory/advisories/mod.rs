//! One test for each class of mistake that the published advisories on paravirtualized memory describe (Xen Security
//! Advisories, <https://xenbits.xen.org/xsa/>): what a guest did then, it does here, through the dispatch, and
//! afterwards everything is recounted ([`super::recount`]). The number is in the comment above each test.
//!
//! What cannot happen here by construction needs no test:
//!
//! - XSA-64, -109, -173, -219, -243, -249, -250, -280, -294, -408, -410, -427, -430, -438 (shadow page tables, log-dirty
//!   mode, translated domains): a PV domain's own tables are the only ones there are.
//! - XSA-30, -150, -222, -246, -247, -277, -301, -388, -389 (the physical map, populating it on demand): the
//!   hypervisor keeps none.
//! - XSA-111, -185 (32-bit domains), XSA-304 (superpages): there are none.
//! - XSA-80, -275, -288, -291, -321, -346, -347, -373, -378 (IOMMU): there is none, and no frame's type depends on one.
//! - XSA-125 (long mappings of device memory): the toolstack's mapping only says whether the domain may map.
//! - XSA-292 (flushes with PCID): address spaces are not tagged, and no guest entry is global.
//! - XSA-334 (a lock left held on an error path): a lock is a value and is given back when it goes out of scope.
//! - XSA-345 (races in the hypervisor's own mappings): none is made, split or merged on behalf of a guest.
//! - XSA-240, -309 (linear page tables that are taken apart by recursion, or counted wrongly): there is no recursion, see
//!   [`super::teardown`]; what they may name is tested in [`super::linear`].
//! - XSA-58, -299, -310 (counts and restarts of interrupted operations) are the subject of [`super::search`] too, which
//!   interrupts whatever can be interrupted.

mod entries;
mod lists;
mod types;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::*;

use hv_machine::Platform;

use super::{FrameType, Level, Pte, recount};
use crate::testing::{DOM0, DOMU, Host, RO, RW, SCRATCH};

const SELF: u64 = Domid::SELF.0 as u64;
const INVAL: i64 = Errno::EINVAL.to_return();
const BUSY: i64 = Errno::EBUSY.to_return();
const FAULT: i64 = Errno::EFAULT.to_return();

/// Everything is as its records say, and nobody has what is another's.
#[track_caller]
fn in_order(host: &Host) {
    host.hv.machine.set_tsc_step(0);
    recount::check(&host.hv).expect("all in order");
}

/// One request of `mmu_update`.
fn update(host: &Host, id: Domid, ptr: u64, val: u64) -> i64 {
    let at = host.put(id, &MmuUpdate { ptr, val });
    host.hypercall(id, HYPERVISOR_MMU_UPDATE, &[at, 1, 0, SELF])
}

/// Writes entry `index` of a frame.
fn write(host: &Host, table: Mfn, index: usize, entry: Pte) -> i64 {
    update(host, DOMU, (table.0 << 12) | (index as u64 * 8), entry.0)
}

fn operation(cmd: u32, mfn: Mfn) -> MmuextOp {
    MmuextOp {
        cmd,
        _pad0: 0,
        arg1: mfn.0,
        arg2: 0,
    }
}

/// One request of `mmuext_op`.
fn extended(host: &Host, cmd: u32, mfn: Mfn) -> i64 {
    let at = host.put(DOMU, &operation(cmd, mfn));
    host.hypercall(DOMU, HYPERVISOR_MMUEXT_OP, &[at, 1, 0, SELF])
}

/// Maps a scratch page anew.
fn map(host: &Host, page: usize, entry: Pte) -> i64 {
    let va = SCRATCH + page as u64 * 4096;
    host.hypercall(
        DOMU,
        HYPERVISOR_UPDATE_VA_MAPPING,
        &[va, entry.0, UVMF_NONE],
    )
}

/// The frame of a scratch page, which is mapped no more.
fn unmapped(host: &Host, page: usize) -> Mfn {
    assert_eq!(map(host, page, Pte(0)), 0);
    host.layout(DOMU).scratch[page]
}

/// An L2 table of its own with `count` empty L1 tables: frames of scratch pages from `first` on, mapped no more.
fn tree(host: &Host, first: usize, count: usize) -> (Mfn, Vec<Mfn>) {
    let l2 = unmapped(host, first);
    let l1s: Vec<Mfn> = (first + 1..=first + count)
        .map(|page| unmapped(host, page))
        .collect();
    for (index, &l1) in l1s.iter().enumerate() {
        host.hv.machine.store_u64(l2, index, Pte::new(l1, RW).0);
    }
    (l2, l1s)
}
