//! Instructions by which kernels write to page-table entries: moves, exchanges, bit, logical and arithmetic
//! operations on one memory operand of up to 8 bytes. `cmpxchg16b`, which takes two entries at once, is not among
//! them, no more than in Xen.

use hypercall_abi::arch_x86::CpuUserRegs;
use iced_x86::{
    Decoder, DecoderOptions, Instruction as Decoded, MemorySize, Mnemonic, OpKind, Register,
};

use super::decode::Gpr;
use super::{gpr, set_gpr};

const CF: u64 = 1;
const PF: u64 = 1 << 2;
const AF: u64 = 1 << 4;
const ZF: u64 = 1 << 6;
const SF: u64 = 1 << 7;
const OF: u64 = 1 << 11;
const ARITHMETIC: u64 = CF | PF | AF | ZF | SF | OF;

/// Width of an operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Width {
    Byte,
    Word,
    Long,
    Quad,
}

impl Width {
    pub(super) fn bits(self) -> u32 {
        match self {
            Self::Byte => 8,
            Self::Word => 16,
            Self::Long => 32,
            Self::Quad => 64,
        }
    }

    pub(super) fn mask(self) -> u64 {
        u64::MAX >> (64 - self.bits())
    }

    fn sign(self) -> u64 {
        1 << (self.bits() - 1)
    }
}

/// What becomes of the word in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Set,
    Exchange,
    ExchangeAdd,
    CompareExchange,
    /// `cmpxchg8b`: EDX:EAX and ECX:EBX.
    CompareExchangePair,
    Add,
    Subtract,
    Increment,
    Decrement,
    Negate,
    Not,
    And,
    Or,
    Xor,
    BitSet,
    BitReset,
    BitComplement,
}

/// Where the other operand is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Register(Gpr),
    Immediate(u64),
    /// There is none, or the instruction implies it.
    Implied,
}

/// A decoded store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Store {
    pub(super) length: u8,
    pub(super) width: Width,
    change: Change,
    source: Source,
}

/// What a store does to a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Effect {
    /// The word afterwards.
    pub(super) value: u64,
    before: u64,
    flags: Option<u64>,
}

/// The store that begins `bytes`, 64-bit code.
pub(super) fn decode(bytes: &[u8]) -> Option<Store> {
    let mut decoder = Decoder::new(64, bytes, DecoderOptions::NONE);
    let mut decoded = Decoded::default();
    decoder.decode_out(&mut decoded);
    if decoded.is_invalid() || decoded.op0_kind() != OpKind::Memory {
        return None;
    }
    let change = match decoded.mnemonic() {
        Mnemonic::Mov | Mnemonic::Movnti => Change::Set,
        Mnemonic::Xchg => Change::Exchange,
        Mnemonic::Xadd => Change::ExchangeAdd,
        Mnemonic::Cmpxchg => Change::CompareExchange,
        Mnemonic::Cmpxchg8b => Change::CompareExchangePair,
        Mnemonic::Add => Change::Add,
        Mnemonic::Sub => Change::Subtract,
        Mnemonic::Inc => Change::Increment,
        Mnemonic::Dec => Change::Decrement,
        Mnemonic::Neg => Change::Negate,
        Mnemonic::Not => Change::Not,
        Mnemonic::And => Change::And,
        Mnemonic::Or => Change::Or,
        Mnemonic::Xor => Change::Xor,
        Mnemonic::Bts => Change::BitSet,
        Mnemonic::Btr => Change::BitReset,
        Mnemonic::Btc => Change::BitComplement,
        _ => return None,
    };
    let width = match decoded.memory_size() {
        MemorySize::UInt8 | MemorySize::Int8 => Width::Byte,
        MemorySize::UInt16 | MemorySize::Int16 => Width::Word,
        MemorySize::UInt32 | MemorySize::Int32 => Width::Long,
        MemorySize::UInt64 | MemorySize::Int64 => Width::Quad,
        _ => return None,
    };
    let source = match (decoded.op_count(), decoded.op1_kind()) {
        (1, _) => Source::Implied,
        // A bit number in a register may be that of a bit beyond the operand: the processor then takes the word with
        // that bit, which is the one that faulted.
        (2, OpKind::Register) => Source::Register(register(decoded.op1_register())?),
        (2, _) => Source::Immediate(decoded.try_immediate(1).ok()?),
        _ => return None,
    };
    Some(Store {
        length: decoded.len() as u8,
        width,
        change,
        source,
    })
}

/// Number of a register whose low bits are the operand; the second bytes of RAX to RBX are not among them.
fn register(register: Register) -> Option<Gpr> {
    let number = |first: Register| {
        let number = (register as usize).checked_sub(first as usize)?;
        u8::try_from(number).ok()
    };
    let within = |first| number(first).filter(|&number| number < 16);
    match number(Register::AL) {
        Some(number @ 0..=3) => Some(number),
        Some(4..=7) => None,
        Some(number @ 8..=19) => Some(number - 4),
        _ => within(Register::AX)
            .or_else(|| within(Register::EAX))
            .or_else(|| within(Register::RAX)),
    }
}

impl Store {
    /// What becomes of a word that holds `before`.
    pub(super) fn apply(&self, regs: &CpuUserRegs, before: u64) -> Effect {
        let mask = self.width.mask();
        let source = match self.source {
            Source::Register(number) => gpr(regs, number),
            Source::Immediate(value) => value,
            Source::Implied => 1,
        } & mask;
        let bit = 1_u64 << (source & u64::from(self.width.bits() - 1));
        let value = match self.change {
            Change::Set | Change::Exchange => source,
            Change::CompareExchange if regs.rax & mask == before => source,
            Change::CompareExchangePair if pair(regs.rdx, regs.rax) == before => {
                pair(regs.rcx, regs.rbx)
            }
            Change::CompareExchange | Change::CompareExchangePair => before,
            Change::Add | Change::ExchangeAdd | Change::Increment => before.wrapping_add(source),
            Change::Subtract | Change::Decrement => before.wrapping_sub(source),
            Change::Negate => before.wrapping_neg(),
            Change::Not => !before,
            Change::And => before & source,
            Change::Or => before | source,
            Change::Xor => before ^ source,
            Change::BitSet => before | bit,
            Change::BitReset => before & !bit,
            Change::BitComplement => before ^ bit,
        } & mask;
        let kept = |changed: u64| regs.rflags & ARITHMETIC & !changed;
        let flags = match self.change {
            Change::Set | Change::Exchange | Change::Not => None,
            Change::CompareExchange => Some(self.comparison(regs.rax & mask, before)),
            Change::CompareExchangePair => {
                let equal = pair(regs.rdx, regs.rax) == before;
                Some(kept(ZF) | if equal { ZF } else { 0 })
            }
            Change::Add | Change::ExchangeAdd => Some(self.sum(before, source)),
            Change::Subtract => Some(self.comparison(before, source)),
            Change::Increment => Some(self.sum(before, 1) & !CF | kept(!CF)),
            Change::Decrement => Some(self.comparison(before, 1) & !CF | kept(!CF)),
            Change::Negate => Some(self.comparison(0, before)),
            Change::And | Change::Or | Change::Xor => Some(self.sign_and_zero(value)),
            Change::BitSet | Change::BitReset | Change::BitComplement => {
                let carry = if before & bit != 0 { CF } else { 0 };
                Some(kept(CF) | carry)
            }
        };
        Effect {
            value,
            before,
            flags,
        }
    }

    /// Sets the registers that a store changes.
    pub(super) fn finish(&self, regs: &mut CpuUserRegs, effect: &Effect) {
        if let Some(flags) = effect.flags {
            regs.rflags = regs.rflags & !ARITHMETIC | flags;
        }
        let equal = effect.flags.unwrap_or(0) & ZF != 0;
        let result = match (self.change, self.source) {
            (Change::Exchange | Change::ExchangeAdd, Source::Register(number)) => number,
            (Change::CompareExchange, _) if !equal => 0,
            (Change::CompareExchangePair, _) if !equal => {
                regs.rax = effect.before & u64::from(u32::MAX);
                regs.rdx = effect.before >> 32;
                return;
            }
            _ => return,
        };
        let mask = self.width.mask();
        let value = match self.width {
            Width::Long | Width::Quad => effect.before,
            _ => gpr(regs, result) & !mask | effect.before,
        };
        set_gpr(regs, result, value);
    }

    fn sign_and_zero(&self, value: u64) -> u64 {
        let value = value & self.width.mask();
        let mut flags = 0;
        if value == 0 {
            flags |= ZF;
        }
        if value & self.width.sign() != 0 {
            flags |= SF;
        }
        if (value as u8).count_ones().is_multiple_of(2) {
            flags |= PF;
        }
        flags
    }

    /// The flags of `left + right`.
    fn sum(&self, left: u64, right: u64) -> u64 {
        let sum = left.wrapping_add(right) & self.width.mask();
        let mut flags = self.sign_and_zero(sum);
        if sum < left {
            flags |= CF;
        }
        if (left ^ right ^ sum) & 0x10 != 0 {
            flags |= AF;
        }
        if (left ^ sum) & (right ^ sum) & self.width.sign() != 0 {
            flags |= OF;
        }
        flags
    }

    /// The flags of `left - right`.
    fn comparison(&self, left: u64, right: u64) -> u64 {
        let difference = left.wrapping_sub(right);
        let mut flags = self.sign_and_zero(difference);
        if left < right {
            flags |= CF;
        }
        if (left ^ right ^ difference) & 0x10 != 0 {
            flags |= AF;
        }
        if (left ^ right) & (left ^ difference) & self.width.sign() != 0 {
            flags |= OF;
        }
        flags
    }
}

/// Two halves of 8 bytes in registers.
fn pair(high: u64, low: u64) -> u64 {
    high << 32 | low & u64::from(u32::MAX)
}

/// Carries out the store that begins `code` on registers and on a word of 8 bytes, of which it changes the first: for
/// a fuzzer. How many bytes it changes, and what they are then; none where it is no store that is carried out.
#[cfg(fuzzing)]
pub fn try_store(code: &[u8], regs: &mut CpuUserRegs, word: u64) -> Option<(usize, u64)> {
    let store = decode(code)?;
    let effect = store.apply(regs, word & store.width.mask());
    store.finish(regs, &effect);
    regs.rip += u64::from(store.length);
    Some((store.width.bits() as usize / 8, effect.value))
}
