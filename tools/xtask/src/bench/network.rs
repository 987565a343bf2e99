//! How much a guest sends by TCP: to another, as the guest `netcheck` says, which looks at all that arrives, and to
//! dom0, which counts it.

use super::machine::Machine;
use crate::progress::Step;
use crate::workspace::Workspace;
use anyhow::{Context, Result, bail};
use control::client::ClientError;
use control::{Error, NetworkReply, NetworkRequest, Reply, Request};
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::{Duration, Instant};

/// What is sent in a run, in MiB.
const MIB: u64 = 128;
/// How often.
const RUNS: usize = 5;
/// How long a run may take.
const LIMIT: Duration = Duration::from_secs(180);
/// The port that is sent to.
const PORT: u16 = 5001;
/// What the guests have.
const GUEST: &str = "vcpus = 2\nvif = ['']";
/// How long to wait until dom0 is asked again.
const AGAIN: Duration = Duration::from_millis(100);
/// Where the receiver is, and the sender.
const ADDRESSES: [&str; 2] = ["10.0.2.50", "10.0.2.51"];

/// Measures and prints the table.
pub fn run(workspace: &Workspace, hypervisor: &Path) -> Result<()> {
    let step = Step::start("measure the network");
    let mut rows = Vec::new();
    for cpus in [1, 2] {
        let machine = Machine::boot(workspace, hypervisor, cpus)?;
        let (mut to_guest, mut to_dom0) = (Vec::new(), Vec::new());
        // In turns: what else the machine does comes and goes.
        for _ in 0..RUNS {
            to_guest.push(send_to_guest(&machine)?);
            to_dom0.push(send_to_dom0(&machine)?);
        }
        rows.push((cpus, "another guest", to_guest));
        rows.push((cpus, "dom0", to_dom0));
    }
    step.done();
    println!("\n| CPUs | TCP from a guest to | MiB/s | least | most |\n|--:|---|--:|--:|--:|");
    for (cpus, to, mut speeds) in rows {
        speeds.sort_unstable();
        let (median, least, most) = (speeds[RUNS / 2], speeds[0], speeds[RUNS - 1]);
        println!("| {cpus} | {to} | {median} | {least} | {most} |");
    }
    Ok(())
}

/// One run between two new guests, in MiB a second.
fn send_to_guest(machine: &Machine) -> Result<u64> {
    let [to, _] = ADDRESSES;
    machine.create("receiver", "netcheck", &format!("address={to}"), GUEST)?;
    machine.xl("unpause receiver")?;
    let speed = send(machine, to);
    machine.xl("destroy receiver")?;
    speed
}

/// One run from a new guest to dom0, in MiB a second.
fn send_to_dom0(machine: &Machine) -> Result<u64> {
    let mut client = machine.host().connect(LIMIT)?;
    let channel = client.open()?;
    let request = Request::Network(NetworkRequest::Receive { port: PORT });
    let deadline = Instant::now() + LIMIT;
    let own = loop {
        match client.call(channel, &request) {
            Ok(Reply::Network(NetworkReply::Listening(own))) => break own,
            Ok(other) => bail!("no address but {other:?}"),
            // A DHCP server takes its time.
            Err(ClientError::Refused(Error::NoAddress)) if Instant::now() < deadline => {
                std::thread::sleep(AGAIN);
            }
            Err(error) => return Err(error).context("dom0 does not listen"),
        }
    };
    let speed = send(machine, &Ipv4Addr::from(own.address).to_string())?;
    match client.receive(channel)? {
        Reply::Network(NetworkReply::Received { bytes, .. }) if bytes == MIB << 20 => Ok(speed),
        other => bail!("not {MIB} MiB but {other:?}"),
    }
}

/// Has a new guest send, as fast as it says, in MiB a second.
fn send(machine: &Machine, to: &str) -> Result<u64> {
    let [_, from] = ADDRESSES;
    let words = format!("address={from} to={to} port={PORT} mib={MIB} stop=1");
    machine.create("sender", "netcheck", &words, GUEST)?;
    machine.xl("unpause sender")?;
    let text = machine.host().console_text("sender", LIMIT, LIMIT)?;
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
