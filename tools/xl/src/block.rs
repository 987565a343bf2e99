//! Disks of domains.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::anyhow;
use control::{BlockReply, BlockRequest, DomainRef, Reply, Request};

use crate::cfg::disk;
use crate::cli::{BlockAttachArgs, BlockDetachArgs};
use crate::host::{Connection, wrong};
use crate::{Outcome, print, tell};

pub fn attach(host: &mut Connection, args: &BlockAttachArgs) -> Outcome {
    let disk = disk::parse(&args.disk.join(",")).map_err(|why| anyhow!("disk: {why}"))?;
    host.done(&Request::Block(BlockRequest::Attach {
        domain: DomainRef::parse(&args.domain),
        disk,
    }))?;
    Ok(ExitCode::SUCCESS)
}

pub fn detach(host: &mut Connection, args: &BlockDetachArgs) -> Outcome {
    host.done(&Request::Block(BlockRequest::Detach {
        domain: DomainRef::parse(&args.domain),
        vdev: args.vdev.clone(),
        force: args.force,
    }))?;
    Ok(ExitCode::SUCCESS)
}

pub fn list(host: &mut Connection, domains: &[String]) -> Outcome {
    let mut out = format!(
        "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}\n",
        "Vdev", "BE", "handle", "state", "evt-ch", "ring-ref", "BE-path"
    );
    let mut failed = false;
    for domain in domains {
        let request = BlockRequest::Devices(DomainRef::parse(domain));
        let devices = match host.call(&Request::Block(request)) {
            Ok(Reply::Block(BlockReply::Devices(devices))) => devices,
            Ok(other) => return Err(wrong(&other).into()),
            // As with xl, the others are listed.
            Err(error) => {
                tell(&format!("xl: {error}"));
                failed = true;
                continue;
            }
        };
        for device in devices {
            let or_none = |number: Option<u32>| number.map_or(-1, i64::from);
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "{:<5} {:<3} {:<6} {:<5} {:<6} {:<8} {:<30}",
                device.devid,
                0,
                device.domid,
                device.state,
                or_none(device.event_channel),
                or_none(device.ring_ref),
                device.path
            );
        }
    }
    print(&out)?;
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}
