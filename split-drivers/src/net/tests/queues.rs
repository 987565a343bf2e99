//! Several queues of one interface.

use hypercall_abi::io::netif::{NetifRxRequest, NetifRxResponse};

use super::pair::Pair;
use crate::SharedMemory;
use crate::net::back::{Back, Policy};
use crate::net::credit::Rate;
use crate::net::front::{Front, Refused};
use crate::net::world::{large_tcp, plain, tcp};
use crate::net::{Features, Frame, PAGE, Violation, flow};
use crate::ring::{self, Overrun};
use crate::world::{Guest, GuestPage, Host, Memory};

/// A frame of the flow from that port on.
fn from_port(port: u8, length: usize) -> Frame {
    let mut frame = tcp(false, &vec![port; length]);
    frame.bytes[35] = port;
    frame
}

/// A port whose flow has that queue, of so many.
fn port_of(queue: usize, queues: usize) -> u8 {
    let here = |port: &u8| flow::queue(&from_port(*port, 1).bytes, queues) == queue;
    (0..=255).find(here).expect("a flow has each queue")
}

#[test]
fn a_flow_keeps_to_its_queue_and_flows_are_spread() {
    for queues in 1..=16 {
        let mut used = vec![0; queues];
        for port in 0..=255 {
            let queue = flow::queue(&from_port(port, 1).bytes, queues);
            assert_eq!(flow::queue(&from_port(port, 1400).bytes, queues), queue);
            used[queue] += 1;
        }
        let most = 2 * 256 / queues + 8;
        assert!(used.iter().all(|it| (1..=most).contains(it)), "{used:?}");
    }
    for v6 in [false, true] {
        let small = flow::queue(&tcp(v6, &[1]).bytes, 16);
        let large = flow::queue(&large_tcp(v6, &[1; 60_000], 1448).bytes, 16);
        assert_eq!(small, large);
    }
    assert_eq!(flow::queue(&plain(60, 1).bytes, 16), 0);
    assert_eq!(flow::queue(&from_port(1, 1).bytes, 0), 0);
}

#[test]
fn all_fragments_of_a_packet_have_one_queue() {
    let fragment = |offset: u8, port: u8| {
        let mut frame = from_port(port, 100);
        frame.bytes[20] = 0x20;
        frame.bytes[21] = offset;
        flow::queue(&frame.bytes, 16)
    };
    // Where the ports would be, there is something else.
    assert!((1..100).all(|nth| fragment(nth, nth) == fragment(0, 80)));
}

#[test]
fn what_is_cut_off_has_a_queue_all_the_same() {
    for whole in [tcp(false, &[1; 99]), tcp(true, &[1; 99])] {
        for length in 0..whole.bytes.len() {
            assert!(flow::queue(&whole.bytes[..length], 3) < 3);
        }
    }
}

#[test]
fn the_rate_and_the_counters_are_the_interfaces() {
    let rate = Some(Rate {
        bytes: 3000,
        interval_us: 1000,
    });
    let policy = Policy {
        rate,
        ..Policy::default()
    };
    let mut pair = Pair::with_queues(4, Features::ALL, policy);
    let frame = |queue| from_port(port_of(queue, 4), 1446);
    let mut bytes = 0;
    while pair.now < 500_000_000 {
        for queue in 0..4 {
            while pair.send(&frame(queue)).is_ok() {}
        }
        pair.publish();
        let turn = pair.turn();
        pair.front.turn().unwrap();
        if let Some(later) = turn.wake_at {
            assert!(later > pair.now && !turn.more);
            pair.now = later;
        }
    }
    let mut used = [0; 4];
    for frame in &pair.out {
        used[flow::queue(&frame.bytes, 4)] += 1;
        bytes += frame.bytes.len() as u64;
    }
    let most = 500 * 3000 + 128 * 1024;
    assert!((most - 10_000..=most).contains(&bytes), "{bytes} of {most}");
    let sent = pair.back.sent();
    assert_eq!((sent.frames, sent.bytes), (pair.out.len() as u64, bytes));
    assert!(used.iter().all(|it| it * 5 > pair.out.len()), "{used:?}");
}

#[test]
fn a_turn_takes_no_more_for_having_several_queues_and_none_is_left_out() {
    let mut pair = Pair::with_queues(3, Features::ALL, Policy::default());
    for queue in 0..3 {
        for _ in 0..40 {
            pair.send(&from_port(port_of(queue, 3), 100)).unwrap();
        }
    }
    pair.publish();
    let mut served = [0; 3];
    for _ in 0..3 {
        pair.out.clear();
        let turn = pair.turn();
        assert!(turn.more);
        assert_eq!(pair.out.len(), 16, "the budget");
        served[flow::queue(&pair.out[0].bytes, 3)] += 1;
    }
    assert_eq!(served, [1; 3]);
    // What is wrong counts too.
    let mut bad = from_port(port_of(0, 3), 100);
    bad.bytes.truncate(13);
    let mut pair = Pair::with_queues(3, Features::ALL, Policy::default());
    for _ in 0..16 {
        pair.send(&bad).unwrap();
    }
    pair.send(&from_port(port_of(1, 3), 100)).unwrap();
    pair.publish();
    let first = flow::queue(&bad.bytes, 3);
    assert_eq!(first, 0);
    assert!(pair.turn().more && pair.out.is_empty());
}

#[test]
fn a_queue_that_is_not_served_takes_no_room_from_the_others() {
    let mut pair = Pair::with_queues(2, Features::ALL, Policy::default());
    for _ in 0..10_000 {
        pair.back.deliver(from_port(port_of(0, 2), 1400));
    }
    let dropped = pair.back.received().dropped;
    assert!(dropped > 9_700, "{dropped}");
    let other = from_port(port_of(1, 2), 1400);
    pair.back.deliver(other.clone());
    assert_eq!(pair.back.received().dropped, dropped);
    let received = pair.settle();
    assert!(received.contains(&other));
    assert_eq!(received.len() as u64 + dropped, 10_001);
}

#[test]
fn a_queue_without_room_does_not_stop_another_and_is_waited_for() {
    let mut pair = Pair::with_queues(2, Features::ALL, Policy::default());
    let frame = from_port(port_of(0, 2), 100);
    while pair.send(&frame).is_ok() {}
    assert_eq!(pair.send(&frame), Err(Refused::Full));
    assert!(!pair.front.has_room(), "the next frame may be of any flow");
    pair.send(&from_port(port_of(1, 2), 100)).unwrap();
    pair.settle();
    assert!(pair.front.has_room());
}

#[test]
fn only_the_queue_with_something_new_is_notified() {
    let mut pair = Pair::with_queues(3, Features::ALL, Policy::default());
    pair.settle();
    pair.send(&from_port(port_of(2, 3), 100)).unwrap();
    pair.back.deliver(from_port(port_of(1, 3), 100));
    assert_eq!(pair.front.publish(0), (false, false));
    assert_eq!(pair.front.publish(2), (true, false));
    let turn = pair.turn();
    assert_eq!((turn.notify_tx, turn.notify_rx), (vec![2], vec![1]));
    assert_eq!(pair.front.publish(7), (false, false), "there is no such");
}

#[test]
fn whoever_breaks_the_protocol_in_one_queue_has_lost_all() {
    let overrun = |it: &Violation| matches!(it, Violation::Ring(Overrun { .. }));
    let rings: Vec<_> = (0..3)
        .map(|_| (Memory::new(PAGE), Memory::new(PAGE)))
        .collect();
    let mut back = Back::attach(rings.clone(), Features::ALL, Policy::default(), 0).unwrap();
    rings[1].0.store_index(0, 1000);
    let guest = Guest::default();
    let mut host = Host::new(&guest);
    let result = back.turn(&mut host, 0, 16, &mut Vec::new());
    assert!(result.is_err_and(|it| overrun(&it)));
    back.deliver(plain(60, 0));
    assert!(!back.has_queued());

    let mut guest = Guest::default();
    let rings: Vec<_> = (0..3)
        .map(|_| (Memory::new(PAGE), Memory::new(PAGE)))
        .collect();
    let mut front: Front<Memory, GuestPage> = Front::new(rings.clone(), Features::ALL, 8);
    front.fill(&mut guest);
    _ = front.publish(2);
    let entry = hypercall_abi::io::netif::NETIF_RX_ENTRY_SIZE;
    let mut rx = ring::Back::attach(rings[2].1.clone(), entry).unwrap();
    assert!(rx.pop::<NetifRxRequest>().unwrap().is_some());
    // The first was asked for, this was not.
    rx.push(&NetifRxResponse {
        id: 5,
        ..Default::default()
    });
    _ = rx.publish();
    assert_eq!(front.turn(), Err(Violation::WrongAnswer(5)));
    assert!(front.is_lost());
    assert_eq!(guest.grants(), 0);
}
