//! Commands on a domain that is there: pause, shut down, destroy, rename and their like.

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use control::client::ClientError;
use control::{DomainRef, Reply, Request, Stop};

use crate::cli::{DestroyArgs, ShutdownArgs};
use crate::host::{Connection, is_no_such_domain, wrong};
use crate::{Outcome, print, tell};

/// How often a domain is looked for that is to go away.
const POLL: Duration = Duration::from_millis(100);

pub fn pause(host: &mut Connection, domain: &str) -> Outcome {
    host.done(&Request::Pause(DomainRef::parse(domain)))?;
    Ok(ExitCode::SUCCESS)
}

pub fn unpause(host: &mut Connection, domain: &str) -> Outcome {
    host.done(&Request::Unpause(DomainRef::parse(domain)))?;
    Ok(ExitCode::SUCCESS)
}

pub fn destroy(host: &mut Connection, args: &DestroyArgs) -> Outcome {
    let domid = host.find(&args.domain)?;
    if domid == 0 && !args.force {
        bail!("not destroying domain 0; use -f to force");
    }
    host.done(&Request::Destroy(DomainRef::Id(domid)))?;
    Ok(ExitCode::SUCCESS)
}

pub fn rename(host: &mut Connection, domain: &str, name: &str) -> Outcome {
    let domain = DomainRef::parse(domain);
    host.done(&Request::Rename {
        domain,
        name: name.into(),
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn domid(host: &mut Connection, name: &str) -> Outcome {
    let domid = host.domid(&Request::Domid(DomainRef::Name(name.into())))?;
    print(&format!("{domid}\n"))?;
    Ok(ExitCode::SUCCESS)
}

pub fn domname(host: &mut Connection, domid: &str) -> Outcome {
    let domid = domid.parse().ok().context("expected a domain id")?;
    match host.call(&Request::DomainName(DomainRef::Id(domid)))? {
        Reply::Name(name) => print(&format!("{name}\n"))?,
        other => return Err(wrong(&other).into()),
    }
    Ok(ExitCode::SUCCESS)
}

pub fn shutdown(host: &mut Connection, args: &ShutdownArgs) -> Outcome {
    stop(host, args, "Shutting down", Stop::PowerOff)
}

pub fn reboot(host: &mut Connection, args: &ShutdownArgs) -> Outcome {
    stop(host, args, "Rebooting", Stop::Reboot)
}

fn stop(host: &mut Connection, args: &ShutdownArgs, doing: &str, how: Stop) -> Outcome {
    let domains: Vec<u16> = match &args.domain {
        Some(domain) => vec![host.find(domain)?],
        None => host
            .domains(&[])?
            .iter()
            .map(|it| it.domid)
            .filter(|&id| id != 0)
            .collect(),
    };
    let mut status = ExitCode::SUCCESS;
    let mut told = Vec::new();
    for domid in domains {
        tell(&format!("{doing} domain {domid}"));
        let request = Request::Stop {
            domain: DomainRef::Id(domid),
            how,
            patience_ms: args.timeout * 1000,
        };
        match host.done(&request) {
            Ok(()) => told.push(domid),
            // With -a, the others are told all the same.
            Err(error @ ClientError::Refused(_)) if args.all => {
                tell(&format!("xl: {error}"));
                status = ExitCode::FAILURE;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if args.wait > 0 {
        tell(&format!("Waiting for {} domains", told.len()));
        for domid in told {
            wait(host, domid, args.wait > 1)?;
        }
    }
    Ok(status)
}

/// Waits until a domain is shut down, or gone.
fn wait(host: &mut Connection, domid: u16, until_gone: bool) -> Result<(), ClientError> {
    match host.call(&Request::WaitShutdown(DomainRef::Id(domid))) {
        Ok(Reply::ShutDown(Some(reason))) => {
            let reason = reason.0;
            tell(&format!(
                "Domain {domid} has been shut down, reason code {reason}"
            ));
            if !until_gone {
                return Ok(());
            }
            tell(&format!("Domain {domid} continue waiting for death"));
            wait_gone(host, domid)?;
        }
        Ok(Reply::ShutDown(None)) => {}
        Ok(other) => return Err(wrong(&other)),
        Err(error) if is_no_such_domain(&error) => {}
        Err(error) => return Err(error),
    }
    tell(&format!("Domain {domid} has been destroyed"));
    Ok(())
}

/// Waits until no domain has that id.
pub fn wait_gone(host: &mut Connection, domid: u16) -> Result<(), ClientError> {
    loop {
        match host.domid(&Request::Domid(DomainRef::Id(domid))) {
            Ok(_) => thread::sleep(POLL),
            Err(error) if is_no_such_domain(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}
