//! I/O ports, for a domain that may use them. The hypervisor emulates the instructions.

use core::arch::asm;

use crate::hypercall::{Result, physdev};

/// The right to use I/O ports. A port that the hypervisor keeps to itself reads as all ones and
/// ignores writes.
#[derive(Clone, Copy, Debug)]
pub struct IoPorts(());

impl IoPorts {
    /// Has the hypervisor let this kernel use the ports it has permission for.
    ///
    /// # Safety
    ///
    /// What devices are told by way of the ports must not make them touch memory that Rust code
    /// relies on.
    pub unsafe fn acquire() -> Result<Self> {
        // The guest's kernel counts as level 1 for this.
        physdev::set_iopl(1)?;
        Ok(Self(()))
    }

    /// Reads a byte.
    pub fn read_u8(self, port: u16) -> u8 {
        let value;
        // SAFETY: having the right, nothing happens but what the device does; see `acquire`.
        unsafe { asm!("in al, dx", in("dx") port, out("al") value, options(nostack)) };
        value
    }

    /// Reads 16 bits.
    pub fn read_u16(self, port: u16) -> u16 {
        let value;
        // SAFETY: as `read_u8`.
        unsafe { asm!("in ax, dx", in("dx") port, out("ax") value, options(nostack)) };
        value
    }

    /// Reads 32 bits.
    pub fn read_u32(self, port: u16) -> u32 {
        let value;
        // SAFETY: as `read_u8`.
        unsafe { asm!("in eax, dx", in("dx") port, out("eax") value, options(nostack)) };
        value
    }

    /// Writes a byte.
    pub fn write_u8(self, port: u16, value: u8) {
        // SAFETY: as `read_u8`.
        unsafe { asm!("out dx, al", in("dx") port, in("al") value, options(nostack)) };
    }

    /// Writes 16 bits.
    pub fn write_u16(self, port: u16, value: u16) {
        // SAFETY: as `read_u8`.
        unsafe { asm!("out dx, ax", in("dx") port, in("ax") value, options(nostack)) };
    }

    /// Writes 32 bits.
    pub fn write_u32(self, port: u16, value: u32) {
        // SAFETY: as `read_u8`.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) };
    }
}
