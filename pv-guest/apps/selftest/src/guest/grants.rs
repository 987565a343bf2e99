//! Grants, which this domain makes for itself and maps.

extern crate alloc;

use alloc::sync::Arc;

use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantHandle, GrantRef, Union};
use pv_guest::grants::{Grant, GrantMapping};
use pv_guest::hypercall::grant_table::{self, grant_table_op};
use pv_guest::memory::{Access, DmaMemory};

use super::tap::{OK, Tap};

/// A number that no domain has.
const NOBODY: Domid = Domid(0x7fe0);

/// A call that may break nothing, because it is refused, or is of pages that nothing refers to.
macro_rules! op {
    ($command:expr, $batch:expr) => {{
        // SAFETY: as said.
        unsafe { grant_table_op($command, $batch) }
    }};
}

pub fn run(tap: &mut Tap) {
    let Some(own) = own_number() else {
        tap.holds("this domain may look at a table", false);
        return;
    };
    size(tap);
    mappings(tap, own);
    refusals(tap, own);
    copies(tap, own);
    versions(tap);
}

fn memory(pages: usize) -> Arc<DmaMemory> {
    Arc::new(DmaMemory::new(pages * 4096, 64).expect("there is memory"))
}

/// The only number whose table an ordinary domain may look at; the control domain's, which may look at
/// all, is 0.
fn own_number() -> Option<Domid> {
    let own = |id: &Domid| grant_table::query_size(*id).is_ok_and(|it| it.status == GNTST_OKAY);
    (0..0x7ff0).map(Domid).find(own)
}

fn size(tap: &mut Tap) {
    let before = grant_table::query_size(Domid::SELF).expect("good arguments");
    tap.is("a table has a status", before.status, GNTST_OKAY);
    tap.holds(
        "and a size",
        (1..=before.max_nr_frames).contains(&before.nr_frames),
    );
    let mut one = [0];
    tap.is(
        "its frames can be had",
        grant_table::setup_table(Domid::SELF, &mut one).ok(),
        Some(GNTST_OKAY),
    );
    tap.holds("which are some", one != [0]);
    let mut many = [0; 4];
    tap.is(
        "it grows",
        grant_table::setup_table(Domid::SELF, &mut many).ok(),
        Some(GNTST_OKAY),
    );
    tap.is("from its end on", many[0], one[0]);
    let nobodys = grant_table::setup_table(NOBODY, &mut one);
    tap.is("nobody has one", nobodys.ok(), Some(GNTST_BAD_DOMAIN));
    tap.call(
        "there is no command 13",
        op!(13, &mut [0_u64; 8]),
        Err(Errno::ENOSYS),
    );
    tap.call(
        "nor is any above",
        op!(1 << 12, &mut [0_u64; 8]),
        Err(Errno::EINVAL),
    );
}

fn mappings(tap: &mut Tap, own: Domid) {
    let pages = memory(2);
    let grants = [0, 1].map(|page| {
        let grant = Grant::new(own, pages.clone(), page, Access::ReadWrite);
        grant.expect("there are free grants")
    });
    let references = [grants[0].reference(), grants[1].reference()];
    tap.holds("a new grant is not used", !grants[0].is_used());
    pages.set(4096, 0x1234_u64);
    match GrantMapping::new(own, &references, Access::ReadWrite) {
        Ok(mapping) => {
            tap.is("a mapping is the memory", mapping.get(4096), 0x1234_u64);
            mapping.set(8, 0x5678_u64);
            tap.is("to write as well", pages.get(8), 0x5678_u64);
            tap.holds(
                "of which the granter knows",
                grants.iter().all(Grant::is_used),
            );
        }
        Err(why) => tap.call::<()>("grants can be mapped", Err(why), OK),
    }
    tap.holds("until it is unmapped", !grants.iter().any(Grant::is_used));
    let read = Grant::new(own, pages.clone(), 0, Access::ReadOnly).expect("as before");
    let reference = [read.reference()];
    let mapped = GrantMapping::new(own, &reference, Access::ReadOnly);
    tap.is(
        "what may be read is",
        mapped.map(|it| it.get::<u64>(8)).ok(),
        Some(0x5678),
    );
    let write = GrantMapping::new(own, &reference, Access::ReadWrite);
    tap.call("and not written", write, Err(Errno::EINVAL));
    let again = read.reference();
    drop(read);
    let revoked = GrantMapping::new(own, &[again], Access::ReadOnly);
    tap.call(
        "a grant that was taken back is none",
        revoked,
        Err(Errno::EINVAL),
    );
}

fn refusals(tap: &mut Tap, own: Domid) {
    let page = memory(1);
    let grant = Grant::new(own, page, 0, Access::ReadWrite).expect("there are free grants");
    let good = GnttabMapGrantRef {
        host_addr: 1 << 46,
        flags: GNTMAP_HOST_MAP,
        ref_: grant.reference(),
        dom: own,
        ..Default::default()
    };
    let mut list = [
        GnttabMapGrantRef { flags: 0, ..good },
        GnttabMapGrantRef {
            dom: NOBODY,
            ..good
        },
        GnttabMapGrantRef {
            dom: Domid::SELF,
            ..good
        },
        GnttabMapGrantRef {
            ref_: GrantRef(u32::MAX),
            ..good
        },
        good,
        GnttabMapGrantRef {
            host_addr: 0xffff_8300_0000_0000,
            ..good
        },
        GnttabMapGrantRef {
            host_addr: 4,
            flags: GNTMAP_HOST_MAP | GNTMAP_CONTAINS_PTE,
            ..good
        },
    ];
    let called = op!(GNTTABOP_MAP_GRANT_REF, &mut list);
    tap.call("a list of bad wishes is a good list", called, OK);
    tap.is(
        "each has its status",
        list.map(|op| op.status),
        [
            GNTST_BAD_GNTREF,
            GNTST_BAD_DOMAIN,
            GNTST_BAD_DOMAIN,
            GNTST_BAD_GNTREF,
            GNTST_GENERAL_ERROR,
            GNTST_GENERAL_ERROR,
            GNTST_GENERAL_ERROR,
        ],
    );
    tap.holds("and leaves nothing behind", !grant.is_used());
    let mut list = [GnttabUnmapGrantRef {
        host_addr: 1 << 46,
        handle: GrantHandle(u32::MAX),
        ..Default::default()
    }];
    tap.call(
        "a handle that is none is called",
        op!(GNTTABOP_UNMAP_GRANT_REF, &mut list),
        OK,
    );
    tap.is("bad", list[0].status, GNTST_BAD_HANDLE);
    let swap = grant_table::swap(grant.reference(), GrantRef(u32::MAX));
    tap.is(
        "grants that are not there do not change places",
        swap.ok(),
        Some(GNTST_BAD_GNTREF),
    );
}

fn copies(tap: &mut Tap, own: Domid) {
    let pages = memory(2);
    let source =
        Grant::new(own, pages.clone(), 0, Access::ReadOnly).expect("there are free grants");
    pages.copy_in(100, b"granted");
    let of_grant = GnttabCopyPtr {
        u: Union::new(&source.reference().0),
        domid: own,
        offset: 100,
        ..Default::default()
    };
    let of_frame = GnttabCopyPtr {
        u: Union::new(&(pages.mfn().0 + 1)),
        domid: Domid::SELF,
        offset: 5,
        ..Default::default()
    };
    let good = GnttabCopy {
        source: of_grant,
        dest: of_frame,
        len: 7,
        flags: GNTCOPY_SOURCE_GREF,
        ..Default::default()
    };
    let back = GnttabCopy {
        source: of_frame,
        dest: of_grant,
        flags: GNTCOPY_DEST_GREF,
        ..good
    };
    let mut list = [
        good,
        GnttabCopy { len: 4000, ..good },
        GnttabCopy {
            source: GnttabCopyPtr {
                domid: NOBODY,
                ..of_grant
            },
            ..good
        },
        GnttabCopy {
            dest: GnttabCopyPtr {
                u: Union::new(&(u64::MAX >> 13)),
                ..of_frame
            },
            ..good
        },
        back,
    ];
    tap.call("copies are made", op!(GNTTABOP_COPY, &mut list), OK);
    tap.is(
        "each with its status",
        list.map(|op| op.status),
        [
            GNTST_OKAY,
            GNTST_BAD_COPY_ARG,
            GNTST_BAD_DOMAIN,
            GNTST_BAD_PAGE,
            GNTST_GENERAL_ERROR,
        ],
    );
    let mut by_frame = [GnttabCopy { flags: 0, ..good }];
    tap.call("a copy is made", op!(GNTTABOP_COPY, &mut by_frame), OK);
    // 4.17.5 says the one, 4.17.7 the other.
    tap.holds(
        "but not of a frame of a domain that is named by its number",
        [GNTST_BAD_PAGE, GNTST_PERMISSION_DENIED].contains(&by_frame[0].status),
    );
    let mut bytes = [0; 7];
    pages.copy_out(4096 + 5, &mut bytes);
    tap.is("and the bytes are there", &bytes, b"granted");
    tap.holds("and the grant is free again", !source.is_used());
}

fn versions(tap: &mut Tap) {
    tap.is(
        "the version is told",
        grant_table::version(Domid::SELF).ok(),
        Some(1),
    );
    // SAFETY: no grant is left that counts, and the table is version 1 again before there is one.
    let set = |version| unsafe { grant_table::set_version(version) };
    tap.call("there is no version 3", set(3), Err(Errno::EINVAL));
    tap.is("version 1 is what it has", set(1).ok(), Some(1));
    match set(2) {
        Err(why) => tap.call::<()>("version 2 may be withheld", Err(why), Err(Errno::ENOSYS)),
        Ok(version) => {
            tap.is("version 2 can be had", version, 2);
            tap.is("and left", set(1).ok(), Some(1));
        }
    }
}
