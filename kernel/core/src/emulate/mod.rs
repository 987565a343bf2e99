//! Privileged instructions that the hypervisor carries out for its guests.
//!
//! A guest's kernel is in ring 3, where they fault. #GP brings the instructions of [`decode`] here; all others, and
//! those that the guest's program has no right to, go back to the guest as the exception that they are. CPUID does
//! not fault; a kernel that wants the hypervisor's answer puts a prefix before it that raises #UD
//! (`XEN_EMULATE_PREFIX`).
//!
//! The bytes of an instruction are copied in once. Another vCPU may change them at any time, so that what is carried
//! out is what was decoded, and is permitted to the guest whatever the processor saw.

pub mod decode;
mod page_table;
mod ports;
mod store;
mod string;
mod system;
pub mod unhook;

pub use page_table::store_to_page_table;
#[cfg(fuzzing)]
pub use store::try_store;

use hv_machine::{IoWidth, Platform};
use hypercall_abi::arch_x86::{CpuUserRegs, XEN_EMULATE_PREFIX};
use hypercall_abi::errno::Errno;

use crate::cpuid::{self, Asked};
use crate::descriptor::bits;
use crate::traps::{self, dr6, flags, vector};
use crate::{Current, debugreg, descriptor, hypercall, iret, msr, trace};

use decode::{CodeSize, Instruction, MAX_LENGTH, NotDecoded, Operation, Port};

/// CR0.TS.
const CR0_TS: u64 = 1 << 3;
/// CR4.TSD: no TSC for user mode.
const CR4_TSD: u64 = 1 << 2;
/// CR4.OSXSAVE.
const CR4_OSXSAVE: u64 = 1 << 18;
/// `cpuid`.
const CPUID: [u8; 2] = [0x0f, 0xa2];

/// How an instruction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// Carried out.
    Done,
    /// A string instruction that has more to do: it is to be executed again.
    Unfinished,
    /// Neither done nor to be done: the guest gets the exception that brought it here.
    Refused,
    /// The guest gets this exception.
    Exception(u8, Option<u32>),
    /// The guest gets a page fault: address and error code.
    PageFault(u64, u32),
    /// An operation took too long: it is to be executed again.
    Again,
}

impl Outcome {
    const INVALID_OPCODE: Self = Self::Exception(vector::INVALID_OPCODE, None);
}

/// #UD: carries out `cpuid` behind its prefix; `false` where it is not that, and the #UD is the guest's.
#[must_use]
pub fn forced_emulation(cx: &mut Current<'_>) -> bool {
    const LENGTH: usize = XEN_EMULATE_PREFIX.len() + CPUID.len();
    let rip = cx.state.context.regs.rip;
    let mut code = [0; LENGTH];
    let read = fetch(cx, rip, &mut code);
    let code = code.get(..read).unwrap_or(&[]);
    let prefix = code.len().min(XEN_EMULATE_PREFIX.len());
    if code.get(..prefix) != XEN_EMULATE_PREFIX.get(..prefix) {
        return false;
    }
    let instruction = code.get(prefix..).unwrap_or(&[]);
    if CPUID.get(..instruction.len()) != Some(instruction) {
        return false;
    }
    if read < LENGTH {
        traps::inject_page_fault(cx, rip.wrapping_add(read as u64), 0);
        return true;
    }
    cpuid_for_guest(cx, Asked::Explicitly);
    finish(cx, CodeSize::Bits64, LENGTH as u64, 0);
    true
}

/// #GP: carries out the instruction at RIP; `false` where the #GP is the guest's.
#[must_use]
pub fn privileged_instruction(cx: &mut Current<'_>) -> bool {
    let Some(code) = code_segment(cx) else {
        return false;
    };
    let rip = cx.state.context.regs.rip;
    let at = code.linear(rip);
    let mut bytes = [0; MAX_LENGTH];
    // An instruction that runs over the segment's limit raised its #GP for that.
    let within = usize::try_from(code.limit.saturating_sub(rip)).unwrap_or(usize::MAX);
    let wanted = MAX_LENGTH.min(within.saturating_add(1));
    if rip > code.limit {
        return false;
    }
    let read = fetch(cx, at, bytes.get_mut(..wanted).unwrap_or(&mut []));
    let instruction = match decode::decode(bytes.get(..read).unwrap_or(&[]), code.size) {
        Ok(instruction) => instruction,
        Err(NotDecoded::TooShort) if read < wanted => {
            traps::inject_page_fault(cx, at.wrapping_add(read as u64), 0);
            return true;
        }
        Err(_) => return false,
    };
    let mut hit = 0;
    if cx.hv.tracer.is_on() {
        trace::emulated(cx);
    }
    let outcome = execute(cx, &instruction, code.size, &mut hit);
    let advance = match outcome {
        Outcome::Done => u64::from(instruction.length),
        Outcome::Unfinished => 0,
        Outcome::Again => return true,
        Outcome::Refused => return false,
        Outcome::Exception(vector, error_code) => {
            traps::inject(cx, vector, error_code);
            return true;
        }
        Outcome::PageFault(address, error_code) => {
            traps::inject_page_fault(cx, address, error_code);
            return true;
        }
    };
    finish(cx, code.size, advance, hit);
    true
}

/// Goes on `advance` bytes further; debug exceptions of the instruction are due now: breakpoints that it hit, and a
/// single step.
fn finish(cx: &mut Current<'_>, size: CodeSize, advance: u64, mut hit: u64) {
    let regs = &mut cx.state.context.regs;
    regs.rip = match size {
        CodeSize::Bits64 => regs.rip.wrapping_add(advance),
        _ => u64::from((regs.rip as u32).wrapping_add(advance as u32)),
    };
    regs.rflags &= !flags::RF;
    if regs.rflags & flags::TF != 0 {
        hit |= dr6::STEP;
    }
    if hit != 0 {
        cx.state.debug[6] |= hit | dr6::RESTING;
        traps::inject(cx, vector::DEBUG, None);
    }
}

/// A code segment.
struct Code {
    size: CodeSize,
    base: u64,
    limit: u64,
}

impl Code {
    fn linear(&self, offset: u64) -> u64 {
        match self.size {
            CodeSize::Bits64 => offset,
            _ => u64::from((self.base as u32).wrapping_add(offset as u32)),
        }
    }
}

/// The code segment that the vCPU runs in.
fn code_segment(cx: &mut Current<'_>) -> Option<Code> {
    let selector = cx.state.context.regs.cs;
    let descriptor = descriptor::read(cx, selector)?;
    let code = bits::PRESENT | bits::SEGMENT | bits::CODE;
    if descriptor & code != code {
        return None;
    }
    if descriptor & bits::LONG != 0 {
        return Some(Code {
            size: CodeSize::Bits64,
            base: 0,
            limit: u64::MAX,
        });
    }
    let size = if descriptor & bits::BIG != 0 {
        CodeSize::Bits32
    } else {
        CodeSize::Bits16
    };
    let (base, limit) = string::base_and_limit(descriptor);
    Some(Code { size, base, limit })
}

/// Copies code from the guest as far as it can be read; the number of bytes.
fn fetch(cx: &Current<'_>, at: u64, out: &mut [u8]) -> usize {
    let machine = cx.machine();
    if machine.copy_from_guest(at, out).is_ok() {
        return out.len();
    }
    let in_page = (4096 - (at & 0xfff)) as usize;
    let first = out.get_mut(..in_page).unwrap_or(&mut []);
    if machine.copy_from_guest(at, first).is_ok() {
        first.len()
    } else {
        0
    }
}

fn execute(
    cx: &mut Current<'_>,
    instruction: &Instruction,
    size: CodeSize,
    hit: &mut u64,
) -> Outcome {
    match instruction.operation {
        Operation::In(width, port) => {
            let port = port_number(&cx.state.context.regs, port);
            if !ports::guest_allows(cx, port, width) {
                return Outcome::Refused;
            }
            *hit = debugreg::io_breakpoints_hit(cx.state, port, width.bytes());
            let value = u64::from(ports::read(cx, port, width));
            let rax = &mut cx.state.context.regs.rax;
            *rax = match width {
                IoWidth::Byte => *rax & !0xff | value & 0xff,
                IoWidth::Word => *rax & !0xffff | value & 0xffff,
                IoWidth::Long => value,
            };
            Outcome::Done
        }
        Operation::Out(width, port) => {
            let port = port_number(&cx.state.context.regs, port);
            if !ports::guest_allows(cx, port, width) {
                return Outcome::Refused;
            }
            *hit = debugreg::io_breakpoints_hit(cx.state, port, width.bytes());
            ports::write(cx, port, width, cx.state.context.regs.rax as u32);
            Outcome::Done
        }
        Operation::Ins(string) => string::input(cx, &string, size, hit),
        Operation::Outs(string) => string::output(cx, &string, size, hit),
        Operation::SetInterruptFlag if ports::iopl_allows(cx) => {
            // The guest's interrupt flag is its event mask, which it sets itself. To carry this out and not `popf`,
            // which does not fault, would leave events masked for good.
            Outcome::Done
        }
        Operation::Cpuid => {
            cpuid_for_guest(cx, Asked::ByInstruction);
            Outcome::Done
        }
        Operation::ReadTsc | Operation::ReadTscAux => {
            read_tsc(cx, instruction.operation == Operation::ReadTscAux)
        }
        Operation::Undefined => Outcome::INVALID_OPCODE,
        Operation::StoreSystem(what, to) => system::store(cx, what, &to, size),
        privileged if cx.state.kernel_mode => execute_privileged(cx, privileged, size),
        _ => Outcome::Refused,
    }
}

/// What only a kernel may do.
fn execute_privileged(cx: &mut Current<'_>, operation: Operation, size: CodeSize) -> Outcome {
    let narrow = |value: u64| match size {
        CodeSize::Bits64 => value,
        _ => value & u64::from(u32::MAX),
    };
    match operation {
        Operation::ReadControl(register, to) => {
            let Some(value) = read_control(cx, register) else {
                return Outcome::Refused;
            };
            set_gpr(&mut cx.state.context.regs, to, narrow(value));
            Outcome::Done
        }
        Operation::WriteControl(register, from) => {
            let value = narrow(gpr(&cx.state.context.regs, from));
            write_control(cx, register, value)
        }
        Operation::ReadDebug(register, to) => match debugreg::read(cx.state, register.into()) {
            Ok(value) => {
                set_gpr(&mut cx.state.context.regs, to, narrow(value));
                Outcome::Done
            }
            Err(_) => Outcome::INVALID_OPCODE,
        },
        Operation::WriteDebug(register, from) => {
            let value = narrow(gpr(&cx.state.context.regs, from));
            match debugreg::write(cx, register.into(), value) {
                Ok(()) => Outcome::Done,
                Err(Errno::ENODEV) => Outcome::INVALID_OPCODE,
                Err(_) => Outcome::Refused,
            }
        }
        Operation::ClearTaskSwitched => {
            iret::set_task_switched(cx, false);
            Outcome::Done
        }
        Operation::FlushCaches => {
            // A domain without devices has no use for it; kernels do it all the same as they start.
            if cx.domain.may_flush_caches() {
                cx.machine().flush_caches();
            }
            Outcome::Done
        }
        Operation::ReadMsr => {
            let number = cx.state.context.regs.rcx as u32;
            match msr::read(cx, number) {
                Some(value) => {
                    let regs = &mut cx.state.context.regs;
                    (regs.rax, regs.rdx) = (value & u64::from(u32::MAX), value >> 32);
                    Outcome::Done
                }
                None => Outcome::Refused,
            }
        }
        Operation::WriteMsr => {
            let regs = &cx.state.context.regs;
            let number = regs.rcx as u32;
            let value = regs.rdx << 32 | regs.rax & u64::from(u32::MAX);
            match msr::write(cx, number, value) {
                true => Outcome::Done,
                false => Outcome::Refused,
            }
        }
        Operation::SetExtendedControl => set_extended_control(cx),
        _ => Outcome::Refused,
    }
}

fn read_control(cx: &Current<'_>, register: u8) -> Option<u64> {
    match register {
        0 => {
            let (cr0, _) = cx.machine().control_registers();
            let task_switched = if cx.state.task_switched { CR0_TS } else { 0 };
            Some(cr0 & !CR0_TS | task_switched)
        }
        2 => Some(cx.state.cr2),
        3 => Some(cx.state.kernel_root.map_or(0, |mfn| mfn.0 << 12)),
        4 => Some(cx.state.cr4),
        _ => None,
    }
}

fn write_control(cx: &mut Current<'_>, register: u8, value: u64) -> Outcome {
    match register {
        0 => {
            let (cr0, _) = cx.machine().control_registers();
            if (value ^ cr0) & !CR0_TS != 0 {
                return Outcome::Refused;
            }
            iret::set_task_switched(cx, value & CR0_TS != 0);
            Outcome::Done
        }
        2 => {
            traps::set_cr2(cx, value);
            Outcome::Done
        }
        3 => {
            hypercall::start_clock(cx);
            match crate::mmu::write_cr3(cx, value) {
                Ok(()) => Outcome::Done,
                Err(Errno::ERESTART) => Outcome::Again,
                Err(_) => Outcome::Refused,
            }
        }
        4 => {
            cx.state.cr4 = cpuid::guest_cr4(cx.hv, cx.domain, value);
            cx.machine().set_control_bits(cx.state.cr4);
            Outcome::Done
        }
        _ => Outcome::Refused,
    }
}

fn read_tsc(cx: &mut Current<'_>, with_aux: bool) -> Outcome {
    if !cx.state.kernel_mode && cx.state.cr4 & CR4_TSD != 0 {
        return Outcome::Refused;
    }
    if with_aux && !cpuid::has_tsc_aux(cx) {
        return Outcome::INVALID_OPCODE;
    }
    let tsc = cx.machine().tsc();
    let aux = cx.state.tsc_aux;
    let regs = &mut cx.state.context.regs;
    (regs.rax, regs.rdx) = (tsc & u64::from(u32::MAX), tsc >> 32);
    if with_aux {
        regs.rcx = aux.into();
    }
    Outcome::Done
}

fn set_extended_control(cx: &mut Current<'_>) -> Outcome {
    if cx.state.cr4 & CR4_OSXSAVE == 0 {
        return Outcome::INVALID_OPCODE;
    }
    let regs = &cx.state.context.regs;
    let register = regs.rcx as u32;
    let value = regs.rdx << 32 | regs.rax & u64::from(u32::MAX);
    if register != 0 || !cpuid::is_valid_xcr0(cx, value) {
        return Outcome::Refused;
    }
    cx.state.fpu.enable(value);
    cx.machine().set_extended_control(value);
    Outcome::Done
}

fn cpuid_for_guest(cx: &mut Current<'_>, asked: Asked) {
    let regs = &cx.state.context.regs;
    let (leaf, subleaf) = (regs.rax as u32, regs.rcx as u32);
    let [eax, ebx, ecx, edx] = cpuid::for_current(cx, leaf, subleaf, asked).map(u64::from);
    let regs = &mut cx.state.context.regs;
    (regs.rax, regs.rbx, regs.rcx, regs.rdx) = (eax, ebx, ecx, edx);
}

fn port_number(regs: &CpuUserRegs, port: Port) -> u16 {
    match port {
        Port::Immediate(number) => number.into(),
        Port::Dx => regs.rdx as u16,
    }
}

fn gpr(regs: &CpuUserRegs, number: decode::Gpr) -> u64 {
    match number {
        0 => regs.rax,
        1 => regs.rcx,
        2 => regs.rdx,
        3 => regs.rbx,
        4 => regs.rsp,
        5 => regs.rbp,
        6 => regs.rsi,
        7 => regs.rdi,
        8 => regs.r8,
        9 => regs.r9,
        10 => regs.r10,
        11 => regs.r11,
        12 => regs.r12,
        13 => regs.r13,
        14 => regs.r14,
        _ => regs.r15,
    }
}

fn set_gpr(regs: &mut CpuUserRegs, number: decode::Gpr, value: u64) {
    let slot = match number {
        0 => &mut regs.rax,
        1 => &mut regs.rcx,
        2 => &mut regs.rdx,
        3 => &mut regs.rbx,
        4 => &mut regs.rsp,
        5 => &mut regs.rbp,
        6 => &mut regs.rsi,
        7 => &mut regs.rdi,
        8 => &mut regs.r8,
        9 => &mut regs.r9,
        10 => &mut regs.r10,
        11 => &mut regs.r11,
        12 => &mut regs.r12,
        13 => &mut regs.r13,
        14 => &mut regs.r14,
        _ => &mut regs.r15,
    };
    *slot = value;
}

#[cfg(test)]
mod tests;
