//! `xl trace`: what it writes, and what that says of the scheduler.

use std::fs;

use serde_json::Value;
use tests::host::TestHost;
use tests::timeline::Timeline;
use xtask::qemu::Hardware;

use crate::scheduling::{spinner, used};

/// What is written as a trace, of which the schema has been asked.
fn read(host: &TestHost, name: &str) -> Value {
    let text = fs::read_to_string(host.dir().join(name)).expect("the trace is there");
    let trace = serde_json::from_str(&text).expect("it is JSON");
    let schema = include_str!("../../schema/trace-event.json");
    let schema = serde_json::from_str(schema).expect("the schema is JSON");
    let schema = jsonschema::validator_for(&schema).expect("it is a schema");
    if let Err(error) = schema.validate(&trace) {
        panic!(
            "{} is not as the format has it: {error}",
            error.instance_path()
        );
    }
    trace
}

/// Events of a category.
fn of_category<'a>(trace: &'a Value, category: &str) -> Vec<&'a Value> {
    let events = trace["traceEvents"].as_array().expect("a list").iter();
    events.filter(|event| event["cat"] == category).collect()
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_trace_shows_how_two_guests_share_a_processor_that_is_never_idle_while_one_waits() {
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    spinner(&host, "left", "cpus = \"1\"");
    spinner(&host, "right", "cpus = \"1\"");
    used(&host, ["left", "right"], 0.5);
    host.xl("trace -T 3 -e sched -o trace.json --svg trace.svg")
        .ok();
    let trace = read(&host, "trace.json");
    assert_eq!(trace["otherData"]["lost"], serde_json::json!([0, 0]));
    let timeline = Timeline::of(&trace);
    let length = timeline.length;
    assert!(length > 2e6, "{length} us were traced");

    // They share, and leave nothing over.
    let (left, right) = (timeline.time_on(1, 1), timeline.time_on(1, 2));
    assert!(
        (0.75..1.33).contains(&(left / right)),
        "{left} us and {right} us"
    );
    assert!(
        left + right > 0.9 * length,
        "{left} us and {right} us of {length}"
    );
    let turns = timeline.cpus[&1]
        .windows(2)
        .filter(|pair| pair[0].0 != pair[1].0);
    assert!(turns.count() > 20, "they take turns");
    for (cpu, slices) in &timeline.cpus {
        for pair in slices.windows(2) {
            let [(_, (_, end)), (_, (start, _))] = pair else {
                continue;
            };
            assert!(end <= start, "CPU {cpu} runs two at once: {pair:?}");
        }
    }

    // The interrupt that wakes a processor takes a moment: but none waits for the next tick, of which there are a
    // hundred a second.
    for (domain, cpus) in [("left", 1..2), ("right", 1..2), ("Domain-0", 0..2)] {
        for cpu in cpus {
            let wasted = timeline.wasted(cpu, domain, 0);
            let all: f64 = wasted.iter().map(|(start, end)| end - start).sum();
            assert!(
                all < 0.03 * length,
                "CPU {cpu} is idle while {domain} waits, {all} us in {} times",
                wasted.len()
            );
        }
    }
    let svg = fs::read_to_string(host.dir().join("trace.svg")).expect("a picture");
    for name in ["CPU 1", "left v0", "right v0"] {
        assert!(svg.contains(name), "{name} is not in the picture");
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn hypercalls_traps_and_events_are_in_the_trace_of_the_vcpu_that_made_them() {
    let host = TestHost::boot();
    host.create("hello", "", "-q").ok();
    host.xl("trace -T 3 -o all.json").ok();
    let trace = read(&host, "all.json");
    for category in ["hypercall", "event", "runstate", "cpu"] {
        assert!(
            !of_category(&trace, category).is_empty(),
            "nothing of {category}"
        );
    }
    let blocks = |event: &&&Value| event["name"] == "sched_op" && event["pid"] == 1001;
    let calls = of_category(&trace, "hypercall");
    assert!(
        calls.iter().filter(blocks).count() > 1,
        "the guest sleeps between its ticks"
    );
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn xens_own_format_is_records_behind_a_word_on_their_cpu() {
    let host = TestHost::boot();
    host.xl("trace -T 1 -e sched -f xentrace -o trace.bin").ok();
    let bytes = fs::read(host.dir().join("trace.bin")).expect("the trace is there");
    let word = |at: usize| {
        bytes
            .get(at..at + 4)
            .map(|it| u32::from_le_bytes(it.try_into().unwrap()))
    };
    let (mut at, mut chunks, mut records) = (0, 0, 0);
    while let Some(header) = word(at) {
        assert_eq!(header, 0x2001_f003, "a piece begins at {at}");
        let (cpu, length) = (word(at + 4), word(at + 8));
        assert_eq!(cpu, Some(0));
        let end = at + 12 + length.expect("a length") as usize;
        at += 12;
        while at < end {
            let header = word(at).expect("a record");
            let stamp = if header >> 31 != 0 { 8 } else { 0 };
            at += 4 + stamp + 4 * (header >> 28 & 7) as usize;
            records += 1;
        }
        assert_eq!(at, end, "records are whole in a piece");
        chunks += 1;
    }
    assert_eq!(at, bytes.len());
    assert!(
        chunks > 0 && records > 10,
        "{chunks} pieces, {records} records"
    );
}
