//! Reads and writes of a disk by a guest, beside the control domain's own of the same disk.

use super::machine::Machine;
use crate::progress::Step;
use crate::qemu::{Disk, Hardware};
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use control::volume::Workload;
use control::{Reply, Request, VolumeReply, VolumeRequest};
use std::path::Path;
use std::time::Duration;

/// What the volume is called.
const VOLUME: &str = "data";
/// Bytes of the disk.
const SIZE: u64 = 256 << 20;
/// How long a guest may take.
const LIMIT: Duration = Duration::from_secs(180);
/// Guest and control domain take turns so often, and the best counts: what else the machine does comes and goes.
const RUNS: usize = 3;

/// A row of operations, and nanoseconds that it took.
struct Row {
    workload: Workload,
    guest: u64,
    dom0: u64,
}

/// Measures and prints the table.
pub fn run(workspace: &Workspace, hypervisor: &Path) -> Result<()> {
    let step = Step::start("measure disks");
    let file = tempfile::NamedTempFile::new()?;
    // No holes: reading them is no reading.
    std::fs::write(file.path(), vec![0x5a; usize::try_from(SIZE)?])?;
    let hardware = Hardware {
        cpus: 2,
        disks: vec![Disk {
            serial: VOLUME.to_owned(),
            file: file.path().to_owned(),
            read_only: false,
        }],
        ..Hardware::default()
    };
    let machine = Machine::boot_on(workspace, hypervisor, &hardware)?;
    let mut rows: Vec<Row> = Vec::new();
    for number in 1..=RUNS {
        step.at(format!("run {number} of {RUNS}"));
        for (workload, guest) in guest(&machine)? {
            let dom0 = dom0(&machine, workload)?;
            match rows.iter_mut().find(|row| row.workload == workload) {
                Some(row) => {
                    row.guest = row.guest.min(guest);
                    row.dom0 = row.dom0.min(dom0);
                }
                None => rows.push(Row {
                    workload,
                    guest,
                    dom0,
                }),
            }
        }
    }
    step.done();
    print!("{}", table(&rows));
    Ok(())
}

/// What a guest measures.
fn guest(machine: &Machine) -> Result<Vec<(Workload, u64)>> {
    let disk = format!("disk = ['phy:{VOLUME},raw,xvda,w']");
    machine.create("guest", "bench", "disk=xvda", &disk)?;
    machine.xl("unpause guest")?;
    let text = machine.host().console_text("guest", LIMIT, LIMIT)?;
    if !text.contains("# done") {
        bail!("the guest did not finish:\n{text}");
    }
    Ok(text.lines().filter_map(parse).collect())
}

fn parse(line: &str) -> Option<(Workload, u64)> {
    let numbers = line.strip_prefix("disk ")?.split_ascii_whitespace();
    let numbers: Option<Vec<u64>> = numbers.map(|word| word.parse().ok()).collect();
    let [write, random, bytes, depth, count, ns] = *numbers? else {
        return None;
    };
    let workload = Workload {
        write: write != 0,
        random: random != 0,
        bytes: bytes.try_into().ok()?,
        depth: depth.try_into().ok()?,
        count: count.try_into().ok()?,
    };
    Some((workload, ns))
}

/// What the control domain takes for the same.
fn dom0(machine: &Machine, workload: Workload) -> Result<u64> {
    let mut client = machine.host().connect(LIMIT)?;
    let channel = client.open()?;
    let name = VOLUME.to_owned();
    let request = Request::Volume(VolumeRequest::Measure { name, workload });
    match client.call(channel, &request).context("dom0's own disk")? {
        Reply::Volume(VolumeReply::Measured { ns }) => Ok(ns),
        other => bail!("no time but {other:?}"),
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("\n| a disk | dom0 | guest | ratio |\n|---|--:|--:|--:|\n");
    for row in rows {
        let Workload {
            write,
            random,
            bytes,
            depth,
            count,
        } = row.workload;
        let what = format!(
            "{} KiB, {} {}",
            bytes / 1024,
            if random { "random" } else { "sequential" },
            if write { "writes" } else { "reads" }
        );
        let (dom0, guest) = (row.dom0.max(1) as f64, row.guest.max(1) as f64);
        let line = if depth == 1 {
            let each = |ns: f64| ns / f64::from(count) / 1e3;
            format!(
                "| {what}, one at a time, us each | {:.0} | {:.0} | {:.2} |\n",
                each(dom0),
                each(guest),
                guest / dom0
            )
        } else {
            let mib = f64::from(bytes) * f64::from(count) / f64::from(1 << 20);
            format!(
                "| {what}, {depth} at a time, MiB/s | {:.1} | {:.1} | {:.2} |\n",
                mib / (dom0 / 1e9),
                mib / (guest / 1e9),
                dom0 / guest
            )
        };
        text.push_str(&line);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_time_for_one_at_a_time_and_of_speed_for_many() {
        let row = |line: &str, dom0| {
            let (workload, guest) = parse(line).expect("a line of the guest's");
            Row {
                workload,
                guest,
                dom0,
            }
        };
        let rows = [
            row("disk 0 1 4096 1 100 20000000", 10_000_000),
            row("disk 1 0 131072 16 80 1000000000", 500_000_000),
        ];
        let text = table(&rows);
        for line in [
            "| 4 KiB, random reads, one at a time, us each | 100 | 200 | 2.00 |",
            "| 128 KiB, sequential writes, 16 at a time, MiB/s | 20.0 | 10.0 | 0.50 |",
        ] {
            assert!(text.lines().any(|found| found == line), "{text}");
        }
        assert!(parse("disk 1 2 3").is_none() && parse("# done").is_none());
    }
}
