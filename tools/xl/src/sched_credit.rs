//! `xl sched-credit`: shares of the processors.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::bail;
use control::scheduling::{Parameters, Share};
use control::{DomainRef, Reply, Request, SchedulingReply, SchedulingRequest};

use crate::cli::SchedCreditArgs;
use crate::host::{Connection, is_no_such_domain, wrong};
use crate::{Outcome, print};

/// The one pool of processors.
const POOL: &str = "Pool-0";

pub fn sched_credit(host: &mut Connection, args: &SchedCreditArgs) -> Outcome {
    let of_domain = args.domain.is_some() || args.weight.is_some() || args.cap.is_some();
    let parameters = args.timeslice_ms.is_some()
        || args.ratelimit_us.is_some()
        || args.migration_delay_us.is_some();
    if (args.cpupool.is_some() || args.schedparam) && of_domain {
        bail!("Specifying a cpupool or schedparam is not allowed with domain options");
    }
    if args.domain.is_none() && of_domain {
        bail!("Must specify a domain");
    }
    if !args.schedparam && parameters {
        bail!("Must specify schedparam to set schedule parameter values");
    }
    if let Some(pool) = &args.cpupool
        && !matches!(pool.as_str(), POOL | "0")
    {
        bail!("unknown cpupool '{pool}'");
    }
    match &args.domain {
        Some(domain) if args.weight.is_some() || args.cap.is_some() => {
            host.done(&Request::Scheduling(SchedulingRequest::SetShare {
                domain: DomainRef::parse(domain),
                weight: args.weight,
                cap: args.cap,
            }))?;
        }
        Some(domain) => {
            let rows = row(host, DomainRef::parse(domain))?;
            print(&(HEADING.to_owned() + &rows))?;
        }
        None if parameters => {
            host.done(&Request::Scheduling(SchedulingRequest::SetParameters {
                timeslice_ms: args.timeslice_ms,
                ratelimit_us: args.ratelimit_us,
                migration_delay_us: args.migration_delay_us,
            }))?;
        }
        None => {
            let is_credit = is_credit(host)?;
            // What is listed are the pools of this scheduler.
            if !is_credit && !args.schedparam {
                return Ok(ExitCode::SUCCESS);
            }
            let mut out = match is_credit {
                true => pool(host)?,
                false => format!("Cpupool {POOL}: [sched params unavailable]\n"),
            };
            if !args.schedparam {
                out += HEADING;
                for domain in host.domains(&[])? {
                    match row(host, DomainRef::Id(domain.domid)) {
                        Ok(row) => out += &row,
                        // It went away since it was listed.
                        Err(error) if went_away(&error) => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            print(&out)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn is_credit(host: &mut Connection) -> anyhow::Result<bool> {
    match host.call(&Request::HostInfo)? {
        Reply::HostInfo(info) => Ok(info.xen_scheduler == "credit"),
        other => Err(wrong(&other).into()),
    }
}

const HEADING: &str = "Name                                ID Weight  Cap\n";

fn went_away(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(is_no_such_domain)
}

fn pool(host: &mut Connection) -> anyhow::Result<String> {
    match host.call(&Request::Scheduling(SchedulingRequest::Parameters))? {
        Reply::Scheduling(SchedulingReply::Parameters(Parameters {
            timeslice_ms,
            ratelimit_us,
            migration_delay_us,
        })) => Ok(format!(
            "Cpupool {POOL}: tslice={timeslice_ms}ms ratelimit={ratelimit_us}us \
             migration-delay={migration_delay_us}us\n"
        )),
        other => Err(wrong(&other).into()),
    }
}

fn row(host: &mut Connection, domain: DomainRef) -> anyhow::Result<String> {
    match host.call(&Request::Scheduling(SchedulingRequest::Share(domain)))? {
        Reply::Scheduling(SchedulingReply::Share { domid, name, share }) => {
            let Share { weight, cap } = share;
            let mut out = String::new();
            // Writing to a string does not fail.
            let _ = writeln!(out, "{name:<33} {domid:>4} {weight:>6} {cap:>4}");
            Ok(out)
        }
        other => Err(wrong(&other).into()),
    }
}
