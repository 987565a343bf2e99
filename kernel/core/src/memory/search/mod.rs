//! A search for sequences of hypercalls after which the records are wrong or a domain is not isolated any more.
//!
//! Three domains, the control domain among them, do whatever touches memory on two processors, through the real
//! dispatch, with arguments that favour the frames where mistakes would be: page tables, descriptor tables, shared-info
//! pages, other domains' frames, frames given up, granted frames, device memory. After every step everything is recounted by
//! [`super::recount`], and so is all that the processors may remember of tables as they were. What fails is shrunk to a
//! short sequence and printed as a test.
//!
//! `SEARCH_STEPS` says how many steps are tried, where it is not 50,000 or, with `CI` set, a million; `SEARCH_SEED`
//! where the random numbers begin. Each seed gives the same steps every time. They come in sequences of 500, each on a new
//! host; `SEARCH_SEQUENCES` has the numbers of those to be tried, with commas, if not all are. With `SEARCH_SHRINK=no`
//! what fails is left as long as it is.

mod dice;
mod grants;
mod shrink;
#[cfg(test)]
mod tests;
mod world;

use std::format;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::string::String;
use std::vec::Vec;

use dice::Dice;
use world::World;

/// Steps of a sequence, which begins with a new host.
const SEQUENCE: u64 = 500;

/// Which of the three domains; where it is an argument, [`DEVICES`] and [`HYPERVISOR`] too.
type Who = u8;
/// `DOMID_IO` as an argument.
const DEVICES: Who = 3;
/// `DOMID_XEN` as an argument.
const HYPERVISOR: Who = 4;

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
    /// Pins of several frames as tables of one level (the command says which), then entries in them that name each
    /// other: linear page tables.
    Linear(Who, u32, Vec<Frame>, Vec<(u8, u8, u16)>),
    /// One `mmu_update` of several entries.
    Batch(Who, Vec<(Frame, u16, Entry)>),
    /// `MMUEXT_SET_LDT` with a page of the scratch area and so many entries, then the use of a selector in it.
    Ldt(Who, u8, u32, u16),
    /// `memory_op` on the reservation: whose, command, order, extents.
    Reservation(Who, Who, u32, u32, Vec<Frame>),
    /// `XENMEM_exchange`: whose, the orders in and out, extents.
    Exchange(Who, Who, (u32, u32), Vec<Frame>),
    /// `set_gdt`: frames.
    Gdt(Who, Vec<Frame>),
    /// `update_descriptor`: frame and index, descriptor.
    Descriptor(Who, Frame, u16, u64),
    /// One `mmu_update` with a word that is no entry: frame and index, word.
    Word(Who, Frame, u16, u64),
    /// `XENMEM_claim_pages`, for whom and how many.
    Claim(Who, Who, u8),
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
            world.carry_out(&step)?;
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

/// Carries out the sequence that a fuzzer chooses; the text of a test where it fails, and what was wrong.
///
/// # Errors
/// That text.
pub fn try_choices(choices: &[u8]) -> Result<(), String> {
    let mut dice = Dice::Choices(choices);
    let mut steps = Vec::new();
    while !matches!(dice, Dice::Choices([])) && (steps.len() as u64) < SEQUENCE {
        steps.push(dice.step());
    }
    attempt(&mut steps.iter().cloned()).map_err(|(done, wrong)| {
        let steps = shrink::shrink(&steps[..done]);
        format!("{wrong}\n{}", shrink::as_test(&steps))
    })
}
