//! What the credit scheduler promises, on two processors: shares by weight and by cap, a processor soon for who hardly
//! uses one, and none idle while somebody waits.

use std::fs;

use tests::host::TestHost;
use tests::timeline::Timeline;
use tests::wait_for;
use xtask::qemu::Hardware;

use crate::scheduling::{spinner, stressed};

fn host() -> TestHost {
    TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    })
}

/// Nanoseconds of processor time that the domains have used, all at one moment.
fn times<const N: usize>(host: &TestHost, names: [&str; N]) -> [f64; N] {
    let domains = host.domains().expect("a list");
    names.map(|name| {
        let domain = domains.iter().find(|domain| domain.name == name);
        domain.expect("it is there").cpu_time_ns as f64
    })
}

/// What each uses, in nanoseconds, while all together use `seconds`, from when they have run for a second.
fn used<const N: usize>(host: &TestHost, names: [&str; N], seconds: f64) -> [f64; N] {
    let after = |from: f64, seconds: f64| {
        wait_for("processor time", || {
            let now = times(host, names);
            (now.iter().sum::<f64>() >= from + seconds * 1e9).then_some(now)
        })
    };
    let before = after(0.0, 1.0);
    let end = after(before.iter().sum(), seconds);
    std::array::from_fn(|index| end[index] - before[index])
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn twice_the_weight_is_twice_the_time_within_three_percent() {
    let host = host();
    spinner(&host, "light", "cpus = \"1\"");
    spinner(&host, "heavy", "cpus = \"1\"\ncpu_weight = 512");
    let [light, heavy] = used(&host, ["light", "heavy"], 10.0);
    let ratio = heavy / light;
    println!("weights 256 and 512: 1 to {ratio:.3}");
    assert!((1.94..=2.06).contains(&ratio), "1 to {ratio}");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn caps_are_kept_within_two_points() {
    let host = host();
    // By their weights they would get more, and the rest less.
    spinner(
        &host,
        "quarter",
        "cap = 25\ncpus = \"1\"\ncpu_weight = 1024",
    );
    spinner(&host, "half", "cap = 50\ncpus = \"1\"\ncpu_weight = 1024");
    spinner(&host, "rest", "cpus = \"1\"\ncpu_weight = 64");
    // Together they fill the processor, so that what they use is how long it was.
    let times = used(&host, ["quarter", "half", "rest"], 10.0);
    let all: f64 = times.iter().sum();
    let [quarter, half, _] = times.map(|time| time / all * 100.0);
    println!("caps 25 and 50: {quarter:.1} and {half:.1} %");
    assert!((23.0..=27.0).contains(&quarter), "{quarter} %");
    assert!((48.0..=52.0).contains(&half), "{half} %");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn who_hardly_runs_is_served_at_once_beside_four_that_spin_and_no_processor_is_idle() {
    let host = host();
    let spinners = ["a", "b", "c", "d"];
    for name in spinners {
        spinner(&host, name, "");
    }
    stressed(&host, "waker", "wake", "");
    used(&host, spinners, 2.0);
    host.xl("trace -T 10 -e sched -o trace.json").ok();
    let text = fs::read_to_string(host.dir().join("trace.json")).expect("a trace");
    let trace = serde_json::from_str(&text).expect("it is JSON");
    let timeline = Timeline::of(&trace);
    let waits = timeline.waits("waker", 0);
    let percentile = |part: usize| waits[waits.len() * part / 1000 - 1];
    println!(
        "{} wakes in {:.1} s: to running in {:.0} us at the median, {:.0} at the 99th percentile, {:.0} at the 99.9th",
        waits.len(),
        timeline.length / 1e6,
        percentile(500),
        percentile(990),
        percentile(999),
    );
    assert!(waits.len() > 1000, "{} wakes", waits.len());
    // On an idle machine the 99th percentile is 0.4 ms. A busy one takes whole processors away for milliseconds; half of
    // the wakes it leaves alone.
    assert!(percentile(500) < 1000.0, "{} us", percentile(500));
    for cpu in 0..2 {
        for name in spinners.into_iter().chain(["waker", "Domain-0"]) {
            let wasted = timeline.wasted(cpu, name, 0);
            let all: f64 = wasted.iter().map(|(start, end)| end - start).sum();
            println!("CPU {cpu} idle while {name} waits: {all:.0} us");
            assert!(all < 0.01 * timeline.length, "CPU {cpu}, {name}: {all} us");
        }
    }
}
