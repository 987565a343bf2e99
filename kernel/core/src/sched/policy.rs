//! What a scheduling policy must answer.

use hypercall_abi::types::Domid;

/// A policy's name for one thing that it schedules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct UnitId(pub u32);

/// Who runs on a CPU, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<T> {
    /// Who runs; `None` for nobody.
    pub next: Option<T>,
    /// System time in nanoseconds at which the CPU is to ask again at the latest; `u64::MAX` for never.
    pub until: u64,
    /// Other CPUs that are to ask now (bit n for CPU n).
    pub ask: u64,
}

/// A domain's share (`XEN_DOMCTL_scheduler_op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// Share of the processors relative to other domains; not 0.
    pub weight: u16,
    /// Most that the domain may use, in percent of one processor; 0 for no limit.
    pub cap: u16,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            weight: super::credit::WEIGHT,
            cap: 0,
        }
    }
}

/// A scheduling policy over units `T`, without a clock or a lock of its own. Times are system time in
/// nanoseconds and do not go backwards.
pub trait Scheduler<T> {
    /// What the interface calls it (`XEN_SCHEDULER_*`).
    fn id(&self) -> u32;
    /// Adds a unit of a domain, asleep, allowed on all CPUs.
    fn insert(&mut self, domain: Domid, payload: T) -> UnitId;
    /// Removes a unit. The domain's parameters go with its last one. Returns CPUs that are to ask again because of that
    /// (bit n for CPU n).
    #[must_use]
    fn remove(&mut self, id: UnitId) -> u64;
    /// The unit is runnable, from `now` on. Returns a CPU that is to ask again because of that.
    #[must_use]
    fn wake(&mut self, id: UnitId, now: u64) -> Option<u32>;
    /// The unit is not runnable. Returns the CPU that runs it, which is to ask again.
    #[must_use]
    fn sleep(&mut self, id: UnitId) -> Option<u32>;
    /// Whoever runs on `cpu` lets others go first, once.
    fn yield_now(&mut self, cpu: u32);
    /// Decides who runs on `cpu`, which ends the turn of whoever runs there.
    fn pick(&mut self, cpu: u32, now: u64) -> Decision<T>;
    /// Limits a unit to CPUs (bit n for CPU n). Returns those that are to ask again because of that.
    #[must_use]
    fn set_affinity(&mut self, id: UnitId, cpus: u64) -> u64;
    /// The CPUs that a unit may use.
    fn affinity(&self, id: UnitId) -> u64;
    /// Has a unit use some CPUs rather than others, of those that it may use.
    fn set_soft_affinity(&mut self, id: UnitId, cpus: u64);
    /// A domain's share, if it has a unit and the policy knows shares.
    fn parameters(&self, domain: Domid) -> Option<Parameters>;
    /// Sets a domain's share.
    fn set_parameters(&mut self, domain: Domid, parameters: Parameters);
    /// Time slice and rate limit in nanoseconds.
    fn slice(&self) -> (u64, u64);
    /// Sets time slice and rate limit in nanoseconds.
    fn set_slice(&mut self, slice: u64, rate_limit: u64);
}
