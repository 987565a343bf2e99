//! The local APIC, through memory or (x2APIC) model-specific registers: end of interrupt, the one-shot timer, and
//! messages to other CPUs.

use super::device;
use super::processor::{Features, msr, read_msr, write_msr};

/// Vector of the timer.
pub const TIMER_VECTOR: u8 = 0xf0;
/// Vector by which a CPU asks another to look at its work.
pub const IPI_VECTOR: u8 = 0xf1;
/// Vector of an interrupt that went away before it was taken.
pub const SPURIOUS_VECTOR: u8 = 0xff;

const ID: u32 = 0x02;
const TASK_PRIORITY: u32 = 0x08;
const END_OF_INTERRUPT: u32 = 0x0b;
const SPURIOUS: u32 = 0x0f;
const COMMAND_LOW: u32 = 0x30;
const COMMAND_HIGH: u32 = 0x31;
const TIMER: u32 = 0x32;
const THERMAL: u32 = 0x33;
const PERFORMANCE: u32 = 0x34;
const LINT0: u32 = 0x35;
const LINT1: u32 = 0x36;
const ERROR: u32 = 0x37;
const INITIAL_COUNT: u32 = 0x38;
const CURRENT_COUNT: u32 = 0x39;
const DIVIDE: u32 = 0x3e;

const SOFTWARE_ENABLE: u32 = 1 << 8;
const MASKED: u32 = 1 << 16;
const DELIVER_NMI: u32 = 4 << 8;
const DELIVER_INIT: u32 = 5 << 8;
const DELIVER_STARTUP: u32 = 6 << 8;
const ASSERT: u32 = 1 << 14;
const ALL_OTHERS: u32 = 3 << 18;
const TSC_DEADLINE_MODE: u32 = 2 << 17;
const DIVIDE_BY_1: u32 = 0xb;

const BASE_ENABLE: u64 = 1 << 11;
const BASE_X2APIC: u64 = 1 << 10;

/// The local APIC of whatever CPU uses it: all are at the same place.
#[derive(Debug)]
pub struct Apic {
    /// Where the registers are mapped; null for x2APIC.
    registers: *mut u8,
    tsc_deadline: bool,
}

// SAFETY: every CPU that goes through the mapping reaches its own APIC.
unsafe impl Send for Apic {}
// SAFETY: as above.
unsafe impl Sync for Apic {}

impl Apic {
    /// Chooses the way of access.
    pub fn new(features: &Features, address: u64) -> Self {
        // SAFETY: every 64-bit CPU has the register.
        let base = unsafe { read_msr(msr::APIC_BASE) };
        let x2apic = features.x2apic || base & BASE_X2APIC != 0;
        let registers = if x2apic {
            core::ptr::null_mut()
        } else {
            device::map(address, 4096, false)
        };
        Self {
            registers,
            tsc_deadline: features.tsc_deadline,
        }
    }

    /// Whether it is accessed by model-specific registers.
    pub fn is_x2apic(&self) -> bool {
        self.registers.is_null()
    }

    /// Whether the timer compares with the time-stamp counter.
    pub fn has_tsc_deadline(&self) -> bool {
        self.tsc_deadline
    }

    /// Turns this CPU's APIC on, with everything masked but non-maskable interrupts.
    pub fn enable(&self) {
        // SAFETY: every 64-bit CPU has the register; x2APIC was found by CPUID.
        unsafe {
            let base = read_msr(msr::APIC_BASE) | BASE_ENABLE;
            write_msr(msr::APIC_BASE, base);
            if self.is_x2apic() {
                write_msr(msr::APIC_BASE, base | BASE_X2APIC);
            }
        }
        self.write(TASK_PRIORITY, 0);
        for register in [THERMAL, PERFORMANCE, LINT0, ERROR] {
            self.write(register, MASKED);
        }
        self.write(LINT1, DELIVER_NMI);
        let mode = if self.tsc_deadline {
            TSC_DEADLINE_MODE
        } else {
            0
        };
        self.write(TIMER, mode | u32::from(TIMER_VECTOR));
        self.write(DIVIDE, DIVIDE_BY_1);
        self.write(SPURIOUS, SOFTWARE_ENABLE | u32::from(SPURIOUS_VECTOR));
    }

    fn read(&self, register: u32) -> u32 {
        if self.is_x2apic() {
            // SAFETY: x2APIC is on, and has this register.
            unsafe { read_msr(msr::X2APIC + register) as u32 }
        } else {
            // SAFETY: the registers are mapped, 16 bytes apart.
            unsafe {
                self.registers
                    .add(register as usize * 16)
                    .cast::<u32>()
                    .read_volatile()
            }
        }
    }

    fn write(&self, register: u32, value: u32) {
        if self.is_x2apic() {
            // SAFETY: x2APIC is on, and has this register.
            unsafe { write_msr(msr::X2APIC + register, value.into()) };
        } else {
            // SAFETY: the registers are mapped, 16 bytes apart.
            unsafe {
                self.registers
                    .add(register as usize * 16)
                    .cast::<u32>()
                    .write_volatile(value);
            }
        }
    }

    /// This CPU's APIC number.
    pub fn id(&self) -> u32 {
        let id = self.read(ID);
        if self.is_x2apic() { id } else { id >> 24 }
    }

    /// Ends the interrupt in service.
    pub fn end_of_interrupt(&self) {
        self.write(END_OF_INTERRUPT, 0);
    }

    /// Starts the timer's counter; 0 stops it. Not for the TSC-deadline timer.
    pub fn start_count(&self, count: u32) {
        self.write(INITIAL_COUNT, count);
    }

    /// What is left of the timer's count.
    pub fn count(&self) -> u32 {
        self.read(CURRENT_COUNT)
    }

    /// Holds the timer's interrupt back, for measuring its rate.
    pub fn mask_timer(&self, on: bool) {
        let mode = if self.tsc_deadline && !on {
            TSC_DEADLINE_MODE
        } else {
            0
        };
        let mask = if on { MASKED } else { 0 };
        self.write(TIMER, mode | mask | u32::from(TIMER_VECTOR));
    }

    /// Sends an interrupt to the CPU with an APIC number.
    pub fn send(&self, apic_id: u32, vector: u8) {
        self.command(apic_id, vector.into());
    }

    /// Resets the CPU with an APIC number, which then waits for [`Self::send_startup`].
    pub fn send_init(&self, apic_id: u32) {
        self.command(apic_id, ASSERT | DELIVER_INIT);
    }

    /// Starts a CPU that waits, in real mode at the beginning of frame `page`.
    pub fn send_startup(&self, apic_id: u32, page: u8) {
        self.command(apic_id, ASSERT | DELIVER_STARTUP | u32::from(page));
    }

    /// Stops all other CPUs, wherever they are: sends them a non-maskable interrupt.
    pub fn send_nmi_to_others(&self) {
        self.command(0, ALL_OTHERS | ASSERT | DELIVER_NMI);
    }

    fn command(&self, apic_id: u32, low: u32) {
        if self.is_x2apic() {
            let command = u64::from(apic_id) << 32 | u64::from(low);
            // SAFETY: x2APIC is on; an interrupt on one of the hypervisor's vectors, or one of the messages above.
            unsafe { write_msr(msr::X2APIC + COMMAND_LOW, command) };
        } else {
            const PENDING: u32 = 1 << 12;
            while self.read(COMMAND_LOW) & PENDING != 0 {
                super::lock::relax();
            }
            self.write(COMMAND_HIGH, apic_id << 24);
            self.write(COMMAND_LOW, low);
        }
    }
}
