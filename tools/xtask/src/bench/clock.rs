//! How far a guest's clock goes from this machine's in a minute, under our hypervisor and under Xen.

use super::operations::guest;
use crate::log::{Log, Next};
use crate::progress::Step;
use crate::qemu::Accel;
use crate::reference;
use crate::workspace::Workspace;
use anyhow::{Context, Result};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the guest tells the time, in seconds.
const SECONDS: u64 = 70;
/// Of each such piece of it, the line that came with the least delay counts.
const PIECE: Duration = Duration::from_secs(2);
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(SECONDS + 60);

/// Measures and prints the table.
pub fn run(workspace: &Workspace, hypervisor: &Path) -> Result<()> {
    let step = Step::start("measure clocks");
    let ours = drift(workspace, hypervisor)?;
    let theirs = reference::xen(workspace).and_then(|xen| drift(workspace, &xen));
    step.done();
    println!("\n| a guest's clock beside this machine's | Xen 4.17 | Xenolith |\n|---|--:|--:|");
    let theirs = theirs.map_or_else(|_| String::new(), |it| format!("{it:+.0}"));
    println!("| ahead, us after a minute | {theirs} | {ours:+.0} |");
    Ok(())
}

/// Microseconds that a guest's clock gains in a minute.
fn drift(workspace: &Workspace, hypervisor: &Path) -> Result<f64> {
    let words = format!("clock={SECONDS}");
    let (qemu, _stage) = guest(workspace, hypervisor, Accel::Tcg, &words)?;
    let lines = read(qemu.log(), Instant::now() + LIMIT);
    gain(&lines).context("the guest did not tell the time")
}

/// The times that a log says, beside when it did: both in nanoseconds.
fn read(log: &Log, deadline: Instant) -> Vec<(i64, i64)> {
    let (start, mut cursor, mut lines) = (Instant::now(), 0, Vec::new());
    while let Next::Line(line) = log.next_line(&mut cursor, deadline) {
        let here = start.elapsed().as_nanos() as i64;
        if line.starts_with("# done") {
            break;
        }
        let said = line.strip_prefix("clock ");
        lines.extend(said.and_then(|it| Some((here, it.trim().parse().ok()?))));
    }
    lines
}

/// Microseconds in a minute that what is said gains on when it was. A line comes late by chance, never early, and even
/// the best of a piece some time late: what counts is the median of the gains between any two pieces.
fn gain(lines: &[(i64, i64)]) -> Option<f64> {
    let piece = PIECE.as_nanos() as i64;
    let start = lines.first()?.0;
    let pieces = lines.chunk_by(|one, next| (one.0 - start) / piece == (next.0 - start) / piece);
    let best = pieces.filter_map(|lines| lines.iter().min_by_key(|(here, said)| here - said));
    let best: Vec<_> = best.collect();
    let mut gains = Vec::new();
    for (nth, before) in best.iter().enumerate() {
        for after in &best[nth + 1..] {
            let passed = after.0 - before.0;
            let gained = (after.1 - before.1) - passed;
            gains.push(gained as f64 / passed as f64 * 60e6);
        }
    }
    gains.sort_unstable_by(f64::total_cmp);
    gains.get(gains.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_gains_is_seen_to_whatever_delays_some_lines() {
        let lines: Vec<(i64, i64)> = (0..7000)
            .map(|line| {
                let said = line * 10_000_000;
                // Two parts in a million.
                let delay = 30_000
                    + if line % 7 == 3 {
                        0
                    } else {
                        line % 13 * 100_000
                    };
                (said - said / 500_000 + delay, said)
            })
            .collect();
        let gain = gain(&lines).expect("lines");
        assert!((gain - 120.0).abs() < 1.0, "{gain}");
    }
}
