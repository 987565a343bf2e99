//! Memory that is mapped at the first touch.

use pv_guest::memory::{self, DemandMemory};

use super::probe::{Trap, probe};
use super::tap::Tap;

const PAGE: usize = 4096;

/// Enough for several page tables.
const PAGES: usize = 1200;

pub fn run(tap: &mut Tap) {
    // The first touches also make tables, which stay.
    let Ok(mut memory) = DemandMemory::new(PAGES) else {
        tap.holds("addresses for memory on demand can be had", false);
        return;
    };
    tap.is("none of it is there", memory.resident(), 0);
    for page in 0..PAGES {
        memory.as_mut_slice()[page * PAGE] = 1;
    }
    tap.is("all touched pages are there", memory.resident(), PAGES);
    memory.release(0..PAGES);
    tap.is("and gone when given back", memory.resident(), 0);

    let free = memory::free_bytes();
    memory.as_mut_slice()[5 * PAGE + 7] = 42;
    tap.is("a write brings one page", memory.resident(), 1);
    let bytes = memory.as_slice();
    tap.is("which keeps what is written", bytes[5 * PAGE + 7], 42);
    tap.holds(
        "besides zeroes",
        bytes[5 * PAGE..][..7].iter().all(|byte| *byte == 0),
    );
    tap.is("a read brings a page of zeroes", bytes[700 * PAGE], 0);
    tap.is("besides the first", memory.resident(), 2);
    tap.is("each takes a frame", free - memory::free_bytes(), 2 * PAGE);
    memory.release(5..6);
    tap.is("a page is given back alone", memory.resident(), 1);
    tap.is("and is zeroes again", memory.as_slice()[5 * PAGE + 7], 0);

    let address = memory.as_slice().as_ptr().expose_provenance() as u64;
    drop(memory);
    tap.is("all frames come back", memory::free_bytes(), free);
    // SAFETY: it reads nothing that anyone has, or traps.
    let trap = unsafe { probe!("mov al, [{at}]"; at = in(reg) address, out("al") _) };
    tap.is(
        "and the addresses fault",
        trap.map(
            |Trap {
                 vector, address, ..
             }| (vector, address),
        ),
        Some((14, address)),
    );
}
