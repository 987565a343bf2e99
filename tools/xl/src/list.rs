//! The domains of a host, as a table, in full, or by their age.

use std::fmt::Write;
use std::process::ExitCode;

use control::scheduling::CpuSet;
use control::{
    Action, DiskConfig, DomainConfig, DomainInfo, DomainRef, DomainState, Reply, Request, VifConfig,
};
use serde_json::{Map, Value, json};
use split_drivers::net::Mac;

use crate::cli::{ListArgs, UptimeArgs};
use crate::host::{Connection, is_no_such_domain, wrong};
use crate::{Outcome, print, print_json};

pub fn list(host: &mut Connection, args: &ListArgs) -> Outcome {
    let domains = host.domains(&args.domains)?;
    if args.long {
        print_json(&Value::Array(details(host, &domains)?))?;
    } else if args.json {
        print_json(&Value::Array(domains.iter().map(summary).collect()))?;
    } else {
        print(&table(&domains, args))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// xl's six letters, or hyphens.
fn letters(state: &DomainState) -> String {
    let letter = |set: bool, letter: char| if set { letter } else { '-' };
    let reason = match state.shutdown {
        None => '-',
        Some(reason) => "-rscwS".chars().nth(reason.0.into()).unwrap_or('?'),
    };
    String::from_iter([
        letter(state.running, 'r'),
        letter(state.blocked, 'b'),
        letter(state.paused, 'p'),
        letter(state.shutdown.is_some(), 's'),
        reason,
        letter(state.dying, 'd'),
    ])
}

/// The table, column by column as xl prints it.
fn table(domains: &[DomainInfo], args: &ListArgs) -> String {
    let mut out =
        String::from("Name                                        ID   Mem VCPUs\tState\tTime(s)");
    if args.verbose {
        out.push_str("   UUID                            Reason-Code\tSecurity Label");
    } else if args.context {
        out.push_str("   Security Label");
    }
    if args.cpupool {
        out.push_str("         Cpupool");
    }
    if args.numa {
        out.push_str(" NODE Affinity");
    }
    out.push('\n');
    for domain in domains {
        row(&mut out, domain, args);
    }
    out
}

fn row(out: &mut String, domain: &DomainInfo, args: &ListArgs) {
    let memory = domain.memory_kib.saturating_add(domain.outstanding_kib) / 1024;
    let seconds = domain.cpu_time_ns as f64 / 1e9;
    // Writing to a string does not fail.
    let _ = write!(
        out,
        "{:<40} {:>5} {:>5} {:>5}     {}  {:>8.1}",
        domain.name,
        domain.domid,
        memory,
        domain.vcpus,
        letters(&domain.state),
        seconds,
    );
    if args.verbose {
        let reason = match domain.state.shutdown {
            Some(reason) => format!("{:x}", reason.0),
            None => "-".into(),
        };
        let _ = write!(out, " {} {reason:>8}", domain.uuid);
    }
    if args.verbose || args.context {
        // The hypervisor has no security policy, so no domain has a label.
        let _ = write!(out, " {:>16}", "-");
    }
    if args.cpupool {
        let _ = write!(out, "{:>16}", format!("Pool-{}", domain.cpupool));
    }
    if args.numa {
        out.push_str(" all");
    }
    out.push('\n');
}

fn summary(domain: &DomainInfo) -> Value {
    let state = &domain.state;
    json!({
        "domid": domain.domid,
        "name": domain.name,
        "uuid": domain.uuid.to_string(),
        "memory_kib": domain.memory_kib,
        "max_memory_kib": domain.max_memory_kib,
        "vcpus": domain.vcpus,
        "max_vcpus": domain.max_vcpus,
        "state": letters(state),
        "running": state.running,
        "blocked": state.blocked,
        "paused": state.paused,
        "shutdown_reason": state.shutdown.map(|reason| reason.0),
        "dying": state.dying,
        "cpu_time_ns": domain.cpu_time_ns,
        "uptime_ms": domain.uptime_ms,
        "cpupool": domain.cpupool,
    })
}

/// What each domain was created from, by libxl's names.
fn details(host: &mut Connection, domains: &[DomainInfo]) -> anyhow::Result<Vec<Value>> {
    let mut all = Vec::new();
    for domain in domains {
        let config = match host.call(&Request::DomainConfig(DomainRef::Id(domain.domid))) {
            Ok(Reply::Config {
                config: Some(config),
                ..
            }) => config_json(&config),
            Ok(Reply::Config { config: None, .. }) => built_by_hypervisor(domain),
            Ok(other) => return Err(wrong(&other).into()),
            // It went away since it was listed.
            Err(error) if is_no_such_domain(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        all.push(json!({ "domid": domain.domid, "config": config }));
    }
    Ok(all)
}

/// A domain's configuration as libxl writes it in JSON.
pub fn config_json(config: &DomainConfig) -> Value {
    let mut build = Map::new();
    build.insert("max_vcpus".into(), config.max_vcpus.into());
    build.insert("avail_vcpus".into(), (0..config.vcpus).collect());
    let scheduling = &config.scheduling;
    for (key, sets) in [
        ("vcpu_hard_affinity", &scheduling.hard),
        ("vcpu_soft_affinity", &scheduling.soft),
    ] {
        if !sets.is_empty() {
            let numbers = |set: &CpuSet| set.cpus().collect();
            let affinity: Vec<Value> = sets.iter().map(numbers).collect();
            build.insert(key.into(), affinity.into());
        }
    }
    build.insert("max_memkb".into(), config.max_memory_kib.into());
    build.insert("target_memkb".into(), config.memory_kib.into());
    build.insert("video_memkb".into(), 0.into());
    let mut parameters = Map::new();
    for (key, value) in [("weight", scheduling.weight), ("cap", scheduling.cap)] {
        if let Some(value) = value {
            parameters.insert(key.into(), value.into());
        }
    }
    if !parameters.is_empty() {
        build.insert("sched_params".into(), parameters.into());
    }
    build.insert("kernel".into(), config.kernel.path.as_str().into());
    build.insert("cmdline".into(), config.cmdline.as_str().into());
    if let Some(ramdisk) = &config.ramdisk {
        build.insert("ramdisk".into(), ramdisk.path.as_str().into());
    }
    if config.max_event_channels != DomainConfig::EVENT_CHANNELS {
        build.insert("event_channels".into(), config.max_event_channels.into());
    }
    add_kind(&mut build);
    let mut all = Map::new();
    let identity = json!({
        "type": "pv",
        "name": config.name,
        "uuid": config.uuid.to_string(),
    });
    all.insert("c_info".into(), identity);
    all.insert("b_info".into(), build.into());
    let disks: Vec<Value> = config.disks.iter().map(disk_json).collect();
    let nics: Vec<Value> = config.vifs.iter().enumerate().map(vif_json).collect();
    for (key, devices) in [("disks", disks), ("nics", nics)] {
        if !devices.is_empty() {
            all.insert(key.into(), devices.into());
        }
    }
    for (key, action) in [
        ("on_poweroff", config.on.poweroff),
        ("on_reboot", config.on.reboot),
        ("on_watchdog", config.on.watchdog),
        ("on_crash", config.on.crash),
        ("on_soft_reset", config.on.soft_reset),
    ] {
        if action != Action::Destroy {
            all.insert(key.into(), action_json(action).into());
        }
    }
    all.into()
}

/// What is said of the kind of domain and of the architecture.
fn add_kind(build: &mut Map<String, Value>) {
    build.insert("type.pv".into(), json!({}));
    build.insert("arch_arm".into(), json!({}));
    // A guest that reads a register that it may not is told so.
    build.insert("arch_x86".into(), json!({ "msr_relaxed": "False" }));
}

fn disk_json(disk: &DiskConfig) -> Value {
    let mut json = Map::new();
    json.insert("pdev_path".into(), format!("/dev/{}", disk.volume).into());
    json.insert("vdev".into(), disk.vdev.as_str().into());
    json.insert("format".into(), "raw".into());
    if !disk.read_only {
        json.insert("readwrite".into(), 1.into());
    }
    if !disk.discard {
        json.insert("discard_enable".into(), "False".into());
    }
    json.into()
}

fn vif_json((devid, vif): (usize, &VifConfig)) -> Value {
    let mut json = Map::new();
    json.insert("devid".into(), devid.into());
    json.insert("mac".into(), Mac(vif.mac).to_string().into());
    json.insert("bridge".into(), vif.bridge.as_str().into());
    json.insert("nictype".into(), "vif".into());
    if let Some(name) = &vif.name {
        json.insert("ifname".into(), name.as_str().into());
    }
    if let Some(rate) = &vif.rate {
        json.insert("rate_bytes_per_interval".into(), rate.bytes.into());
        json.insert("rate_interval_usecs".into(), rate.interval_us.into());
    }
    json.into()
}

/// What is known of a domain that no configuration describes.
fn built_by_hypervisor(domain: &DomainInfo) -> Value {
    json!({
        "c_info": {
            "type": "pv",
            "name": domain.name,
            "uuid": domain.uuid.to_string(),
        },
        "b_info": {
            "max_vcpus": domain.max_vcpus,
            "avail_vcpus": (0..domain.vcpus).collect::<Value>(),
            "max_memkb": domain.max_memory_kib,
            "target_memkb": domain.memory_kib,
            "type.pv": {},
        },
    })
}

/// libxl's word for an action, which is not xl.cfg's.
fn action_json(action: Action) -> String {
    match action {
        Action::RenameRestart => "restart_rename".into(),
        other => other.name().replace('-', "_"),
    }
}

pub fn vm_list(host: &mut Connection) -> Outcome {
    let mut out = String::from("UUID                                  ID    name\n");
    for it in &host.domains(&[])? {
        let _ = writeln!(out, "{}  {}    {:<30}", it.uuid, it.domid, it.name);
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

pub fn uptime(host: &mut Connection, args: &UptimeArgs) -> Outcome {
    let domains = host.domains(&args.domains)?;
    if args.json {
        let value = |it: &DomainInfo| json!({ "domid": it.domid, "name": it.name, "uptime_ms": it.uptime_ms });
        print_json(&domains.iter().map(value).collect())?;
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = String::new();
    if args.short {
        let now = jiff::Zoned::now().strftime("%H:%M:%S").to_string();
        for it in &domains {
            let up = age(it.uptime_ms / 1000, true);
            let _ = writeln!(out, " {now} up {up}, {} ({})", it.name, it.domid);
        }
    } else {
        let _ = writeln!(out, "{:<33} {:>4} Uptime", "Name", "ID");
        for it in &domains {
            let up = age(it.uptime_ms / 1000, false);
            let _ = writeln!(out, "{:<33} {:>4} {up}", it.name, it.domid);
        }
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// A time span as xl writes it.
fn age(seconds: u64, short: bool) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (hours, minutes, seconds) = (rest / 3600, rest / 60 % 60, rest % 60);
    let days = match days {
        0 => String::new(),
        1 => "1 day, ".into(),
        days => format!("{days} days, "),
    };
    if short {
        format!("{days}{hours:>2}:{minutes:02}")
    } else {
        format!("{days}{hours:>2}:{minutes:02}:{seconds:02}")
    }
}

#[cfg(test)]
mod tests {
    use control::ShutdownReason;

    use super::*;

    #[test]
    fn states_have_xls_letters() {
        let state = DomainState {
            running: true,
            ..DomainState::default()
        };
        assert_eq!(letters(&state), "r-----");
        let state = DomainState {
            blocked: true,
            paused: true,
            ..DomainState::default()
        };
        assert_eq!(letters(&state), "-bp---");
        let down = |reason| DomainState {
            shutdown: Some(ShutdownReason(reason)),
            dying: true,
            ..DomainState::default()
        };
        let found: Vec<String> = (0..7).map(|reason| letters(&down(reason))).collect();
        let expected = [
            "---s-d", "---srd", "---ssd", "---scd", "---swd", "---sSd", "---s?d",
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn ages_are_written_as_in_xl() {
        assert_eq!(age(5, false), " 0:00:05");
        assert_eq!(age(3661, false), " 1:01:01");
        assert_eq!(age(86_400 + 7200, false), "1 day,  2:00:00");
        assert_eq!(age(3 * 86_400 + 36_000, true), "3 days, 10:00");
    }
}
