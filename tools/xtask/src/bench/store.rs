//! How long a guest's requests to the store take, alone and beside a guest that floods it.

use super::machine::Machine;
use crate::progress::Step;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::array::from_fn;
use std::path::Path;
use std::time::Duration;

/// What the other guest does: words on the command line of `storeflood`, and what it prints when it has done that.
pub const FLOODS: [(&str, &str); 4] = [
    ("transactions", "transactions open"),
    ("watches", "watches set"),
    ("rewatch", "watches set"),
    ("requests", "requests done"),
];
/// How often each is measured beside none. The best counts: what else the machine does comes and goes.
const TURNS: usize = 2;
/// How long it is measured at a time.
const WINDOW: Duration = Duration::from_secs(2);

/// Microseconds that requests take a guest: the median of its reads, that of its writes, and the mean of both.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Times(pub [f64; 3]);

impl Times {
    /// Longer than any.
    pub const LONGEST: Self = Self([f64::INFINITY; 3]);

    /// How many times those of `alone` these are.
    #[must_use]
    pub fn over(self, alone: Self) -> Self {
        Self(from_fn(|what| self.0[what] / alone.0[what]))
    }

    /// The shorter of each.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self(from_fn(|what| self.0[what].min(other.0[what])))
    }

    /// The median of each; none of nothing.
    pub fn median(times: &[Self]) -> Option<Self> {
        let middle = |what| {
            let mut values: Vec<f64> = times.iter().map(|times| times.0[what]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        (!times.is_empty()).then(|| Self(from_fn(middle)))
    }
}

/// The rounds that the guest `storeflood` reports where it measures, by their numbers.
pub fn rounds(text: &str) -> Vec<(u32, Times)> {
    text.lines().filter_map(round).collect()
}

fn round(line: &str) -> Option<(u32, Times)> {
    let (number, times) = line
        .trim_end()
        .split_once("storeflood: round ")?
        .1
        .split_once(": ")?;
    let mut next = times.split(", ");
    let times = ["median read ", "write ", "mean "].map(|what| {
        let time = next.next()?.strip_prefix(what)?.strip_suffix(" us")?;
        time.parse().ok()
    });
    let [Some(read), Some(write), Some(mean)] = times else {
        return None;
    };
    Some((number.parse().ok()?, Times([read, write, mean])))
}

/// Measures and prints the table.
pub fn run(workspace: &Workspace, hypervisor: &Path) -> Result<()> {
    let step = Step::start("measure the store");
    let mut rows = Vec::new();
    for cpus in [1, 2] {
        let mut bench = Bench {
            machine: Machine::boot(workspace, hypervisor, cpus)?,
            last: 0,
        };
        bench.start("honest", "measure")?;
        for (flood, _) in FLOODS {
            step.at(format!("{flood}, {cpus} CPUs"));
            let [mut alone, mut begun, mut going] = [Times::LONGEST; 3];
            for _ in 0..TURNS {
                alone = bench.measure()?.or(alone);
                bench.start("hostile", flood)?;
                begun = bench.measure()?.or(begun);
                going = bench.measure()?.or(going);
                bench.machine.xl("destroy hostile")?;
            }
            rows.push((cpus, flood, alone, begun, going));
        }
    }
    step.done();
    println!(
        "\n| CPUs | beside | us | | times as long at first | later |\n|--:|---|---|--:|--:|--:|"
    );
    for (cpus, flood, alone, begun, going) in rows {
        let (begun, going) = (begun.over(alone), going.over(alone));
        for (what, name) in ["median read", "median write", "mean"].iter().enumerate() {
            let [alone, begun, going] = [alone, begun, going].map(|it| it.0[what]);
            println!("| {cpus} | {flood} | {name} | {alone} | {begun:.2} | {going:.2} |");
        }
    }
    Ok(())
}

/// A host with a guest `honest` that measures.
struct Bench {
    machine: Machine,
    /// Its last round that was looked at.
    last: u32,
}

impl Bench {
    fn start(&self, name: &str, does: &str) -> Result<()> {
        self.machine.create(name, "storeflood", does, "")?;
        self.machine.xl(&format!("unpause {name}"))?;
        Ok(())
    }

    /// What it reports from now on.
    fn measure(&mut self) -> Result<Times> {
        // What it has reported until now; a round that is under way is not all of what comes.
        let before = self.report(Duration::from_millis(1), WINDOW)?;
        let begun = before.last().map_or(self.last, |(number, _)| *number) + 1;
        let rounds = self.report(WINDOW, WINDOW)?;
        let times: Vec<Times> = rounds
            .iter()
            .filter(|(number, _)| *number > begun)
            .map(|(_, times)| *times)
            .collect();
        let Some(times) = Times::median(&times) else {
            bail!("the guest did not measure anything in {WINDOW:?}");
        };
        self.last = rounds.last().map_or(begun, |(number, _)| *number);
        Ok(times)
    }

    fn report(&self, silence: Duration, limit: Duration) -> Result<Vec<(u32, Times)>> {
        let text = self.machine.host().console_text("honest", silence, limit)?;
        Ok(rounds(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_read_from_a_console_and_lines_cut_short_are_none() {
        let text = "und 3: median read 1 us, write 2 us, mean 3 us\n\
                    storeflood: round 4: median read 260 us, write 301 us, mean 280 us\r\n\
                    storeflood: round 5: EAGAIN\n\
                    storeflood: round 6: median read 270 us, write 310 us, mean 2";
        assert_eq!(rounds(text), [(4, Times([260.0, 301.0, 280.0]))]);
    }

    #[test]
    fn of_each_time_the_median_and_the_best_count() {
        let times = [[1.0, 9.0, 5.0], [3.0, 7.0, 5.0], [2.0, 8.0, 5.0]].map(Times);
        assert_eq!(Times::median(&times), Some(Times([2.0, 8.0, 5.0])));
        assert_eq!(Times::median(&[]), None);
        assert_eq!(times[0].or(times[1]), Times([1.0, 7.0, 5.0]));
        assert_eq!(times[1].over(times[0]).0[0], 3.0);
    }
}
