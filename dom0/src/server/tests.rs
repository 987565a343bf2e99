//! The server and the toolstack together, against a model of the hypervisor and with a real client.

mod store;

use super::*;
use crate::fake::Fake;
use control::{
    Action, CloseReason, DomainConfig, DomainRef, Image, ImageHash, OnEvent, ShutdownReason, Stop,
    Uuid,
};
use hypercall_abi::io::console::XenconsInterface;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::{StartInfo, StartInfoConsoleDomU};
use proptest::prelude::*;
use pv_image::fixture::Kernel;
use std::collections::VecDeque;
use std::mem::offset_of;
use zerocopy::FromBytes;

/// A server with its toolstack, and a client on the other end of the stream.
struct Host {
    server: Server,
    toolstack: Toolstack<Fake>,
    client: Session,
    events: VecDeque<Event>,
    /// A channel whose messages the client does not read.
    deaf: Option<u32>,
    /// The bytes of them.
    unread: usize,
}

impl Host {
    fn new() -> Self {
        Self::with(Fake::new(20_000))
    }

    fn with(xen: Fake) -> Self {
        let mut host = Self {
            server: Server::new(1),
            toolstack: Toolstack::new(xen, 1 << 20),
            client: Session::client(),
            events: VecDeque::new(),
            deaf: None,
            unread: 0,
        };
        host.client.sync(2);
        host.pump();
        assert!(host.client.is_synced());
        host
    }

    fn xen(&mut self) -> &mut Fake {
        self.toolstack.xen()
    }

    fn pump(&mut self) {
        loop {
            while self.toolstack.serve_store() {}
            self.server.advance(&mut self.toolstack);
            let to_client = self.server.take_output(&mut self.toolstack);
            self.client.receive(&to_client);
            while let Some(event) = self.client.next_event() {
                match &event {
                    Event::Message { channel, payload } if Some(*channel) == self.deaf => {
                        self.unread += payload.len();
                    }
                    Event::Message { channel, payload } => {
                        self.client.consumed(*channel, payload.len());
                    }
                    _ => {}
                }
                self.events.push_back(event);
            }
            let to_server = self.client.take_output();
            self.server.receive(&mut self.toolstack, &to_server);
            if to_client.is_empty() && to_server.is_empty() {
                return;
            }
        }
    }

    /// The client reads what it left on a channel.
    fn client_reads(&mut self, channel: u32) {
        self.client
            .consumed(channel, core::mem::take(&mut self.unread));
        self.pump();
    }

    fn store_is_consistent(&mut self) {
        let (store, _) = self.toolstack.store();
        store.check().unwrap();
    }

    fn open(&mut self) -> u32 {
        self.client.open().unwrap()
    }

    fn send(&mut self, channel: u32, request: Request) {
        self.client.send(channel, &request.encode()).unwrap();
        self.pump();
    }

    /// The replies that have come on a channel.
    fn replies(&mut self, channel: u32) -> Vec<Reply> {
        self.pump();
        let mut replies = Vec::new();
        self.events.retain(|event| match event {
            Event::Message {
                channel: c,
                payload,
            } if *c == channel => {
                replies.push(Reply::decode(payload).unwrap());
                false
            }
            _ => true,
        });
        replies
    }

    fn ask(&mut self, request: Request) -> Reply {
        let channel = self.open();
        self.send(channel, request);
        let mut replies = self.replies(channel);
        self.client.close(channel, CloseReason::Done);
        self.pump();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    fn error(&mut self, request: Request) -> Error {
        match self.ask(request) {
            Reply::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn upload(&mut self, bytes: &[u8]) -> Image {
        let hash = ImageHash::of(bytes);
        let size = bytes.len() as u64;
        let channel = self.open();
        self.send(channel, Request::UploadImage { hash, size });
        for chunk in bytes.chunks(1000) {
            self.send(channel, Request::ImageChunk(chunk.to_vec()));
        }
        assert_eq!(self.replies(channel), [Reply::Done, Reply::Done]);
        self.client.close(channel, CloseReason::Done);
        Image {
            hash,
            size,
            path: "kernel".into(),
        }
    }

    fn config(&mut self, name: &str) -> DomainConfig {
        let kernel = self.upload(&Kernel::small(&[0x90; 0x2000], 0).write());
        let mut uuid = [0; 16];
        uuid[..name.len()].copy_from_slice(name.as_bytes());
        DomainConfig {
            name: name.into(),
            uuid: Uuid(uuid),
            memory_kib: 16 << 10,
            max_memory_kib: 16 << 10,
            vcpus: 1,
            max_vcpus: 1,
            kernel,
            ramdisk: None,
            cmdline: String::new(),
            scheduling: Default::default(),
            on: OnEvent::default(),
        }
    }

    fn create(&mut self, config: DomainConfig) -> u16 {
        let config = Box::new(config);
        match self.ask(Request::CreateDomain {
            config,
            paused: false,
        }) {
            Reply::Domid(domid) => domid,
            other => panic!("{other:?}"),
        }
    }

    fn names(&mut self) -> Vec<(u16, String)> {
        match self.ask(Request::ListDomains(None)) {
            Reply::Domains {
                domains,
                more: false,
            } => domains.into_iter().map(|d| (d.domid, d.name)).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A node's value, if it is there.
    fn node(&mut self, path: &str) -> Option<String> {
        let (store, xen) = self.toolstack.store();
        store.nodes(xen).read(path).unwrap()
    }

    fn store_permissions(&mut self, path: &str, permissions: &[&str]) {
        let (store, xen) = self.toolstack.store();
        store.nodes(xen).set_permissions(path, permissions).unwrap();
    }

    /// All nodes' paths.
    fn tree(&mut self) -> Vec<String> {
        let (store, xen) = self.toolstack.store();
        let mut paths = Vec::new();
        let mut next = Vec::from([String::new()]);
        while let Some(path) = next.pop() {
            let list = if path.is_empty() { "/" } else { &path };
            let names = store.nodes(xen).directory(list).unwrap();
            next.extend(names.iter().map(|name| format!("{path}/{name}")));
            paths.push(path);
        }
        paths.sort();
        paths
    }

    fn start_info(&mut self, domid: u16) -> StartInfo {
        let xen = self.xen();
        let at = xen.domains[&domid].context.unwrap().user_regs.rsi;
        let bytes = xen.peek(Domid(domid), at, size_of::<StartInfo>());
        StartInfo::read_from_bytes(&bytes).unwrap()
    }

    /// Our port that is bound to a guest's.
    fn our_port(&mut self, domid: u16, port: Port) -> u32 {
        let bound = |(_, found): &(&u32, &(u16, u32))| **found == (domid, port.0);
        *self.xen().ports.iter().find(bound).unwrap().0
    }

    /// The guest's console page and our port for it.
    fn console(&mut self, domid: u16) -> (u64, u32) {
        let info = self.start_info(domid);
        let console: StartInfoConsoleDomU = info.console.get();
        (console.mfn.0, self.our_port(domid, console.evtchn))
    }

    /// The guest prints.
    fn guest_prints(&mut self, domid: u16, text: &[u8]) {
        let (mfn, port) = self.console(domid);
        let xen = self.xen();
        let at = offset_of!(XenconsInterface, out_prod);
        let prod = u32::from_le_bytes(xen.bytes(mfn)[at..at + 4].try_into().unwrap());
        for (n, byte) in text.iter().enumerate() {
            let place = (prod as usize + n) % 2048;
            xen.poke(mfn, offset_of!(XenconsInterface, out) + place, &[*byte]);
        }
        xen.poke(mfn, at, &(prod + text.len() as u32).to_le_bytes());
        self.toolstack.on_port(Port(port));
        self.pump();
    }

    fn guest_stops(&mut self, domid: u16, reason: u8) {
        self.xen().domains.get_mut(&domid).unwrap().shutdown = Some(reason);
        self.toolstack.on_domain_exception();
        self.pump();
    }
}

fn stop(domid: u16, how: Stop) -> Request {
    Request::Stop {
        domain: DomainRef::Id(domid),
        how,
        patience_ms: 1000,
    }
}

fn output(replies: &[Reply]) -> String {
    let bytes: Vec<u8> = replies
        .iter()
        .flat_map(|reply| match reply {
            Reply::ConsoleOutput(bytes) => bytes.clone(),
            _ => Vec::new(),
        })
        .collect();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn a_domain_is_created_listed_paused_and_destroyed() {
    let mut host = Host::new();
    let config = host.config("web");
    let free = host.xen().free.len();
    let domid = host.create(config.clone());
    assert_eq!(
        host.names(),
        [(0, "Domain-0".into()), (domid, "web".into())]
    );
    let web = || DomainRef::Name("web".into());
    assert_eq!(host.ask(Request::Domid(web())), Reply::Domid(domid));
    assert_eq!(
        host.ask(Request::DomainName(DomainRef::Id(domid))),
        Reply::Name("web".into())
    );
    assert_eq!(
        host.ask(Request::DomainConfig(web())),
        Reply::Config {
            domid,
            config: Some(Box::new(config))
        }
    );
    for _ in 0..2 {
        assert_eq!(host.ask(Request::Pause(web())), Reply::Done);
        assert_eq!(host.xen().domains[&domid].pauses, 1);
    }
    for _ in 0..2 {
        assert_eq!(host.ask(Request::Unpause(web())), Reply::Done);
        assert_eq!(host.xen().domains[&domid].pauses, 0);
    }
    assert_eq!(host.ask(Request::Destroy(web())), Reply::Done);
    assert_eq!(host.names(), [(0, "Domain-0".into())]);
    assert_eq!(host.xen().free.len(), free);
    assert!(host.xen().ports.is_empty());
    assert_eq!(
        host.error(Request::Destroy(web())),
        Error::NoSuchDomain(web())
    );
}

#[test]
fn names_and_uuids_are_unique_among_the_living() {
    let mut host = Host::new();
    let config = host.config("a");
    let domid = host.create(config.clone());
    let mut other = config.clone();
    other.uuid = Uuid([9; 16]);
    assert_eq!(
        host.error(Request::CreateDomain {
            config: Box::new(other.clone()),
            paused: true
        }),
        Error::NameInUse {
            name: "a".into(),
            domid
        }
    );
    other.name = "b".into();
    other.uuid = config.uuid;
    assert_eq!(
        host.error(Request::CreateDomain {
            config: Box::new(other.clone()),
            paused: true
        }),
        Error::UuidInUse { domid }
    );
    other.uuid = Uuid([9; 16]);
    let second = host.create(other);
    let rename = |name: &str| Request::Rename {
        domain: DomainRef::Id(second),
        name: name.into(),
    };
    assert_eq!(
        host.error(rename("a")),
        Error::NameInUse {
            name: "a".into(),
            domid
        }
    );
    assert_eq!(
        host.error(rename("Domain-0")),
        Error::NameInUse {
            name: "Domain-0".into(),
            domid: 0
        }
    );
    assert!(matches!(host.error(rename("17")), Error::BadConfig { .. }));
    assert_eq!(host.ask(rename("c")), Reply::Done);
    assert_eq!(host.names()[2].1, "c");
}

#[test]
fn dom0_is_left_alone() {
    let mut host = Host::new();
    let dom0 = || DomainRef::Name("Domain-0".into());
    for request in [
        Request::Destroy(dom0()),
        Request::Pause(dom0()),
        Request::Rename {
            domain: dom0(),
            name: "x".into(),
        },
        stop(0, Stop::PowerOff),
    ] {
        assert!(matches!(host.error(request), Error::NotPermitted(_)));
    }
    assert_eq!(
        host.ask(Request::DomainConfig(dom0())),
        Reply::Config {
            domid: 0,
            config: None
        }
    );
}

#[test]
fn a_configuration_that_cannot_be_leaves_nothing_behind() {
    let mut host = Host::new();
    let good = host.config("x");
    let mut refuse = |change: &dyn Fn(&mut DomainConfig), field: &str| {
        let mut config = good.clone();
        change(&mut config);
        let request = Request::CreateDomain {
            config: Box::new(config),
            paused: false,
        };
        match host.error(request) {
            Error::BadConfig { field: found, .. } => assert_eq!(found, field),
            other => panic!("{other}"),
        }
        assert_eq!(host.names().len(), 1);
        assert_eq!(host.xen().free.len(), 20_000);
    };
    refuse(&|c| c.name = "5".into(), "name");
    refuse(&|c| c.name = "a/b".into(), "name");
    refuse(&|c| c.memory_kib = 0, "memory");
    refuse(
        &|c| (c.memory_kib, c.max_memory_kib) = (4096, 4096),
        "memory",
    );
    refuse(&|c| c.max_memory_kib = 1, "maxmem");
    refuse(&|c| c.vcpus = 0, "vcpus");
    refuse(&|c| c.vcpus = 2, "maxvcpus");
    refuse(&|c| c.cmdline = "x".repeat(1024), "extra");
    refuse(&|c| c.on.crash = Action::CoredumpRestart, "on_crash");
    let mut config = good.clone();
    config.kernel = host.upload(b"no kernel");
    let request = Request::CreateDomain {
        config: Box::new(config.clone()),
        paused: false,
    };
    assert!(matches!(host.error(request), Error::BadKernel(_)));
    config.kernel.hash = ImageHash([1; 32]);
    let request = Request::CreateDomain {
        config: Box::new(config),
        paused: false,
    };
    assert!(matches!(host.error(request), Error::NoSuchImage(_)));
}

#[test]
fn whichever_hypercall_of_a_create_fails_nothing_is_left() {
    for call in 0.. {
        let mut host = Host::new();
        let config = Box::new(host.config("x"));
        host.xen().fail_in = Some(call);
        let request = Request::CreateDomain {
            config,
            paused: false,
        };
        let reply = host.ask(request);
        let failed = host.xen().fail_in.take().is_none();
        match reply {
            Reply::Domid(_) if failed => {}
            Reply::Domid(_) => return,
            Reply::Error(_) => {
                assert_eq!(host.xen().free.len(), 20_000, "call {call}");
                assert!(host.xen().ports.is_empty(), "call {call}");
                assert_eq!(host.names().len(), 1);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_console_shows_what_was_printed_before_and_what_comes() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    host.guest_prints(domid, b"banner\n");
    let attach = |scrollback| Request::AttachConsole {
        domain: DomainRef::Id(domid),
        scrollback,
    };
    let (old, new) = (host.open(), host.open());
    host.send(old, attach(true));
    host.send(new, attach(false));
    host.guest_prints(domid, b"tick\n");
    let replies = host.replies(old);
    assert_eq!(replies[0], Reply::Domid(domid));
    assert_eq!(output(&replies), "banner\ntick\n");
    assert_eq!(output(&host.replies(new)), "tick\n");

    host.send(old, Request::ConsoleInput(b"halt\n".to_vec()));
    let (mfn, port) = host.console(domid);
    assert_eq!(&host.xen().bytes(mfn)[..5], b"halt\n");
    assert_eq!(host.xen().notified.last(), Some(&port));
    host.ask(Request::Destroy(DomainRef::Id(domid)));
    for channel in [old, new] {
        assert_eq!(
            host.replies(channel),
            [Reply::ConsoleEnd(ConsoleEnd::Destroyed)]
        );
    }
    // The channel may be used for something else.
    host.send(old, Request::Hello);
    assert!(matches!(host.replies(old)[..], [Reply::Hello { .. }]));
}

#[test]
fn typed_bytes_wait_for_room_in_the_ring() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    let channel = host.open();
    host.send(
        channel,
        Request::AttachConsole {
            domain: DomainRef::Id(domid),
            scrollback: true,
        },
    );
    let typed: Vec<u8> = (0..3000).map(|n| b'a' + (n % 26) as u8).collect();
    host.send(channel, Request::ConsoleInput(typed.clone()));
    let (mfn, port) = host.console(domid);
    let mut seen = Vec::new();
    while seen.len() < typed.len() {
        let page = host.xen().bytes(mfn);
        let index = |at: usize| u32::from_le_bytes(page[at..at + 4].try_into().unwrap());
        let cons = index(offset_of!(XenconsInterface, in_cons));
        let prod = index(offset_of!(XenconsInterface, in_prod));
        assert_ne!(cons, prod, "nothing more came");
        seen.extend((cons..prod).map(|at| page[at as usize % 1024]));
        let at = offset_of!(XenconsInterface, in_cons);
        host.xen().poke(mfn, at, &prod.to_le_bytes());
        host.toolstack.on_port(Port(port));
        host.pump();
    }
    assert_eq!(seen, typed);
}

#[test]
fn a_guest_that_breaks_its_ring_loses_its_console_and_nothing_else() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    let (mfn, port) = host.console(domid);
    let at = offset_of!(XenconsInterface, out_prod);
    host.xen().poke(mfn, at, &0xdead_beef_u32.to_le_bytes());
    host.toolstack.on_port(Port(port));
    assert!(
        host.xen()
            .logged
            .iter()
            .any(|line| line.contains("given up"))
    );
    // What is left is that of the store.
    assert_eq!(host.xen().ports.len(), 1);
    assert_eq!(host.names().len(), 2);
    assert_eq!(
        host.ask(Request::Destroy(DomainRef::Id(domid))),
        Reply::Done
    );
    assert_eq!(host.xen().free.len(), 20_000);
}

#[test]
fn a_slow_reader_of_a_console_holds_up_nobody() {
    let mut host = Host::new();
    let config = host.config("g");
    let domid = host.create(config);
    let slow = host.open();
    host.send(
        slow,
        Request::AttachConsole {
            domain: DomainRef::Id(domid),
            scrollback: true,
        },
    );
    for round in 0..400 {
        let (mfn, port) = host.console(domid);
        let at = offset_of!(XenconsInterface, out_prod);
        let prod: u32 = (round + 1) * 2048;
        host.xen().poke(mfn, at, &prod.to_le_bytes());
        host.toolstack.on_port(Port(port));
        // The client reads nothing: its output never reaches it.
        host.server.advance(&mut host.toolstack);
    }
    let waiting = host.server.take_output(&mut host.toolstack);
    assert!(waiting.len() <= control::session::OUTPUT_LIMIT);
    host.client.receive(&waiting);
    assert!(matches!(host.ask(Request::Hello), Reply::Hello { .. }));
}

#[test]
fn a_reboot_builds_the_domain_anew_under_its_name() {
    let mut host = Host::new();
    let config = host.config("r");
    let first = host.create(config);
    let channel = host.open();
    host.send(
        channel,
        Request::AttachConsole {
            domain: DomainRef::Id(first),
            scrollback: true,
        },
    );
    let waiting = host.open();
    host.send(waiting, Request::WaitShutdown(DomainRef::Id(first)));
    host.xen().clock = 5_000_000_000;
    host.guest_prints(first, b"last words");
    host.guest_stops(first, 1);
    assert_eq!(
        host.replies(waiting),
        [Reply::ShutDown(Some(ShutdownReason::REBOOT))]
    );
    let names = host.names();
    assert_eq!(names.len(), 2);
    let second = names[1].0;
    assert_ne!(first, second);
    assert_eq!(names[1].1, "r");
    let replies = host.replies(channel);
    assert_eq!(output(&replies), "last words");
    assert_eq!(
        replies.last(),
        Some(&Reply::ConsoleEnd(ConsoleEnd::Restarted(second)))
    );
}

#[test]
fn a_domain_that_reboots_at_once_is_restarted_once_a_second() {
    let mut host = Host::new();
    let config = host.config("r");
    host.xen().clock = 10_000_000_000;
    let first = host.create(config);
    host.xen().clock += 1000;
    host.guest_stops(first, 1);
    assert_eq!(host.names()[1].0, first);
    assert_eq!(host.toolstack.deadline(), Some(11_000_000_000));
    host.xen().clock = 11_000_000_000;
    host.toolstack.tick();
    assert_ne!(host.names()[1].0, first);
    assert_eq!(host.toolstack.deadline(), None);
}

#[test]
fn a_crashed_domain_is_kept_if_so_configured() {
    let mut host = Host::new();
    let mut config = host.config("c");
    config.on.crash = Action::Preserve;
    let domid = host.create(config);
    host.guest_stops(domid, 3);
    match host.ask(Request::ListDomains(Some(DomainRef::Id(domid)))) {
        Reply::Domains { domains, .. } => {
            assert_eq!(domains[0].state.shutdown, Some(ShutdownReason::CRASH));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        host.ask(Request::WaitShutdown(DomainRef::Id(domid))),
        Reply::ShutDown(Some(ShutdownReason::CRASH))
    );
    assert!(matches!(
        host.error(stop(domid, Stop::PowerOff)),
        Error::BadState { .. }
    ));
    assert_eq!(
        host.ask(Request::Destroy(DomainRef::Id(domid))),
        Reply::Done
    );
    assert_eq!(host.xen().free.len(), 20_000);
}

#[test]
fn rename_restart_keeps_the_old_domain_and_its_console() {
    let mut host = Host::new();
    let mut config = host.config("c");
    config.on.crash = Action::RenameRestart;
    let first = host.create(config);
    host.xen().clock = 2_000_000_000;
    host.guest_stops(first, 3);
    let names = host.names();
    assert_eq!(names[1], (first, "c-20231114T2213Z".into()));
    assert_eq!(names[2].1, "c");
    let handles: Vec<_> = host.xen().domains.values().map(|d| d.handle).collect();
    assert_ne!(handles[0], handles[1]);
    host.guest_stops(first, 3);
    assert_eq!(host.names().len(), 3);
}

#[test]
fn a_domain_that_powers_off_is_gone() {
    let mut host = Host::new();
    let config = host.config("p");
    let domid = host.create(config);
    let waiting = host.open();
    host.send(waiting, Request::WaitShutdown(DomainRef::Id(domid)));
    host.guest_stops(domid, 0);
    assert_eq!(
        host.replies(waiting),
        [Reply::ShutDown(Some(ShutdownReason::POWEROFF))]
    );
    assert_eq!(host.names().len(), 1);
    assert_eq!(host.xen().free.len(), 20_000);
}

#[test]
fn destroy_is_answered_when_the_last_frame_is_free() {
    let mut host = Host::new();
    let config = host.config("d");
    let domid = host.create(config);
    let held = {
        let mfn = host.console(domid).0;
        host.xen()
            .map(Domid(domid), &[hypercall_abi::types::Mfn(mfn)])
    };
    let channel = host.open();
    host.send(channel, Request::Destroy(DomainRef::Id(domid)));
    assert_eq!(host.replies(channel), []);
    // The name is free, the id is not.
    let config = host.config("d");
    host.create(config);
    assert!(matches!(
        host.error(Request::Destroy(DomainRef::Id(domid))),
        Error::BadState { .. }
    ));
    drop(held);
    host.toolstack.tick();
    assert_eq!(host.replies(channel), [Reply::Done]);
}

#[test]
fn patience_with_a_lingering_domain_ends() {
    let mut host = Host::new();
    let config = host.config("d");
    let domid = host.create(config);
    let mfn = host.console(domid).0;
    let _held = host
        .xen()
        .map(Domid(domid), &[hypercall_abi::types::Mfn(mfn)]);
    let channel = host.open();
    host.send(channel, Request::Destroy(DomainRef::Id(domid)));
    assert_eq!(host.replies(channel), []);
    host.xen().clock = host.server.deadline().unwrap();
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Error(Error::BadState { .. })]
    ));
}

#[test]
fn a_damaged_upload_is_refused_and_its_remaining_chunks_are_dropped() {
    let mut host = Host::new();
    let channel = host.open();
    let hash = ImageHash::of(b"what was promised");
    host.send(channel, Request::UploadImage { hash, size: 4 });
    host.send(channel, Request::ImageChunk(b"other".to_vec()));
    host.send(channel, Request::ImageChunk(b"more".to_vec()));
    host.send(channel, Request::HasImage(hash));
    assert_eq!(
        host.replies(channel),
        [
            Reply::Done,
            Reply::Error(Error::DamagedImage(hash)),
            Reply::ImageCached(false)
        ]
    );
}

#[test]
fn an_upload_that_is_interrupted_by_another_request_fails() {
    let mut host = Host::new();
    let channel = host.open();
    let hash = ImageHash::of(b"12345");
    host.send(channel, Request::UploadImage { hash, size: 5 });
    host.send(channel, Request::Hello);
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Done, Reply::Error(Error::BadRequest(_))]
    ));
}

#[test]
fn bytes_that_are_no_request_are_answered_as_such() {
    let mut host = Host::new();
    let channel = host.open();
    host.client.send(channel, b"\xff\xff\xff").unwrap();
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Error(Error::BadRequest(_))]
    ));
}

#[test]
fn the_log_comes_in_pieces_and_can_be_cleared() {
    let mut host = Host::new();
    host.xen().log = vec![b'x'; 70_000];
    let channel = host.open();
    host.send(channel, Request::Dmesg { clear: true });
    let replies = host.replies(channel);
    let mut all = Vec::new();
    for (n, reply) in replies.iter().enumerate() {
        let Reply::Text { bytes, more } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(*more, n + 1 < replies.len());
        all.extend_from_slice(bytes);
    }
    assert_eq!(all.len(), 70_000);
    assert!(host.xen().log.is_empty());
    assert!(matches!(host.ask(Request::HostInfo), Reply::HostInfo(_)));
}

#[test]
fn a_host_that_is_to_stop_answers_first() {
    let mut host = Host::new();
    let reply = host.ask(Request::StopHost(HostAction::PowerOff));
    assert_eq!(reply, Reply::Done);
    assert_eq!(host.server.stop_requested(), Some(HostAction::PowerOff));
}

#[test]
fn two_hundred_rounds_of_create_and_destroy_leave_the_memory_as_it_was() {
    let mut host = Host::new();
    let config = host.config("again");
    for _ in 0..200 {
        let domid = host.create(config.clone());
        assert_eq!(
            host.ask(Request::Destroy(DomainRef::Id(domid))),
            Reply::Done
        );
    }
    assert_eq!(host.xen().free.len(), 20_000);
    assert!(host.xen().ports.is_empty());
}

/// Things that clients, guests and the hypervisor do.
#[derive(Clone, Debug)]
enum Step {
    Create(u8, bool),
    Destroy(u8),
    Pause(u8),
    Unpause(u8),
    Rename(u8, u8),
    Attach(u8),
    Type(Vec<u8>),
    List,
    Wait(u8),
    CloseAll,
    GuestStops(u16, u8),
    GuestScribbles(u16, u32, u32),
    GuestScribblesStore(u16, usize, Vec<u8>),
    Stop(u8),
    SpeakWithStore(Vec<u8>),
    Garbage(Vec<u8>),
    FailSoon(u32),
    Later(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (0u8..4, any::<bool>()).prop_map(|(name, paused)| Step::Create(name, paused)),
        2 => (0u8..4).prop_map(Step::Destroy),
        1 => (0u8..4).prop_map(Step::Pause),
        1 => (0u8..4).prop_map(Step::Unpause),
        1 => (0u8..4, 0u8..4).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (0u8..4).prop_map(Step::Attach),
        1 => prop::collection::vec(any::<u8>(), 0..2000).prop_map(Step::Type),
        1 => Just(Step::List),
        1 => (0u8..4).prop_map(Step::Wait),
        1 => Just(Step::CloseAll),
        2 => (1u16..9, 0u8..7).prop_map(|(domid, reason)| Step::GuestStops(domid, reason)),
        1 => (1u16..9, any::<u32>(), any::<u32>())
            .prop_map(|(domid, prod, cons)| Step::GuestScribbles(domid, prod, cons)),
        // The rings' indices, and requests that may be understood.
        2 => (1u16..9, prop_oneof![Just(0), 2048usize..2080], small_bytes())
            .prop_map(|(domid, at, bytes)| Step::GuestScribblesStore(domid, at, bytes)),
        1 => (0u8..4).prop_map(Step::Stop),
        1 => small_bytes().prop_map(Step::SpeakWithStore),
        1 => prop::collection::vec(any::<u8>(), 0..40).prop_map(Step::Garbage),
        2 => (0u32..40).prop_map(Step::FailSoon),
        1 => (0u64..3_000_000_000).prop_map(Step::Later),
    ]
}

/// Bytes that make many small numbers, as requests to the store and indices of its rings are.
fn small_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(
        prop_oneof![2 => Just(0), 1 => 0u8..20, 1 => any::<u8>()],
        0..64,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_happens_names_are_unique_and_everything_can_be_given_back(
        steps in prop::collection::vec(step(), 1..40),
    ) {
        let mut host = Host::with(Fake::new(30_000));
        let tree = host.tree();
        let mut config = host.config("x");
        // The fixture's kernel is linked at 4 MiB.
        config.memory_kib = 8 << 10;
        config.max_memory_kib = 8 << 10;
        config.on.reboot = Action::Restart;
        config.on.watchdog = Action::RenameRestart;
        config.on.crash = Action::Preserve;
        let name = |n: u8| DomainRef::Name(format!("g{n}"));
        let mut channels = Vec::new();
        for step in steps {
            // A channel each, of which some are kept.
            if channels.len() > 40 {
                break;
            }
            let channel = host.open();
            channels.push(channel);
            match step {
                Step::Create(n, paused) => {
                    let mut config = config.clone();
                    config.name = format!("g{n}");
                    config.uuid = Uuid([n + 1; 16]);
                    let config = Box::new(config);
                    host.send(channel, Request::CreateDomain { config, paused });
                }
                Step::Destroy(n) => host.send(channel, Request::Destroy(name(n))),
                Step::Pause(n) => host.send(channel, Request::Pause(name(n))),
                Step::Unpause(n) => host.send(channel, Request::Unpause(name(n))),
                Step::Rename(from, to) => {
                    let (domain, name) = (name(from), format!("g{to}"));
                    host.send(channel, Request::Rename { domain, name });
                }
                Step::Attach(n) => {
                    let domain = name(n);
                    host.send(channel, Request::AttachConsole { domain, scrollback: true });
                }
                Step::Type(bytes) => {
                    for channel in channels.clone() {
                        host.send(channel, Request::ConsoleInput(bytes.clone()));
                    }
                }
                Step::List => host.send(channel, Request::ListDomains(None)),
                Step::Wait(n) => host.send(channel, Request::WaitShutdown(name(n))),
                Step::CloseAll => {
                    for channel in channels.drain(..) {
                        host.client.close(channel, CloseReason::Done);
                    }
                    host.pump();
                }
                Step::GuestStops(domid, reason) => {
                    if host.xen().domains.get(&domid).is_some_and(|d| !d.dying) {
                        host.guest_stops(domid, reason);
                    }
                }
                Step::GuestScribbles(domid, prod, cons) => {
                    // The store's port is its first, the console's its second.
                    if host.xen().ports.values().any(|port| *port == (domid, 2)) {
                        let (mfn, port) = host.console(domid);
                        let xen = host.xen();
                        let at = offset_of!(XenconsInterface, out_prod);
                        xen.poke(mfn, at, &prod.to_le_bytes());
                        let at = offset_of!(XenconsInterface, in_cons);
                        xen.poke(mfn, at, &cons.to_le_bytes());
                        host.toolstack.on_port(Port(port));
                        host.pump();
                    }
                }
                Step::GuestScribblesStore(domid, at, bytes) => {
                    if host.xen().ports.values().any(|port| *port == (domid, 1)) {
                        let page = host.start_info(domid).store_mfn.0;
                        host.xen().poke(page, at, &bytes);
                        let port = host.our_port(domid, Port(1));
                        host.toolstack.on_port(Port(port));
                        host.pump();
                    }
                }
                Step::Stop(n) => {
                    let (domain, how) = (name(n), Stop::Reboot);
                    let patience_ms = 500;
                    host.send(channel, Request::Stop { domain, how, patience_ms });
                }
                Step::SpeakWithStore(bytes) => {
                    host.send(channel, Request::AttachStore);
                    host.send(channel, Request::StoreInput(bytes));
                }
                Step::Garbage(bytes) => {
                    host.client.send(channel, &bytes).unwrap();
                    host.pump();
                }
                Step::FailSoon(calls) => host.xen().fail_in = Some(calls),
                Step::Later(nanoseconds) => {
                    host.xen().clock += nanoseconds;
                    host.toolstack.tick();
                    host.pump();
                }
            }
            let alive = host.xen().domains.values().filter(|d| !d.dying).count();
            let list = host.toolstack.list(None).unwrap().into_iter();
            let mut names: Vec<String> = list
                .filter(|domain| domain.domid != 0 && !domain.state.dying)
                .map(|domain| domain.name)
                .filter(|name| !name.is_empty())
                .collect();
            prop_assert_eq!(names.len(), alive, "a domain without a record");
            names.sort();
            names.dedup();
            prop_assert_eq!(names.len(), alive, "two domains of one name");
        }
        for channel in channels {
            host.client.close(channel, CloseReason::Done);
        }
        host.pump();
        host.xen().fail_in = None;
        let left: Vec<u16> = host.xen().domains.keys().copied().collect();
        for domid in left {
            prop_assert_eq!(host.ask(Request::Destroy(DomainRef::Id(domid))), Reply::Done);
        }
        prop_assert_eq!(host.xen().free.len(), 30_000);
        prop_assert!(host.xen().ports.is_empty());
        prop_assert_eq!(host.tree(), tree);
        host.store_is_consistent();
    }
}
