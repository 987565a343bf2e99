//! System time and wall-clock time from what the hypervisor publishes (`struct vcpu_time_info` and
//! the `wc_` fields of `struct shared_info`, xen.h), by the version protocol.

use core::sync::atomic::AtomicU32;
use core::sync::atomic::Ordering::{Acquire, Relaxed};
use core::sync::atomic::fence;

use crate::shared::{SharedInfo, TimeInfo};

/// `ticks` of the time-stamp counter in nanoseconds, modulo 2^64.
pub fn scale(ticks: u64, mul: u32, shift: i8) -> u64 {
    let shifted = match u32::from(shift.unsigned_abs()) {
        places if places >= u64::BITS => 0,
        places if shift < 0 => ticks >> places,
        places => ticks << places,
    };
    ((u128::from(shifted) * u128::from(mul)) >> 32) as u64
}

/// Frequency of the time-stamp counter in Hz, 0 if it is not known yet.
pub fn frequency(mul: u32, shift: i8) -> u64 {
    if mul == 0 {
        return 0;
    }
    let hertz = (1_000_000_000_u64 << 32) / u64::from(mul);
    match u32::from(shift.unsigned_abs()) {
        places if places >= u64::BITS => 0,
        places if shift < 0 => hertz << places,
        places => hertz >> places,
    }
}

/// Calls `read` until what it saw was not being updated meanwhile.
fn consistent<T>(version: &AtomicU32, mut read: impl FnMut() -> T) -> T {
    loop {
        let before = version.load(Acquire);
        let value = read();
        fence(Acquire);
        if before & 1 == 0 && version.load(Relaxed) == before {
            return value;
        }
        core::hint::spin_loop();
    }
}

/// Nanoseconds since the host booted; `tsc` reads the time-stamp counter of the vCPU that `time`
/// belongs to.
pub fn system_time(time: &TimeInfo, mut tsc: impl FnMut() -> u64) -> u64 {
    consistent(&time.version, || {
        // The timestamp may be from before the counter's zero, so the difference is modulo 2^64. A
        // counter that runs a little behind on another CPU must not make time jump by that.
        let ticks = tsc().wrapping_sub(time.tsc_timestamp.load(Relaxed)) as i64;
        let ticks = ticks.max(0) as u64;
        let (mul, shift) = (
            time.tsc_to_system_mul.load(Relaxed),
            time.tsc_shift.load(Relaxed),
        );
        time.system_time
            .load(Relaxed)
            .wrapping_add(scale(ticks, mul, shift))
    })
}

/// Seconds and nanoseconds of the Unix epoch at system time 0.
pub fn boot_wall_clock(shared: &SharedInfo) -> (u64, u32) {
    consistent(&shared.wc_version, || {
        let high = u64::from(shared.wc_sec_hi.load(Relaxed));
        (
            high << 32 | u64::from(shared.wc_sec.load(Relaxed)),
            shared.wc_nsec.load(Relaxed),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn ticks_are_scaled_by_a_binary_fraction_and_a_shift() {
        assert_eq!(scale(1000, 1 << 31, 0), 500);
        assert_eq!(scale(1000, 1 << 31, 1), 1000);
        assert_eq!(scale(1000, 1 << 31, -1), 250);
        assert_eq!(
            scale(u64::MAX, u32::MAX, 0),
            u64::MAX - (u64::MAX >> 32) - 1
        );
        assert_eq!(scale(1, u32::MAX, 100), 0);
    }

    #[test]
    fn frequency_is_the_inverse_of_the_scale() {
        // 2 GHz: a tick is half a nanosecond.
        assert_eq!(frequency(1 << 31, 0), 2_000_000_000);
        assert_eq!(frequency(1 << 31, -1), 4_000_000_000);
        assert_eq!(frequency(0, 0), 0);
    }

    #[test]
    fn a_reading_taken_during_an_update_is_repeated() {
        let time = TimeInfo::default();
        time.tsc_to_system_mul.store(1 << 31, Relaxed);
        time.tsc_shift.store(1, Relaxed);
        time.version.store(1, Relaxed);
        time.system_time.store(7, Relaxed);
        let reads = Cell::new(0);
        let now = system_time(&time, || {
            reads.set(reads.get() + 1);
            match reads.get() {
                // The update ends after the first reading, and another one happens during the
                // second.
                1 => time.version.store(2, Relaxed),
                2 => {
                    time.version.store(4, Relaxed);
                    time.system_time.store(100, Relaxed);
                }
                _ => {}
            }
            10
        });
        assert_eq!((now, reads.get()), (110, 3));
    }

    #[test]
    fn a_counter_behind_the_timestamp_does_not_turn_time_back() {
        let time = TimeInfo::default();
        time.tsc_timestamp.store(1000, Relaxed);
        time.system_time.store(50, Relaxed);
        time.tsc_to_system_mul.store(u32::MAX, Relaxed);
        assert_eq!(system_time(&time, || 999), 50);
    }

    #[test]
    fn a_timestamp_from_before_the_counter_was_zero_counts_on() {
        let time = TimeInfo::default();
        time.tsc_timestamp.store(0_u64.wrapping_sub(600), Relaxed);
        time.system_time.store(50, Relaxed);
        time.tsc_to_system_mul.store(1 << 31, Relaxed);
        assert_eq!(system_time(&time, || 400), 550);
    }

    #[test]
    fn the_wall_clock_has_64_bits_of_seconds() {
        let shared = SharedInfo::default();
        shared.wc_sec.store(5, Relaxed);
        shared.wc_sec_hi.store(1, Relaxed);
        shared.wc_nsec.store(9, Relaxed);
        assert_eq!(boot_wall_clock(&shared), ((1 << 32) + 5, 9));
    }
}
