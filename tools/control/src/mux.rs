//! The multiplexer: many xl processes on the one stream to dom0.
//!
//! It lives in the process that runs QEMU, owns the connection to QEMU's chardev, and listens on a
//! socket for clients. Both sides speak the same frames, so its work is to give each client's
//! channels numbers of their own on the way to dom0, and back. It looks into no message.
//!
//! - Credit goes from end to end. dom0 never sends more on a channel than its client allowed, so
//!   what waits here for a client that does not read is bounded; a client for which more waits is
//!   disconnected.
//! - While QEMU takes no more bytes, no client is read from.
//! - A client's death closes its channels. dom0's restart closes all channels; the clients stay
//!   connected.
//! - Clients are answered their sync only while dom0 is there, so that a client can tell a host
//!   that still boots.
//!
//! The bookkeeping is in `router`, without I/O; one thread moves the bytes.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::vec::Vec;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

mod router;

use router::{ClientId, Router};

/// How long [`serve`] waits for QEMU to listen on its socket.
const QEMU_PATIENCE: Duration = Duration::from_secs(10);
/// How often dom0 is called until it answers.
const SYNC_INTERVAL: Duration = Duration::from_millis(100);
/// How many clients can be connected at once.
const MAX_CLIENTS: usize = 256;

/// A running multiplexer. Dropping it stops it.
#[derive(Debug)]
pub struct Handle {
    thread: Option<JoinHandle<()>>,
    wake: UnixStream,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// dom0 answers.
    ready: bool,
    /// Why the multiplexer ended.
    ended: Option<Result<(), io::Error>>,
}

/// Connects to QEMU's chardev and serves clients from then on.
///
/// QEMU is waited for a few seconds, so it may be started at the same time. Clients can connect at
/// once when this returns; they wait until dom0 answers.
///
/// # Errors
/// When nobody listens on `qemu_socket` or `listen_socket` cannot be made.
pub fn serve(qemu_socket: &Path, listen_socket: &Path) -> io::Result<Handle> {
    let deadline = Instant::now() + QEMU_PATIENCE;
    let qemu = loop {
        match UnixStream::connect(qemu_socket) {
            Ok(stream) => break stream,
            Err(error) if Instant::now() >= deadline => return Err(error),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    thread::sleep(Duration::from_millis(5));
                }
                _ => return Err(error),
            },
        }
    };
    serve_stream(qemu, listen_socket)
}

/// As [`serve`], over a stream to dom0 that is connected already.
///
/// # Errors
/// When `listen_socket` cannot be made.
pub fn serve_stream(qemu: UnixStream, listen_socket: &Path) -> io::Result<Handle> {
    let listener = UnixListener::bind(listen_socket)?;
    listener.set_nonblocking(true)?;
    qemu.set_nonblocking(true)?;
    let (wake, woken) = UnixStream::pair()?;
    let state = Arc::new(Mutex::new(State::default()));
    let mut mux = Mux {
        qemu: Link::new(qemu),
        listener,
        socket: listen_socket.into(),
        woken,
        clients: BTreeMap::new(),
        router: Router::new(),
        state: Arc::clone(&state),
    };
    let thread = thread::Builder::new().name("mux".into()).spawn(move || {
        let end = mux.run();
        // Connections are refused from the moment that the handle says it has ended.
        let _ = std::fs::remove_file(&mux.socket);
        let state = Arc::clone(&mux.state);
        drop(mux);
        let mut state = lock(&state);
        state.ready = false;
        state.ended = Some(end);
    })?;
    Ok(Handle {
        thread: Some(thread),
        wake,
        state,
    })
}

impl Handle {
    /// Whether dom0 answers at present.
    pub fn is_ready(&self) -> bool {
        lock(&self.state).ready
    }

    /// Whether it has ended by itself: QEMU closed the stream.
    pub fn is_finished(&self) -> bool {
        lock(&self.state).ended.is_some()
    }

    /// Waits until dom0 answers. False if the time was over before, or QEMU closed the stream.
    pub fn wait_ready(&self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        loop {
            if self.is_ready() {
                return true;
            }
            if self.is_finished() || Instant::now() >= deadline {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Stops it: all clients are disconnected and the socket is removed.
    ///
    /// # Errors
    /// The error by which it had ended before, if it had.
    pub fn stop(mut self) -> io::Result<()> {
        self.join();
        lock(&self.state).ended.take().unwrap_or(Ok(()))
    }

    fn join(&mut self) {
        let _ = self.wake.shutdown(std::net::Shutdown::Both);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.join();
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A stream and what is still to be written to it.
struct Link {
    stream: UnixStream,
    output: Vec<u8>,
    written: usize,
}

impl Link {
    fn new(stream: UnixStream) -> Link {
        Link {
            stream,
            output: Vec::new(),
            written: 0,
        }
    }

    fn has_output(&self) -> bool {
        self.written < self.output.len()
    }

    /// Writes what the stream takes. `more` is asked for bytes when there are none left.
    fn write(&mut self, mut more: impl FnMut() -> Vec<u8>) -> io::Result<()> {
        loop {
            if !self.has_output() {
                self.output = more();
                self.written = 0;
                if self.output.is_empty() {
                    return Ok(());
                }
            }
            match self
                .stream
                .write(self.output.get(self.written..).unwrap_or_default())
            {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Reads once. None at the end of the stream.
    fn read<'a>(&mut self, buffer: &'a mut [u8]) -> io::Result<Option<&'a [u8]>> {
        match self.stream.read(buffer) {
            Ok(0) => Ok(None),
            Ok(count) => Ok(buffer.get(..count)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Some(&[])),
                _ => Err(error),
            },
        }
    }
}

struct Mux {
    qemu: Link,
    listener: UnixListener,
    socket: PathBuf,
    woken: UnixStream,
    clients: BTreeMap<ClientId, Link>,
    router: Router,
    state: Arc<Mutex<State>>,
}

/// What a poll said of all that is polled.
struct Ready {
    woken: bool,
    accept: bool,
    qemu: bool,
    clients: Vec<ClientId>,
}

impl Mux {
    /// Moves bytes until the handle is dropped or the stream to dom0 ends.
    fn run(&mut self) -> io::Result<()> {
        let mut buffer = std::vec![0; 64 * 1024];
        let mut next_sync = Instant::now();
        loop {
            let now = Instant::now();
            if !self.router.is_synced() && now >= next_sync {
                self.router.sync();
                next_sync = now + SYNC_INTERVAL;
            }
            self.write()?;
            lock(&self.state).ready = self.router.is_synced();

            let timeout = (!self.router.is_synced())
                .then(|| next_sync.saturating_duration_since(Instant::now()));
            let ready = self.poll(timeout)?;
            if ready.woken {
                return Ok(());
            }
            if ready.accept {
                self.accept()?;
            }
            if ready.qemu {
                match self.qemu.read(&mut buffer)? {
                    Some(bytes) => self.router.on_dom0_bytes(bytes),
                    None => return Ok(()),
                }
            }
            for id in ready.clients {
                let Some(link) = self.clients.get_mut(&id) else {
                    continue;
                };
                match link.read(&mut buffer) {
                    Ok(Some(bytes)) => self.router.on_client_bytes(id, bytes),
                    Ok(None) | Err(_) => self.disconnect(id),
                }
            }
        }
    }

    fn poll(&self, timeout: Option<Duration>) -> io::Result<Ready> {
        let takes_input = self.router.takes_client_input();
        let accepts = self.clients.len() < MAX_CLIENTS;
        let interest = |link: &Link, input: bool| {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, input);
            flags.set(PollFlags::OUT, link.has_output());
            flags
        };
        let accept = if accepts {
            PollFlags::IN
        } else {
            PollFlags::empty()
        };
        let mut fds = std::vec![
            PollFd::from_borrowed_fd(self.woken.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.listener.as_fd(), accept),
            PollFd::from_borrowed_fd(self.qemu.stream.as_fd(), interest(&self.qemu, true)),
        ];
        // A client that hung up is reported whatever is asked for, so one that is not read from is
        // left out, but for output.
        let mut ids = Vec::new();
        for (&id, link) in &self.clients {
            let flags = interest(link, takes_input);
            if !flags.is_empty() {
                ids.push(id);
                fds.push(PollFd::from_borrowed_fd(link.stream.as_fd(), flags));
            }
        }
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => fds.iter_mut().for_each(PollFd::clear_revents),
            Err(error) => return Err(error.into()),
        }
        let readable = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
        let on = |at: usize| {
            fds.get(at)
                .is_some_and(|fd| fd.revents().intersects(readable))
        };
        Ok(Ready {
            woken: on(0),
            accept: on(1),
            qemu: on(2),
            clients: ids
                .iter()
                .zip(3..)
                .filter(|&(_, at)| on(at))
                .map(|(&id, _)| id)
                .collect(),
        })
    }

    fn accept(&mut self) -> io::Result<()> {
        match self.listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(true)?;
                self.clients
                    .insert(self.router.connect(), Link::new(stream));
                Ok(())
            }
            // The client may be gone already. A lack of file descriptors passes too, but not at
            // once.
            Err(_) => {
                thread::sleep(Duration::from_millis(1));
                Ok(())
            }
        }
    }

    fn write(&mut self) -> io::Result<()> {
        let router = &mut self.router;
        self.qemu.write(|| router.take_dom0_output())?;
        let mut gone = Vec::new();
        for (&id, link) in &mut self.clients {
            if self.router.is_overdue(id)
                || link.write(|| self.router.take_client_output(id)).is_err()
            {
                gone.push(id);
            }
        }
        let any = !gone.is_empty();
        gone.into_iter().for_each(|id| self.disconnect(id));
        if any {
            let router = &mut self.router;
            self.qemu.write(|| router.take_dom0_output())?;
        }
        Ok(())
    }

    fn disconnect(&mut self, id: ClientId) {
        self.clients.remove(&id);
        self.router.disconnect(id);
    }
}
