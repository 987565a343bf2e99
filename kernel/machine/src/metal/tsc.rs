//! Rates of the time-stamp counter and of the local APIC's timer, measured against a clock of known rate.

use super::acpi::Firmware;
use super::apic::Apic;
use super::calibration::{self, Reading};
use super::device;
use super::processor::{cpuid, port, tsc};

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// Time-stamp counter, per second.
    pub tsc_hz: u64,
    /// Local APIC timer, per second.
    pub apic_hz: u64,
    /// What it was measured against.
    pub reference: &'static str,
}

/// How long to measure. What many readings agree on is some 20 ns off, and guests' clocks are to be less than a
/// microsecond a second off.
const MEASURE_PER_SECOND: u64 = 8; // 125 ms
/// Readings at each end of that.
const READINGS: usize = 256;

/// A counter of known rate.
enum Reference {
    Hpet { counter: *const u8, hz: u64 },
    PmTimer { port: u16, mask: u64 },
    Pit,
}

const PM_TIMER_HZ: u64 = 3_579_545;
const PIT_HZ: u64 = 1_193_182;

impl Reference {
    fn choose(firmware: &Firmware) -> Self {
        if let Some(address) = firmware.hpet {
            let registers = device::map(address, 0x400, false);
            // SAFETY: the HPET's registers are mapped: capabilities at 0, configuration at 0x10.
            let femtoseconds = unsafe {
                let configuration = registers.add(0x10).cast::<u64>();
                configuration.write_volatile(configuration.read_volatile() | 1);
                registers.cast::<u64>().read_volatile() >> 32
            };
            const LONGEST: u64 = 100_000_000;
            if (1..=LONGEST).contains(&femtoseconds) {
                // SAFETY: the main counter is inside the registers.
                let counter = unsafe { registers.add(0xf0) };
                return Self::Hpet {
                    counter,
                    hz: 1_000_000_000_000_000 / femtoseconds,
                };
            }
        }
        if let Some(timer) = firmware.pm_timer {
            let mask = if timer.wide { 0xffff_ffff } else { 0xff_ffff };
            return Self::PmTimer {
                port: timer.port,
                mask,
            };
        }
        // SAFETY: channel 2 of the timer chip is the hypervisor's; its gate is bit 0 of port 0x61, and bit 1, the
        // speaker, stays off.
        unsafe {
            port::out8(0x61, port::in8(0x61) & !2 | 1);
            port::out8(0x43, 0xb0); // channel 2, both bytes, count down once
            port::out8(0x42, 0xff);
            port::out8(0x42, 0xff);
        }
        Self::Pit
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Hpet { .. } => "HPET",
            Self::PmTimer { .. } => "ACPI timer",
            Self::Pit => "8254",
        }
    }

    fn hz(&self) -> u64 {
        match self {
            Self::Hpet { hz, .. } => *hz,
            Self::PmTimer { .. } => PM_TIMER_HZ,
            Self::Pit => PIT_HZ,
        }
    }

    fn mask(&self) -> u64 {
        match self {
            Self::Hpet { .. } => 0xffff_ffff,
            Self::PmTimer { mask, .. } => *mask,
            Self::Pit => 0xffff,
        }
    }

    /// Ticks to measure for.
    fn span(&self) -> u64 {
        // It is not to pass by where it began.
        (self.hz() / MEASURE_PER_SECOND).min(self.mask() / 2)
    }

    fn read(&self) -> u64 {
        match self {
            // SAFETY: mapped by `choose`.
            Self::Hpet { counter, .. } => unsafe { counter.cast::<u32>().read_volatile() }.into(),
            // SAFETY: reading the timer has no effect.
            Self::PmTimer { port, mask } => u64::from(unsafe { port::in32(*port) }) & mask,
            // SAFETY: latches and reads channel 2, which is the hypervisor's.
            Self::Pit => unsafe {
                port::out8(0x43, 0x80);
                let low = port::in8(0x42);
                let high = port::in8(0x42);
                0xffff - u64::from(u16::from_le_bytes([low, high]))
            },
        }
    }
}

/// The counters at one moment, more or less.
struct Sample {
    readings: [Reading; READINGS],
    tsc: u64,
    apic: u32,
}

fn sample(reference: &Reference, apic: &Apic) -> Sample {
    let readings = core::array::from_fn(|_| Reading {
        before: tsc(),
        reference: reference.read(),
        behind: tsc(),
    });
    Sample {
        readings,
        tsc: tsc(),
        apic: apic.count(),
    }
}

/// Measures both rates. The APIC's timer is stopped afterwards.
pub fn measure(firmware: &Firmware, apic: &Apic) -> Rates {
    let reference = Reference::choose(firmware);
    let (hz, mask) = (reference.hz(), reference.mask());
    apic.mask_timer(true);
    apic.start_count(u32::MAX);
    let first = sample(&reference, apic);
    let start = reference.read();
    while reference.read().wrapping_sub(start) & mask < reference.span() {
        core::hint::spin_loop();
    }
    let last = sample(&reference, apic);
    apic.start_count(0);
    apic.mask_timer(false);

    let measured = calibration::rate(&first.readings, &last.readings, hz, mask).max(1);
    let ticks = u128::from(first.apic.wrapping_sub(last.apic)) * u128::from(measured);
    let passed = u128::from(last.tsc.wrapping_sub(first.tsc).max(1));
    Rates {
        tsc_hz: stated_hz().unwrap_or(measured).max(1),
        apic_hz: ((ticks / passed) as u64).max(1),
        reference: reference.name(),
    }
}

/// The rate that CPUID leaf 15h states, where it is complete.
fn stated_hz() -> Option<u64> {
    if cpuid(0, 0)[0] < 0x15 {
        return None;
    }
    let [denominator, numerator, crystal_hz, _] = cpuid(0x15, 0);
    if numerator == 0 || crystal_hz == 0 {
        return None;
    }
    (u64::from(crystal_hz) * u64::from(numerator)).checked_div(denominator.into())
}
