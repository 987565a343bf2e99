//! Disks of guests, over virtio disks of the host.

use std::fs::File;

use tempfile::NamedTempFile;
use tests::host::TestHost;
use tests::program::Ended;
use tests::{LIMIT, dist, thorough, wait_for};
use xtask::qemu::{Disk, Hardware};

const MIB: u64 = 1 << 20;

/// An empty disk's file.
pub fn disk_file(bytes: u64) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a temporary file");
    File::options()
        .write(true)
        .open(file.path())
        .and_then(|open| open.set_len(bytes))
        .expect("it can be made longer");
    file
}

/// A disk of the host's.
pub fn disk(serial: &str, file: &NamedTempFile) -> Disk {
    Disk {
        serial: serial.to_owned(),
        file: file.path().to_owned(),
        read_only: false,
    }
}

fn host_with(disks: &[(&str, &NamedTempFile)]) -> TestHost {
    let disks = disks
        .iter()
        .map(|(serial, file)| disk(serial, file))
        .collect();
    TestHost::boot_on(&Hardware {
        disks,
        ..Hardware::default()
    })
}

/// Creates a guest that checks its disk, with this `disk=` and these words.
#[track_caller]
fn create(host: &TestHost, name: &str, disk: &str, words: &str) -> Ended {
    let kernel = dist("guests/diskcheck");
    let kernel = kernel.display();
    let text = format!(
        "name = \"{name}\"\nkernel = \"{kernel}\"\nmemory = 48\ndisk = {disk}\nextra = \"{words}\"\n"
    );
    let config = host.file(&format!("{name}.cfg"), text);
    host.xl(&format!("create {}", config.display()))
}

/// The row of `xl volume list` for a volume, by columns.
#[track_caller]
pub fn volume(host: &TestHost, name: &str) -> Option<Vec<String>> {
    let list = host.xl("volume list").ok();
    list.lines()
        .map(|line| line.split_whitespace().map(str::to_owned).collect())
        .find(|row: &Vec<String>| row.first().is_some_and(|found| found == name))
}

fn row(words: &[&str]) -> Option<Vec<String>> {
    Some(words.iter().map(|word| (*word).to_owned()).collect())
}

/// The store's paths.
#[track_caller]
fn tree(host: &TestHost) -> String {
    host.xl("xenstore ls -f").ok()
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn what_a_guest_writes_it_reads_again_while_its_disk_goes_and_comes_back() {
    let file = disk_file(16 * MIB);
    let host = host_with(&[("data", &file)]);
    let free = host.info("free_memory");
    let before = tree(&host);
    let idle = ["data", "disk", "16384", "512", "w", "-"];
    assert_eq!(volume(&host, "data"), row(&idle));

    create(&host, "web", "['phy:data,raw,xvda,w']", "mib=0 tasks=8").ok();
    let console = host.start_xl("console web");
    console.expect_line("diskcheck: xvda has 32768 sectors of 512 bytes");
    console.expect_line("diskcheck: 16 MiB moved");
    let list = host.xl("block-list web").ok();
    assert!(
        list.lines()
            .any(|line| line.starts_with("51712 0   1      4 ")),
        "{list}"
    );
    assert!(
        list.contains("/local/domain/0/backend/vbd/1/51712"),
        "{list}"
    );
    for (node, value) in [
        ("state", "4"),
        ("mode", "w"),
        ("dev", "xvda"),
        ("type", "phy"),
        ("online", "1"),
        ("specification", "xen"),
        ("sectors", "32768"),
        ("feature-flush-cache", "1"),
    ] {
        let path = format!("xenstore read /local/domain/0/backend/vbd/1/51712/{node}");
        assert_eq!(host.xl(&path).ok().trim(), value, "{node}");
    }

    for _ in 0..2 {
        host.xl("block-detach web xvda").ok();
        console.expect("diskcheck: the disk is gone");
        assert_eq!(volume(&host, "data"), row(&idle));
        assert_eq!(host.xl("block-list web").ok().lines().count(), 1);
        host.xl("block-attach web phy:data raw xvda w").ok();
        console.expect("diskcheck: the disk is back");
    }
    console.expect_line("diskcheck: 64 MiB moved");
    // In the middle of it.
    host.xl("destroy web").ok();
    assert_eq!(host.row("web"), None);
    assert_eq!(volume(&host, "data"), row(&idle));
    assert_eq!(tree(&host), before);
    assert_eq!(host.info("free_memory"), free);

    let (total, step) = if thorough() { (1024, 128) } else { (32, 16) };
    let words = format!("mib={total} tasks=4 queues=2 order=1 persistent=0");
    create(&host, "next", "['phy:data,raw,xvda,w']", &words).ok();
    let console = host.start_xl("console next");
    // All of it is read once more at the end, when the disk has come and gone under its requests.
    for mib in (step..total).step_by(step) {
        console.expect_line_within(&format!("diskcheck: {mib} MiB moved"), 4 * LIMIT);
        host.xl("block-detach next xvda").ok();
        host.xl("block-attach next phy:data raw xvda w").ok();
    }
    console.expect_line_within("all as it was written", 4 * LIMIT);
    host.power_off();
    // It has reached the file.
    let bytes = std::fs::read(file.path()).expect("the disk's file");
    assert!(bytes.iter().filter(|byte| **byte != 0).count() > MIB as usize);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_disk_that_cannot_be_had_is_refused_in_a_line_and_leaves_nothing() {
    let (one, two) = (disk_file(MIB), disk_file(4 * MIB));
    let host = host_with(&[("one", &one), ("two", &two)]);
    create(&host, "user", "['phy:one,raw,xvda,w']", "mib=0").ok();
    wait_for("both ends to be connected", || {
        let list = host.xl("block-list user").ok();
        list.contains("51712 0   1      4 ").then_some(())
    });
    let before = tree(&host);
    for (disk, why) in [
        ("['phy:three,raw,xvda,w']", "there is no volume \"three\""),
        (
            "['phy:one,raw,xvda,r']",
            "the volume \"one\" is in use by domain 1 for writing",
        ),
        // The first of them could be had.
        (
            "['phy:two,raw,xvda,w', 'phy:one,raw,xvdb,w']",
            "the volume \"one\" is in use by domain 1 for writing",
        ),
        (
            "['phy:two,raw,xvda,w,colour=red']",
            "a disk has no key 'colour'",
        ),
        ("['phy:two,qcow2,xvda,w']", "format=qcow2 is not supported"),
    ] {
        let told = create(&host, "other", disk, "").refused();
        let last = told.lines().last().unwrap_or_default();
        assert!(
            last.starts_with("xl: ") && last.contains(why),
            "{disk}: {told}"
        );
        assert_eq!(host.row("other"), None);
    }
    host.xl("block-attach user phy:one raw xvdb r").refused();
    host.xl("block-attach user phy:two raw xvda w").refused();
    host.xl("block-detach user xvdc").refused();
    host.xl("block-detach nobody xvda").refused();
    assert_eq!(tree(&host), before);
    create(&host, "other", "['phy:two,raw,xvda,r']", "").ok();
    host.start_xl("console other")
        .expect_line("diskcheck: read-only: read Ok(()), written Err(ReadOnly)");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn volumes_of_memory_are_made_and_used_and_removed() {
    let host = TestHost::boot();
    host.xl("volume create scratch 4").ok();
    host.xl("volume create scratch 4").refused();
    host.xl("volume create huge 4096").refused();
    assert_eq!(
        volume(&host, "scratch"),
        row(&["scratch", "ram", "4096", "512", "w", "-"])
    );
    create(&host, "web", "['phy:scratch,raw,xvda,w']", "mib=8").ok();
    let console = host.start_xl("console web");
    console.expect("all as it was written");
    host.xl("volume remove scratch").refused();
    host.xl("block-detach web 51712").ok();
    host.xl("volume remove scratch").ok();
    assert_eq!(volume(&host, "scratch"), None);
}
