//! The hypervisor's trace, with readers that are slow, and those that go away.

use super::*;
use control::{TraceReply, TraceRequest};

const BEGIN: Request = Request::Trace(TraceRequest::Begin { events: 0x2_f000 });
const END: Request = Request::Trace(TraceRequest::End);

/// Bytes of which each word tells its place.
fn words(range: core::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(u32::to_le_bytes).collect()
}

/// The records of a CPU in replies, and whether the last of these is the end.
fn records(replies: &[Reply], cpu: u32) -> (Vec<u8>, bool) {
    let bytes = replies.iter().flat_map(|reply| match reply {
        Reply::Trace(TraceReply::Records { cpu: of, bytes }) if *of == cpu => bytes.clone(),
        _ => Vec::new(),
    });
    let ended = replies.last() == Some(&Reply::Trace(TraceReply::Ended));
    (bytes.collect(), ended)
}

#[test]
fn records_come_as_they_are_written_until_the_client_has_enough() {
    let mut host = Host::new();
    let channel = host.open();
    host.send(channel, BEGIN);
    assert_eq!(host.replies(channel), [Reply::Done]);
    assert_eq!(
        (host.xen().trace.on, host.xen().trace.events),
        (true, 0x2_f000)
    );
    let all = words(0..200_000);
    let mut seen = Vec::new();
    for chunk in all.chunks(50_000) {
        let other = host.xen().trace.put(1, &chunk[..100]);
        assert_eq!((host.xen().trace.put(0, chunk), other), (chunk.len(), 100));
        host.pump();
        assert_eq!(host.replies(channel), [], "it is not time yet");
        host.xen().clock += 100_000_000;
        let replies = host.replies(channel);
        seen.extend(records(&replies, 0).0);
        assert_eq!(records(&replies, 1), (chunk[..100].to_vec(), false));
    }
    assert_eq!(seen, all);
    // A buffer that is half full is read at once.
    host.xen().trace.put(1, &all[..70_000]);
    host.toolstack.trace().0.on_half_full();
    assert_eq!(records(&host.replies(channel), 1).0.len(), 70_000);
    // What is left at the end is sent.
    host.xen().trace.put(1, &all[..40]);
    host.send(channel, END);
    assert_eq!(
        records(&host.replies(channel), 1),
        (all[..40].to_vec(), true)
    );
    assert!(!host.xen().trace.on);
    // The channel may be used for something else, and the trace by another.
    host.send(channel, Request::Hello);
    assert!(matches!(host.replies(channel)[..], [Reply::Hello { .. }]));
    assert_eq!(host.ask(BEGIN), Reply::Done);
}

#[test]
fn a_client_that_does_not_read_makes_the_hypervisor_lose_records_and_nobody_wait() {
    let mut host = Host::new();
    let channel = host.open();
    host.send(channel, BEGIN);
    host.replies(channel);
    host.deaf = Some(channel);
    let mut written = 0;
    for _ in 0..100 {
        written += host.xen().trace.put(0, &words(0..10_000));
        host.xen().clock += 100_000_000;
        host.pump();
    }
    let (unread, room) = host.xen().trace.unread(0);
    assert_eq!(room, 0, "the hypervisor's buffer is full");
    assert!(
        host.unread < 512 << 10,
        "{} bytes are under way",
        host.unread
    );
    let kept = written - host.unread - unread as usize;
    assert!(kept < 64 << 10, "{kept} bytes are kept by this domain");
    assert!(matches!(host.ask(Request::Hello), Reply::Hello { .. }));
    // The end can be asked for, and comes when the rest has been read.
    host.send(channel, END);
    host.deaf = None;
    host.client_reads(channel);
    let (bytes, ended) = records(&host.replies(channel), 0);
    assert_eq!((bytes.len(), ended), (written, true));
}

#[test]
fn one_client_traces_at_a_time_and_one_that_goes_away_ends_it() {
    let mut host = Host::new();
    let channel = host.open();
    host.send(channel, BEGIN);
    host.replies(channel);
    let refused = host.error(BEGIN);
    assert_eq!(refused, Error::NoRoom("another trace".into()));
    host.xen().trace.put(0, &words(0..100));
    host.client.close(channel, CloseReason::Done);
    host.pump();
    assert!(!host.xen().trace.on);
    // What was left over from it is no part of the next.
    let channel = host.open();
    host.send(channel, BEGIN);
    host.xen().trace.put(0, &words(7..8));
    host.send(channel, END);
    assert_eq!(records(&host.replies(channel), 0), (words(7..8), true));
    host.send(channel, END);
    assert_eq!(host.replies(channel), [], "nothing traces");
}

#[test]
fn a_hypervisor_without_room_for_buffers_is_told_of() {
    let mut host = Host::new();
    for call in 1..4 {
        host.xen().fail_in = Some(call - 1);
        let why = host.error(BEGIN);
        assert!(matches!(why, Error::Hypervisor { .. }), "{why:?}");
        assert!(!host.toolstack.trace().0.is_taken());
    }
    assert_eq!(host.ask(BEGIN), Reply::Done);
}
