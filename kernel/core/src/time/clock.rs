//! [`Clock`]: system time, nanoseconds since the hypervisor started, from the time-stamp counter.
//!
//! Guests compute the same time themselves from a `vcpu_time_info` (`xen/xen.h`):
//! `system_time + ((tsc - tsc_timestamp) << tsc_shift) * tsc_to_system_mul / 2^32`. The hypervisor uses
//! the same arithmetic from the same origin, and the stamps that it gives lie apart by times at which nothing is
//! rounded ([`Clock::stamp`]): so all vCPUs compute the same time, to the nanosecond, whichever stamps they have.

use hv_machine::{Platform, TscInfo};

use crate::lock::{Mutex, rank};

/// Nanoseconds in a second.
pub const SECOND: u64 = 1_000_000_000;

/// A ratio as a shift and a 0.32 fixed-point factor, the form in which guests know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Factor, as a fraction of 2^32; at least a half.
    pub mul: u32,
    /// Shift to the left before the multiplication, to the right if negative.
    pub shift: i8,
}

impl Scale {
    /// The scale nearest below `numerator / denominator`, both of at most 48 bits and not 0.
    pub fn ratio(numerator: u64, denominator: u64) -> Self {
        let (numerator, denominator) =
            (u128::from(numerator.max(1)), u128::from(denominator.max(1)));
        let mut shift = 0_i8;
        // The factor is numerator / denominator / 2^shift, in 32 bits with the highest set.
        loop {
            let mul = if shift <= 32 {
                (numerator << (32 - shift)) / denominator
            } else {
                numerator / (denominator << (shift - 32))
            };
            if mul >> 32 != 0 {
                shift += 1;
            } else if mul >> 31 == 0 {
                shift -= 1;
            } else {
                return Self {
                    mul: mul as u32,
                    shift,
                };
            }
        }
    }

    /// `value` scaled, rounded down.
    pub fn apply(self, value: u64) -> u64 {
        let shift = u32::from(self.shift.unsigned_abs());
        let shifted = match self.shift {
            0.. => value.checked_shl(shift).unwrap_or(0),
            _ => value.checked_shr(shift).unwrap_or(0),
        };
        ((u128::from(shifted) * u128::from(self.mul)) >> 32) as u64
    }
}

/// Wall-clock time at system time 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WallClock {
    /// Seconds since 1970-01-01 00:00 UTC.
    pub seconds: u64,
    /// Nanoseconds on top, below [`SECOND`].
    pub nanoseconds: u32,
}

/// System time and the wall clock.
pub struct Clock {
    info: TscInfo,
    to_nanoseconds: Scale,
    to_ticks: Scale,
    stable: bool,
    wall: Mutex<WallClock, { rank::LAST }>,
}

impl Clock {
    /// A clock that began at the machine's boot.
    pub fn new(machine: &impl Platform) -> Self {
        let info = machine.tsc_info();
        // "Invariant TSC": its rate does not depend on power states.
        let invariant = machine.cpuid(0x8000_0000, 0)[0] >= 0x8000_0007
            && machine.cpuid(0x8000_0007, 0)[3] & 1 << 8 != 0;
        Self {
            info,
            to_nanoseconds: Scale::ratio(SECOND, info.hz),
            to_ticks: Scale::ratio(info.hz, SECOND),
            stable: info.synchronised && invariant || machine.cpu_count() == 1,
            wall: Mutex::new(WallClock {
                seconds: machine.boot_wall_clock(),
                nanoseconds: 0,
            }),
        }
    }

    /// Nanoseconds of the time-stamp counter's value `tsc`.
    pub fn at(&self, tsc: u64) -> u64 {
        self.to_nanoseconds
            .apply(tsc.saturating_sub(self.info.at_boot))
    }

    /// The latest value of the counter up to `tsc` that guests are to compute time from, and its nanoseconds.
    pub fn stamp(&self, tsc: u64) -> (u64, u64) {
        // So many ticks are scaled without a remainder.
        let places = 32 + u32::from(self.to_nanoseconds.shift.min(0).unsigned_abs());
        let passed = tsc.saturating_sub(self.info.at_boot);
        let stamp = 1_u64
            .checked_shl(places)
            .map_or(0, |step| passed & !(step - 1));
        (
            self.info.at_boot.wrapping_add(stamp),
            self.to_nanoseconds.apply(stamp),
        )
    }

    /// The counter's value at system time `deadline`, or a little later; `tsc` is its present value.
    pub fn tsc_at(&self, deadline: u64, tsc: u64) -> u64 {
        // Beyond 2^50 ns (13 days) precision is nobody's concern, and nothing may overflow.
        let wait = deadline.saturating_sub(self.at(tsc)).min(1 << 50);
        let ticks = self.to_ticks.apply(wait);
        // What the two scales lose: a part in 2^31 each, and the ticks that make no whole step.
        let step = 1_u64 << self.to_nanoseconds.shift.clamp(-16, 0).unsigned_abs();
        tsc.saturating_add(ticks + (ticks >> 29) + 2 * step)
    }

    /// How guests get from ticks to nanoseconds.
    pub fn scale(&self) -> Scale {
        self.to_nanoseconds
    }

    /// Whether the counter never steps when a vCPU changes processors (`XEN_PVCLOCK_TSC_STABLE_BIT`).
    pub fn is_stable(&self) -> bool {
        self.stable
    }

    /// The wall clock at system time 0.
    pub fn wall(&self) -> WallClock {
        *self.wall.lock()
    }

    /// Sets the wall clock: it was `seconds` and `nanoseconds` at `system_time` (`XENPF_settime64`).
    pub(super) fn set_wall(&self, seconds: u64, nanoseconds: u32, system_time: u64) {
        let total = i128::from(seconds) * i128::from(SECOND) + i128::from(nanoseconds)
            - i128::from(system_time);
        let total = u128::try_from(total).unwrap_or(0);
        let wall = WallClock {
            seconds: (total / u128::from(SECOND)) as u64,
            nanoseconds: (total % u128::from(SECOND)) as u32,
        };
        *self.wall.lock() = wall;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn clock(khz: u64, at_boot: u64) -> Clock {
        Clock {
            info: TscInfo {
                hz: khz * 1000,
                at_boot,
                synchronised: true,
            },
            to_nanoseconds: Scale::ratio(1_000_000, khz),
            to_ticks: Scale::ratio(khz, 1_000_000),
            stable: true,
            wall: Mutex::new(WallClock {
                seconds: 0,
                nanoseconds: 0,
            }),
        }
    }

    #[test]
    fn a_gigahertz_counter_counts_nanoseconds() {
        assert_eq!(
            Scale::ratio(1_000_000, 1_000_000),
            Scale {
                mul: 1 << 31,
                shift: 1
            }
        );
        assert_eq!(clock(1_000_000, 77).at(1_000_077), 1_000_000);
    }

    #[test]
    fn the_clock_stands_at_zero_before_its_origin() {
        assert_eq!(clock(2_000_000, 500).at(3), 0);
    }

    #[test]
    fn a_wall_clock_is_counted_back_to_system_time_zero() {
        let clock = clock(1_000_000, 0);
        clock.set_wall(100, 5, 10 * SECOND + 6);
        assert_eq!(
            clock.wall(),
            WallClock {
                seconds: 89,
                nanoseconds: 999_999_999
            }
        );
        clock.set_wall(1, 0, 2 * SECOND);
        assert_eq!(
            clock.wall(),
            WallClock {
                seconds: 0,
                nanoseconds: 0
            }
        );
        clock.set_wall(u64::MAX, 0, 0);
        assert_eq!(clock.wall().seconds, u64::MAX);
    }

    proptest! {
        #[test]
        fn scales_are_normalised_and_near_the_ratio(n in 1_u64..1 << 40, d in 1_u64..1 << 40) {
            let scale = Scale::ratio(n, d);
            prop_assert!(scale.mul >> 31 == 1);
            let exact = n as f64 / d as f64;
            let near = f64::from(scale.mul) / 2_f64.powi(32 - i32::from(scale.shift));
            prop_assert!((near / exact - 1.0).abs() < 1e-9);
        }

        // More ticks of the slowest counter overflow 64 bits when they are scaled: 570 years.
        #[test]
        fn time_keeps_to_the_counters_rate(khz in 1_000_u64..10_000_000, ticks in 0_u64..1 << 54) {
            let exact = u128::from(ticks) * 1_000_000 / u128::from(khz);
            let time = u128::from(clock(khz, 0).at(ticks));
            prop_assert!(time <= exact);
            prop_assert!(exact - time <= exact / 2_000_000_000 + 1 + 1_000_000 / u128::from(khz));
        }

        #[test]
        fn whichever_stamps_a_vcpu_has_it_computes_the_same_time(
            khz in 1_000_u64..10_000_000,
            at_boot in 0_u64..1 << 40,
            first in 0_u64..1 << 52,
            after in 0_u64..1 << 40,
        ) {
            let clock = clock(khz, at_boot);
            let now = at_boot + first + after;
            let (stamp, time) = clock.stamp(at_boot + first);
            prop_assert!(stamp <= at_boot + first);
            prop_assert_eq!(time + clock.scale().apply(now - stamp), clock.at(now));
        }

        #[test]
        fn at_its_deadline_a_timer_is_due_and_hardly_late(
            khz in 10_000_u64..10_000_000,
            tsc in 0_u64..1 << 50,
            wait in 0_u64..1 << 42,
        ) {
            let clock = clock(khz, 0);
            let deadline = clock.at(tsc) + wait;
            let due = clock.at(clock.tsc_at(deadline, tsc));
            prop_assert!(due >= deadline, "{due} is before {deadline}");
            prop_assert!(due - deadline <= (wait >> 27) + 4 + 3_000_000 / khz);
        }
    }
}
