//! A client: requests out, replies and watch events in.
//!
//! A request has a number, under which its reply is found when it has come. Several may be under
//! way. How bytes travel is [`ring`](crate::ring)'s business, or any stream's.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;
use hypercall_abi::types::{Domid, Port};

use crate::wire::{self, Assembler, Kind, Message, TooLong};

/// A request's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u32);

/// A transaction's number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TransactionId(u32);

impl TransactionId {
    /// No transaction: each request by itself.
    pub const NONE: Self = Self(0);
}

/// A watch fired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The path, relative if the watch's was.
    pub path: String,
    /// The watch's token.
    pub token: Vec<u8>,
}

/// A client's end of a connection.
#[derive(Debug, Default)]
pub struct Client {
    last: u32,
    input: Assembler,
    output: VecDeque<u8>,
    /// Requests without a reply, and what they are.
    waiting: BTreeMap<u32, Kind>,
    replies: BTreeMap<u32, Result<Vec<u8>, Errno>>,
    events: VecDeque<Event>,
}

impl Client {
    /// A new connection's.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a request; `parts` are put together to its payload.
    ///
    /// # Errors
    ///
    /// `E2BIG` if that is too long: sent, it would end the connection.
    pub fn request(
        &mut self,
        kind: Kind,
        transaction: TransactionId,
        parts: &[&[u8]],
    ) -> Result<RequestId, Errno> {
        let payload = parts.concat();
        if payload.len() > XENSTORE_PAYLOAD_MAX {
            return Err(Errno::E2BIG);
        }
        self.last = self.last.wrapping_add(1);
        self.waiting.insert(self.last, kind);
        self.output
            .extend(wire::encode(kind, self.last, transaction.0, &payload));
        Ok(RequestId(self.last))
    }

    /// Reads a node's value.
    pub fn read(&mut self, transaction: TransactionId, path: &str) -> Result<RequestId, Errno> {
        self.request(Kind::Read, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Writes a node's value.
    pub fn write(
        &mut self,
        transaction: TransactionId,
        path: &str,
        value: &[u8],
    ) -> Result<RequestId, Errno> {
        self.request(Kind::Write, transaction, &[path.as_bytes(), b"\0", value])
    }

    /// Creates a node unless it is there.
    pub fn mkdir(&mut self, transaction: TransactionId, path: &str) -> Result<RequestId, Errno> {
        self.request(Kind::Mkdir, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Removes a node and what is below it.
    pub fn remove(&mut self, transaction: TransactionId, path: &str) -> Result<RequestId, Errno> {
        self.request(Kind::Remove, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Lists a node's children; [`names`] has them from the reply.
    pub fn directory(
        &mut self,
        transaction: TransactionId,
        path: &str,
    ) -> Result<RequestId, Errno> {
        self.request(Kind::Directory, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Gets a node's permissions; [`names`] has them from the reply.
    pub fn get_permissions(
        &mut self,
        transaction: TransactionId,
        path: &str,
    ) -> Result<RequestId, Errno> {
        self.request(Kind::GetPermissions, transaction, &[path.as_bytes(), b"\0"])
    }

    /// Sets a node's permissions, as `n5` for its owner and what others may, then `r6` and so on.
    pub fn set_permissions(
        &mut self,
        transaction: TransactionId,
        path: &str,
        permissions: &[&str],
    ) -> Result<RequestId, Errno> {
        let mut parts = Vec::from([path.as_bytes(), b"\0"]);
        for permission in permissions {
            parts.extend([permission.as_bytes(), b"\0"]);
        }
        self.request(Kind::SetPermissions, transaction, &parts)
    }

    /// Watches a path.
    pub fn watch(&mut self, path: &str, token: &[u8]) -> Result<RequestId, Errno> {
        let parts = [path.as_bytes(), b"\0", token, b"\0"];
        self.request(Kind::Watch, TransactionId::NONE, &parts)
    }

    /// Stops watching. Events may still be under way.
    pub fn unwatch(&mut self, path: &str, token: &[u8]) -> Result<RequestId, Errno> {
        let parts = [path.as_bytes(), b"\0", token, b"\0"];
        self.request(Kind::Unwatch, TransactionId::NONE, &parts)
    }

    /// Starts a transaction; [`transaction`] has its number from the reply.
    pub fn start(&mut self) -> Result<RequestId, Errno> {
        self.request(Kind::TransactionStart, TransactionId::NONE, &[b"\0"])
    }

    /// Ends a transaction. `EAGAIN` is the reply if others came between: begin again.
    pub fn end(&mut self, transaction: TransactionId, commit: bool) -> Result<RequestId, Errno> {
        let payload = if commit { b"T\0" } else { b"F\0" };
        self.request(Kind::TransactionEnd, transaction, &[payload])
    }

    /// Has the store serve a domain on a page of its memory and a port of its event channels.
    pub fn introduce(&mut self, domain: Domid, gfn: u64, port: Port) -> Result<RequestId, Errno> {
        let payload = alloc::format!("{domain}\0{gfn}\0{port}\0");
        self.request(Kind::Introduce, TransactionId::NONE, &[payload.as_bytes()])
    }

    /// Has the store let go of a domain.
    pub fn release(&mut self, domain: Domid) -> Result<RequestId, Errno> {
        let payload = alloc::format!("{domain}\0");
        self.request(Kind::Release, TransactionId::NONE, &[payload.as_bytes()])
    }

    /// The reply to a request, once it has come. `EIO` stands for an error of the store's that has no
    /// name here, and for a reply to another kind of request.
    pub fn reply(&mut self, request: RequestId) -> Option<Result<Vec<u8>, Errno>> {
        self.replies.remove(&request.0)
    }

    /// The requests whose replies have come and were not looked at.
    pub fn answered(&self) -> impl Iterator<Item = RequestId> {
        self.replies.keys().copied().map(RequestId)
    }

    /// Says that nobody waits for the reply to a request any more: it is not kept. The store serves
    /// the request all the same.
    pub fn forget(&mut self, request: RequestId) {
        self.waiting.remove(&request.0);
        self.replies.remove(&request.0);
    }

    /// The next event.
    pub fn event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next bytes for the store, perhaps not all.
    pub fn output(&self) -> &[u8] {
        self.output.as_slices().0
    }

    /// Says that `count` bytes of [`output`](Self::output) went out.
    pub fn sent(&mut self, count: usize) {
        self.output.drain(..count);
    }

    /// Where the next bytes from the store belong.
    pub fn room(&mut self) -> &mut [u8] {
        self.input.room()
    }

    /// Says that the first `count` bytes of [`room`](Self::room) were filled in.
    ///
    /// # Errors
    ///
    /// If the store announces too long a message. The connection cannot be understood any more.
    pub fn fill(&mut self, count: usize) -> Result<(), TooLong> {
        self.input.fill(count)?;
        if let Some(message) = self.input.take() {
            self.take_in(message);
        }
        Ok(())
    }

    /// Takes bytes from the store.
    ///
    /// # Errors
    ///
    /// As [`fill`](Self::fill) has them.
    pub fn receive(&mut self, mut bytes: &[u8]) -> Result<(), TooLong> {
        while !bytes.is_empty() {
            let taken = self.input.push(bytes)?;
            bytes = &bytes[taken..];
            if let Some(message) = self.input.take() {
                self.take_in(message);
            }
        }
        Ok(())
    }

    fn take_in(&mut self, message: Message) {
        match Kind::from_number(message.kind) {
            Some(Kind::WatchEvent) => {
                if let [path, token] = wire::strings(&message.payload)[..] {
                    self.events.push_back(Event {
                        path: String::from_utf8_lossy(path).into_owned(),
                        token: token.into(),
                    });
                }
            }
            kind => {
                // What nobody waits for is not kept.
                let Some(asked) = self.waiting.remove(&message.request) else {
                    return;
                };
                let reply = match kind {
                    Some(Kind::Error) => {
                        let name = wire::one_string(&message.payload).unwrap_or_default();
                        Err(wire::error_from_name(name).unwrap_or(Errno::EIO))
                    }
                    _ if kind == Some(asked) => Ok(message.payload),
                    _ => Err(Errno::EIO),
                };
                self.replies.insert(message.request, reply);
            }
        }
    }
}

/// The strings of a reply, as of a list of children.
pub fn names(reply: &[u8]) -> Vec<String> {
    wire::strings(reply)
        .into_iter()
        .map(|name| String::from_utf8_lossy(name).into_owned())
        .collect()
}

/// The transaction of a reply to its start.
///
/// # Errors
///
/// `EIO` if the reply has none.
pub fn transaction(reply: &[u8]) -> Result<TransactionId, Errno> {
    wire::one_string(reply)
        .and_then(wire::number)
        .map(TransactionId)
        .map_err(|_| Errno::EIO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_are_found_by_number_whatever_their_order() {
        let mut client = Client::new();
        let none = TransactionId::NONE;
        let (first, second) = (
            client.read(none, "/a").unwrap(),
            client.read(none, "/b").unwrap(),
        );
        assert_eq!(client.reply(first), None);
        let bytes = [
            wire::encode(Kind::Read, second.0, 0, b"two"),
            wire::encode(Kind::WatchEvent, 0, 0, b"/a\0token\0"),
            wire::encode(Kind::Error, first.0, 0, b"ENOENT\0"),
            wire::encode(Kind::Read, 77, 0, b"for nobody"),
        ]
        .concat();
        for piece in bytes.chunks(5) {
            client.receive(piece).unwrap();
        }
        assert_eq!(client.reply(first), Some(Err(Errno::ENOENT)));
        assert_eq!(client.reply(second), Some(Ok(b"two".to_vec())));
        assert_eq!(client.reply(second), None);
        let event = client.event().unwrap();
        assert_eq!((&*event.path, &*event.token), ("/a", &b"token"[..]));
        assert_eq!(client.event(), None);
        assert!(client.replies.is_empty() && client.waiting.is_empty());
    }

    #[test]
    fn a_reply_to_another_kind_of_request_is_an_error() {
        let mut client = Client::new();
        let request = client.read(TransactionId::NONE, "/a").unwrap();
        client
            .receive(&wire::encode(Kind::Write, request.0, 0, b"OK\0"))
            .unwrap();
        assert_eq!(client.reply(request), Some(Err(Errno::EIO)));
    }

    #[test]
    fn what_is_forgotten_before_or_after_its_reply_is_not_kept() {
        let mut client = Client::new();
        let requests = ["/a", "/b"].map(|path| client.read(TransactionId::NONE, path).unwrap());
        client.forget(requests[0]);
        for request in requests {
            let reply = wire::encode(Kind::Read, request.0, 0, b"value");
            client.receive(&reply).unwrap();
        }
        assert_eq!(client.answered().collect::<Vec<_>>(), [requests[1]]);
        client.forget(requests[1]);
        assert!(client.replies.is_empty() && client.waiting.is_empty());
    }

    #[test]
    fn what_would_end_the_connection_is_not_sent() {
        let mut client = Client::new();
        let value = [0; XENSTORE_PAYLOAD_MAX];
        let answer = client.write(TransactionId::NONE, "/a", &value);
        assert_eq!(answer, Err(Errno::E2BIG));
        assert!(client.output().is_empty());
    }

    #[test]
    fn a_transactions_number_is_read_from_its_reply() {
        assert_eq!(transaction(b"4294967295\0"), Ok(TransactionId(u32::MAX)));
        assert_eq!(transaction(b"x\0"), Err(Errno::EIO));
        assert_eq!(names(b"a\0bc\0"), ["a", "bc"]);
    }
}
