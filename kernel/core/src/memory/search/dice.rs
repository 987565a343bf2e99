//! Random steps: a stream of numbers from a seed, and choices among what is worth trying.

use std::vec::Vec;

use hypercall_abi::memory::{
    XENMEM_DECREASE_RESERVATION, XENMEM_INCREASE_RESERVATION, XENMEM_POPULATE_PHYSMAP,
};
use hypercall_abi::xen::*;

use super::world::{CPUS, DATA, MAPPED, SECOND_L1};
use super::{DEVICES, Entry, Frame, HYPERVISOR, Step, Who};
use crate::memory::Pte;
use crate::testing::{RO, RW};

/// A stream of numbers.
pub(super) enum Dice<'a> {
    /// Those that come of a seed (splitmix64).
    #[cfg_attr(fuzzing, allow(dead_code))]
    Seed(u64),
    /// Those that a fuzzer wants, and zeros behind them.
    Choices(&'a [u8]),
}

/// A number of so many bytes, fewer where there are none.
fn take(choices: &mut &[u8], bytes: usize) -> u64 {
    let (taken, left) = choices.split_at(bytes.min(choices.len()));
    *choices = left;
    let number = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
    taken.iter().fold(0, number)
}

impl Dice<'_> {
    fn number(&mut self) -> u64 {
        let seed = match self {
            Self::Seed(seed) => seed,
            Self::Choices(choices) => return take(choices, 8),
        };
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = *seed;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`, at most 2^32.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        match self {
            Self::Seed(_) => ((self.number() >> 32) * end) >> 32,
            Self::Choices(choices) => {
                let bits = u64::BITS - (end - 1).leading_zeros();
                take(choices, bits.div_ceil(8) as usize) % end
            }
        }
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len() as u64) as usize]
    }

    /// Which of several things of these weights.
    pub(super) fn weigh(&mut self, weights: &[u64]) -> usize {
        let mut left = self.below(weights.iter().sum());
        weights
            .iter()
            .position(|&weight| {
                let hit = left < weight;
                left = left.saturating_sub(weight);
                hit
            })
            .unwrap_or(0)
    }

    pub(super) fn one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    fn some<T>(&mut self, from: u64, end: u64, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        let count = from + self.below(end - from);
        (0..count).map(|_| make(self)).collect()
    }

    fn caller(&mut self) -> Who {
        self.below(3) as Who
    }

    /// Mostly the caller.
    fn owner(&mut self) -> Who {
        match self.weigh(&[54, 6, 1]) {
            0 => 0,
            1 => 1 + self.below(2) as Who,
            _ => self.pick(&[DEVICES, HYPERVISOR]),
        }
    }

    fn guest(&mut self) -> Who {
        1 + self.below(2) as Who
    }

    pub(super) fn frame(&mut self) -> Frame {
        match self.weigh(&[8, 16, 5, 1, 1, 1]) {
            0 => Frame::Table(self.owner(), self.below(4) as u8),
            1 => Frame::Data(self.owner(), self.below(DATA.into()) as u8),
            2 => Frame::Recent(self.number() as u8),
            3 => Frame::Shared(self.owner()),
            4 => Frame::Device(self.below(12) as u8),
            _ if self.one_in(2) => Frame::Number(self.below(700)),
            _ => Frame::Number(self.number()),
        }
    }

    pub(super) fn index(&mut self) -> u16 {
        (match self.weigh(&[6, 2, 1, 1]) {
            0 => self.below(6),
            1 => 20 + self.below(8),
            2 => 254 + self.below(20),
            _ => self.below(512),
        }) as u16
    }

    fn flags(&mut self) -> u64 {
        match self.weigh(&[8, 6, 1, 1, 1, 1, 1, 1, 3, 1]) {
            0 => RW,
            1 => RO,
            2 => RW & !Pte::USER,
            3 => RO | Pte::NO_EXECUTE,
            4 => RW | Pte::PCD,
            5 => RW | Pte::PSE,
            6 => RO | Pte::GLOBAL,
            7 => RW | Pte::AVAILABLE | Pte::AVAILABLE_HIGH,
            8 => 0,
            _ => self.number(),
        }
    }

    fn entry(&mut self) -> Entry {
        Entry {
            frame: self.frame(),
            flags: self.flags(),
        }
    }

    fn write(&mut self) -> (Frame, u16, Entry) {
        (self.frame(), self.index(), self.entry())
    }

    /// Whose frames a write may be about: where it names a device, often nobody's.
    fn owner_for(&mut self, write: &(Frame, u16, Entry)) -> Who {
        match write.2.frame {
            Frame::Device(_) if self.one_in(2) => DEVICES,
            _ => self.owner(),
        }
    }

    fn page(&mut self) -> u8 {
        if self.one_in(9) {
            self.number() as u8
        } else {
            self.below(MAPPED.into()) as u8
        }
    }

    fn order(&mut self) -> u32 {
        match self.weigh(&[8, 1, 1]) {
            0 => self.below(2) as u32,
            1 => 2 + self.below(3) as u32,
            _ => self.pick(&[9, 10, 18, 19, 32, u32::MAX]),
        }
    }

    fn extended(&mut self) -> u32 {
        match self.weigh(&[6, 3, 2, 2, 2, 1, 1]) {
            0 => MMUEXT_PIN_L1_TABLE + self.below(5) as u32,
            1 => MMUEXT_UNPIN_TABLE,
            2 => MMUEXT_NEW_BASEPTR,
            3 => MMUEXT_NEW_USER_BASEPTR,
            4 => self.pick(&[MMUEXT_CLEAR_PAGE, MMUEXT_COPY_PAGE]),
            5 => self.pick(&[MMUEXT_TLB_FLUSH_LOCAL, MMUEXT_TLB_FLUSH_ALL]),
            _ => self.below(32) as u32,
        }
    }

    fn descriptor(&mut self) -> u64 {
        match self.below(6) {
            0 => 0,
            1 => 0x00af_9a00_0000_ffff,
            2 => 0x0000_8900_0000_0067,
            3 => 0x0000_ec00_0033_0000,
            4 => {
                let selector = self.pick(&[0x10, 0xdff8, 0xe000, 0xe008, 0xe033, 0xe00c]);
                let parameters = self.pick(&[0, 0, 1, 0x80]);
                0x0000_ec00_0000_0000 | parameters << 32 | selector << 16
            }
            _ => self.number(),
        }
    }

    fn commands(&mut self) -> u32 {
        self.pick(&[
            XENMEM_INCREASE_RESERVATION,
            XENMEM_DECREASE_RESERVATION,
            XENMEM_DECREASE_RESERVATION,
            XENMEM_POPULATE_PHYSMAP,
        ])
    }

    /// A step.
    pub(super) fn step(&mut self) -> Step {
        let who = self.caller();
        match self.weigh(&[
            10, 10, 10, 6, 4, 2, 4, 2, 3, 2, 2, 2, 1, 8, 1, 1, 3, 2, 8, 2, 4, 6, 3, 1, 2, 20,
        ]) {
            0 => {
                let write = self.write();
                let frames = self.owner_for(&write);
                Step::Update(who, self.owner(), frames, self.below(4), write)
            }
            1 => Step::Map(who, self.owner(), self.page(), self.entry(), self.below(9)),
            2 => Step::Extended(
                who,
                self.owner(),
                self.extended(),
                self.frame(),
                self.frame(),
            ),
            3 => {
                let entries = self.some(1, 5, |dice| (dice.index(), dice.entry()));
                Step::Furnish(who, self.frame(), entries, self.extended())
            }
            4 => Step::Batch(who, self.some(2, 6, Self::write)),
            5 => {
                let entries = self.pick(&[1024, 1024, 0, 1, 512, 8192, 8193]);
                Step::Ldt(who, self.page(), entries, self.below(1024) as u16)
            }
            6 => Step::Reservation(
                who,
                self.owner(),
                self.commands(),
                self.order(),
                self.some(1, 4, Self::frame),
            ),
            7 => {
                let orders = (self.order(), self.order());
                Step::Exchange(who, self.owner(), orders, self.some(1, 4, Self::frame))
            }
            8 => Step::Gdt(who, self.some(0, 3, Self::frame)),
            9 => Step::Descriptor(who, self.frame(), self.index(), self.descriptor()),
            10 => Step::Info(
                who,
                self.below(2) as u8,
                self.frame(),
                self.pick(&[0, 64, 4032, 4040, 4, u32::MAX]),
            ),
            11 => {
                let gdt = self.one_in(2).then(|| self.frame());
                Step::Initialise(who, self.frame(), self.frame(), gdt)
            }
            12 => Step::Forget(self.guest(), self.below(2) as u8),
            13 => Step::Store(
                who,
                self.page(),
                self.index(),
                self.entry(),
                self.number() as u8,
            ),
            14 => {
                let steps = self.pick(&[1, 2, 3, 5, 9, 20, 40, u16::MAX]);
                Step::Destroy(self.guest(), steps)
            }
            15 => Step::Create(self.guest()),
            16 => Step::Scrub(self.number() as u8),
            17 => Step::User(who),
            18 => Step::Turn(self.below(CPUS.into()) as u8),
            19 => Step::Stop(self.below(CPUS.into()) as u8),
            20 => {
                let patience = self.one_in(2).then(|| self.below(4) as u8);
                Step::Clock(self.below(5) as u8, patience)
            }
            22 => Step::Word(who, self.frame(), self.index(), self.descriptor()),
            23 => Step::Claim(who, self.guest(), self.number() as u8),
            24 => {
                let frames = self.some(2, 4, |dice| Frame::Data(0, dice.below(DATA.into()) as u8));
                let entries = self.some(1, 5, |dice| {
                    (dice.below(3) as u8, dice.below(3) as u8, dice.index())
                });
                let pin = MMUEXT_PIN_L2_TABLE + self.below(3) as u32;
                Step::Linear(who, pin, frames, entries)
            }
            21 => {
                let page = if self.one_in(4) {
                    self.page()
                } else {
                    SECOND_L1
                };
                let stores = self.some(1, 6, |dice| (dice.index(), dice.entry()));
                Step::Run(who, page, stores, self.some(0, 3, Self::page))
            }
            _ => Step::Grants(who, self.grants()),
        }
    }
}
