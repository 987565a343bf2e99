//! The balloon: this domain's memory follows `memory/target` in the store, as Linux' does
//! (`drivers/xen/xen-balloon.c`; `docs/misc/xenstore-paths.pandoc`).
//!
//! What is above the target goes back to the hypervisor, but for a reserve that the kernel keeps for
//! itself; what is below comes from it. Where that is not possible at the moment, it is tried again
//! after a while, and after ever longer ones while it is in vain.

use core::time::Duration;

use hypercall_abi::errno::Errno;

use crate::store::{Error, Store};

/// Pages that are given or taken at a time; other tasks run in between.
const STEP: u64 = 512;

/// Free pages that are never given away: 2 MiB.
pub const RESERVE: u64 = 512;

/// The first wait after an attempt in vain, and the longest.
const WAITS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(32)];

/// Memory that can be given to the hypervisor and taken from it, in pages.
pub trait Reservation {
    /// What there is.
    fn pages(&self) -> u64;

    /// What there can be.
    fn limit(&self) -> u64;

    /// What of [`Self::pages`] is free.
    fn free(&self) -> u64;

    /// Gives so many free pages away; how many it were.
    fn give(&mut self, pages: u64) -> u64;

    /// Takes so many; how many there were to have.
    fn take(&mut self, pages: u64) -> u64;
}

/// How far a step came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// There is as much memory as there is to be.
    Done,
    /// There is more to do at once.
    More,
    /// There is more to do after a while.
    Later(Duration),
}

/// What brings memory to a target.
#[derive(Debug)]
pub struct Balloon<R> {
    memory: R,
    wait: Duration,
}

impl<R: Reservation> Balloon<R> {
    /// Of this memory.
    pub fn new(memory: R) -> Self {
        Self {
            memory,
            wait: WAITS[0],
        }
    }

    /// The memory.
    pub fn memory(&self) -> &R {
        &self.memory
    }

    /// Does a part of what is to be done for there to be `target` pages. More than there can be is
    /// as many as there can be.
    pub fn step(&mut self, target: u64) -> Progress {
        let pages = self.memory.pages();
        let target = target.min(self.memory.limit());
        let wanted = pages.abs_diff(target).min(STEP);
        let done = if wanted == 0 {
            self.wait = WAITS[0];
            return Progress::Done;
        } else if pages < target {
            self.memory.take(wanted)
        } else {
            match wanted.min(self.memory.free().saturating_sub(RESERVE)) {
                0 => 0,
                spare => self.memory.give(spare),
            }
        };
        if done > 0 {
            self.wait = WAITS[0];
            return Progress::More;
        }
        let wait = self.wait;
        self.wait = (wait * 2).min(WAITS[1]);
        Progress::Later(wait)
    }
}

/// The pages that a node has, which is in KiB; `None` where there is no such node or no number in it.
///
/// # Errors
///
/// If the connection fails.
pub async fn pages_at(store: &Store, path: &str) -> Result<Option<u64>, Error> {
    match store.parse::<u64>(path).await {
        Ok(kib) => Ok(Some(kib / 4)),
        Err(Error::Refused(Errno::ENOENT | Errno::EINVAL | Errno::EACCES)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Follows the target for as long as there is a store to tell it. It says why it ends unless there is
/// no store at all.
#[cfg(target_os = "none")]
pub async fn follow_target() {
    match follow().await {
        Ok(()) | Err(Error::NoStore) => {}
        Err(error) => crate::println!("balloon: no targets come through: {error}"),
    }
}

#[cfg(target_os = "none")]
async fn follow() -> Result<(), Error> {
    use crate::memory::OwnReservation;
    use crate::{clock, yield_now};

    const TARGET: &str = "memory/target";

    let store = crate::store::store()?;
    let Some(mut memory) = OwnReservation::take() else {
        // Somebody follows already.
        return Ok(());
    };
    let mut watch = store.watch(TARGET);
    watch.next().await?;
    if let Some(limit) = pages_at(&store, "memory/static-max").await? {
        memory.restrict(limit);
    }
    let mut balloon = Balloon::new(memory);
    let mut target = pages_at(&store, TARGET).await?;
    loop {
        match target.map_or(Progress::Done, |target| balloon.step(target)) {
            Progress::More => {
                yield_now().await;
                continue;
            }
            Progress::Done => _ = watch.next().await?,
            Progress::Later(wait) => match clock::timeout(wait, watch.next()).await {
                Ok(event) => _ = event?,
                Err(clock::Elapsed) => continue,
            },
        }
        target = pages_at(&store, TARGET).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Memory of which some is in use, in a machine that has so much to give.
    #[derive(Debug)]
    struct Memory {
        pages: u64,
        used: u64,
        machine: u64,
    }

    const LIMIT: u64 = 65536;

    impl Reservation for Memory {
        fn pages(&self) -> u64 {
            self.pages
        }

        fn limit(&self) -> u64 {
            LIMIT
        }

        fn free(&self) -> u64 {
            self.pages - self.used
        }

        fn give(&mut self, pages: u64) -> u64 {
            assert!(pages > 0 && pages <= self.free());
            self.pages -= pages;
            self.machine += pages;
            pages
        }

        fn take(&mut self, pages: u64) -> u64 {
            assert!(pages > 0 && self.pages + pages <= LIMIT);
            let pages = pages.min(self.machine);
            self.pages += pages;
            self.machine -= pages;
            pages
        }
    }

    fn balloon(pages: u64, used: u64, machine: u64) -> Balloon<Memory> {
        Balloon::new(Memory {
            pages,
            used,
            machine,
        })
    }

    /// Steps until there is nothing to do at once.
    fn settle(balloon: &mut Balloon<Memory>, target: u64) -> Progress {
        for _ in 0..1000 {
            match balloon.step(target) {
                Progress::More => {}
                progress => return progress,
            }
        }
        panic!("no end");
    }

    #[test]
    fn memory_goes_down_to_a_target_and_up_again() {
        let mut balloon = balloon(65536, 4000, 0);
        for _ in 0..10 {
            assert_eq!(settle(&mut balloon, 16384), Progress::Done);
            assert_eq!(balloon.memory().pages, 16384);
            assert_eq!(settle(&mut balloon, 65536), Progress::Done);
            assert_eq!(balloon.memory().pages, 65536);
        }
    }

    #[test]
    fn one_step_is_bounded() {
        let mut balloon = balloon(65536, 0, 0);
        assert_eq!(balloon.step(0), Progress::More);
        assert_eq!(balloon.memory().pages, 65536 - STEP);
    }

    #[test]
    fn a_target_beyond_the_limit_is_the_limit() {
        let mut balloon = balloon(100, 100, 1 << 30);
        assert_eq!(settle(&mut balloon, u64::MAX), Progress::Done);
        assert_eq!(balloon.memory().pages, LIMIT);
    }

    #[test]
    fn the_reserve_stays_whatever_the_target() {
        let mut balloon = balloon(65536, 4000, 0);
        assert!(matches!(settle(&mut balloon, 0), Progress::Later(_)));
        assert_eq!(balloon.memory().pages, 4000 + RESERVE);
        // What is used grows into the reserve: nothing more is given, and nothing is taken either.
        balloon.memory.used += 100;
        assert!(matches!(settle(&mut balloon, 0), Progress::Later(_)));
        assert_eq!(balloon.memory().pages, 4000 + RESERVE);
        // What is free again is given.
        balloon.memory.used = 0;
        assert!(matches!(settle(&mut balloon, 0), Progress::Later(_)));
        assert_eq!(balloon.memory().pages, RESERVE);
    }

    #[test]
    fn attempts_in_vain_come_ever_less_often_until_one_succeeds() {
        let mut balloon = balloon(100, 0, 0);
        let mut waits = Vec::new();
        for _ in 0..12 {
            let Progress::Later(wait) = balloon.step(1000) else {
                panic!("there is no memory");
            };
            waits.push(wait.as_millis());
        }
        assert_eq!(waits[..4], [100, 200, 400, 800]);
        assert_eq!(waits[9..], [32_000; 3]);
        balloon.memory.machine = 1;
        assert_eq!(balloon.step(1000), Progress::More);
        assert_eq!(balloon.step(1000), Progress::Later(WAITS[0]));
    }

    proptest! {
        #[test]
        fn no_page_is_lost_and_the_reserve_is_kept(
            used in 0..5000_u64,
            machine in 0..100_000_u64,
            targets in proptest::collection::vec(0..100_000_u64, 1..20),
        ) {
            let all = 6000 + machine;
            let mut balloon = balloon(6000, used, machine);
            for target in targets {
                settle(&mut balloon, target);
                let memory = balloon.memory();
                prop_assert_eq!(memory.pages + memory.machine, all);
                prop_assert!(memory.free() >= RESERVE);
                let wanted = target.min(LIMIT).min(all).max(used + RESERVE);
                prop_assert_eq!(memory.pages, wanted);
            }
        }
    }
}
