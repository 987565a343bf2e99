//! A search for sequences of hypercalls after which the records are wrong or a domain is not isolated any more.
//!
//! Three domains, the control domain among them, do whatever touches memory, through the real dispatch, with
//! arguments that favour the frames where mistakes would be: page tables, descriptor tables, shared-info pages,
//! other domains' frames, frames given up, device memory. After every step everything is recounted by
//! [`super::recount`]. What fails is shrunk to a short sequence.
//!
//! `PROPTEST_CASES` says how many sequences are tried; a night's worth is some 100,000.

mod world;

use hypercall_abi::memory::{
    XENMEM_DECREASE_RESERVATION, XENMEM_INCREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP,
};
use hypercall_abi::xen::*;
use proptest::prelude::*;

use super::Pte;
use crate::testing::{RO, RW};
use world::World;

/// Sequences that a run of all tests tries.
const CASES: u32 = 24;
/// Longest sequence.
const STEPS: usize = 60;

/// A frame, found when the step is carried out.
#[derive(Clone, Copy, Debug)]
enum Frame {
    /// One of the first tables of a domain (0 is the caller): 0 for the L4 table to 3 for the L1 table.
    Table(u8, u8),
    /// One of the few data frames of a domain that the search keeps to.
    Data(u8, u8),
    /// A frame that was given or taken a while ago.
    Recent(u8),
    /// A domain's shared-info page.
    Shared(u8),
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

/// Which of the three domains.
type Who = u8;

#[derive(Clone, Debug)]
enum Step {
    /// `mmu_update`: caller, whose tables, whose frames, command, frame and index written, entry.
    Update(Who, Who, Who, u64, Frame, u16, Entry),
    /// `update_va_mapping`: caller, whose frames, page of the scratch area, entry, flags.
    Map(Who, Who, u8, Entry, u64),
    /// `mmu_update` of several entries of a frame, then a `mmuext_op` on it, such as a pin.
    Furnish(Who, Frame, Vec<(u16, Entry)>, u32),
    /// `mmuext_op`: caller, whose frames, command, first and second argument.
    Extended(Who, Who, u32, Frame, Frame),
    /// `MMUEXT_SET_LDT` with a page of the scratch area, then the use of a selector in it.
    Ldt(Who, u8, u16),
    /// `memory_op` on the reservation: caller, whose, command, order, extents.
    Reservation(Who, Who, u32, u32, Vec<Frame>),
    /// `XENMEM_exchange`: caller, whose, the orders in and out, extents.
    Exchange(Who, Who, (u32, u32), Vec<Frame>),
    /// `set_gdt`: caller, frames.
    Gdt(Who, Vec<Frame>),
    /// `update_descriptor`: caller, frame and index, descriptor.
    Descriptor(Who, Frame, u16, u64),
    /// `VCPUOP_register_vcpu_info`: caller, vCPU, frame, offset.
    Info(Who, u8, Frame, u32),
    /// `VCPUOP_initialise` of the second vCPU: caller, root tables of kernel and user mode, a GDT page.
    Initialise(Who, Frame, Frame, Option<Frame>),
    /// `XEN_DOMCTL_setvcpucontext` with no context: the control domain has a vCPU of another forget all.
    Forget(Who, u8),
    /// An ordinary store: caller, page of the scratch area, index, word. Where the page is mapped read-only and
    /// is an L1 table, the hypervisor carries it out by the instruction of this number.
    Store(Who, u8, u16, Entry, u8),
    /// A store by a guest that then runs by itself, with the table unhooked if it can be: caller, page of the scratch
    /// area, indices and words that it stores there, pages that it writes to.
    Run(Who, u8, Vec<(u16, Entry)>, Vec<u8>),
    /// Destruction as far as so many steps go, at least one.
    Destroy(Who, u16),
    /// A new domain in the place of one that is gone.
    Create(Who),
    /// Spare time for so many freed frames to be scrubbed.
    Scrub(u8),
    /// From here on a hypercall's time is up when it has looked so often at the clock (0: never), and a guest goes on
    /// with its call so often, if not until it is finished.
    Clock(u8, Option<u8>),
}

fn frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        8 => (owner(), 0..4_u8).prop_map(|(who, level)| Frame::Table(who, level)),
        16 => (owner(), 0..world::DATA).prop_map(|(who, page)| Frame::Data(who, page)),
        5 => any::<u8>().prop_map(Frame::Recent),
        1 => owner().prop_map(Frame::Shared),
        1 => (0..12_u8).prop_map(Frame::Device),
        1 => prop_oneof![0..700_u64, any::<u64>()].prop_map(Frame::Number),
    ]
}

/// Mostly the caller.
fn owner() -> impl Strategy<Value = Who> {
    prop_oneof![9 => Just(0_u8), 1 => 1..3_u8]
}

fn caller() -> impl Strategy<Value = Who> {
    0..3_u8
}

fn index() -> impl Strategy<Value = u16> {
    prop_oneof![6 => 0..6_u16, 2 => 20..28_u16, 1 => 254..274_u16, 1 => 0..512_u16]
}

fn flags() -> impl Strategy<Value = u64> {
    prop_oneof![
        8 => Just(RW),
        6 => Just(RO),
        1 => Just(RW & !Pte::USER),
        1 => Just(RO | Pte::NO_EXECUTE),
        1 => Just(RW | Pte::PCD),
        1 => Just(RW | Pte::PSE),
        1 => Just(RO | Pte::GLOBAL),
        1 => Just(RW | Pte::AVAILABLE | Pte::AVAILABLE_HIGH),
        3 => Just(0),
        1 => any::<u64>(),
    ]
}

fn entry() -> impl Strategy<Value = Entry> {
    (frame(), flags()).prop_map(|(frame, flags)| Entry { frame, flags })
}

fn page() -> impl Strategy<Value = u8> {
    prop_oneof![8 => 0..world::MAPPED, 1 => any::<u8>()]
}

fn order() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0..2_u32, 1 => 2..5_u32, 1 => prop::sample::select(vec![9, 10, 18, 19, 32, u32::MAX])]
}

fn extended() -> impl Strategy<Value = u32> {
    prop_oneof![
        6 => MMUEXT_PIN_L1_TABLE..=MMUEXT_UNPIN_TABLE,
        3 => Just(MMUEXT_UNPIN_TABLE),
        2 => Just(MMUEXT_NEW_BASEPTR),
        2 => Just(MMUEXT_NEW_USER_BASEPTR),
        2 => prop::sample::select(vec![MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE]),
        1 => 0..32_u32,
    ]
}

fn descriptor() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0_u64),
        Just(0x00af_9a00_0000_ffff),
        Just(0x0000_8900_0000_0067),
        Just(0x0000_ec00_0033_0000),
        any::<u64>(),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let frames = || prop::collection::vec(frame(), 1..4);
    prop_oneof![
        10 => (caller(), owner(), owner(), 0..4_u64, frame(), index(), entry())
            .prop_map(|(a, b, c, d, e, f, g)| Step::Update(a, b, c, d, e, f, g)),
        10 => (caller(), owner(), page(), entry(), 0..9_u64)
            .prop_map(|(a, b, c, d, e)| Step::Map(a, b, c, d, e)),
        10 => (caller(), owner(), extended(), frame(), frame())
            .prop_map(|(a, b, c, d, e)| Step::Extended(a, b, c, d, e)),
        6 => (caller(), frame(), prop::collection::vec((index(), entry()), 1..5), extended())
            .prop_map(|(a, b, c, d)| Step::Furnish(a, b, c, d)),
        1 => (caller(), page(), 0..1024_u16).prop_map(|(a, b, c)| Step::Ldt(a, b, c)),
        4 => (
            caller(),
            owner(),
            prop::sample::select(vec![
                XENMEM_INCREASE_RESERVATION,
                XENMEM_DECREASE_RESERVATION,
                XENMEM_DECREASE_RESERVATION,
                XENMEM_POPULATE_PHYSMAP,
            ]),
            order(),
            frames(),
        )
            .prop_map(|(a, b, c, d, e)| Step::Reservation(a, b, c, d, e)),
        2 => (caller(), owner(), (order(), order()), frames())
            .prop_map(|(a, b, c, d)| Step::Exchange(a, b, c, d)),
        3 => (caller(), prop::collection::vec(frame(), 0..3)).prop_map(|(a, b)| Step::Gdt(a, b)),
        2 => (caller(), frame(), index(), descriptor())
            .prop_map(|(a, b, c, d)| Step::Descriptor(a, b, c, d)),
        2 => (caller(), 0..2_u8, frame(), prop::sample::select(vec![0, 64, 4032, 4040, 4, u32::MAX]))
            .prop_map(|(a, b, c, d)| Step::Info(a, b, c, d)),
        2 => (caller(), frame(), frame(), prop::option::of(frame()))
            .prop_map(|(a, b, c, d)| Step::Initialise(a, b, c, d)),
        1 => (1..3_u8, 0..2_u8).prop_map(|(a, b)| Step::Forget(a, b)),
        8 => (caller(), page(), index(), entry(), any::<u8>())
            .prop_map(|(a, b, c, d, e)| Step::Store(a, b, c, d, e)),
        6 => (
            caller(),
            prop_oneof![3 => Just(world::SECOND_L1), 1 => page()],
            prop::collection::vec((index(), entry()), 1..6),
            prop::collection::vec(page(), 0..3),
        )
            .prop_map(|(a, b, c, d)| Step::Run(a, b, c, d)),
        1 => (1..3_u8, prop_oneof![1..40_u16, Just(u16::MAX)]).prop_map(|(a, b)| Step::Destroy(a, b)),
        1 => (1..3_u8).prop_map(Step::Create),
        2 => any::<u8>().prop_map(Step::Scrub),
        4 => (0..5_u8, prop::option::of(0..4_u8)).prop_map(|(a, b)| Step::Clock(a, b)),
    ]
}

fn config() -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok();
    let cases = cases.and_then(|text| text.parse().ok()).unwrap_or(CASES);
    ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..ProptestConfig::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(config())]
    #[test]
    fn no_sequence_of_hypercalls_breaks_isolation_or_a_count(
        steps in prop::collection::vec(step(), 1..STEPS)
    ) {
        let mut world = World::new();
        for step in &steps {
            world.carry_out(step);
            world.check().map_err(|wrong| TestCaseError::fail(format!("{step:?}: {wrong}")))?;
        }
        world.end().map_err(TestCaseError::fail)?;
    }
}
