//! Memory for devices and for other domains: its machine addresses are known, and it is never
//! behind a Rust reference.

use alloc::vec::Vec;
use core::ops::Deref;

use hypercall_abi::errno::Errno;
use hypercall_abi::memory::{MemoryExchange, MemoryReservation, memf_address_bits};
use hypercall_abi::types::{Domid, GuestHandle, Mfn, Pfn};

use super::frames::Frames;
use super::window::Window;
use super::{layout, mfn_of, tables};
use crate::hypercall::{Result, memory};
use crate::pte::PAGE_SIZE;

/// Frames whose machine addresses follow each other. It dereferences to a [`Window`], by which the
/// memory is used; it starts out all zeroes.
#[derive(Debug)]
pub struct DmaMemory {
    window: Window,
    /// Kept for its drop alone: references into it are not made.
    frames: Frames,
}

impl DmaMemory {
    /// At least `bytes`, below machine address 2^`address_bits` (64 for anywhere).
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is no such memory; else what the hypervisor says.
    pub fn new(bytes: usize, address_bits: u32) -> Result<Self> {
        let order = bytes
            .div_ceil(PAGE_SIZE)
            .max(1)
            .next_power_of_two()
            .trailing_zeros();
        let frames = Frames::zeroed(order).ok_or(Errno::ENOMEM)?;
        let (pfn, count) = (frames.pfn(), frames.count() as u64);
        let fits = |first: Mfn| {
            (first.0 + count).checked_shl(12).is_some_and(|end| {
                1_u64
                    .checked_shl(address_bits)
                    .is_none_or(|limit| end <= limit)
            })
        };
        if !(layout().p2m.is_contiguous(pfn, count) && fits(frames.mfn())) {
            exchange(&frames, order, address_bits)?;
        }
        // SAFETY: the memory is mapped until `frames` is dropped, and no reference into it is made
        // meanwhile.
        let window = unsafe { Window::new(frames.base(), PAGE_SIZE << order) };
        window.fill(0, window.size(), 0);
        Ok(Self { window, frames })
    }

    /// The machine address of the first byte, which a device is told.
    pub fn machine_address(&self) -> u64 {
        self.mfn().0 << 12
    }

    /// The first machine frame.
    pub fn mfn(&self) -> Mfn {
        self.frames.mfn()
    }

    /// The first pseudo-physical frame.
    pub fn pfn(&self) -> Pfn {
        self.frames.pfn()
    }
}

impl Deref for DmaMemory {
    type Target = Window;

    fn deref(&self) -> &Window {
        &self.window
    }
}

/// Exchanges the machine frames behind a block for consecutive ones.
fn exchange(frames: &Frames, order: u32, address_bits: u32) -> Result<()> {
    let pfns = (frames.pfn().0..).take(frames.count()).map(Pfn);
    let mut given: Vec<u64> = Vec::with_capacity(frames.count());
    given.extend(
        pfns.clone()
            .map(|pfn| mfn_of(pfn).expect("owned frames have machine frames").0),
    );
    // In: the pseudo-physical frame that the block is to be; out: its machine frame.
    let mut got = [frames.pfn().0];
    for pfn in pfns.clone() {
        // SAFETY: nothing refers to the block yet.
        unsafe { tables::set_linear(pfn, None) }?;
    }
    let mut argument = MemoryExchange {
        in_: MemoryReservation {
            extent_start: GuestHandle::from_ptr(given.as_ptr()),
            nr_extents: given.len() as u64,
            domid: Domid::SELF,
            ..MemoryReservation::default()
        },
        out: MemoryReservation {
            extent_start: GuestHandle::from_mut_ptr(got.as_mut_ptr()),
            nr_extents: 1,
            extent_order: order,
            // Zero bits stand for any.
            mem_flags: memf_address_bits(u8::try_from(address_bits).unwrap_or(0).min(63) % 63),
            domid: Domid::SELF,
            ..MemoryReservation::default()
        },
        ..MemoryExchange::default()
    };
    // SAFETY: the frames that are given away are mapped nowhere and used by nothing; the lists live
    // until the call is over.
    let result = unsafe { memory::exchange(&mut argument) };
    let [first] = got;
    let exchanged = argument.nr_exchanged as usize == given.len();
    for (nth, (pfn, old)) in pfns.zip(given).enumerate() {
        let mfn = if exchanged {
            Mfn(first + nth as u64)
        } else {
            Mfn(old)
        };
        layout().p2m.set(pfn, Some(mfn));
        // SAFETY: nothing refers to the block yet.
        unsafe { tables::set_linear(pfn, Some(mfn)) }?;
    }
    if exchanged {
        Ok(())
    } else {
        Err(result.err().unwrap_or(Errno::ENOMEM.into()))
    }
}
