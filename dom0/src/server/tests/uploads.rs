//! Images, logs, and requests that are none.

use super::*;

#[test]
fn a_damaged_upload_is_refused_and_its_remaining_chunks_are_dropped() {
    let mut host = Host::new();
    let channel = host.open();
    let hash = ImageHash::of(b"what was promised");
    host.send(channel, Request::UploadImage { hash, size: 4 });
    host.send(channel, Request::ImageChunk(b"other".to_vec()));
    host.send(channel, Request::ImageChunk(b"more".to_vec()));
    host.send(channel, Request::HasImage(hash));
    assert_eq!(
        host.replies(channel),
        [
            Reply::Done,
            Reply::Error(Error::DamagedImage(hash)),
            Reply::ImageCached(false)
        ]
    );
}

#[test]
fn an_upload_that_is_interrupted_by_another_request_fails() {
    let mut host = Host::new();
    let channel = host.open();
    let hash = ImageHash::of(b"12345");
    host.send(channel, Request::UploadImage { hash, size: 5 });
    host.send(channel, Request::Hello);
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Done, Reply::Error(Error::BadRequest(_))]
    ));
}

#[test]
fn bytes_that_are_no_request_are_answered_as_such() {
    let mut host = Host::new();
    let channel = host.open();
    host.client.send(channel, b"\xff\xff\xff").unwrap();
    assert!(matches!(
        host.replies(channel)[..],
        [Reply::Error(Error::BadRequest(_))]
    ));
}

#[test]
fn the_log_comes_in_pieces_and_can_be_cleared() {
    let mut host = Host::new();
    host.xen().log = vec![b'x'; 70_000];
    let channel = host.open();
    host.send(channel, Request::Dmesg { clear: true });
    let replies = host.replies(channel);
    let mut all = Vec::new();
    for (n, reply) in replies.iter().enumerate() {
        let Reply::Text { bytes, more } = reply else {
            panic!("{reply:?}");
        };
        assert_eq!(*more, n + 1 < replies.len());
        all.extend_from_slice(bytes);
    }
    assert_eq!(all.len(), 70_000);
    assert!(host.xen().log.is_empty());
    assert!(matches!(host.ask(Request::HostInfo), Reply::HostInfo(_)));
}

#[test]
fn a_host_that_is_to_stop_answers_first() {
    let mut host = Host::new();
    let reply = host.ask(Request::StopHost(HostAction::PowerOff));
    assert_eq!(reply, Reply::Done);
    assert_eq!(host.server.stop_requested(), Some(HostAction::PowerOff));
}
