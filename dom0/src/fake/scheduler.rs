//! The stand-in's scheduler, which only remembers.

use control::scheduling::{CpuSet, Parameters, Share, VcpuInfo};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use super::Fake;
use crate::scheduling::{Affinity, Scheduler};
use crate::toolstack::DOM0;

/// CPUs of the host.
const CPUS: u16 = 2;

impl Scheduler for Fake {
    fn cpu_count(&mut self) -> Result<u32, Errno> {
        Ok(CPUS.into())
    }

    fn idle_times(&mut self) -> Result<Vec<u64>, Errno> {
        Ok((1..=CPUS).map(|cpu| u64::from(cpu) * 1000).collect())
    }

    fn vcpu_info(&mut self, domid: Domid, vcpu: u32) -> Result<VcpuInfo, Errno> {
        let all = CpuSet::of(0..CPUS);
        let found = self.affinities.get(&(domid, vcpu)).cloned();
        let (hard, soft) = found.unwrap_or((all.clone(), all));
        Ok(VcpuInfo {
            id: vcpu,
            online: true,
            hard,
            soft,
            ..VcpuInfo::default()
        })
    }

    fn set_affinity(
        &mut self,
        domid: Domid,
        vcpu: u32,
        affinity: &Affinity<'_>,
    ) -> Result<(), Errno> {
        self.call("setvcpuaffinity")?;
        let vcpus = match self.domains.get(&domid.0) {
            Some(domain) => domain.vcpus,
            None if domid == DOM0 => 1,
            None => return Err(Errno::ESRCH),
        };
        let usable = |set: &CpuSet| CpuSet::of((0..CPUS).filter(|cpu| set.contains(*cpu)));
        let (hard, soft) = (affinity.hard.map(usable), affinity.soft.map(usable));
        let empty = |set: &Option<CpuSet>| set.as_ref().is_some_and(|set| set.0.is_empty());
        if vcpu >= vcpus || empty(&hard) || empty(&soft) {
            return Err(Errno::EINVAL);
        }
        let before = self.vcpu_info(domid, vcpu)?;
        let after = (hard.unwrap_or(before.hard), soft.unwrap_or(before.soft));
        self.affinities.insert((domid, vcpu), after);
        Ok(())
    }

    fn share(&mut self, domid: Domid) -> Result<Share, Errno> {
        let usual = Share {
            weight: 256,
            cap: 0,
        };
        Ok(self.shares.get(&domid).copied().unwrap_or(usual))
    }

    fn set_share(&mut self, domid: Domid, share: Share) -> Result<(), Errno> {
        self.call("scheduler_op")?;
        self.shares.insert(domid, share);
        Ok(())
    }

    fn parameters(&mut self) -> Result<Parameters, Errno> {
        Ok(self.parameters)
    }

    fn set_parameters(&mut self, parameters: Parameters) -> Result<(), Errno> {
        self.parameters = parameters;
        Ok(())
    }
}
