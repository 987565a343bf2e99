//! [`rate`]: how fast the time-stamp counter counts, from readings of it around those of a counter of known rate.
//!
//! A reading says that the other counter had its value after one moment and before another. Many of them, each of which
//! may have taken long, leave little doubt about when that was: the latest of the moments before, and the earliest of
//! those behind, once each is moved by what has passed since the first reading.

/// The value of a counter, and of the time-stamp counter before and behind it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Reading {
    /// The time-stamp counter before.
    pub before: u64,
    /// The counter of known rate.
    pub reference: u64,
    /// The time-stamp counter behind.
    pub behind: u64,
}

/// Ticks of the time-stamp counter a second, from readings of which some were made some time after the others. The
/// counter of known rate has `hz` ticks a second, and is as many bits wide as `mask` has; 0 where it stands still.
pub fn rate(first: &[Reading], last: &[Reading], hz: u64, mask: u64) -> u64 {
    let (Some(quick), Some(late)) = (quickest(first), quickest(last)) else {
        return 0;
    };
    let passed = |from: &Reading, to: &Reading| to.reference.wrapping_sub(from.reference) & mask;
    let per_second = |ticks: u64, passed: u64| {
        let ticks = u128::from(ticks) * u128::from(hz);
        ticks.checked_div(passed.into()).unwrap_or(0) as u64
    };
    let nearly = per_second(
        late.middle().saturating_sub(quick.middle()),
        passed(&quick, &late),
    );
    let began = |readings: &[Reading]| -> Option<u64> {
        let base = readings.first()?;
        let since = |reading: &Reading| {
            let ticks = u128::from(passed(base, reading)) * u128::from(nearly);
            ticks.checked_div(hz.into()).unwrap_or(0) as u64
        };
        let earliest = readings
            .iter()
            .map(|it| it.before.saturating_sub(since(it)))
            .max()?;
        let latest = readings
            .iter()
            .map(|it| it.behind.saturating_sub(since(it)))
            .min()?;
        Some(earliest.midpoint(latest))
    };
    match (first, last, began(first), began(last)) {
        ([from, ..], [to, ..], Some(start), Some(end)) => {
            per_second(end.saturating_sub(start), passed(from, to))
        }
        _ => nearly,
    }
}

/// The reading that took least time.
fn quickest(readings: &[Reading]) -> Option<Reading> {
    let quickest = readings
        .iter()
        .min_by_key(|it| it.behind.saturating_sub(it.before));
    quickest.copied()
}

impl Reading {
    fn middle(&self) -> u64 {
        self.before.midpoint(self.behind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    /// Readings from a moment on, in picoseconds, with what each took before and behind the other counter's value.
    fn readings(start: u64, rates: [u64; 2], mask: u64, delays: &[(u64, u64)]) -> Vec<Reading> {
        let count =
            |time: u64, hz: u64| (u128::from(time) * u128::from(hz) / 1_000_000_000_000) as u64;
        let [tsc_hz, hz] = rates;
        let mut time = start;
        let each = delays.iter().map(|&(before, behind)| {
            let reading = Reading {
                before: count(time, tsc_hz),
                reference: count(time + before, hz) & mask,
                behind: count(time + before + behind, tsc_hz),
            };
            time += before + behind;
            reading
        });
        each.collect()
    }

    fn delays() -> impl Strategy<Value = Vec<(u64, u64)>> {
        // Microseconds, of which few are quick on either side.
        prop::collection::vec((400_000_u64..3_000_000, 300_000_u64..9_000_000), 256)
    }

    proptest! {
        #[test]
        fn however_long_readings_take_the_rate_is_found(
            tsc_hz in 800_000_000_u64..6_000_000_000, start in 0_u64..100_000_000_000, first in delays(), last in delays(),
        ) {
            for (hz, mask) in [(100_000_000, u64::MAX >> 32), (14_318_180, u64::MAX >> 32), (3_579_545, 0xff_ffff)] {
                let read = |start, delays: &Vec<_>| readings(start, [tsc_hz, hz], mask, delays);
                let later = start + 83_000_000_000;
                let found = rate(&read(start, &first), &read(later, &last), hz, mask);
                let error = found.abs_diff(tsc_hz) as f64 / tsc_hz as f64;
                // Readings that are 500 ns quicker at one end, on one side, are rarer than one in a million.
                let nanoseconds = 250.0 + 0.5e9 / hz as f64;
                prop_assert!(error < nanoseconds / 83e6, "{error} at {hz} Hz");
            }
        }
    }

    #[test]
    fn a_counter_that_stands_still_has_no_rate() {
        let reading = Reading {
            before: 5,
            reference: 7,
            behind: 6,
        };
        assert_eq!(rate(&[reading; 4], &[reading; 4], 1000, 0xff), 0);
        assert_eq!(rate(&[], &[reading], 1000, 0xff), 0);
    }
}
