//! A guest whose vCPUs do all at once what vCPUs do to each other, and check it: interrupts between them, a page that
//! changes under those who read it, page tables, timers, waits of every kind, and one that goes down and up again.
//!
//! The last line says what was done, if all was right; then the domain powers off. What is wrong crashes it. Words of
//! the command line:
//!
//! | word | what it sets | default |
//! |---|---|---|
//! | `seconds=N` | how long | 10 |
//! | `seed=N` | the random numbers | 1 |
//! | `ring` | ring another domain, instead of all that, and be rung | |
//! | `lines=N` | how many event channels there are for that | 4096 |
//! | `spin` | nothing but use up the boot vCPU's time, for ever | |
//! | `wake` | nothing but wake a thousand times a second, for 10 us each, for ever | |
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}

#[cfg(target_os = "none")]
mod guest;
