//! Pings.

use alloc::vec;
use core::future::poll_fn;
use core::task::Poll;
use core::time::Duration;

use smoltcp::iface::SocketHandle;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::socket::icmp::{Endpoint, PacketBuffer, PacketMetadata, Socket};
use smoltcp::wire::{Icmpv4Packet, Icmpv4Repr, IpAddress, Ipv4Address};

use super::{Error, Network};
use crate::clock;

/// What a ping carries.
const CONTENT: &[u8] = b"are you there?";

/// A socket that is removed again.
struct Ping<'a> {
    network: &'a Network,
    handle: SocketHandle,
}

impl Ping<'_> {
    fn with<R>(&self, f: impl FnOnce(&mut Socket<'static>) -> R) -> R {
        let mut state = self.network.0.borrow_mut();
        let stack = state.stack.as_mut().expect("a socket has a stack");
        f(stack.sockets.get_mut(self.handle))
    }
}

impl Drop for Ping<'_> {
    fn drop(&mut self) {
        if let Some(stack) = &mut self.network.0.borrow_mut().stack {
            stack.sockets.remove(self.handle);
        }
    }
}

impl Network {
    /// Asks a station whether it is there; how long its answer took, none if there was none in that time.
    ///
    /// # Errors
    ///
    /// If the interface has no address yet.
    pub async fn ping(
        &self,
        to: Ipv4Address,
        patience: Duration,
    ) -> Result<Option<Duration>, Error> {
        // Who asks more than one at a time is told apart by this.
        let ident = clock::now() as u16;
        let request = Icmpv4Repr::EchoRequest {
            ident,
            seq_no: 1,
            data: CONTENT,
        };
        let length = request.buffer_len();
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY], vec![0; length]);
        let mut socket = Socket::new(buffer(), buffer());
        socket
            .bind(Endpoint::Ident(ident))
            .map_err(|_| Error::Closed)?;
        let bytes = socket
            .send(length, IpAddress::Ipv4(to))
            .map_err(|_| Error::Closed)?;
        let mut packet = Icmpv4Packet::new_unchecked(bytes);
        request.emit(&mut packet, &ChecksumCapabilities::default());
        let ping = {
            let mut state = self.0.borrow_mut();
            let stack = state.stack.as_mut().ok_or(Error::NoAddress)?;
            let handle = stack.sockets.add(socket);
            state.kick();
            Ping {
                network: self,
                handle,
            }
        };
        let begin = clock::now();
        let answer = poll_fn(|context| {
            ping.with(|socket| {
                socket.register_recv_waker(context.waker());
                match socket.recv() {
                    Ok((answer, from))
                        if from == IpAddress::Ipv4(to) && answer.ends_with(CONTENT) =>
                    {
                        Poll::Ready(())
                    }
                    _ => Poll::Pending,
                }
            })
        });
        let answer = clock::timeout(patience, answer).await;
        let took = Duration::from_nanos(clock::now().saturating_sub(begin));
        Ok(answer.is_ok().then_some(took))
    }
}
