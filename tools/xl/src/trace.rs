//! `xl trace`: what the hypervisor does, as a timeline of vCPUs on CPUs.

mod chrome;
mod names;
mod records;
mod svg;
mod timeline;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use control::{HostInfo, Reply, Request, TraceReply, TraceRequest};
use hypercall_abi::trace::*;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::cli::{TraceArgs, TraceFormat};
use crate::host::{Connection, wrong};
use crate::{Outcome, console, tell};
use records::Streams;
use timeline::Timeline;

/// How often it is looked whether the time is up, or the user has had enough.
const LOOK: Duration = Duration::from_millis(100);

pub fn trace(host: &mut Connection, args: &TraceArgs) -> Outcome {
    let info = match host.call(&Request::HostInfo)? {
        Reply::HostInfo(info) => info,
        other => return Err(wrong(&other).into()),
    };
    // Opened first: a trace that cannot be kept need not be made.
    let output = create(&args.output)?;
    let svg = args.svg.as_deref().map(create).transpose()?;
    let mut names = names(host)?;
    let mut raw = match args.format {
        TraceFormat::Xentrace => Some(output.try_clone()?),
        TraceFormat::Json => None,
    };
    let mut streams = Streams::default();
    collect(host, args, |cpu, bytes| {
        let whole = streams.push(cpu, bytes);
        if let Some(file) = raw.as_mut().filter(|_| !whole.is_empty()) {
            file.write_all(&records::chunk(cpu, &whole))
                .with_context(|| args.output.display().to_string())?;
        }
        Ok(())
    })?;
    // Domains that have come meanwhile.
    names.append(&mut self::names(host)?);
    let timeline = Timeline::new(streams.into_records(), cpus(&info), info.cpu_khz, names);
    if raw.is_none() {
        let mut out = BufWriter::new(output);
        chrome::write(&timeline, &mut out)
            .and_then(|()| out.flush())
            .with_context(|| args.output.display().to_string())?;
    }
    if let Some(mut file) = svg {
        file.write_all(svg::draw(&timeline).as_bytes())?;
    }
    summarize(&timeline);
    Ok(ExitCode::SUCCESS)
}

fn create(path: &Path) -> anyhow::Result<File> {
    File::create(path).with_context(|| path.display().to_string())
}

fn cpus(info: &HostInfo) -> u32 {
    info.max_cpu_id.saturating_add(1)
}

fn names(host: &mut Connection) -> anyhow::Result<BTreeMap<u16, String>> {
    let domains = host.domains(&[])?;
    Ok(domains.into_iter().map(|it| (it.domid, it.name)).collect())
}

/// Traces until the time is up or the user has had enough, then takes what is left.
fn collect(
    host: &mut Connection,
    args: &TraceArgs,
    mut take: impl FnMut(u32, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let enough = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&enough))?;
    }
    let client = &mut host.client;
    let channel = client.open()?;
    let events = args.events;
    match client.call(channel, &Request::Trace(TraceRequest::Begin { events }))? {
        Reply::Done => {}
        other => return Err(wrong(&other).into()),
    }
    let end = args.duration.map(|duration| Instant::now() + duration);
    let mut ending = false;
    loop {
        while let Some(reply) = client.try_receive(channel)? {
            match reply {
                Reply::Trace(TraceReply::Records { cpu, bytes }) => take(cpu, &bytes)?,
                Reply::Trace(TraceReply::Ended) => return Ok(client.close(channel)?),
                other => return Err(wrong(&other).into()),
            }
        }
        let over = end.is_some_and(|end| Instant::now() >= end);
        if !ending && (over || enough.load(Ordering::Relaxed)) {
            client.send(channel, &Request::Trace(TraceRequest::End))?;
            ending = true;
        }
        let left = end.map_or(LOOK, |end| end.saturating_duration_since(Instant::now()));
        let patience = if ending { LOOK } else { left.min(LOOK) };
        if console::wait(client, false, None, Some(patience))?.0 {
            client.pump()?;
        }
    }
}

fn summarize(timeline: &Timeline) {
    let seconds = timeline.length as f64 / 1e9;
    tell(&format!(
        "{} records of {seconds:.3} seconds",
        timeline.records
    ));
    if timeline.lost() > 0 {
        tell(&format!(
            "{} records were lost: the buffers were full",
            timeline.lost()
        ));
    }
}

/// Reads a number of seconds.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// Reads the classes of events: xentrace's words, others in their manner, or a mask.
pub fn events(text: &str) -> Result<u32, String> {
    let mut mask = 0;
    for word in text.split(',') {
        mask |= match word {
            "gen" => TRC_GEN,
            "sched" => TRC_SCHED,
            "dom0op" => TRC_DOM0OP,
            "mem" => TRC_MEM,
            "pv" => TRC_PV,
            "hw" => TRC_HW,
            "guest" => TRC_GUEST,
            "event" => TRC_XENOLITH,
            "all" => TRC_ALL,
            number => {
                let hex = number.strip_prefix("0x");
                let value = match hex {
                    Some(digits) => u32::from_str_radix(digits, 16),
                    None => number.parse(),
                };
                value.map_err(|_| format!("there is no class {number:?}"))?
            }
        };
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_words_or_a_mask() {
        assert_eq!(events("sched"), Ok(0x2_f000));
        assert_eq!(events("sched,pv,event"), Ok(0x122_f000));
        assert_eq!(events("0x21000,4096"), Ok(0x2_1000));
        assert_eq!(events("all"), Ok(0x0fff_f000));
        assert!(events("schedule").is_err() && events("").is_err());
    }

    #[test]
    fn a_time_may_have_a_fraction_and_no_sign() {
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert!(seconds("-1").is_err() && seconds("long").is_err() && seconds("nan").is_err());
    }
}
