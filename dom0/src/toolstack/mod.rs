//! The domains of the host, from their creation to the last of their frames.

mod checks;
mod disks;
mod end;
mod vifs;
mod wishes;

use alloc::collections::{BTreeMap, BTreeSet, VecDeque};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::ToString;
use alloc::vec::Vec;
use core::cell::RefCell;

use control::{
    DeviceUse, DomainConfig, DomainInfo, DomainRef, DomainState, Error, ShutdownReason, Uuid,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};

use crate::block::Blocks;
use crate::builder::{self, Sources};
use crate::console::Console;
use crate::images::{CachedImage, ImageCache};
use crate::net::Network;
use crate::net::addressing::Addressing;
use crate::nodes::{self, Entry};
use crate::scrollback::Scrollback;
use crate::store::Store;
use crate::trace::Trace;
use crate::xen::{Context, DomainStatus, Xen};

/// The control domain itself.
pub const DOM0: Domid = Domid(0);
/// Its name, as with xl.
const DOM0_NAME: &str = "Domain-0";
/// The hypervisor's counter of upcalls, which has a value for each domain, by id.
pub(crate) const UPCALLS: &str = "event upcalls by domain";

/// What others may be waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// The domain has heard that it is to stop.
    Acknowledged(Domid),
    /// The domain has shut down.
    ShutDown(Domid, ShutdownReason),
    /// The domain is no more, though its frames may linger; it was built anew under the id given.
    Ended(Domid, Option<Domid>),
    /// The domain and all that it had is gone.
    Gone(Domid),
    /// The device is gone.
    DeviceGone(Device),
}

/// What kind of device a domain has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceKind {
    /// A disk.
    Disk,
    /// A network interface.
    Vif,
}

/// A device of a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Device {
    /// Whose it is.
    pub domid: Domid,
    /// Its kind.
    pub kind: DeviceKind,
    /// Its number among those of its kind.
    pub devid: u32,
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
    store: Store<X::Mapping>,
    blocks: Blocks<X>,
    network: Network<X>,
    trace: Trace<X::TracePages>,
    domains: BTreeMap<Domid, Domain<X::Mapping>>,
    notices: VecDeque<Notice>,
    /// Domains that were asked to stop and did not acknowledge it yet.
    unheard: BTreeSet<Domid>,
}

impl<X: Xen> Toolstack<X> {
    /// A host with no domain but the control domain. `image_room` is how many bytes of kernels and
    /// ramdisks are kept; volumes may have half as many. `addressing` is how this domain comes to an address.
    pub fn new(mut xen: X, image_room: u64, addressing: Addressing) -> Self {
        let mut store = Store::new();
        if let Err(error) = nodes::begin(&mut store, &mut xen, DOM0_NAME) {
            xen.log(&format!(
                "the store does not take this domain's nodes: {error}"
            ));
        }
        Self {
            blocks: Blocks::new(&xen, image_room / 2),
            network: Network::new(&xen, addressing),
            xen,
            images: ImageCache::new(image_room),
            store,
            trace: Trace::new(),
            domains: BTreeMap::new(),
            notices: VecDeque::new(),
            unheard: BTreeSet::new(),
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

    /// The store, and the hypervisor that it needs.
    pub fn store(&mut self) -> (&mut Store<X::Mapping>, &mut X) {
        (&mut self.store, &mut self.xen)
    }

    /// The hypervisor's trace, and the hypervisor that it needs.
    pub fn trace(&mut self) -> (&mut Trace<X::TracePages>, &mut X) {
        (&mut self.trace, &mut self.xen)
    }

    /// Serves the store's clients for a while; whether there is more to do at once.
    pub fn serve_store(&mut self) -> bool {
        let more = self.store.serve(&mut self.xen);
        self.hear();
        more || self.store.is_ready()
    }

    /// The next thing that happened.
    pub fn next_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// Builds a domain, and lets it run unless it is to be `paused`.
    pub fn create(&mut self, config: DomainConfig, paused: bool) -> Result<Domid, Error> {
        self.check(&config)?;
        self.blocks.check(&config.disks)?;
        Network::<X>::check(&config.vifs)?;
        let kernel = self.images.get(&config.kernel.hash)?;
        let ramdisk = match &config.ramdisk {
            Some(image) => Some(self.images.get(&image.hash)?),
            None => None,
        };
        self.start(config, kernel, ramdisk, paused)
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
        let uuid = config.uuid;
        let connected = self.connect(&config, built).and_then(|console| {
            self.attach_all(domid, &config.disks)?;
            self.attach_vifs(domid, &config.vifs)?;
            Ok(console)
        });
        let console = match connected {
            Ok(console) => console,
            Err(error) => {
                self.drop_devices(domid);
                self.forget(domid, &uuid);
                // The error that led here is the one to tell.
                let _ = self.xen.destroy_domain(domid);
                return Err(error);
            }
        };
        let domain = Domain {
            config,
            kernel,
            ramdisk,
            console,
            created,
            phase: Phase::Alive,
        };
        self.domains.insert(domid, domain);
        if !paused && let Err(error) = self.xen.unpause_domain(domid).context("unpausedomain") {
            self.end(domid)?;
            self.look_for(domid);
            return Err(error);
        }
        let micros = self.xen.now().saturating_sub(created) / 1000;
        let line = format!(
            "domain {domid} ({}): created in {micros} us",
            self.name(domid)
        );
        self.xen.log(&line);
        Ok(domid)
    }

    /// Connects a domain that was built with its console and with the store.
    fn connect(
        &mut self,
        config: &DomainConfig,
        built: builder::Built<X::Mapping>,
    ) -> Result<Console<X::Mapping>, Error> {
        let domid = built.domid;
        let entry = Entry {
            domid,
            config,
            console: built.console,
            store: built.store,
            start_time: self.xen.wall_clock(),
        };
        nodes::add(&mut self.store, &mut self.xen, &entry).asked("to add a domain")?;
        self.store
            .introduce(&mut self.xen, domid, built.store)
            .asked("to introduce a domain")?;
        Console::attach(&mut self.xen, domid, built.console_page, built.console.port)
    }

    /// Takes a domain out of the store.
    fn forget(&mut self, domid: Domid, uuid: &Uuid) {
        self.store.domain_destroyed(&mut self.xen, domid);
        if let Err(error) = nodes::remove(&mut self.store, &mut self.xen, domid, uuid) {
            let line = format!("domain {domid}: the store keeps its nodes: {error}");
            self.xen.log(&line);
        }
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
        let uuid = self.managed(domid)?.config.uuid;
        nodes::rename(&mut self.store, &mut self.xen, domid, &uuid, name)
            .asked("to rename a domain")?;
        self.managed(domid)?.config.name = name.to_string();
        Ok(())
    }

    /// Has a domain be built from something else when it reboots, but for its name and UUID.
    pub fn update(&mut self, domid: Domid, config: DomainConfig) -> Result<(), Error> {
        let domain = self.managed(domid)?;
        let config = DomainConfig {
            name: domain.config.name.clone(),
            uuid: domain.config.uuid,
            ..config
        };
        Self::check_values(&config)?;
        let kernel = self.images.get(&config.kernel.hash)?;
        kernel.kernel()?;
        let ramdisk = match &config.ramdisk {
            Some(image) => Some(self.images.get(&image.hash)?),
            None => None,
        };
        let domain = self.managed(domid)?;
        domain.config = config;
        domain.kernel = kernel;
        domain.ramdisk = ramdisk;
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

    /// All domains, by id, with how often events interrupted each.
    pub fn usage(&mut self) -> Result<Vec<DomainInfo>, Error> {
        let mut domains = self.list(None)?;
        // A hypervisor that does not count, as Xen hardly ever does, is no reason to tell nothing.
        let upcalls = self.xen.counter(UPCALLS).unwrap_or_default();
        // A domain whose last frame was let go of while the list was read may be in one of the two alone.
        if upcalls.len() == domains.len() {
            for (domain, count) in domains.iter_mut().zip(upcalls) {
                domain.upcalls = Some(count);
            }
        }
        Ok(domains)
    }

    fn info(&self, status: &DomainStatus, now: u64) -> DomainInfo {
        let since = self
            .domains
            .get(&status.domid)
            .map_or(0, |domain| domain.created);
        let mut devices = DeviceUse::default();
        self.blocks.count(status.domid, &mut devices);
        self.network.count(status.domid, &mut devices);
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
            upcalls: None,
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
            devices,
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
        if let Some(domid) = self.store.domain_of(port) {
            return self.store.signal(domid);
        }
        if self.blocks.signal(port) || self.network.signal(port) {
            return;
        }
        let found = self
            .domains
            .values_mut()
            .find(|domain| domain.console.port() == Some(port));
        if let Some(domain) = found {
            domain.console.pump(&mut self.xen);
        }
    }
}

/// Says what the store was asked to do.
trait StoreContext<T> {
    fn asked(self, what: &str) -> Result<T, Error>;
}

impl<T> StoreContext<T> for Result<T, Errno> {
    fn asked(self, what: &str) -> Result<T, Error> {
        self.map_err(|errno| Error::Store {
            what: what.to_string(),
            errno: errno as i32,
        })
    }
}
