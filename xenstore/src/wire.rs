//! Messages: a header and at most [`XENSTORE_PAYLOAD_MAX`] bytes of payload, mostly strings that
//! each end with a nul byte (`xen/io/xs_wire.h`, `docs/misc/xenstore.txt`).

use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::*;
use zerocopy::{FromBytes, IntoBytes};

/// Bytes of a header.
pub const HEADER: usize = size_of::<XsdSockmsg>();

macro_rules! kinds {
    ($( #[doc = $text:literal] $name:ident = $value:expr, )*) => {
        /// A message's type. The numbers from `GetFeature` on are those of headers later than
        /// 4.17's, whose documentation describes the requests without numbering them.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum Kind {
            $( #[doc = $text] $name = $value, )*
        }

        impl Kind {
            /// All there are.
            pub const ALL: &[Self] = &[$( Self::$name, )*];
        }
    };
}

kinds! {
    /// Control the store.
    Control = XS_CONTROL,
    /// List a node's children.
    Directory = XS_DIRECTORY,
    /// Read a node's value.
    Read = XS_READ,
    /// Get a node's permissions.
    GetPermissions = XS_GET_PERMS,
    /// Watch a node and what is below it.
    Watch = XS_WATCH,
    /// Stop watching.
    Unwatch = XS_UNWATCH,
    /// Start a transaction.
    TransactionStart = XS_TRANSACTION_START,
    /// End a transaction.
    TransactionEnd = XS_TRANSACTION_END,
    /// Serve a domain.
    Introduce = XS_INTRODUCE,
    /// Stop serving a domain.
    Release = XS_RELEASE,
    /// Get the path that a domain's relative paths start from.
    GetDomainPath = XS_GET_DOMAIN_PATH,
    /// Write a node's value.
    Write = XS_WRITE,
    /// Create a node unless it exists.
    Mkdir = XS_MKDIR,
    /// Remove a node and what is below it.
    Remove = XS_RM,
    /// Set a node's permissions.
    SetPermissions = XS_SET_PERMS,
    /// From the store: a watched node changed.
    WatchEvent = XS_WATCH_EVENT,
    /// From the store: a request failed.
    Error = XS_ERROR,
    /// Ask whether a domain is served.
    IsDomainIntroduced = XS_IS_DOMAIN_INTRODUCED,
    /// A domain that shut down goes on.
    Resume = XS_RESUME,
    /// Let a domain act for another.
    SetTarget = XS_SET_TARGET,
    /// Drop all watches and transactions of the caller.
    ResetWatches = XS_RESET_WATCHES,
    /// List a part of a node's children.
    DirectoryPart = XS_DIRECTORY_PART,
    /// Get the features that a domain's page offers.
    GetFeature = 23,
    /// Set the features that a domain's page will offer.
    SetFeature = 24,
    /// Get a quota.
    GetQuota = 25,
    /// Set a quota.
    SetQuota = 26,
}

impl Kind {
    /// The type with this number.
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|kind| *kind as u32 == number)
    }
}

/// The name under which an error goes over the wire. One that has none there is an `EINVAL`.
pub fn error_name(error: Errno) -> &'static str {
    XSD_ERRORS
        .iter()
        .find(|(errno, _)| *errno == error)
        .map_or("EINVAL", |(_, name)| name)
}

/// The error of this name.
pub fn error_from_name(name: &[u8]) -> Option<Errno> {
    XSD_ERRORS
        .iter()
        .find(|(_, known)| known.as_bytes() == name)
        .map(|(errno, _)| *errno)
}

/// A message's bytes. The payload's length is the caller's to check.
pub fn encode(kind: Kind, request: u32, transaction: u32, payload: &[u8]) -> Vec<u8> {
    let header = XsdSockmsg {
        type_: kind as u32,
        req_id: request,
        tx_id: transaction,
        len: payload.len() as u32,
    };
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// The strings of a payload. Bytes after the last nul belong to none.
pub fn strings(payload: &[u8]) -> Vec<&[u8]> {
    let mut strings: Vec<_> = payload.split(|byte| *byte == 0).collect();
    strings.pop();
    strings
}

/// A payload of exactly one string.
pub fn one_string(payload: &[u8]) -> Result<&[u8], Errno> {
    match payload.split_last() {
        Some((0, string)) if !string.contains(&0) => Ok(string),
        _ => Err(Errno::EINVAL),
    }
}

/// A string and the bytes after it.
pub fn string_and_rest(payload: &[u8]) -> Result<(&[u8], &[u8]), Errno> {
    let end = payload
        .iter()
        .position(|byte| *byte == 0)
        .ok_or(Errno::EINVAL)?;
    Ok((&payload[..end], &payload[end + 1..]))
}

/// A number in decimal digits.
pub fn number<N: TryFrom<u64>>(string: &[u8]) -> Result<N, Errno> {
    let digits = core::str::from_utf8(string).map_err(|_| Errno::EINVAL)?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Errno::EINVAL);
    }
    let number: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    N::try_from(number).map_err(|_| Errno::EINVAL)
}

/// A message, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The header's `type`.
    pub kind: u32,
    /// The request's number.
    pub request: u32,
    /// The transaction's number, 0 for none.
    pub transaction: u32,
    /// What follows the header.
    pub payload: Vec<u8>,
}

/// A header announces more than [`XENSTORE_PAYLOAD_MAX`] bytes, which ends the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLong;

/// Puts one message together from the pieces in which it arrives, and holds it until it is taken:
/// whoever sends faster than messages are taken has to wait.
#[derive(Debug, Default)]
pub struct Assembler {
    head: [u8; HEADER],
    header: Option<XsdSockmsg>,
    payload: Vec<u8>,
    filled: usize,
}

impl Assembler {
    /// Where the bytes belong that the message lacks. Empty once it is complete.
    pub fn room(&mut self) -> &mut [u8] {
        match self.header {
            None => &mut self.head[self.filled..],
            Some(_) => &mut self.payload[self.filled..],
        }
    }

    /// Says that the first `count` bytes of [`room`](Self::room) were filled in.
    pub fn fill(&mut self, count: usize) -> Result<(), TooLong> {
        self.filled += count.min(self.room().len());
        if self.header.is_some() || self.filled < HEADER {
            return Ok(());
        }
        let Ok(header) = XsdSockmsg::read_from_bytes(&self.head) else {
            return Ok(());
        };
        if header.len as usize > XENSTORE_PAYLOAD_MAX {
            return Err(TooLong);
        }
        self.payload = vec![0; header.len as usize];
        self.header = Some(header);
        self.filled = 0;
        Ok(())
    }

    /// Takes bytes until the message is complete; how many it took.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, TooLong> {
        let mut taken = 0;
        while !self.is_complete() && taken < bytes.len() {
            let room = self.room();
            let count = room.len().min(bytes.len() - taken);
            room[..count].copy_from_slice(&bytes[taken..taken + count]);
            taken += count;
            self.fill(count)?;
        }
        Ok(taken)
    }

    /// Whether all of a message is here.
    pub fn is_complete(&self) -> bool {
        self.header.is_some() && self.filled == self.payload.len()
    }

    /// The type of the message, once its header is here.
    pub fn kind(&self) -> Option<Kind> {
        Kind::from_number(self.header?.type_)
    }

    /// The transaction of the message, once its header is here.
    pub fn transaction(&self) -> Option<u32> {
        Some(self.header?.tx_id)
    }

    /// The complete message, and begins the next.
    pub fn take(&mut self) -> Option<Message> {
        if !self.is_complete() {
            return None;
        }
        let header = self.header.take()?;
        self.filled = 0;
        Some(Message {
            kind: header.type_,
            request: header.req_id,
            transaction: header.tx_id,
            payload: core::mem::take(&mut self.payload),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    #[test]
    fn every_type_of_the_header_is_known() {
        for number in 0..XS_TYPE_COUNT {
            // 20 was XS_RESTRICT.
            assert_eq!(Kind::from_number(number).is_some(), number != 20);
        }
        assert_eq!(Kind::from_number(XS_INVALID), None);
    }

    #[test]
    fn errors_go_by_name_and_strange_ones_as_invalid() {
        assert_eq!(error_name(Errno::EAGAIN), "EAGAIN");
        assert_eq!(error_name(Errno::ESRCH), "EINVAL");
        assert_eq!(error_from_name(b"E2BIG"), Some(Errno::E2BIG));
        assert_eq!(error_from_name(b"ESRCH"), None);
    }

    #[test]
    fn payloads_are_split_at_nuls() {
        assert_eq!(strings(b"a\0\0bc\0rest"), [&b"a"[..], b"", b"bc"]);
        assert!(strings(b"").is_empty());
        assert_eq!(one_string(b"a\0"), Ok(&b"a"[..]));
        for wrong in [&b""[..], b"a", b"a\0b\0", b"a\0b"] {
            assert_eq!(one_string(wrong), Err(Errno::EINVAL));
        }
        assert_eq!(string_and_rest(b"a\0b\0c"), Ok((&b"a"[..], &b"b\0c"[..])));
        assert_eq!(string_and_rest(b"a"), Err(Errno::EINVAL));
    }

    #[test]
    fn numbers_are_decimal_and_in_range() {
        assert_eq!(number::<u16>(b"007"), Ok(7));
        for wrong in [&b""[..], b"65536", b"-1", b"+1", b"0x1", b"1 ", b"\xff"] {
            assert_eq!(number::<u16>(wrong), Err(Errno::EINVAL));
        }
    }

    #[test]
    fn one_message_is_held_until_it_is_taken() {
        let first = encode(Kind::Read, 1, 2, b"/\0");
        let second = encode(Kind::ResetWatches, 3, 0, b"");
        let both = [&first[..], &second].concat();
        let mut assembler = Assembler::default();
        assert_eq!(assembler.push(&both), Ok(first.len()));
        assert_eq!(assembler.push(&second), Ok(0));
        let message = assembler.take().unwrap();
        assert_eq!((message.request, message.transaction), (1, 2));
        assert_eq!(message.payload, b"/\0");
        assert_eq!(assembler.push(&second), Ok(second.len()));
        assert_eq!(assembler.take().unwrap().request, 3);
        assert_eq!(assembler.take(), None);
    }

    #[test]
    fn the_longest_payload_is_taken_and_a_longer_one_refused() {
        let longest = encode(Kind::Write, 0, 0, &[1; XENSTORE_PAYLOAD_MAX]);
        assert_eq!(Assembler::default().push(&longest), Ok(longest.len()));
        let longer = encode(Kind::Write, 0, 0, &[1; XENSTORE_PAYLOAD_MAX + 1]);
        assert_eq!(Assembler::default().push(&longer), Err(TooLong));
    }

    proptest! {
        #[test]
        fn pieces_make_the_messages_that_were_sent(
            payloads in vec(vec(any::<u8>(), 0..40), 1..10),
            sizes in vec(1_usize..30, 1..100),
        ) {
            let bytes: Vec<u8> = payloads
                .iter()
                .zip(0..)
                .flat_map(|(payload, request)| encode(Kind::Write, request, 9, payload))
                .collect();
            let mut assembler = Assembler::default();
            let (mut rest, mut sizes) = (&bytes[..], sizes.iter().cycle());
            let mut received = Vec::new();
            while !rest.is_empty() {
                let piece = &rest[..rest.len().min(*sizes.next().unwrap())];
                rest = &rest[assembler.push(piece).unwrap()..];
                if let Some(message) = assembler.take() {
                    prop_assert_eq!(message.request as usize, received.len());
                    received.push(message.payload);
                }
            }
            prop_assert_eq!(received, payloads);
        }
    }
}
