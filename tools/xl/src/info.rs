//! What is to be known of the host itself.

use std::fmt::Write;
use std::net::Ipv4Addr;
use std::process::ExitCode;

use control::{HostInfo, PROTOCOL_VERSION, Reply, Request};
use serde_json::{Map, Value, json};

use crate::cli::InfoArgs;
use crate::host::{Connection, wrong};
use crate::{Outcome, print, print_bytes, print_json};

pub fn info(host: &mut Connection, args: &InfoArgs) -> Outcome {
    let info = match host.call(&Request::HostInfo)? {
        Reply::HostInfo(info) => info,
        other => return Err(wrong(&other).into()),
    };
    let lines = lines(&info);
    if args.json {
        let object: Map<String, Value> = lines
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect();
        print_json(&Value::Object(object))?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = |value: &Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    let mut out = String::new();
    match args.name.as_deref().filter(|_| !args.numa) {
        Some(wanted) => {
            for (_, value) in lines.iter().filter(|(name, _)| name.starts_with(wanted)) {
                out.push_str(&text(value));
                out.push('\n');
            }
        }
        None => {
            // Writing to a string does not fail.
            for (name, value) in &lines {
                if args.numa && *name == "xen_major" {
                    numa(&mut out, &info);
                }
                let _ = writeln!(out, "{name:<23}: {}", text(value));
            }
        }
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

fn or_none(value: Option<impl ToString>) -> Value {
    value.map_or_else(|| "none".into(), |value| value.to_string().into())
}

/// The lines of `xl info`, in its order.
fn lines(info: &HostInfo) -> Vec<(&'static str, Value)> {
    let mib = |kib: u64| Value::from(kib / 1024);
    let frames = |frames: u64| Value::from(frames.saturating_mul(info.xen_pagesize.into()) >> 20);
    let text = |text: &str| Value::from(text);
    let gateway = info.address.and_then(|it| it.gateway).map(Ipv4Addr::from);
    let hw_caps: Vec<String> = info
        .hw_cap
        .iter()
        .map(|word| format!("{word:08x}"))
        .collect();
    vec![
        ("host", text(&info.hostname)),
        ("release", text(&info.release)),
        ("version", text(&info.version)),
        ("machine", text(&info.machine)),
        ("nr_cpus", info.nr_cpus.into()),
        ("max_cpu_id", info.max_cpu_id.into()),
        ("nr_nodes", info.nr_nodes.into()),
        ("cores_per_socket", info.cores_per_socket.into()),
        ("threads_per_core", info.threads_per_core.into()),
        (
            "cpu_mhz",
            format!("{}.{:03}", info.cpu_khz / 1000, info.cpu_khz % 1000).into(),
        ),
        ("hw_caps", hw_caps.join(":").into()),
        ("virt_caps", text(&info.virt_caps)),
        ("total_memory", mib(info.total_memory_kib)),
        (
            "free_memory",
            mib(info.free_memory_kib.saturating_sub(info.outstanding_kib)),
        ),
        ("sharing_freed_memory", frames(info.sharing_freed_frames)),
        ("sharing_used_memory", frames(info.sharing_used_frames)),
        ("outstanding_claims", mib(info.outstanding_kib)),
        ("free_cpus", info.free_cpus.into()),
        ("xen_major", info.xen_major.into()),
        ("xen_minor", info.xen_minor.into()),
        ("xen_extra", text(&info.xen_extra)),
        (
            "xen_version",
            format!("{}.{}{}", info.xen_major, info.xen_minor, info.xen_extra).into(),
        ),
        ("xen_caps", text(&info.xen_caps)),
        ("xen_scheduler", text(&info.xen_scheduler)),
        ("xen_pagesize", info.xen_pagesize.into()),
        (
            "platform_params",
            format!("virt_start={:#x}", info.virt_start).into(),
        ),
        ("xen_changeset", text(&info.xen_changeset)),
        ("xen_commandline", text(&info.xen_commandline)),
        ("cc_compiler", text(&info.cc_compiler)),
        ("cc_compile_by", text(&info.cc_compile_by)),
        ("cc_compile_domain", text(&info.cc_compile_domain)),
        ("cc_compile_date", text(&info.cc_compile_date)),
        ("build_id", text(&info.build_id)),
        ("xend_config_format", 4.into()),
        // Xen's own xl has no need to tell: there, dom0 is a Linux that one asks.
        ("dom0_address", or_none(info.address)),
        ("dom0_gateway", or_none(gateway)),
    ]
}

/// CPUs and nodes. The hypervisor treats memory as one node, and its interface tells cores and
/// threads by their number alone.
fn numa(out: &mut String, info: &HostInfo) {
    out.push_str("cpu_topology           :\ncpu:    core    socket     node\n");
    let threads = info.threads_per_core.max(1);
    let cores = info.cores_per_socket.max(1);
    for cpu in 0..info.nr_cpus {
        let core = cpu / threads;
        let _ = writeln!(
            out,
            "{cpu:>3}:    {:>4}     {:>4}     {:>4}",
            core % cores,
            core / cores,
            0
        );
    }
    out.push_str("device topology        :\ndevice           node\n");
    out.push_str("No device topology data available\n");
    out.push_str("numa_info              :\nnode:    memsize    memfree    distances\n");
    let (size, free) = (info.total_memory_kib / 1024, info.free_memory_kib / 1024);
    let _ = writeln!(out, "{:>4}:    {size:>6}     {free:>6}      10", 0);
}

pub fn dmesg(host: &mut Connection, clear: bool) -> Outcome {
    host.client.send(host.channel, &Request::Dmesg { clear })?;
    loop {
        match host.client.receive(host.channel)? {
            Reply::Text { bytes, more } => {
                print_bytes(&bytes)?;
                if !more {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            other => return Err(wrong(&other).into()),
        }
    }
}

/// A host need not be there to be asked for xl's own version.
pub fn version(host: anyhow::Result<Connection>, json: bool) -> Outcome {
    let server = match host {
        Err(_) => None,
        Ok(mut host) => match host.call(&Request::Hello)? {
            Reply::Hello { server } => Some((host.name().to_owned(), server)),
            other => return Err(wrong(&other).into()),
        },
    };
    let version = env!("CARGO_PKG_VERSION");
    if json {
        let server = server.map(|(host, server)| json!({ "name": host, "server": server }));
        print_json(&json!({ "xl": version, "protocol": PROTOCOL_VERSION, "host": server }))?;
    } else {
        let mut out = format!("xl {version} (protocol {PROTOCOL_VERSION})\n");
        if let Some((host, server)) = server {
            let _ = writeln!(out, "host {host}: {server}");
        }
        print(&out)?;
    }
    Ok(ExitCode::SUCCESS)
}
