//! A frontend and a backend, connected.

use crate::net::back::{Back, Policy, Turn};
use crate::net::credit::Rate;
use crate::net::front::{Front, Refused};
use crate::net::world::{large_tcp, plain, takes, tcp};
use crate::net::{Features, Frame, Mac, PAGE};
use crate::world::{Guest, GuestPage, Host, Memory};

/// Both ends.
pub struct Pair {
    pub guest: Guest,
    pub host: Host,
    pub front: Front<Memory, GuestPage>,
    pub back: Back<Memory>,
    pub now: u64,
    /// What the backend has taken.
    pub out: Vec<Frame>,
}

impl Pair {
    /// The backend offers everything; the frontend takes what is said.
    pub fn new(takes: Features, policy: Policy) -> Self {
        Self::with_queues(1, takes, policy)
    }

    /// The same with several queues.
    pub fn with_queues(queues: usize, takes: Features, policy: Policy) -> Self {
        let guest = Guest::default();
        let host = Host::new(&guest);
        let new = || (Memory::new(PAGE), Memory::new(PAGE));
        let rings: Vec<_> = (0..queues).map(|_| new()).collect();
        let front = Front::new(rings.clone(), Features::ALL, 64);
        let back = Back::attach(rings, takes, policy, 0).unwrap();
        Self {
            guest,
            host,
            front,
            back,
            now: 0,
            out: Vec::new(),
        }
    }

    pub fn send(&mut self, frame: &Frame) -> Result<(), Refused> {
        self.front.send(&mut self.guest, frame)
    }

    pub fn publish(&mut self) {
        for queue in 0..self.front.queues() {
            _ = self.front.publish(queue);
        }
    }

    pub fn turn(&mut self) -> Turn {
        self.back
            .turn(&mut self.host, self.now, 16, &mut self.out)
            .unwrap()
    }

    /// Lets everything happen until nothing does; what the frontend has received.
    pub fn settle(&mut self) -> Vec<Frame> {
        let mut received = Vec::new();
        for _ in 0..10_000 {
            self.front.fill(&mut self.guest);
            self.publish();
            let turn = self.turn();
            let new = self.front.turn().unwrap();
            if new.is_empty() && !turn.more {
                return received;
            }
            received.extend(new);
        }
        panic!("it never ends");
    }
}

#[test]
fn frames_of_every_length_arrive_both_ways() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    for length in [14, 60, 1514, 4095, 4096, 4097, 8192, 9000, 65535] {
        let frame = plain(length, length as u8);
        pair.send(&frame).unwrap();
        pair.back.deliver(frame.clone());
        assert_eq!(pair.settle(), std::slice::from_ref(&frame));
        assert_eq!(std::mem::take(&mut pair.out), [frame], "{length} bytes");
    }
    assert_eq!(pair.front.under_way(), 0);
    assert_eq!(pair.send(&plain(65536, 0)), Err(Refused::BadLength));
    assert_eq!(pair.send(&plain(0, 0)), Err(Refused::BadLength));
}

#[test]
fn what_is_known_of_checksums_and_segments_goes_along() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    for v6 in [false, true] {
        for frame in [
            tcp(v6, &[3; 700]),
            large_tcp(v6, &[4; 100], 10),
            large_tcp(v6, &[5; 60_000], 1448),
        ] {
            pair.send(&frame).unwrap();
            pair.back.deliver(frame.clone());
            assert_eq!(pair.settle(), std::slice::from_ref(&frame));
            assert_eq!(std::mem::take(&mut pair.out), [frame]);
        }
    }
}

#[test]
fn a_frontend_is_given_nothing_that_it_does_not_take() {
    let plain_only = Features::default();
    let mut pair = Pair::new(plain_only, Policy::default());
    pair.back.deliver(large_tcp(false, &[5; 20_000], 1448));
    pair.back.deliver(tcp(true, &[5; 99]));
    pair.back.deliver(plain(5000, 1));
    let received = pair.settle();
    assert_eq!(received.len(), 14 + 1);
    assert!(received.iter().all(|frame| takes(&plain_only, frame)));
    assert_eq!(pair.back.received().dropped, 1);
}

#[test]
fn a_turn_copies_for_all_its_frames_at_once() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    for nth in 0..8 {
        pair.send(&plain(6000, nth)).unwrap();
        pair.back.deliver(plain(6000, nth));
    }
    pair.front.fill(&mut pair.guest);
    pair.publish();
    let before = pair.host.batches;
    let turn = pair.turn();
    assert_eq!((turn.notify_tx, turn.notify_rx), (vec![0], vec![0]));
    assert_eq!(pair.host.batches, before + 2);
    assert_eq!(pair.out.len(), 8);
}

#[test]
fn a_full_ring_refuses_until_there_is_an_answer() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    let frame = plain(4 * PAGE, 0);
    let mut sent = 0;
    while pair.send(&frame).is_ok() {
        sent += 1;
    }
    assert_eq!(sent, 64);
    assert_eq!(pair.send(&frame), Err(Refused::Full));
    assert!(!pair.front.has_room());
    pair.settle();
    assert_eq!(pair.out.len(), 64);
    assert!(pair.front.has_room());
    assert_eq!(pair.guest.grants(), 4 * 64 + 64, "pages are used again");
}

#[test]
fn a_guest_without_pages_is_refused() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    pair.guest.left.set(Some(2));
    assert_eq!(pair.send(&plain(3 * PAGE, 0)), Err(Refused::NoPages));
    pair.send(&plain(2 * PAGE, 0)).unwrap();
}

#[test]
fn a_backend_without_buffers_says_so_and_goes_on_when_there_are() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    pair.host.room.set(0);
    pair.send(&plain(99, 0)).unwrap();
    pair.back.deliver(plain(99, 1));
    pair.front.fill(&mut pair.guest);
    pair.publish();
    let turn = pair.turn();
    assert!(turn.starved && !turn.more && pair.out.is_empty());
    pair.host.room.set(2 << 20);
    assert_eq!(pair.settle().len(), 1);
    assert_eq!(pair.out.len(), 1);
}

#[test]
fn a_frontend_that_takes_nothing_has_a_bounded_queue() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    for nth in 0..10_000 {
        pair.back.deliver(plain(1514, nth as u8));
    }
    assert!(pair.back.received().dropped > 9000);
    let turn = pair.turn();
    assert!(!turn.more && !turn.starved, "it waits to be told of pages");
    assert!(pair.back.has_queued());
    let received = pair.settle();
    assert_eq!(received.len() as u64 + pair.back.received().dropped, 10_000);
    assert_eq!(received[..2], [plain(1514, 0), plain(1514, 1)]);
}

#[test]
fn a_frame_from_somebody_else_is_dropped() {
    let source = Some(Mac([2, 0, 0, 0, 0, 3]));
    let mut pair = Pair::new(
        Features::ALL,
        Policy {
            source,
            ..Policy::default()
        },
    );
    pair.send(&plain(100, 0)).unwrap();
    let mut own = plain(100, 0);
    own.bytes[11] = 3;
    pair.send(&own).unwrap();
    pair.settle();
    assert_eq!(pair.out, [own]);
    assert_eq!(pair.back.sent().dropped, 1);
    assert_eq!(pair.back.sent().frames, 1);
}

#[test]
fn no_more_is_sent_than_the_rate_and_what_waits_is_not_lost() {
    let rate = Some(Rate {
        bytes: 3000,
        interval_us: 1000,
    });
    let mut pair = Pair::new(
        Features::ALL,
        Policy {
            rate,
            ..Policy::default()
        },
    );
    let mut sent = 0_u8;
    let mut wakes = 0;
    while pair.out.len() < 200 {
        while sent < 200 && pair.send(&plain(1500, sent)).is_ok() {
            sent += 1;
        }
        pair.publish();
        let turn = pair.turn();
        pair.front.turn().unwrap();
        if let Some(later) = turn.wake_at {
            assert!(later > pair.now && !turn.more);
            pair.now = later;
            wakes += 1;
        }
    }
    let expected: Vec<_> = (0..200).map(|nth| plain(1500, nth)).collect();
    assert_eq!(pair.out, expected);
    // But for what could be saved up.
    assert!(wakes >= (200 * 1500 - 128 * 1024) / 3000, "{wakes}");
}

#[test]
fn groups_are_given_to_who_asks_for_them() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    let group = Mac([1, 0, 0x5e, 0, 0, 1]);
    let to = |Mac(bytes): Mac| {
        let mut frame = plain(60, 7);
        frame.bytes[..6].copy_from_slice(&bytes);
        frame
    };
    pair.back.deliver(to(group));
    pair.back.deliver(to(Mac::BROADCAST));
    assert_eq!(pair.settle(), [to(Mac::BROADCAST)]);
    pair.front.group(group, true).unwrap();
    pair.settle();
    pair.back.deliver(to(group));
    assert_eq!(pair.settle(), [to(group)]);
    pair.front.group(group, false).unwrap();
    pair.settle();
    pair.back.deliver(to(group));
    assert_eq!(pair.settle(), []);
    // No more than so many.
    for nth in 0..100 {
        pair.front.group(Mac([1, 0, 0, 0, 0, nth]), true).unwrap();
        pair.settle();
        pair.back.deliver(to(Mac([1, 0, 0, 0, 0, nth])));
        assert_eq!(pair.settle().len(), usize::from(nth < 64));
    }
    assert!(pair.out.is_empty());
}

#[test]
fn the_end_of_a_connection_ends_its_grants() {
    let mut pair = Pair::new(Features::ALL, Policy::default());
    pair.send(&plain(9000, 0)).unwrap();
    pair.settle();
    pair.send(&plain(9000, 0)).unwrap();
    pair.front.fail();
    assert_eq!(pair.guest.grants(), 0);
    assert_eq!(pair.send(&plain(60, 0)), Err(Refused::Lost));
    pair.back.close();
    assert_eq!(pair.turn(), Turn::default());
}
