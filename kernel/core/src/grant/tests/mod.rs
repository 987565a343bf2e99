//! Every operation through the dispatch: what it does, each status and errno, hostile arguments, and afterwards a recount.

mod advisories;
mod copy;
mod life;
mod map;
mod refusals;
mod table;
mod transfer;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantHandle, GrantRef, GuestHandle, Mfn, Union};
use hypercall_abi::xen::{HYPERVISOR_GRANT_TABLE_OP, HYPERVISOR_UPDATE_VA_MAPPING, UVMF_NONE};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::memory::{FrameType, Pte, recount};
use crate::testing::{BUDGET, DOM0, DOMU, Host, RO, RW, SCRATCH, UNMAPPED};

/// A second ordinary domain.
const OTHER: Domid = Domid(7);
/// To read and write.
const MAP: u32 = GNTMAP_HOST_MAP;
/// To read.
const MAP_RO: u32 = GNTMAP_HOST_MAP | GNTMAP_READONLY;

const INVAL: i64 = Errno::EINVAL.to_return();
const FAULT: i64 = Errno::EFAULT.to_return();

/// A host with a third domain.
fn host() -> Host {
    let mut host = Host::new();
    host.add_domain(OTHER, false);
    host
}

/// Everything is as its records say, and nobody has what is another's.
#[track_caller]
fn in_order(host: &Host) {
    host.hv.machine.set_tsc_step(0);
    recount::check(&host.hv).expect("all in order");
}

/// Makes a call with a list, and reads the list back.
fn call<T>(host: &Host, id: Domid, command: u32, list: &mut [T]) -> i64
where
    T: FromBytes + IntoBytes + Immutable,
{
    let at = host.put_slice(id, list);
    let count = list.len() as u64;
    let result = host.hypercall(id, HYPERVISOR_GRANT_TABLE_OP, &[command.into(), at, count]);
    for (index, element) in list.iter_mut().enumerate() {
        *element = host.get(id, at + (index * size_of::<T>()) as u64);
    }
    result
}

/// Makes a call with one element, which must succeed as a whole.
#[track_caller]
fn one<T: FromBytes + IntoBytes + Immutable + Copy>(
    host: &Host,
    id: Domid,
    command: u32,
    op: T,
) -> T {
    let mut list = [op];
    assert_eq!(call(host, id, command, &mut list), 0);
    list[0]
}

/// The first frames of a domain's table, which has as many then.
#[track_caller]
fn frames(host: &Host, id: Domid, count: u32) -> Vec<Mfn> {
    let list = host.put_slice(id, &vec![0_u64; count as usize]);
    let op = GnttabSetupTable {
        dom: Domid::SELF,
        nr_frames: count,
        frame_list: GuestHandle::new(list),
        ..Default::default()
    };
    let done = one(host, id, GNTTABOP_SETUP_TABLE, op);
    assert_eq!(done.status, GNTST_OKAY);
    (0..count)
        .map(|index| host.get(id, list + u64::from(index) * 8))
        .collect()
}

/// The word of an entry, of version 1, with its frame.
fn entry_at(host: &Host, id: Domid, reference: u32) -> (Mfn, usize) {
    let frames = recount_frames(host, id);
    let (frame, word) = (reference / 512, reference % 512);
    (frames[frame as usize], word as usize)
}

fn recount_frames(host: &Host, id: Domid) -> Vec<Mfn> {
    crate::grant::recount::frames(&host.domain(id))
}

/// Writes an entry of version 1, as the domain does.
fn grant(host: &Host, id: Domid, reference: u32, flags: u16, to: Domid, mfn: Mfn) {
    let (frame, word) = entry_at(host, id, reference);
    let entry = u64::from(flags) | u64::from(to.0) << 16 | mfn.0 << 32;
    host.hv.machine.store_u64(frame, word, entry);
}

/// The flags of an entry of version 1.
fn flags_of(host: &Host, id: Domid, reference: u32) -> u16 {
    let (frame, word) = entry_at(host, id, reference);
    host.hv.machine.load_u64(frame, word) as u16
}

/// Where scratch page `page` is.
fn va(page: usize) -> u64 {
    SCRATCH + page as u64 * 4096
}

/// A mapping that is wanted: of a grant of [`DOMU`]'s at a scratch page.
fn wish(reference: u32, flags: u32, page: usize) -> GnttabMapGrantRef {
    GnttabMapGrantRef {
        host_addr: va(page),
        flags,
        ref_: GrantRef(reference),
        dom: DOMU,
        ..Default::default()
    }
}

fn map(host: &Host, id: Domid, wish: GnttabMapGrantRef) -> GnttabMapGrantRef {
    one(host, id, GNTTABOP_MAP_GRANT_REF, wish)
}

/// Undoes a mapping for processors at a scratch page.
fn unmap(host: &Host, id: Domid, handle: GrantHandle, page: usize) -> i16 {
    let op = GnttabUnmapGrantRef {
        host_addr: va(page),
        handle,
        ..Default::default()
    };
    one(host, id, GNTTABOP_UNMAP_GRANT_REF, op).status
}

/// References and uses as writable of a frame.
fn counts(host: &Host, mfn: Mfn) -> (u32, u32) {
    let state = host.hv.memory.state(mfn).expect("RAM");
    (state.references, state.types)
}

/// The entry that maps a scratch page.
fn entry_of(host: &Host, id: Domid, page: usize) -> Pte {
    Pte(host.hv.machine.load_u64(host.layout(id).tables[3], page))
}

/// Maps a scratch page anew, as the domain does.
fn remap(host: &Host, id: Domid, page: usize, entry: Pte) -> i64 {
    let args = [va(page), entry.0, UVMF_NONE];
    host.hypercall(id, HYPERVISOR_UPDATE_VA_MAPPING, &args)
}

/// A frame of [`DOMU`]'s that is mapped nowhere, granted by its entry `reference` to [`OTHER`].
fn granted(host: &Host, reference: u32, flags: u16) -> Mfn {
    let page = 20 + reference as usize;
    let mfn = host.layout(DOMU).scratch[page];
    assert_eq!(remap(host, DOMU, page, Pte(0)), 0);
    grant(host, DOMU, reference, flags, OTHER, mfn);
    mfn
}
