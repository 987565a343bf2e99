//! How much a guest may send: so many bytes in each interval (`rate=` of `xl`).

/// The least that can be saved up, in bytes: the largest frame must be sent some time.
const LEAST_BURST: u64 = 128 * 1024;

/// A rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Bytes in an interval.
    pub bytes: u64,
    /// The interval, in microseconds.
    pub interval_us: u32,
}

impl Rate {
    /// As the backend's node `rate` has it: both numbers with a comma; none if there is no limit.
    pub fn parse(value: &str) -> Option<Self> {
        let (bytes, interval) = value.trim().split_once(',')?;
        let rate = Self {
            bytes: bytes.parse().ok()?,
            interval_us: interval.parse().ok()?,
        };
        (rate.bytes > 0 && rate.interval_us > 0).then_some(rate)
    }
}

/// What is left of a rate.
#[derive(Clone, Copy, Debug)]
pub struct Credit {
    rate: Option<Rate>,
    left: u64,
    /// When the interval began, in nanoseconds.
    since: u64,
}

impl Credit {
    /// A full one.
    pub fn new(rate: Option<Rate>, now: u64) -> Self {
        Self {
            rate,
            left: rate.map_or(0, |rate| rate.bytes.max(LEAST_BURST)),
            since: now,
        }
    }

    /// Takes as many bytes.
    ///
    /// # Errors
    ///
    /// When there may be enough, in nanoseconds, if there are not.
    pub fn take(&mut self, bytes: usize, now: u64) -> Result<(), u64> {
        let Some(rate) = self.rate else {
            return Ok(());
        };
        let interval = u64::from(rate.interval_us) * 1000;
        let passed = now.saturating_sub(self.since) / interval;
        let most = rate.bytes.max(LEAST_BURST);
        self.since = self.since.saturating_add(passed * interval);
        self.left = rate
            .bytes
            .saturating_mul(passed)
            .saturating_add(self.left)
            .min(most);
        match self.left.checked_sub(bytes as u64) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => Err(self.since.saturating_add(interval)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_rate_is_sent_over_time() {
        let rate = Rate::parse("1000,50000").unwrap();
        let mut credit = Credit::new(Some(rate), 7);
        let mut sent = 0;
        let mut now = 7;
        while now < 10_000_000_000 {
            match credit.take(1500, now) {
                Ok(()) => sent += 1500,
                Err(later) => {
                    assert!(later > now);
                    now = later;
                }
            }
        }
        let most = 10_000_000_000 / 50_000_000 * 1000 + LEAST_BURST;
        assert!((most - 3000..=most).contains(&sent), "{sent} of {most}");
    }

    #[test]
    fn without_a_rate_there_is_no_limit() {
        let mut credit = Credit::new(None, 0);
        assert!((0..1000).all(|_| credit.take(65535, 0).is_ok()));
        for odd in ["", "1", "0,5", "5,0", "x,1", "1,-1"] {
            assert_eq!(Rate::parse(odd), None, "{odd}");
        }
    }
}
