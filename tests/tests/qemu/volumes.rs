//! What is on volumes, put there and fetched by xl.

use std::fs::{self, File};
use std::io::Read;

use rustix::process::{Pid, Signal, kill_process};
use tests::host::TestHost;
use tests::program::Running;
use tests::{LIMIT, dist, wait_for};
use xtask::qemu::Hardware;

use crate::disks::{disk, disk_file, volume};

const MIB: u64 = 1 << 20;

/// So many bytes that nothing else has.
fn random(bytes: u64) -> Vec<u8> {
    let mut content = Vec::new();
    File::open("/dev/urandom")
        .and_then(|source| source.take(bytes).read_to_end(&mut content))
        .expect("random bytes");
    content
}

/// The domains that use a volume, as `xl volume list` has them.
#[track_caller]
fn users(host: &TestHost, name: &str) -> Option<String> {
    volume(host, name).and_then(|row| row.last().cloned())
}

/// Starts `xl` on a volume and comes back when dom0 is at it.
#[track_caller]
fn start(host: &TestHost, line: &str, name: &str) -> Running {
    let running = host.start_xl(line);
    wait_for("dom0 to be at the volume", || {
        (users(host, name).as_deref() == Some("0")).then_some(())
    });
    running
}

#[track_caller]
fn signal(running: &Running, signal: Signal) {
    let pid = Pid::from_raw(running.pid().cast_signed()).expect("a process");
    kill_process(pid, signal).expect("it runs");
}

/// Waits until nobody uses a volume any more.
#[track_caller]
fn wait_until_free(host: &TestHost, name: &str) {
    wait_for("the volume to be free", || {
        (users(host, name).as_deref() == Some("-")).then_some(())
    });
}

/// Files that an export began and did not finish.
fn leftovers(host: &TestHost) -> Vec<String> {
    let files = fs::read_dir(host.dir()).expect("the test's directory");
    let names = files.map(|file| file.expect("a file").file_name());
    names
        .map(|name| name.to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".part"))
        .collect()
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn what_is_imported_is_on_the_volume_and_comes_back_by_export() {
    let (data, busy) = (disk_file(16 * MIB), disk_file(16 * MIB));
    let host = TestHost::boot_on(&Hardware {
        disks: vec![disk("data", &data), disk("busy", &busy)],
        ..Hardware::default()
    });
    let kernel = dist("guests/diskcheck");
    let kernel = kernel.display();
    let config = format!(
        "name = \"web\"\nkernel = \"{kernel}\"\nmemory = 48\ndisk = ['phy:busy,raw,xvda,w']\nextra = \"mib=0\"\n"
    );
    let config = host.file("web.cfg", config);
    host.xl(&format!("create {}", config.display())).ok();
    let console = host.start_xl("console web");
    console.expect_line("16 MiB moved");

    // No whole number of sectors, nor of chunks.
    let first = random(5 * MIB + 700);
    host.file("first", &first);
    host.xl("volume import data first").ok();
    host.xl("volume export data back").ok();
    let back = fs::read(host.dir().join("back")).expect("the exported file");
    assert_eq!(back.len() as u64, 16 * MIB);
    assert!(back.starts_with(&first), "what came back is something else");
    assert!(back[first.len()..].iter().all(|byte| *byte == 0));
    // All of it, and into a file that is there.
    let second = random(16 * MIB);
    host.file("second", &second);
    host.xl("volume import data second").ok();
    host.xl("volume export data back").ok();
    assert!(fs::read(host.dir().join("back")).expect("a file") == second);
    // Of memory.
    let third = random(MIB + 1);
    host.file("third", &third);
    host.xl("volume import --create scratch third").ok();
    host.xl("volume export scratch back").ok();
    let back = fs::read(host.dir().join("back")).expect("the exported file");
    assert_eq!(back.len() as u64, MIB + 4096);
    assert!(back.starts_with(&third), "what came back is something else");
    host.xl("volume remove scratch").ok();
    assert_eq!(leftovers(&host), [] as [&str; 0]);

    // The guest was at work all the while, and is.
    console.expect_line("64 MiB moved");
    host.xl("destroy web").ok();
    host.power_off();
    assert!(fs::read(data.path()).expect("the disk's file") == second);
}

/// What `diskcheck` says of bytes that it has read: FNV-1a.
fn sum(bytes: &[u8]) -> u64 {
    let add = |sum: u64, byte: &u8| (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, add)
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_reads_what_was_imported() {
    let data = disk_file(8 * MIB);
    let host = TestHost::boot_on(&Hardware {
        disks: vec![disk("data", &data)],
        ..Hardware::default()
    });
    for (volume, create) in [("data", ""), ("memory", "--create")] {
        let content = random(8 * MIB);
        let file = host.file("content", &content);
        let import = format!("volume import {create} {volume} {}", file.display());
        host.xl(&import).ok();
        let disk = format!("disk = ['phy:{volume},raw,xvda,r']");
        let console = host.create_app("diskcheck", volume, &disk, "sum=1");
        let sectors = content.len() / 512;
        console.expect_line(&format!("diskcheck: {sectors} sectors of 512 bytes read"));
        console.expect(&format!("their sum is {:016x}", sum(&content)));
        host.xl(&format!("destroy {volume}")).ok();
    }
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn an_import_or_export_that_cannot_be_is_refused_in_a_line_and_touches_nothing() {
    let (one, two) = (disk_file(MIB), disk_file(MIB));
    fs::write(two.path(), random(MIB)).expect("the disk's file");
    let before = fs::read(two.path()).expect("the disk's file");
    let cd = disk_file(MIB);
    let mut read_only = disk("cd", &cd);
    read_only.read_only = true;
    let host = TestHost::boot_on(&Hardware {
        disks: vec![disk("one", &one), disk("two", &two), read_only],
        ..Hardware::default()
    });
    host.file("small", random(1000));
    host.file("large", random(MIB + 1));
    host.file("empty", []);
    host.file("kept", "as before");
    host.create("web", "disk = ['phy:one,raw,xvda,w']", "").ok();
    for (line, why) in [
        (
            "import one small",
            "the volume \"one\" is in use by domain 1 for writing",
        ),
        (
            "export one kept",
            "the volume \"one\" is in use by domain 1 for writing",
        ),
        (
            "import two large",
            "1048577 bytes do not fit the volume \"two\", which has 1048576",
        ),
        ("import cd small", "the volume \"cd\" can only be read"),
        ("import three small", "there is no volume \"three\""),
        ("export three kept", "there is no volume \"three\""),
        ("import --create two small", "there is one of that name"),
        ("import two empty", "empty is empty"),
        ("import two nothing", "No such file"),
        ("export two /dev/null", "is not an ordinary file"),
        ("export two no/such/directory", "No such file"),
    ] {
        let told = host.xl(&format!("volume {line}")).refused();
        assert_eq!(told.lines().count(), 1, "{line}: {told}");
        assert!(
            told.starts_with("xl: ") && told.contains(why),
            "{line}: {told}"
        );
    }
    assert_eq!(users(&host, "two").as_deref(), Some("-"));
    assert_eq!(leftovers(&host), [] as [&str; 0]);
    let kept = fs::read_to_string(host.dir().join("kept")).expect("the file");
    assert_eq!(kept, "as before");
    host.power_off();
    assert!(fs::read(two.path()).expect("the disk's file") == before);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn an_import_or_export_that_is_interrupted_leaves_the_host_sound_and_no_file_half_made() {
    let size = 512 * MIB;
    let data = disk_file(size);
    let host = TestHost::boot_on(&Hardware {
        disks: vec![disk("data", &data)],
        ..Hardware::default()
    });
    let free = host.info("free_memory");
    // Nothing takes the time to fill this.
    let large = File::create(host.dir().join("large")).expect("a file");
    large.set_len(size).expect("a larger file");

    let mut import = start(&host, "volume import data large", "data");
    signal(&import, Signal::KILL);
    import.ended();
    wait_until_free(&host, "data");

    host.file("kept", "as before");
    let mut export = start(&host, "volume export data kept", "data");
    signal(&export, Signal::INT);
    export.expect("interrupted");
    assert_eq!(export.ended().code(), Some(1), "{}", export.text());
    wait_until_free(&host, "data");
    assert_eq!(leftovers(&host), [] as [&str; 0]);
    let kept = fs::read_to_string(host.dir().join("kept")).expect("the file");
    assert_eq!(kept, "as before");

    // The volume goes to others, and the host does as before.
    let disk = "disk = ['phy:data,raw,xvda,w']";
    let console = host.create_app("diskcheck", "web", disk, "mib=1 tasks=1");
    console.expect_line_within("diskcheck: waits for xvda", LIMIT);
    console.expect_line("diskcheck: xvda has 1048576 sectors");
    host.xl("destroy web").ok();
    host.file("small", random(MIB));
    host.xl("volume import data small").ok();
    assert_eq!(host.info("free_memory"), free);
}
