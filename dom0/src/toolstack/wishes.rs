//! What a domain is asked to do by the store: to shut down, to have another amount of memory or other
//! vCPUs. Whether it does is its own business.

use alloc::format;
use alloc::string::{String, ToString};

use control::{Error, Stop};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use super::{DOM0, Notice, Phase, StoreContext, Toolstack};
use crate::builder::SLACK_KIB;
use crate::nodes;
use crate::xen::{Context, Xen};

impl<X: Xen> Toolstack<X> {
    /// Asks a domain to shut down or to reboot. [`Notice::Acknowledged`] follows when it has heard.
    pub fn stop(&mut self, domid: Domid, how: Stop) -> Result<(), Error> {
        if self.managed(domid)?.phase != Phase::Alive {
            return Err(Error::BadState {
                domid: domid.0,
                why: String::from("is shut down already"),
            });
        }
        let path = nodes::shutdown(domid);
        self.store
            .nodes(&mut self.xen)
            .write(&path, how.name())
            .asked("to write control/shutdown")?;
        if self.unheard.contains(&domid) {
            return Ok(());
        }
        self.store
            .watch(&mut self.xen, &path, &domid.to_string(), true)
            .asked("to watch control/shutdown")?;
        self.unheard.insert(domid);
        Ok(())
    }

    /// Presses a magic system request key of a domain.
    pub fn press(&mut self, domid: Domid, key: u8) -> Result<(), Error> {
        self.managed(domid)?;
        if !key.is_ascii_graphic() {
            return Err(Error::BadRequest(format!("{key:#x} is no sysrq key")));
        }
        let path = format!("{}/control/sysrq", nodes::home(domid));
        self.store
            .nodes(&mut self.xen)
            .write(&path, &char::from(key).to_string())
            .asked("to write control/sysrq")
    }

    /// Sends one of `XEN_DOMCTL_SENDTRIGGER_*` to a vCPU.
    pub fn trigger(&mut self, domid: Domid, trigger: u32, vcpu: u32) -> Result<(), Error> {
        self.managed(domid)?;
        match self.xen.send_trigger(domid, trigger, vcpu) {
            Err(Errno::ESRCH) => Err(Error::BadState {
                domid: domid.0,
                why: format!("has no vCPU {vcpu}"),
            }),
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP) => {
                let what = String::from("PV domains have no such trigger");
                Err(Error::NotSupported(what))
            }
            other => other.context("sendtrigger"),
        }
    }

    /// Asks a domain to have so much memory, in KiB, and lets it have no more.
    pub fn set_memory_target(&mut self, domid: Domid, kib: u64) -> Result<(), Error> {
        let most = self.managed(domid)?.config.max_memory_kib;
        if kib > most {
            return Err(Error::BadConfig {
                field: String::from("memory"),
                why: format!("{kib} KiB is more than maxmem, which is {most} KiB"),
            });
        }
        let uuid = self.managed(domid)?.config.uuid;
        self.xen
            .set_max_memory(domid, kib.saturating_add(SLACK_KIB))
            .context("max_mem")?;
        nodes::set_memory_target(&mut self.store, &mut self.xen, domid, &uuid, kib)
            .asked("to write memory/target")?;
        self.managed(domid)?.config.memory_kib = kib;
        Ok(())
    }

    /// Sets how much memory a domain may have, in KiB.
    pub fn set_max_memory(&mut self, domid: Domid, kib: u64) -> Result<(), Error> {
        let target = self.managed(domid)?.config.memory_kib;
        if kib < target {
            return Err(Error::BadConfig {
                field: String::from("maxmem"),
                why: format!("{kib} KiB is less than memory, which is {target} KiB"),
            });
        }
        self.xen
            .set_max_memory(domid, kib.saturating_add(SLACK_KIB))
            .context("max_mem")?;
        let path = format!("{}/memory/static-max", nodes::home(domid));
        self.store
            .nodes(&mut self.xen)
            .write(&path, &kib.to_string())
            .asked("to write memory/static-max")?;
        self.managed(domid)?.config.max_memory_kib = kib;
        Ok(())
    }

    /// Asks a domain to have its first `online` vCPUs online and the others not.
    pub fn set_vcpus(&mut self, domid: Domid, online: u32) -> Result<(), Error> {
        let most = self.managed(domid)?.config.max_vcpus;
        if online == 0 || online > most {
            return Err(Error::BadConfig {
                field: String::from("vcpus"),
                why: format!("{online} is not between 1 and maxvcpus={most}"),
            });
        }
        nodes::set_vcpus(&mut self.store, &mut self.xen, domid, online, most)
            .asked("to write cpu availability")?;
        self.managed(domid)?.config.vcpus = online;
        Ok(())
    }

    /// Looks at what the toolstack's watches have told.
    pub(super) fn hear(&mut self) {
        while let Some(event) = self.store.next_event() {
            let token = core::str::from_utf8(&event.token).ok();
            if token.is_some_and(|it| self.blocks.on_watch(it) || self.network.on_watch(it)) {
                continue;
            }
            let Some(domid) = token.and_then(|token| token.parse().ok()).map(Domid) else {
                continue;
            };
            // The guest empties the node or removes it; with the guest it is gone, too.
            let path = nodes::shutdown(domid);
            let heard = match self.store.nodes(&mut self.xen).read(&path) {
                Ok(value) => value.is_none_or(|value| value.is_empty()),
                Err(_) => false,
            };
            if heard && domid != DOM0 && self.unheard.remove(&domid) {
                let token = domid.to_string();
                let _ = self.store.watch(&mut self.xen, &path, &token, false);
                self.notices.push_back(Notice::Acknowledged(domid));
            }
        }
    }
}
