//! `sgdt`, `sidt`, `sldt`, `str` and `smsw`.
//!
//! Where the processor has UMIP the hypervisor has made them fault, because they tell where its tables are. Programs
//! use them all the same, and are told what holds on every machine: tables where no program can look, an LDT selector
//! and a task selector that are not null where the processor's would not be.

use hv_machine::Platform;

use super::decode::{Address, CodeSize, Destination, System};
use super::string::{data_segment, fault, truncate};
use super::{Outcome, gpr, read_control, set_gpr};
use crate::Current;
use crate::traps::error_code::WRITE;

/// Where the GDT seems to be.
const GDT_BASE: u64 = 0xffff_ffff_fffe_0000;
/// Where the IDT seems to be.
const IDT_BASE: u64 = 0xffff_ffff_ffff_0000;
/// A task selector.
const TASK: u64 = 0x40;
/// An LDT selector, of a vCPU that has an LDT.
const LDT: u64 = 0x50;

/// Stores what a program sees of a system register.
pub(super) fn store(
    cx: &mut Current<'_>,
    what: System,
    to: &Destination,
    size: CodeSize,
) -> Outcome {
    let value = match what {
        System::Gdt => GDT_BASE,
        System::Idt => IDT_BASE,
        System::Ldt if cx.state.ldt_entries == 0 => 0,
        System::Ldt => LDT,
        System::Task => TASK,
        System::MachineStatus => read_control(cx, 0).unwrap_or(0),
    };
    match *to {
        Destination::Register(number, bytes) => {
            let regs = &mut cx.state.context.regs;
            let value = match bytes {
                2 => gpr(regs, number) & !0xffff | value & 0xffff,
                4 => value & 0xffff_ffff,
                _ => value,
            };
            set_gpr(regs, number, value);
            Outcome::Done
        }
        Destination::Memory(address) => {
            let is_table = matches!(what, System::Gdt | System::Idt);
            let mut image = [0; 10];
            // A table register is stored as its limit, here 0, and its base.
            let (offset, bytes) = match (is_table, size) {
                (true, CodeSize::Bits64) => (2, 10),
                (true, _) => (2, 6),
                (false, _) => (0, 2),
            };
            for (slot, byte) in image.iter_mut().skip(offset).zip(value.to_le_bytes()) {
                *slot = byte;
            }
            let image = image.get(..bytes).unwrap_or(&[]);
            write(cx, &address, size, image)
        }
    }
}

fn write(cx: &mut Current<'_>, address: &Address, size: CodeSize, image: &[u8]) -> Outcome {
    let data = match data_segment(cx, address.segment, size, true) {
        Ok(data) => data,
        Err(outcome) => return outcome,
    };
    let regs = &cx.state.context.regs;
    let mut offset = address.displacement;
    if address.relative {
        offset = offset.wrapping_add(regs.rip);
    }
    if let Some(base) = address.base {
        offset = offset.wrapping_add(gpr(regs, base));
    }
    if let Some((index, scale)) = address.index {
        offset = offset.wrapping_add(gpr(regs, index).wrapping_mul(scale.into()));
    }
    let at = match data.linear(truncate(offset, address.size), image.len() as u64) {
        Ok(at) => at,
        Err(outcome) => return outcome,
    };
    if cx.machine().copy_to_guest(at, image).is_err() {
        return fault(cx, at, image.len(), WRITE);
    }
    Outcome::Done
}
