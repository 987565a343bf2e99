//! I/O APICs: routing of global system interrupts to vectors. And the two 8259s, which are silenced.

use alloc::vec::Vec;

use super::acpi::IoApicInfo;
use super::device;
use super::lock::Lock;
use super::processor::port;
use crate::{Polarity, TriggerMode};

const SELECT: usize = 0x00;
const WINDOW: usize = 0x10;
const VERSION: u32 = 1;
const REDIRECTION: u32 = 0x10;

const ACTIVE_LOW: u32 = 1 << 13;
const LEVEL: u32 = 1 << 15;
const MASKED: u32 = 1 << 16;

/// One I/O APIC.
#[derive(Debug)]
struct IoApic {
    registers: *mut u8,
    gsi_base: u32,
    pins: u32,
}

// SAFETY: the registers are reached under a lock only.
unsafe impl Send for IoApic {}

/// All I/O APICs.
#[derive(Debug)]
pub struct IoApics(Lock<Vec<IoApic>>);

impl IoApics {
    /// Maps their registers and masks every pin.
    pub fn new(infos: &[IoApicInfo]) -> Self {
        let mut io_apics = Vec::new();
        for info in infos {
            let registers = device::map(info.address, 0x20, false);
            let mut io_apic = IoApic {
                registers,
                gsi_base: info.gsi_base,
                pins: 0,
            };
            io_apic.pins = (io_apic.read(VERSION) >> 16 & 0xff) + 1;
            for pin in 0..io_apic.pins {
                io_apic.write(REDIRECTION + 2 * pin, MASKED);
            }
            io_apics.push(io_apic);
        }
        Self(Lock::new(io_apics))
    }

    /// One more than the highest global system interrupt.
    pub fn gsi_count(&self) -> u32 {
        self.0
            .lock()
            .iter()
            .map(|a| a.gsi_base + a.pins)
            .max()
            .unwrap_or(0)
    }

    fn with_pin(&self, gsi: u32, f: impl FnOnce(&mut IoApic, u32)) {
        let mut io_apics = self.0.lock();
        let found = io_apics
            .iter_mut()
            .find(|a| (a.gsi_base..a.gsi_base + a.pins).contains(&gsi));
        if let Some(io_apic) = found {
            let register = REDIRECTION + 2 * (gsi - io_apic.gsi_base);
            f(io_apic, register);
        }
    }

    /// Routes an interrupt to a CPU's vector, masked. Nothing happens where no I/O APIC has it.
    pub fn route(
        &self,
        gsi: u32,
        vector: u8,
        apic_id: u32,
        trigger: TriggerMode,
        polarity: Polarity,
    ) {
        self.with_pin(gsi, |io_apic, register| {
            let level = if trigger == TriggerMode::Level {
                LEVEL
            } else {
                0
            };
            let low = if polarity == Polarity::Low {
                ACTIVE_LOW
            } else {
                0
            };
            io_apic.write(register, MASKED);
            io_apic.write(register + 1, apic_id << 24);
            io_apic.write(register, MASKED | level | low | u32::from(vector));
        });
    }

    /// Holds an interrupt back, or lets it through.
    pub fn set_mask(&self, gsi: u32, masked: bool) {
        self.with_pin(gsi, |io_apic, register| {
            let low = io_apic.read(register);
            io_apic.write(register, if masked { low | MASKED } else { low & !MASKED });
        });
    }
}

impl IoApic {
    fn read(&self, register: u32) -> u32 {
        // SAFETY: the registers are mapped; the pair is used under the lock.
        unsafe {
            self.registers
                .add(SELECT)
                .cast::<u32>()
                .write_volatile(register);
            self.registers.add(WINDOW).cast::<u32>().read_volatile()
        }
    }

    fn write(&mut self, register: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe {
            self.registers
                .add(SELECT)
                .cast::<u32>()
                .write_volatile(register);
            self.registers
                .add(WINDOW)
                .cast::<u32>()
                .write_volatile(value);
        }
    }
}

/// First vector of the 8259s: what they raise in spite of the mask is ignored there.
pub const PIC_VECTORS: u8 = 0x20;

/// Moves the 8259s' vectors away from the exceptions and masks all their inputs.
pub fn silence_pics() {
    const COMMANDS: [(u16, u8); 10] = [
        (0x20, 0x11),
        (0xa0, 0x11),
        (0x21, PIC_VECTORS),
        (0xa1, PIC_VECTORS + 8),
        (0x21, 4),
        (0xa1, 2),
        (0x21, 1),
        (0xa1, 1),
        (0x21, 0xff),
        (0xa1, 0xff),
    ];
    for (number, value) in COMMANDS {
        // SAFETY: the 8259s are the hypervisor's.
        unsafe { port::out8(number, value) };
    }
}
