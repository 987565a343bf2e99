//! Network interfaces: attached, used by frontends that the test plays, detached, and left behind.

use control::net::{RateLimit, VifInfo};
use control::{NetworkReply, NetworkRequest, VifConfig};
use split_drivers::SharedMemory;
use split_drivers::grants::Pages;
use split_drivers::net::front::Front;
use split_drivers::net::{
    Checksum, Connection, Features, Frame, Gso, GsoKind, Mac, Ports, QueueNodes, Transport, flow,
};
use split_drivers::xenbus::State as Life;

use super::disks::{Frames, Page};
use super::*;
use crate::xen::Xen;

pub(super) fn mac(last: u8) -> Mac {
    Mac([0, 0x16, 0x3e, 0, 0, last])
}

pub(super) fn vif(last: u8) -> VifConfig {
    VifConfig {
        mac: mac(last).0,
        bridge: VifConfig::BRIDGE.into(),
        name: None,
        ip: None,
        rate: None,
    }
}

fn host() -> Host {
    let mut xen = Fake::new(20_000);
    xen.nic.address = Some(Mac([2, 0, 0, 0, 0, 1]));
    Host::with(xen)
}

fn frame(to: Mac, from: Mac, content: u8) -> Frame {
    let mut bytes = Vec::from(to.0);
    bytes.extend(from.0);
    bytes.extend([0x88, 0xb5]);
    bytes.extend([content; 60]);
    Frame::new(bytes)
}

/// A guest's frontend.
pub(super) struct Guest {
    domid: u16,
    pub mac: Mac,
    front: Front<Page, Page>,
    queues: Vec<QueueNodes>,
}

impl Guest {
    fn node(&self, name: &str) -> String {
        format!("/local/domain/{}/device/vif/0/{name}", self.domid)
    }

    fn back(&self, name: &str) -> String {
        format!("/local/domain/0/backend/vif/{}/0/{name}", self.domid)
    }

    fn say(&self, host: &mut Host, state: Life) {
        host.write(&self.node("state"), &state.to_string());
        host.pump();
    }

    fn hears(&self, host: &mut Host) -> Life {
        Life::parse(host.node(&self.back("state")).as_deref())
    }

    /// Connects to the backend; with a port for each direction if `split`.
    pub fn connect(host: &mut Host, domid: u16, split: bool) -> Self {
        Self::connect_queues(host, domid, 1, split)
    }

    /// The same with so many queues.
    fn connect_queues(host: &mut Host, domid: u16, count: usize, split: bool) -> Self {
        let (mut queues, mut rings) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let xen = host.xen();
            let tx_port = xen.alloc_unbound(Domid(domid)).unwrap();
            let ports = match split {
                false => Ports::One(tx_port),
                true => Ports::Split {
                    tx: tx_port,
                    rx: xen.alloc_unbound(Domid(domid)).unwrap(),
                },
            };
            let mut frames = Frames {
                xen,
                domid: Domid(domid),
            };
            let (tx, rx) = (frames.page(false).unwrap(), frames.page(false).unwrap());
            queues.push(QueueNodes {
                tx: tx.gref,
                rx: rx.gref,
                ports,
            });
            rings.push((tx, rx));
        }
        let connection = Connection {
            queues: queues.clone(),
            features: Features {
                multicast: false,
                ..Features::ALL
            },
        };
        let mut guest = Self {
            domid,
            mac: Mac::default(),
            queues,
            front: Front::new(rings, Features::ALL, 32),
        };
        guest.mac = Mac::parse(&host.node(&guest.node("mac")).unwrap()).unwrap();
        let back = |name: &str| host.node(&guest.back(name));
        assert_eq!(Features::read(back), Ok(Features::ALL));
        let back = |name: &str| host.node(&guest.back(name));
        let transport = Transport {
            max_queues: 4,
            split_ports: true,
        };
        assert_eq!(Transport::read(back), transport);
        for (name, value) in connection.nodes() {
            host.write(&guest.node(&name), &value);
        }
        guest.say(host, Life::Connected);
        assert_eq!(guest.hears(host), Life::Connected);
        guest.kick(host);
        guest
    }

    /// Has the backend see what is new.
    pub fn kick(&mut self, host: &mut Host) {
        let mut frames = Frames {
            xen: host.xen(),
            domid: Domid(self.domid),
        };
        self.front.fill(&mut frames);
        for (nth, queue) in self.queues.iter().enumerate() {
            let (tx, rx) = self.front.publish(nth);
            let (tx_port, rx_port) = match queue.ports {
                Ports::One(port) => (port, port),
                Ports::Split { tx, rx } => (tx, rx),
            };
            for (notify, remote) in [(tx, tx_port), (rx, rx_port)] {
                if notify {
                    let port = host.our_port(self.domid, remote);
                    host.toolstack.on_port(Port(port));
                }
            }
        }
        host.pump();
    }

    pub fn send(&mut self, host: &mut Host, frame: &Frame) {
        let mut frames = Frames {
            xen: host.xen(),
            domid: Domid(self.domid),
        };
        self.front.send(&mut frames, frame).unwrap();
        self.kick(host);
    }

    pub fn received(&mut self) -> Vec<Frame> {
        self.front.turn().unwrap()
    }
}

impl Host {
    pub fn with_vif(&mut self, name: &str, vif: VifConfig) -> Reply {
        let config = DomainConfig {
            vifs: vec![vif],
            ..self.config(name)
        };
        self.ask(Request::CreateDomain {
            config: Box::new(config),
            paused: false,
        })
    }

    pub fn attach_vif(&mut self, domid: u16, vif: VifConfig) -> Reply {
        let domain = DomainRef::Id(domid);
        self.ask(Request::Network(NetworkRequest::Attach { domain, vif }))
    }

    fn detach_vif(&mut self, domid: u16, vif: &str) -> u32 {
        let channel = self.open();
        let request = NetworkRequest::Detach {
            domain: DomainRef::Id(domid),
            vif: vif.into(),
        };
        self.send(channel, Request::Network(request));
        channel
    }

    fn vifs(&mut self, domid: u16) -> Vec<VifInfo> {
        let request = NetworkRequest::Interfaces(DomainRef::Id(domid));
        match self.ask(Request::Network(request)) {
            Reply::Network(NetworkReply::Interfaces(vifs)) => vifs,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn guests_reach_each_other_and_the_network_card() {
    let mut host = host();
    let tree = host.tree();
    assert_eq!(host.with_vif("one", vif(1)), Reply::Domid(1));
    assert_eq!(host.with_vif("two", vif(2)), Reply::Domid(2));
    let mut one = Guest::connect(&mut host, 1, false);
    let mut two = Guest::connect(&mut host, 2, true);
    let hello = frame(Mac::BROADCAST, one.mac, 1);
    one.send(&mut host, &hello);
    assert_eq!(host.xen().nic.sent.concat(), hello.bytes);
    assert_eq!(two.received(), [hello]);
    let answer = frame(one.mac, two.mac, 2);
    two.send(&mut host, &answer);
    assert_eq!(one.received(), [answer]);
    assert_eq!(host.xen().nic.sent.len(), 1, "it is for nobody else");
    let from_outside = frame(two.mac, Mac([2, 0, 0, 0, 0, 9]), 3);
    host.xen().nic.incoming.push_back(from_outside.clone());
    host.pump();
    assert_eq!(two.received(), [from_outside]);
    assert_eq!(one.received(), []);
    let [info] = host.vifs(2).try_into().unwrap();
    assert_eq!((info.devid, info.state, info.mac), (0, 4, two.mac.0));
    let queue = two.queues[0];
    assert_eq!(info.tx_ring, Some(queue.tx.0));
    assert_eq!(info.rx_ring, Some(queue.rx.0));
    assert_eq!((info.sent.frames, info.received.frames), (1, 2));
    assert_eq!(info.sent.bytes, 74);
    for domid in [1, 2] {
        host.ask(Request::Destroy(DomainRef::Id(domid)));
    }
    assert_eq!(host.tree(), tree);
    assert!(
        host.xen().domains.is_empty(),
        "nothing of them is mapped any more"
    );
    assert!(host.xen().ports.is_empty());
    assert_eq!(host.xen().storage.buffers.get(), 0);
}

#[test]
fn an_interface_with_several_queues_has_a_ring_and_ports_for_each() {
    let mut host = host();
    let tree = host.tree();
    host.with_vif("one", vif(1));
    host.with_vif("two", vif(2));
    let mut one = Guest::connect_queues(&mut host, 1, 4, false);
    let mut two = Guest::connect_queues(&mut host, 2, 3, true);
    let flow_of = |port: u8, to: Mac, from: Mac| {
        let mut bytes = [to.0, from.0].concat();
        bytes.extend([8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0]);
        bytes.extend([10, 0, 2, 15, 10, 0, 2, 16, 0, port, 0, 9, 0, 8, 0, 0]);
        Frame::new(bytes)
    };
    let mut used = std::collections::BTreeSet::new();
    for port in 0..20 {
        let there = flow_of(port, two.mac, one.mac);
        used.insert(flow::queue(&there.bytes, 3));
        one.send(&mut host, &there);
        assert_eq!(two.received(), [there]);
        let back = flow_of(port, one.mac, two.mac);
        two.send(&mut host, &back);
        assert_eq!(one.received(), [back]);
    }
    assert_eq!(used.len(), 3);
    // Counters are the interface's, the rings that are listed the first queue's.
    let [info] = host.vifs(2).try_into().unwrap();
    assert_eq!((info.sent.frames, info.received.frames), (20, 20));
    assert_eq!(info.tx_ring, Some(two.queues[0].tx.0));
    // What cannot be connected as a whole leaves nothing.
    one.say(&mut host, Life::Closed);
    let ports = host.xen().ports.len();
    one.say(&mut host, Life::Initialising);
    host.write(&one.node("queue-3/event-channel"), "4000");
    one.say(&mut host, Life::Connected);
    assert_eq!(one.hears(&mut host), Life::Closing);
    assert_eq!(host.xen().ports.len(), ports);
    for domid in [1, 2] {
        host.ask(Request::Destroy(DomainRef::Id(domid)));
    }
    assert_eq!(host.tree(), tree);
    assert!(host.xen().ports.is_empty());
    assert!(host.xen().domains.is_empty());
}

#[test]
fn what_leaves_the_host_is_whole() {
    let mut host = host();
    host.with_vif("one", vif(1));
    let mut one = Guest::connect(&mut host, 1, false);
    let mut bytes = Vec::from([2, 0, 0, 0, 0, 9]);
    bytes.extend(one.mac.0);
    bytes.extend([8, 0, 0x45, 0]);
    bytes.extend((40 + 3000_u16).to_be_bytes());
    bytes.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 2, 15, 10, 0, 2, 2]);
    bytes.extend([
        0, 80, 4, 0, 0, 0, 0, 7, 0, 0, 0, 9, 0x50, 0x10, 0, 0, 0, 0, 0, 0,
    ]);
    bytes.extend([5; 3000]);
    let large = Frame {
        bytes,
        checksum: Checksum::Blank,
        gso: Some(Gso {
            kind: GsoKind::Tcp4,
            size: 1460,
        }),
    };
    one.send(&mut host, &large);
    let sent = &host.xen().nic.sent;
    assert_eq!(
        sent.iter().map(Vec::len).collect::<Vec<_>>(),
        [1514, 1514, 134]
    );
    let right = |bytes: &Vec<u8>| split_drivers::net::offload::is_checksum_right(bytes);
    assert!(sent.iter().all(right));
    assert_eq!(host.vifs(1)[0].address, Some([10, 0, 2, 15]));
}

#[test]
fn a_guest_that_pretends_to_be_another_is_not_heard() {
    let mut host = host();
    host.with_vif("one", vif(1));
    let mut one = Guest::connect(&mut host, 1, false);
    one.send(&mut host, &frame(Mac::BROADCAST, mac(2), 1));
    assert!(host.xen().nic.sent.is_empty());
    assert_eq!(host.vifs(1)[0].sent.dropped, 1);
}

#[test]
fn a_guest_is_held_to_the_addresses_that_it_was_given() {
    let mut host = host();
    let ip = Some("10.0.2.15 fd00::1".to_string());
    host.with_vif("one", VifConfig { ip, ..vif(1) });
    let mut one = Guest::connect(&mut host, 1, false);
    let node = host.node(&one.back("ip"));
    assert_eq!(node.as_deref(), Some("10.0.2.15 fd00::1"));
    let arp = |sender: [u8; 4]| {
        let mut bytes = [Mac::BROADCAST.0, mac(1).0].concat();
        bytes.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        bytes.extend(mac(1).0);
        bytes.extend(sender);
        bytes.extend([0, 0, 0, 0, 0, 0, 10, 0, 2, 2]);
        Frame::new(bytes)
    };
    let good = arp([10, 0, 2, 15]);
    for frame in [
        arp([10, 0, 2, 16]),
        frame(Mac::BROADCAST, one.mac, 1),
        good.clone(),
    ] {
        one.send(&mut host, &frame);
    }
    assert_eq!(host.xen().nic.sent, [good.bytes]);
    let [info] = host.vifs(1).try_into().unwrap();
    assert_eq!((info.sent.frames, info.sent.dropped), (1, 2));
    // What it did not send says nothing of it.
    assert_eq!(info.address, Some([10, 0, 2, 15]));
}

#[test]
fn a_guest_sends_no_more_than_its_rate() {
    let mut host = host();
    let rate = Some(RateLimit {
        bytes: 1000,
        interval_us: 50_000,
    });
    host.with_vif("one", VifConfig { rate, ..vif(1) });
    let mut one = Guest::connect(&mut host, 1, false);
    let node = host.node(&one.back("rate"));
    assert_eq!(node.as_deref(), Some("1000,50000"));
    let large = Frame::new(frame(Mac::BROADCAST, one.mac, 1).bytes.repeat(20));
    let mut count = 0;
    while host.xen().nic.sent.len() == count {
        count += 1;
        one.send(&mut host, &large);
        one.received();
    }
    let now = host.xen().now();
    let later = host.toolstack.deadline().unwrap();
    assert!(later > now && later <= now + 50_000_000);
    host.xen().clock += 100_000_000;
    host.toolstack.tick();
    host.pump();
    assert_eq!(host.xen().nic.sent.len(), count, "what was held is sent");
}

#[test]
fn an_interface_is_detached_when_the_guest_lets_it_go_and_may_come_back() {
    let mut host = host();
    host.with_vif("one", vif(1));
    let guest = Guest::connect(&mut host, 1, true);
    let channel = host.detach_vif(1, &mac(1).to_string());
    assert_eq!(host.replies(channel), []);
    assert_eq!(guest.hears(&mut host), Life::Closing);
    assert_eq!(host.node(&guest.back("online")).as_deref(), Some("0"));
    guest.say(&mut host, Life::Closed);
    assert_eq!(host.replies(channel), [Reply::Done]);
    assert_eq!(host.vifs(1), []);
    assert_eq!(host.node(&guest.node("backend")), None);
    assert_eq!(host.attach_vif(1, vif(7)), Reply::Done);
    assert_eq!(host.attach_vif(1, vif(8)), Reply::Done);
    assert_eq!(guest.hears(&mut host), Life::InitWait);
    let numbers: Vec<_> = host
        .vifs(1)
        .iter()
        .map(|it| (it.devid, it.mac[5]))
        .collect();
    assert_eq!(numbers, [(0, 7), (1, 8)]);
    let channel = host.detach_vif(1, "3");
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Error(Error::BadState { .. })]
    ));
}

#[test]
fn a_guest_that_breaks_the_protocol_is_given_up_and_may_begin_anew() {
    let mut host = host();
    host.with_vif("one", vif(1));
    let guest = Guest::connect(&mut host, 1, false);
    // More requests than the ring has places.
    let ring = host.xen().storage.grants[&(Domid(1), guest.queues[0].tx)];
    host.xen().own_page(ring).store_index(0, 1000);
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
    Guest::connect(&mut host, 1, false);
}

#[test]
fn what_cannot_be_had_is_refused_and_leaves_nothing() {
    let mut host = host();
    let tree = host.tree();
    for wrong in [
        VifConfig {
            bridge: "br1".into(),
            ..vif(1)
        },
        VifConfig {
            mac: [1, 2, 3, 4, 5, 6],
            ..vif(1)
        },
        VifConfig {
            name: Some("a name that is too long".into()),
            ..vif(1)
        },
        VifConfig {
            ip: Some("10.0.0.1 ten".into()),
            ..vif(1)
        },
        VifConfig {
            rate: Some(RateLimit {
                bytes: 0,
                interval_us: 1,
            }),
            ..vif(1)
        },
    ] {
        let reply = host.with_vif("one", wrong);
        assert!(matches!(reply, Reply::Error(Error::BadConfig { .. })));
        assert_eq!(host.tree(), tree);
    }
}

#[test]
fn whichever_hypercall_of_a_create_with_an_interface_fails_nothing_is_left() {
    for call in 0.. {
        let mut host = host();
        let before = host.tree();
        host.xen().fail_in = Some(call);
        let reply = host.with_vif("one", vif(1));
        let failed = host.xen().fail_in.take().is_none();
        match reply {
            Reply::Domid(_) if failed => {}
            Reply::Domid(_) => return,
            Reply::Error(_) => {
                assert_eq!(host.tree(), before, "call {call}");
                assert_eq!(host.xen().free.len(), 20_000, "call {call}");
            }
            other => panic!("{other:?}"),
        }
    }
}
