//! [`Claim`]: who is due how much of the processors' time.

use hypercall_abi::types::Domid;

/// What the units of one domain want that may run on the same processors.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The domain.
    pub domain: Domid,
    /// The processors, bit n for processor n.
    pub cpus: u64,
    /// How many units.
    pub units: u64,
    /// Their part of the domain's weight.
    pub weight: u64,
    /// The most that they may have together, in nanoseconds.
    pub most: u64,
    /// What they are due, in nanoseconds.
    pub given: u64,
    /// That is final.
    settled: bool,
}

impl Claim {
    /// A claim to which nothing is given yet.
    pub fn new(domain: Domid, cpus: u64) -> Self {
        Self {
            domain,
            cpus,
            units: 0,
            weight: 0,
            most: 0,
            given: 0,
            settled: false,
        }
    }
}

/// Gives the time `elapsed` of each of the processors `all` to those that claim it, by weight. What one cannot use goes
/// to the others.
///
/// Where more is due on some processors than there is of them, because units are limited to these, their time is
/// divided among those units alone, and that of the others among the rest.
pub fn share_out(elapsed: u64, all: u64, claims: &mut [Claim]) {
    let time = |cpus: u64| elapsed * u64::from(cpus.count_ones());
    let mut left = all;
    loop {
        divide(time(left), claims, |claim| !claim.settled);
        let Some(cpus) = most_wanted(claims, left, time) else {
            return;
        };
        let among = |claim: &Claim| !claim.settled && claim.cpus & left & !cpus == 0;
        divide(time(cpus), claims, among);
        for claim in claims.iter_mut() {
            claim.settled |= among(claim);
        }
        left &= !cpus;
    }
}

/// Those of the processors `left` of which most is due, for each, to units that may use no others, if that is more than
/// there is.
fn most_wanted(claims: &[Claim], left: u64, time: impl Fn(u64) -> u64) -> Option<u64> {
    let open = || claims.iter().filter(|claim| !claim.settled);
    let mut most = None;
    let mut before = 0;
    for cpus in open().map(|claim| claim.cpus & left) {
        // Claims on the same processors follow each other more often than not.
        if cpus == left || cpus == before {
            continue;
        }
        before = cpus;
        let inside = open().filter(|claim| claim.cpus & left & !cpus == 0);
        let due: u64 = inside.map(|claim| claim.given).sum();
        let excess = due.saturating_sub(time(cpus)) / u64::from(cpus.count_ones().max(1));
        if excess > most.map_or(0, |(excess, _)| excess) {
            most = Some((excess, cpus));
        }
    }
    most.map(|(_, cpus)| cpus)
}

/// Divides `time` by weight among the claims that `takes_part` picks.
fn divide(mut time: u64, claims: &mut [Claim], takes_part: impl Fn(&Claim) -> bool) {
    for claim in claims.iter_mut().filter(|claim| takes_part(claim)) {
        claim.given = 0;
    }
    loop {
        let open = |claim: &Claim| takes_part(claim) && claim.given < claim.most;
        let weights = claims.iter().filter(|claim| open(claim));
        let weight: u64 = weights.map(|claim| claim.weight).sum();
        if weight == 0 || time == 0 {
            return;
        }
        let share = |claim: &Claim| {
            (u128::from(time) * u128::from(claim.weight) / u128::from(weight)) as u64
        };
        let mut taken = 0;
        for claim in claims.iter_mut() {
            if open(claim) && share(claim) >= claim.most {
                claim.given = claim.most;
                taken += claim.most;
            }
        }
        if taken == 0 {
            for claim in claims.iter_mut().filter(|claim| open(claim)) {
                claim.given = share(claim);
            }
            return;
        }
        time -= taken;
    }
}
