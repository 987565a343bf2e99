//! Stores to page tables: what the hypervisor makes of an instruction is what the processor makes of it.
//!
//! The fuzzer chooses code, registers and the word in memory. What the hypervisor would carry out is also executed, a
//! single instruction, in a process of its own ([`processor`]), and registers, flags, instruction pointer and memory
//! are the same afterwards. Flags that the manuals leave undefined do not count.
#![no_main]

mod processor;

use std::cell::RefCell;

use arbitrary::Arbitrary;
use hv_core::emulate::try_store;
use hypercall_abi::arch_x86::CpuUserRegs;
use iced_x86::{Decoder, DecoderOptions, Instruction, OpKind, Register, RflagsBits};
use libfuzzer_sys::fuzz_target;
use zerocopy::FromZeros;

use processor::{CODE, DATA, Ended, Processor};

/// Where in the data page the word is: bit numbers in registers name bits far behind it.
const MIDDLE: u64 = DATA + 2048;
/// Bits that a bit number may be away.
const FAR: u64 = 1023;
/// Flags that instructions change.
const FLAGS: [(u64, u32); 6] = [
    (1, RflagsBits::CF),
    (1 << 2, RflagsBits::PF),
    (1 << 4, RflagsBits::AF),
    (1 << 6, RflagsBits::ZF),
    (1 << 7, RflagsBits::SF),
    (1 << 11, RflagsBits::OF),
];

thread_local! {
    static PROCESSOR: RefCell<Processor> =
        RefCell::new(Processor::new().expect("a process to trace"));
}

#[derive(Arbitrary, Debug)]
struct Input {
    /// RAX to R15 in the order of their numbers.
    registers: [u64; 16],
    word: u64,
    flags: u8,
    /// Bytes between the word and its page's middle.
    offset: u8,
    code: [u8; 15],
}

fuzz_target!(|input: Input| {
    let _ = compare(input);
});

/// None where there is nothing to compare.
fn compare(mut input: Input) -> Option<()> {
    let mut code = input.code;
    let decoded = decode(&code)?;
    let mut target = MIDDLE + u64::from(input.offset % 8);
    aim(&mut input.registers, &mut code, &decoded, target)?;
    let decoded = decode(&code)?;
    target = reached(&mut input.registers, &decoded, target)?;
    assert_eq!(
        address(&input.registers, &decoded).map(|address| address & !0x7ff),
        Some(MIDDLE),
        "{decoded} is aimed at the data"
    );

    let flags = FLAGS.iter().enumerate();
    let flags = flags.fold(0x202, |flags, (index, (bit, _))| {
        match input.flags >> index & 1 {
            0 => flags,
            _ => flags | bit,
        }
    });
    let mut expected = registers(&input.registers, flags);
    let before = expected;
    let (width, value) = try_store(&code, &mut expected, input.word)?;
    let mask = u64::MAX >> (64 - 8 * width);

    let ended =
        PROCESSOR.with_borrow_mut(|processor| processor.run(&code, &before, target, input.word));
    // What the processor refuses never comes to the hypervisor as a store that faulted.
    let Ended::Stepped { regs: found, word } = ended.expect("a process that is traced") else {
        return None;
    };
    let undefined = FLAGS
        .iter()
        .filter(|(_, flag)| decoded.rflags_undefined() & flag != 0)
        .fold(0, |all, (bit, _)| all | bit);
    let all = FLAGS.iter().fold(0, |all, (bit, _)| all | bit) & !undefined;
    let seen = |regs: &CpuUserRegs| {
        let values = [
            regs.rax, regs.rcx, regs.rdx, regs.rbx, regs.rsp, regs.rbp, regs.rsi, regs.rdi,
            regs.r8, regs.r9, regs.r10, regs.r11, regs.r12, regs.r13, regs.r14, regs.r15, regs.rip,
        ];
        (values, regs.rflags & all)
    };
    assert_eq!(
        seen(&found),
        seen(&expected),
        "registers behind {decoded}: {code:x?}, before: {before:x?}"
    );
    let stored = input.word & !mask | value;
    assert_eq!(
        word, stored,
        "memory behind {decoded}: {code:x?}, before: {before:x?} {:x}",
        input.word
    );
    Some(())
}

fn decode(code: &[u8]) -> Option<Instruction> {
    let decoded = Decoder::with_ip(64, code, CODE, DecoderOptions::NONE).decode();
    let memory = !decoded.is_invalid() && decoded.op0_kind() == OpKind::Memory;
    memory.then_some(decoded)
}

/// Changes registers, or the displacement, so that the memory operand is at `target`.
fn aim(
    registers: &mut [u64; 16],
    code: &mut [u8; 15],
    decoded: &Instruction,
    target: u64,
) -> Option<()> {
    let (base, index) = (decoded.memory_base(), decoded.memory_index());
    if base == index && base != Register::None {
        return None;
    }
    let displacement = |value: u64, code: &mut [u8; 15]| {
        let offsets =
            Decoder::with_ip(64, &*code, CODE, DecoderOptions::NONE).get_constant_offsets(decoded);
        let at = offsets.displacement_offset();
        let place = code.get_mut(at..at + offsets.displacement_size())?;
        let count = place.len();
        place.copy_from_slice(value.to_le_bytes().get(..count)?);
        Some(())
    };
    if decoded.is_ip_rel_memory_operand() {
        return displacement(target.wrapping_sub(decoded.next_ip()), code);
    }
    if base == Register::None {
        if let Some(index) = number(index) {
            registers[index] = 0;
        }
        return displacement(target, code);
    }
    let base = number(base)?;
    registers[base] = 0;
    let rest = address(registers, decoded)?;
    registers[base] = target.wrapping_sub(rest);
    Some(())
}

/// Where the word is that the instruction changes: the bit that a register numbers may be in another one.
fn reached(registers: &mut [u64; 16], decoded: &Instruction, target: u64) -> Option<u64> {
    use iced_x86::Mnemonic::{Btc, Btr, Bts};
    if !matches!(decoded.mnemonic(), Bts | Btr | Btc) || decoded.op1_kind() != OpKind::Register {
        return Some(target);
    }
    let register = decoded.op1_register();
    let full = register.full_register();
    if [decoded.memory_base(), decoded.memory_index()]
        .map(Register::full_register)
        .contains(&full)
    {
        return None;
    }
    let value = &mut registers[number(register)?];
    // The upper bits stay where the operand does not have them.
    let size = register.size() as u64;
    let mask = u64::MAX >> (64 - 8 * size);
    *value &= !mask | FAR;
    Some(target + (*value & FAR) / (8 * size) * size)
}

/// Where the memory operand is.
fn address(registers: &[u64; 16], decoded: &Instruction) -> Option<u64> {
    decoded.virtual_address(0, 0, |register, _, _| {
        match register.is_segment_register() {
            true => Some(0),
            false => {
                let value = registers[number(register)?];
                Some(if register.size() == 4 {
                    value & u64::from(u32::MAX)
                } else {
                    value
                })
            }
        }
    })
}

/// A general register's number.
fn number(register: Register) -> Option<usize> {
    let full = register.full_register();
    full.is_gpr64().then(|| full.number())
}

fn registers(values: &[u64; 16], flags: u64) -> CpuUserRegs {
    let [
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
    ] = *values;
    CpuUserRegs {
        rax,
        rcx,
        rdx,
        rbx,
        rsp,
        rbp,
        rsi,
        rdi,
        r8,
        r9,
        r10,
        r11,
        r12,
        r13,
        r14,
        r15,
        rip: CODE,
        rflags: flags,
        ..CpuUserRegs::new_zeroed()
    }
}
