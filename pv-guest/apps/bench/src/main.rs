//! A guest that measures what paravirtual operations cost, as initial domain or as an ordinary one.
//!
//! It prints a line `bench NAME TICKS` for each operation: ticks of the time-stamp counter, in the
//! best of several batches. The last line begins with `# done`. Words of the command line:
//!
//! | word | what it sets | default |
//! |---|---|---|
//! | `rounds=N` | operations in a batch | 1000 |
//! | `batches=N` | batches | 15 |
//! | `only=NAME` | the operation to measure | all |
//! | `tables=N` | page tables to fill, 1 to 512 | 512: 1 GiB of mappings |
//! | `timer=0` | no timer is waited for | |
//! | `clock=N` | nothing but telling the time for so many seconds | |
//! | `pair=NAME` | nothing but waking another domain that has this word, measured as `NAME` | |
//!
//! The handlers of events here know the two-level bitmap alone, so the word `xen.fifo_events=0` has to be there.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}

#[cfg(target_os = "none")]
mod guest;
