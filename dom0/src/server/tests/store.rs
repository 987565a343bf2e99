//! Guests on their rings to the store, and what the toolstack keeps there.

use super::*;
use crate::fake::Mapping;
use crate::toolstack::DOM0;
use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::XenstoreDomainInterface;
use xenstore::client::{self, Client, Event as Fired, RequestId, TransactionId};
use xenstore::ring::Frontend;

const NONE: TransactionId = TransactionId::NONE;

/// A guest's driver for the store.
pub(super) struct Guest {
    port: Port,
    pub front: Frontend<Mapping>,
    pub client: Client,
}

impl Guest {
    /// The guest begins to speak with the store, as its start info says.
    pub fn new(host: &mut Host, domid: u16) -> Self {
        let info = host.start_info(domid);
        let port = Port(host.our_port(domid, info.store_evtchn));
        let page = host.xen().own_page(info.store_mfn.0);
        Self {
            port,
            front: Frontend::attach(page),
            client: Client::new(),
        }
    }

    /// The guest exchanges what there is, and the host serves it.
    pub fn turn(&mut self, host: &mut Host) {
        loop {
            let moved = self.front.exchange(&mut self.client).unwrap();
            if moved {
                host.toolstack.on_port(self.port);
            }
            host.pump();
            if !moved {
                return;
            }
        }
    }

    fn finish(&mut self, host: &mut Host, request: RequestId) -> Result<Vec<u8>, Errno> {
        self.turn(host);
        self.client.reply(request).expect("a reply")
    }

    pub fn read(&mut self, host: &mut Host, path: &str) -> Result<String, Errno> {
        let request = self.client.read(NONE, path).unwrap();
        self.finish(host, request)
            .map(|value| String::from_utf8(value).unwrap())
    }

    pub fn write(&mut self, host: &mut Host, path: &str, value: &str) -> Result<(), Errno> {
        let request = self.client.write(NONE, path, value.as_bytes()).unwrap();
        self.finish(host, request).map(drop)
    }

    pub fn permissions(&mut self, host: &mut Host, path: &str) -> Result<Vec<String>, Errno> {
        let request = self.client.get_permissions(NONE, path).unwrap();
        self.finish(host, request)
            .map(|reply| client::names(&reply))
    }

    pub fn watch(&mut self, host: &mut Host, path: &str) {
        let request = self.client.watch(path, b"token").unwrap();
        self.finish(host, request).unwrap();
    }

    pub fn events(&mut self, host: &mut Host) -> Vec<String> {
        self.turn(host);
        let fired = core::iter::from_fn(|| self.client.event());
        fired.map(|Fired { path, .. }| path).collect()
    }
}

#[test]
fn a_guest_finds_its_nodes_as_soon_as_it_runs() {
    let mut host = Host::new();
    let mut config = host.config("web");
    config.max_memory_kib = 32 << 10;
    config.max_vcpus = 2;
    config.cmdline = "quiet".into();
    let uuid = config.uuid;
    let domid = host.create(config);
    let info = host.start_info(domid);
    let console: StartInfoConsoleDomU = info.console.get();
    let mut guest = Guest::new(&mut host, domid);
    for (path, value) in [
        ("name", "web"),
        ("domid", "1"),
        ("vm", &format!("/vm/{uuid}")),
        ("memory/target", "16384"),
        ("memory/static-max", "32768"),
        ("memory/videoram", "0"),
        ("cpu/0/availability", "online"),
        ("cpu/1/availability", "offline"),
        ("control/shutdown", ""),
        ("control/platform-feature-xs_reset_watches", "1"),
        ("store/ring-ref", &info.store_mfn.0.to_string()),
        ("store/port", &info.store_evtchn.to_string()),
        ("console/ring-ref", &console.mfn.0.to_string()),
        ("console/port", &console.evtchn.to_string()),
        ("console/type", "xenconsoled"),
        ("console/backend", "/local/domain/0/backend/console/1/0"),
        (&format!("/vm/{uuid}/name"), "web"),
        (&format!("/vm/{uuid}/image/kernel"), "kernel"),
        (&format!("/vm/{uuid}/image/cmdline"), "quiet"),
        (&format!("/vm/{uuid}/start_time"), "1700000000.00"),
        ("/local/domain/0/backend/console/1/0/state", "1"),
    ] {
        assert_eq!(guest.read(&mut host, path).as_deref(), Ok(value), "{path}");
    }
    for (path, permissions) in [
        ("name", &["n0", "r1"][..]),
        ("memory/target", &["n0", "r1"]),
        ("control/shutdown", &["n1"]),
        ("control", &["n0", "r1"]),
        ("data", &["n1"]),
        ("console/tty", &["n0", "r1"]),
        ("console/backend-id", &["n1", "r0"]),
        ("device/suspend/event-channel", &["n1"]),
    ] {
        let found = guest.permissions(&mut host, path).unwrap();
        assert_eq!(found, permissions, "{path}");
    }
    assert_eq!(guest.read(&mut host, "/libxl/1/type"), Err(Errno::EACCES));
    assert_eq!(
        guest.write(&mut host, "memory/target", "1"),
        Err(Errno::EACCES)
    );
    assert_eq!(guest.write(&mut host, "data/mine", "1"), Ok(()));
}

#[test]
fn nothing_of_a_destroyed_guest_is_left_in_the_store() {
    let mut host = Host::new();
    let before = host.tree();
    let config = host.config("web");
    let domid = host.create(config);
    assert_ne!(host.tree(), before);
    let mut guest = Guest::new(&mut host, domid);
    guest.write(&mut host, "data/a/b/c", "1").unwrap();
    let id = DomainRef::Id(domid);
    assert_eq!(host.ask(Request::Destroy(id)), Reply::Done);
    assert_eq!(host.tree(), before);
    assert!(host.xen().ports.is_empty());
}

#[test]
fn a_failed_creation_leaves_nothing_in_the_store() {
    let mut host = Host::new();
    let before = host.tree();
    let config = host.config("web");
    let free = host.xen().free.len();
    let mut failures = 0;
    for call in 0.. {
        host.xen().fail_in = Some(call);
        let config = Box::new(config.clone());
        let paused = false;
        match host.ask(Request::CreateDomain { config, paused }) {
            // The calls whose failure does not matter.
            Reply::Domid(domid) => {
                let failed = host.xen().fail_in.take().is_none();
                let id = DomainRef::Id(domid);
                assert_eq!(host.ask(Request::Destroy(id)), Reply::Done);
                if !failed {
                    break;
                }
            }
            _ => failures += 1,
        }
        assert_eq!(host.tree(), before, "after call {call}");
        assert_eq!(host.xen().free.len(), free, "after call {call}");
    }
    assert!(failures > 15);
}

#[test]
fn who_watches_hears_of_guests_that_come_stop_and_go() {
    let mut host = Host::new();
    let config = host.config("watcher");
    let domid = host.create(config);
    let mut watcher = Guest::new(&mut host, domid);
    // Dom0's toolstack lets it.
    host.store_permissions("@introduceDomain", &["n0", &format!("r{domid}")]);
    host.store_permissions("@releaseDomain", &["n0", &format!("r{domid}")]);
    watcher.watch(&mut host, "@introduceDomain");
    watcher.watch(&mut host, "@releaseDomain");
    watcher.events(&mut host);

    let mut config = host.config("other");
    config.on.crash = Action::Preserve;
    let other = host.create(config);
    assert_eq!(watcher.events(&mut host), ["@introduceDomain"]);
    host.guest_stops(other, ShutdownReason::CRASH.0);
    assert_eq!(watcher.events(&mut host), ["@releaseDomain"]);
    let mut guest = Guest::new(&mut host, other);
    assert_eq!(guest.read(&mut host, "name").as_deref(), Ok("other"));
    assert_eq!(
        host.ask(Request::Destroy(DomainRef::Id(other))),
        Reply::Done
    );
    assert_eq!(watcher.events(&mut host), ["@releaseDomain"]);
}

#[test]
fn a_renamed_guest_reads_its_new_name() {
    let mut host = Host::new();
    let config = host.config("old");
    let uuid = config.uuid;
    let domid = host.create(config);
    let mut guest = Guest::new(&mut host, domid);
    let (domain, name) = (DomainRef::Id(domid), "new".to_string());
    assert_eq!(host.ask(Request::Rename { domain, name }), Reply::Done);
    assert_eq!(guest.read(&mut host, "name").as_deref(), Ok("new"));
    let path = format!("/vm/{uuid}/name");
    assert_eq!(guest.read(&mut host, &path).as_deref(), Ok("new"));
}

#[test]
fn a_guest_that_is_kept_leaves_its_uuid_to_its_successor() {
    let mut host = Host::new();
    let mut config = host.config("web");
    config.on.reboot = Action::RenameRestart;
    let uuid = config.uuid;
    let first = host.create(config);
    host.xen().clock += 2_000_000_000;
    host.guest_stops(first, ShutdownReason::REBOOT.0);
    let [_, (_, kept), (second, _)] = &host.names()[..] else {
        panic!("{:?}", host.names());
    };
    let (kept, second) = (kept.clone(), *second);
    assert!(kept.starts_with("web-"));
    let name = host.node(&format!("/local/domain/{first}/name"));
    assert_eq!(name.as_deref(), Some(kept.as_str()));
    let vm = host.node(&format!("/local/domain/{first}/vm")).unwrap();
    assert_eq!(host.node(&format!("{vm}/name")), Some(kept));
    let vm = host.node(&format!("/local/domain/{second}/vm"));
    assert_eq!(vm, Some(format!("/vm/{uuid}")));
    let name = host.node(&format!("/vm/{uuid}/name"));
    assert_eq!(name.as_deref(), Some("web"));
}

#[test]
fn a_guest_that_breaks_its_ring_to_the_store_harms_nobody() {
    let mut host = Host::new();
    let (bad, good) = (host.config("bad"), host.config("good"));
    let (bad, good) = (host.create(bad), host.create(good));
    let page = host.start_info(bad).store_mfn.0;
    let at = offset_of!(XenstoreDomainInterface, req_prod);
    host.xen().poke(page, at, &5000u32.to_le_bytes());
    let port = host.start_info(bad).store_evtchn;
    let port = host.our_port(bad, port);
    host.toolstack.on_port(Port(port));
    host.pump();
    let error = offset_of!(XenstoreDomainInterface, error);
    assert_ne!(host.xen().bytes(page)[error..error + 4], [0; 4]);
    let mut guest = Guest::new(&mut host, good);
    assert_eq!(guest.read(&mut host, "name").as_deref(), Ok("good"));
    assert_eq!(host.ask(Request::Destroy(DomainRef::Id(bad))), Reply::Done);
    assert!(!host.xen().ports.values().any(|(domid, _)| *domid == bad));
}

#[test]
fn a_guest_with_work_without_end_leaves_others_their_turn() {
    let mut host = Host::new();
    let config = host.config("busy");
    let domid = host.create(config);
    let mut busy = Guest::new(&mut host, domid);
    busy.write(&mut host, "data/x", "").unwrap();
    for _ in 0..400 {
        busy.client.read(NONE, "data/x").unwrap();
    }
    let mut served = 0;
    // All the while xl is answered.
    loop {
        let moved = busy.front.exchange(&mut busy.client).unwrap();
        if moved {
            host.toolstack.on_port(busy.port);
        }
        host.toolstack.serve_store();
        served += 1;
        assert!(matches!(
            host.ask(Request::DomainName(DomainRef::Id(DOM0.0))),
            Reply::Name(_)
        ));
        if !moved {
            break;
        }
    }
    assert!(served > 2);
}

#[test]
fn the_toolstack_does_not_wait_for_guests() {
    let mut host = Host::new();
    let config = host.config("busy");
    let domid = host.create(config);
    let mut busy = Guest::new(&mut host, domid);
    let request = busy.client.read(NONE, "name").unwrap();
    busy.front.exchange(&mut busy.client).unwrap();
    host.toolstack.on_port(busy.port);
    host.toolstack.set_vcpus(Domid(domid), 1).unwrap();
    busy.front.exchange(&mut busy.client).unwrap();
    assert_eq!(busy.client.reply(request), None);
    host.pump();
    busy.front.exchange(&mut busy.client).unwrap();
    assert!(busy.client.reply(request).is_some());
}

#[test]
fn who_asks_a_guest_to_stop_is_answered_when_the_guest_has_heard() {
    for (how, word) in [(Stop::PowerOff, "poweroff"), (Stop::Reboot, "reboot")] {
        let mut host = Host::new();
        let config = host.config("web");
        let domid = host.create(config);
        let mut guest = Guest::new(&mut host, domid);
        guest.watch(&mut host, "control/shutdown");
        guest.events(&mut host);
        let channel = host.open();
        host.send(channel, stop(domid, how));
        assert_eq!(host.replies(channel), []);
        assert_eq!(guest.events(&mut host), ["control/shutdown"]);
        let path = "control/shutdown";
        assert_eq!(guest.read(&mut host, path).as_deref(), Ok(word));
        // The guest's own permission lets it acknowledge.
        guest.write(&mut host, path, "").unwrap();
        assert_eq!(host.replies(channel), [Reply::Done]);
        host.store_is_consistent();
    }
}

#[test]
fn a_guest_that_does_not_hear_is_told_of_when_the_time_is_up() {
    let mut host = Host::new();
    let config = host.config("deaf");
    let domid = host.create(config);
    let channels = [host.open(), host.open()];
    for channel in channels {
        host.send(channel, stop(domid, Stop::PowerOff));
    }
    host.xen().clock += 999_000_000;
    assert_eq!(host.replies(channels[0]), []);
    assert_eq!(host.server.deadline(), Some(1_000_000_000));
    host.xen().clock += 1_000_000;
    for channel in channels {
        let request = "poweroff".into();
        let error = Error::NotAcknowledged { domid, request };
        assert_eq!(host.replies(channel), [Reply::Error(error)]);
    }
    // It may hear later, and be asked again.
    let mut guest = Guest::new(&mut host, domid);
    guest.write(&mut host, "control/shutdown", "").unwrap();
    host.send(channels[0], stop(domid, Stop::PowerOff));
    assert_eq!(host.replies(channels[0]), []);
    guest.write(&mut host, "control/shutdown", "").unwrap();
    assert_eq!(host.replies(channels[0]), [Reply::Done]);
}

#[test]
fn a_guest_that_is_destroyed_or_stops_has_nothing_more_to_acknowledge() {
    let mut host = Host::new();
    for name in ["one", "two"] {
        let mut config = host.config(name);
        config.on.crash = Action::Preserve;
        let domid = host.create(config);
        let channel = host.open();
        host.send(channel, stop(domid, Stop::PowerOff));
        if name == "one" {
            let id = DomainRef::Id(domid);
            assert_eq!(host.ask(Request::Destroy(id)), Reply::Done);
        } else {
            host.guest_stops(domid, ShutdownReason::CRASH.0);
        }
        assert_eq!(host.replies(channel), [Reply::Done]);
    }
    host.store_is_consistent();
}

#[test]
fn memory_and_vcpus_are_asked_for_within_what_the_guest_may_have() {
    let mut host = Host::new();
    let mut config = host.config("web");
    config.max_memory_kib = 32 << 10;
    config.max_vcpus = 4;
    let uuid = config.uuid;
    let domid = host.create(config);
    let domain = || DomainRef::Id(domid);
    let target = |kib| Request::SetMemoryTarget {
        domain: domain(),
        kib,
    };
    let most = |kib| Request::SetMaxMemory {
        domain: domain(),
        kib,
    };
    let vcpus = |online| Request::SetVcpus {
        domain: domain(),
        online,
    };
    let home = format!("/local/domain/{domid}");

    assert_eq!(host.ask(target(24 << 10)), Reply::Done);
    let found = host.node(&format!("{home}/memory/target"));
    assert_eq!(found.as_deref(), Some("24576"));
    assert_eq!(
        host.node(&format!("/vm/{uuid}/memory")).as_deref(),
        Some("24")
    );
    // Beyond the target, it gets no memory but the slack that every domain has.
    assert_eq!(host.xen().domains[&domid].max_kib, (24 << 10) + 1024);
    assert!(matches!(
        host.error(target(33 << 10)),
        Error::BadConfig { field, .. } if field == "memory"
    ));

    assert_eq!(host.ask(most(64 << 10)), Reply::Done);
    let found = host.node(&format!("{home}/memory/static-max"));
    assert_eq!(found.as_deref(), Some("65536"));
    assert_eq!(host.xen().domains[&domid].max_kib, (64 << 10) + 1024);
    assert!(matches!(
        host.error(most(1 << 10)),
        Error::BadConfig { field, .. } if field == "maxmem"
    ));

    assert_eq!(host.ask(vcpus(3)), Reply::Done);
    let state: Vec<_> = (0..4)
        .map(|vcpu| {
            host.node(&format!("{home}/cpu/{vcpu}/availability"))
                .unwrap()
        })
        .collect();
    assert_eq!(state, ["online", "online", "online", "offline"]);
    for wrong in [0, 5] {
        assert!(matches!(host.error(vcpus(wrong)), Error::BadConfig { .. }));
    }
    for request in [
        Request::SetMemoryTarget {
            domain: DomainRef::Id(0),
            kib: 1,
        },
        Request::SetVcpus {
            domain: DomainRef::Id(0),
            online: 1,
        },
    ] {
        assert!(matches!(host.error(request), Error::NotPermitted(_)));
    }
}

#[test]
fn keys_and_triggers_reach_the_guest() {
    let mut host = Host::new();
    let config = host.config("web");
    let domid = host.create(config);
    let sysrq = |key| Request::Sysrq {
        domain: DomainRef::Id(domid),
        key,
    };
    assert_eq!(host.ask(sysrq(b's')), Reply::Done);
    let mut guest = Guest::new(&mut host, domid);
    let path = "control/sysrq";
    assert_eq!(guest.read(&mut host, path).as_deref(), Ok("s"));
    assert!(matches!(host.error(sysrq(0)), Error::BadRequest(_)));
    let trigger = |trigger, vcpu| Request::Trigger {
        domain: DomainRef::Id(domid),
        trigger,
        vcpu,
    };
    assert_eq!(host.ask(trigger(0, 0)), Reply::Done);
    assert!(matches!(host.error(trigger(0, 7)), Error::BadState { .. }));
    assert!(matches!(host.error(trigger(3, 0)), Error::NotSupported(_)));
}

#[test]
fn a_guest_reboots_into_the_configuration_that_it_was_given_since() {
    let mut host = Host::new();
    let config = host.config("web");
    let uuid = config.uuid;
    let domid = host.create(config.clone());
    let update = |config: DomainConfig| Request::UpdateConfig {
        domain: DomainRef::Id(domid),
        config: Box::new(config),
    };
    let mut wrong = config.clone();
    wrong.vcpus = 0;
    assert!(matches!(host.error(update(wrong)), Error::BadConfig { .. }));
    let mut other = config;
    other.name = "ignored".into();
    other.uuid = Uuid([99; 16]);
    other.cmdline = "changed".into();
    assert_eq!(host.ask(update(other)), Reply::Done);
    host.xen().clock += 2_000_000_000;
    host.guest_stops(domid, ShutdownReason::REBOOT.0);
    let (_, name) = host.names()[1].clone();
    assert_eq!(name, "web");
    let found = host.node(&format!("/vm/{uuid}/image/cmdline"));
    assert_eq!(found.as_deref(), Some("changed"));
}

/// xl's connection to the store.
struct Remote {
    channel: u32,
    client: Client,
}

impl Remote {
    fn attach(host: &mut Host) -> Self {
        let channel = host.open();
        host.send(channel, Request::AttachStore);
        assert_eq!(host.replies(channel), [Reply::Done]);
        let client = Client::new();
        Self { channel, client }
    }

    fn turn(&mut self, host: &mut Host) {
        while !self.client.output().is_empty() {
            let bytes = self.client.output().to_vec();
            self.client.sent(bytes.len());
            // Messages do not end where requests do.
            for piece in bytes.chunks(7) {
                host.send(self.channel, Request::StoreInput(piece.to_vec()));
            }
        }
        for reply in host.replies(self.channel) {
            let Reply::StoreOutput(bytes) = reply else {
                panic!("{reply:?}");
            };
            self.client.receive(&bytes).unwrap();
        }
    }

    fn finish(&mut self, host: &mut Host, request: RequestId) -> Result<Vec<u8>, Errno> {
        self.turn(host);
        self.client.reply(request).expect("a reply")
    }
}

#[test]
fn xl_speaks_with_the_store_as_a_part_of_dom0() {
    let mut host = Host::new();
    let config = host.config("web");
    let domid = host.create(config);
    let mut one = Remote::attach(&mut host);
    let mut two = Remote::attach(&mut host);
    let home = format!("/local/domain/{domid}");

    let watch = one.client.watch(&format!("{home}/data"), b"t").unwrap();
    one.finish(&mut host, watch).unwrap();
    one.client.event().expect("a watch fires when it is set");
    let path = format!("{home}/data/x");
    let write = two.client.write(NONE, &path, b"from xl").unwrap();
    two.finish(&mut host, write).unwrap();
    one.turn(&mut host);
    assert_eq!(one.client.event().unwrap().path, path);

    let mut guest = Guest::new(&mut host, domid);
    assert_eq!(guest.read(&mut host, "data/x").as_deref(), Ok("from xl"));
    guest.write(&mut host, "data/y", "from the guest").unwrap();
    one.turn(&mut host);
    assert_eq!(one.client.event().unwrap().path, format!("{home}/data/y"));

    // The end of the channel is that of its watches and transactions.
    let start = two.client.start().unwrap();
    two.finish(&mut host, start).unwrap();
    for channel in [one.channel, two.channel] {
        host.client.close(channel, CloseReason::Done);
    }
    host.pump();
    host.store_is_consistent();
}

#[test]
fn who_sends_the_store_nonsense_loses_that_connection_alone() {
    let mut host = Host::new();
    let channel = host.open();
    host.send(channel, Request::AttachStore);
    host.send(channel, Request::StoreInput(vec![0xff; 100]));
    let replies = host.replies(channel);
    assert!(
        matches!(
            &replies[..],
            [Reply::Done, Reply::Error(Error::BadRequest(_))]
        ),
        "{replies:?}"
    );
    // The channel takes requests again, and what is still on its way is dropped.
    host.send(channel, Request::StoreInput(vec![0xff; 100]));
    host.send(channel, Request::Hello);
    assert!(matches!(host.replies(channel)[..], [Reply::Hello { .. }]));
}

#[test]
fn who_does_not_read_what_the_store_says_holds_up_nobody() {
    let mut host = Host::new();
    let mut lazy = Remote::attach(&mut host);
    let value = vec![b'v'; 4000];
    let write = lazy.client.write(NONE, "/tool/big", &value).unwrap();
    lazy.finish(&mut host, write).unwrap();
    host.deaf = Some(lazy.channel);
    for _ in 0..200 {
        lazy.client.read(NONE, "/tool/big").unwrap();
    }
    let bytes = lazy.client.output().to_vec();
    for piece in bytes.chunks(1000) {
        host.send(lazy.channel, Request::StoreInput(piece.to_vec()));
    }
    let config = host.config("web");
    host.create(config);
    host.deaf = None;
    host.client_reads(lazy.channel);
    let mut count = 0;
    for reply in host.replies(lazy.channel) {
        if let Reply::StoreOutput(bytes) = reply {
            count += bytes.len();
        }
    }
    assert_eq!(count, 200 * (16 + 4000));
}
