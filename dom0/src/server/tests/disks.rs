//! Disks: attached, used by a frontend that the test plays, detached, and left behind.

use control::block::DeviceInfo;
use control::{BlockReply, BlockRequest, DiskConfig};
use hypercall_abi::types::GrantRef;
use split_drivers::block::front::{Front, Request as Ask, RequestId};
use split_drivers::block::{Connection, Device, QueueNodes, SECTOR};
use split_drivers::grants::{GrantedPage, Pages};
use split_drivers::xenbus::State as Life;
use split_drivers::{SharedMemory, shared_memory_by};

use super::*;
use crate::fake::Mapping;
use crate::xen::Xen;

const XVDA: u32 = 51712;

pub(super) fn disk(volume: &str, vdev: &str, read_only: bool) -> DiskConfig {
    DiskConfig {
        vdev: vdev.into(),
        volume: volume.into(),
        read_only,
        discard: true,
    }
}

pub(super) fn host() -> Host {
    let mut xen = Fake::new(20_000);
    xen.storage.add("data", 2048);
    xen.storage.add("other", 2048);
    Host::with(xen)
}

/// A page of the guest's, granted for as long as the guest lives.
pub(super) struct Page {
    mapping: Mapping,
    pub gref: GrantRef,
}

shared_memory_by!(Page, page => page.mapping);

impl GrantedPage for Page {
    fn reference(&self) -> GrantRef {
        self.gref
    }
}

/// The guest's frames that it has not granted yet.
pub(super) struct Frames<'a> {
    pub xen: &'a mut Fake,
    pub domid: Domid,
}

impl Pages for Frames<'_> {
    type Page = Page;

    fn page(&mut self, _: bool) -> Option<Page> {
        let granted: Vec<u64> = self.xen.storage.grants.values().copied().collect();
        let frames = &self.xen.domains[&self.domid.0].frames;
        let mfn = *frames.iter().rev().find(|mfn| !granted.contains(mfn))?;
        let gref = GrantRef(self.xen.storage.grants.len() as u32 + 8);
        self.xen.storage.grants.insert((self.domid, gref), mfn);
        Some(Page {
            mapping: self.xen.own_page(mfn),
            gref,
        })
    }
}

/// A guest's frontend.
struct Guest {
    domid: u16,
    front: Front<Page, Page>,
}

impl Guest {
    fn node(&self, name: &str) -> String {
        format!("/local/domain/{}/device/vbd/{XVDA}/{name}", self.domid)
    }

    fn back(&self, name: &str) -> String {
        format!("/local/domain/0/backend/vbd/{}/{XVDA}/{name}", self.domid)
    }

    fn say(&self, host: &mut Host, state: Life) {
        host.write(&self.node("state"), &state.to_string());
        host.pump();
    }

    fn hears(&self, host: &mut Host) -> Life {
        Life::parse(host.node(&self.back("state")).as_deref())
    }

    /// Connects to the backend.
    fn connect(host: &mut Host, domid: u16) -> Self {
        let xen = host.xen();
        let remote = xen.alloc_unbound(Domid(domid)).unwrap();
        let mut frames = Frames {
            xen,
            domid: Domid(domid),
        };
        let ring = frames.page(false).unwrap();
        let connection = Connection {
            queues: vec![QueueNodes {
                ring: vec![ring.gref],
                port: remote,
            }],
            persistent: false,
        };
        let mut guest = Self {
            domid,
            front: Front::new(vec![ring], false),
        };
        for (name, value) in connection.nodes() {
            host.write(&guest.node(&name), &value);
        }
        guest.say(host, Life::Initialised);
        assert_eq!(guest.hears(host), Life::Connected);
        let back = |name: &str| host.node(&guest.back(name));
        guest.front.start(Device::read(back).unwrap());
        guest.say(host, Life::Connected);
        guest
    }

    /// Makes a request, and tells the backend.
    fn ask(&mut self, host: &mut Host, request: Ask<'_>) -> RequestId {
        let mut frames = Frames {
            xen: host.xen(),
            domid: Domid(self.domid),
        };
        let id = self.front.submit(&mut frames, 0, request).unwrap();
        if self.front.publish(0) {
            let remote = host.node(&self.node("event-channel")).unwrap();
            let port = host.our_port(self.domid, Port(remote.parse().unwrap()));
            host.toolstack.on_port(Port(port));
        }
        host.pump();
        id
    }

    fn ended(&mut self, id: RequestId, into: &mut [u8]) -> Option<bool> {
        self.front.turn().unwrap();
        self.front.take(id, into).map(|result| result.is_ok())
    }
}

impl Host {
    pub(super) fn write(&mut self, path: &str, value: &str) {
        let (store, xen) = self.toolstack.store();
        store.nodes(xen).write(path, value).unwrap();
    }

    pub(super) fn with_disks(&mut self, name: &str, disks: &[DiskConfig]) -> Reply {
        let config = DomainConfig {
            disks: disks.to_vec(),
            ..self.config(name)
        };
        self.ask(Request::CreateDomain {
            config: Box::new(config),
            paused: false,
        })
    }

    fn block(&mut self, request: BlockRequest) -> Reply {
        self.ask(Request::Block(request))
    }

    fn attach(&mut self, domid: u16, disk: DiskConfig) -> Reply {
        let domain = DomainRef::Id(domid);
        self.block(BlockRequest::Attach { domain, disk })
    }

    fn devices(&mut self, domid: u16) -> Vec<DeviceInfo> {
        match self.block(BlockRequest::Devices(DomainRef::Id(domid))) {
            Reply::Block(BlockReply::Devices(devices)) => devices,
            other => panic!("{other:?}"),
        }
    }

    /// Ids of those who use a volume.
    pub(super) fn users(&mut self, volume: &str) -> Vec<u16> {
        match self.block(BlockRequest::Volumes) {
            Reply::Block(BlockReply::Volumes(volumes)) => {
                let found = volumes.into_iter().find(|it| it.name == volume);
                found.expect("there is such a volume").users
            }
            other => panic!("{other:?}"),
        }
    }

    fn detach(&mut self, domid: u16, force: bool) -> u32 {
        let channel = self.open();
        let request = BlockRequest::Detach {
            domain: DomainRef::Id(domid),
            vdev: "xvda".into(),
            force,
        };
        self.send(channel, Request::Block(request));
        channel
    }
}

#[test]
fn a_guest_reads_and_writes_its_disk() {
    let mut host = host();
    let tree = host.tree();
    assert_eq!(
        host.with_disks("web", &[disk("data", "xvda", false)]),
        Reply::Domid(1)
    );
    let mut guest = Guest::connect(&mut host, 1);
    assert_eq!(guest.front.device().sectors, 2048);
    let bytes = [7; 3 * SECTOR];
    let write = guest.ask(
        &mut host,
        Ask::Write {
            sector: 5,
            bytes: &bytes,
        },
    );
    assert_eq!(guest.ended(write, &mut []), None);
    assert!(host.xen().storage.step());
    host.pump();
    assert_eq!(guest.ended(write, &mut []), Some(true));
    assert_eq!(
        host.xen().storage.contents[0][5 * SECTOR..8 * SECTOR],
        bytes
    );
    let read = guest.ask(
        &mut host,
        Ask::Read {
            sector: 6,
            count: 3,
        },
    );
    assert!(host.xen().storage.step());
    host.pump();
    let mut into = [1; 3 * SECTOR];
    assert_eq!(guest.ended(read, &mut into), Some(true));
    assert_eq!(into[..2 * SECTOR], [7; 2 * SECTOR]);
    assert_eq!(into[2 * SECTOR..], [0; SECTOR]);
    let [device] = host.devices(1).try_into().unwrap();
    assert_eq!((device.devid, device.state), (XVDA, 4));
    assert!(device.event_channel.is_some() && device.ring_ref.is_some());
    host.ask(Request::Destroy(DomainRef::Id(1)));
    assert_eq!(host.tree(), tree);
    assert_eq!(host.users("data"), []);
    assert!(
        host.xen().domains.is_empty(),
        "nothing of it is mapped any more"
    );
    assert!(host.xen().ports.is_empty());
    assert_eq!(host.xen().storage.buffers.get(), 0);
}

#[test]
fn a_disk_is_detached_when_the_guest_lets_it_go_and_not_before() {
    let mut host = host();
    host.with_disks("web", &[]);
    assert_eq!(host.attach(1, disk("data", "xvda", false)), Reply::Done);
    let mut guest = Guest::connect(&mut host, 1);
    let read = guest.ask(
        &mut host,
        Ask::Read {
            sector: 0,
            count: 1,
        },
    );
    let channel = host.detach(1, false);
    assert_eq!(host.replies(channel), []);
    assert_eq!(guest.hears(&mut host), Life::Closing);
    assert_eq!(host.node(&guest.back("online")).as_deref(), Some("0"));
    // What is under way is answered all the same.
    host.xen().storage.step();
    host.pump();
    assert_eq!(guest.ended(read, &mut [0; SECTOR]), Some(true));
    guest.say(&mut host, Life::Closing);
    assert_eq!(host.replies(channel), []);
    guest.say(&mut host, Life::Closed);
    assert_eq!(host.replies(channel), [Reply::Done]);
    assert_eq!(host.node(&guest.node("backend")), None);
    assert_eq!(host.devices(1), []);
    assert_eq!(host.users("data"), []);
    // And it may come back.
    assert_eq!(host.attach(1, disk("data", "xvda", true)), Reply::Done);
    assert_eq!(guest.hears(&mut host), Life::InitWait);
}

#[test]
fn a_guest_that_does_not_let_go_is_not_asked_by_force() {
    let mut host = host();
    host.with_disks("web", &[disk("data", "xvda", false)]);
    Guest::connect(&mut host, 1);
    let channel = host.detach(1, false);
    host.xen().clock += 11_000_000_000;
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Error(Error::BadState { .. })]
    ));
    assert_eq!(host.users("data"), [1]);
    let channel = host.detach(1, true);
    assert_eq!(host.replies(channel), [Reply::Done]);
    assert_eq!(host.users("data"), []);
}

#[test]
fn a_volume_that_is_written_to_has_one_user() {
    let mut host = host();
    let shared = [disk("data", "xvda", true)];
    host.with_disks("one", &shared);
    assert_eq!(host.with_disks("two", &shared), Reply::Domid(2));
    let in_use = |domid, writes| {
        Reply::Error(Error::VolumeInUse {
            volume: "data".into(),
            domid,
            writes,
        })
    };
    let tree = host.tree();
    assert_eq!(
        host.with_disks("three", &[disk("data", "xvda", false)]),
        in_use(1, false)
    );
    let both = [disk("other", "xvda", false), disk("data", "xvdb", false)];
    assert_eq!(host.with_disks("three", &both), in_use(1, false));
    assert_eq!(
        host.attach(1, disk("data", "xvdb", false)),
        in_use(1, false)
    );
    assert_eq!(host.attach(1, disk("other", "xvdb", false)), Reply::Done);
    assert_eq!(
        host.attach(2, disk("other", "xvdb", true)),
        in_use(1, true).map_volume("other")
    );
    assert!(matches!(
        host.attach(1, disk("none", "xvdc", true)),
        Reply::Error(Error::NoSuchVolume(_))
    ));
    assert!(matches!(
        host.attach(1, disk("data", "xvda", true)),
        Reply::Error(Error::BadConfig { .. })
    ));
    host.detach(1, true);
    assert_eq!(host.users("data"), [2]);
    host.ask(Request::Destroy(DomainRef::Id(1)));
    host.ask(Request::Destroy(DomainRef::Id(2)));
    assert_eq!((host.users("data"), host.users("other")), (vec![], vec![]));
    assert!(host.tree().len() < tree.len());
}

trait MapVolume {
    fn map_volume(self, name: &str) -> Self;
}

impl MapVolume for Reply {
    fn map_volume(mut self, name: &str) -> Self {
        if let Reply::Error(Error::VolumeInUse { volume, .. }) = &mut self {
            *volume = name.into();
        }
        self
    }
}

#[test]
fn what_a_destroyed_guest_has_under_way_ends_before_another_has_its_volume() {
    let mut host = host();
    host.with_disks("web", &[disk("data", "xvda", false)]);
    let mut guest = Guest::connect(&mut host, 1);
    guest.ask(
        &mut host,
        Ask::Write {
            sector: 0,
            bytes: &[9; SECTOR],
        },
    );
    host.ask(Request::Destroy(DomainRef::Id(1)));
    assert!(
        host.xen().domains.is_empty(),
        "the disk needs nothing of the guest's"
    );
    assert_eq!(
        host.with_disks("next", &[disk("data", "xvda", false)]),
        Reply::Domid(2)
    );
    let state = "/local/domain/0/backend/vbd/2/51712/state";
    assert_eq!(
        host.node(state).as_deref(),
        Some("1"),
        "it is not offered yet"
    );
    assert!(host.xen().storage.step());
    host.pump();
    assert_eq!(host.node(state).as_deref(), Some("2"));
    assert_eq!(host.users("data"), [2]);
    assert_eq!(host.xen().storage.buffers.get(), 0);
}

#[test]
fn a_guest_that_breaks_the_protocol_is_given_up_and_may_begin_anew() {
    let mut host = host();
    host.with_disks("web", &[disk("data", "xvda", false)]);
    let guest = Guest::connect(&mut host, 1);
    // More requests than the ring has places.
    guest.front.ring(0).store_index(0, 1000);
    let remote = host.node(&guest.node("event-channel")).unwrap();
    let port = host.our_port(1, Port(remote.parse().unwrap()));
    host.toolstack.on_port(Port(port));
    host.pump();
    assert_eq!(guest.hears(&mut host), Life::Closing);
    assert!(host.node(&guest.back("error")).unwrap().contains("0x3e8"));
    assert!(!host.xen().ports.contains_key(&port));
    guest.say(&mut host, Life::Closed);
    guest.say(&mut host, Life::Initialising);
    assert_eq!(guest.hears(&mut host), Life::InitWait);
    Guest::connect(&mut host, 1);
}

#[test]
fn what_a_frontend_has_left_under_way_is_no_answer_to_the_next() {
    let mut host = host();
    host.with_disks("web", &[disk("data", "xvda", false)]);
    let mut guest = Guest::connect(&mut host, 1);
    let short = Ask::Read {
        sector: 0,
        count: 1,
    };
    guest.ask(&mut host, short);
    guest.front.ring(0).store_index(0, 1000);
    let remote = host.node(&guest.node("event-channel")).unwrap();
    let port = host.our_port(1, Port(remote.parse().unwrap()));
    host.toolstack.on_port(Port(port));
    host.pump();
    guest.say(&mut host, Life::Closed);
    guest.say(&mut host, Life::Initialising);
    assert_eq!(
        guest.hears(&mut host),
        Life::Closed,
        "not while the disk is at work"
    );
    assert!(host.xen().storage.step());
    host.pump();
    assert_eq!(guest.hears(&mut host), Life::InitWait);
    let mut guest = Guest::connect(&mut host, 1);
    let long = Ask::Read {
        sector: 0,
        count: 8,
    };
    let read = guest.ask(&mut host, long);
    assert_eq!(guest.ended(read, &mut []), None);
    assert!(host.xen().storage.step());
    host.pump();
    assert_eq!(guest.ended(read, &mut [0; 8 * SECTOR]), Some(true));
}

#[test]
fn nodes_that_make_no_sense_connect_to_nothing() {
    let mut host = host();
    host.with_disks("web", &[disk("data", "xvda", false)]);
    let front = "/local/domain/1/device/vbd/51712";
    for (ring, port) in [("x", "1"), ("8", "1"), ("4294967295", "99")] {
        host.write(&format!("{front}/ring-ref"), ring);
        host.write(&format!("{front}/event-channel"), port);
        host.write(&format!("{front}/state"), "3");
        host.pump();
        let back = "/local/domain/0/backend/vbd/1/51712";
        assert_eq!(host.node(&format!("{back}/state")).as_deref(), Some("5"));
        assert!(host.node(&format!("{back}/error")).is_some());
        for state in ["6", "1"] {
            host.write(&format!("{front}/state"), state);
            host.pump();
        }
    }
    assert_eq!(host.xen().ports.len(), 2, "the console's and the store's");
}

#[test]
fn whichever_hypercall_of_a_create_with_a_disk_fails_nothing_is_left() {
    for call in 0.. {
        let mut host = host();
        let before = host.tree();
        let config = DomainConfig {
            disks: vec![disk("data", "xvda", false)],
            ..host.config("web")
        };
        host.xen().fail_in = Some(call);
        let reply = host.ask(Request::CreateDomain {
            config: Box::new(config),
            paused: false,
        });
        let failed = host.xen().fail_in.take().is_none();
        match reply {
            Reply::Domid(_) if failed => {}
            Reply::Domid(_) => return,
            Reply::Error(_) => {
                assert_eq!(host.tree(), before, "call {call}");
                assert_eq!(host.users("data"), [], "call {call}");
                assert_eq!(host.xen().free.len(), 20_000, "call {call}");
            }
            other => panic!("{other:?}"),
        }
    }
}
