//! The vCPUs of domains: where they run, and where they may.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::{Context, bail};
use control::client::ClientError;
use control::scheduling::{CpuSet, VcpuInfo};
use control::{DomainRef, Reply, Request, SchedulingReply, SchedulingRequest};

use crate::cli::VcpuPinArgs;
use crate::host::{Connection, is_no_such_domain, wrong};
use crate::{Outcome, cpus, print};

/// `xl vcpu-list`.
pub fn list(host: &mut Connection, domains: &[String]) -> Outcome {
    let refs: Vec<DomainRef> = if domains.is_empty() {
        let all = host.domains(&[])?;
        all.iter().map(|it| DomainRef::Id(it.domid)).collect()
    } else {
        domains.iter().map(|name| DomainRef::parse(name)).collect()
    };
    let mut out = format!(
        "{:<32} {:>5} {:>5} {:>5} {:>5} {:>9} Affinity (Hard / Soft)\n",
        "Name", "ID", "VCPU", "CPU", "State", "Time(s)"
    );
    for domain in refs {
        match rows(host, &domain) {
            Ok(rows) => out += &rows,
            // It went away since it was listed.
            Err(error) if domains.is_empty() && is_no_such_domain(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}

/// A domain's lines of the table.
fn rows(host: &mut Connection, domain: &DomainRef) -> Result<String, ClientError> {
    let mut out = String::new();
    for vcpu in 0.. {
        let domain = domain.clone();
        match host.call(&Request::Scheduling(SchedulingRequest::Vcpu {
            domain,
            vcpu,
        }))? {
            Reply::Scheduling(SchedulingReply::Vcpu {
                domid,
                name,
                cpus,
                vcpu: Some(vcpu),
            }) => {
                let row = row(&vcpu, cpus);
                // Writing to a string does not fail.
                let _ = writeln!(out, "{name:<32} {domid:>5} {row}");
            }
            Reply::Scheduling(SchedulingReply::Vcpu { vcpu: None, .. }) => break,
            other => return Err(wrong(&other)),
        }
    }
    Ok(out)
}

/// A line of the table, from the vCPU's number on.
fn row(vcpu: &VcpuInfo, host_cpus: u32) -> String {
    let letter = |set: bool, letter: char| if set { letter } else { '-' };
    let place = if vcpu.online {
        format!(
            "{:>5} {:>3}{}-",
            vcpu.cpu,
            letter(vcpu.running, 'r'),
            letter(vcpu.blocked, 'b')
        )
    } else {
        format!("{:>5} {:>3}-p", '-', '-')
    };
    format!(
        "{:>5}{place} {:>9.1}  {} / {}",
        vcpu.id,
        vcpu.cpu_time_ns as f64 / 1e9,
        cpus::show(&vcpu.hard, host_cpus),
        cpus::show(&vcpu.soft, host_cpus),
    )
}

/// `xl vcpu-pin`.
pub fn pin(host: &mut Connection, args: &VcpuPinArgs) -> Outcome {
    let vcpu = match args.vcpu.as_str() {
        "all" if args.force => bail!("--force and 'all' as VCPU not allowed"),
        "all" => None,
        number => {
            let number = number.parse().ok();
            Some(number.with_context(|| format!("Invalid argument {} as VCPU", args.vcpu))?)
        }
    };
    let set = |text: &str| match text {
        "-" => Ok(None),
        text => cpus::parse(text).map(Some).map_err(anyhow::Error::msg),
    };
    let hard: Option<CpuSet> = set(&args.hard)?;
    let soft = match &args.soft {
        Some(text) => set(text)?,
        None => None,
    };
    if hard.is_none() && soft.is_none() && !args.force {
        return Ok(ExitCode::SUCCESS);
    }
    host.done(&Request::Scheduling(SchedulingRequest::SetAffinity {
        domain: DomainRef::parse(&args.domain),
        vcpu,
        hard,
        soft,
        force: args.force,
    }))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_written_as_in_xl() {
        let vcpu = VcpuInfo {
            id: 1,
            online: true,
            running: true,
            cpu_time_ns: 12_340_000_000,
            cpu: 3,
            hard: CpuSet::of(0..64),
            soft: CpuSet::of([1, 2]),
            ..VcpuInfo::default()
        };
        assert_eq!(row(&vcpu, 4), "    1    3   r--      12.3  all / 1-2");
        let down = VcpuInfo {
            online: false,
            ..vcpu
        };
        assert_eq!(row(&down, 4), "    1    -   --p      12.3  all / 1-2");
    }
}
