//! Guests on their rings to the store, and what the toolstack keeps there.

use super::*;
use crate::fake::Mapping;
use crate::toolstack::DOM0;
use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::XenstoreDomainInterface;
use xenstore::client::{self, Client, Event as Fired, RequestId, TransactionId};
use xenstore::ring::Frontend;

pub(super) const NONE: TransactionId = TransactionId::NONE;

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
