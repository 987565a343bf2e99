//! TCP connections.

use alloc::vec;
use core::fmt;
use core::future::poll_fn;
use core::task::{Context, Poll};

use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::{RecvError, SocketBuffer};
pub(super) use smoltcp::socket::tcp::{Socket, State as TcpState};
use smoltcp::time::Duration;
use smoltcp::wire::IpEndpoint;

use super::{FIRST_LOCAL_PORT, Network};

/// Bytes that are kept of each direction of a connection: several of the largest frames, so that both ends and the
/// host between them have something to do at the same time.
const BUFFER: usize = 256 * 1024;
/// How long a connection may be silent that waits for the other end, in seconds.
const PATIENCE: u64 = 30;

/// Why a connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The other end refuses it, has reset it, or is silent.
    Closed,
    /// The interface has no address yet.
    NoAddress,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "the connection is closed",
            Self::NoAddress => "the interface has no address",
        })
    }
}

impl core::error::Error for Error {}

/// A port that connections come to.
#[derive(Debug)]
pub struct Listener {
    network: Network,
    port: u16,
}

impl Listener {
    /// The next connection. As many can come at a time as are waited for.
    pub async fn accept(&self) -> Result<TcpStream, Error> {
        let stream = self.network.socket()?;
        stream.with(|socket| socket.listen(self.port).map_err(|_| Error::Closed))?;
        stream
            .until(|socket| match socket.state() {
                TcpState::Listen | TcpState::SynReceived => None,
                _ => Some(()),
            })
            .await;
        Ok(stream)
    }
}

impl Network {
    /// Takes connections to a port.
    pub fn listen(&self, port: u16) -> Listener {
        Listener {
            network: self.clone(),
            port,
        }
    }

    /// Connects to somebody.
    ///
    /// # Errors
    ///
    /// If there is no answer, or no address yet.
    pub async fn connect(&self, to: IpEndpoint) -> Result<TcpStream, Error> {
        let stream = self.socket()?;
        {
            let mut state = self.0.borrow_mut();
            let local = state.next_port;
            state.next_port = local.checked_add(1).unwrap_or(FIRST_LOCAL_PORT);
            let stack = state.stack.as_mut().ok_or(Error::NoAddress)?;
            let socket = stack.sockets.get_mut::<Socket<'_>>(stream.handle);
            socket
                .connect(stack.interface.context(), to, local)
                .map_err(|_| Error::Closed)?;
            state.kick();
        }
        let connected = stream
            .until(|socket| match socket.state() {
                TcpState::SynSent | TcpState::SynReceived => None,
                TcpState::Closed => Some(false),
                _ => Some(true),
            })
            .await;
        connected.then_some(stream).ok_or(Error::Closed)
    }

    fn socket(&self) -> Result<TcpStream, Error> {
        let mut state = self.0.borrow_mut();
        let stack = state.stack.as_mut().ok_or(Error::NoAddress)?;
        let buffer = || SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = Socket::new(buffer(), buffer());
        socket.set_timeout(Some(Duration::from_secs(PATIENCE)));
        // Whoever only listens would not notice that the other end is gone.
        socket.set_keep_alive(Some(Duration::from_secs(PATIENCE / 3)));
        socket.set_nagle_enabled(false);
        Ok(TcpStream {
            network: self.clone(),
            handle: stack.sockets.add(socket),
        })
    }
}

/// A connection. When it is dropped without [`TcpStream::close`], it is reset.
#[derive(Debug)]
pub struct TcpStream {
    network: Network,
    handle: SocketHandle,
}

impl TcpStream {
    fn with<R>(&self, f: impl FnOnce(&mut Socket<'static>) -> R) -> R {
        let mut state = self.network.0.borrow_mut();
        let stack = state.stack.as_mut().expect("a socket has a stack");
        f(stack.sockets.get_mut(self.handle))
    }

    /// Waits until there is an answer, which is asked for whenever the socket has changed.
    async fn until<R>(&self, mut f: impl FnMut(&mut Socket<'static>) -> Option<R>) -> R {
        poll_fn(|context: &mut Context<'_>| {
            self.with(|socket| match f(socket) {
                Some(result) => Poll::Ready(result),
                None => {
                    socket.register_recv_waker(context.waker());
                    socket.register_send_waker(context.waker());
                    Poll::Pending
                }
            })
        })
        .await
    }

    /// Who is at the other end.
    pub fn peer(&self) -> Option<IpEndpoint> {
        self.with(|socket| socket.remote_endpoint())
    }

    /// Reads what has come, at least one byte; 0 if the other end has closed.
    ///
    /// # Errors
    ///
    /// If the connection was reset.
    pub async fn read(&self, bytes: &mut [u8]) -> Result<usize, Error> {
        let result = self
            .until(|socket| match socket.recv_slice(bytes) {
                Ok(0) => None,
                Ok(count) => Some(Ok(count)),
                Err(RecvError::Finished) => Some(Ok(0)),
                Err(RecvError::InvalidState) => Some(Err(Error::Closed)),
            })
            .await;
        // The other end may wait for the window to open.
        self.network.0.borrow_mut().kick();
        result
    }

    /// Writes all of it, as far as there is room for it on the way.
    ///
    /// # Errors
    ///
    /// If the connection was reset.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self
                .until(|socket| match socket.send_slice(rest) {
                    Ok(0) => None,
                    Ok(count) => Some(Ok(count)),
                    Err(_) => Some(Err(Error::Closed)),
                })
                .await?;
            rest = &rest[count..];
            self.network.0.borrow_mut().kick();
        }
        Ok(())
    }

    /// Says that nothing more will be written. What the other end writes can still be read.
    pub fn finish(&self) {
        self.with(|socket| socket.close());
        self.network.0.borrow_mut().kick();
    }

    /// Says that nothing more will be written, and waits until the other end has all of it.
    pub async fn close(self) {
        self.with(|socket| socket.close());
        self.network.0.borrow_mut().kick();
        self.until(|socket| match socket.state() {
            TcpState::FinWait1 | TcpState::Closing | TcpState::LastAck => None,
            _ => Some(()),
        })
        .await;
    }
}

impl Drop for TcpStream {
    fn drop(&mut self) {
        let mut state = self.network.0.borrow_mut();
        state.forget(self.handle);
    }
}
