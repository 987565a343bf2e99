//! Which addresses a guest may send from.

use proptest::collection::vec;
use proptest::prelude::*;

use super::pair::Pair;
use crate::net::back::Policy;
use crate::net::sources::Sources;
use crate::net::world::{plain, tcp};
use crate::net::{Features, Frame};

/// The sources of [`tcp`] and others.
const GIVEN: &str = "10.0.0.1 192.168.7.0/24 fd00::7 fe80::/10";

fn sources() -> Sources {
    Sources::parse(GIVEN).unwrap()
}

fn header(kind: [u8; 2]) -> Vec<u8> {
    let mut bytes = vec![0xff; 6];
    bytes.extend([2, 0, 0, 0, 0, 2]);
    bytes.extend(kind);
    bytes
}

fn v4(source: [u8; 4], protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header([8, 0]);
    bytes.extend([
        0x45,
        0,
        0,
        20 + payload.len() as u8,
        0,
        0,
        0,
        0,
        64,
        protocol,
        0,
        0,
    ]);
    bytes.extend(source);
    bytes.extend([10, 0, 0, 9]);
    bytes.extend(payload);
    bytes
}

fn udp(from: u8, to: u8) -> [u8; 8] {
    [0, from, 0, to, 0, 8, 0, 0]
}

fn arp(sender: [u8; 4]) -> Vec<u8> {
    let mut bytes = header([8, 6]);
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2]);
    bytes.extend(sender);
    bytes.extend([0, 0, 0, 0, 0, 0, 10, 0, 0, 9]);
    bytes
}

fn v6(source: &str, next: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header([0x86, 0xdd]);
    bytes.extend([0x60, 0, 0, 0, 0, payload.len() as u8, next, 255]);
    bytes.extend(source.parse::<std::net::Ipv6Addr>().unwrap().octets());
    bytes.extend([0xff; 16]);
    bytes.extend(payload);
    bytes
}

/// Neighbour discovery about an address.
fn discovery(kind: u8, target: &str) -> Vec<u8> {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(target.parse::<std::net::Ipv6Addr>().unwrap().octets());
    bytes
}

/// With a tag of a VLAN.
fn tagged(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.splice(12..12, [0x81, 0, 0, 5]);
    bytes
}

#[test]
fn what_comes_from_an_address_that_was_given_passes_and_nothing_else() {
    let sources = sources();
    for (source, passes) in [
        ([10, 0, 0, 1], true),
        ([192, 168, 7, 255], true),
        ([10, 0, 0, 2], false),
        ([192, 168, 8, 1], false),
        ([0, 0, 0, 0], false),
    ] {
        for frame in [
            v4(source, 6, &[1; 40]),
            v4(source, 17, &udp(68, 53)),
            v4(source, 1, &[8]),
        ] {
            assert_eq!(sources.permit(&frame), passes, "{source:?}");
            assert_eq!(sources.permit(&tagged(frame)), passes, "{source:?}");
        }
    }
    for (source, passes) in [
        ("fd00::7", true),
        ("fe80::1", true),
        ("fd00::8", false),
        ("::", false),
    ] {
        assert_eq!(sources.permit(&v6(source, 6, &[1; 40])), passes, "{source}");
        assert_eq!(
            sources.permit(&v6(source, 58, &[128, 0])),
            passes,
            "{source}"
        );
    }
}

#[test]
fn a_dhcp_server_can_be_asked_whoever_asks() {
    let sources = sources();
    for source in [[0; 4], [10, 0, 2, 15]] {
        assert!(sources.permit(&v4(source, 17, &udp(68, 67))));
        assert!(
            !sources.permit(&v4(source, 17, &udp(67, 68))),
            "nobody can pretend to be one"
        );
        assert!(!sources.permit(&v4(source, 6, &[0, 68, 0, 67, 0, 0, 0, 0])));
        // A part of a packet has no ports to go by.
        let mut part = v4(source, 17, &udp(68, 67));
        part[21] = 1;
        assert!(!sources.permit(&part));
    }
}

#[test]
fn nobody_says_by_arp_that_it_has_anothers_address() {
    let sources = sources();
    assert!(sources.permit(&arp([10, 0, 0, 1])));
    assert!(
        sources.permit(&arp([0; 4])),
        "a question by who has none yet"
    );
    assert!(!sources.permit(&arp([10, 0, 0, 2])));
    assert!(!sources.permit(&tagged(arp([10, 0, 0, 2]))));
    // Addresses of another length are somewhere else.
    let mut other = arp([10, 0, 0, 1]);
    other[18] = 4;
    assert!(!sources.permit(&other));
}

#[test]
fn nobody_says_by_neighbour_discovery_that_it_has_anothers_address() {
    let sources = sources();
    for (source, kind, target, passes) in [
        ("fd00::7", 136, "fd00::7", true),
        ("fd00::7", 136, "fd00::8", false),
        ("fd00::8", 136, "fd00::7", false),
        ("fd00::7", 135, "fd00::8", true),
        ("::", 135, "fd00::7", true),
        ("::", 135, "fd00::8", false),
        ("::", 136, "fd00::7", false),
    ] {
        let message = discovery(kind, target);
        let bare = v6(source, 58, &message);
        // Behind other headers it is the same.
        let options = [vec![58, 0, 1, 4, 0, 0, 0, 0], message.clone()].concat();
        let routing = [vec![60, 0, 0, 0, 0, 0, 0, 0], options.clone()].concat();
        let atomic = [vec![58, 0, 0, 0, 0, 0, 0, 7], message].concat();
        for frame in [
            bare,
            v6(source, 0, &options),
            v6(source, 43, &routing),
            v6(source, 44, &atomic),
        ] {
            assert_eq!(sources.permit(&frame), passes, "{source} {kind} {target}");
        }
    }
    let endless = [0, 0, 1, 4, 0, 0, 0, 0].repeat(20);
    assert!(!sources.permit(&v6("fd00::7", 0, &endless)));
}

#[test]
fn what_is_neither_ip_nor_arp_does_not_pass() {
    let sources = sources();
    assert!(!sources.permit(&plain(100, 1).bytes));
    assert!(!sources.permit(&tagged(tagged(v4([10, 0, 0, 1], 6, &[1; 40])))));
    let mut wrong = v4([10, 0, 0, 1], 6, &[1; 40]);
    wrong[14] = 0x55;
    assert!(!sources.permit(&wrong));
}

#[test]
fn a_list_is_of_addresses_and_ranges() {
    assert_eq!(Sources::parse("10.0.0.1/33"), Err("10.0.0.1/33"));
    assert_eq!(Sources::parse("10.0.0.1 fd00::x"), Err("fd00::x"));
    assert_eq!(Sources::parse("10.0.0"), Err("10.0.0"));
    assert_eq!(Sources::parse(" "), Err(""));
    assert!(Sources::parse(&"10.0.0.1 ".repeat(64)).is_ok());
    assert_eq!(Sources::parse(&"10.0.0.1 ".repeat(65)), Err(""));
    assert_eq!(Sources::parse("10.0.0.1/32"), Sources::parse("10.0.0.1"));
}

#[test]
fn a_backend_drops_what_comes_from_another_address_in_every_queue() {
    let policy = Policy {
        addresses: Sources::parse("10.0.0.1").ok(),
        ..Policy::default()
    };
    let mut pair = Pair::with_queues(3, Features::ALL, policy);
    let mut good = Vec::new();
    for port in 0..20 {
        let mut frame = tcp(false, &[port; 100]);
        frame.bytes[35] = port;
        pair.send(&frame).unwrap();
        good.push(frame.clone());
        // The last byte of its source.
        frame.bytes[29] = 3;
        pair.send(&frame).unwrap();
    }
    pair.settle();
    assert_eq!(pair.out.len(), good.len());
    assert!(good.iter().all(|frame| pair.out.contains(frame)));
    assert_eq!(
        (pair.back.sent().frames, pair.back.sent().dropped),
        (20, 20)
    );
}

proptest! {
    #[test]
    fn what_is_cut_off_or_changed_says_nothing_by_which_one_falls(
        kind in 0_usize..4, length in 0_usize..100, changes in vec((0_usize..100, any::<u8>()), 0..6),
    ) {
        let mut bytes = [
            v4([10, 0, 0, 1], 17, &udp(68, 67)),
            arp([10, 0, 0, 1]),
            v6("fd00::7", 0, &[[58, 0, 1, 4, 0, 0, 0, 0].to_vec(), discovery(136, "fd00::7")].concat()),
            tagged(v4([10, 0, 0, 1], 6, &[1; 40])),
        ][kind].clone();
        let whole = Frame::new(bytes.clone());
        prop_assert!(sources().permit(&whole.bytes));
        for (at, byte) in changes {
            if let Some(place) = bytes.get_mut(at) {
                *place = byte;
            }
        }
        bytes.truncate(length);
        if sources().permit(&bytes) {
            prop_assert!(bytes.len() >= 34, "there is a whole header");
        }
    }
}
