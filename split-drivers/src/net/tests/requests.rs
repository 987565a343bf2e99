//! What a peer of ours would not write, one thing wrong at a time.

use hypercall_abi::io::netif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::{FromZeros, Immutable, IntoBytes};

use crate::SharedMemory;
use crate::grants::{GrantedPage, Pages};
use crate::net::back::{Back, Policy};
use crate::net::extra::slot;
use crate::net::front::Front;
use crate::net::world::plain;
use crate::net::{Features, Frame, PAGE, Violation};
use crate::ring;
use crate::world::{Guest, GuestPage, Host, Memory};

/// A backend, and rings whose entries the test writes.
struct Bare {
    host: Host,
    tx: ring::Front<Memory>,
    rx: ring::Front<Memory>,
    back: Back<Memory>,
    page: GuestPage,
    out: Vec<Frame>,
}

impl Bare {
    fn new() -> Self {
        let mut guest = Guest::default();
        let (tx, rx) = (Memory::new(PAGE), Memory::new(PAGE));
        let page = guest.page(true).unwrap();
        page.write(0, &plain(PAGE, 0).bytes);
        Self {
            host: Host::new(&guest),
            tx: ring::Front::new(tx.clone(), NETIF_TX_ENTRY_SIZE),
            rx: ring::Front::new(rx.clone(), NETIF_RX_ENTRY_SIZE),
            back: Back::attach(vec![(tx, rx)], Features::ALL, Policy::default(), 0).unwrap(),
            page,
            out: Vec::new(),
        }
    }

    fn request(&self, flags: u16, offset: u16, size: u16) -> NetifTxRequest {
        NetifTxRequest {
            gref: self.page.reference(),
            offset,
            flags,
            id: 5,
            size,
        }
    }

    fn push(&mut self, entry: &(impl IntoBytes + Immutable)) {
        assert!(self.tx.push(entry));
    }

    fn extra(&mut self, kind: u8, more: bool, content: [u8; 6]) {
        let mut info = NetifExtraInfo::new_zeroed();
        info.type_ = kind;
        info.flags = more.into();
        info.u.set(&content);
        self.push(&slot::<NETIF_TX_ENTRY_SIZE>(&info));
    }

    /// The answers, or how the backend thinks that it was wronged.
    fn turn(&mut self) -> Result<Vec<i16>, Violation> {
        _ = self.tx.publish();
        _ = self.rx.publish();
        self.back.turn(&mut self.host, 0, 64, &mut self.out)?;
        let mut answers = Vec::new();
        while let Some(answer) = self.tx.pop::<NetifTxResponse>().unwrap() {
            if answer.status != NETIF_RSP_NULL {
                assert_eq!(answer.id, 5);
            }
            answers.push(answer.status);
        }
        Ok(answers)
    }
}

#[test]
fn a_frame_that_is_wrong_in_itself_is_dropped_alone() {
    let mut bare = Bare::new();
    // Too short; parts of more than the whole; segments without a blank checksum.
    bare.push(&bare.request(0, 0, 13));
    bare.push(&bare.request(NETTXF_MORE_DATA, 0, 100));
    bare.push(&bare.request(0, 0, 101));
    bare.push(&bare.request(NETTXF_EXTRA_INFO, 0, 100));
    bare.extra(XEN_NETIF_EXTRA_TYPE_GSO, false, [50, 0, 1, 0, 0, 0]);
    // A blank checksum of what has none.
    bare.push(&bare.request(NETTXF_CSUM_BLANK, 0, 100));
    // A page that is not granted.
    let request = NetifTxRequest {
        gref: GrantRef(77),
        ..bare.request(0, 0, 100)
    };
    bare.push(&request);
    bare.push(&bare.request(0, 0, 100));
    let (error, null) = (NETIF_RSP_ERROR, NETIF_RSP_NULL);
    let expected = [
        error,
        error,
        error,
        error,
        null,
        error,
        error,
        NETIF_RSP_OKAY,
    ];
    assert_eq!(bare.turn(), Ok(expected.to_vec()));
    assert_eq!(bare.out, [plain(100, 0)]);
    assert_eq!(bare.back.sent().dropped, 5);
}

#[test]
fn a_frame_of_more_slots_than_there_may_be_is_dropped_and_of_many_more_is_malice() {
    for (slots, expected) in [
        (18, Some(NETIF_RSP_OKAY)),
        (20, Some(NETIF_RSP_ERROR)),
        (21, None),
    ] {
        let mut bare = Bare::new();
        for nth in 0..slots {
            let more = if nth + 1 < slots { NETTXF_MORE_DATA } else { 0 };
            let size = if nth == 0 { 20 * slots } else { 20 };
            bare.push(&bare.request(more, 0, size));
        }
        let answers = bare.turn();
        match expected {
            Some(status) => assert_eq!(answers, Ok(vec![status; slots.into()])),
            None => assert_eq!(answers, Err(Violation::TooManySlots)),
        }
    }
}

#[test]
fn the_slots_of_a_frame_may_come_one_by_one() {
    let mut bare = Bare::new();
    bare.push(&bare.request(NETTXF_MORE_DATA, 0, 300));
    assert_eq!(bare.turn(), Ok(vec![]));
    bare.push(&bare.request(NETTXF_MORE_DATA, 100, 100));
    assert_eq!(bare.turn(), Ok(vec![]));
    bare.push(&bare.request(0, 200, 100));
    assert_eq!(bare.turn(), Ok(vec![NETIF_RSP_OKAY; 3]));
    assert_eq!(bare.out, [plain(300, 0)]);
}

#[test]
fn what_nobody_does_by_mistake_closes_the_connection() {
    type Wrong = fn(&mut Bare);
    let cases: [(Wrong, Violation); 6] = [
        (
            |bare| bare.push(&bare.request(0, 4000, 97)),
            Violation::BeyondPage {
                offset: 4000,
                size: 97,
            },
        ),
        (
            |bare| {
                bare.push(&bare.request(NETTXF_EXTRA_INFO, 0, 100));
                bare.extra(5, false, [0; 6]);
            },
            Violation::UnknownExtra(5),
        ),
        (
            |bare| {
                bare.push(&bare.request(NETTXF_EXTRA_INFO, 0, 100));
                bare.extra(0, false, [0; 6]);
            },
            Violation::UnknownExtra(0),
        ),
        (
            |bare| {
                bare.push(&bare.request(NETTXF_EXTRA_INFO, 0, 100));
                bare.extra(XEN_NETIF_EXTRA_TYPE_GSO, false, [0, 0, 1, 0, 0, 0]);
            },
            Violation::BadSegments { kind: 1, size: 0 },
        ),
        (
            |bare| {
                bare.push(&bare.request(NETTXF_EXTRA_INFO, 0, 100));
                bare.extra(XEN_NETIF_EXTRA_TYPE_GSO, false, [100, 0, 3, 0, 0, 0]);
            },
            Violation::BadSegments { kind: 3, size: 100 },
        ),
        (
            |bare| {
                bare.push(&bare.request(NETTXF_EXTRA_INFO, 0, 100));
                for _ in 0..5 {
                    bare.extra(XEN_NETIF_EXTRA_TYPE_HASH, true, [0; 6]);
                }
            },
            Violation::TooManyExtras,
        ),
    ];
    for (wrong, violation) in cases {
        let mut bare = Bare::new();
        wrong(&mut bare);
        assert_eq!(bare.turn(), Err(violation));
        // And nothing is looked at any more.
        bare.push(&bare.request(0, 0, 100));
        assert_eq!(bare.turn(), Ok(vec![]));
        assert!(bare.out.is_empty());
    }
}

#[test]
fn a_page_that_cannot_be_written_fails_its_frame_alone() {
    let mut bare = Bare::new();
    let mut guest = Guest::default();
    let good = guest.page(false).unwrap();
    bare.host = Host::new(&guest);
    for (id, gref) in [(0, GrantRef(999)), (1, good.reference())] {
        let request = NetifRxRequest {
            id,
            gref,
            ..Default::default()
        };
        assert!(bare.rx.push(&request));
    }
    bare.back.deliver(plain(100, 1));
    bare.back.deliver(plain(200, 2));
    bare.turn().unwrap();
    let mut statuses = Vec::new();
    while let Some(answer) = bare.rx.pop::<NetifRxResponse>().unwrap() {
        statuses.push((answer.id, answer.status));
    }
    assert_eq!(statuses, [(0, NETIF_RSP_ERROR), (1, 200)]);
    let mut bytes = [0; 200];
    good.read(0, &mut bytes);
    assert_eq!(bytes[..], plain(200, 2).bytes);
}

/// A frontend that has sent a frame, and the backend's ends of its rings.
fn front() -> (
    Guest,
    Front<Memory, GuestPage>,
    ring::Back<Memory>,
    ring::Back<Memory>,
) {
    let mut guest = Guest::default();
    let (tx, rx) = (Memory::new(PAGE), Memory::new(PAGE));
    let mut front = Front::new(vec![(tx.clone(), rx.clone())], Features::ALL, 32);
    front.send(&mut guest, &plain(60, 0)).unwrap();
    front.send(&mut guest, &plain(60, 0)).unwrap();
    front.fill(&mut guest);
    _ = front.publish(0);
    let mut tx = ring::Back::attach(tx, NETIF_TX_ENTRY_SIZE).unwrap();
    let mut rx = ring::Back::attach(rx, NETIF_RX_ENTRY_SIZE).unwrap();
    while tx.pop::<NetifTxRequest>().unwrap().is_some() {}
    while rx.pop::<NetifRxRequest>().unwrap().is_some() {}
    (guest, front, tx, rx)
}

#[test]
fn an_answer_to_nothing_twice_or_out_of_order_ends_the_connection() {
    for ids in [[7, 0], [0, 0]] {
        let (guest, mut front, mut tx, _rx) = front();
        for id in ids {
            tx.push(&NetifTxResponse { id, status: 0 });
        }
        _ = tx.publish();
        let wrong = ids[usize::from(ids[0] == 0)];
        assert_eq!(front.turn(), Err(Violation::WrongAnswer(wrong)));
        assert_eq!(guest.grants(), 0);
    }
    let (_, mut front, mut tx, _rx) = front();
    tx.push(&NetifTxResponse {
        id: 0,
        status: NETIF_RSP_NULL,
    });
    _ = tx.publish();
    assert_eq!(front.turn(), Err(Violation::WrongAnswer(0)));
}

#[test]
fn a_frame_that_lies_about_itself_ends_the_connection() {
    let answer = |id, offset, flags, status| NetifRxResponse {
        id,
        offset,
        flags,
        status,
    };
    let beyond = Violation::BeyondPage {
        offset: 4090,
        size: 7,
    };
    for (answers, violation) in [
        (vec![answer(1, 0, 0, 60)], Violation::WrongAnswer(1)),
        (vec![answer(0, 4090, 0, 7)], beyond),
        (
            (0..19)
                .map(|id| answer(id, 0, NETRXF_MORE_DATA, 0))
                .collect(),
            Violation::TooManySlots,
        ),
        (
            (0..17)
                .map(|id| answer(id, 0, NETRXF_MORE_DATA, 4096))
                .collect(),
            Violation::TooLong,
        ),
    ] {
        let (_, mut front, _tx, mut rx) = front();
        for answer in answers {
            rx.push(&answer);
        }
        _ = rx.publish();
        assert_eq!(front.turn(), Err(violation));
    }
}

#[test]
fn a_frame_of_which_a_part_failed_is_left_out() {
    let (_, mut front, _tx, mut rx) = front();
    for (id, flags, status) in [(0, NETRXF_MORE_DATA, -1), (1, 0, 60), (2, 0, 60)] {
        rx.push(&NetifRxResponse {
            id,
            offset: 0,
            flags,
            status,
        });
    }
    _ = rx.publish();
    assert_eq!(front.turn().map(|frames| frames.len()), Ok(1));
}
