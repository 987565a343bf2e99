//! The battery clock.

/// The clock's registers at one moment, as they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Reading {
    second: u8,
    minute: u8,
    hour: u8,
    day: u8,
    month: u8,
    year: u8,
    century: u8,
    /// Register B: how to read the others.
    format: u8,
}

const BINARY: u8 = 1 << 2;
const HOURS_24: u8 = 1 << 1;
const AFTERNOON: u8 = 1 << 7;

impl Reading {
    /// Seconds since 1970-01-01 00:00. Without a century register, years below 70 are of the 21st century.
    pub fn unix_seconds(&self) -> u64 {
        let number = |value: u8| -> u64 {
            if self.format & BINARY != 0 {
                value.into()
            } else {
                u64::from(value >> 4) * 10 + u64::from(value & 0xf)
            }
        };
        let hour = if self.format & HOURS_24 != 0 {
            number(self.hour)
        } else {
            let afternoon = if self.hour & AFTERNOON != 0 { 12 } else { 0 };
            number(self.hour & !AFTERNOON) % 12 + afternoon
        };
        let year = number(self.year);
        let year = match number(self.century) {
            century @ 19..=99 => century * 100 + year,
            _ if year < 70 => 2000 + year,
            _ => 1900 + year,
        };
        let month = number(self.month).clamp(1, 12);
        let day = number(self.day).max(1);
        ((days_before(year, month) + day - 1) * 24 + hour) * 3600
            + number(self.minute) * 60
            + number(self.second)
    }
}

/// Days from 1970-01-01 to the first of a month.
fn days_before(year: u64, month: u64) -> u64 {
    const BEFORE_MONTH: [u64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
    let leap_years_until = |year: u64| year / 4 - year / 100 + year / 400;
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let leap_day = u64::from(is_leap && month > 2);
    let year = year.max(1970);
    (year - 1970) * 365 + leap_years_until(year - 1) - leap_years_until(1969)
        + BEFORE_MONTH.get(month as usize - 1).copied().unwrap_or(0)
        + leap_day
}

#[cfg(target_os = "none")]
mod clock {
    use super::Reading;
    use crate::metal::processor::port;

    fn register(number: u8) -> u8 {
        // SAFETY: the clock is the hypervisor's; bit 7 clear leaves non-maskable interrupts on.
        unsafe {
            port::out8(0x70, number);
            port::in8(0x71)
        }
    }

    fn read_once(century: u8) -> Reading {
        const UPDATING: u8 = 1 << 7;
        // An update takes 2 ms; a clock that is not there answers 0xff for ever.
        for _ in 0..100_000 {
            if register(0x0a) & UPDATING == 0 {
                break;
            }
        }
        Reading {
            second: register(0x00),
            minute: register(0x02),
            hour: register(0x04),
            day: register(0x07),
            month: register(0x08),
            year: register(0x09),
            century: if century != 0 {
                register(century & 0x7f)
            } else {
                0
            },
            format: register(0x0b),
        }
    }

    /// Reads the clock until two readings agree.
    pub fn read(century: u8) -> Reading {
        let mut last = read_once(century);
        for _ in 0..10 {
            let next = read_once(century);
            if next == last {
                break;
            }
            last = next;
        }
        last
    }
}

#[cfg(target_os = "none")]
pub use clock::read;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packed_decimal_with_a_century() {
        let reading = Reading {
            second: 0x08,
            minute: 0x14,
            hour: 0x11,
            day: 0x20,
            month: 0x11,
            year: 0x26,
            century: 0x20,
            format: HOURS_24,
        };
        assert_eq!(reading.unix_seconds(), 1_795_173_248);
    }

    #[test]
    fn binary_with_a_12_hour_clock_and_no_century() {
        let reading = Reading {
            second: 59,
            minute: 59,
            hour: 12 | AFTERNOON,
            day: 29,
            month: 2,
            year: 0,
            century: 0,
            format: BINARY,
        };
        assert_eq!(reading.unix_seconds(), 951_829_199);
        let midnight = Reading {
            hour: 12,
            second: 0,
            minute: 0,
            ..reading
        };
        assert_eq!(midnight.unix_seconds(), 951_782_400);
    }

    #[test]
    fn nonsense_does_not_panic() {
        let ff = Reading {
            second: 0xff,
            minute: 0xff,
            hour: 0xff,
            day: 0xff,
            month: 0xff,
            year: 0xff,
            century: 0xff,
            format: 0xff,
        };
        ff.unix_seconds();
        Reading {
            format: BINARY,
            ..Reading::default()
        }
        .unix_seconds();
    }
}
