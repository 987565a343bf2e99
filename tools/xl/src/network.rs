//! Network interfaces of domains.

use std::fmt::Write;
use std::process::ExitCode;

use anyhow::anyhow;
use control::{DomainRef, NetworkReply, NetworkRequest, Reply, Request};
use split_drivers::net::Mac;

use crate::cfg::vif;
use crate::cli::{NetworkAttachArgs, NetworkDetachArgs};
use crate::host::{Connection, wrong};
use crate::{Outcome, print, tell};

pub fn attach(host: &mut Connection, args: &NetworkAttachArgs) -> Outcome {
    let vif = vif::parse(&args.vif.join(",")).map_err(|why| anyhow!("vif: {why}"))?;
    host.done(&Request::Network(NetworkRequest::Attach {
        domain: DomainRef::parse(&args.domain),
        vif,
    }))?;
    Ok(ExitCode::SUCCESS)
}

pub fn detach(host: &mut Connection, args: &NetworkDetachArgs) -> Outcome {
    host.done(&Request::Network(NetworkRequest::Detach {
        domain: DomainRef::parse(&args.domain),
        vif: args.vif.clone(),
    }))?;
    Ok(ExitCode::SUCCESS)
}

pub fn list(host: &mut Connection, domains: &[String]) -> Outcome {
    let mut out = format!(
        "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<11} {:<30}\n",
        "Idx", "BE", "Mac Addr.", "handle", "state", "evt-ch", "tx-", "rx-ring-ref", "BE-path"
    );
    let mut failed = false;
    for domain in domains {
        let request = NetworkRequest::Interfaces(DomainRef::parse(domain));
        let vifs = match host.call(&Request::Network(request)) {
            Ok(Reply::Network(NetworkReply::Interfaces(vifs))) => vifs,
            Ok(other) => return Err(wrong(&other).into()),
            // As with xl, the others are listed.
            Err(error) => {
                tell(&format!("xl: {error}"));
                failed = true;
                continue;
            }
        };
        for vif in vifs {
            let or_none = |number: Option<u32>| number.map_or(-1, i64::from);
            // Writing to a string does not fail.
            let _ = writeln!(
                out,
                "{:<3} {:<2} {:<17} {:<6} {:<5} {:<6} {:>5}/{:<11} {:<30}",
                vif.devid,
                0,
                Mac(vif.mac).to_string(),
                vif.devid,
                vif.state,
                or_none(vif.event_channel),
                or_none(vif.tx_ring),
                or_none(vif.rx_ring),
                vif.path
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
