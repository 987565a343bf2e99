//! A host without a machine: the real multiplexer, and behind it a dom0 that keeps its domains in
//! memory. xl runs as a process of its own, as users run it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use control::hosts::{HostDir, Hosts};
use control::mux::{self, Handle};
use control::{
    ConsoleEnd, DeviceUse, DomainConfig, DomainInfo, DomainRef, DomainState, Error, Event,
    HostInfo, ImageHash, ImageHasher, OwnAddress, Reply, Request, Session, ShutdownReason, Stop,
    Uuid,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Port};
use xenstore::server::{ClientId, Links, Server};

/// Free memory of the fake host.
pub const FREE_KIB: u64 = 256 * 1024;

/// What dom0 was made to do, for the test to see.
#[derive(Debug, Default)]
pub struct Seen {
    pub uploads: usize,
    pub uploaded: u64,
    /// The cache forgets an image once between upload and create.
    pub lose_images: usize,
    /// The guests do not take shutdown requests.
    pub deaf: bool,
    /// What guests were asked for.
    pub asked: Vec<String>,
}

/// The store here serves no guests.
struct Nowhere;

impl Links for Nowhere {
    fn introduce(&mut self, _: Domid, _: u64, _: Port, _: u32) -> Result<(), Errno> {
        Ok(())
    }

    fn release(&mut self, _: Domid) {}

    fn print(&mut self, _: &str) {}
}

struct Domain {
    info: DomainInfo,
    config: Option<Box<DomainConfig>>,
    console: Vec<u8>,
}

struct Upload {
    hash: ImageHash,
    left: u64,
    hasher: ImageHasher,
}

struct Dom0 {
    session: Session,
    domains: BTreeMap<u16, Domain>,
    images: Vec<ImageHash>,
    next: u16,
    uploads: BTreeMap<u32, Upload>,
    /// Attached consoles: the domain and what is still to be sent.
    consoles: BTreeMap<u32, (u16, Vec<u8>)>,
    waiting: BTreeMap<u32, u16>,
    log: Vec<u8>,
    store: Server,
    /// Connections to the store, by channel.
    stores: BTreeMap<u32, ClientId>,
    seen: Arc<Mutex<Seen>>,
}

impl Dom0 {
    fn new(seen: Arc<Mutex<Seen>>) -> Dom0 {
        let info = DomainInfo {
            domid: 0,
            name: "Domain-0".into(),
            uuid: Uuid::default(),
            memory_kib: 256 * 1024,
            max_memory_kib: 256 * 1024,
            outstanding_kib: 0,
            vcpus: 1,
            max_vcpus: 1,
            cpu_time_ns: 1_234_567_890,
            upcalls: None,
            uptime_ms: 90_061_000,
            state: DomainState {
                running: true,
                ..DomainState::default()
            },
            ssidref: 0,
            cpupool: 0,
            devices: DeviceUse::default(),
        };
        let dom0 = Domain {
            info,
            config: None,
            console: Vec::new(),
        };
        Dom0 {
            session: Session::server(),
            domains: BTreeMap::from([(0, dom0)]),
            images: Vec::new(),
            next: 1,
            uploads: BTreeMap::new(),
            consoles: BTreeMap::new(),
            waiting: BTreeMap::new(),
            log: b"(XEN) first line\n(XEN) second line\n".to_vec(),
            store: Server::new(),
            stores: BTreeMap::new(),
            seen,
        }
    }

    fn run(mut self, mut stream: UnixStream) {
        self.session.sync(1);
        let mut buffer = [0; 16 * 1024];
        loop {
            self.print();
            self.serve_store();
            while self.session.has_output() {
                if stream.write_all(&self.session.take_output()).is_err() {
                    return;
                }
            }
            let Ok(length @ 1..) = stream.read(&mut buffer) else {
                return;
            };
            self.session.receive(&buffer[..length]);
            while let Some(event) = self.session.next_event() {
                match event {
                    Event::Message { channel, payload } => {
                        self.session.consumed(channel, payload.len());
                        let reply = match Request::decode(&payload) {
                            Ok(request) => self.answer(channel, request).transpose(),
                            Err(error) => Some(Err(error)),
                        };
                        if let Some(reply) = reply {
                            self.send(channel, reply.unwrap_or_else(Reply::Error));
                        }
                    }
                    Event::Closed { channel, .. } => {
                        self.consoles.remove(&channel);
                        self.waiting.remove(&channel);
                        self.uploads.remove(&channel);
                        if let Some(client) = self.stores.remove(&channel) {
                            self.store.disconnect(client);
                        }
                    }
                    Event::Opened { .. } | Event::Synced | Event::Writable { .. } => {}
                }
            }
        }
    }

    fn send(&mut self, channel: u32, reply: Reply) {
        self.session.send(channel, &reply.encode()).unwrap();
    }

    fn serve_store(&mut self) {
        while self.store.serve(Duration::ZERO, &mut Nowhere).is_some() {}
        for (&channel, &client) in &self.stores {
            loop {
                let output = self.store.output(client).to_vec();
                if output.is_empty() {
                    break;
                }
                self.store.sent(client, output.len());
                let reply = Reply::StoreOutput(output).encode();
                self.session.send(channel, &reply).unwrap();
            }
        }
    }

    /// Sends what consoles have, as far as their readers let.
    fn print(&mut self) {
        for (&channel, (domid, waiting)) in &mut self.consoles {
            while !waiting.is_empty() {
                let length = waiting.len().min(8192);
                let output = Reply::ConsoleOutput(waiting[..length].to_vec()).encode();
                if self.session.send(channel, &output).is_err() {
                    break;
                }
                waiting.drain(..length);
            }
            if waiting.is_empty() && !self.domains.contains_key(domid) {
                let end = Reply::ConsoleEnd(ConsoleEnd::Destroyed).encode();
                let _ = self.session.send(channel, &end);
                *domid = 0;
            }
        }
    }

    fn output(&mut self, domid: u16, bytes: &[u8]) {
        if let Some(domain) = self.domains.get_mut(&domid) {
            domain.console.extend_from_slice(bytes);
        }
        for (of, waiting) in self.consoles.values_mut() {
            if *of == domid {
                waiting.extend_from_slice(bytes);
            }
        }
    }

    fn find(&self, domain: &DomainRef) -> Result<u16, Error> {
        self.domains
            .values()
            .find(|it| match domain {
                DomainRef::Id(id) => it.info.domid == *id,
                DomainRef::Name(name) => it.info.name == *name,
            })
            .map(|it| it.info.domid)
            .ok_or_else(|| Error::NoSuchDomain(domain.clone()))
    }

    fn get(&mut self, domain: &DomainRef) -> Result<&mut Domain, Error> {
        let domid = self.find(domain)?;
        self.domains
            .get_mut(&domid)
            .ok_or_else(|| Error::NoSuchDomain(domain.clone()))
    }

    fn end(&mut self, domid: u16, reason: Option<ShutdownReason>) {
        self.domains.remove(&domid);
        let told: Vec<u32> = self
            .waiting
            .iter()
            .filter(|it| *it.1 == domid)
            .map(|it| *it.0)
            .collect();
        for channel in told {
            self.waiting.remove(&channel);
            self.send(channel, Reply::ShutDown(reason));
        }
    }

    fn start(&mut self, domid: u16) {
        let domain = self.domains.get_mut(&domid).unwrap();
        domain.info.state = DomainState {
            blocked: true,
            ..DomainState::default()
        };
        if domain.console.is_empty() {
            let banner = format!("Hello from {}\r\n", domain.info.name);
            self.output(domid, banner.as_bytes());
        }
    }

    fn answer(&mut self, channel: u32, request: Request) -> Result<Option<Reply>, Error> {
        Ok(Some(match request {
            Request::Hello => Reply::Hello {
                server: "fake dom0".into(),
            },
            Request::HasImage(hash) => Reply::ImageCached(self.images.contains(&hash)),
            Request::UploadImage { hash, size } if size > 64 << 20 => {
                let _ = hash;
                return Err(Error::ImageTooLarge {
                    size,
                    room: 64 << 20,
                });
            }
            Request::UploadImage { hash, size } => {
                let upload = Upload {
                    hash,
                    left: size,
                    hasher: ImageHasher::new(),
                };
                self.uploads.insert(channel, upload);
                self.seen.lock().unwrap().uploads += 1;
                Reply::Done
            }
            Request::ImageChunk(bytes) => {
                let upload = self.uploads.get_mut(&channel).unwrap();
                upload.hasher.update(&bytes);
                upload.left -= bytes.len() as u64;
                self.seen.lock().unwrap().uploaded += bytes.len() as u64;
                if upload.left > 0 {
                    return Ok(None);
                }
                let upload = self.uploads.remove(&channel).unwrap();
                if upload.hasher.finish() != upload.hash {
                    return Err(Error::DamagedImage(upload.hash));
                }
                self.images.push(upload.hash);
                Reply::Done
            }
            Request::CreateDomain { config, paused } => self.create(config, paused)?,
            Request::ListDomains(domain) => {
                let domains = match domain {
                    Some(domain) => vec![self.get(&domain)?.info.clone()],
                    None => self.domains.values().map(|it| it.info.clone()).collect(),
                };
                // In pieces, as for a long list.
                let (last, rest) = domains.split_last().unwrap();
                for info in rest {
                    let piece = Reply::Domains {
                        domains: vec![info.clone()],
                        more: true,
                    };
                    self.send(channel, piece);
                }
                Reply::Domains {
                    domains: vec![last.clone()],
                    more: false,
                }
            }
            Request::DomainConfig(domain) => {
                let domain = self.get(&domain)?;
                Reply::Config {
                    domid: domain.info.domid,
                    config: domain.config.clone(),
                }
            }
            Request::Domid(domain) => Reply::Domid(self.find(&domain)?),
            Request::DomainName(domain) => Reply::Name(self.get(&domain)?.info.name.clone()),
            Request::Rename { domain, name } => {
                if let Ok(domid) = self.find(&DomainRef::Name(name.clone())) {
                    return Err(Error::NameInUse { name, domid });
                }
                self.get(&domain)?.info.name = name;
                Reply::Done
            }
            Request::Pause(domain) => {
                self.get(&domain)?.info.state.paused = true;
                Reply::Done
            }
            Request::Unpause(domain) => {
                let domid = self.find(&domain)?;
                self.start(domid);
                Reply::Done
            }
            Request::Stop { domain, how, .. } => self.stop(&domain, how)?,
            Request::Destroy(domain) => {
                let domid = self.find(&domain)?;
                if domid == 0 {
                    return Err(Error::NotPermitted("domain 0 cannot be destroyed".into()));
                }
                self.end(domid, None);
                Reply::Done
            }
            Request::WaitShutdown(domain) => {
                let domid = self.find(&domain)?;
                if let Some(reason) = self.get(&domain)?.info.state.shutdown {
                    return Ok(Some(Reply::ShutDown(Some(reason))));
                }
                self.waiting.insert(channel, domid);
                return Ok(None);
            }
            Request::AttachStore => {
                self.stores.insert(channel, self.store.connect());
                Reply::Done
            }
            Request::StoreInput(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let taken = self.store.receive(self.stores[&channel], rest).unwrap();
                    rest = &rest[taken..];
                    self.serve_store();
                }
                return Ok(None);
            }
            Request::Sysrq { key, .. } => self.note(format!("sysrq {}", char::from(key))),
            Request::Trigger { trigger, vcpu, .. } => {
                self.note(format!("trigger {trigger} {vcpu}"))
            }
            Request::SetMemoryTarget { kib, .. } => self.note(format!("memory {kib}")),
            Request::SetMaxMemory { kib, .. } => self.note(format!("maxmem {kib}")),
            Request::SetVcpus { online, .. } => self.note(format!("vcpus {online}")),
            Request::Scheduling(request) => self.note(format!("{request:?}")),
            Request::Block(request) => self.note(format!("{request:?}")),
            Request::Volume(request) => self.note(format!("{request:?}")),
            Request::Network(request) => self.note(format!("{request:?}")),
            Request::Trace(request) => self.note(format!("{request:?}")),
            Request::Usage => self.note("usage".into()),
            Request::UpdateConfig { domain, config } => {
                self.get(&domain)?.config = Some(config);
                Reply::Done
            }
            Request::AttachConsole { domain, scrollback } => {
                let domain = self.get(&domain)?;
                let before = if scrollback {
                    domain.console.clone()
                } else {
                    Vec::new()
                };
                let domid = domain.info.domid;
                self.consoles.insert(channel, (domid, before));
                Reply::Domid(domid)
            }
            Request::ConsoleInput(bytes) => {
                let domid = self.consoles[&channel].0;
                self.output(domid, &bytes);
                // The word may have come in pieces.
                let console = self.domains.get(&domid).map(|it| it.console.as_slice());
                let console = console.unwrap_or_default();
                let last = &console[console.len().saturating_sub(bytes.len() + 3)..];
                if last.windows(4).any(|word| word == b"halt") {
                    self.output(domid, b"\r\nHalted.\r\n");
                    self.end(domid, Some(ShutdownReason::POWEROFF));
                }
                return Ok(None);
            }
            Request::HostInfo => Reply::HostInfo(Box::new(HostInfo {
                hostname: "fake".into(),
                address: Some(OwnAddress {
                    address: [10, 0, 2, 15],
                    prefix: 24,
                    gateway: Some([10, 0, 2, 2]),
                    leased: true,
                }),
                nr_cpus: 2,
                threads_per_core: 1,
                cores_per_socket: 2,
                cpu_khz: 2_000_042,
                hw_cap: [0xbfeb_fbff, 0x1, 0, 0, 0, 0, 0, 0],
                virt_caps: "pv".into(),
                total_memory_kib: 1024 * 1024,
                free_memory_kib: FREE_KIB,
                xen_major: 4,
                xen_minor: 17,
                xen_extra: ".0-xenolith".into(),
                xen_pagesize: 4096,
                virt_start: 0xffff_8000_0000_0000,
                ..HostInfo::default()
            })),
            Request::Dmesg { clear } => {
                let (first, second) = self.log.split_at(self.log.len() / 2);
                let (first, second) = (first.to_vec(), second.to_vec());
                self.send(
                    channel,
                    Reply::Text {
                        bytes: first,
                        more: true,
                    },
                );
                if clear {
                    self.log.clear();
                }
                Reply::Text {
                    bytes: second,
                    more: false,
                }
            }
            Request::StopHost(_) => Reply::Done,
        }))
    }

    fn create(&mut self, config: Box<DomainConfig>, paused: bool) -> Result<Reply, Error> {
        if let Ok(domid) = self.find(&DomainRef::Name(config.name.clone())) {
            return Err(Error::NameInUse {
                name: config.name,
                domid,
            });
        }
        if self.seen.lock().unwrap().lose_images > 0 {
            self.seen.lock().unwrap().lose_images -= 1;
            self.images.clear();
        }
        for image in [Some(&config.kernel), config.ramdisk.as_ref()]
            .into_iter()
            .flatten()
        {
            if !self.images.contains(&image.hash) {
                return Err(Error::NoSuchImage(image.hash));
            }
        }
        if config.memory_kib > FREE_KIB {
            let needed_kib = config.memory_kib;
            return Err(Error::NotEnoughMemory {
                needed_kib,
                free_kib: FREE_KIB,
            });
        }
        if config.kernel.size < 1000 {
            return Err(Error::BadKernel("there is no ELF header".into()));
        }
        let domid = self.next;
        self.next += 1;
        let info = DomainInfo {
            domid,
            name: config.name.clone(),
            uuid: config.uuid,
            memory_kib: config.memory_kib,
            max_memory_kib: config.max_memory_kib,
            outstanding_kib: 0,
            vcpus: config.vcpus,
            max_vcpus: config.max_vcpus,
            cpu_time_ns: 100_000_000,
            upcalls: None,
            uptime_ms: 5000,
            state: DomainState {
                paused: true,
                ..DomainState::default()
            },
            ssidref: 0,
            cpupool: 0,
            devices: DeviceUse::default(),
        };
        self.domains.insert(
            domid,
            Domain {
                info,
                config: Some(config),
                console: Vec::new(),
            },
        );
        if !paused {
            self.start(domid);
        }
        Ok(Reply::Domid(domid))
    }

    fn note(&mut self, what: String) -> Reply {
        self.seen.lock().unwrap().asked.push(what);
        Reply::Done
    }

    fn stop(&mut self, domain: &DomainRef, how: Stop) -> Result<Reply, Error> {
        let domid = self.find(domain)?;
        if self.seen.lock().unwrap().deaf {
            let request = how.name().into();
            return Err(Error::NotAcknowledged { domid, request });
        }
        if how == Stop::Reboot {
            self.end(domid, Some(ShutdownReason::REBOOT));
        } else {
            self.get(domain)?.info.state = DomainState {
                shutdown: Some(ShutdownReason::POWEROFF),
                ..DomainState::default()
            };
        }
        Ok(Reply::Done)
    }
}

/// The user's machine: a runtime directory with running hosts, and a directory of files.
pub struct Bench {
    directory: tempfile::TempDir,
    hosts: Vec<(HostDir, Handle)>,
    pub seen: Arc<Mutex<Seen>>,
}

impl Bench {
    /// With one host, called `fake`.
    pub fn new() -> Bench {
        let mut bench = Bench::without_hosts();
        bench.add_host("fake");
        bench
    }

    pub fn without_hosts() -> Bench {
        let directory = tempfile::tempdir().unwrap();
        Bench {
            directory,
            hosts: Vec::new(),
            seen: Arc::default(),
        }
    }

    pub fn add_host(&mut self, name: &str) {
        let host = Hosts::at(self.directory.path().join("xenolith"))
            .claim(name)
            .unwrap();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let dom0 = Dom0::new(Arc::clone(&self.seen));
        thread::spawn(move || dom0.run(theirs));
        let mux = mux::serve_stream(ours, &host.control_socket()).unwrap();
        self.hosts.push((host, mux));
    }

    /// The multiplexer goes away, its socket stays: what a killed `cargo xtask run` leaves.
    pub fn kill_host(&mut self) -> PathBuf {
        let (host, mux) = self.hosts.remove(0);
        let socket = host.control_socket();
        drop(mux);
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        std::mem::forget(host);
        socket
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Writes a file and returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    /// A config file of that name whose kernel is beside it.
    pub fn config(&self, name: &str, more: &str) -> String {
        let kernel = self.file("kernel", vec![0x7f; 200_000]);
        let text = format!("name = '{name}'\nkernel = '{}'\n{more}\n", kernel.display());
        self.file(&format!("{name}.cfg"), text)
            .display()
            .to_string()
    }

    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xl"));
        command
            .args(words)
            .current_dir(self.path())
            .env("XDG_RUNTIME_DIR", self.path())
            .env("XDG_STATE_HOME", self.path().join("state"))
            .env("TERM", "dumb")
            .env_remove("XENOLITH_HOST")
            .stdin(Stdio::null());
        command
    }

    /// Runs xl under another name to its end.
    pub fn by_name(&self, name: &str, words: &[&str]) -> Run {
        let link = self.path().join(name);
        if !link.exists() {
            std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_xl"), &link).unwrap();
        }
        let mut command = Command::new(link);
        command
            .args(words)
            .env("XDG_RUNTIME_DIR", self.path())
            .env_remove("XENOLITH_HOST")
            .stdin(Stdio::null());
        Run::of(command.output().unwrap())
    }

    /// Runs xl to its end.
    pub fn xl(&self, words: &[&str]) -> Run {
        Run::of(self.command(words).output().unwrap())
    }

    /// Runs xl, which must succeed; what it printed.
    pub fn ok(&self, words: &[&str]) -> String {
        let run = self.xl(words);
        assert_eq!(run.code, 0, "{words:?}: {run:?}");
        run.out
    }

    /// Runs xl, which must fail with one line; that line.
    pub fn fails(&self, words: &[&str]) -> String {
        let run = self.xl(words);
        assert_eq!((run.code, run.out.as_str()), (1, ""), "{words:?}: {run:?}");
        let mut lines: Vec<&str> = run.err.lines().collect();
        lines.retain(|line| !line.starts_with("Parsing config from"));
        assert_eq!(lines.len(), 1, "{words:?}: {run:?}");
        lines[0].strip_prefix("xl: ").unwrap().to_owned()
    }

    /// Runs xl with bytes on its standard input.
    pub fn xl_with_input(&self, words: &[&str], input: &[u8]) -> Run {
        let mut child = self
            .command(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input).unwrap();
        drop(stdin);
        Run::of(child.wait_with_output().unwrap())
    }
}

/// What xl did.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Run {
    fn of(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Waits until something is so.
pub fn eventually(what: impl Fn() -> bool) {
    for _ in 0..1000 {
        if what() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("it did not become so");
}
