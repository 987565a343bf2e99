//! How much one guest sends another by TCP, as the guest `netcheck` says: what arrives is looked at as well.

use super::machine::Machine;
use crate::progress::Step;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;

/// What is sent in a run, in MiB.
const MIB: u64 = 128;
/// How often.
const RUNS: usize = 5;
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Where the receiver is, and the sender.
const ADDRESSES: [&str; 2] = ["10.0.2.50", "10.0.2.51"];

/// Measures and prints the table.
pub fn run(workspace: &Workspace, hypervisor: &Path) -> Result<()> {
    let step = Step::start("measure the network");
    let mut rows = Vec::new();
    for cpus in [1, 2] {
        let machine = Machine::boot(workspace, hypervisor, cpus)?;
        let speeds: Result<Vec<u64>> = (0..RUNS).map(|_| send(&machine)).collect();
        let mut speeds = speeds?;
        speeds.sort_unstable();
        rows.push((cpus, speeds[RUNS / 2], speeds[0], speeds[RUNS - 1]));
    }
    step.done();
    println!("\n| CPUs | TCP from guest to guest, MiB/s | least | most |\n|--:|--:|--:|--:|");
    for (cpus, median, least, most) in rows {
        println!("| {cpus} | {median} | {least} | {most} |");
    }
    Ok(())
}

/// One run between two new guests, in MiB a second.
fn send(machine: &Machine) -> Result<u64> {
    let [to, from] = ADDRESSES;
    let lines = "vcpus = 2\nvif = ['']";
    let words = format!("address={from} to={to} mib={MIB} stop=1");
    machine.create("receiver", "netcheck", &format!("address={to}"), lines)?;
    machine.create("sender", "netcheck", &words, lines)?;
    for name in ["receiver", "sender"] {
        machine.xl(&format!("unpause {name}"))?;
    }
    let text = machine.host().console_text("sender", LIMIT, LIMIT)?;
    machine.xl("destroy receiver")?;
    if !text.contains("all arrived") {
        bail!("not all arrived:\n{text}");
    }
    speed(&text).with_context(|| format!("the sender does not say how fast it was:\n{text}"))
}

/// What is before "MiB/s".
fn speed(text: &str) -> Option<u64> {
    let (before, _) = text.split_once(" MiB/s")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_what_the_guest_says() {
        let text = "netcheck: 128 MiB sent in 4000 ms, 32 MiB/s: all arrived\n";
        assert_eq!(speed(text), Some(32));
        assert_eq!(speed("netcheck: WRONG: 0 of 5 bytes arrived"), None);
    }
}
