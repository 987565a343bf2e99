//! A timeline in the trace-event format of Chrome, which `chrome://tracing` and Perfetto open.
//!
//! The CPUs are the threads of one process, each domain is a process, and its vCPUs are its threads.

use std::io::{self, Write};

use serde_json::{Map, Value, json};

use super::timeline::{State, Timeline, VcpuId};

/// The process whose threads are the CPUs.
const CPUS: u32 = 1;
/// Domain 0 as a process; those of others follow.
const DOMAINS: u32 = 1000;

/// Writes a timeline.
pub fn write(timeline: &Timeline, out: &mut impl Write) -> io::Result<()> {
    let mut out = Events { out, any: false };
    out.out.write_all(b"{\"traceEvents\":[")?;
    name_tracks(timeline, &mut out)?;
    for (cpu, slices) in timeline.cpus.iter().enumerate() {
        for slice in slices {
            let VcpuId { domid, vcpu } = slice.what;
            let mut event = complete((CPUS, cpu as u32), slice.start, slice.end);
            event["name"] = format!("{} v{vcpu}", timeline.domain(domid)).into();
            event["cat"] = "cpu".into();
            event["args"] = json!({ "domid": domid, "vcpu": vcpu });
            out.event(&event)?;
        }
    }
    for (cpu, slices) in timeline.idle.iter().enumerate() {
        for slice in slices {
            let mut event = complete((CPUS, cpu as u32), slice.start, slice.end);
            event["name"] = "idle".into();
            event["cat"] = "idle".into();
            event["cname"] = "thread_state_sleeping".into();
            out.event(&event)?;
        }
    }
    for (&vcpu, slices) in &timeline.vcpus {
        for slice in slices {
            let mut event = complete(track(vcpu), slice.start, slice.end);
            event["name"] = slice.what.name().into();
            event["cat"] = "runstate".into();
            if let Some(colour) = colour(slice.what) {
                event["cname"] = colour.into();
            }
            out.event(&event)?;
        }
    }
    for mark in &timeline.marks {
        let (pid, tid) = mark.vcpu.map_or((CPUS, mark.cpu), track);
        let mut args: Map<String, Value> =
            [("cpu".to_owned(), mark.cpu.into())].into_iter().collect();
        for (name, value) in &mark.details {
            args.insert((*name).to_owned(), value.as_str().into());
        }
        out.event(&json!({
            "name": mark.name, "cat": mark.category, "ph": "i", "s": "t",
            "ts": micros(mark.at), "pid": pid, "tid": tid, "args": args,
        }))?;
    }
    let other = json!({
        "source": concat!("xl ", env!("CARGO_PKG_VERSION")),
        "records": timeline.records,
        "lost": timeline.lost,
    });
    write!(
        out.out,
        "\n],\"displayTimeUnit\":\"ns\",\"otherData\":{other}}}"
    )
}

/// Says what processes and threads are called, and in which order they are shown.
fn name_tracks(timeline: &Timeline, out: &mut Events<'_, impl Write>) -> io::Result<()> {
    let mut name = |kind: &str, (pid, tid): (u32, u32), name: String| {
        let args = json!({ "name": name });
        out.event(&json!({ "name": kind, "ph": "M", "pid": pid, "tid": tid, "args": args }))
    };
    name("process_name", (CPUS, 0), "CPUs".into())?;
    for cpu in 0..timeline.cpus.len() as u32 {
        name("thread_name", (CPUS, cpu), format!("CPU {cpu}"))?;
    }
    for &vcpu in timeline.vcpus.keys() {
        let VcpuId {
            domid,
            vcpu: number,
        } = vcpu;
        let domain = format!("{} (domain {domid})", timeline.domain(domid));
        name("process_name", track(vcpu), domain)?;
        name("thread_name", track(vcpu), format!("vCPU {number}"))?;
    }
    Ok(())
}

/// The process and thread of a vCPU.
fn track(vcpu: VcpuId) -> (u32, u32) {
    (DOMAINS + u32::from(vcpu.domid), vcpu.vcpu.into())
}

/// A slice on a track.
fn complete((pid, tid): (u32, u32), start: u64, end: u64) -> Value {
    let (ts, dur) = (micros(start), micros(end.saturating_sub(start)));
    json!({ "ph": "X", "ts": ts, "dur": dur, "pid": pid, "tid": tid })
}

/// The format's unit.
fn micros(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

/// The name of a colour, where another than by chance helps to read.
fn colour(state: State) -> Option<&'static str> {
    match state {
        State::Running => Some("thread_state_running"),
        State::Runnable => Some("thread_state_runnable"),
        State::Blocked => Some("thread_state_sleeping"),
        State::Offline => None,
    }
}

/// Events on their way into a list.
struct Events<'a, W> {
    out: &'a mut W,
    any: bool,
}

impl<W: Write> Events<'_, W> {
    fn event(&mut self, event: &Value) -> io::Result<()> {
        let before = if self.any { ",\n" } else { "\n" };
        self.any = true;
        write!(self.out, "{before}{event}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::timeline::tests::two_domains;

    fn written(timeline: &Timeline) -> Value {
        let mut bytes = Vec::new();
        write(timeline, &mut bytes).expect("memory");
        serde_json::from_slice(&bytes).expect("it is JSON")
    }

    #[test]
    fn cpus_and_vcpus_are_tracks_with_names() {
        let trace = written(&two_domains());
        let names: Vec<_> = trace["traceEvents"]
            .as_array()
            .expect("a list")
            .iter()
            .filter(|event| event["ph"] == "M")
            .map(|event| {
                (
                    &event["pid"],
                    &event["tid"],
                    event["args"]["name"].as_str().expect("a name"),
                )
            })
            .map(|(pid, tid, name)| (pid.as_u64(), tid.as_u64(), name))
            .collect();
        let expected = [
            (Some(1), Some(0), "CPUs"),
            (Some(1), Some(0), "CPU 0"),
            (Some(1), Some(1), "CPU 1"),
            (Some(1001), Some(0), "one (domain 1)"),
            (Some(1001), Some(0), "vCPU 0"),
            (Some(1003), Some(0), "\"three\" (domain 3)"),
            (Some(1003), Some(0), "vCPU 0"),
        ];
        assert_eq!(names, expected);
        assert_eq!(trace["otherData"]["lost"], json!([4, 0]));
    }

    #[test]
    fn slices_and_marks_are_in_microseconds() {
        let trace = written(&two_domains());
        let events = trace["traceEvents"].as_array().expect("a list");
        let on_cpu = events
            .iter()
            .find(|event| event["cat"] == "cpu" && event["args"]["domid"] == 3);
        let expected = json!({
            "name": "\"three\" v0", "cat": "cpu", "ph": "X", "ts": 0.2, "dur": 0.8,
            "pid": 1, "tid": 0, "args": { "domid": 3, "vcpu": 0 },
        });
        assert_eq!(on_cpu, Some(&expected));
        let idle = events.iter().find(|event| event["cat"] == "idle");
        let expected = json!({
            "name": "idle", "cat": "idle", "ph": "X", "ts": 1.2, "dur": 0.39,
            "pid": 1, "tid": 1, "cname": "thread_state_sleeping",
        });
        assert_eq!(idle, Some(&expected));
        let call = events.iter().find(|event| event["cat"] == "hypercall");
        let expected = json!({
            "name": "sched_op", "cat": "hypercall", "ph": "i", "s": "t", "ts": 0.5,
            "pid": 1003, "tid": 0, "args": { "cpu": 0, "arg0": "0x1" },
        });
        assert_eq!(call, Some(&expected));
    }

    #[test]
    fn a_trace_of_nothing_is_whole_all_the_same() {
        let trace = written(&Timeline::default());
        assert_eq!(trace["traceEvents"].as_array().map(Vec::len), Some(1));
    }
}
