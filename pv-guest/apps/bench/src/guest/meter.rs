//! Taking the time of an operation.

use pv_guest::{boot, cpu, println};

/// How often an operation is made.
pub struct Meter {
    rounds: u64,
    batches: u64,
    only: Option<&'static str>,
}

/// The number behind `NAME=` on the command line.
pub fn option(name: &str) -> Option<u64> {
    boot::option(name)?.parse().ok()
}

/// Ticks that `action` takes.
pub fn ticks(action: impl FnOnce()) -> u64 {
    let start = cpu::tsc();
    action();
    cpu::tsc() - start
}

/// Prints a figure.
pub fn report(name: &str, ticks: u64) {
    println!("bench {name} {ticks}");
}

impl Meter {
    /// As the command line says.
    pub fn from_command_line() -> Self {
        Self {
            rounds: option("rounds").unwrap_or(1000).max(1),
            batches: option("batches").unwrap_or(15).max(1),
            only: boot::option("only"),
        }
    }

    /// Operations in a batch.
    pub fn rounds(&self) -> u64 {
        self.rounds
    }

    /// Batches of each operation.
    pub fn batches(&self) -> u64 {
        self.batches
    }

    /// How often an operation is made in all, to warm up too.
    pub fn total(&self) -> u64 {
        (self.batches + 1) * self.rounds
    }

    /// Whether an operation is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.is_none_or(|only| only == name)
    }

    /// Measures `operation`, of which the argument tells the round.
    pub fn measure(&self, name: &str, mut operation: impl FnMut(u64)) {
        self.measure_loop(name, |rounds| (0..rounds).for_each(&mut operation));
    }

    /// Measures two operations that undo each other, which `turn` makes `count` times; it is told whether it is the
    /// second one's turn. The first batch warms up.
    pub fn measure_turns(&self, names: [&str; 2], count: u64, mut turn: impl FnMut(bool)) {
        if !names.iter().any(|name| self.wants(name)) {
            return;
        }
        let mut best = [u64::MAX; 2];
        for batch in 0..=self.batches {
            for (best, second) in best.iter_mut().zip([false, true]) {
                let taken = ticks(|| turn(second));
                if batch > 0 {
                    *best = taken.min(*best);
                }
            }
        }
        for (name, best) in names.iter().zip(best) {
            report(name, best / count);
        }
    }

    /// Measures an operation that `rounds_of` makes as often as it is told. The first batch warms up.
    pub fn measure_loop(&self, name: &str, mut rounds_of: impl FnMut(u64)) {
        if !self.wants(name) {
            return;
        }
        let best = (0..=self.batches)
            .map(|_| ticks(|| rounds_of(self.rounds)))
            .skip(1)
            .min()
            .unwrap_or_default();
        report(name, best / self.rounds);
    }
}
