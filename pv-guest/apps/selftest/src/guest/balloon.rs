//! Memory that goes back to the hypervisor and comes again.

extern crate alloc;

use alloc::vec::Vec;

use pv_guest::balloon::{Balloon, Progress, RESERVE, Reservation};
use pv_guest::hypercall;
use pv_guest::memory::{self, Frames, OwnReservation};

use super::tap::Tap;

/// What goes and comes each time: 8 MiB.
const PAGES: u64 = 2048;

const ROUNDS: u32 = 10;

/// What tables and lists may take at the first time, and keep: 256 KiB.
const OVERHEAD: usize = 256 * 1024;

pub fn run(tap: &mut Tap) {
    let Some(reservation) = OwnReservation::take() else {
        tap.holds("the reservation can be had", false);
        return;
    };
    let before = pages();
    let limit = reservation.limit();
    tap.holds("there can be as much memory as there is", limit >= before);
    let mut balloon = Balloon::new(reservation);
    settle(&mut balloon, limit);
    tap.is("memory grows to its limit", pages(), limit);
    let free = memory::free_bytes();
    for _ in 0..ROUNDS {
        settle(&mut balloon, before - PAGES);
        if pages() != before - PAGES {
            break;
        }
        settle(&mut balloon, limit);
    }
    tap.is(
        "after ten times down and up it is all there",
        pages(),
        limit,
    );
    tap.holds(
        "and free as before",
        free - memory::free_bytes() <= OVERHEAD,
    );
    tap.is("each page keeps what is written", wrong_pages(), 0);

    settle(&mut balloon, 0);
    let left = memory::free_bytes() as u64 / 4096;
    tap.holds(
        "a reserve is never given away",
        left >= RESERVE && pages() > 0,
    );
    settle(&mut balloon, before);
    tap.is("and what was given comes back", pages(), before);
}

fn pages() -> u64 {
    memory::pages().unwrap_or(0)
}

/// Steps until there is nothing to do at once. The hypervisor has what it was given only when it has
/// scrubbed it, so it is asked again for some time.
fn settle(balloon: &mut Balloon<OwnReservation>, target: u64) {
    const ATTEMPTS: u32 = 1000;
    let mut attempts = 0;
    while attempts < ATTEMPTS {
        match balloon.step(target) {
            Progress::Done => return,
            Progress::More => attempts = 0,
            Progress::Later(_) if target == 0 => return,
            Progress::Later(_) => {
                attempts += 1;
                hypercall::sched::yield_now();
            }
        }
    }
}

/// Takes all free frames but some, writes a number of its own to each, and counts those that have
/// another then.
fn wrong_pages() -> usize {
    let count = memory::free_bytes() / 4096 - 2 * RESERVE as usize;
    let mut frames: Vec<Frames> = Vec::with_capacity(count);
    frames.extend((0..count).map_while(|_| Frames::zeroed(0)));
    for (number, frame) in frames.iter_mut().enumerate() {
        frame.as_mut_slice()[..8].copy_from_slice(&number.to_le_bytes());
    }
    let right = frames
        .iter()
        .enumerate()
        .filter(|(number, frame)| frame.as_slice()[..8] == number.to_le_bytes())
        .count();
    count - right
}
