//! `ins` and `outs`: I/O between a port and memory, with segments, repetition and page faults.

use hv_machine::Platform;
use zerocopy::IntoBytes;

use super::decode::{AddressSize, CodeSize, Segment, StringIo};
use super::{Outcome, ports};
use crate::descriptor::bits;
use crate::traps::{error_code, flags, vector};
use crate::{Current, debugreg, descriptor};

/// Elements that one trap moves at most, so that an interrupt waits no longer than that.
const BATCH: u64 = 256;

/// A data segment as an access needs it.
pub(super) struct Data {
    base: u64,
    /// Greatest offset; none in 64-bit mode.
    limit: Option<u64>,
    /// The exception that a bad address raises.
    vector: u8,
}

impl Data {
    /// The linear address of `bytes` bytes at `offset`.
    pub(super) fn linear(&self, offset: u64, bytes: u64) -> Result<u64, Outcome> {
        let at = self.base.wrapping_add(offset);
        let bad = Outcome::Exception(self.vector, Some(0));
        match self.limit {
            Some(limit) if limit < bytes - 1 || offset > limit - (bytes - 1) => Err(bad),
            Some(_) => Ok(at & u64::from(u32::MAX)),
            None if hv_machine::is_guest_range(at, 1) => Ok(at),
            None => Err(bad),
        }
    }
}

/// Base and greatest offset of a segment outside 64-bit mode.
pub(super) fn base_and_limit(descriptor: u64) -> (u64, u64) {
    let base = descriptor >> 16 & 0xff_ffff | descriptor >> 32 & 0xff00_0000;
    let limit = descriptor & 0xffff | descriptor >> 32 & 0xf_0000;
    if descriptor & bits::PAGES != 0 {
        (base, limit << 12 | 0xfff)
    } else {
        (base, limit)
    }
}

/// `ins`.
pub(super) fn input(
    cx: &mut Current<'_>,
    string: &StringIo,
    size: CodeSize,
    hit: &mut u64,
) -> Outcome {
    transfer(cx, string, size, hit, true)
}

/// `outs`.
pub(super) fn output(
    cx: &mut Current<'_>,
    string: &StringIo,
    size: CodeSize,
    hit: &mut u64,
) -> Outcome {
    transfer(cx, string, size, hit, false)
}

fn transfer(
    cx: &mut Current<'_>,
    string: &StringIo,
    size: CodeSize,
    hit: &mut u64,
    input: bool,
) -> Outcome {
    let port = cx.state.context.regs.rdx as u16;
    let mut left = if string.repeated {
        truncate(cx.state.context.regs.rcx, string.address)
    } else {
        1
    };
    if left == 0 {
        return Outcome::Done;
    }
    if !ports::guest_allows(cx, port, string.width) {
        return Outcome::Refused;
    }
    let data = match data_segment(cx, string.segment, size, input) {
        Ok(data) => data,
        Err(outcome) => return outcome,
    };
    *hit = debugreg::io_breakpoints_hit(cx.state, port, string.width.bytes());
    let bytes = u64::from(string.width.bytes());
    for _ in 0..BATCH {
        let index = index_register(cx, input);
        let offset = truncate(*index, string.address);
        let at = match data.linear(offset, bytes) {
            Ok(at) => at,
            Err(outcome) => return outcome,
        };
        if let Err(outcome) = element(cx, string, port, at, input) {
            return outcome;
        }
        let next = if cx.state.context.regs.rflags & flags::DF != 0 {
            offset.wrapping_sub(bytes)
        } else {
            offset.wrapping_add(bytes)
        };
        let index = index_register(cx, input);
        *index = merge(*index, next, string.address);
        left -= 1;
        if string.repeated {
            let count = &mut cx.state.context.regs.rcx;
            *count = merge(*count, left, string.address);
        }
        if left == 0 {
            return Outcome::Done;
        }
        if *hit != 0 {
            break;
        }
    }
    Outcome::Unfinished
}

/// Moves one element.
fn element(
    cx: &Current<'_>,
    string: &StringIo,
    port: u16,
    at: u64,
    input: bool,
) -> Result<(), Outcome> {
    let bytes = string.width.bytes() as usize;
    let mut value = [0_u8; 4];
    let buffer = value.get_mut(..bytes).unwrap_or(&mut []);
    if input {
        let read = ports::read(cx, port, string.width);
        buffer.copy_from_slice(read.as_bytes().get(..bytes).unwrap_or(&[]));
        if cx.machine().copy_to_guest(at, buffer).is_err() {
            return Err(fault(cx, at, bytes, error_code::WRITE));
        }
    } else {
        if cx.machine().copy_from_guest(at, buffer).is_err() {
            return Err(fault(cx, at, bytes, 0));
        }
        ports::write(cx, port, string.width, u32::from_le_bytes(value));
    }
    Ok(())
}

/// The page fault of an operand, at its first byte that cannot be reached.
pub(super) fn fault(cx: &Current<'_>, at: u64, bytes: usize, error_code: u32) -> Outcome {
    let next_page = (at | 0xfff).wrapping_add(1);
    let crosses = next_page.wrapping_sub(at) < bytes as u64;
    let mut byte = [0];
    let first_is_there = crosses && cx.machine().copy_from_guest(at, &mut byte).is_ok();
    let address = if first_is_there { next_page } else { at };
    Outcome::PageFault(address, error_code)
}

pub(super) fn data_segment(
    cx: &mut Current<'_>,
    segment: Segment,
    size: CodeSize,
    write: bool,
) -> Result<Data, Outcome> {
    let vector = match segment {
        Segment::Ss => vector::STACK,
        _ => vector::GENERAL_PROTECTION,
    };
    let segments = cx.machine().store_segments();
    if size == CodeSize::Bits64 {
        let base = match segment {
            Segment::Fs => segments.fs_base,
            Segment::Gs => segments.gs_base,
            _ => 0,
        };
        return Ok(Data {
            base,
            limit: None,
            vector,
        });
    }
    let selector = match segment {
        Segment::Cs => cx.state.context.regs.cs,
        Segment::Ss => cx.state.context.regs.ss,
        Segment::Ds => segments.ds,
        Segment::Es => segments.es,
        Segment::Fs => segments.fs,
        Segment::Gs => segments.gs,
    };
    let descriptor = descriptor::read(cx, selector).ok_or(Outcome::Refused)?;
    if descriptor & bits::PRESENT == 0 {
        return Err(Outcome::Refused);
    }
    let code = descriptor & bits::CODE != 0;
    let permitted = descriptor & bits::SEGMENT != 0
        && if write {
            !code && descriptor & bits::READ_WRITE != 0
        } else {
            !code || descriptor & bits::READ_WRITE != 0
        };
    if !permitted {
        return Err(Outcome::Exception(vector, Some(0)));
    }
    let (base, limit) = base_and_limit(descriptor);
    Ok(Data {
        base,
        limit: Some(limit),
        vector,
    })
}

/// RDI for `ins`, RSI for `outs`.
fn index_register<'a>(cx: &'a mut Current<'_>, input: bool) -> &'a mut u64 {
    let regs = &mut cx.state.context.regs;
    if input { &mut regs.rdi } else { &mut regs.rsi }
}

pub(super) fn truncate(value: u64, size: AddressSize) -> u64 {
    match size {
        AddressSize::Word => value & 0xffff,
        AddressSize::Long => value & 0xffff_ffff,
        AddressSize::Quad => value,
    }
}

/// A register with its `size` low bits replaced, as the processor replaces them: 32-bit results clear the upper half.
fn merge(register: u64, value: u64, size: AddressSize) -> u64 {
    match size {
        AddressSize::Word => register & !0xffff | value & 0xffff,
        AddressSize::Long => value & 0xffff_ffff,
        AddressSize::Quad => value,
    }
}
