//! Requests that a frontend of ours would not make, one field wrong at a time.

use hypercall_abi::io::blkif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::IntoBytes;

use crate::SharedMemory;
use crate::block::back::Back;
use crate::block::request::Slot;
use crate::block::world::{Platter, device};
use crate::block::{Device, PAGE, SECTOR};
use crate::grants::{GrantedPage, Pages};
use crate::ring;
use crate::world::{Buffer, Guest, GuestPage, Host, Memory};

const OKAY: i16 = BLKIF_RSP_OKAY;
const ERROR: i16 = BLKIF_RSP_ERROR;
const UNSUPPORTED: i16 = BLKIF_RSP_EOPNOTSUPP;

/// A backend, and a ring whose entries the test writes.
struct Bare {
    guest: Guest,
    host: Host,
    disk: Platter,
    ring: ring::Front<Memory>,
    back: Back<Memory, Buffer, Memory>,
    page: GuestPage,
}

impl Bare {
    fn new(device: Device) -> Self {
        let mut guest = Guest::default();
        let memory = Memory::new(PAGE);
        let ring = ring::Front::new(memory.clone(), BLKIF_ENTRY_SIZE);
        Self {
            host: Host::new(&guest),
            disk: Platter::new(device),
            back: Back::attach(device, vec![memory], device.persistent).unwrap(),
            page: guest.page(false).unwrap(),
            guest,
            ring,
        }
    }

    /// The response to a request.
    fn ask(&mut self, request: &(impl IntoBytes + zerocopy::Immutable)) -> BlkifResponse {
        let mut slot: Slot = [0; BLKIF_ENTRY_SIZE];
        let bytes = request.as_bytes();
        slot[..bytes.len()].copy_from_slice(bytes);
        assert!(self.ring.push(&slot));
        _ = self.ring.publish();
        for _ in 0..10 {
            self.back.turn(&mut self.host, &mut self.disk, 4).unwrap();
            if let Some(response) = self.ring.pop().unwrap() {
                return response;
            }
            self.disk.step(0, false);
        }
        panic!("no response");
    }

    fn segment(&self, first_sect: u8, last_sect: u8) -> BlkifRequestSegment {
        BlkifRequestSegment {
            gref: self.page.reference(),
            first_sect,
            last_sect,
            _pad0: 0,
        }
    }

    /// A request with one segment of a whole page.
    fn plain(&self, operation: u8, sector_number: u64) -> BlkifRequest {
        let mut request = BlkifRequest {
            operation,
            nr_segments: 1,
            id: 0x1234_5678_9abc_def0,
            sector_number,
            ..Default::default()
        };
        request.seg[0] = self.segment(0, 7);
        request
    }

    fn status(&mut self, request: &(impl IntoBytes + zerocopy::Immutable)) -> i16 {
        self.ask(request).status
    }
}

#[test]
fn a_response_has_the_number_and_the_operation_of_its_request() {
    let mut bare = Bare::new(device(64, 512));
    for operation in [BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_RESERVED_1, 77] {
        let request = bare.plain(operation, 0);
        let response = bare.ask(&request);
        assert_eq!(response.id, request.id);
        assert_eq!(response.operation, operation);
    }
    let mut indirect = BlkifRequestIndirect {
        operation: BLKIF_OP_INDIRECT,
        indirect_op: BLKIF_OP_WRITE,
        nr_segments: 1,
        id: 9,
        ..Default::default()
    };
    indirect.indirect_grefs[0] = bare.page.reference();
    bare.page.write(0, bare.segment(0, 0).as_bytes());
    let response = bare.ask(&indirect);
    assert_eq!((response.id, response.status), (9, OKAY));
    // As Linux's backend answers, and its frontend expects.
    assert_eq!(response.operation, BLKIF_OP_WRITE);
}

#[test]
fn sectors_beyond_the_disk_are_refused() {
    let mut bare = Bare::new(device(64, 512));
    for (sector, status) in [
        (56, OKAY),
        (57, ERROR),
        (64, ERROR),
        (u64::MAX, ERROR),
        (u64::MAX - 7, ERROR),
        (1 << 55, ERROR),
    ] {
        for operation in [BLKIF_OP_READ, BLKIF_OP_WRITE] {
            let request = bare.plain(operation, sector);
            assert_eq!(bare.status(&request), status, "{operation} at {sector}");
        }
    }
}

#[test]
fn segments_outside_of_their_page_are_refused() {
    let mut bare = Bare::new(device(64, 512));
    for (first, last, status) in [
        (0, 7, OKAY),
        (7, 7, OKAY),
        (0, 8, ERROR),
        (5, 4, ERROR),
        (8, 8, ERROR),
        (255, 255, ERROR),
        (0, 255, ERROR),
    ] {
        let mut request = bare.plain(BLKIF_OP_READ, 0);
        request.seg[0] = bare.segment(first, last);
        assert_eq!(bare.status(&request), status, "{first} to {last}");
    }
}

#[test]
fn numbers_of_segments_that_cannot_be_are_refused() {
    let mut bare = Bare::new(device(256, 512));
    for (count, status) in [(0, ERROR), (1, OKAY), (11, OKAY), (12, ERROR), (255, ERROR)] {
        let mut request = bare.plain(BLKIF_OP_READ, 0);
        request.seg = [bare.segment(0, 7); 11];
        request.nr_segments = count;
        assert_eq!(bare.status(&request), status, "{count}");
    }
}

#[test]
fn a_disk_of_large_sectors_takes_whole_ones_only() {
    let mut bare = Bare::new(device(64, 4096));
    let mut request = bare.plain(BLKIF_OP_WRITE, 8);
    assert_eq!(bare.status(&request), OKAY);
    request.sector_number = 4;
    assert_eq!(bare.status(&request), ERROR);
    request.sector_number = 8;
    request.seg[0] = bare.segment(0, 6);
    assert_eq!(bare.status(&request), ERROR);
    // Together they make a sector, but not in one piece.
    request.nr_segments = 2;
    request.seg[0] = bare.segment(0, 3);
    request.seg[1] = bare.segment(4, 7);
    assert_eq!(bare.status(&request), ERROR);
}

#[test]
fn a_read_only_disk_is_not_written_to() {
    let read_only = Device {
        read_only: true,
        ..device(64, 512)
    };
    let mut bare = Bare::new(read_only);
    for (operation, status) in [
        (BLKIF_OP_READ, OKAY),
        (BLKIF_OP_WRITE, ERROR),
        (BLKIF_OP_WRITE_BARRIER, ERROR),
        (BLKIF_OP_FLUSH_DISKCACHE, ERROR),
    ] {
        let request = bare.plain(operation, 0);
        assert_eq!(bare.status(&request), status, "{operation}");
    }
    let discard = BlkifRequestDiscard {
        operation: BLKIF_OP_DISCARD,
        nr_sectors: 8,
        ..Default::default()
    };
    assert_eq!(bare.status(&discard), ERROR);
    let flush = BlkifRequest {
        operation: BLKIF_OP_FLUSH_DISKCACHE,
        ..Default::default()
    };
    assert_eq!(bare.status(&flush), OKAY);
}

#[test]
fn what_is_not_offered_is_not_supported() {
    let plain = Device {
        flush: false,
        barrier: false,
        discard: None,
        max_indirect: 0,
        ..device(64, 512)
    };
    let mut bare = Bare::new(plain);
    for operation in [
        BLKIF_OP_WRITE_BARRIER,
        BLKIF_OP_FLUSH_DISKCACHE,
        BLKIF_OP_RESERVED_1,
        BLKIF_OP_DISCARD,
        BLKIF_OP_INDIRECT,
        7,
        255,
    ] {
        let request = bare.plain(operation, 0);
        assert_eq!(bare.status(&request), UNSUPPORTED, "{operation}");
    }
}

#[test]
fn discarding_is_checked_like_writing() {
    let mut bare = Bare::new(device(64, 512));
    let discard = |flag, sector_number, nr_sectors| BlkifRequestDiscard {
        operation: BLKIF_OP_DISCARD,
        flag,
        sector_number,
        nr_sectors,
        ..Default::default()
    };
    for (flag, sector, count, status) in [
        (0, 0, 64, OKAY),
        // Without an offer of it, the flag is ignored.
        (BLKIF_DISCARD_SECURE, 0, 8, OKAY),
        (2, 0, 8, ERROR),
        (0, 0, 65, ERROR),
        (0, 64, 1, ERROR),
        (0, 0, 0, ERROR),
        (0, 8, u64::MAX, ERROR),
        (0, u64::MAX, 2, ERROR),
    ] {
        let request = discard(flag, sector, count);
        assert_eq!(bare.status(&request), status, "{flag} {sector} {count}");
    }
}

#[test]
fn indirect_requests_are_checked_like_others() {
    let mut bare = Bare::new(device(64, 512));
    let request = |bare: &Bare, operation, count, sector| {
        let mut request = BlkifRequestIndirect {
            operation: BLKIF_OP_INDIRECT,
            indirect_op: operation,
            nr_segments: count,
            sector_number: sector,
            ..Default::default()
        };
        request.indirect_grefs[0] = bare.page.reference();
        request
    };
    // Of 64 segments, the first one is all that counts.
    bare.page.write(0, bare.segment(0, 7).as_bytes());
    for (operation, count, sector, status) in [
        (BLKIF_OP_READ, 1, 0, OKAY),
        (BLKIF_OP_WRITE, 1, 56, OKAY),
        (BLKIF_OP_READ, 1, 57, ERROR),
        (BLKIF_OP_READ, 1, u64::MAX, ERROR),
        (BLKIF_OP_READ, 0, 0, ERROR),
        (BLKIF_OP_READ, 65, 0, ERROR),
        (BLKIF_OP_READ, u16::MAX, 0, ERROR),
        (BLKIF_OP_INDIRECT, 1, 0, ERROR),
        (BLKIF_OP_FLUSH_DISKCACHE, 1, 0, ERROR),
    ] {
        let request = request(&bare, operation, count, sector);
        assert_eq!(
            bare.status(&request),
            status,
            "{operation} {count} {sector}"
        );
        // The read has overwritten the list.
        bare.page.write(0, bare.segment(0, 7).as_bytes());
    }
    let mut no_grant = request(&bare, BLKIF_OP_READ, 1, 0);
    no_grant.indirect_grefs[0] = GrantRef(3);
    assert_eq!(bare.status(&no_grant), ERROR);
    bare.page.write(0, bare.segment(3, 9).as_bytes());
    let outside = request(&bare, BLKIF_OP_READ, 1, 0);
    assert_eq!(bare.status(&outside), ERROR);
}

#[test]
fn bad_grants_fail_the_request_and_leave_the_disk_alone() {
    for persistent in [false, true] {
        let mut bare = Bare::new(Device {
            persistent,
            ..device(64, 512)
        });
        let before = bare.disk.bytes.clone();
        bare.page.write(0, &[9; PAGE]);
        for operation in [BLKIF_OP_READ, BLKIF_OP_WRITE] {
            let mut request = bare.plain(operation, 0);
            request.nr_segments = 2;
            request.seg[1] = BlkifRequestSegment {
                gref: GrantRef(1),
                ..bare.segment(0, 7)
            };
            assert_eq!(bare.status(&request), ERROR);
        }
        assert!(bare.disk.bytes == before);
        // A page that may only be read is not read into.
        let page = bare.guest.page(true).unwrap();
        let mut request = bare.plain(BLKIF_OP_READ, 0);
        request.seg[0].gref = page.reference();
        assert_eq!(bare.status(&request), ERROR);
        request.operation = BLKIF_OP_WRITE;
        assert_eq!(bare.status(&request), OKAY);
    }
}

#[test]
fn a_request_that_changes_after_it_was_taken_changes_nothing() {
    let mut bare = Bare::new(device(64, 512));
    bare.disk.depth = 0;
    let request = bare.plain(BLKIF_OP_READ, 0);
    assert!(bare.ring.push(&request));
    _ = bare.ring.publish();
    bare.back.turn(&mut bare.host, &mut bare.disk, 4).unwrap();
    // The disk has not begun; the ring says something else by now.
    let ring = bare.ring.memory();
    ring.write(64, &[0xff; BLKIF_ENTRY_SIZE]);
    bare.disk.depth = 4;
    bare.back.turn(&mut bare.host, &mut bare.disk, 4).unwrap();
    bare.disk.step(0, false);
    bare.back.turn(&mut bare.host, &mut bare.disk, 4).unwrap();
    let response: BlkifResponse = bare.ring.pop().unwrap().unwrap();
    assert_eq!((response.id, response.status), (request.id, OKAY));
}

#[test]
fn a_barrier_comes_after_all_before_and_ahead_of_all_behind() {
    let mut bare = Bare::new(device(64, 512));
    let mut requests = vec![bare.plain(BLKIF_OP_WRITE, 0), bare.plain(BLKIF_OP_WRITE, 8)];
    requests.push(bare.plain(BLKIF_OP_WRITE_BARRIER, 16));
    requests.push(bare.plain(BLKIF_OP_READ, 24));
    for (nth, request) in requests.iter_mut().enumerate() {
        request.id = nth as u64;
        assert!(bare.ring.push(request));
    }
    _ = bare.ring.publish();
    let mut answers = Vec::new();
    for _ in 0..20 {
        bare.back.turn(&mut bare.host, &mut bare.disk, 4).unwrap();
        // The last one first, wherever there is a choice.
        bare.disk.step(usize::MAX, false);
        while let Some(response) = bare.ring.pop::<BlkifResponse>().unwrap() {
            assert_eq!(response.status, OKAY);
            answers.push(response.id);
        }
    }
    assert_eq!(answers.len(), 4);
    assert_eq!(answers[2..], [2, 3]);
    let order = ["write", "write", "flush", "write", "flush", "read"];
    assert_eq!(bare.disk.done, order);
}

#[test]
fn a_flush_with_data_makes_permanent_what_was_before_it() {
    let mut bare = Bare::new(device(64, 512));
    bare.page.write(0, &[5; SECTOR]);
    let request = bare.plain(BLKIF_OP_FLUSH_DISKCACHE, 0);
    assert_eq!(bare.status(&request), OKAY);
    assert_eq!(bare.disk.done, ["flush", "write"]);
    assert_eq!(bare.disk.bytes[..SECTOR], [5; SECTOR]);
}
