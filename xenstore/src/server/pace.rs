//! Guests that had more than a share of the store's time wait while others want some.
//!
//! That each client has its turn bounds how many requests come before another's, and not what they
//! cost: one that asks again and again, for what is dear, would have nearly all of the time, and its
//! vCPUs that of the processor.

use alloc::collections::BTreeSet;
use core::time::Duration;

use super::ClientId;

/// While others want some, a guest may have one part in so many of the store's time.
const SHARE: u32 = 8;

/// The same of a guest that asks nothing before it has its answer. Such a one leaves most of the time to others by
/// itself unless its requests are dear ones, and it is not to suffer because others have something to fear.
const MODEST_SHARE: u32 = 3;

/// Time that it may have at once, before that counts.
const BURST: Duration = Duration::from_millis(20);

/// For so long after its last request a client counts as one that wants more.
const WANTING: Duration = Duration::from_millis(100);

/// The longest that a guest waits.
const LONGEST: Duration = Duration::from_millis(100);

/// The least that a guest waits, and then has its part of at once. To be waked for each of its requests, and to wake
/// it, would cost others more than what is booked for them.
const SLICE: Duration = Duration::from_millis(25);

/// When what a guest had is paid for.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Meter(Duration);

impl Meter {
    /// Books time that was spent on the guest until `now`. It `has_more` if its next request is there already.
    pub fn charge(&mut self, now: Duration, spent: Duration, has_more: bool) {
        let share = if has_more { SHARE } else { MODEST_SHARE };
        let paid = self.0.max(now).saturating_add(spent * share);
        // What it had while nobody else wanted anything is not counted for ever.
        self.0 = paid.min(now + BURST * SHARE + (LONGEST - SLICE));
    }

    /// When its next request is due.
    fn due(self) -> Duration {
        self.0.saturating_sub(BURST * SHARE)
    }
}

/// Who was served last, and who waits.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Two different clients, the last first, and when they were served.
    last: [Option<(ClientId, Duration)>; 2],
    held: BTreeSet<(Duration, ClientId)>,
}

impl Pace {
    /// Notes that a client is served.
    pub fn note(&mut self, client: ClientId, now: Duration) {
        let [first, second] = &mut self.last;
        if first.is_some_and(|(last, _)| last != client) {
            *second = *first;
        }
        *first = Some((client, now));
    }

    /// Has a client wait if it is to; whether it is.
    pub fn hold(&mut self, client: ClientId, meter: Meter, now: Duration) -> bool {
        let wanted = self
            .last
            .iter()
            .flatten()
            .any(|(other, served)| *other != client && now.saturating_sub(*served) < WANTING);
        let due = meter.due();
        let waits = wanted && !client.is_privileged() && due > now;
        if waits {
            self.held.insert((due + SLICE, client));
        }
        waits
    }

    /// The next client that has waited long enough.
    pub fn release(&mut self, now: Duration) -> Option<ClientId> {
        let (due, client) = *self.held.first()?;
        (due <= now).then(|| {
            self.held.remove(&(due, client));
            client
        })
    }

    /// When the next one will have.
    pub fn deadline(&self) -> Option<Duration> {
        self.held.first().map(|(due, _)| *due)
    }
}
