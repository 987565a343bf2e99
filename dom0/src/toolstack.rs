//! The domains of the host, from their creation to the last of their frames.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;

use control::{
    DomainConfig, DomainInfo, DomainRef, DomainState, Error, ImageHash, ShutdownReason, Uuid,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};

use crate::builder::{self, Sources};
use crate::console::Console;
use crate::images::{CachedImage, ImageCache};
use crate::reaper::{self, Fate, RESTART_INTERVAL};
use crate::scrollback::Scrollback;
use crate::xen::{Context, DomainStatus, Xen};

/// The control domain itself.
pub const DOM0: Domid = Domid(0);
/// Its name, as with xl.
const DOM0_NAME: &str = "Domain-0";
/// How often a domain that lingers is looked at, in nanoseconds.
const LINGER_INTERVAL: u64 = 10_000_000;

/// What others may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The domain has shut down.
    ShutDown(Domid, ShutdownReason),
    /// The domain is no more, though its frames may linger; it was built anew under the id given.
    Ended(Domid, Option<Domid>),
    /// The domain and all that it had is gone.
    Gone(Domid),
}

/// Where a domain is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Its end, when it comes, is ours to deal with.
    Alive,
    /// It has shut down, which was told, and will be built anew once the interval is over.
    RestartsLater(ShutdownReason),
    /// It has shut down and is kept.
    Kept(ShutdownReason),
    /// Destroyed; the hypervisor may still have some of it.
    Dying,
}

/// A domain that was built here.
#[derive(Debug)]
struct Domain<M> {
    config: DomainConfig,
    /// Kept for a restart even when the cache has dropped them.
    kernel: Rc<CachedImage>,
    ramdisk: Option<Rc<CachedImage>>,
    console: Console<M>,
    created: u64,
    phase: Phase,
}

/// All domains, and the images that they are built from.
pub struct Toolstack<X: Xen> {
    xen: X,
    images: ImageCache,
    domains: BTreeMap<Domid, Domain<X::Mapping>>,
    notices: VecDeque<Notice>,
}

impl<X: Xen> Toolstack<X> {
    /// A host with no domain but the control domain. `image_room` is how many bytes of kernels and
    /// ramdisks are kept.
    pub fn new(xen: X, image_room: u64) -> Self {
        Self {
            xen,
            images: ImageCache::new(image_room),
            domains: BTreeMap::new(),
            notices: VecDeque::new(),
        }
    }

    /// The hypervisor.
    pub fn xen(&mut self) -> &mut X {
        &mut self.xen
    }

    /// The images.
    pub fn images(&mut self) -> &mut ImageCache {
        &mut self.images
    }

    /// The next thing that happened.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Builds a domain, and lets it run unless it is to be `paused`.
    pub fn create(&mut self, config: DomainConfig, paused: bool) -> Result<Domid, Error> {
        self.check(&config)?;
        let kernel = self.images.get(&config.kernel.hash)?;
        let ramdisk = match &config.ramdisk {
            Some(image) => Some(self.images.get(&image.hash)?),
            None => None,
        };
        self.start(config, kernel, ramdisk, paused)
    }

    fn check(&self, config: &DomainConfig) -> Result<(), Error> {
        let bad = |field: &str, why: &str| {
            Err(Error::BadConfig {
                field: field.to_string(),
                why: why.to_string(),
            })
        };
        self.check_name(&config.name)?;
        if let Some(domid) = self.find(|domain| domain.config.uuid == config.uuid) {
            return Err(Error::UuidInUse { domid: domid.0 });
        }
        if config.memory_kib < 4 {
            return bad("memory", "too small");
        }
        if config.max_memory_kib < config.memory_kib {
            return bad("maxmem", "less than memory");
        }
        if config.vcpus == 0 {
            return bad("vcpus", "must be at least 1");
        }
        if config.max_vcpus < config.vcpus {
            return bad("maxvcpus", "less than vcpus");
        }
        if config.cmdline.len() > DomainConfig::MAX_CMDLINE {
            return bad(
                "extra",
                "the kernel's command line is longer than 1023 bytes",
            );
        }
        if config.cmdline.contains('\0') {
            return bad("extra", "a zero byte in the kernel's command line");
        }
        reaper::check(config)
    }

    fn check_name(&self, name: &str) -> Result<(), Error> {
        let why = if name.is_empty() {
            "must not be empty"
        } else if name.len() > DomainRef::MAX_NAME {
            "longer than 255 bytes"
        } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
            "digits alone are a domain id"
        } else if name.chars().any(|c| c.is_control() || c == '/') {
            "must have no control characters and no slash"
        } else {
            return match self.by_name(name) {
                Some(domid) => Err(Error::NameInUse {
                    name: name.to_string(),
                    domid: domid.0,
                }),
                None => Ok(()),
            };
        };
        Err(Error::BadConfig {
            field: String::from("name"),
            why: String::from(why),
        })
    }

    fn start(
        &mut self,
        config: DomainConfig,
        kernel: Rc<CachedImage>,
        ramdisk: Option<Rc<CachedImage>>,
        paused: bool,
    ) -> Result<Domid, Error> {
        let created = self.xen.now();
        let sources = Sources {
            kernel: &kernel.bytes,
            image: kernel.kernel()?,
            ramdisk: ramdisk.as_ref().map(|image| image.bytes.as_slice()),
        };
        let built = builder::build(&mut self.xen, &config, &sources)?;
        let domid = built.domid;
        let mut console = Console::attach(&mut self.xen, domid, built.console, built.console_port)
            .inspect_err(|_| self.discard(domid))?;
        if !paused && let Err(error) = self.xen.unpause_domain(domid).context("unpausedomain") {
            console.detach(&mut self.xen);
            self.discard(domid);
            return Err(error);
        }
        let domain = Domain {
            config,
            kernel,
            ramdisk,
            console,
            created,
            phase: Phase::Alive,
        };
        self.domains.insert(domid, domain);
        let micros = self.xen.now().saturating_sub(created) / 1000;
        let line = format!(
            "domain {domid} ({}): created in {micros} us",
            self.name(domid)
        );
        self.xen.log(&line);
        Ok(domid)
    }

    /// Destroys what nobody has heard of yet.
    fn discard(&mut self, domid: Domid) {
        // The error that led here is the one to tell.
        let _ = self.xen.destroy_domain(domid);
    }

    fn find(&self, test: impl Fn(&Domain<X::Mapping>) -> bool) -> Option<Domid> {
        self.domains
            .iter()
            .find(|(_, domain)| domain.phase != Phase::Dying && test(domain))
            .map(|(domid, _)| *domid)
    }

    fn by_name(&self, name: &str) -> Option<Domid> {
        if name == DOM0_NAME {
            return Some(DOM0);
        }
        self.find(|domain| domain.config.name == name)
    }

    /// The id that the user means. A domain that is being destroyed still has its id, but no name.
    pub fn resolve(&mut self, domain: &DomainRef) -> Result<Domid, Error> {
        let domid = match domain {
            DomainRef::Id(id) => {
                let domid = Domid(*id);
                let known = domid.is_ordinary()
                    && self
                        .status(domid)?
                        .is_some_and(|status| status.domid == domid);
                known.then_some(domid)
            }
            DomainRef::Name(name) => self.by_name(name),
        };
        domid.ok_or_else(|| Error::NoSuchDomain(domain.clone()))
    }

    fn status(&mut self, domid: Domid) -> Result<Option<DomainStatus>, Error> {
        match self.xen.domain_status(domid) {
            Err(Errno::ESRCH) => Ok(None),
            other => other.context("getdomaininfo"),
        }
    }

    /// A domain that was built here and is not being destroyed.
    fn managed(&mut self, domid: Domid) -> Result<&mut Domain<X::Mapping>, Error> {
        if domid == DOM0 {
            return Err(Error::NotPermitted(format!(
                "{DOM0_NAME} is the control domain"
            )));
        }
        let bad = |why: &str| Error::BadState {
            domid: domid.0,
            why: why.to_string(),
        };
        match self.domains.get_mut(&domid) {
            None => Err(bad("was not created by this toolstack")),
            Some(domain) if domain.phase == Phase::Dying => Err(bad("is dying")),
            Some(domain) => Ok(domain),
        }
    }

    /// A domain's name; empty for one that has none.
    pub fn name(&self, domid: Domid) -> &str {
        if domid == DOM0 {
            return DOM0_NAME;
        }
        self.domains
            .get(&domid)
            .map_or("", |domain| domain.config.name.as_str())
    }

    /// What a domain was created from, if it was created here.
    pub fn config(&self, domid: Domid) -> Option<&DomainConfig> {
        self.domains.get(&domid).map(|domain| &domain.config)
    }

    /// Gives a domain another name.
    pub fn rename(&mut self, domid: Domid, name: &str) -> Result<(), Error> {
        self.managed(domid)?;
        if self.name(domid) == name {
            return Ok(());
        }
        self.check_name(name)?;
        self.managed(domid)?.config.name = name.to_string();
        Ok(())
    }

    /// All domains, or one, by id.
    pub fn list(&mut self, only: Option<Domid>) -> Result<Vec<DomainInfo>, Error> {
        let now = self.xen.now();
        let list = match only {
            None => self.xen.domain_list().context("getdomaininfolist")?,
            Some(domid) => self.status(domid)?.into_iter().collect(),
        };
        Ok(list.iter().map(|status| self.info(status, now)).collect())
    }

    fn info(&self, status: &DomainStatus, now: u64) -> DomainInfo {
        let since = self
            .domains
            .get(&status.domid)
            .map_or(0, |domain| domain.created);
        let max_vcpus = status.max_vcpu_id.wrapping_add(1);
        DomainInfo {
            domid: status.domid.0,
            name: self.name(status.domid).to_string(),
            uuid: Uuid(status.handle),
            memory_kib: status.tot_pages.saturating_mul(4),
            max_memory_kib: status.max_pages.saturating_mul(4),
            outstanding_kib: status.outstanding_pages.saturating_mul(4),
            vcpus: status.online_vcpus,
            max_vcpus,
            cpu_time_ns: status.cpu_time,
            uptime_ms: now.saturating_sub(since) / 1_000_000,
            state: DomainState {
                running: status.running,
                blocked: status.blocked,
                paused: status.paused,
                shutdown: status.shutdown.map(ShutdownReason),
                dying: status.dying,
            },
            ssidref: status.ssidref,
            cpupool: status.cpupool,
        }
    }

    /// Pauses a domain; one that is paused stays so.
    pub fn pause(&mut self, domid: Domid) -> Result<(), Error> {
        self.managed(domid)?;
        // The hypervisor counts pauses, but a user who pauses twice means one.
        match self.status(domid)? {
            Some(status) if status.paused => Ok(()),
            _ => self.xen.pause_domain(domid).context("pausedomain"),
        }
    }

    /// Lets a domain run.
    pub fn unpause(&mut self, domid: Domid) -> Result<(), Error> {
        self.managed(domid)?;
        match self.status(domid)? {
            Some(status) if !status.paused => Ok(()),
            _ => self.xen.unpause_domain(domid).context("unpausedomain"),
        }
    }

    /// Asks a domain to shut down or to reboot.
    ///
    /// Guests take such requests from the store, under `control/shutdown`, and none has one here.
    pub fn ask_to_stop(&mut self, domid: Domid) -> Result<(), Error> {
        match self.managed(domid)?.phase {
            Phase::Alive => Err(Error::NoShutdownControl { domid: domid.0 }),
            _ => Err(Error::BadState {
                domid: domid.0,
                why: String::from("is shut down already"),
            }),
        }
    }

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

    fn end(&mut self, domid: Domid) -> Result<(), Error> {
        let Some(domain) = self.domains.get_mut(&domid) else {
            return Ok(());
        };
        let start = self.xen.now();
        // As long as we have its console page mapped, the hypervisor cannot free it.
        domain.console.detach(&mut self.xen);
        match self.xen.destroy_domain(domid) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(errno) => return Err(errno).context("destroydomain"),
        }
        domain.phase = Phase::Dying;
        let micros = self.xen.now().saturating_sub(start) / 1000;
        let name = &domain.config.name;
        self.xen.log(&format!(
            "domain {domid} ({name}): destroyed in {micros} us"
        ));
        Ok(())
    }

    /// Forgets a dying domain if the hypervisor has.
    fn look_for(&mut self, domid: Domid) {
        if let Ok(None) = self.status(domid) {
            self.domains.remove(&domid);
            self.notices.push_back(Notice::Gone(domid));
        }
    }

    /// Output of a domain for its readers, to be read from any position on. Outlives the domain.
    pub fn scrollback(&mut self, domid: Domid) -> Result<Rc<RefCell<Scrollback>>, Error> {
        Ok(self.managed(domid)?.console.scrollback())
    }

    /// Types on a domain's console; how many of the bytes had room. What is typed to a domain that
    /// is gone is lost.
    pub fn input(&mut self, domid: Domid, bytes: &[u8]) -> usize {
        match self.domains.get_mut(&domid) {
            Some(domain) => domain.console.input(&mut self.xen, bytes),
            None => bytes.len(),
        }
    }

    /// An event came on a port.
    pub fn on_port(&mut self, port: Port) {
        let found = self
            .domains
            .values_mut()
            .find(|domain| domain.console.port() == Some(port));
        if let Some(domain) = found {
            domain.console.pump(&mut self.xen);
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
        domain.config.name = name;
        domain.config.uuid = uuid;
        let (kernel, ramdisk) = (domain.kernel.clone(), domain.ramdisk.clone());
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
    pub fn deadline(&self) -> Option<u64> {
        let now = self.xen.now();
        self.domains
            .values()
            .filter_map(|domain| match domain.phase {
                Phase::RestartsLater(_) => Some(domain.created.saturating_add(RESTART_INTERVAL)),
                Phase::Dying => Some(now.saturating_add(LINGER_INTERVAL)),
                Phase::Alive | Phase::Kept(_) => None,
            })
            .min()
    }

    /// Does what is due.
    pub fn tick(&mut self) {
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
