//! A search for sequences of hypercalls after which the records are wrong or a domain is not isolated any more.
//!
//! Three domains, the control domain among them, do whatever touches memory on two processors, through the real
//! dispatch, with arguments that favour the frames where mistakes would be: page tables, descriptor tables, shared-info
//! pages, other domains' frames, frames given up, granted frames, device memory. After every step everything is recounted by
//! [`super::recount`], and so is all that the processors may remember of tables as they were. What fails is shrunk to a
//! short sequence and printed as a test.
//!
//! `SEARCH_STEPS` says how many steps are tried, where it is not [`STEPS`] or, with `CI` set, [`CI_STEPS`]; `SEARCH_SEED`
//! where the random numbers begin. Each seed gives the same steps every time.

mod dice;
mod grants;
mod shrink;
mod world;

use alloc::boxed::Box;
use alloc::sync::Arc;
use std::format;
use std::panic::{self, AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::sync::atomic::{AtomicU64, Ordering};
use std::vec::Vec;
use std::{env, println, thread};

use dice::Dice;
use world::World;

/// Steps that a run of all tests tries.
const STEPS: u64 = 50_000;
/// Steps that continuous integration tries.
const CI_STEPS: u64 = 1_000_000;
/// Steps of a sequence, which begins with a new host.
const SEQUENCE: u64 = 500;

/// Which of the three domains.
type Who = u8;

/// A frame, found when the step is carried out.
#[derive(Clone, Copy, Debug)]
enum Frame {
    /// One of the first tables of a domain (0 is the caller): 0 for the L4 table to 3 for the L1 table.
    Table(Who, u8),
    /// One of the few data frames of a domain that the search keeps to.
    Data(Who, u8),
    /// A frame that was given or taken a while ago.
    Recent(u8),
    /// A domain's shared-info page.
    Shared(Who),
    /// Device memory, of which the first frames may be mapped by some.
    Device(u8),
    /// Any number.
    Number(u64),
}

/// A page-table entry, or a word that could be one.
#[derive(Clone, Copy, Debug)]
struct Entry {
    frame: Frame,
    flags: u64,
}

/// What happens next; the caller, where there is one, comes first.
#[derive(Clone, Debug)]
enum Step {
    /// `mmu_update`: whose tables, whose frames, command, frame and index written, entry.
    Update(Who, Who, Who, u64, (Frame, u16, Entry)),
    /// `update_va_mapping`: whose frames, page of the scratch area, entry, flags.
    Map(Who, Who, u8, Entry, u64),
    /// `mmuext_op`: whose frames, command, first and second argument.
    Extended(Who, Who, u32, Frame, Frame),
    /// `mmu_update` of several entries of a frame, then a `mmuext_op` on it, such as a pin.
    Furnish(Who, Frame, Vec<(u16, Entry)>, u32),
    /// One `mmu_update` of several entries.
    Batch(Who, Vec<(Frame, u16, Entry)>),
    /// `MMUEXT_SET_LDT` with a page of the scratch area, then the use of a selector in it.
    Ldt(Who, u8, u16),
    /// `memory_op` on the reservation: whose, command, order, extents.
    Reservation(Who, Who, u32, u32, Vec<Frame>),
    /// `XENMEM_exchange`: whose, the orders in and out, extents.
    Exchange(Who, Who, (u32, u32), Vec<Frame>),
    /// `set_gdt`: frames.
    Gdt(Who, Vec<Frame>),
    /// `update_descriptor`: frame and index, descriptor.
    Descriptor(Who, Frame, u16, u64),
    /// `VCPUOP_register_vcpu_info`: vCPU, frame, offset.
    Info(Who, u8, Frame, u32),
    /// `VCPUOP_initialise` of the second vCPU: root tables of kernel and user mode, a GDT page.
    Initialise(Who, Frame, Frame, Option<Frame>),
    /// `XEN_DOMCTL_setvcpucontext` with no context: the control domain has a vCPU of another forget all.
    Forget(Who, u8),
    /// An ordinary store: page of the scratch area, index, word. Where the page is mapped read-only and is an L1 table,
    /// the hypervisor carries it out by the instruction of this number.
    Store(Who, u8, u16, Entry, u8),
    /// A store by a guest that then runs by itself, with the table unhooked if it can be: caller, page of the scratch
    /// area, indices and words that it stores there, pages that it writes to.
    Run(Who, u8, Vec<(u16, Entry)>, Vec<u8>),
    /// Something with grants.
    Grants(Who, grants::Call),
    /// A while in user mode.
    User(Who),
    /// Destruction as far as so many steps go, at least one.
    Destroy(Who, u16),
    /// A new domain in the place of one that is gone.
    Create(Who),
    /// Spare time for so many freed frames to be scrubbed.
    Scrub(u8),
    /// From here on a hypercall's time is up when it has looked so often at the clock (0: never), and a guest goes on
    /// with its call so often, if not until it is finished.
    Clock(u8, Option<u8>),
    /// From here on this processor has the turn, with those vCPUs that have its number.
    Turn(u8),
    /// A processor stops running the vCPU that it runs.
    Stop(u8),
}

/// Carries out a sequence on a new host; what was wrong behind which step.
fn attempt(steps: &mut dyn Iterator<Item = Step>) -> Result<(), (usize, String)> {
    let mut done = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| -> Result<(), String> {
        let mut world = World::new();
        for step in steps {
            done += 1;
            world.carry_out(&step);
            world.check()?;
        }
        world.end()
    }));
    let wrong = match outcome {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(wrong)) => wrong,
        Err(panic) => match panic.downcast_ref::<String>() {
            Some(message) => format!("panic: {message}"),
            None => format!("panic: {:?}", panic.downcast_ref::<&str>()),
        },
    };
    Err((done, wrong))
}

/// Demands that a sequence, which once failed, does not.
fn replay(steps: &[Step]) {
    if let Err((done, wrong)) = attempt(&mut steps.iter().cloned()) {
        panic!("behind step {done} of {}: {wrong}", steps.len());
    }
}

fn number_from(name: &str) -> Option<u64> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn no_sequence_of_hypercalls_breaks_isolation_or_a_count() {
    let steps = match env::var_os("CI") {
        Some(_) => CI_STEPS,
        None => STEPS,
    };
    let steps = number_from("SEARCH_STEPS").unwrap_or(steps);
    let seed = number_from("SEARCH_SEED").unwrap_or(0);
    let sequences = steps.div_ceil(SEQUENCE);
    let next = AtomicU64::new(0);
    let search = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= sequences {
                return None;
            }
            let mut dice = Dice(seed.wrapping_add(number) << 32);
            let steps: Vec<_> = (0..SEQUENCE).map(|_| dice.step()).collect();
            if let Err((done, _)) = attempt(&mut steps.iter().cloned()) {
                next.store(sequences, Ordering::Relaxed);
                let tried = number * SEQUENCE + done as u64;
                return Some((tried, shrink::shrink(&steps[..done])));
            }
        }
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let found = quietly(|| {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..threads)
                .map(|_| {
                    thread::Builder::new()
                        .name(NAME.into())
                        .spawn_scoped(scope, search)
                })
                .collect();
            let found = threads
                .into_iter()
                .map(|thread| thread.expect("a thread").join());
            found.filter_map(|found| found.expect("an answer")).next()
        })
    });
    if let Some((tried, steps)) = found {
        let test = shrink::as_test(&steps);
        println!("after some {tried} steps:\n{test}");
        replay(&steps);
    }
}

/// Name of the threads that search.
const NAME: &str = "search";

/// Works without a word, and a backtrace, of the panics of threads that search: to shrink a sequence takes hundreds.
fn quietly<R>(work: impl FnOnce() -> R) -> R {
    let loud = Arc::new(panic::take_hook());
    let hook = loud.clone();
    panic::set_hook(Box::new(move |info| {
        if thread::current().name() != Some(NAME) {
            hook(info);
        }
    }));
    let result = work();
    panic::set_hook(Box::new(move |info| loud(info)));
    result
}
