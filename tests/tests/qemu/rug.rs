//! Guests that are destroyed at any moment of their I/O, while others go on.

use std::hash::{BuildHasher, RandomState};
use std::thread::sleep;
use std::time::Duration;

use tests::books::Books;
use tests::host::TestHost;
use tests::program::Running;
use tests::{LIMIT, thorough, wait_for};
use xtask::qemu::Hardware;

use crate::disks::{disk, disk_file, volume};

/// After so many rounds it is seen whether the others go on.
const LOOK: u64 = 5;

/// A number below `limit`, another one each time.
fn random(limit: u64) -> u64 {
    RandomState::new().hash_one(limit) % limit
}

/// Guests whose I/O nobody may disturb.
struct Others {
    disk: Running,
    sender: Running,
    receiver: Running,
}

impl Others {
    fn start(host: &TestHost) -> Self {
        let disk = "disk = ['phy:theirs,raw,xvda,w']";
        let (vif, to) = ("vif = ['']", "address=10.0.2.51 to=10.0.2.50 mib=0");
        Self {
            receiver: host.create_app("netcheck", "receiver", vif, "address=10.0.2.50"),
            sender: host.create_app("netcheck", "sender", vif, to),
            disk: host.create_app("diskcheck", "disk", disk, "mib=0 tasks=4"),
        }
    }

    /// They go on from here.
    #[track_caller]
    fn assert_going_on(&self) {
        for (console, done) in [(&self.disk, "MiB moved"), (&self.sender, "MiB sent")] {
            let before = console.text().matches(done).count();
            // There is a line of each 16.
            let next = format!("{} {done}", (before + 1) * 16);
            console.expect_line_within(&next, LIMIT * 4);
        }
        for console in [&self.disk, &self.sender, &self.receiver] {
            let text = console.text();
            assert!(!text.contains("WRONG"), "{text}");
        }
    }
}

/// A guest with a disk and one with a network interface come, do their work, and go at any moment.
fn round(host: &TestHost) {
    let mine = "disk = ['phy:mine,raw,xvda,w']";
    let words = [
        "mib=0 tasks=8",
        "mib=0 tasks=4 queues=2 order=1 persistent=0",
    ];
    let words = words[random(2) as usize];
    let disk = host.create_app("diskcheck", "writer", mine, words);
    let to = "address=10.0.2.52 to=10.0.2.50 mib=0";
    let net = host.create_app("netcheck", "talker", "vif = ['']", to);
    // Some of them go while they begin.
    let at_work = random(4) > 0;
    if at_work {
        disk.expect("diskcheck: xvda has");
        net.expect("netcheck: has the address");
    }
    let after = Duration::from_millis(random(800));
    eprintln!("at work: {at_work}, then {after:?}");
    sleep(after);
    let mut names = ["writer", "talker"];
    names.rotate_left(random(2) as usize);
    for name in names {
        host.xl(&format!("destroy {name}")).ok();
        sleep(Duration::from_millis(random(50)));
    }
    wait_for("the volume to be free", || {
        volume(host, "mine").filter(|row| row.last().is_some_and(|users| users == "-"))
    });
    for name in names {
        assert_eq!(host.row(name), None);
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn guests_that_are_destroyed_at_any_moment_of_their_io_leave_nothing_and_disturb_nobody() {
    let (mine, theirs) = (disk_file(16 << 20), disk_file(16 << 20));
    let host = TestHost::boot_on(&Hardware {
        disks: vec![disk("mine", &mine), disk("theirs", &theirs)],
        cpus: 2,
        ..Hardware::default()
    });
    // The first has dom0 keep the kernels.
    round(&host);
    let quiet = Books::of(&host);
    let others = Others::start(&host);
    others.assert_going_on();
    let before = Books::of(&host);
    let rounds = if thorough() { 200 } else { 10 };
    for nth in 1..=rounds {
        eprintln!("round {nth}");
        round(&host);
        Books::of(&host).assert_as_before(&before);
        if nth % LOOK == 0 {
            others.assert_going_on();
        }
    }
    for name in ["disk", "sender", "receiver"] {
        host.xl(&format!("destroy {name}")).ok();
    }
    Books::of(&host).assert_quiet_as_before(&quiet);
    host.power_off();
}
