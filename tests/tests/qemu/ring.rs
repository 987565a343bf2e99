//! Two domains that ring each other over some 4,096 event channels, with two vCPUs each, on two processors: see the
//! guest `stress`.

use std::time::Duration;

use tests::host::TestHost;
use tests::{LIMIT, dist, wait_for};
use xtask::qemu::Hardware;
use xtask::run;

/// How long they ring, in seconds; longer where nobody waits for it.
fn duration() -> u64 {
    if std::env::var_os("CI").is_some() {
        10
    } else {
        4
    }
}

/// Has two domains ring each other over this many lines.
fn ring(lines: u32, words: &str) {
    let hardware = Hardware {
        cpus: 2,
        ..Hardware::default()
    };
    let host = TestHost::boot_from(
        &hardware,
        &run::boot(dist("xenolith-checked"), dist("dom0")),
    );
    let (config, seconds) = (dist("guests/stress.cfg"), duration());
    let names = ["ring1", "ring2"];
    for name in names {
        let mut create = host.xl_command(["create", "-q", "-p"]);
        create.args([
            config.display().to_string(),
            format!("name='{name}'"),
            String::from("vcpus=2"),
            String::from("max_event_channels=8191"),
            format!("extra='ring seconds={seconds} lines={lines} {words}'"),
        ]);
        tests::program::run(&mut create).ok();
    }
    let id = |name| host.row(name).expect("it is there")[1].clone();
    let consoles = [names, ["ring2", "ring1"]].map(|[name, peer]| {
        let (own, peer) = (id(name), id(peer));
        host.xl(&format!(
            "xenstore write /local/domain/{own}/data/peer {peer}"
        ))
        .ok();
        let console = host.start_xl(&format!("console {name}"));
        host.xl(&format!("unpause {name}")).ok();
        console
    });
    let queued = words.is_empty();
    for console in consoles {
        let limit = Duration::from_secs(seconds) + LIMIT;
        console.expect_line_within("none lost, none spurious", limit);
        assert!(
            console
                .text()
                .contains(&format!("{lines} lines, queued: {queued}"))
        );
    }
    wait_for("the guests to be gone", || {
        names
            .iter()
            .all(|name| host.row(name).is_none())
            .then_some(())
    });
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn two_domains_ring_each_other_in_queues_and_no_ring_is_lost_or_spurious() {
    ring(4096, "");
}

/// The two-level bitmap has 4,095 ports, of which a guest needs some for itself.
#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn two_domains_ring_each_other_in_two_levels_and_no_ring_is_lost_or_spurious() {
    ring(4080, "xen.fifo_events=0");
}
