//! This domain's own address on the bridge: asked for, told, reached by guests, and of use to them.

use control::{NetworkReply, NetworkRequest, OwnAddress};
use split_drivers::net::{Frame, Mac};

use super::network::{Guest, mac, vif};
use super::*;
use crate::net::stack::{Life, Stack};
use crate::net::world::{OWN, arp, dhcp, part, ping};
use crate::xen::Xen;

const MINE: [u8; 4] = [10, 0, 2, 15];
const GUEST: [u8; 4] = [10, 0, 2, 16];

fn given(ip: &str) -> Addressing {
    Addressing::parse(Some(ip), None).unwrap()
}

fn host(addressing: Addressing) -> Host {
    let mut xen = Fake::new(20_000);
    xen.nic.address = Some(OWN);
    Host::with_address(xen, addressing)
}

/// A frame as if a guest sent it.
fn from(mac: Mac, mut frame: Frame) -> Frame {
    frame.bytes[6..12].copy_from_slice(&mac.0);
    if frame.bytes[12..14] == [8, 6] {
        frame.bytes[22..28].copy_from_slice(&mac.0);
    }
    frame
}

impl Host {
    fn own_address(&mut self) -> Option<OwnAddress> {
        match self.ask(Request::HostInfo) {
            Reply::HostInfo(info) => info.address,
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_guest_finds_this_domain_and_is_answered() {
    let mut host = host(given("10.0.2.15/24"));
    let own = host.own_address().unwrap();
    assert_eq!((own.address, own.prefix, own.leased), (MINE, 24, false));
    let told = "this domain's address: 10.0.2.15/24, as given".to_string();
    assert!(host.xen().logged.contains(&told));
    host.with_vif("one", vif(1));
    let mut one = Guest::connect(&mut host, 1, false);
    let (me, ask) = (one.mac, arp(1, GUEST, MINE));
    one.send(&mut host, &from(me, ask));
    let [reply] = one.received().try_into().unwrap();
    assert_eq!((reply.source(), reply.destination()), (Some(OWN), Some(me)));
    assert_eq!(host.xen().nic.sent.len(), 1, "the question was for all");
    one.send(&mut host, &from(me, ping(GUEST, MINE, b"content")));
    let [pong] = one.received().try_into().unwrap();
    assert_eq!(part(&pong, 34), Some([0]), "an echo reply");
    assert!(pong.bytes.ends_with(b"content"));
    assert_eq!(host.xen().nic.sent.len(), 1, "the rest for nobody else");
}

#[test]
fn the_address_is_asked_for_on_the_bridge_and_told_when_it_comes() {
    let mut host = host(Addressing::Dhcp);
    assert_eq!(host.own_address(), None);
    let number = |sent: &[Vec<u8>]| part(&Frame::new(sent.last().unwrap().clone()), 46).unwrap();
    for kind in [2, 5] {
        let number = number(&host.xen().nic.sent);
        let mask = [1, 4, 255, 255, 255, 0];
        let answer = dhcp(kind, number, MINE, [10, 0, 2, 2], &mask);
        host.xen().nic.incoming.push_back(answer);
        host.pump();
    }
    let own = host.own_address().unwrap();
    assert_eq!((own.address, own.prefix, own.leased), (MINE, 24, true));
    let told = "this domain's address: 10.0.2.15/24, by DHCP".to_string();
    assert!(host.xen().logged.contains(&told));
    // It is looked after without anything else to do.
    assert!(host.toolstack.deadline().is_some());
}

#[test]
fn without_an_address_nothing_is_sent_or_answered() {
    let mut host = host(Addressing::None);
    assert_eq!(host.own_address(), None);
    assert_eq!(host.toolstack.deadline(), None);
    let question = arp(1, GUEST, MINE);
    host.xen().nic.incoming.push_back(question);
    host.pump();
    assert!(host.xen().nic.sent.is_empty());
    let refused = host.error(Request::Network(NetworkRequest::Receive { port: 5001 }));
    assert_eq!(refused, Error::NoAddress);
}

#[test]
fn no_guest_has_this_domains_address_on_the_wire() {
    let mut host = host(given("10.0.2.15/24"));
    let tree = host.tree();
    let mine = control::VifConfig {
        mac: OWN.0,
        ..vif(1)
    };
    let refused = host.with_vif("one", mine.clone());
    assert!(matches!(&refused, Reply::Error(Error::BadConfig { field, .. }) if field == "vif"));
    assert_eq!(host.tree(), tree);
    assert!(host.xen().domains.is_empty());
    host.with_vif("two", vif(2));
    let refused = host.attach_vif(2, mine);
    assert!(matches!(refused, Reply::Error(Error::BadConfig { .. })));
    // Others pretend to have it on the wire.
    let mut two = Guest::connect(&mut host, 2, false);
    let mut pretended = arp(1, GUEST, [10, 0, 2, 2]);
    pretended.bytes[6..12].copy_from_slice(&OWN.0);
    host.xen().nic.incoming.push_back(pretended);
    host.pump();
    assert_eq!(two.received(), []);
}

/// A guest with a stack of its own on its interface.
struct Sender {
    guest: Guest,
    stack: Stack,
}

impl Sender {
    fn new(host: &mut Host) -> Self {
        assert_eq!(host.with_vif("one", vif(1)), Reply::Domid(1));
        let now = host.xen().now();
        Self {
            guest: Guest::connect(host, 1, false),
            stack: Stack::new(mac(1), given("10.0.2.16/24"), 2, now).unwrap(),
        }
    }

    /// Has frames move for so many milliseconds.
    fn run(&mut self, host: &mut Host, millis: u64) {
        for _ in 0..millis {
            host.xen().clock += 1_000_000;
            host.toolstack.tick();
            let now = host.xen().now();
            for frame in self.stack.turn(now) {
                self.guest.send(host, &frame);
            }
            for frame in self.guest.received() {
                self.stack.deliver(frame);
            }
            self.guest.kick(host);
        }
    }
}

#[test]
fn what_a_guest_sends_is_counted_and_the_port_is_open_for_that_only() {
    let mut host = host(given("10.0.2.15/24"));
    let mut sender = Sender::new(&mut host);
    let mut refused = sender.stack.connect(MINE, 5001).unwrap();
    sender.run(&mut host, 30);
    assert_eq!(sender.stack.life(&refused), Life::Over);

    let channel = host.open();
    host.send(
        channel,
        Request::Network(NetworkRequest::Receive { port: 5001 }),
    );
    let own = host.own_address().unwrap();
    let listening = Reply::Network(NetworkReply::Listening(own));
    assert_eq!(host.replies(channel), [listening]);
    let connection = sender.stack.connect(MINE, 5001).unwrap();
    let content = vec![5; 1_000_000];
    let mut sent = 0;
    while sent < content.len() {
        let more = sender.stack.send(&connection, &content[sent..]);
        sent += more;
        sender.run(&mut host, 3);
    }
    sender.stack.finish(&connection);
    sender.run(&mut host, 50);
    let mut answer = Vec::new();
    sender.stack.receive(&connection, |bytes| {
        answer.extend_from_slice(bytes);
        bytes.len()
    });
    assert_eq!(answer, 1_000_000_u64.to_le_bytes());
    assert_eq!(sender.stack.life(&connection), Life::Over);
    let [Reply::Network(NetworkReply::Received { bytes, ns })] = host.replies(channel)[..] else {
        panic!("not told");
    };
    assert_eq!(bytes, 1_000_000);
    assert!(ns > 0 && ns < host.xen().clock);

    // Nobody asks any more.
    refused = sender.stack.connect(MINE, 5001).unwrap();
    sender.run(&mut host, 30);
    assert_eq!(sender.stack.life(&refused), Life::Over);
}

#[test]
fn a_client_that_goes_away_leaves_no_port_open() {
    let mut host = host(given("10.0.2.15/24"));
    let mut sender = Sender::new(&mut host);
    // As often as there are connections, and once more.
    for _ in 0..10 {
        let channel = host.open();
        host.send(
            channel,
            Request::Network(NetworkRequest::Receive { port: 5001 }),
        );
        assert_eq!(host.replies(channel).len(), 1);
        host.client.close(channel, CloseReason::Done);
        host.pump();
    }
    let refused = sender.stack.connect(MINE, 5001).unwrap();
    sender.run(&mut host, 30);
    assert_eq!(sender.stack.life(&refused), Life::Over);
}

#[test]
fn a_sender_that_breaks_off_is_told_of() {
    let mut host = host(given("10.0.2.15/24"));
    let mut sender = Sender::new(&mut host);
    let channel = host.open();
    host.send(
        channel,
        Request::Network(NetworkRequest::Receive { port: 5001 }),
    );
    let connection = sender.stack.connect(MINE, 5001).unwrap();
    sender.run(&mut host, 30);
    sender.stack.send(&connection, b"only that");
    sender.run(&mut host, 30);
    let now = host.xen().now();
    sender.stack.close(connection, now);
    sender.run(&mut host, 30);
    let replies = host.replies(channel);
    assert_eq!(replies[1..], [Reply::Error(Error::Disconnected)]);
}
