//! Decoding of the instructions that the hypervisor carries out for its guests.
//!
//! What is not in [`Operation`] is none of the hypervisor's business: the guest gets the exception that the processor
//! raised.

use hv_machine::IoWidth;
use iced_x86::{
    Code, Decoder, DecoderError, DecoderOptions, Instruction as Decoded, Mnemonic, OpKind, Register,
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
    /// An instruction that the guest's processor does not have.
    Undefined,
    /// `sgdt`, `sidt`, `sldt`, `str` or `smsw`, which the hypervisor has made privileged (UMIP).
    StoreSystem(System, Destination),
}

/// A register of the system that user mode once could read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// GDT register.
    Gdt,
    /// IDT register.
    Idt,
    /// LDT selector.
    Ldt,
    /// Task register.
    Task,
    /// Machine status word: the low half of CR0.
    MachineStatus,
}

/// Where a result goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Destination {
    /// A general register, of which this many bytes are written.
    Register(Gpr, u8),
    /// Memory.
    Memory(Address),
}

/// A memory operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Its segment.
    pub segment: Segment,
    /// Base register.
    pub base: Option<Gpr>,
    /// Index register and its scale.
    pub index: Option<(Gpr, u8)>,
    /// Displacement.
    pub displacement: u64,
    /// Whether the address of the instruction itself is to be added.
    pub relative: bool,
    /// Width of the sum.
    pub size: AddressSize,
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
        if let Some(length) = locked_control_move(bytes) {
            return Ok(Instruction {
                length,
                operation: Operation::Undefined,
            });
        }
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

/// Length of a `mov` to or from CR0 with a lock prefix: to processors that no PV guest is told it has this is CR8, so
/// that it raises #GP where the guest expects #UD.
fn locked_control_move(bytes: &[u8]) -> Option<u8> {
    let opcode = bytes.iter().position(|&byte| byte == 0x0f)?;
    let (prefixes, rest) = bytes.split_at(opcode);
    let moves = matches!(rest, [0x0f, 0x20 | 0x22, _, ..]);
    (prefixes.contains(&0xf0) && moves).then_some(opcode as u8 + 3)
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
        _ => {
            let system = match decoded.mnemonic() {
                Mnemonic::Sgdt => System::Gdt,
                Mnemonic::Sidt => System::Idt,
                Mnemonic::Sldt => System::Ldt,
                Mnemonic::Str => System::Task,
                Mnemonic::Smsw => System::MachineStatus,
                _ => return None,
            };
            Operation::StoreSystem(system, destination(decoded)?)
        }
    })
}

fn destination(decoded: &Decoded) -> Option<Destination> {
    match decoded.op0_kind() {
        OpKind::Register => {
            let register = decoded.op0_register();
            let kinds = [(Register::AX, 2), (Register::EAX, 4), (Register::RAX, 8)];
            kinds.into_iter().find_map(|(first, bytes)| {
                Some(Destination::Register(offset(register, first)?, bytes))
            })
        }
        OpKind::Memory => address(decoded).map(Destination::Memory),
        _ => None,
    }
}

fn address(decoded: &Decoded) -> Option<Address> {
    let (base, index) = (decoded.memory_base(), decoded.memory_index());
    let relative = matches!(base, Register::RIP | Register::EIP);
    let within = |register: Register, first| offset(register, first);
    let mut size = None;
    let mut number = |register: Register| {
        if register == Register::None {
            return Some(None);
        }
        let kinds = [
            (Register::AX, AddressSize::Word),
            (Register::EAX, AddressSize::Long),
            (Register::RAX, AddressSize::Quad),
        ];
        let (number, found) = kinds
            .into_iter()
            .find_map(|(first, size)| Some((within(register, first)?, size)))?;
        size = Some(found);
        Some(Some(number))
    };
    let base = if relative { None } else { number(base)? };
    let index = number(index)?;
    let size = size.unwrap_or(match (decoded.memory_displ_size(), relative) {
        (2, _) => AddressSize::Word,
        (8, _) => AddressSize::Quad,
        _ => AddressSize::Long,
    });
    Some(Address {
        segment: memory_segment(decoded),
        base,
        index: index.map(|index| (index, decoded.memory_index_scale() as u8)),
        displacement: decoded.memory_displacement64(),
        relative,
        size,
    })
}

fn memory_segment(decoded: &Decoded) -> Segment {
    match decoded.memory_segment() {
        Register::CS => Segment::Cs,
        Register::ES => Segment::Es,
        Register::FS => Segment::Fs,
        Register::GS => Segment::Gs,
        Register::SS => Segment::Ss,
        _ => Segment::Ds,
    }
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
        _ => memory_segment(decoded),
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
            (&[0xf0, 0x0f, 0x22, 0xc0], Operation::Undefined),
            (&[0xf0, 0x0f, 0x20, 0xc0], Operation::Undefined),
        ];
        for &(bytes, operation) in table {
            let length = bytes.len() as u8;
            assert_eq!(decode64(bytes), Ok(Instruction { length, operation }));
        }
    }

    #[test]
    fn memory_operands_are_taken_apart() {
        let decoded = |bytes: &[u8]| match decode64(bytes).map(|i| i.operation) {
            Ok(Operation::StoreSystem(system, Destination::Memory(address))) => (system, address),
            other => panic!("{other:?}"),
        };
        // sgdt [rsp+0x10]
        let (system, address) = decoded(&[0x0f, 0x01, 0x44, 0x24, 0x10]);
        assert_eq!(system, System::Gdt);
        assert_eq!((address.base, address.index), (Some(4), None));
        assert_eq!(address.displacement, 0x10);
        assert_eq!(address.segment, Segment::Ss);
        // sidt gs:[rax+rbx*4-8]
        let (system, address) = decoded(&[0x65, 0x0f, 0x01, 0x4c, 0x98, 0xf8]);
        assert_eq!(system, System::Idt);
        assert_eq!((address.base, address.index), (Some(0), Some((3, 4))));
        assert_eq!(address.displacement, u64::MAX - 7);
        assert_eq!(address.segment, Segment::Gs);
        // str [rip+0x100]: 7 bytes.
        let (system, address) = decoded(&[0x0f, 0x00, 0x0d, 0, 1, 0, 0]);
        assert_eq!((system, address.relative), (System::Task, true));
        assert_eq!((address.base, address.displacement), (None, 0x107));
        let smsw = decode64(&[0x0f, 0x01, 0xe1]).map(|i| i.operation);
        let expected = Operation::StoreSystem(System::MachineStatus, Destination::Register(1, 4));
        assert_eq!(smsw, Ok(expected));
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
