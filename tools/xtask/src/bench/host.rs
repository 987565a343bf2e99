//! What a host takes to boot and to make and destroy domains, and how large its parts are.

use crate::host::Host;
use crate::progress::Step;
use crate::qemu::Hardware;
use crate::workspace::Workspace;
use crate::{run, source};
use anyhow::{Context, Result, bail};
use control::client::{Channel, Client};
use control::hosts::Hosts;
use control::{
    DomainConfig, DomainRef, Image, ImageHash, OnEvent, Reply, Request, Uuid, message::MAX_CHUNK,
};
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// How often a boot is measured.
const BOOTS: usize = 5;

/// How often the creation of a domain is measured.
const CREATIONS: usize = 21;
/// Between two rounds: the hypervisor scrubs freed memory in spare time. Without any, creating pays
/// for it, about as long as it takes to write the domain's memory once.
const PAUSE: Duration = Duration::from_millis(100);

/// How long one boot may take.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

/// Measures and prints the table.
pub fn run(workspace: &Workspace, hypervisor: &Path) -> Result<()> {
    let dist = workspace.dist();
    let step = Step::start("measure");
    step.at("source");
    // The simulated machine and what tests share run on the host alone.
    let host_only = ["sim", "testing"];
    let kernel = source::count(&workspace.root().join("kernel"), &host_only)?;
    let mut boots = Vec::new();
    let mut creations = Creations::default();
    for number in 1..=BOOTS {
        step.at(format!("boot {number} of {BOOTS}"));
        let stage = tempfile::tempdir()?;
        let start = Instant::now();
        let host = boot(workspace, hypervisor, stage.path())?;
        boots.push(start.elapsed());
        if number == BOOTS {
            step.at("create and destroy");
            creations = measure_creations(workspace, &host)?;
        }
        host.power_off()?;
    }
    step.done();

    println!("| what | measured |\n|---|---|");
    let row = |what: &str, value: String| println!("| {what} | {value} |");
    row(
        "power-on to a dom0 that answers",
        milliseconds(median(&mut boots)),
    );
    row(
        "create a 64 MiB domain, paused, image cached",
        milliseconds(median(&mut creations.create)),
    );
    row("destroy it", milliseconds(median(&mut creations.destroy)));
    for (what, file) in [("the hypervisor", hypervisor), ("dom0", &dist.join("dom0"))] {
        let size = fs::metadata(file)?.len().div_ceil(1024);
        row(&format!("image of {what}"), format!("{size} KiB"));
    }
    row("source of the hypervisor", format!("{} lines", kernel.code));
    row("of it unsafe", format!("{} lines", kernel.unsafe_code));
    Ok(())
}

fn boot(workspace: &Workspace, hypervisor: &Path, stage: &Path) -> Result<Host> {
    let boot = run::boot(hypervisor.to_path_buf(), workspace.dist().join("dom0"));
    let hosts = Hosts::at(stage.join("xenolith"));
    let host = Host::start(&hosts, "bench", &Hardware::default(), &boot)?;
    host.wait_ready(Instant::now() + BOOT_LIMIT, || false)?;
    Ok(host)
}

#[derive(Default)]
struct Creations {
    create: Vec<Duration>,
    destroy: Vec<Duration>,
}

/// Times creation and destruction over one connection: what dom0 and the hypervisor take, without
/// the start of an `xl` process.
fn measure_creations(workspace: &Workspace, host: &Host) -> Result<Creations> {
    let path = workspace.guests().join("hello");
    let image = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut client = host.connect(BOOT_LIMIT)?;
    let channel = client.open()?;
    let kernel = Image {
        hash: ImageHash::of(&image),
        size: u64::try_from(image.len())?,
        path: path.display().to_string(),
    };
    upload(&mut client, channel, &kernel, &image)?;
    let memory_kib = 64 * 1024;
    let config = DomainConfig {
        name: "bench".to_owned(),
        uuid: Uuid([0xbe; 16]),
        memory_kib,
        max_memory_kib: memory_kib,
        vcpus: 1,
        max_vcpus: 1,
        max_event_channels: DomainConfig::EVENT_CHANNELS,
        kernel,
        ramdisk: None,
        cmdline: String::new(),
        scheduling: Default::default(),
        disks: Vec::new(),
        vifs: Vec::new(),
        on: OnEvent::default(),
    };
    let create = Request::CreateDomain {
        config: Box::new(config),
        paused: true,
    };
    let mut creations = Creations::default();
    for _ in 0..CREATIONS {
        let start = Instant::now();
        let reply = client.call(channel, &create)?;
        creations.create.push(start.elapsed());
        let Reply::Domid(domid) = reply else {
            bail!("no domain id but {reply:?}")
        };
        let start = Instant::now();
        client.call(channel, &Request::Destroy(DomainRef::Id(domid)))?;
        creations.destroy.push(start.elapsed());
        thread::sleep(PAUSE);
    }
    Ok(creations)
}

fn upload(client: &mut Client, channel: Channel, image: &Image, bytes: &[u8]) -> Result<()> {
    client.call(
        channel,
        &Request::UploadImage {
            hash: image.hash,
            size: image.size,
        },
    )?;
    for chunk in bytes.chunks(MAX_CHUNK) {
        client.send(channel, &Request::ImageChunk(chunk.to_vec()))?;
    }
    client.receive(channel)?;
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_does_not_follow_one_slow_run() {
        let mut times = [3, 1, 900].map(Duration::from_millis);
        assert_eq!(milliseconds(median(&mut times)), "3.0 ms");
    }
}
