//! This CPU's TLB and root, and those of the others. No entry of a guest's is global, so that loading CR3 forgets them
//! all.

use core::sync::atomic::{AtomicU64, Ordering};

use super::shootdown::Shootdown;
use super::{cpu, nearby, processor};
use crate::flush_clock::FlushClock;

static CLOCK: FlushClock = FlushClock::new();
/// What CPUs ask of each other.
static SHOOTDOWN: Shootdown = Shootdown::new();
/// The machine's own tables, for CR3.
static IDLE_ROOT: AtomicU64 = AtomicU64::new(0);

/// When each CPU flushed.
#[inline(always)]
pub fn clock() -> &'static FlushClock {
    nearby!(CLOCK: FlushClock)
}

/// Says where the machine's own tables are, before any other use.
///
/// # Safety
/// They map the hypervisor as [`super::layout`] has it, and do so for good.
pub unsafe fn set_idle_root(address: u64) {
    IDLE_ROOT.store(address, Ordering::Relaxed);
}

/// Loads CR3, which forgets all that this CPU knows of guests' tables.
///
/// # Safety
/// As for [`processor::set_root`].
#[inline]
pub unsafe fn load(address: u64) {
    let block = cpu::this();
    block.root_left.set(false);
    // SAFETY: the caller's promise.
    clock().flush(block.id, || unsafe { processor::set_root(address) });
}

/// Loads the machine's own tables.
pub fn load_idle() {
    // SAFETY: they are what `set_idle_root` was promised.
    unsafe { load(IDLE_ROOT.load(Ordering::Relaxed)) };
}

/// Forgets all that this CPU knows of guests' tables.
#[inline]
pub fn flush() {
    if cpu::this().root_left.get() {
        load_idle();
    } else {
        // SAFETY: it is loaded already.
        unsafe { load(processor::root()) };
    }
}

/// Has every CPU of `cpus` do [`flush`]; returns when all have.
pub fn flush_on(cpus: u64, interrupt: impl Fn(u32)) {
    let own = 1 << cpu::this().id;
    if cpus & own != 0 {
        flush();
    }
    if cpus & !own != 0 {
        SHOOTDOWN.request(cpus & !own, interrupt, super::lock::relax);
    }
}

/// Does what other CPUs asked of this one.
#[inline]
pub fn serve() {
    // Before there are several CPUs, the boot's stack does not tell which this is.
    if SHOOTDOWN.used() {
        SHOOTDOWN.serve(cpu::this().id, flush);
    }
}
