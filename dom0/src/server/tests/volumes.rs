//! What is on volumes, written and read for xl beside what guests do.

use control::volume::{VOLUME_CHUNK, Workload};
use control::{BlockRequest, VolumeReply, VolumeRequest};
use split_drivers::block::SECTOR;
use split_drivers::block::back::Operation;

use super::disks::{disk, host};
use super::*;

const SIZE: usize = 2048 * SECTOR;

/// Bytes that differ wherever they might be taken for others.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at / 251 + at % 251) as u8).collect()
}

fn import(name: &str, bytes: usize) -> Request {
    Request::Volume(VolumeRequest::Import {
        name: name.into(),
        bytes: bytes as u64,
    })
}

fn export(name: &str) -> Request {
    Request::Volume(VolumeRequest::Export(name.into()))
}

fn chunk(bytes: &[u8]) -> Request {
    Request::Volume(VolumeRequest::Chunk(bytes.to_vec()))
}

/// The chunks among replies, one behind the other.
fn chunks(replies: &[Reply]) -> Vec<u8> {
    let bytes = replies.iter().flat_map(|reply| match reply {
        Reply::Volume(VolumeReply::Chunk(bytes)) => bytes.clone(),
        _ => Vec::new(),
    });
    bytes.collect()
}

impl Host {
    /// Has the disks do all that they are asked, and what follows from that.
    fn settle(&mut self) {
        loop {
            self.pump();
            if !self.xen().storage.step() {
                return;
            }
        }
    }

    fn import_all(&mut self, name: &str, bytes: &[u8]) -> Vec<Reply> {
        let channel = self.open();
        self.send(channel, import(name, bytes.len()));
        for piece in bytes.chunks(VOLUME_CHUNK) {
            self.send(channel, chunk(piece));
            self.settle();
        }
        self.settle();
        let replies = self.replies(channel);
        self.client.close(channel, CloseReason::Done);
        self.pump();
        replies
    }

    fn export_all(&mut self, name: &str) -> Vec<Reply> {
        let channel = self.open();
        self.send(channel, export(name));
        self.settle();
        let replies = self.replies(channel);
        self.client.close(channel, CloseReason::Done);
        self.pump();
        replies
    }

    fn create_volume(&mut self, name: &str, bytes: usize) {
        let request = BlockRequest::CreateVolume {
            name: name.into(),
            bytes: bytes as u64,
        };
        assert_eq!(self.ask(Request::Block(request)), Reply::Done);
    }
}

#[test]
fn what_is_written_to_a_volume_is_read_from_it_again() {
    for size in [1, SECTOR, VOLUME_CHUNK, 5 * VOLUME_CHUNK + 700, SIZE] {
        let mut host = host();
        host.create_volume("ram", SIZE / 2);
        for name in ["data", "ram"] {
            let room = if name == "ram" { SIZE / 2 } else { SIZE };
            let bytes = content(size.min(room));
            assert_eq!(host.import_all(name, &bytes), [Reply::Done, Reply::Done]);
            let replies = host.export_all(name);
            let said = Reply::Volume(VolumeReply::Size(room as u64));
            assert_eq!(replies.first(), Some(&said));
            assert_eq!(replies.last(), Some(&Reply::Done));
            let read = chunks(&replies);
            assert_eq!(read.len(), room);
            assert!(read.starts_with(&bytes), "{name}: {size} bytes");
            // The rest of its last sector, too.
            assert!(read[bytes.len()..].iter().all(|byte| *byte == 0));
            assert_eq!(host.users(name), []);
        }
        assert_eq!(host.xen().storage.buffers.get(), 0);
    }
}

#[test]
fn an_import_is_done_when_the_disk_has_made_it_permanent() {
    let mut host = host();
    let channel = host.open();
    host.send(channel, import("data", SECTOR));
    assert_eq!(host.replies(channel), [Reply::Done]);
    host.send(channel, chunk(&content(SECTOR)));
    assert_eq!(host.replies(channel), []);
    assert!(host.xen().storage.step());
    assert_eq!(host.replies(channel), [], "it is written, but not flushed");
    let next = host.xen().storage.started.front();
    assert!(matches!(next, Some((0, _, Operation::Flush))));
    assert_eq!(host.users("data"), [0]);
    host.settle();
    assert_eq!(host.replies(channel), [Reply::Done]);
    assert_eq!(host.users("data"), []);
    // The channel may be used for something else.
    host.send(channel, Request::Hello);
    assert!(matches!(host.replies(channel)[..], [Reply::Hello { .. }]));
}

#[test]
fn a_slow_disk_or_reader_has_little_kept_and_little_under_way() {
    let mut host = host();
    let bytes = content(SIZE);
    let channel = host.open();
    host.send(channel, import("data", SIZE));
    let mut pieces = bytes.chunks(VOLUME_CHUNK);
    let mut next = pieces.next();
    while let Some(piece) = next {
        if host.client.send(channel, &chunk(piece).encode()).is_err() {
            break;
        }
        host.pump();
        next = pieces.next();
    }
    assert!(next.is_some(), "there was credit for all of it");
    assert_eq!(host.xen().storage.started.len(), 4);
    assert_eq!(host.xen().storage.buffers.get(), 4);
    assert!(matches!(host.ask(Request::Hello), Reply::Hello { .. }));
    while let Some(piece) = next {
        host.settle();
        host.send(channel, chunk(piece));
        next = pieces.next();
    }
    host.settle();
    assert_eq!(host.replies(channel), [Reply::Done, Reply::Done]);
    assert_eq!(host.xen().storage.contents[0], bytes);

    host.deaf = Some(channel);
    host.send(channel, export("data"));
    host.settle();
    assert!(host.unread < SIZE / 4, "{} bytes were sent", host.unread);
    assert!(matches!(host.ask(Request::Hello), Reply::Hello { .. }));
    host.deaf = None;
    host.client_reads(channel);
    host.settle();
    let replies = host.replies(channel);
    assert!(chunks(&replies) == bytes && replies.last() == Some(&Reply::Done));
}

#[test]
fn a_volume_that_cannot_be_had_or_is_too_small_is_not_touched() {
    let mut host = host();
    host.xen().storage.disks[1].read_only = true;
    let mut host = Host::with(std::mem::replace(host.xen(), Fake::new(1)));
    host.with_disks("web", &[disk("data", "xvda", false)]);
    let in_use = Error::VolumeInUse {
        volume: "data".into(),
        domid: 1,
        writes: true,
    };
    assert_eq!(host.error(import("data", SIZE)), in_use);
    assert_eq!(host.error(export("data")), in_use);
    host.ask(Request::Destroy(DomainRef::Id(1)));
    assert_eq!(
        host.error(import("data", SIZE + 1)),
        Error::VolumeTooSmall {
            volume: "data".into(),
            bytes: SIZE as u64 + 1,
            room: SIZE as u64,
        }
    );
    assert!(matches!(
        host.error(import("other", 1)),
        Error::NotPermitted(_)
    ));
    assert!(matches!(host.error(export("none")), Error::NoSuchVolume(_)));
    assert!(host.xen().storage.started.is_empty());
    assert_eq!((host.users("data"), host.users("other")), (vec![], vec![]));
}

#[test]
fn nobody_has_a_volume_that_is_written_and_nobody_writes_one_that_is_read() {
    let mut host = host();
    let writer = host.open();
    host.send(writer, import("data", SIZE));
    let readers = [host.open(), host.open()];
    for reader in readers {
        host.send(reader, export("other"));
    }
    let in_use = |volume: &str, writes| {
        Reply::Error(Error::VolumeInUse {
            volume: volume.into(),
            domid: 0,
            writes,
        })
    };
    let refused = host.with_disks("web", &[disk("data", "xvda", true)]);
    assert_eq!(refused, in_use("data", true));
    let refused = host.with_disks("web", &[disk("other", "xvda", false)]);
    assert_eq!(refused, in_use("other", false));
    assert_eq!(host.ask(export("data")), in_use("data", true));
    assert_eq!(host.ask(import("other", 1)), in_use("other", false));
    assert_eq!(
        host.with_disks("web", &[disk("other", "xvda", true)]),
        Reply::Domid(1)
    );
    host.settle();
    for reader in readers {
        assert_eq!(host.replies(reader).last(), Some(&Reply::Done));
    }
    assert_eq!(host.users("other"), [1]);
}

#[test]
fn an_import_that_is_given_up_leaves_its_beginning_and_the_volume_to_others() {
    let mut host = host();
    let bytes = content(2 * VOLUME_CHUNK);
    let channel = host.open();
    host.send(channel, import("data", SIZE));
    host.send(channel, chunk(&bytes[..VOLUME_CHUNK]));
    host.settle();
    host.send(channel, chunk(&bytes[VOLUME_CHUNK..]));
    host.client.close(channel, CloseReason::Done);
    host.pump();
    // It may be had at once, and is when the disk is done with what is under way.
    let next = host.open();
    host.send(next, import("data", SECTOR));
    host.send(next, chunk(&[7; SECTOR]));
    assert_eq!(host.xen().storage.started.len(), 1);
    assert_eq!(host.users("data"), [0, 0]);
    assert!(host.toolstack.deadline().is_some());
    host.settle();
    assert_eq!(host.replies(next), [Reply::Done, Reply::Done]);
    let on_disk = &host.xen().storage.contents[0];
    assert_eq!(on_disk[..SECTOR], [7; SECTOR]);
    assert_eq!(on_disk[SECTOR..bytes.len()], bytes[SECTOR..]);
    assert!(on_disk[bytes.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(host.users("data"), []);
    assert_eq!(host.xen().storage.buffers.get(), 0);
}

#[test]
fn a_disk_that_fails_ends_an_import_and_an_export_with_an_error() {
    let failed = Reply::Error(Error::VolumeFailed("data".into()));
    for request in [import("data", SIZE), export("data")] {
        let mut host = host();
        host.xen().storage.broken = true;
        let channel = host.open();
        host.send(channel, request);
        for _ in 0..3 {
            host.send(channel, chunk(&[1; VOLUME_CHUNK]));
        }
        host.settle();
        let replies = host.replies(channel);
        assert_eq!(replies.len(), 2, "{replies:?}");
        assert_eq!(replies[1], failed);
        assert_eq!(host.users("data"), []);
        assert_eq!(host.xen().storage.buffers.get(), 0);
    }
}

#[test]
fn chunks_that_are_none_end_an_import() {
    let wrong = [
        chunk(&[1; VOLUME_CHUNK - 1]),
        chunk(&[1; VOLUME_CHUNK + 1]),
        chunk(&[]),
    ];
    for request in wrong {
        let mut host = host();
        let channel = host.open();
        host.send(channel, import("data", SIZE));
        host.send(channel, request);
        // Those on their way are dropped.
        host.send(channel, chunk(&[1; VOLUME_CHUNK]));
        assert!(matches!(
            host.replies(channel)[..],
            [Reply::Done, Reply::Error(Error::BadRequest(_))]
        ));
        assert_eq!(host.users("data"), []);
        assert!(host.xen().storage.started.is_empty());
    }
    let mut host = host();
    let channel = host.open();
    host.send(channel, import("data", SIZE));
    host.send(channel, Request::Hello);
    assert!(matches!(
        host.replies(channel)[..],
        [
            Reply::Done,
            Reply::Error(Error::BadRequest(_)),
            Reply::Hello { .. }
        ]
    ));
}

fn measure(name: &str, workload: Workload) -> Request {
    let name = name.into();
    Request::Volume(VolumeRequest::Measure { name, workload })
}

const WORKLOAD: Workload = Workload {
    write: false,
    random: true,
    bytes: 4096,
    depth: 3,
    count: 10,
};

#[test]
fn a_measurement_keeps_as_many_operations_under_way_as_it_is_told_and_says_how_long_all_took() {
    for write in [false, true] {
        let mut host = host();
        host.xen().storage.contents[0].fill(1);
        let channel = host.open();
        host.send(channel, measure("data", Workload { write, ..WORKLOAD }));
        let mut done = 0;
        while host.xen().storage.step() {
            done += 1;
            host.xen().clock += 1000;
            host.pump();
            let left = 10 - done;
            assert_eq!(host.xen().storage.started.len(), left.min(3));
        }
        let measured = Reply::Volume(VolumeReply::Measured { ns: 10_000 });
        assert_eq!(host.replies(channel), [measured, Reply::Done]);
        let zeroes = host.xen().storage.contents[0].iter();
        let zeroes = zeroes.filter(|byte| **byte == 0).count();
        assert_eq!(zeroes > 0, write);
        assert_eq!(host.users("data"), []);
        assert_eq!(host.xen().storage.buffers.get(), 0);
    }
}

#[test]
fn there_is_one_measurement_at_a_time_and_none_without_bounds() {
    let mut host = host();
    host.create_volume("ram", SIZE / 2);
    let bytes = |bytes| Workload { bytes, ..WORKLOAD };
    let depth = |depth| Workload { depth, ..WORKLOAD };
    let count = |count| Workload { count, ..WORKLOAD };
    for workload in [
        bytes(0),
        bytes(100),
        bytes(Workload::MAX_BYTES + 4096),
        depth(0),
        depth(Workload::MAX_DEPTH + 1),
        count(0),
        count(u32::MAX),
    ] {
        let error = host.error(measure("data", workload));
        assert!(
            matches!(error, Error::BadRequest(_)),
            "{workload:?}: {error:?}"
        );
    }
    let error = host.error(measure("ram", WORKLOAD));
    assert!(matches!(error, Error::NotSupported(_)), "{error:?}");
    let channel = host.open();
    host.send(channel, measure("data", WORKLOAD));
    let error = host.error(measure("other", WORKLOAD));
    assert!(matches!(error, Error::NoRoom(_)), "{error:?}");
    host.client.close(channel, CloseReason::Done);
    host.pump();
    let channel = host.open();
    host.send(channel, measure("other", WORKLOAD));
    host.settle();
    assert_eq!(host.replies(channel).last(), Some(&Reply::Done));
}
