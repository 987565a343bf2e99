//! A trace as `xl trace` writes it, read back: what ran where, and who waited meanwhile.

use std::collections::BTreeMap;

use serde_json::Value;

/// The process whose threads are the CPUs.
const CPUS: u64 = 1;

/// From when to when, in microseconds.
pub type Span = (f64, f64);

/// The slices of a trace.
#[derive(Debug, Default)]
pub struct Timeline {
    /// By CPU, in the order of time: a domain, and when it ran.
    pub cpus: BTreeMap<u64, Vec<(u64, Span)>>,
    /// By CPU, when the scheduler had nothing for it.
    pub idle: BTreeMap<u64, Vec<Span>>,
    /// By domain's name and vCPU, a state's name and when it was in it.
    pub states: BTreeMap<(String, u64), Vec<(String, Span)>>,
    /// The end of the last slice.
    pub length: f64,
}

impl Timeline {
    /// Reads a trace.
    ///
    /// # Panics
    /// Where it is not as `xl trace` writes it.
    pub fn of(trace: &Value) -> Self {
        let events = trace["traceEvents"].as_array().expect("a list of events");
        let number = |value: &Value| value.as_u64().expect("a number");
        let names: BTreeMap<u64, String> = events
            .iter()
            .filter(|event| event["name"] == "process_name")
            .map(|event| {
                let name = event["args"]["name"].as_str().expect("a name");
                let name = name.split(" (").next().unwrap_or_default();
                (number(&event["pid"]), name.to_owned())
            })
            .collect();
        let mut timeline = Self::default();
        for event in events.iter().filter(|event| event["ph"] == "X") {
            let start = event["ts"].as_f64().expect("a time");
            let span = (start, start + event["dur"].as_f64().expect("a time"));
            timeline.length = timeline.length.max(span.1);
            let (pid, tid) = (number(&event["pid"]), number(&event["tid"]));
            if event["cat"] == "idle" {
                timeline.idle.entry(tid).or_default().push(span);
            } else if pid == CPUS {
                let domid = number(&event["args"]["domid"]);
                timeline.cpus.entry(tid).or_default().push((domid, span));
            } else {
                let state = event["name"].as_str().expect("a state").to_owned();
                let slices = timeline
                    .states
                    .entry((names[&pid].clone(), tid))
                    .or_default();
                slices.push((state, span));
            }
        }
        timeline
    }

    /// Microseconds for which a domain ran on a CPU.
    pub fn time_on(&self, cpu: u64, domid: u64) -> f64 {
        let slices = self.cpus.get(&cpu).into_iter().flatten();
        let of_domain = slices.filter(|(of, _)| *of == domid);
        of_domain.map(|(_, (start, end))| end - start).sum()
    }

    /// Microseconds that a vCPU waited for a CPU each time, from the shortest to the longest.
    pub fn waits(&self, domain: &str, vcpu: u64) -> Vec<f64> {
        let states = self.states.get(&(domain.to_owned(), vcpu));
        let waits = states.into_iter().flatten();
        let waits = waits.filter(|(state, _)| state == "runnable");
        let mut waits: Vec<f64> = waits.map(|(_, (start, end))| end - start).collect();
        waits.sort_by(f64::total_cmp);
        waits
    }

    /// Spans for which a CPU was idle while a vCPU waited for one.
    pub fn wasted(&self, cpu: u64, domain: &str, vcpu: u64) -> Vec<Span> {
        let states = self.states.get(&(domain.to_owned(), vcpu));
        let waits = states.into_iter().flatten();
        let waits = waits.filter(|(state, _)| state == "runnable");
        let idle = self.idle.get(&cpu).map_or(&[][..], Vec::as_slice);
        let overlaps = waits.flat_map(|(_, wait)| {
            let both = |free: &Span| (free.0.max(wait.0), free.1.min(wait.1));
            idle.iter().map(both).collect::<Vec<_>>()
        });
        overlaps.filter(|(start, end)| end > start).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn time_that_a_cpu_wastes_while_a_vcpu_waits_is_found() {
        let slice = |pid: u64, name: &str, ts: f64, dur: f64, args: Value| json!({ "ph": "X", "pid": pid, "tid": 0, "name": name, "ts": ts, "dur": dur, "args": args });
        let ran = |domid: u64, ts, dur| slice(1, "", ts, dur, json!({ "domid": domid }));
        let idle =
            |ts, dur| json!({ "ph": "X", "pid": 1, "tid": 0, "cat": "idle", "ts": ts, "dur": dur });
        let was = |state, ts, dur| slice(1005, state, ts, dur, Value::Null);
        let timeline = Timeline::of(&json!({ "traceEvents": [
            { "ph": "M", "pid": 1, "tid": 0, "name": "process_name", "args": { "name": "CPUs" } },
            { "ph": "M", "pid": 1005, "tid": 0, "name": "process_name", "args": { "name": "five (domain 5)" } },
            ran(5, 0.0, 10.0), ran(6, 15.0, 5.0), ran(5, 50.0, 50.0), idle(12.0, 2.0), idle(20.0, 29.0),
            was("running", 0.0, 10.0), was("runnable", 10.0, 20.0), was("blocked", 30.0, 15.0),
            was("runnable", 45.0, 5.0), was("running", 50.0, 50.0),
        ] }));
        let wasted = timeline.wasted(0, "five", 0);
        assert_eq!(wasted, [(12.0, 14.0), (20.0, 30.0), (45.0, 49.0)]);
        assert_eq!(timeline.time_on(0, 5), 60.0);
        assert_eq!(timeline.waits("five", 0), [5.0, 20.0]);
        assert_eq!(timeline.length, 100.0);
    }
}
