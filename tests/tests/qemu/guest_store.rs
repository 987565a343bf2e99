//! Guests and the store: what they find there, and what they do on the toolstack's orders.

use tests::host::TestHost;
use tests::{dist, wait_for};
use xtask::qemu::Hardware;

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_reads_and_writes_the_store() {
    let host = TestHost::boot();
    host.create("reader", "", "").ok();
    let domid = host.xl("domid reader").ok();
    let domid = domid.trim();
    let mut console = host.start_xl("console reader");
    console.expect("Hello");
    for (path, value) in [
        ("name", "reader"),
        ("domid", domid),
        ("memory/static-max", "32768"),
        ("control/feature-poweroff", "1"),
        ("control/feature-reboot", "1"),
        ("absent", "the store says ENOENT"),
    ] {
        console.say(&format!("read {path}"));
        console.expect_line(&format!("{path}: {value}"));
    }
    console.say("write data/word abracadabra");
    console.expect_line("data/word: written");
    console.say(&format!("read /local/domain/{domid}/data/word"));
    console.expect_line("data/word: abracadabra");
    console.say("write name other");
    console.expect_line("name: the store says EACCES");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_ends_as_it_is_told_in_the_store() {
    let host = TestHost::boot();
    for (name, order) in [("one", "poweroff"), ("two", "halt")] {
        host.create(name, "on_poweroff = 'destroy'", "").ok();
        let mut console = host.start_xl(&format!("console {name}"));
        console.expect("Hello");
        // The node is the guest's own.
        console.say(&format!("write control/shutdown {order}"));
        console.expect_line("good bye");
        wait_for("it to be gone", || host.row(name).is_none().then_some(()));
    }
    host.create("three", "on_reboot = 'restart'", "").ok();
    let before = host.xl("domid three").ok();
    let mut console = host.start_xl("console three");
    console.expect("Hello");
    console.say("write control/shutdown suspend");
    console.expect_line("\"suspend\" is not understood");
    console.say("write control/sysrq s");
    console.expect_line("system request 's'");
    console.say("write control/shutdown reboot");
    wait_for("another id", || {
        let now = host.xl("domid three");
        (now.status.success() && now.stdout != before).then_some(())
    });
}

/// The median times of a read and a write together, in microseconds, that a guest that measures reports.
fn medians(text: &str) -> Vec<f64> {
    text.lines()
        .filter_map(|line| {
            let (_, times) = line.split_once(": median read ")?;
            let (read, rest) = times.split_once(" us, write ")?;
            let (write, _) = rest.split_once(' ')?;
            Some(read.parse::<f64>().ok()? + write.parse::<f64>().ok()?)
        })
        .collect()
}

/// The middle one.
fn middle(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    numbers[numbers.len() / 2]
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_guest_that_floods_the_store_slows_others_by_less_than_twice() {
    const ROUNDS: usize = 9;
    // With one processor, the flood has its share of that as well.
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    let config = dist("guests/storeflood.cfg");
    let create = format!("create {} name='honest' extra='measure'", config.display());
    host.xl(&create).ok();
    let honest = host.start_xl("console honest");
    let measure = || {
        let before = medians(&honest.text()).len();
        wait_for("measurements", || {
            let times = medians(&honest.text());
            // The first may have been under way.
            (times.len() > before + ROUNDS).then(|| middle(times[before + 1..].to_vec()))
        })
    };
    let alone = measure();
    host.xl(&format!("create {} name='hostile'", config.display()))
        .ok();
    let hostile = host.start_xl("console hostile");
    hostile.expect_line("requests done");
    let flooded = measure();
    assert!(flooded < 2.0 * alone, "{alone} us became {flooded} us");
}
