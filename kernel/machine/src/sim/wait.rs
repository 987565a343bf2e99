//! Waits for other CPUs, and what these do meanwhile.

use std::cell::Cell;

use super::{held_locks, set_held_locks};

thread_local! {
    static MEANWHILE: Cell<Option<Box<dyn FnOnce()>>> = const { Cell::new(None) };
}

/// What every wait for another CPU does between two looks.
pub fn relax() {
    match MEANWHILE.take() {
        Some(work) => work(),
        None => std::thread::yield_now(),
    }
}

/// Says what another CPU does when the calling thread waits for one the next time. The locks that the thread holds are
/// that CPU's from here on.
pub fn on_next_wait(work: impl FnOnce() + 'static) {
    let theirs = held_locks();
    set_held_locks(0);
    MEANWHILE.set(Some(Box::new(move || {
        let own = held_locks();
        set_held_locks(theirs);
        work();
        set_held_locks(own);
    })));
}
