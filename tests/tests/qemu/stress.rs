//! The guest `stress`, whose vCPUs do all at once what vCPUs do to each other, on the hypervisor that checks the order of
//! its locks.

use std::time::Duration;
use tests::host::TestHost;
use tests::{LIMIT, dist, hypervisor, wait_for};
use xtask::qemu::Hardware;
use xtask::run;

/// How long, in seconds; longer where nobody waits for it.
fn duration() -> u64 {
    if std::env::var_os("CI").is_some() {
        60
    } else {
        10
    }
}

/// Has two guests of four vCPUs stress themselves for so many seconds.
fn stress(hardware: &Hardware, seconds: u64) {
    let host = TestHost::boot_from(hardware, &run::boot(dist("xenolith-checked"), dist("dom0")));
    let config = dist("guests/stress.cfg");
    let config = config.display();
    let consoles = [1, 2].map(|seed| {
        let name = format!("stress{seed}");
        let mut create = host.xl_command(["create", "-q", "-p"]);
        create.args([
            config.to_string(),
            format!("name='{name}'"),
            format!("extra='seconds={seconds} seed={seed}'"),
        ]);
        tests::program::run(&mut create).ok();
        let console = host.start_xl(&format!("console {name}"));
        host.xl(&format!("unpause {name}")).ok();
        console
    });
    for console in consoles {
        let limit = Duration::from_secs(seconds) + LIMIT;
        console.expect_line_within("all right", limit);
    }
    wait_for("the guests to be gone", || {
        ["stress1", "stress2"]
            .iter()
            .all(|name| host.row(name).is_none())
            .then_some(())
    });
    assert_eq!(host.info("nr_cpus"), hardware.cpus.to_string());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn vcpus_stress_each_other_on_two_processors_with_the_order_of_locks_checked() {
    let hardware = Hardware {
        cpus: 2,
        ..Hardware::default()
    };
    stress(&hardware, duration());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn vcpus_stress_each_other_on_one_processor() {
    stress(&Hardware::default(), 5);
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn all_processors_are_used_unless_the_command_line_limits_them() {
    let hardware = Hardware {
        cpus: 3,
        ..Hardware::default()
    };
    for (words, used) in [("", "3"), ("maxcpus=2", "2"), ("nosmp", "1")] {
        let mut boot = run::boot(hypervisor(), dist("dom0"));
        boot.add_words(words);
        let host = TestHost::boot_from(&hardware, &boot);
        assert_eq!(host.info("nr_cpus"), used, "{words}");
    }
}
