//! The end of domains: asked for, by themselves, or by their destruction.

use alloc::format;
use alloc::vec::Vec;

use control::{DomainRef, Error, ImageHash, ShutdownReason, Uuid};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use super::{Notice, Phase, StoreContext, Toolstack};
use crate::nodes;
use crate::reaper::{self, Fate, RESTART_INTERVAL};
use crate::xen::{Context, DomainStatus, Xen};

/// How often a domain that lingers is looked at, in nanoseconds.
const LINGER_INTERVAL: u64 = 10_000_000;

impl<X: Xen> Toolstack<X> {
    /// Why a domain has shut down, if it has.
    pub fn shutdown_reason(&self, domid: Domid) -> Option<ShutdownReason> {
        match self.domains.get(&domid)?.phase {
            Phase::RestartsLater(reason) | Phase::Kept(reason) => Some(reason),
            Phase::Alive | Phase::Dying => None,
        }
    }

    /// Ends a domain. [`Notice::Gone`] follows, at once or when the last of its frames is free.
    pub fn destroy(&mut self, domid: Domid) -> Result<(), Error> {
        self.managed(domid)?;
        self.end(domid)?;
        self.notices.push_back(Notice::Ended(domid, None));
        self.look_for(domid);
        Ok(())
    }

    pub(super) fn end(&mut self, domid: Domid) -> Result<(), Error> {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return Ok(());
        };
        let start = self.xen.now();
        // As long as we have its pages mapped, the hypervisor cannot free them.
        domain.console.detach(&mut self.xen);
        let uuid = domain.config.uuid;
        self.drop_devices(domid);
        self.forget(domid, &uuid);
        match self.xen.destroy_domain(domid) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).context("destroydomain"),
        }
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.phase = Phase::Dying;
        }
        let micros = self.xen.now().saturating_sub(start) / 1000;
        let name = self.name(domid);
        let line = format!("domain {domid} ({name}): destroyed in {micros} us");
        self.xen.log(&line);
        Ok(())
    }

    /// Forgets a dying domain if the hypervisor has.
    pub(super) fn look_for(&mut self, domid: Domid) {
        if let Ok(None) = self.status(domid) {
            self.domains.remove(&domid);
            self.notices.push_back(Notice::Gone(domid));
        }
    }

    /// `VIRQ_DOM_EXC`: some domain has shut down or is gone.
    pub fn on_domain_exception(&mut self) {
        let list = match self.xen.domain_list() {
            Ok(list) => list,
            Err(error) => {
                let line = format!("cannot list domains: {error}");
                return self.xen.log(&line);
            }
        };
        let ours: Vec<Domid> = self.domains.keys().copied().collect();
        for domid in ours {
            let status = list.iter().find(|status| status.domid == domid);
            match status {
                None => self.on_gone(domid),
                Some(DomainStatus {
                    shutdown: Some(reason),
                    ..
                }) => self.on_shutdown(domid, ShutdownReason(*reason)),
                Some(_) => {}
            }
        }
    }

    fn on_gone(&mut self, domid: Domid) {
        let Some(mut domain) = self.domains.remove(&domid) else {
            return;
        };
        if domain.phase != Phase::Dying {
            // Somebody else destroyed it.
            domain.console.detach(&mut self.xen);
            self.drop_devices(domid);
            self.forget(domid, &domain.config.uuid);
            self.notices.push_back(Notice::Ended(domid, None));
        }
        self.notices.push_back(Notice::Gone(domid));
    }

    fn on_shutdown(&mut self, domid: Domid, reason: ShutdownReason) {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return;
        };
        match domain.phase {
            Phase::Alive => {
                domain.console.pump(&mut self.xen);
                domain.phase = Phase::Kept(reason);
                self.store.domain_stopped(domid);
                let fate = reaper::fate(&domain.config.on, reason);
                let name = &domain.config.name;
                let cause = reaper::reason_name(reason);
                self.xen
                    .log(&format!("domain {domid} ({name}): {cause}, {fate}"));
                self.notices.push_back(Notice::ShutDown(domid, reason));
            }
            Phase::RestartsLater(_) => {}
            Phase::Kept(_) | Phase::Dying => return,
        }
        let fate = reaper::fate(&domain.config.on, reason);
        let restarts = matches!(fate, Fate::Restart | Fate::RenameAndRestart);
        if restarts && self.xen.now() < domain.created.saturating_add(RESTART_INTERVAL) {
            domain.phase = Phase::RestartsLater(reason);
            return;
        }
        domain.phase = Phase::Kept(reason);
        let result = match fate {
            Fate::Keep => Ok(()),
            Fate::Destroy => self.destroy(domid),
            Fate::Restart => self.restart(domid),
            Fate::RenameAndRestart => self.rename_and_restart(domid),
        };
        if let Err(error) = result {
            let line = format!("domain {domid} ({}): {error}", self.name(domid));
            self.xen.log(&line);
        }
    }

    fn restart(&mut self, domid: Domid) -> Result<(), Error> {
        self.end(domid)?;
        let result = self.start_again(domid);
        let successor = result.as_ref().ok().copied();
        self.notices.push_back(Notice::Ended(domid, successor));
        self.look_for(domid);
        result.map(|_| ())
    }

    fn rename_and_restart(&mut self, domid: Domid) -> Result<(), Error> {
        let (now, seconds) = (self.xen.now(), self.xen.wall_clock());
        let name = reaper::kept_name(self.name(domid), seconds);
        let name = match self.by_name(&name) {
            Some(_) => format!("{name}-{domid}"),
            None => name,
        };
        let Some(domain) = self.domains.get_mut(&domid) else {
            return Ok(());
        };
        let uuid = other_uuid(&domain.config.uuid, domid, now);
        self.xen
            .set_handle(domid, uuid.0)
            .context("setdomainhandle")?;
        let config = domain.config.clone();
        let old = (domid, &config.uuid);
        nodes::set_aside(&mut self.store, &mut self.xen, old, &uuid, &name)
            .asked("to set a domain aside")?;
        domain.config.name = name;
        domain.config.uuid = uuid;
        let (kernel, ramdisk) = (domain.kernel.clone(), domain.ramdisk.clone());
        // Its successor has the same devices.
        self.drop_devices(domid);
        self.start(config, kernel, ramdisk, false).map(|_| ())
    }

    fn start_again(&mut self, domid: Domid) -> Result<Domid, Error> {
        let domain = self
            .domains
            .get(&domid)
            .ok_or(Error::NoSuchDomain(DomainRef::Id(domid.0)))?;
        let config = domain.config.clone();
        let (kernel, ramdisk) = (domain.kernel.clone(), domain.ramdisk.clone());
        self.start(config, kernel, ramdisk, false)
    }

    /// When [`Toolstack::tick`] is to be called next, in nanoseconds of system time.
    pub fn deadline(&mut self) -> Option<u64> {
        let now = self.xen.now();
        let ends = self
            .domains
            .values()
            .filter_map(|domain| match domain.phase {
                Phase::RestartsLater(_) => Some(domain.created.saturating_add(RESTART_INTERVAL)),
                Phase::Dying => Some(now.saturating_add(LINGER_INTERVAL)),
                Phase::Alive | Phase::Kept(_) => None,
            });
        ends.chain(self.store.deadline())
            .chain(self.blocks.deadline(now))
            .chain(self.network.deadline(now))
            .chain(self.trace.deadline())
            .min()
    }

    /// Does what is due.
    pub fn tick(&mut self) {
        self.blocks.tick();
        self.network.tick(self.xen.now());
        let due = self
            .domains
            .values()
            .any(|domain| matches!(domain.phase, Phase::RestartsLater(_) | Phase::Dying));
        if due {
            self.on_domain_exception();
        }
    }
}

/// Another UUID for a domain that is kept while its successor has its own.
fn other_uuid(uuid: &Uuid, domid: Domid, now: u64) -> Uuid {
    let mut seed = Vec::from(uuid.0);
    seed.extend_from_slice(&domid.0.to_le_bytes());
    seed.extend_from_slice(&now.to_le_bytes());
    let hash = ImageHash::of(&seed).0;
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(hash) {
        *to = from;
    }
    // Version 8 (free form), variant 1.
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    Uuid(bytes)
}
