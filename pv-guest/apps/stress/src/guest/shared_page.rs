//! An address that all vCPUs read while one maps another frame there: once that is done, and TLBs are flushed in any of
//! the ways that there are, none reads what was there before.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::SeqCst;

use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::*;
use pv_guest::hypercall::{Result, mmu};
use pv_guest::memory::DmaMemory;
use pv_guest::pte::{Flags, Pte};
use pv_guest::sync::Mutex;

use super::{Count, Dice, fail};

/// How often it was changed.
pub static CHANGES: Count = Count::new();

/// Odd while a change is under way; the frame is the first where half of it is even.
static EPOCH: AtomicU64 = AtomicU64::new(0);
/// The address, 0 before it is there.
static ADDRESS: AtomicU64 = AtomicU64::new(0);
/// The frames; who changes the mapping has them.
static FRAMES: Mutex<[Mfn; 2]> = Mutex::new([Mfn(0); 2]);

/// What the frames hold.
const CONTENTS: [u64; 2] = [0x1111_2222_3333_4444, 0x5555_6666_7777_8888];

/// Makes the frames and maps the first.
pub fn init() {
    let frames = CONTENTS.map(|word| match DmaMemory::new(4096, 64) {
        Ok(memory) => {
            memory.set(0, word);
            memory
        }
        Err(error) => fail(format_args!("no memory: {error}")),
    });
    *FRAMES.lock() = [frames[0].mfn(), frames[1].mfn()];
    ADDRESS.store(frames[0].address(), SeqCst);
    core::mem::forget(frames);
}

/// Maps the other frame.
pub fn change(dice: &mut Dice, vcpus: u32) {
    let frames = FRAMES.lock();
    let epoch = EPOCH.fetch_add(1, SeqCst) + 1;
    let next = epoch.div_ceil(2) as usize % 2;
    let entry = Pte::new(frames[next], Flags::READ_WRITE).0;
    if let Err(error) = map(entry, dice.below(8), (1 << vcpus) - 1) {
        fail(format_args!("the page cannot be changed: {error}"));
    }
    EPOCH.fetch_add(1, SeqCst);
    CHANGES.add();
}

/// Changes the entry and flushes, in one of eight ways.
fn map(entry: u64, way: u64, vcpus: u64) -> Result<()> {
    let address = ADDRESS.load(SeqCst);
    let mask = &raw const vcpus;
    let mask = mask.expose_provenance() as u64;
    let flags = match way {
        0 | 1 => UVMF_INVLPG | UVMF_ALL,
        2 => UVMF_TLB_FLUSH | UVMF_ALL,
        3 => UVMF_INVLPG | UVMF_MULTI | mask,
        _ => UVMF_NONE,
    };
    let (cmd, at, mask) = match way {
        4 => (MMUEXT_INVLPG_ALL, address, 0),
        5 => (MMUEXT_TLB_FLUSH_ALL, 0, 0),
        6 => (MMUEXT_INVLPG_MULTI, address, mask),
        _ => (MMUEXT_TLB_FLUSH_MULTI, 0, mask),
    };
    // SAFETY: both frames are ours for ever, and no reference is made to either.
    unsafe {
        mmu::update_va_mapping(address, entry, flags)?;
        if flags == UVMF_NONE {
            let flush = MmuextOp {
                cmd,
                _pad0: 0,
                arg1: at,
                arg2: mask,
            };
            mmu::mmuext_op(&[flush], None, Domid::SELF)?;
        }
    }
    Ok(())
}

/// Looks at the page a few times.
pub fn check() {
    let word = core::ptr::with_exposed_provenance::<u64>(ADDRESS.load(SeqCst) as usize);
    for _ in 0..32 {
        let before = EPOCH.load(SeqCst);
        // SAFETY: one of the frames is mapped there, at any moment.
        let found = unsafe { word.read_volatile() };
        let expected = CONTENTS[(before / 2) as usize % 2];
        if before.is_multiple_of(2) && EPOCH.load(SeqCst) == before && found != expected {
            fail(format_args!("after change {before}, {found:#x} is read"));
        }
    }
}
