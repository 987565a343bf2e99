//! The multiplexer between real sockets: many clients, dead ones, stuck ones, and a dom0 that
//! restarts.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use control::client::{Client, ClientError};
use control::frame::{self, Kind};
use control::message::MAX_CHUNK;
use control::mux::{self, Handle};
use control::{CloseReason, DomainRef, Event, Reply, Request, Session};

const PATIENCE: Duration = Duration::from_secs(10);

/// What the test sees of what dom0 saw.
#[derive(Debug, PartialEq)]
enum Seen {
    Opened,
    Closed(CloseReason),
}

/// A dom0 on one end of a stream: it answers `Domid` with the number asked for, and `AttachConsole`
/// with output without end.
fn dom0(mut stream: UnixStream, seen: mpsc::Sender<Seen>) {
    let mut session = Session::server();
    session.sync(1);
    let mut consoles: Vec<u32> = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        while session.has_output() {
            if stream.write_all(&session.take_output()).is_err() {
                return;
            }
        }
        let Ok(length @ 1..) = stream.read(&mut buffer) else {
            return;
        };
        session.receive(&buffer[..length]);
        while let Some(event) = session.next_event() {
            match event {
                Event::Opened { .. } => drop(seen.send(Seen::Opened)),
                Event::Closed { channel, reason } => {
                    consoles.retain(|&console| console != channel);
                    let _ = seen.send(Seen::Closed(reason));
                }
                Event::Message { channel, payload } => {
                    let request = Request::decode(&payload).unwrap();
                    // Typed bytes wait here for ever, as for a guest that reads none.
                    if matches!(request, Request::ConsoleInput(_)) {
                        continue;
                    }
                    session.consumed(channel, payload.len());
                    let reply = match request {
                        Request::Domid(DomainRef::Id(id)) => Reply::Domid(id),
                        Request::AttachConsole { .. } => {
                            consoles.push(channel);
                            continue;
                        }
                        // So that uploads pass through.
                        Request::ImageChunk(_) => continue,
                        _ => Reply::Done,
                    };
                    session.send(channel, &reply.encode()).unwrap();
                }
                Event::Writable { .. } | Event::Synced => {}
            }
        }
        for &console in &consoles {
            let output = Reply::ConsoleOutput(vec![b'x'; 1000]).encode();
            while session.send(console, &output).is_ok() {}
        }
    }
}

struct Bench {
    _dir: tempfile::TempDir,
    socket: PathBuf,
    mux: Handle,
    seen: mpsc::Receiver<Seen>,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let (sender, seen) = mpsc::channel();
    thread::spawn(move || dom0(theirs, sender));
    let mux = mux::serve_stream(ours, &socket).unwrap();
    Bench {
        _dir: dir,
        socket,
        mux,
        seen,
    }
}

impl Bench {
    fn client(&self) -> Client {
        Client::connect(&self.socket, PATIENCE).unwrap()
    }

    fn next_seen(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).unwrap()
    }

    /// A raw connection that has synced and opened its channel 1.
    fn raw_client(&self) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        let mut out = Vec::new();
        frame::encode(Kind::Sync, 0, &[0; 8], &mut out).unwrap();
        stream.write_all(&out).unwrap();
        stream.read_exact(&mut [0; frame::HEADER + 8]).unwrap();
        let mut out = Vec::new();
        let version = control::PROTOCOL_VERSION.to_le_bytes();
        frame::encode(Kind::Open, 1, &version, &mut out).unwrap();
        stream.write_all(&out).unwrap();
        assert_eq!(self.next_seen(), Seen::Opened);
        stream
    }
}

fn assert_answers(client: &mut Client, id: u16) {
    let channel = client.open().unwrap();
    let reply = client
        .call(channel, &Request::Domid(DomainRef::Id(id)))
        .unwrap();
    assert_eq!(reply, Reply::Domid(id));
    client.close(channel).unwrap();
}

#[test]
fn each_of_many_clients_gets_its_own_answers() {
    let bench = bench();
    thread::scope(|scope| {
        for id in 0..20 {
            let mut client = bench.client();
            scope.spawn(move || (0..20).for_each(|_| assert_answers(&mut client, id)));
        }
    });
}

#[test]
fn a_dead_client_has_its_channels_closed() {
    let bench = bench();
    let mut client = bench.client();
    client.open().unwrap();
    client.open().unwrap();
    assert_eq!(
        (bench.next_seen(), bench.next_seen()),
        (Seen::Opened, Seen::Opened)
    );
    drop(client);
    let lost = || Seen::Closed(CloseReason::Lost);
    assert_eq!((bench.next_seen(), bench.next_seen()), (lost(), lost()));
}

#[test]
fn a_client_that_dies_in_the_middle_of_a_frame_harms_nobody() {
    let bench = bench();
    let mut stream = bench.raw_client();
    let mut out = Vec::new();
    let chunk = Request::ImageChunk(vec![0; MAX_CHUNK]).encode();
    frame::encode(Kind::Data, 1, &chunk, &mut out).unwrap();
    stream.write_all(&out[..out.len() / 2]).unwrap();
    drop(stream);
    assert_eq!(bench.next_seen(), Seen::Closed(CloseReason::Lost));
    assert_answers(&mut bench.client(), 3);
}

#[test]
fn a_client_that_does_not_read_stalls_nobody() {
    let bench = bench();
    let mut stuck: Vec<UnixStream> = (0..5).map(|_| bench.raw_client()).collect();
    for stream in &mut stuck {
        let mut out = Vec::new();
        let attach = Request::AttachConsole {
            domain: DomainRef::Id(1),
            scrollback: true,
        };
        frame::encode(Kind::Data, 1, &attach.encode(), &mut out).unwrap();
        stream.write_all(&out).unwrap();
    }
    let mut client = bench.client();
    let start = Instant::now();
    (0..200).for_each(|id| assert_answers(&mut client, id));
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_client_that_writes_without_regard_to_credit_loses_its_channel() {
    let bench = bench();
    let mut stream = bench.raw_client();
    let mut chunks = Vec::new();
    let chunk = Request::ConsoleInput(vec![0; MAX_CHUNK]).encode();
    for _ in 0..10 {
        frame::encode(Kind::Data, 1, &chunk, &mut chunks).unwrap();
    }
    stream.write_all(&chunks).unwrap();
    assert_eq!(bench.next_seen(), Seen::Closed(CloseReason::Broken));
    assert_answers(&mut bench.client(), 1);
}

#[test]
fn garbage_from_a_client_is_skipped() {
    let bench = bench();
    let mut stream = bench.raw_client();
    stream.write_all(&[0xf5; 100_000]).unwrap();
    let mut client = bench.client();
    assert_answers(&mut client, 5);
    let mut out = Vec::new();
    frame::encode(
        Kind::Data,
        1,
        &Request::Domid(DomainRef::Id(8)).encode(),
        &mut out,
    )
    .unwrap();
    stream.write_all(&out).unwrap();
    let mut answer = [0; frame::HEADER];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[4], Kind::Data as u8);
}

#[test]
fn large_uploads_pass() {
    let bench = bench();
    let mut client = bench.client();
    let channel = client.open().unwrap();
    for _ in 0..1000 {
        client
            .send(channel, &Request::ImageChunk(vec![7; MAX_CHUNK]))
            .unwrap();
    }
    assert_eq!(client.call(channel, &Request::Hello).unwrap(), Reply::Done);
}

#[test]
fn clients_wait_for_a_dom0_that_still_boots() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mux = mux::serve_stream(ours, &socket).unwrap();
    let early = Client::connect(&socket, Duration::from_millis(300));
    assert!(matches!(early, Err(ClientError::NoAnswer)));
    assert!(!mux.is_ready());
    let waiting = thread::spawn({
        let socket = socket.clone();
        move || Client::connect(&socket, PATIENCE).map(|mut client| assert_answers(&mut client, 1))
    });
    thread::sleep(Duration::from_millis(50));
    thread::spawn(move || dom0(theirs, mpsc::channel().0));
    waiting.join().unwrap().unwrap();
    assert!(mux.wait_ready(PATIENCE));
}

#[test]
fn a_restart_of_dom0_closes_channels_and_keeps_clients() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("control.sock");
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let mux = mux::serve_stream(ours, &socket).unwrap();
    let mut session = Session::server();
    let answer = thread::spawn(move || {
        // The first life: it syncs, sees a channel open, and dies in the middle of a frame.
        let mut buffer = [0; 4096];
        loop {
            let length = theirs.read(&mut buffer).unwrap();
            session.receive(&buffer[..length]);
            theirs.write_all(&session.take_output()).unwrap();
            let mut events = std::iter::from_fn(|| session.next_event());
            if events.any(|event| matches!(event, Event::Opened { .. })) {
                break;
            }
        }
        let mut torn = Vec::new();
        frame::encode(Kind::Data, 1, &[1; 100], &mut torn).unwrap();
        theirs.write_all(&torn[..50]).unwrap();
        dom0(theirs, mpsc::channel().0);
    });
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    let channel = client.open().unwrap();
    let lost = client.receive(channel);
    assert!(
        matches!(lost, Err(ClientError::Closed(CloseReason::Lost))),
        "{lost:?}"
    );
    assert_answers(&mut client, 4);
    drop(mux);
    answer.join().unwrap();
}

#[test]
fn when_qemu_is_gone_so_is_the_socket_and_the_clients_are_told() {
    let dir = tempfile::tempdir().unwrap();
    let (qemu, socket) = (
        dir.path().join("qemu.sock"),
        dir.path().join("control.sock"),
    );
    let listener = UnixListener::bind(&qemu).unwrap();
    let mux = mux::serve(&qemu, &socket).unwrap();
    let (theirs, _) = listener.accept().unwrap();
    let killer = theirs.try_clone().unwrap();
    thread::spawn(move || dom0(theirs, mpsc::channel().0));
    let mut client = Client::connect(&socket, PATIENCE).unwrap();
    let channel = client.open().unwrap();
    killer.shutdown(std::net::Shutdown::Both).unwrap();
    assert!(matches!(client.receive(channel), Err(ClientError::Gone)));
    let deadline = Instant::now() + PATIENCE;
    while !mux.is_finished() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(2));
    }
    assert!(mux.is_finished() && !socket.exists());
    let late = Client::connect(&socket, PATIENCE);
    assert!(matches!(late, Err(ClientError::NotRunning)));
}

#[test]
fn stopping_disconnects_the_clients() {
    let bench = bench();
    let mut client = bench.client();
    let channel = client.open().unwrap();
    bench.mux.stop().unwrap();
    assert!(matches!(client.receive(channel), Err(ClientError::Gone)));
}
