//! `xl top`: what each domain uses, and how often events interrupt it.

use tests::host::TestHost;
use tests::wait_for;
use xtask::qemu::Hardware;

use crate::scheduling::{spinner, used};

/// The lines of a table, by columns, domains by name.
fn rows(table: &str) -> Vec<Vec<String>> {
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect();
    table.lines().map(words).collect()
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn top_shows_what_each_domain_uses_and_all_of_them_no_more_than_there_is() {
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    spinner(&host, "first", "cpus = \"0\"\ncpu_weight = 1024");
    spinner(&host, "second", "cpus = \"1\"");
    used(&host, ["first", "second"], 0.3);
    let all = rows(&host.xl("top -b -i 2 -d 3").ok());
    let [heads, first_sample @ .., _, _, _, _] = &all[..] else {
        panic!("{all:?}");
    };
    assert_eq!(heads[..4], ["NAME", "STATE", "CPU(sec)", "CPU(%)"]);
    assert_eq!(first_sample.len(), 3, "{all:?}");
    assert!(first_sample.iter().all(|row| row[3] == "0.0"), "{all:?}");
    let second = &all[4..];
    assert_eq!(&second[0], heads);
    let percent = |name: &str| -> f64 {
        let row = second.iter().find(|row| row[0] == name);
        row.expect("its row")[3].parse().expect("a number")
    };
    let (dom0, first, second) = (percent("Domain-0"), percent("first"), percent("second"));
    assert!(first > 40.0 && second > 40.0, "{first} and {second}");
    // Both processors were busy all the time, and have no more than that.
    let sum = dom0 + first + second;
    assert!((180.0..201.0).contains(&sum), "{dom0} + {first} + {second}");
    let vcpus = host.xl("top -b -v -f -i 1").ok();
    assert_eq!(vcpus.matches("VCPUs(sec):").count(), 3, "{vcpus}");
    let refused = host.xl("top -i 1").refused();
    assert!(refused.contains("no terminal"), "{refused}");
}

/// A column of the last sample that `xl top` takes, for each of these domains.
fn column<const N: usize>(
    host: &TestHost,
    options: &str,
    head: &str,
    names: [&str; N],
) -> [u64; N] {
    let all = rows(&host.xl(&format!("top -b -f {options}")).ok());
    let start = all.iter().rposition(|row| row[0] == "NAME");
    let table = &all[start.expect("a table")..];
    let place = table[0].iter().position(|it| it == head).expect(head);
    names.map(|name| {
        let row = table.iter().find(|row| row[0] == name);
        row.expect(name)[place].parse().expect("a number")
    })
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn top_counts_the_events_of_domains_that_run_and_no_others() {
    let host = TestHost::boot();
    host.create("still", "", "-q -p").ok();
    // It has a timer that goes off each second.
    host.create("ticking", "", "-q").ok();
    let names = ["Domain-0", "still", "ticking"];
    let events = || column(&host, "-i 1", "EVENTS", names);
    let before = events();
    let after = wait_for("events of the guest", || {
        let now = events();
        (now[2] >= before[2] + 3).then_some(now)
    });
    assert!(after[0] > before[0], "{before:?}, {after:?}");
    assert_eq!((before[1], after[1]), (0, 0), "it has never run");
    wait_for("events within a second", || {
        let [_, still, ticking] = column(&host, "-i 2 -d 1", "EVENTS/s", names);
        assert_eq!(still, 0);
        (ticking > 0).then_some(())
    });

    host.xl("pause ticking").ok();
    let before = events();
    let after = wait_for("events of dom0", || {
        let now = events();
        (now[0] >= before[0] + 10).then_some(now)
    });
    assert_eq!(after[1..], before[1..], "both are paused");
}
