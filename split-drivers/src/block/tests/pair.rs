//! A frontend and a backend, connected.

use crate::block::back::{Back, Counters, Turn};
use crate::block::front::{Failure, Front, Refused, Request, RequestId};
use crate::block::world::{Platter, device};
use crate::block::{Device, PAGE, SECTOR};
use crate::world::{Buffer, Guest, GuestPage, Host, Memory};

/// Both ends over as many rings as are asked for.
pub struct Pair {
    pub guest: Guest,
    pub host: Host,
    pub disk: Platter,
    pub front: Front<Memory, GuestPage>,
    pub back: Back<Memory, Buffer, Memory>,
}

impl Pair {
    pub fn new(device: Device, queues: usize, pages: usize) -> Self {
        let guest = Guest::default();
        let host = Host::new(&guest);
        let disk = Platter::new(device);
        let rings: Vec<_> = (0..queues).map(|_| Memory::new(pages * PAGE)).collect();
        let mut front = Front::new(rings.clone(), device.persistent);
        let back = Back::attach(device, rings, device.persistent).unwrap();
        front.start(device);
        Self {
            guest,
            host,
            disk,
            front,
            back,
        }
    }

    /// Both ends anew, as after a detach; what is on the disk stays.
    pub fn reconnect(&mut self, device: Device, queues: usize, pages: usize) {
        let disk = std::mem::replace(&mut self.disk, Platter::new(device));
        *self = Self::new(device, queues, pages);
        self.disk.bytes = disk.bytes;
    }

    pub fn submit(&mut self, queue: usize, request: Request<'_>) -> Result<RequestId, Refused> {
        self.front.submit(&mut self.guest, queue, request)
    }

    pub fn turn(&mut self) -> Turn {
        self.back.turn(&mut self.host, &mut self.disk, 16).unwrap()
    }

    /// Lets everything happen until nothing does.
    pub fn settle(&mut self) {
        for queue in 0..self.front.queues() {
            _ = self.front.publish(queue);
        }
        for _ in 0..10_000 {
            let turn = self.turn();
            if !self.disk.step(0, false) && !turn.more && self.back.is_idle() {
                return;
            }
        }
        panic!("it never ends");
    }

    pub fn result(&mut self, id: RequestId, into: &mut [u8]) -> Option<Result<(), Failure>> {
        self.front.turn().unwrap();
        self.front.take(id, into)
    }

    pub fn write(&mut self, sector: u64, bytes: &[u8]) -> Result<(), Failure> {
        let id = self.submit(0, Request::Write { sector, bytes }).unwrap();
        self.settle();
        self.result(id, &mut []).unwrap()
    }

    pub fn read(&mut self, sector: u64, count: usize) -> Vec<u8> {
        let mut into = vec![0; count * SECTOR];
        let id = self.submit(0, Request::Read { sector, count }).unwrap();
        self.settle();
        assert_eq!(self.result(id, &mut into), Some(Ok(())));
        into
    }
}

pub fn pattern(seed: u8, bytes: usize) -> Vec<u8> {
    (0..bytes)
        .map(|at| (at / SECTOR) as u8 ^ at as u8 ^ seed)
        .collect()
}

#[test]
fn what_is_written_is_read_again_by_direct_and_by_indirect_requests() {
    for persistent in [false, true] {
        let mut pair = Pair::new(
            Device {
                persistent,
                ..device(4096, 512)
            },
            1,
            1,
        );
        assert_eq!(pair.front.max_sectors(), 64 * 8);
        for (nth, count) in [1, 3, 8, 9, 88, 89, 512].into_iter().enumerate() {
            let bytes = pattern(nth as u8, count * SECTOR);
            assert_eq!(pair.write(7, &bytes), Ok(()));
            assert_eq!(pair.read(7, count), bytes, "{count} sectors");
            assert_eq!(pair.disk.bytes[7 * SECTOR..][..bytes.len()], bytes);
        }
        let counters = Counters {
            held: 0,
            reads: 7,
            writes: 7,
            sectors_read: 710,
            sectors_written: 710,
        };
        assert_eq!(pair.back.counters(), counters);
        // What is not persistent has ended.
        assert_eq!(pair.guest.grants() > 0, persistent);
        assert_eq!(pair.back.mapped() > 0, persistent);
    }
}

#[test]
fn persistent_grants_are_used_again() {
    let mut pair = Pair::new(device(1024, 512), 1, 1);
    for round in 0..50 {
        pair.write(0, &pattern(round, 8 * PAGE)).unwrap();
    }
    assert_eq!(pair.guest.grants(), 8);
    assert_eq!(pair.back.mapped(), 8);
    // An indirect request has its list on one more.
    for round in 0..5 {
        pair.write(0, &pattern(round, 32 * PAGE)).unwrap();
    }
    assert_eq!(pair.guest.grants(), 33);
    assert_eq!(pair.back.mapped(), 33);
}

#[test]
fn a_turn_copies_for_all_its_requests_at_once() {
    let mut pair = Pair::new(
        Device {
            persistent: false,
            ..device(1024, 512)
        },
        1,
        1,
    );
    let bytes = pattern(1, 4 * PAGE);
    for nth in 0..8 {
        let sector = nth * 32;
        pair.submit(
            0,
            Request::Write {
                sector,
                bytes: &bytes,
            },
        )
        .unwrap();
    }
    _ = pair.front.publish(0);
    let before = pair.host.batches;
    pair.turn();
    assert_eq!(pair.host.batches, before + 1);
    assert_eq!(pair.back.under_way(), 8);
}

#[test]
fn a_full_ring_refuses_until_there_is_a_response() {
    let mut pair = Pair::new(device(1024, 512), 1, 1);
    let ids: Vec<_> = (0..32)
        .map(|nth| {
            pair.submit(
                0,
                Request::Read {
                    sector: nth,
                    count: 1,
                },
            )
            .unwrap()
        })
        .collect();
    let one_more = Request::Read {
        sector: 0,
        count: 1,
    };
    assert_eq!(pair.submit(0, one_more), Err(Refused::Full));
    pair.settle();
    for id in ids {
        assert_eq!(pair.result(id, &mut [0; SECTOR]), Some(Ok(())));
    }
    pair.submit(0, one_more).unwrap();
}

#[test]
fn a_ring_of_several_pages_has_room_for_more() {
    let mut pair = Pair::new(device(4096, 512), 2, 4);
    for queue in [0, 1] {
        let mut ids = Vec::new();
        while let Ok(id) = pair.submit(
            queue,
            Request::Read {
                sector: 5,
                count: 1,
            },
        ) {
            ids.push(id);
        }
        assert_eq!(ids.len(), 128);
        pair.settle();
        for id in ids {
            assert_eq!(pair.result(id, &mut [0; SECTOR]), Some(Ok(())));
        }
    }
}

#[test]
fn the_frontend_asks_for_nothing_that_the_disk_is_not() {
    let read_only = Device {
        read_only: true,
        flush: false,
        barrier: false,
        discard: None,
        ..device(64, 4096)
    };
    let mut pair = Pair::new(read_only, 1, 1);
    let page = [0; PAGE];
    for (request, why) in [
        (
            Request::Read {
                sector: 0,
                count: 0,
            },
            Refused::BadRange,
        ),
        (
            Request::Read {
                sector: 1,
                count: 8,
            },
            Refused::BadRange,
        ),
        (
            Request::Read {
                sector: 0,
                count: 4,
            },
            Refused::BadRange,
        ),
        (
            Request::Read {
                sector: 64,
                count: 8,
            },
            Refused::BadRange,
        ),
        (
            Request::Read {
                sector: u64::MAX - 7,
                count: 8,
            },
            Refused::BadRange,
        ),
        (
            Request::Write {
                sector: 0,
                bytes: &page,
            },
            Refused::ReadOnly,
        ),
        (Request::Flush, Refused::Unsupported),
        (
            Request::Discard {
                sector: 0,
                count: 8,
                secure: false,
            },
            Refused::Unsupported,
        ),
    ] {
        assert_eq!(pair.submit(0, request), Err(why), "{request:?}");
    }
    let mut pair = Pair::new(device(4096, 512), 1, 1);
    for (request, why) in [
        (
            Request::Read {
                sector: 0,
                count: 513,
            },
            Refused::BadRange,
        ),
        (
            Request::Write {
                sector: 0,
                bytes: &page[..100],
            },
            Refused::BadRange,
        ),
        (
            Request::Discard {
                sector: 0,
                count: 0,
                secure: false,
            },
            Refused::BadRange,
        ),
        (
            Request::Discard {
                sector: 0,
                count: 8,
                secure: true,
            },
            Refused::Unsupported,
        ),
    ] {
        assert_eq!(pair.submit(0, request), Err(why), "{request:?}");
    }
    assert_eq!(pair.guest.grants(), 0, "nothing was granted for nothing");
}

#[test]
fn a_guest_without_pages_is_refused_and_keeps_what_it_has() {
    let mut pair = Pair::new(device(1024, 512), 1, 1);
    pair.guest.left.set(Some(3));
    let request = Request::Read {
        sector: 0,
        count: 40,
    };
    assert_eq!(pair.submit(0, request), Err(Refused::NoPages));
    let fits = Request::Read {
        sector: 0,
        count: 24,
    };
    pair.submit(0, fits).unwrap();
}

#[test]
fn flushing_and_discarding_reach_the_disk() {
    let mut pair = Pair::new(device(64, 512), 1, 1);
    pair.write(0, &[7; 8 * SECTOR]).unwrap();
    let flush = pair.submit(0, Request::Flush).unwrap();
    let discard = Request::Discard {
        sector: 2,
        count: 2,
        secure: false,
    };
    let discard = pair.submit(0, discard).unwrap();
    pair.settle();
    assert_eq!(pair.result(flush, &mut []), Some(Ok(())));
    assert_eq!(pair.result(discard, &mut []), Some(Ok(())));
    assert_eq!(pair.disk.flushes, 1);
    let bytes = pair.read(0, 8);
    assert_eq!(bytes[..2 * SECTOR], [7; 2 * SECTOR]);
    assert_eq!(bytes[2 * SECTOR..4 * SECTOR], [0; 2 * SECTOR]);
}

#[test]
fn a_failing_disk_fails_the_request_and_no_other() {
    let mut pair = Pair::new(device(64, 512), 1, 1);
    let bad = pair
        .submit(
            0,
            Request::Read {
                sector: 0,
                count: 8,
            },
        )
        .unwrap();
    _ = pair.front.publish(0);
    pair.turn();
    pair.disk.step(0, true);
    let good = pair
        .submit(
            0,
            Request::Read {
                sector: 8,
                count: 8,
            },
        )
        .unwrap();
    pair.settle();
    let mut into = [0x11; SECTOR];
    assert_eq!(pair.result(bad, &mut into), Some(Err(Failure::Failed)));
    assert_eq!(into, [0x11; SECTOR], "nothing was read");
    assert_eq!(pair.result(good, &mut into), Some(Ok(())));
}

#[test]
fn what_is_under_way_is_bounded_in_bytes() {
    let mut pair = Pair::new(device(1 << 14, 512), 1, 1);
    pair.disk.depth = 100;
    for nth in 0..32 {
        let request = Request::Read {
            sector: nth * 512,
            count: 512,
        };
        pair.submit(0, request).unwrap();
    }
    _ = pair.front.publish(0);
    for _ in 0..10 {
        pair.turn();
    }
    assert_eq!(pair.back.under_way(), 8, "of 256 KiB each");
    let begun = pair.back.counters();
    assert!(begun.held > 0 && begun.reads == 8, "{begun:?}");
    assert!(
        !pair.turn().more,
        "it waits for the disk without asking again and again"
    );
    pair.settle();
    assert_eq!(pair.front.turn().unwrap().len(), 32);
}

#[test]
fn a_backend_without_buffers_says_so_and_goes_on_when_there_are() {
    let mut pair = Pair::new(device(1024, 512), 1, 1);
    pair.host.room.set(0);
    let id = pair
        .submit(
            0,
            Request::Read {
                sector: 0,
                count: 8,
            },
        )
        .unwrap();
    _ = pair.front.publish(0);
    let turn = pair.turn();
    assert!(turn.starved && !turn.more);
    pair.host.room.set(PAGE);
    pair.settle();
    assert_eq!(pair.result(id, &mut [0; PAGE]), Some(Ok(())));
}

#[test]
fn requests_that_nobody_waits_for_leave_nothing_behind() {
    let mut pair = Pair::new(
        Device {
            persistent: false,
            ..device(64, 512)
        },
        1,
        1,
    );
    let before = pair
        .submit(
            0,
            Request::Read {
                sector: 0,
                count: 8,
            },
        )
        .unwrap();
    let after = pair
        .submit(
            0,
            Request::Read {
                sector: 8,
                count: 8,
            },
        )
        .unwrap();
    pair.front.abandon(before);
    pair.settle();
    assert_eq!(pair.front.turn(), Ok(vec![after]));
    pair.front.abandon(after);
    assert_eq!(pair.guest.grants(), 0);
    assert!(pair.front.is_idle());
}

#[test]
fn the_end_of_a_connection_loses_what_is_under_way_and_ends_its_grants() {
    let mut pair = Pair::new(device(64, 512), 1, 1);
    let done = pair
        .submit(
            0,
            Request::Read {
                sector: 0,
                count: 8,
            },
        )
        .unwrap();
    pair.settle();
    pair.front.turn().unwrap();
    let lost = pair
        .submit(
            0,
            Request::Write {
                sector: 0,
                bytes: &[1; SECTOR],
            },
        )
        .unwrap();
    assert_eq!(pair.front.fail(), [lost]);
    assert_eq!(pair.front.take(lost, &mut []), Some(Err(Failure::Lost)));
    let mut into = [1; 8 * SECTOR];
    assert_eq!(pair.front.take(done, &mut into), Some(Ok(())));
    assert_eq!(into, [0; 8 * SECTOR]);
    assert_eq!(pair.guest.grants(), 0);
}

#[test]
fn a_backend_that_closes_answers_what_it_has_taken() {
    let mut pair = Pair::new(device(64, 512), 1, 1);
    let taken = pair
        .submit(
            0,
            Request::Write {
                sector: 0,
                bytes: &[1; SECTOR],
            },
        )
        .unwrap();
    _ = pair.front.publish(0);
    pair.turn();
    pair.back.close();
    let late = pair
        .submit(
            0,
            Request::Write {
                sector: 1,
                bytes: &[1; SECTOR],
            },
        )
        .unwrap();
    _ = pair.front.publish(0);
    assert!(!pair.back.is_idle());
    pair.disk.step(0, false);
    pair.turn();
    assert!(pair.back.is_idle());
    assert_eq!(pair.result(taken, &mut []), Some(Ok(())));
    assert_eq!(pair.result(late, &mut []), None);
    assert_eq!(pair.front.fail(), [late]);
}

#[test]
fn a_ring_that_overflows_is_given_up_and_not_touched_again() {
    let ring = Memory::new(PAGE);
    let guest = Guest::default();
    let (mut host, device) = (Host::new(&guest), device(64, 512));
    let mut disk = Platter::new(device);
    let mut back = Back::attach(device, vec![ring.clone()], true).unwrap();
    ring.0.borrow_mut()[..4].copy_from_slice(&33_u32.to_le_bytes());
    let before = ring.0.borrow().clone();
    let error = back.turn(&mut host, &mut disk, 16).unwrap_err();
    assert_eq!((error.to, error.most), (33, 32));
    for _ in 0..3 {
        assert_eq!(back.turn(&mut host, &mut disk, 16), Ok(Turn::default()));
    }
    assert_eq!(*ring.0.borrow(), before);
    assert_eq!(std::rc::Rc::strong_count(&ring.0), 1, "it is unmapped");
}
