//! Where vCPUs run, and how they share the CPUs: what `xl vcpu-list`, `vcpu-pin` and `sched-credit` ask for.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::scheduling::{CpuSet, Parameters, Share, VcpuInfo};
use control::{Error, Reply, SchedulingReply, SchedulingRequest};
use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::{
    XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US, XEN_SYSCTL_CSCHED_TSLICE_MAX, XEN_SYSCTL_CSCHED_TSLICE_MIN,
    XEN_SYSCTL_SCHED_RATELIMIT_MAX, XEN_SYSCTL_SCHED_RATELIMIT_MIN,
};
use hypercall_abi::types::Domid;

use crate::Toolstack;
use crate::xen::{Context, Xen};

/// What a vCPU's affinities change to.
#[derive(Clone, Copy, Debug)]
pub struct Affinity<'a> {
    /// The CPUs that it may run on, if they are to change.
    pub hard: Option<&'a CpuSet>,
    /// Those that it had better run on, if they are to change.
    pub soft: Option<&'a CpuSet>,
    /// End a limit that the vCPU has set itself.
    pub force: bool,
}

/// The part of the hypervisor's interface that is about scheduling. Errors are the hypercalls' own.
pub trait Scheduler {
    /// How many CPUs the host has, by `XEN_SYSCTL_physinfo`.
    fn cpu_count(&mut self) -> Result<u32, Errno>;
    /// `XEN_SYSCTL_getcpuinfo`: nanoseconds for which each CPU has run no vCPU.
    fn idle_times(&mut self) -> Result<Vec<u64>, Errno>;
    /// `XEN_DOMCTL_getvcpuinfo` and `XEN_DOMCTL_getvcpuaffinity`; `ESRCH` where there is no such vCPU.
    fn vcpu_info(&mut self, domid: Domid, vcpu: u32) -> Result<VcpuInfo, Errno>;
    /// `XEN_DOMCTL_setvcpuaffinity`; `EINVAL` where the host has none of the CPUs.
    fn set_affinity(
        &mut self,
        domid: Domid,
        vcpu: u32,
        affinity: &Affinity<'_>,
    ) -> Result<(), Errno>;
    /// `XEN_DOMCTL_scheduler_op`: a domain's weight and cap; `EOPNOTSUPP` where the scheduler has none.
    fn share(&mut self, domid: Domid) -> Result<Share, Errno>;
    /// Sets them.
    fn set_share(&mut self, domid: Domid, share: Share) -> Result<(), Errno>;
    /// `XEN_SYSCTL_scheduler_op` of the credit scheduler.
    fn parameters(&mut self) -> Result<Parameters, Errno>;
    /// Sets them.
    fn set_parameters(&mut self, parameters: Parameters) -> Result<(), Errno>;
}

/// Deals with a request.
pub(crate) fn answer<X: Xen>(
    toolstack: &mut Toolstack<X>,
    request: SchedulingRequest,
) -> Result<Reply, Error> {
    match request {
        SchedulingRequest::Vcpu { domain, vcpu } => {
            let domid = toolstack.resolve(&domain)?;
            let name = toolstack.name(domid).to_string();
            let xen = toolstack.xen();
            let cpus = xen.cpu_count().context("physinfo")?;
            let vcpu = match vcpu < vcpus(xen, domid)? {
                true => Some(xen.vcpu_info(domid, vcpu).context("getvcpuinfo")?),
                false => None,
            };
            Ok(Reply::Scheduling(SchedulingReply::Vcpu {
                domid: domid.0,
                name,
                cpus,
                vcpu,
            }))
        }
        SchedulingRequest::SetAffinity {
            domain,
            vcpu,
            hard,
            soft,
            force,
        } => {
            let domid = toolstack.resolve(&domain)?;
            let affinity = Affinity {
                hard: hard.as_ref(),
                soft: soft.as_ref(),
                force,
            };
            let xen = toolstack.xen();
            let count = vcpus(xen, domid)?;
            let numbers = match vcpu {
                None => 0..count,
                Some(vcpu) if vcpu < count => vcpu..vcpu + 1,
                Some(vcpu) => {
                    return Err(Error::BadConfig {
                        field: String::from("vCPU"),
                        why: format!("the domain has no vCPU {vcpu}"),
                    });
                }
            };
            for vcpu in numbers {
                limit(xen, domid, vcpu, &affinity, "affinity")?;
            }
            Ok(Reply::Done)
        }
        SchedulingRequest::Share(domain) => {
            let domid = toolstack.resolve(&domain)?;
            let name = toolstack.name(domid).to_string();
            let share = toolstack.xen().share(domid).context("scheduler_op")?;
            Ok(Reply::Scheduling(SchedulingReply::Share {
                domid: domid.0,
                name,
                share,
            }))
        }
        SchedulingRequest::SetShare {
            domain,
            weight,
            cap,
        } => {
            let domid = toolstack.resolve(&domain)?;
            set_share(toolstack.xen(), domid, weight, cap)?;
            Ok(Reply::Done)
        }
        SchedulingRequest::Parameters => {
            let parameters = toolstack.xen().parameters().context("scheduler_op")?;
            Ok(Reply::Scheduling(SchedulingReply::Parameters(parameters)))
        }
        SchedulingRequest::SetParameters {
            timeslice_ms,
            ratelimit_us,
            migration_delay_us,
        } => {
            let xen = toolstack.xen();
            let before = xen.parameters().context("scheduler_op")?;
            let wanted = Parameters {
                timeslice_ms: timeslice_ms.unwrap_or(before.timeslice_ms),
                ratelimit_us: ratelimit_us.unwrap_or(before.ratelimit_us),
                migration_delay_us: migration_delay_us.unwrap_or(before.migration_delay_us),
            };
            check_parameters(&wanted)?;
            xen.set_parameters(wanted).context("scheduler_op")?;
            Ok(Reply::Done)
        }
    }
}

/// Sets what a configuration says of a domain that is being built.
pub(crate) fn apply(
    xen: &mut impl Xen,
    domid: Domid,
    config: &control::Scheduling,
) -> Result<(), Error> {
    if config.weight.is_some() || config.cap.is_some() {
        set_share(xen, domid, config.weight, config.cap)?;
    }
    for (vcpu, hard) in (0..).zip(&config.hard) {
        let affinity = Affinity {
            hard: Some(hard),
            soft: None,
            force: false,
        };
        limit(xen, domid, vcpu, &affinity, "cpus")?;
    }
    for (vcpu, soft) in (0..).zip(&config.soft) {
        let affinity = Affinity {
            hard: None,
            soft: Some(soft),
            force: false,
        };
        limit(xen, domid, vcpu, &affinity, "cpus_soft")?;
    }
    Ok(())
}

/// Changes a vCPU's affinities, of which the user spoke by that word.
fn limit(
    xen: &mut impl Xen,
    domid: Domid,
    vcpu: u32,
    affinity: &Affinity<'_>,
    key: &str,
) -> Result<(), Error> {
    match xen.set_affinity(domid, vcpu, affinity) {
        Err(Errno::EINVAL) => Err(Error::BadConfig {
            field: String::from(key),
            why: format!("the host has none of the CPUs of vCPU {vcpu}"),
        }),
        other => other.context("setvcpuaffinity"),
    }
}

/// How many vCPUs a domain has.
fn vcpus(xen: &mut impl Xen, domid: Domid) -> Result<u32, Error> {
    let status = xen.domain_status(domid).context("getdomaininfo")?;
    // The number of the last is that before 0 if there is none.
    Ok(status.map_or(0, |status| status.max_vcpu_id.wrapping_add(1)))
}

fn set_share(
    xen: &mut impl Xen,
    domid: Domid,
    weight: Option<u16>,
    cap: Option<u16>,
) -> Result<(), Error> {
    let before = xen.share(domid).context("scheduler_op")?;
    let wanted = Share {
        weight: weight.unwrap_or(before.weight),
        cap: cap.unwrap_or(before.cap),
    };
    let most = vcpus(xen, domid)?.saturating_mul(100);
    if wanted.weight == 0 {
        return Err(out_of_range("cpu_weight", 1, u16::MAX.into()));
    }
    if u32::from(wanted.cap) > most {
        return Err(out_of_range("cap", 0, most));
    }
    xen.set_share(domid, wanted).context("scheduler_op")
}

fn check_parameters(wanted: &Parameters) -> Result<(), Error> {
    let slices = XEN_SYSCTL_CSCHED_TSLICE_MIN..=XEN_SYSCTL_CSCHED_TSLICE_MAX;
    let limits = XEN_SYSCTL_SCHED_RATELIMIT_MIN..=XEN_SYSCTL_SCHED_RATELIMIT_MAX;
    if !slices.contains(&wanted.timeslice_ms) {
        return Err(out_of_range("tslice", *slices.start(), *slices.end()));
    }
    if wanted.ratelimit_us != 0 && !limits.contains(&wanted.ratelimit_us) {
        return Err(out_of_range("ratelimit", *limits.start(), *limits.end()));
    }
    if wanted.ratelimit_us > wanted.timeslice_ms * 1000 {
        return Err(Error::BadConfig {
            field: String::from("ratelimit"),
            why: String::from("cannot be greater than the time slice"),
        });
    }
    if wanted.migration_delay_us > XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US {
        let most = XEN_SYSCTL_CSCHED_MGR_DLY_MAX_US;
        return Err(out_of_range("migration delay", 0, most));
    }
    Ok(())
}

fn out_of_range(field: &str, from: u32, to: u32) -> Error {
    Error::BadConfig {
        field: String::from(field),
        why: format!("valid values are within {from} to {to}"),
    }
}

#[cfg(test)]
mod tests {
    use control::DomainRef;

    use super::*;
    use crate::fake::Fake;
    use crate::net::addressing::Addressing;
    use crate::toolstack::DOM0;

    fn toolstack() -> Toolstack<Fake> {
        Toolstack::new(Fake::new(16), 0, Addressing::None)
    }

    fn dom0() -> DomainRef {
        DomainRef::Id(DOM0.0)
    }

    fn set_share(weight: Option<u16>, cap: Option<u16>) -> SchedulingRequest {
        SchedulingRequest::SetShare {
            domain: dom0(),
            weight,
            cap,
        }
    }

    #[test]
    fn a_share_is_set_as_far_as_it_is_given() {
        let mut toolstack = toolstack();
        for (request, weight, cap) in [
            (set_share(Some(512), None), 512, 0),
            (set_share(None, Some(100)), 512, 100),
            (set_share(Some(1), Some(0)), 1, 0),
        ] {
            assert_eq!(answer(&mut toolstack, request), Ok(Reply::Done));
            let reply = answer(&mut toolstack, SchedulingRequest::Share(dom0())).unwrap();
            let Reply::Scheduling(SchedulingReply::Share { share, name, .. }) = reply else {
                panic!("{reply:?}");
            };
            assert_eq!((share, name.as_str()), (Share { weight, cap }, "Domain-0"));
        }
    }

    #[test]
    fn a_share_out_of_range_is_refused() {
        let mut toolstack = toolstack();
        for (request, field) in [
            (set_share(Some(0), None), "cpu_weight"),
            // It has one vCPU.
            (set_share(None, Some(101)), "cap"),
        ] {
            let Err(Error::BadConfig { field: found, .. }) = answer(&mut toolstack, request) else {
                panic!("it is taken");
            };
            assert_eq!(found, field);
        }
    }

    #[test]
    fn parameters_are_set_within_the_interfaces_bounds() {
        let mut toolstack = toolstack();
        let mut set = |timeslice_ms, ratelimit_us| {
            answer(
                &mut toolstack,
                SchedulingRequest::SetParameters {
                    timeslice_ms,
                    ratelimit_us,
                    migration_delay_us: None,
                },
            )
        };
        assert_eq!(set(Some(5), None), Ok(Reply::Done));
        assert_eq!(set(None, Some(5000)), Ok(Reply::Done));
        for (slice, limit) in [
            (Some(0), None),
            (Some(1001), None),
            (None, Some(99)),
            (None, Some(5001)),
            (Some(4), None),
        ] {
            assert!(set(slice, limit).is_err(), "{slice:?} {limit:?}");
        }
        assert_eq!(set(None, Some(0)), Ok(Reply::Done));
    }

    #[test]
    fn vcpus_are_limited_one_by_one_or_all() {
        let mut toolstack = toolstack();
        let set = |vcpu, hard: Option<u16>, soft: Option<u16>| SchedulingRequest::SetAffinity {
            domain: dom0(),
            vcpu,
            hard: hard.map(|cpu| CpuSet::of([cpu])),
            soft: soft.map(|cpu| CpuSet::of([cpu])),
            force: false,
        };
        for request in [set(Some(0), Some(0), None), set(None, None, Some(1))] {
            assert_eq!(answer(&mut toolstack, request), Ok(Reply::Done));
        }
        let mut found = |vcpu| {
            let domain = dom0();
            let request = SchedulingRequest::Vcpu { domain, vcpu };
            match answer(&mut toolstack, request) {
                Ok(Reply::Scheduling(SchedulingReply::Vcpu { vcpu, cpus: 2, .. })) => vcpu,
                other => panic!("{other:?}"),
            }
        };
        let vcpu = found(0).unwrap();
        assert_eq!((vcpu.hard, vcpu.soft), (CpuSet::of([0]), CpuSet::of([1])));
        assert_eq!(found(1), None);
        for (vcpu, cpu, wrong) in [(1, 0, "vCPU"), (u32::MAX, 0, "vCPU"), (0, 2, "affinity")] {
            match answer(&mut toolstack, set(Some(vcpu), Some(cpu), None)) {
                Err(Error::BadConfig { field, .. }) => assert_eq!(field, wrong),
                other => panic!("{other:?}"),
            }
        }
    }
}
