use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::net::world::{OTHER, OWN, arp, dhcp, ethernet, hostile_neighbour, ip, part, ping};

const SECOND: u64 = 1_000_000_000;
const MINE: [u8; 4] = [10, 0, 2, 15];
const PEER: [u8; 4] = [10, 0, 2, 9];
const SERVER: [u8; 4] = [10, 0, 2, 2];

fn given(ip: &str) -> Addressing {
    Addressing::parse(Some(ip), None).unwrap()
}

fn stack(addressing: Addressing) -> Stack {
    Stack::new(OWN, addressing, 1, 0).unwrap()
}

/// What it sends when it gets a frame.
fn answers(stack: &mut Stack, frame: Frame) -> Vec<Frame> {
    stack.deliver(frame);
    stack.turn(0)
}

fn number(frame: &Frame) -> [u8; 4] {
    part(frame, 46).unwrap()
}

/// The kind of a DHCP message that it sends, and the address that it asks for or has.
fn asks(frame: &Frame) -> (u8, [u8; 4]) {
    let options = &frame.bytes[42 + 240..];
    let requested = options
        .windows(6)
        .find(|it| it[..2] == [50, 4])
        .map_or(part(frame, 42 + 12).unwrap(), |it| {
            it[2..].try_into().unwrap()
        });
    (options[2], requested)
}

/// The mask, the gateway and the length of a lease in seconds.
fn lease(seconds: u16) -> Vec<u8> {
    let mut options = Vec::from([1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 51, 4, 0, 0]);
    options.extend(seconds.to_be_bytes());
    options
}

const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const REQUEST: u8 = 3;
const ACK: u8 = 5;
const NAK: u8 = 6;

/// Has it get an address, from a server at that one.
fn get_lease(stack: &mut Stack, now: u64, server: [u8; 4], seconds: u16) {
    let [discover] = stack.turn(now).try_into().unwrap();
    assert_eq!(asks(&discover).0, DISCOVER);
    stack.deliver(dhcp(
        OFFER,
        number(&discover),
        MINE,
        server,
        &lease(seconds),
    ));
    let [request] = stack.turn(now).try_into().unwrap();
    assert_eq!(asks(&request), (REQUEST, MINE));
    stack.deliver(dhcp(ACK, number(&request), MINE, server, &lease(seconds)));
    assert_eq!(stack.turn(now), []);
}

#[test]
fn who_asks_for_its_address_gets_it_and_pings_come_back() {
    let mut stack = stack(given("10.0.2.15/24"));
    let news = stack.take_news();
    assert_eq!(
        news.as_deref(),
        Some("this domain's address: 10.0.2.15/24, as given")
    );
    let [reply] = answers(&mut stack, arp(1, PEER, MINE)).try_into().unwrap();
    assert_eq!(
        (reply.destination(), reply.source()),
        (Some(OTHER), Some(OWN))
    );
    // A reply, from its two addresses to those of who asked.
    let expected = [
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2][..],
        &OWN.0,
        &MINE,
        &OTHER.0,
        &PEER,
    ]
    .concat();
    assert_eq!(reply.bytes[12..], expected);
    let [pong] = answers(&mut stack, ping(PEER, MINE, b"content"))
        .try_into()
        .unwrap();
    assert_eq!(pong.destination(), Some(OTHER));
    assert_eq!(part(&pong, 34), Some([0]), "an echo reply");
    assert!(pong.bytes.ends_with(b"content"));
    // For others.
    assert_eq!(answers(&mut stack, arp(1, PEER, SERVER)), []);
    assert_eq!(answers(&mut stack, ping(PEER, SERVER, b"")), []);
}

#[test]
fn an_address_comes_by_dhcp_and_is_renewed_before_the_lease_ends() {
    let mut stack = stack(Addressing::Dhcp);
    assert_eq!(stack.address(), None);
    assert_eq!(
        answers(&mut stack, arp(1, PEER, MINE)).len(),
        1,
        "it asks for an address"
    );
    let mut stack = self::stack(Addressing::Dhcp);
    get_lease(&mut stack, 0, SERVER, 600);
    let own = OwnAddress {
        address: MINE,
        prefix: 24,
        gateway: Some(SERVER),
        leased: true,
    };
    assert_eq!(stack.address(), Some(own));
    let news = stack.take_news();
    assert_eq!(
        news.as_deref(),
        Some("this domain's address: 10.0.2.15/24, by DHCP")
    );
    assert_eq!(answers(&mut stack, arp(1, SERVER, MINE)).len(), 1);
    // Half of the lease is over.
    assert_eq!(stack.due(), Some(300 * SECOND));
    assert_eq!(stack.turn(299 * SECOND), []);
    // It may have to find out again where the server is.
    let mut out = stack.turn(300 * SECOND);
    if part(&out[0], 12) == Some([8, 6]) {
        stack.deliver(arp(2, SERVER, MINE));
        out = stack.turn(302 * SECOND);
    }
    let [request] = out.try_into().unwrap();
    assert_eq!(request.destination(), Some(OTHER));
    assert_eq!(asks(&request), (REQUEST, MINE));
    stack.deliver(dhcp(ACK, number(&request), MINE, SERVER, &lease(600)));
    assert_eq!(stack.turn(302 * SECOND), []);
    assert_eq!(stack.address(), Some(own));
    assert_eq!(stack.take_news(), None);
    assert_eq!(stack.due(), Some(602 * SECOND));
}

#[test]
fn an_address_whose_lease_nobody_renews_is_given_up_and_another_is_asked_for() {
    let mut stack = stack(Addressing::Dhcp);
    get_lease(&mut stack, 0, SERVER, 600);
    stack.take_news();
    let mut asked = Vec::new();
    let mut now = 0;
    while stack.address().is_some() {
        now = now.max(stack.due().unwrap()) + 1;
        assert!(now <= 601 * SECOND, "it keeps the address for ever");
        asked.extend(stack.turn(now));
    }
    assert!(now >= 600 * SECOND, "it gave it up early");
    assert!(asked.len() > 2, "{asked:?}");
    let news = stack.take_news();
    assert_eq!(
        news.as_deref(),
        Some("the lease of this domain's address has ended")
    );
    assert_eq!(answers(&mut stack, ping(PEER, MINE, b"")), []);
    let out = stack.turn(now);
    let last = out.last().or(asked.last()).unwrap();
    assert_eq!(asks(last).0, DISCOVER);
}

#[test]
fn an_address_that_the_server_takes_back_is_not_used_any_more() {
    let mut stack = stack(Addressing::Dhcp);
    get_lease(&mut stack, 0, SERVER, 600);
    stack.deliver(arp(2, SERVER, MINE));
    let request = stack.turn(300 * SECOND).pop().unwrap();
    stack.deliver(dhcp(NAK, number(&request), [0; 4], SERVER, &[]));
    stack.turn(300 * SECOND);
    assert_eq!(stack.address(), None);
}

#[test]
fn a_server_without_an_address_is_none() {
    // The stack would be asked to send something to nobody, when it is time to renew.
    let mut stack = stack(Addressing::Dhcp);
    let [discover] = stack.turn(0).try_into().unwrap();
    let offer = dhcp(OFFER, number(&discover), MINE, [0; 4], &lease(600));
    assert_eq!(answers(&mut stack, offer), []);
}

#[test]
fn an_address_that_nobody_can_have_is_not_taken() {
    for address in [[10, 0, 2, 255], [10, 0, 2, 0], [127, 0, 0, 1]] {
        let mut stack = stack(Addressing::Dhcp);
        let [discover] = stack.turn(0).try_into().unwrap();
        let offer = dhcp(OFFER, number(&discover), address, SERVER, &lease(600));
        let [request] = answers(&mut stack, offer).try_into().unwrap();
        let ack = dhcp(ACK, number(&request), address, SERVER, &lease(600));
        answers(&mut stack, ack);
        assert_eq!(stack.address(), None, "{address:?}");
    }
}

#[test]
fn a_gateway_that_is_no_neighbour_is_left_out() {
    let mut stack = stack(Addressing::Dhcp);
    let options = [1, 4, 255, 255, 255, 0, 3, 4, 224, 0, 0, 1];
    let [discover] = stack.turn(0).try_into().unwrap();
    let [request] = answers(
        &mut stack,
        dhcp(OFFER, number(&discover), MINE, SERVER, &options),
    )
    .try_into()
    .unwrap();
    answers(
        &mut stack,
        dhcp(ACK, number(&request), MINE, SERVER, &options),
    );
    let own = stack.address().unwrap();
    assert_eq!((own.address, own.gateway), (MINE, None));
}

#[test]
fn without_an_address_there_is_no_station() {
    assert!(Stack::new(OWN, Addressing::None, 1, 0).is_none());
}

#[test]
fn a_port_that_nobody_listens_at_is_closed() {
    let mut stack = stack(given("10.0.2.15/24"));
    stack.deliver(arp(1, PEER, MINE));
    stack.turn(0);
    let mut syn = Vec::from([0x0f, 0xa0, 0, 80]);
    syn.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    let [reset] = answers(&mut stack, ip(6, PEER, MINE, &syn))
        .try_into()
        .unwrap();
    assert_eq!(part(&reset, 47), Some([0x14]), "a reset");
}

#[test]
fn what_is_not_for_the_stack_takes_no_room() {
    let mut stack = stack(given("10.0.2.15/24"));
    stack.turn(0);
    for kind in [0x86dd, 0x88b5, 0x8100] {
        stack.deliver(ethernet(Mac::BROADCAST, kind, &[0; 100]));
    }
    stack.deliver(Frame::new(vec![0; 13]));
    assert!(!stack.is_busy());
}

#[test]
fn a_flood_is_dropped_and_seen_in_parts() {
    let mut stack = stack(given("10.0.2.15/24"));
    answers(&mut stack, arp(1, PEER, MINE));
    for _ in 0..10 * MAX_WAITING {
        stack.deliver(ping(PEER, MINE, b"flood"));
    }
    let mut answered = 0;
    while stack.is_busy() {
        let out = stack.turn(0);
        assert!(out.len() <= BUDGET);
        answered += out.len();
    }
    assert_eq!(answered, MAX_WAITING);
    // Large ones, by their bytes.
    for _ in 0..MAX_WAITING {
        stack.deliver(ip(17, PEER, MINE, &[0; 60_000]));
    }
    assert!(stack.line.0.bytes <= MAX_WAITING_BYTES);
    assert!(stack.line.0.waiting.len() < 20);
}

/// Two stations on a wire, of which one's frames are cut as a network card's are.
struct Wire {
    ends: [Stack; 2],
    now: u64,
}

impl Wire {
    fn new() -> Self {
        let other = Stack::new(OTHER, given("10.0.2.9/24"), 2, 0).unwrap();
        Self {
            ends: [stack(given("10.0.2.15/24")), other],
            now: 0,
        }
    }

    /// Lets time go on until both have nothing to say, not even that they have heard something.
    fn settle(&mut self) {
        let mut silent = 0;
        while silent < 20 {
            let mut quiet = true;
            for from in [0, 1] {
                let out = self.ends[from].turn(self.now);
                quiet &= out.is_empty();
                for frame in out {
                    for frame in split_drivers::net::offload::fit(frame, &Features::default()) {
                        self.ends[1 - from].deliver(frame);
                    }
                }
            }
            quiet &= !self.ends.iter().any(|end| end.is_ready(self.now));
            silent = if quiet { silent + 1 } else { 0 };
            self.now += 1_000_000;
        }
    }
}

#[test]
fn bytes_go_both_ways_by_a_connection_and_the_end_is_told() {
    let mut wire = Wire::new();
    let server = wire.ends[0].listen(80).unwrap();
    let client = wire.ends[1].connect(MINE, 80).unwrap();
    assert_eq!(wire.ends[0].life(&server), Life::Opening);
    assert_eq!(wire.ends[1].life(&client), Life::Opening);
    wire.settle();
    assert_eq!(wire.ends[0].life(&server), Life::Open);
    let content: Vec<u8> = (0..1_000_000_u32).map(|at| ((at * 7) >> 3) as u8).collect();
    let (mut sent, mut received) = (0, Vec::new());
    while received.len() < content.len() {
        sent += wire.ends[1].send(&client, &content[sent..]);
        wire.settle();
        let take = |bytes: &[u8]| {
            received.extend_from_slice(bytes);
            bytes.len()
        };
        wire.ends[0].receive(&server, take);
    }
    assert!(received == content);
    wire.ends[1].finish(&client);
    wire.settle();
    assert_eq!(wire.ends[0].life(&server), Life::Finished);
    assert_eq!(wire.ends[0].send(&server, b"all of it"), 9);
    wire.ends[0].finish(&server);
    wire.settle();
    assert_eq!(wire.ends[0].life(&server), Life::Over);
    assert_eq!(
        wire.ends[1].life(&client),
        Life::Open,
        "it has not taken all"
    );
    let mut answer = Vec::new();
    wire.ends[1].receive(&client, |bytes| {
        answer.extend_from_slice(bytes);
        bytes.len()
    });
    assert_eq!(answer, b"all of it");
    assert_eq!(wire.ends[1].life(&client), Life::Over);
}

#[test]
fn a_connection_that_is_let_go_is_reset_and_gives_its_room_back() {
    let mut wire = Wire::new();
    for _ in 0..3 {
        let mut all = Vec::new();
        for port in 0..MAX_CONNECTIONS as u16 {
            all.push(wire.ends[0].listen(80 + port).unwrap());
        }
        let refused = wire.ends[0].listen(99);
        assert!(matches!(refused, Err(Error::NoRoom(_))), "{refused:?}");
        let client = wire.ends[1].connect(MINE, 80).unwrap();
        wire.settle();
        assert_eq!(wire.ends[1].life(&client), Life::Open);
        for connection in all {
            let now = wire.now;
            wire.ends[0].close(connection, now);
        }
        wire.settle();
        assert_eq!(wire.ends[1].life(&client), Life::Over);
        let now = wire.now;
        wire.ends[1].close(client, now);
        assert_eq!(wire.ends[0].sockets.iter().count(), 0);
    }
}

#[test]
fn a_connection_whose_other_end_is_silent_is_over_in_the_end() {
    let mut wire = Wire::new();
    let server = wire.ends[0].listen(80).unwrap();
    let _client = wire.ends[1].connect(MINE, 80).unwrap();
    wire.settle();
    let end = &mut wire.ends[0];
    let mut now = wire.now;
    while end.life(&server) != Life::Over {
        now = now.max(end.due().unwrap()) + 1;
        end.turn(now);
    }
    let silent = now - wire.now;
    assert!(
        (PATIENCE - 1..PATIENCE + 2).contains(&(silent / SECOND)),
        "{silent} ns"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whatever_a_neighbour_sends_the_stack_keeps_to_its_bounds(
        bytes in vec(any::<u8>(), 0..3000),
    ) {
        hostile_neighbour(&bytes);
    }
}
