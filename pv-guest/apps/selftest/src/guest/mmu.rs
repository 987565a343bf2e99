//! Page tables: what may be mapped, what may become a table, and how entries change.

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Pfn};
use hypercall_abi::xen::*;
use pv_guest::boot;
use pv_guest::hypercall::mmu::{self, Foreign};
use pv_guest::hypercall::{Result, check, hypercall4};
use pv_guest::memory::{self, Frames, LINEAR_BASE, MAP_BASE, machine_entry, translate};
use pv_guest::pte::{Flags, Pte, index};

use super::probe::probe;
use super::tap::{OK, Tap};

const BUSY: core::result::Result<(), Errno> = Err(Errno::EBUSY);
const NOT_PERMITTED: core::result::Result<(), Errno> = Err(Errno::EPERM);
const INVALID: core::result::Result<(), Errno> = Err(Errno::EINVAL);

/// A frame of this guest's to do anything with. It stays mapped where the linear map has it.
pub struct Page {
    pub frames: Frames,
    pub va: u64,
    pub mfn: Mfn,
}

impl Page {
    pub fn new() -> Self {
        let frames = Frames::zeroed(0).expect("there is memory");
        let va = LINEAR_BASE + frames.pfn().0 * 4096;
        let mfn = memory::mfn_of(frames.pfn()).expect("it has a machine frame");
        Self { frames, va, mfn }
    }

    /// Changes its one mapping.
    pub fn protect(&self, flags: Flags) -> Result<()> {
        map(self.va, Pte::new(self.mfn, flags))
    }

    fn word(&self, place: usize) -> u64 {
        let word = core::ptr::with_exposed_provenance::<u64>(self.va as usize + place * 8);
        // SAFETY: the page is mapped, at least readable.
        unsafe { word.read_volatile() }
    }
}

/// Changes the entry for an address.
fn map(va: u64, entry: Pte) -> Result<()> {
    // SAFETY: the tests change entries of pages that they own, or are refused.
    unsafe { mmu::update_va_mapping(va, entry.0, UVMF_INVLPG) }
}

/// Changes an entry by its machine address.
pub fn update(address: u64, entry: Pte) -> Result<()> {
    update_for(address, entry, Domid::SELF.into())
}

fn update_for(address: u64, entry: Pte, foreign: Foreign) -> Result<()> {
    // SAFETY: as `map`.
    unsafe {
        mmu::mmu_update(
            &[MmuUpdate {
                ptr: address,
                val: entry.0,
            }],
            None,
            foreign,
        )
    }
}

/// An entry without what the processor or the hypervisor adds: A, D, the user bit, and the bits
/// from 52 to 62, where Xen marks mappings of the guest's kernel.
fn plain(entry: u64) -> u64 {
    entry & !(0x7ff << 52 | 0x64)
}

pub fn extended(cmd: u32, arg1: u64, arg2: u64) -> Result<()> {
    let op = MmuextOp {
        cmd,
        arg1,
        arg2,
        ..MmuextOp::default()
    };
    // SAFETY: as `map`.
    unsafe { mmu::mmuext_op(&[op], None, Domid::SELF) }
}

pub fn run(tap: &mut Tap) {
    entries(tap);
    arguments(tap);
    pinning(tap);
    upper_levels(tap);
    emulated_stores(tap);
    operations(tap);
}

/// What an entry of level 1 may hold.
fn entries(tap: &mut Tap) {
    let page = Page::new();
    let other = Page::new();
    let rw = Flags::READ_WRITE;
    let root = memory::root();

    tap.call("a page is made read-only", page.protect(Flags::READ), OK);
    // SAFETY: the page is the test's own.
    let trap = unsafe { probe!("mov byte ptr [{va}], 1"; va = in(reg) page.va) };
    tap.is(
        "then a write faults",
        trap.map(|t| (t.vector, t.error_code)),
        Some((14, 3)),
    );
    tap.call("and writable again", page.protect(rw), OK);
    // SAFETY: the page is the test's own.
    let trap = unsafe { probe!("mov byte ptr [{va}], 1"; va = in(reg) page.va) };
    tap.holds("then a write does not fault", trap.is_none());

    tap.call(
        "an address without a table",
        map(MAP_BASE + (1 << 40), Pte::new(page.mfn, rw)),
        INVALID,
    );
    tap.call(
        "an address of the hypervisor",
        map(0xffff_8300_0000_0000, Pte::new(page.mfn, rw)),
        INVALID,
    );
    tap.call(
        "a frame that does not exist",
        map(page.va, Pte::new(Mfn(0xf_ffff_ffff), rw)),
        NOT_PERMITTED,
    );
    tap.call(
        "a page table, writable",
        map(page.va, Pte::new(root, rw)),
        BUSY,
    );
    tap.call(
        "a page table, read-only",
        map(page.va, Pte::new(root, Flags::READ)),
        OK,
    );
    tap.call("the page's own frame again", page.protect(rw), OK);
    tap.call(
        "bit 62, for the guest to use",
        map(page.va, Pte(Pte::new(page.mfn, rw).0 | 1 << 62)),
        OK,
    );
    tap.call(
        "bits for the guest to use",
        map(page.va, Pte(Pte::new(page.mfn, rw).0 | 7 << 9)),
        OK,
    );
    let kept = translate(page.va).map(|entry| entry.0 >> 9 & 7);
    tap.is("are kept", kept, Some(7));
    tap.call(
        "a high bit that the hypervisor lets a guest use",
        map(page.va, Pte(Pte::new(page.mfn, rw).0 | 1 << 52)),
        OK,
    );
    tap.call(
        "a global page",
        map(page.va, Pte::new(page.mfn, rw | Flags::GLOBAL)),
        OK,
    );
    // Only who has devices has a use for memory that is not cached as usual.
    let cacheability = if boot::is_initial_domain() {
        OK
    } else {
        INVALID
    };
    tap.call(
        "uncached memory",
        page.protect(rw | Flags::CACHE_DISABLE),
        cacheability,
    );
    tap.call(
        "write-combined memory",
        page.protect(rw | Flags::PAT),
        cacheability,
    );
    tap.call(
        "an entry that is not present may hold anything",
        map(page.va, Pte(0xdead_beef_0000_0ffe)),
        OK,
    );
    tap.call("plain memory", page.protect(rw), OK);
    let entry = translate(page.va).map(|entry| entry.0 & 0xfff & !0x60);
    tap.is(
        "its entry has the user bit, for the guest's kernel",
        entry,
        Some(0x7),
    );

    // The frame that holds the hypervisor's first megabytes is nobody's.
    let hypervisor = shared_info_frame();
    tap.call(
        "the shared info page can be mapped twice",
        map(page.va, Pte::new(hypervisor, rw)),
        OK,
    );
    tap.call("and unmapped", page.protect(rw), OK);

    let mut done = 9;
    let place = machine_entry(page.va).expect("there is a table");
    let good = MmuUpdate {
        ptr: place,
        val: Pte::new(other.mfn, rw).0,
    };
    let bad = MmuUpdate {
        ptr: place,
        val: Pte::new(root, rw).0,
    };
    // SAFETY: as `map`.
    let result = unsafe { mmu::mmu_update(&[good, good, bad, good], Some(&mut done), Domid::SELF) };
    tap.call("a list with a bad update in it", result, BUSY);
    tap.is("the ones before it are done", done, 2);
    tap.is(
        "and only those",
        translate(page.va).and_then(Pte::frame),
        Some(other.mfn),
    );
    tap.call("the page's own frame again", page.protect(rw), OK);

    let dirty = Flags::READ_WRITE;
    let clean = dirty - Flags::DIRTY - Flags::ACCESSED;
    tap.call("a dirty page", page.protect(dirty), OK);
    tap.call(
        "is updated, but for A and D",
        update(place | MMU_PT_UPDATE_PRESERVE_AD, Pte::new(page.mfn, clean)),
        OK,
    );
    let bits = translate(page.va).map(|entry| entry.0 & 0x60);
    tap.is("which are kept", bits, Some(0x60));
    tap.call(
        "is updated, A and D too",
        update(place, Pte::new(page.mfn, clean)),
        OK,
    );
    let bits = translate(page.va).map(|entry| entry.0 & 0x60);
    tap.is("which are gone", bits, Some(0));
    tap.call(
        "is updated without translation",
        update(
            place | MMU_PT_UPDATE_NO_TRANSLATE,
            Pte::new(page.mfn, dirty),
        ),
        OK,
    );
    drop(other);
}

fn shared_info_frame() -> Mfn {
    Mfn(boot::start_info().shared_info >> 12)
}

/// What `mmu_update` is asked for wrongly.
fn arguments(tap: &mut Tap) {
    let [page, other] = [(); 2].map(|()| Page::new());
    let place = machine_entry(page.va).expect("there is a table");
    let entry = Pte::new(page.mfn, Flags::READ_WRITE);
    tap.call(
        "no updates",
        // SAFETY: there is nothing to do.
        unsafe { mmu::mmu_update(&[], None, Domid::SELF) },
        OK,
    );
    // SAFETY: it fails.
    tap.call(
        "updates from nowhere",
        check(unsafe { hypercall4::<HYPERVISOR_MMU_UPDATE>(0x1000, 1, 0, u64::from(DOMID_SELF)) }),
        Err(Errno::EFAULT),
    );
    // SAFETY: it fails.
    tap.call(
        "extended operations from nowhere",
        check(unsafe { hypercall4::<HYPERVISOR_MMUEXT_OP>(0x1000, 1, 0, u64::from(DOMID_SELF)) }),
        Err(Errno::EFAULT),
    );
    tap.call(
        "frames of a domain that is not there",
        update_for(place, entry, Domid(77).into()),
        Err(Errno::ESRCH),
    );
    tap.call(
        "tables of a domain that is not there",
        update_for(place, entry, Foreign::new(Domid::SELF, Domid(77))),
        Err(Errno::ESRCH),
    );
    tap.call(
        "I/O memory only, and the frame is memory",
        update_for(
            place,
            Pte::new(other.mfn, Flags::READ_WRITE),
            Domid::IO.into(),
        ),
        BUSY,
    );
    tap.call(
        "an entry in a frame that does not exist",
        update(1 << 50, entry),
        INVALID,
    );
    tap.call(
        "an entry in a page of data",
        update(page.mfn.0 << 12, Pte(5)),
        OK,
    );
    tap.is("is just written", page.word(0), 5);
    tap.call(
        "the machine-to-physical table",
        update(page.mfn.0 << 12 | MMU_MACHPHYS_UPDATE, Pte(0x1234)),
        OK,
    );
    tap.is("has what was written", m2p(page.mfn), 0x1234);
    tap.call(
        "and as it was",
        update(
            page.mfn.0 << 12 | MMU_MACHPHYS_UPDATE,
            Pte(page.frames.pfn().0),
        ),
        OK,
    );
    tap.is("again", memory::pfn_of(page.mfn), Some(page.frames.pfn()));
    tap.call(
        "the machine-to-physical table, for a frame that does not exist",
        update(1 << 50 | MMU_MACHPHYS_UPDATE, Pte(1)),
        INVALID,
    );
}

fn m2p(mfn: Mfn) -> u64 {
    let table = core::ptr::with_exposed_provenance::<u64>(0xffff_8000_0000_0000);
    // SAFETY: the frame is one of this guest's, so the table has it.
    unsafe { table.add(mfn.0 as usize).read_volatile() }
}

/// Which frame may become a table, and what it is then.
fn pinning(tap: &mut Tap) {
    let table = Page::new();
    let target = Page::new();
    let pin = |level: u32| extended(MMUEXT_PIN_L1_TABLE + level - 1, table.mfn.0, 0);
    let unpin = || extended(MMUEXT_UNPIN_TABLE, table.mfn.0, 0);

    tap.call("a table that is mapped writable", pin(1), INVALID);
    tap.call("a table that was never pinned", unpin(), INVALID);
    tap.call("a page becomes read-only", table.protect(Flags::READ), OK);
    tap.call("and a table of level 1", pin(1), OK);
    tap.call("which is pinned once", pin(1), INVALID);
    tap.call("and of one level only", pin(2), INVALID);
    tap.call(
        "it cannot be mapped writable",
        table.protect(Flags::READ_WRITE),
        BUSY,
    );
    let entry = Pte::new(target.mfn, Flags::READ);
    tap.call(
        "its entries can be set",
        update(table.mfn.0 << 12 | 8, entry),
        OK,
    );
    tap.is("and read", plain(table.word(1)), plain(entry.0));
    tap.call(
        "not to a page table, writable",
        update(
            table.mfn.0 << 12 | 16,
            Pte::new(memory::root(), Flags::READ_WRITE),
        ),
        BUSY,
    );
    tap.call(
        "not to itself, writable",
        update(
            table.mfn.0 << 12 | 16,
            Pte::new(table.mfn, Flags::READ_WRITE),
        ),
        BUSY,
    );
    tap.call(
        "but to itself, read-only",
        update(table.mfn.0 << 12 | 16, Pte::new(table.mfn, Flags::READ)),
        OK,
    );
    tap.call("it is unpinned", unpin(), OK);
    tap.call("and writable", table.protect(Flags::READ_WRITE), OK);
    tap.call(
        "with something in it that no table may hold",
        update(table.mfn.0 << 12, Pte(1 << 51 | 1)),
        OK,
    );
    tap.call("it is read-only", table.protect(Flags::READ), OK);
    tap.call("and no table", pin(1), NOT_PERMITTED);
    tap.call("it is writable", table.protect(Flags::READ_WRITE), OK);
    tap.call(
        "a table in a frame that does not exist",
        extended(MMUEXT_PIN_L1_TABLE, 1 << 40, 0),
        INVALID,
    );
    tap.call(
        "the hypervisor's frame, unpinned",
        extended(MMUEXT_UNPIN_TABLE, shared_info_frame().0, 0),
        INVALID,
    );
}

/// Entries of the levels above 1.
fn upper_levels(tap: &mut Tap) {
    let root = memory::root();
    let slot = |index: u64| (root.0 << 12) | (index * 8);
    let data = Page::new();
    tap.call(
        "the hypervisor's first slot",
        update(slot(256), Pte(0)),
        INVALID,
    );
    tap.call(
        "the hypervisor's last slot",
        update(slot(271), Pte(0)),
        INVALID,
    );
    tap.call(
        "a page of data as table of level 3",
        update(slot(300), Pte::new(data.mfn, Flags::TABLE)),
        INVALID,
    );
    tap.call(
        "the root as table of level 3, writable",
        update(slot(300), Pte::new(root, Flags::TABLE)),
        INVALID,
    );
    tap.call(
        "a large page at level 4",
        update(slot(300), Pte(Pte::new(data.mfn, Flags::TABLE).0 | 1 << 7)),
        INVALID,
    );

    let [level3, level2, level1] = [(); 3].map(|()| Page::new());
    for page in [&level3, &level2, &level1] {
        tap.call("a page becomes read-only", page.protect(Flags::READ), OK);
    }
    let entry_of = |table: &Page, place: u64| (table.mfn.0 << 12) | (place * 8);
    tap.call(
        "an empty page as table of level 3",
        update(slot(300), Pte::new(level3.mfn, Flags::TABLE)),
        OK,
    );
    tap.call(
        "an empty page as table of level 2",
        update(entry_of(&level3, 5), Pte::new(level2.mfn, Flags::TABLE)),
        OK,
    );
    tap.call(
        "a table of level 3 as table of level 1",
        update(entry_of(&level2, 7), Pte::new(level3.mfn, Flags::TABLE)),
        INVALID,
    );
    tap.call(
        "a large page at level 2",
        update(
            entry_of(&level2, 7),
            Pte(Pte::new(data.mfn, Flags::TABLE).0 | 1 << 7),
        ),
        INVALID,
    );
    tap.call(
        "an empty page as table of level 1",
        update(entry_of(&level2, 7), Pte::new(level1.mfn, Flags::TABLE)),
        OK,
    );
    let va = 300 << 39 | 5 << 30 | 7 << 21 | 9 << 12 | 0xffff_u64 << 48;
    tap.is(
        "the address is made of the places",
        [4, 3, 2, 1].map(|level| index(va, level)),
        [300, 5, 7, 9],
    );
    tap.call(
        "a page in the new table",
        map(va, Pte::new(data.mfn, Flags::READ_WRITE)),
        OK,
    );
    // SAFETY: the page is the test's own, and mapped there.
    let trap = unsafe { probe!("mov qword ptr [{va}], 77"; va = in(reg) va) };
    tap.holds("can be written", trap.is_none());
    tap.is("and is the page", data.word(0), 77);
    tap.call(
        "a table in use cannot be mapped writable",
        level2.protect(Flags::READ_WRITE),
        BUSY,
    );
    tap.call("the page is unmapped", map(va, Pte::EMPTY), OK);
    // SAFETY: it traps.
    let trap = unsafe { probe!("mov al, [{va}]"; va = in(reg) va, out("al") _) };
    tap.is(
        "then it is gone",
        trap.map(|t| (t.vector, t.error_code, t.address)),
        Some((14, 0, va)),
    );
    tap.call("the tables are unhooked", update(slot(300), Pte::EMPTY), OK);
    for page in [&level1, &level2, &level3] {
        tap.call(
            "a table becomes a page again",
            page.protect(Flags::READ_WRITE),
            OK,
        );
    }
    tap.is(
        "the table of level 2 kept its entry",
        level2.word(7) >> 12 & 0xff_ffff,
        level1.mfn.0,
    );
}

/// Stores to page tables, which fault and are done by the hypervisor.
fn emulated_stores(tap: &mut Tap) {
    // Any table of level 1 that is in use does: the one that maps this page, which is read-only in
    // the linear map.
    let page = Page::new();
    let target = Page::new();
    let place = machine_entry(page.va).expect("there is a table");
    let table = memory::pfn_of(Mfn(place >> 12)).expect("the table is ours");
    let entry_va = LINEAR_BASE + table.0 * 4096 + (place & 0xfff);
    let own = translate(page.va).expect("the page is mapped").0;
    let other = Pte::new(target.mfn, Flags::READ_WRITE).0;
    let frame = || translate(page.va).and_then(Pte::frame);
    let fault = Some((14, 3));
    // SAFETY: the entry is that of a page of the test's own; what is stored maps another such page,
    // or is refused.
    unsafe {
        let trap = probe!("mov [{e}], {v}"; e = in(reg) entry_va, v = in(reg) other);
        tap.is("a store", trap.map(|t| (t.vector, t.error_code)), None);
        tap.is("takes effect", frame(), Some(target.mfn));
        extended(MMUEXT_TLB_FLUSH_LOCAL, 0, 0).expect("the TLB can be flushed");

        let old: u64;
        let trap = probe!("xchg [{e}], {v}"; e = in(reg) entry_va, v = inout(reg) own => old);
        tap.is("an exchange", trap.map(|t| (t.vector, t.error_code)), None);
        tap.is("takes effect", frame(), Some(page.mfn));
        tap.is("and gives the old entry", plain(old), plain(other));

        let (found, equal): (u64, u8);
        let expected = translate(page.va).expect("the page is mapped").0;
        let trap = probe!("lock cmpxchg [{e}], {v}", "setz {z}"; e = in(reg) entry_va,
            v = in(reg) other, z = out(reg_byte) equal, inout("rax") expected => found);
        tap.is(
            "a compare and exchange",
            trap.map(|t| (t.vector, t.error_code)),
            None,
        );
        tap.is(
            "takes effect",
            (frame(), equal, found),
            (Some(target.mfn), 1, expected),
        );
        let (found, equal): (u64, u8);
        let trap = probe!("lock cmpxchg [{e}], {v}", "setz {z}"; e = in(reg) entry_va,
            v = in(reg) own, z = out(reg_byte) equal, inout("rax") 0x99_u64 => found);
        tap.is(
            "one that finds something else",
            trap.map(|t| (t.vector, t.error_code)),
            None,
        );
        tap.is(
            "gives what it found",
            (frame(), equal, plain(found)),
            (Some(target.mfn), 0, plain(other)),
        );

        let bad = Pte::new(memory::root(), Flags::READ_WRITE).0;
        let trap = probe!("mov [{e}], {v}"; e = in(reg) entry_va, v = in(reg) bad);
        tap.is(
            "a store that maps a page table, writable",
            trap.map(|t| (t.vector, t.error_code)),
            fault,
        );
        tap.is("has no effect", frame(), Some(target.mfn));

        let trap = probe!("mov [{e}], {v}"; e = in(reg) entry_va, v = in(reg) own);
        tap.is(
            "the page's own entry",
            trap.map(|t| (t.vector, t.error_code)),
            None,
        );
        extended(MMUEXT_TLB_FLUSH_LOCAL, 0, 0).expect("the TLB can be flushed");
        let trap = probe!("lock and byte ptr [{e}], 0xbf"; e = in(reg) entry_va);
        tap.is(
            "a bit cleared",
            trap.map(|t| (t.vector, t.error_code)),
            None,
        );
        let dirty = translate(page.va).map(|entry| entry.0 & 0x40);
        tap.is("is clear", dirty, Some(0));
        let trap =
            probe!("mov dword ptr [{e} + 4], {v:e}"; e = in(reg) entry_va, v = in(reg) own >> 32);
        tap.is(
            "half an entry",
            trap.map(|t| (t.vector, t.error_code)),
            None,
        );
        let trap = probe!("mov [{e} + 4], {v}"; e = in(reg) entry_va, v = in(reg) 0_u64);
        tap.is(
            "half of two entries",
            trap.map(|t| (t.vector, t.error_code)),
            fault,
        );
    }
    tap.is("the page is as it was", frame(), Some(page.mfn));
    extended(MMUEXT_TLB_FLUSH_LOCAL, 0, 0).expect("the TLB can be flushed");
}

/// The extended operations that are not about pinning.
fn operations(tap: &mut Tap) {
    let [page, other] = [(); 2].map(|()| Page::new());
    tap.call("flush", extended(MMUEXT_TLB_FLUSH_LOCAL, 0, 0), OK);
    tap.call(
        "flush on all vCPUs",
        extended(MMUEXT_TLB_FLUSH_ALL, 0, 0),
        OK,
    );
    tap.call(
        "flush one address",
        extended(MMUEXT_INVLPG_LOCAL, page.va, 0),
        OK,
    );
    tap.call(
        "flush one address on all vCPUs",
        extended(MMUEXT_INVLPG_ALL, page.va, 0),
        OK,
    );
    let mask = 1_u64;
    let mask = (&raw const mask).expose_provenance() as u64;
    tap.call(
        "flush on some vCPUs",
        extended(MMUEXT_TLB_FLUSH_MULTI, 0, mask),
        OK,
    );
    tap.call(
        "flush on vCPUs named nowhere",
        extended(MMUEXT_TLB_FLUSH_MULTI, 0, 0x1000),
        INVALID,
    );
    tap.call(
        "the root as it is",
        extended(MMUEXT_NEW_BASEPTR, memory::root().0, 0),
        OK,
    );
    tap.call(
        "a root that is a page of data",
        extended(MMUEXT_NEW_BASEPTR, page.mfn.0, 0),
        INVALID,
    );
    tap.call(
        "a root in a frame that does not exist",
        extended(MMUEXT_NEW_BASEPTR, 1 << 40, 0),
        INVALID,
    );
    tap.call(
        "a user root that is a page of data",
        extended(MMUEXT_NEW_USER_BASEPTR, page.mfn.0, 0),
        INVALID,
    );
    tap.call("no user root", extended(MMUEXT_NEW_USER_BASEPTR, 0, 0), OK);

    // SAFETY: the page is the test's own.
    unsafe { probe!("mov qword ptr [{va} + 8], 88"; va = in(reg) page.va) };
    tap.call(
        "copy a page",
        extended(MMUEXT_COPY_PAGE, other.mfn.0, page.mfn.0),
        OK,
    );
    tap.is("is copied", other.word(1), 88);
    tap.call(
        "clear a page",
        extended(MMUEXT_CLEAR_PAGE, page.mfn.0, 0),
        OK,
    );
    tap.is("is cleared", page.word(1), 0);
    tap.call(
        "clear a page table",
        extended(MMUEXT_CLEAR_PAGE, memory::root().0, 0),
        INVALID,
    );
    tap.call(
        "copy from a frame that does not exist",
        extended(MMUEXT_COPY_PAGE, other.mfn.0, 1 << 40),
        INVALID,
    );
    tap.call(
        "copy onto a page table",
        extended(MMUEXT_COPY_PAGE, memory::root().0, page.mfn.0),
        INVALID,
    );

    tap.call("no LDT", extended(MMUEXT_SET_LDT, 0, 0), OK);
    tap.call(
        "an LDT that begins within a page",
        extended(MMUEXT_SET_LDT, page.va + 8, 1),
        INVALID,
    );
    tap.call(
        "an LDT that is too long",
        extended(MMUEXT_SET_LDT, page.va, 8193),
        INVALID,
    );
    tap.call(
        "an LDT in the hypervisor",
        extended(MMUEXT_SET_LDT, 0xffff_8300_0000_0000, 1),
        INVALID,
    );
    tap.call(
        "large frames",
        extended(MMUEXT_MARK_SUPER, 0, 0),
        Err(Errno::EOPNOTSUPP),
    );
    tap.call("operation 99", extended(99, 0, 0), Err(Errno::ENOSYS));
    tap.call(
        "operation 14, which is none",
        extended(14, 0, 0),
        Err(Errno::ENOSYS),
    );
    let flush = extended(MMUEXT_FLUSH_CACHE, 0, 0);
    tap.call(
        "flush the cache",
        flush,
        if boot::is_initial_domain() {
            OK
        } else {
            Err(Errno::EACCES)
        },
    );
    tap.is(
        "pfn 0 is nobody's table",
        memory::mfn_of(Pfn(0)).is_some(),
        true,
    );
}
