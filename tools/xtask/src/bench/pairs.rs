//! Two domains that wake each other in turns, on one CPU and on two; see the guest `bench`.

use super::machine::Machine;
use crate::workspace::Workspace;
use anyhow::{Result, bail};
use std::path::Path;
use std::time::Duration;

/// How long one pair may take: under emulation it falls into a step, now and then, in which each turn takes 8 ms.
const LIMIT: Duration = Duration::from_secs(90);

/// What is measured, and the CPU of each domain.
const PAIRS: [(&str, [u32; 2]); 2] = [
    ("ping-pong-same-cpu", [1, 1]),
    ("ping-pong-two-cpus", [0, 1]),
];

/// Measures them under a hypervisor; what the guests wrote.
pub fn run(workspace: &Workspace, hypervisor: &Path) -> Result<String> {
    let machine = Machine::boot(workspace, hypervisor, 2)?;
    let mut text = String::new();
    for (name, cpus) in PAIRS {
        text.push_str(&pair(&machine, name, cpus)?);
    }
    Ok(text)
}

fn pair(machine: &Machine, name: &str, cpus: [u32; 2]) -> Result<String> {
    let names = ["first", "second"];
    for (domain, cpu) in names.iter().zip(cpus) {
        // Many short batches: one of them hits no interrupt.
        let extra = format!("xen.fifo_events=0 pair={name} rounds=10 batches=240");
        machine.create(domain, "bench", &extra, &format!("cpus = \"{cpu}\""))?;
    }
    for [own, peer] in [names, ["second", "first"]] {
        let id = |name: &str| machine.xl(&format!("domid {name}"));
        let (own, peer) = (id(own)?, id(peer)?);
        let path = format!("/local/domain/{}/data/peer", own.trim());
        machine.xl(&format!("xenstore write {path} {}", peer.trim()))?;
    }
    for name in names {
        machine.xl(&format!("unpause {name}"))?;
    }
    // The second measures, and is gone afterwards; then its console ends.
    let text = machine.host().console_text("second", LIMIT, LIMIT)?;
    if !text.contains("# done") {
        bail!("the pair did not finish:\n{text}");
    }
    Ok(text)
}
