//! Commands that ask a running domain for something: other memory, other vCPUs, a key, a trigger.

use std::process::ExitCode;

use anyhow::{Context, bail};
use control::{DomainRef, Reply, Request};
use hypercall_abi::domctl::{
    XEN_DOMCTL_SENDTRIGGER_INIT, XEN_DOMCTL_SENDTRIGGER_NMI, XEN_DOMCTL_SENDTRIGGER_POWER,
    XEN_DOMCTL_SENDTRIGGER_RESET, XEN_DOMCTL_SENDTRIGGER_SLEEP,
};

use crate::Outcome;
use crate::cli::{MemoryArgs, TriggerArgs, VcpuSetArgs};
use crate::host::{Connection, wrong};

pub fn sysrq(host: &mut Connection, domain: &str, key: char) -> Outcome {
    let key = u8::try_from(key).ok().filter(u8::is_ascii_graphic);
    host.done(&Request::Sysrq {
        domain: DomainRef::parse(domain),
        key: key.context("invalid sysrq: expected one letter or digit")?,
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn trigger(host: &mut Connection, args: &TriggerArgs) -> Outcome {
    let trigger = match args.trigger.as_str() {
        "nmi" => XEN_DOMCTL_SENDTRIGGER_NMI,
        "reset" => XEN_DOMCTL_SENDTRIGGER_RESET,
        "init" => XEN_DOMCTL_SENDTRIGGER_INIT,
        "power" => XEN_DOMCTL_SENDTRIGGER_POWER,
        "sleep" => XEN_DOMCTL_SENDTRIGGER_SLEEP,
        "s3resume" => bail!("PV domains have no such trigger"),
        other => bail!("invalid trigger {other:?}"),
    };
    host.done(&Request::Trigger {
        domain: DomainRef::parse(&args.domain),
        trigger,
        vcpu: args.vcpu,
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn set_memory(host: &mut Connection, args: &MemoryArgs) -> Outcome {
    host.done(&Request::SetMemoryTarget {
        domain: DomainRef::parse(&args.domain),
        kib: kib(&args.memory)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

pub fn set_max_memory(host: &mut Connection, args: &MemoryArgs) -> Outcome {
    host.done(&Request::SetMaxMemory {
        domain: DomainRef::parse(&args.domain),
        kib: kib(&args.memory)?,
    })?;
    Ok(ExitCode::SUCCESS)
}

/// A size as xl reads it: in MiB, or with a unit of one letter.
pub fn kib(text: &str) -> anyhow::Result<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: Option<u64> = number.parse().ok();
    let scale = |by: u64| number.and_then(|number| number.checked_mul(by));
    let size = match unit.to_ascii_lowercase().as_str() {
        "b" => number.map(|number| number / 1024),
        "k" => number,
        "" | "m" => scale(1 << 10),
        "g" => scale(1 << 20),
        "t" => scale(1 << 30),
        _ => None,
    };
    size.with_context(|| format!("invalid memory size: {text}"))
}

pub fn set_vcpus(host: &mut Connection, args: &VcpuSetArgs) -> Outcome {
    let domain = DomainRef::parse(&args.domain);
    if !args.ignore_host {
        let online = host
            .domains(std::slice::from_ref(&args.domain))?
            .first()
            .map_or(0, |info| info.vcpus);
        let cpus = match host.call(&Request::HostInfo)? {
            Reply::HostInfo(info) => info.nr_cpus,
            other => return Err(wrong(&other).into()),
        };
        if args.vcpus > online && args.vcpus > cpus {
            bail!(
                "the host has {cpus} CPUs and the domain would have {} vCPUs; --ignore-host lets it",
                args.vcpus
            );
        }
    }
    host.done(&Request::SetVcpus {
        domain,
        online: args.vcpus,
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_mib_unless_they_have_a_unit() {
        assert_eq!(kib("64").unwrap(), 64 << 10);
        assert_eq!(kib("64m").unwrap(), 64 << 10);
        assert_eq!(kib("100K").unwrap(), 100);
        assert_eq!(kib("4096b").unwrap(), 4);
        assert_eq!(kib("2g").unwrap(), 2 << 20);
        assert_eq!(kib("1T").unwrap(), 1 << 30);
        for wrong in [
            "",
            "m",
            "-1",
            "1 m",
            "1mb",
            "99999999999999999999",
            "18446744073709551615t",
        ] {
            assert!(kib(wrong).is_err(), "{wrong}");
        }
    }
}
