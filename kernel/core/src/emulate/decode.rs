//! Decoding of the instructions that the hypervisor carries out for its guests.
//!
//! What is not in [`Operation`] is none of the hypervisor's business: the guest gets the exception that the processor
//! raised.

use hv_machine::IoWidth;
use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction as Decoded, OpKind, Register,
};

/// Most bytes that an instruction has.
pub const MAX_LENGTH: usize = 15;

/// Width of code: what the code segment says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodeSize {
    /// 16-bit compatibility mode.
    Bits16,
    /// 32-bit compatibility mode.
    Bits32,
    /// 64-bit mode.
    Bits64,
}

/// An instruction to be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its length.
    pub length: u8,
    /// What it does.
    pub operation: Operation,
}

/// Number of a general register as instructions encode it: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8 to R15.
pub type Gpr = u8;

/// A port number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// In the instruction.
    Immediate(u8),
    /// In DX.
    Dx,
}

/// Width of an address in a string instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressSize {
    /// 16 bits.
    Word,
    /// 32 bits.
    Long,
    /// 64 bits.
    Quad,
}

/// A string of I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringIo {
    /// Width of an element.
    pub width: IoWidth,
    /// Width of index and count registers.
    pub address: AddressSize,
    /// Whether the count register says how many.
    pub repeated: bool,
    /// Where the memory operand is.
    pub segment: Segment,
}

/// A segment register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// CS.
    Cs,
    /// DS.
    Ds,
    /// ES.
    Es,
    /// FS.
    Fs,
    /// GS.
    Gs,
    /// SS.
    Ss,
}

/// How much of a register `smsw` writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StatusWidth {
    /// The low 16 bits; the others stay.
    Word,
    /// 32 bits; the upper half becomes zero.
    Long,
    /// 64 bits.
    Quad,
}

/// What an instruction does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// `in`.
    In(IoWidth, Port),
    /// `out`.
    Out(IoWidth, Port),
    /// `ins`.
    Ins(StringIo),
    /// `outs`.
    Outs(StringIo),
    /// `mov` from a control register.
    ReadControl(u8, Gpr),
    /// `mov` to a control register.
    WriteControl(u8, Gpr),
    /// `smsw` to a register, which faults where the processor guards such instructions (UMIP): of what width.
    ReadMachineStatus(StatusWidth, Gpr),
    /// `mov` from a debug register.
    ReadDebug(u8, Gpr),
    /// `mov` to a debug register.
    WriteDebug(u8, Gpr),
    /// `clts`.
    ClearTaskSwitched,
    /// `wbinvd` or `wbnoinvd`.
    FlushCaches,
    /// `rdmsr`.
    ReadMsr,
    /// `wrmsr`.
    WriteMsr,
    /// `rdtsc`.
    ReadTsc,
    /// `rdtscp`.
    ReadTscAux,
    /// `cpuid`.
    Cpuid,
    /// `xsetbv`.
    SetExtendedControl,
    /// `cli` or `sti`.
    SetInterruptFlag,
}

/// Why there is no instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotDecoded {
    /// The bytes end within it.
    TooShort,
    /// It is not one of those that the hypervisor carries out.
    Other,
}

/// The instruction that begins `bytes`.
///
/// # Errors
/// See [`NotDecoded`].
pub fn decode(bytes: &[u8], size: CodeSize) -> Result<Instruction, NotDecoded> {
    let bitness = match size {
        CodeSize::Bits16 => 16,
        CodeSize::Bits32 => 32,
        CodeSize::Bits64 => 64,
    };
    let bytes = bytes.get(..MAX_LENGTH).unwrap_or(bytes);
    let mut decoder = Decoder::new(bitness, bytes, DecoderOptions::NONE);
    let mut decoded = Decoded::default();
    decoder.decode_out(&mut decoded);
    if decoded.is_invalid() {
        let short = decoder.last_error() == DecoderError::NoMoreBytes && bytes.len() < MAX_LENGTH;
        return Err(if short {
            NotDecoded::TooShort
        } else {
            NotDecoded::Other
        });
    }
    let operation = operation(&decoded).ok_or(NotDecoded::Other)?;
    Ok(Instruction {
        length: decoded.len() as u8,
        operation,
    })
}

fn operation(decoded: &Decoded) -> Option<Operation> {
    use IoWidth::{Byte, Long, Word};
    let immediate = || Port::Immediate(decoded.immediate8());
    Some(match decoded.code() {
        Code::In_AL_imm8 => Operation::In(Byte, immediate()),
        Code::In_AX_imm8 => Operation::In(Word, immediate()),
        Code::In_EAX_imm8 => Operation::In(Long, immediate()),
        Code::In_AL_DX => Operation::In(Byte, Port::Dx),
        Code::In_AX_DX => Operation::In(Word, Port::Dx),
        Code::In_EAX_DX => Operation::In(Long, Port::Dx),
        Code::Out_imm8_AL => Operation::Out(Byte, immediate()),
        Code::Out_imm8_AX => Operation::Out(Word, immediate()),
        Code::Out_imm8_EAX => Operation::Out(Long, immediate()),
        Code::Out_DX_AL => Operation::Out(Byte, Port::Dx),
        Code::Out_DX_AX => Operation::Out(Word, Port::Dx),
        Code::Out_DX_EAX => Operation::Out(Long, Port::Dx),
        Code::Insb_m8_DX => Operation::Ins(string(decoded, Byte, 0)?),
        Code::Insw_m16_DX => Operation::Ins(string(decoded, Word, 0)?),
        Code::Insd_m32_DX => Operation::Ins(string(decoded, Long, 0)?),
        Code::Outsb_DX_m8 => Operation::Outs(string(decoded, Byte, 1)?),
        Code::Outsw_DX_m16 => Operation::Outs(string(decoded, Word, 1)?),
        Code::Outsd_DX_m32 => Operation::Outs(string(decoded, Long, 1)?),
        Code::Mov_r32_cr | Code::Mov_r64_cr => Operation::ReadControl(
            offset(decoded.op1_register(), Register::CR0)?,
            gpr(decoded.op0_register())?,
        ),
        Code::Mov_cr_r32 | Code::Mov_cr_r64 => Operation::WriteControl(
            offset(decoded.op0_register(), Register::CR0)?,
            gpr(decoded.op1_register())?,
        ),
        code @ (Code::Smsw_rm16 | Code::Smsw_r32m16 | Code::Smsw_r64m16)
            if decoded.op0_kind() == OpKind::Register =>
        {
            let register = decoded.op0_register();
            match code {
                Code::Smsw_rm16 => {
                    Operation::ReadMachineStatus(StatusWidth::Word, offset(register, Register::AX)?)
                }
                Code::Smsw_r32m16 => {
                    Operation::ReadMachineStatus(StatusWidth::Long, gpr(register)?)
                }
                _ => Operation::ReadMachineStatus(StatusWidth::Quad, gpr(register)?),
            }
        }
        Code::Mov_r32_dr | Code::Mov_r64_dr => Operation::ReadDebug(
            offset(decoded.op1_register(), Register::DR0)?,
            gpr(decoded.op0_register())?,
        ),
        Code::Mov_dr_r32 | Code::Mov_dr_r64 => Operation::WriteDebug(
            offset(decoded.op0_register(), Register::DR0)?,
            gpr(decoded.op1_register())?,
        ),
        Code::Clts => Operation::ClearTaskSwitched,
        Code::Wbinvd | Code::Wbnoinvd => Operation::FlushCaches,
        Code::Rdmsr => Operation::ReadMsr,
        Code::Wrmsr => Operation::WriteMsr,
        Code::Rdtsc => Operation::ReadTsc,
        Code::Rdtscp => Operation::ReadTscAux,
        Code::Cpuid => Operation::Cpuid,
        Code::Xsetbv => Operation::SetExtendedControl,
        Code::Cli | Code::Sti => Operation::SetInterruptFlag,
        _ => return None,
    })
}

fn string(decoded: &Decoded, width: IoWidth, memory: u32) -> Option<StringIo> {
    let kind = decoded.op_kind(memory);
    let address = match kind {
        OpKind::MemoryESDI | OpKind::MemorySegSI => AddressSize::Word,
        OpKind::MemoryESEDI | OpKind::MemorySegESI => AddressSize::Long,
        OpKind::MemoryESRDI | OpKind::MemorySegRSI => AddressSize::Quad,
        _ => return None,
    };
    let segment = match kind {
        OpKind::MemoryESDI | OpKind::MemoryESEDI | OpKind::MemoryESRDI => Segment::Es,
        _ => match decoded.memory_segment() {
            Register::CS => Segment::Cs,
            Register::ES => Segment::Es,
            Register::FS => Segment::Fs,
            Register::GS => Segment::Gs,
            Register::SS => Segment::Ss,
            _ => Segment::Ds,
        },
    };
    Some(StringIo {
        width,
        address,
        repeated: decoded.has_rep_prefix() || decoded.has_repne_prefix(),
        segment,
    })
}

/// Number of a general register.
fn gpr(register: Register) -> Option<Gpr> {
    offset(register, Register::EAX).or_else(|| offset(register, Register::RAX))
}

/// Number of a register among the 16 of its kind, of which `first` is the first.
fn offset(register: Register, first: Register) -> Option<u8> {
    let number = (register as usize).checked_sub(first as usize)?;
    u8::try_from(number).ok().filter(|&number| number < 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn decode64(bytes: &[u8]) -> Result<Instruction, NotDecoded> {
        decode(bytes, CodeSize::Bits64)
    }

    #[test]
    fn each_operation_is_known_by_its_bytes() {
        use IoWidth::{Byte, Long, Word};
        let table: &[(&[u8], Operation)] = &[
            (&[0xe4, 0x70], Operation::In(Byte, Port::Immediate(0x70))),
            (&[0x66, 0xed], Operation::In(Word, Port::Dx)),
            (&[0xed], Operation::In(Long, Port::Dx)),
            (&[0x48, 0xef], Operation::Out(Long, Port::Dx)),
            (&[0xe6, 0x80], Operation::Out(Byte, Port::Immediate(0x80))),
            (&[0x0f, 0x20, 0xd0], Operation::ReadControl(2, 0)),
            (&[0x41, 0x0f, 0x22, 0xe7], Operation::WriteControl(4, 15)),
            (&[0x0f, 0x21, 0xfb], Operation::ReadDebug(7, 3)),
            (&[0x0f, 0x23, 0xc4], Operation::WriteDebug(0, 4)),
            (&[0x0f, 0x06], Operation::ClearTaskSwitched),
            (&[0x0f, 0x09], Operation::FlushCaches),
            (&[0xf3, 0x0f, 0x09], Operation::FlushCaches),
            (&[0x0f, 0x30], Operation::WriteMsr),
            (&[0x0f, 0x31], Operation::ReadTsc),
            (&[0x0f, 0x32], Operation::ReadMsr),
            (&[0x0f, 0xa2], Operation::Cpuid),
            (&[0x0f, 0x01, 0xd1], Operation::SetExtendedControl),
            (&[0x0f, 0x01, 0xf9], Operation::ReadTscAux),
            (&[0xfa], Operation::SetInterruptFlag),
            (&[0xfb], Operation::SetInterruptFlag),
        ];
        for &(bytes, operation) in table {
            let length = bytes.len() as u8;
            assert_eq!(decode64(bytes), Ok(Instruction { length, operation }));
        }
    }

    #[test]
    fn string_instructions_keep_prefixes_and_segments() {
        let ins = StringIo {
            width: IoWidth::Word,
            address: AddressSize::Quad,
            repeated: true,
            segment: Segment::Es,
        };
        let decoded = decode64(&[0xf3, 0x66, 0x6d]).map(|i| i.operation);
        assert_eq!(decoded, Ok(Operation::Ins(ins)));
        let outs = StringIo {
            width: IoWidth::Byte,
            address: AddressSize::Long,
            repeated: false,
            segment: Segment::Gs,
        };
        let decoded = decode64(&[0x65, 0x67, 0x6e]).map(|i| i.operation);
        assert_eq!(decoded, Ok(Operation::Outs(outs)));
        let plain = StringIo {
            width: IoWidth::Long,
            address: AddressSize::Long,
            repeated: false,
            segment: Segment::Es,
        };
        let decoded = decode(&[0x6d], CodeSize::Bits32).map(|i| i.operation);
        assert_eq!(decoded, Ok(Operation::Ins(plain)));
    }

    #[test]
    fn other_instructions_are_left_to_the_guest() {
        let hlt: &[u8] = &[0xf4];
        let invd = &[0x0f, 0x08];
        let invlpg = &[0x0f, 0x01, 0x38];
        let swapgs = &[0x0f, 0x01, 0xf8];
        let rdpmc = &[0x0f, 0x33];
        let lmsw = &[0x0f, 0x01, 0xf0];
        let iretq = &[0x48, 0xcf];
        let mov = &[0x48, 0x89, 0xc8];
        for bytes in [hlt, invd, invlpg, swapgs, rdpmc, lmsw, iretq, mov] {
            assert_eq!(decode64(bytes), Err(NotDecoded::Other), "{bytes:x?}");
        }
    }

    #[test]
    fn an_instruction_whose_end_is_missing_is_too_short() {
        assert_eq!(decode64(&[]), Err(NotDecoded::TooShort));
        assert_eq!(decode64(&[0x0f]), Err(NotDecoded::TooShort));
        assert_eq!(decode64(&[0xe4]), Err(NotDecoded::TooShort));
        // 15 prefixes are no instruction, however much follows.
        assert_eq!(decode64(&[0x66; 15]), Err(NotDecoded::Other));
        assert_eq!(decode64(&[0x66; 40]), Err(NotDecoded::Other));
    }

    proptest! {
        #[test]
        fn whatever_bytes_come_the_decoder_gives_an_answer(
            bytes in prop::collection::vec(any::<u8>(), 0..20),
            size in prop::sample::select(vec![CodeSize::Bits16, CodeSize::Bits32, CodeSize::Bits64]),
        ) {
            if let Ok(instruction) = decode(&bytes, size) {
                prop_assert!(usize::from(instruction.length) <= bytes.len().min(MAX_LENGTH));
            }
        }
    }
}
