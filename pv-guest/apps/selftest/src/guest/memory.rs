//! What memory calls answer to who has no right, no such thing, or no sense; and linear page tables.

use hypercall_abi::errno::Errno;
use hypercall_abi::memory::*;
use hypercall_abi::types::{Domid, GuestHandle};
use hypercall_abi::xen::*;
use pv_guest::boot;
use pv_guest::hypercall::{Result, check, hypercall2, hypercall4};
use pv_guest::memory::{self, machine_entry};
use pv_guest::pte::{Flags, Pte};

use super::mmu::{Page, extended};
use super::tap::{OK, Tap};

const INVALID: core::result::Result<(), Errno> = Err(Errno::EINVAL);
/// A domain that is not there.
const NOBODY: Domid = Domid(77);

pub fn run(tap: &mut Tap) {
    physical_maps(tap);
    resources(tap);
    reservations(tap);
    exchanges(tap);
    foreign_frames(tap);
    linear(tap);
}

/// A memory operation that says to go on from extent `start`.
fn continued<T>(cmd: u32, start: u64, argument: &mut T) -> Result<u64> {
    let address = (&raw mut *argument).expose_provenance() as u64;
    let word = u64::from(cmd) | start << 6;
    // SAFETY: the operation reads and writes `argument`, and is refused or adds memory that nobody uses.
    check(unsafe { hypercall2::<HYPERVISOR_MEMORY_OP>(word, address) })
}

fn operate<T>(cmd: u32, mut argument: T) -> Result<u64> {
    continued(cmd, 0, &mut argument)
}

/// What the control domain gets, and what others get.
fn by_right<T>(control: T, others: T) -> T {
    if boot::is_initial_domain() {
        control
    } else {
        others
    }
}

fn physical_maps(tap: &mut Tap) {
    let refused = Err(Errno::EACCES);
    let add = |domid, space| {
        let wanted = AddToPhysmap {
            domid,
            space,
            ..Default::default()
        };
        operate(XENMEM_ADD_TO_PHYSMAP, wanted)
    };
    let batch = |domid, space: u32| {
        let wanted = AddToPhysmapBatch {
            domid,
            space: space as u16,
            ..Default::default()
        };
        operate(XENMEM_ADD_TO_PHYSMAP_BATCH, wanted)
    };
    for space in [XENMAPSPACE_SHARED_INFO, XENMAPSPACE_GRANT_TABLE, 99] {
        tap.call(
            "a page for a physical map",
            add(Domid::SELF, space),
            refused,
        );
        tap.call(
            "pages for a physical map",
            batch(Domid::SELF, space),
            refused,
        );
        tap.call("of nobody", add(NOBODY, space), Err(Errno::ESRCH));
        tap.call("nor many", batch(NOBODY, space), Err(Errno::ESRCH));
    }
    tap.call(
        "a foreign page, one by one",
        add(NOBODY, XENMAPSPACE_GMFN_FOREIGN),
        Err(Errno::ENOSYS),
    );
    tap.call(
        "a range, in a batch",
        batch(NOBODY, XENMAPSPACE_GMFN_RANGE),
        Err(Errno::EOPNOTSUPP),
    );
    let far = continued(XENMEM_ADD_TO_PHYSMAP, 1 << 16, &mut AddToPhysmap::default());
    tap.call("from the 65536th page on", far, Err(Errno::EDOM));
    let remove = |domid| {
        let wanted = RemoveFromPhysmap {
            domid,
            ..Default::default()
        };
        operate(XENMEM_REMOVE_FROM_PHYSMAP, wanted)
    };
    tap.call("a page less", remove(Domid::SELF), refused);
    tap.call("of nobody", remove(NOBODY), Err(Errno::ESRCH));
    for cmd in [XENMEM_SET_POD_TARGET, XENMEM_GET_POD_TARGET] {
        let target = |domid| {
            let target = PodTarget {
                domid,
                ..Default::default()
            };
            operate(cmd, target)
        };
        tap.call("memory on demand", target(Domid::SELF), INVALID);
        tap.call("of nobody", target(NOBODY), Err(Errno::ESRCH));
    }
}

fn resources(tap: &mut Tap) {
    let nodes = |domid, pad| {
        let topology = VnumaTopologyInfo {
            domid,
            pad,
            ..Default::default()
        };
        operate(XENMEM_GET_VNUMAINFO, topology)
    };
    tap.call(
        "virtual nodes",
        nodes(Domid::SELF, 0),
        Err(Errno::EOPNOTSUPP),
    );
    tap.call("of nobody", nodes(NOBODY, 0), Err(Errno::ESRCH));
    tap.call("with padding", nodes(NOBODY, 1), INVALID);
    let mut map = ReservedDeviceMemoryMap {
        flags: XENMEM_RDM_ALL,
        ..Default::default()
    };
    let got = continued(XENMEM_RESERVED_DEVICE_MEMORY_MAP, 0, &mut map);
    tap.call("memory of devices", got, OK);
    tap.is("there is none", map.nr_entries, 0);
    map.flags = 2;
    let got = operate(XENMEM_RESERVED_DEVICE_MEMORY_MAP, map);
    tap.call("of some kind", got, INVALID);
    let resource = |domid, frame, pad| {
        let wanted = MemAcquireResource {
            domid,
            frame,
            pad,
            type_: XENMEM_RESOURCE_IOREQ_SERVER,
            ..Default::default()
        };
        operate(XENMEM_ACQUIRE_RESOURCE, wanted)
    };
    let own = pv_guest::events::own_domid().unwrap_or(Domid::INVALID);
    tap.call(
        "a resource of nobody",
        resource(NOBODY, 0, 0),
        Err(Errno::ESRCH),
    );
    tap.call("of oneself", resource(Domid::SELF, 0, 0), Err(Errno::ESRCH));
    tap.call("by number", resource(own, 0, 0), Err(Errno::EPERM));
    tap.call("far away", resource(NOBODY, 1 << 32, 0), INVALID);
    tap.call("with padding", resource(NOBODY, 0, 1), INVALID);
    let mut nothing = MemoryDomain::default();
    for (cmd, refusal) in [
        (XENMEM_MAXIMUM_RAM_PAGE, Errno::EINVAL),
        (XENMEM_CURRENT_RESERVATION, Errno::EINVAL),
        (XENMEM_EXCHANGE, Errno::EINVAL),
        (XENMEM_CLAIM_PAGES, Errno::EINVAL),
        (XENMEM_MEMORY_MAP, Errno::ENOSYS),
        (XENMEM_MACHPHYS_MAPPING, Errno::ENOSYS),
        (XENMEM_GET_SHARING_FREED_PAGES, Errno::ENOSYS),
    ] {
        let got = continued(cmd, 1, &mut nothing);
        tap.call("what never goes on", got, Err(refusal));
    }
    let got = operate(XENMEM_MACHINE_MEMORY_MAP, {
        let buffer = GuestHandle::new(0x1000);
        MemoryMap {
            nr_entries: 1,
            buffer,
            ..Default::default()
        }
    });
    let wanted = by_right(INVALID, Err(Errno::EPERM));
    tap.call("the machine's map, of one entry", got, wanted);
}

fn reservation(domid: Domid, extents: &mut [u64], flags: u32) -> MemoryReservation {
    MemoryReservation {
        extent_start: GuestHandle::from_mut_ptr(extents.as_mut_ptr()),
        nr_extents: extents.len() as u64,
        mem_flags: flags,
        domid,
        ..Default::default()
    }
}

fn reservations(tap: &mut Tap) {
    let mut pfns = [u64::MAX >> 12];
    for flags in [
        XENMEMF_POPULATE_ON_DEMAND,
        memf_exact_node(200),
        memf_address_bits(12),
    ] {
        let wanted = reservation(Domid::SELF, &mut pfns, flags);
        let got = operate(XENMEM_POPULATE_PHYSMAP, wanted);
        tap.is("memory of a kind that there is not", got.ok(), Some(0));
    }
    for order in [19, 31, 64, u32::MAX] {
        let wanted = MemoryReservation {
            extent_order: order,
            ..reservation(Domid::SELF, &mut pfns, 0)
        };
        let got = operate(XENMEM_INCREASE_RESERVATION, wanted);
        tap.is("an extent that is too large", got.ok(), Some(0));
    }
    let mut wanted = reservation(NOBODY, &mut pfns, 0);
    let got = continued(XENMEM_DECREASE_RESERVATION, 1 << 20, &mut wanted);
    tap.is("a list behind its end", got.ok(), Some(1 << 20));
    let own = pv_guest::events::own_domid().unwrap_or(Domid::INVALID);
    let claim = |domid, order, pages| {
        let wanted = MemoryReservation {
            domid,
            nr_extents: pages,
            extent_order: order,
            ..Default::default()
        };
        operate(XENMEM_CLAIM_PAGES, wanted)
    };
    let right = |control| by_right(control, Err(Errno::EPERM));
    tap.call("no memory is set aside", claim(own, 0, 0), right(OK));
    tap.call("less than there is", claim(own, 0, 1), right(INVALID));
    tap.call("in large pieces", claim(own, 1, 0), INVALID);
    tap.call("for nobody", claim(NOBODY, 0, 0), INVALID);
    tap.call("for oneself", claim(Domid::SELF, 0, 0), INVALID);
}

fn exchanges(tap: &mut Tap) {
    let mut frames = [u64::MAX >> 12];
    let mut pfns = [1];
    let mut exchange = |input_order: u32, domid: Domid, done: u64| {
        let wanted = MemoryExchange {
            in_: MemoryReservation {
                extent_order: input_order,
                ..reservation(Domid::SELF, &mut frames, 0)
            },
            out: reservation(domid, &mut pfns, 0),
            nr_exchanged: done,
        };
        operate(XENMEM_EXCHANGE, wanted)
    };
    let own = Domid::SELF;
    tap.call("a frame that is none", exchange(0, own, 0), INVALID);
    tap.call("more than there are", exchange(0, own, 2), INVALID);
    tap.call("as many as there are", exchange(0, own, 1), OK);
    tap.call("two for one", exchange(1, own, 0), INVALID);
    tap.call("a huge one", exchange(30, own, 0), Err(Errno::EPERM));
    tap.call("of one for another", exchange(0, NOBODY, 0), INVALID);
}

/// Frames and tables of others.
fn foreign_frames(tap: &mut Tap) {
    let [page, other] = [(); 2].map(|()| Page::new());
    let place = machine_entry(page.va).expect("there is a table");
    // Another frame than the one that is mapped: for that alone nobody is asked.
    let entry = Pte::new(other.mfn, Flags::READ_WRITE).0;
    let update = |ptr, foreign: u64| {
        let request = MmuUpdate { ptr, val: entry };
        let address = (&raw const request).expose_provenance() as u64;
        // SAFETY: it is refused.
        check(unsafe { hypercall4::<HYPERVISOR_MMU_UPDATE>(address, 1, 0, foreign) })
    };
    let own = u64::from(Domid::SELF.0);
    for command in 4..8 {
        let got = update(place | command, own);
        tap.call("a command that is none", got, Err(Errno::ENOSYS));
    }
    let busy = Err(Errno::EBUSY);
    let xen = update(place, Domid::XEN.0.into());
    tap.call(
        "a frame of the hypervisor's",
        xen,
        by_right(busy, Err(Errno::EPERM)),
    );
    for id in [Domid::COW, Domid::INVALID, Domid::IDLE] {
        let got = update(place, id.0.into());
        tap.call("of what is no domain", got, Err(Errno::ESRCH));
    }
    let tables = update(place, (own + 1) << 16 | own);
    tap.call("tables of oneself by a name", tables, Err(Errno::ESRCH));
    let map = |domid: Domid| {
        let (va, domid) = (page.va, domid.0.into());
        // SAFETY: as `update`.
        check(unsafe {
            hypercall4::<HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN>(va, entry, 0, domid)
        })
    };
    for id in [Domid::IO, Domid::XEN] {
        let wanted = by_right(busy, Err(Errno::EPERM));
        tap.call("mapped by its address", map(id), wanted);
    }
    let operation = |cmd, foreign: Domid| {
        let op = MmuextOp {
            cmd,
            arg1: page.mfn.0,
            ..Default::default()
        };
        let address = (&raw const op).expose_provenance() as u64;
        let foreign = foreign.0.into();
        // SAFETY: it is refused.
        check(unsafe { hypercall4::<HYPERVISOR_MMUEXT_OP>(address, 1, 0, foreign) })
    };
    for id in [Domid::IO, Domid::XEN] {
        let denied = Err(Errno::EPERM);
        let pin = operation(MMUEXT_PIN_L1_TABLE, id);
        tap.call("a pin for others", pin, by_right(INVALID, denied));
        let flush = operation(MMUEXT_TLB_FLUSH_LOCAL, id);
        tap.call("a flush for others", flush, denied);
    }
    for call in [0xffff_8300_0000_0000, 1 << 47] {
        // SAFETY: there is nothing to do.
        let got = check(unsafe { hypercall4::<HYPERVISOR_MMU_UPDATE>(call, 0, 0, own) });
        tap.call("no request, where no list can be", got, Err(Errno::EFAULT));
    }
    let flush = extended(MMUEXT_FLUSH_CACHE_GLOBAL, 0, 0);
    tap.call("all CPUs' caches", flush, by_right(OK, INVALID));
}

/// Page tables that name tables of their own level.
fn linear(tap: &mut Tap) {
    const SLOT: u64 = 301;
    let root = memory::root();
    let set = |table: u64, slot: u64, entry: Pte| {
        let request = MmuUpdate {
            ptr: (table << 12) | (slot * 8),
            val: entry.0,
        };
        let address = (&raw const request).expose_provenance() as u64;
        let own = Domid::SELF.0.into();
        // SAFETY: it makes page tables readable, or is refused.
        check(unsafe { hypercall4::<HYPERVISOR_MMU_UPDATE>(address, 1, 0, own) })
    };
    let read_only = Flags::READ;
    let writable = Pte::new(root, Flags::TABLE);
    tap.call(
        "a root in itself, writable",
        set(root.0, SLOT, writable),
        INVALID,
    );
    let own = Pte::new(root, read_only);
    tap.call("read-only", set(root.0, SLOT, own), OK);
    tap.call("and then writable", set(root.0, SLOT, writable), INVALID);
    let va = 0xffff << 48 | SLOT << 39 | SLOT << 30 | SLOT << 21 | SLOT << 12 | (SLOT * 8);
    let word = core::ptr::with_exposed_provenance::<u64>(va as usize);
    // SAFETY: the root is mapped there, as of now.
    let seen = unsafe { word.read_volatile() };
    tap.is("it is in memory", seen >> 12 & 0xff_ffff, root.0);

    let [first, second] = [(); 2].map(|()| Page::new());
    for page in [&first, &second] {
        tap.call("a page becomes read-only", page.protect(read_only), OK);
        let pin = extended(MMUEXT_PIN_L4_TABLE, page.mfn.0, 0);
        tap.call("and a table of level 4", pin, OK);
    }
    let of = |page: &Page| Pte::new(page.mfn, read_only);
    let name = |from: &Page, to: &Page| set(from.mfn.0, 5, of(to));
    tap.call("it names another", name(&first, &second), OK);
    tap.call("which names no third", name(&second, &first), INVALID);
    tap.call("but itself", name(&second, &second), OK);
    tap.call(
        "nor is the first named",
        set(root.0, SLOT + 1, of(&first)),
        INVALID,
    );
    let unpin = |page: &Page| extended(MMUEXT_UNPIN_TABLE, page.mfn.0, 0);
    tap.call("the one that is named is unpinned", unpin(&second), OK);
    let back = second.protect(Flags::READ_WRITE);
    tap.call("and still a table", back, Err(Errno::EBUSY));
    tap.call("the other is", unpin(&first), OK);
    for page in [&first, &second] {
        tap.call("it is a page again", page.protect(Flags::READ_WRITE), OK);
    }
    tap.call("the root as it was", set(root.0, SLOT, Pte::EMPTY), OK);
}
