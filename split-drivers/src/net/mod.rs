//! The network protocol (`xen/io/netif.h`): Ethernet between two domains, in one ring for each direction.
//!
//! Data is always copied (`rx-copy`): the backend copies by grant, the frontend to and from pages that it
//! grants. Packets may be in several pages (`sg`), larger than what a wire carries (`gso`), and without
//! their checksum; who can take what is said in the store, and [`offload`] does the rest.
//!
//! There may be several queues, each with its own rings and ports; a flow keeps to one. What an interface may do,
//! and what is counted, is that of the interface. There is no control ring.
//!
//! | module | what it is for |
//! |---|---|
//! | [`nodes`] | what the two ends write to the store, and read there |
//! | [`flow`] | which queue a frame goes to |
//! | [`front`] | the frontend |
//! | [`back`] | the backend |
//! | [`credit`] | how much a guest may send in a time |
//! | [`offload`] | checksums and segments, for who cannot do them |
//! | [`sources`] | which IP addresses a guest may send from |
//! | `stack` | frames as a TCP/IP stack takes and gives them |

use alloc::vec::Vec;
use core::fmt;

use crate::ring::Overrun;

pub mod back;
pub mod credit;
pub mod flow;
pub mod front;
pub mod nodes;
pub mod offload;
mod packet;
pub mod sources;
#[cfg(feature = "stack")]
pub mod stack;
#[cfg(test)]
mod tests;
#[cfg(any(test, fuzzing))]
pub mod world;

pub use nodes::{Connection, Features, Ports, QueueNodes, Transport};

/// Bytes of a granted page.
pub const PAGE: usize = 4096;
/// Bytes of an Ethernet header.
pub const ETHERNET_HEADER: usize = 14;
/// Most bytes of a frame, its header included.
pub const MAX_FRAME: usize = hypercall_abi::io::netif::XEN_NETIF_MAX_TX_SIZE;
/// Most slots that a frame may have.
const MAX_SLOTS: usize = hypercall_abi::io::netif::XEN_NETIF_NR_SLOTS_MIN;
/// Most extras that a frame may have: one of each kind.
const MAX_EXTRAS: usize = 4;

/// Most queues.
pub const MAX_QUEUES: u32 = 16;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// All stations.
    pub const BROADCAST: Self = Self([0xff; 6]);

    /// Whether it is a group's, as that of all stations is.
    pub fn is_group(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// An address as people write it, bytes apart by colons.
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next()?;
            let digits = part.len() <= 2 && part.bytes().all(|it| it.is_ascii_hexdigit());
            *byte = u8::from_str_radix(part, 16).ok().filter(|_| digits)?;
        }
        parts.next().is_none().then_some(Self(bytes))
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, byte) in self.0.iter().enumerate() {
            let colon = if nth == 0 { "" } else { ":" };
            write!(f, "{colon}{byte:02x}")?;
        }
        Ok(())
    }
}

/// What is known of the checksum of a frame's TCP or UDP part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    /// Whoever wants to know has to check it.
    #[default]
    Unchecked,
    /// It is not filled in. The data never left the host.
    Blank,
    /// It was checked.
    Valid,
}

/// Which protocol's segments a frame is to be cut into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP on IPv4.
    Tcp4,
    /// TCP on IPv6.
    Tcp6,
}

/// How a frame is to be cut into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// The protocol.
    pub kind: GsoKind,
    /// Most bytes of payload in a segment, more than 0.
    pub size: u16,
}

/// An Ethernet frame.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// From the destination's address on, without the check sequence.
    pub bytes: Vec<u8>,
    /// What is known of its checksum.
    pub checksum: Checksum,
    /// How to cut it, if it is larger than what a wire carries.
    pub gso: Option<Gso>,
}

impl Frame {
    /// A frame of which nothing is known.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            ..Self::default()
        }
    }

    fn address(&self, at: usize) -> Option<Mac> {
        let bytes = self.bytes.get(at..at + 6)?;
        Some(Mac(bytes.try_into().ok()?))
    }

    /// Who it is for; none if it is too short to say.
    pub fn destination(&self) -> Option<Mac> {
        self.address(0)
    }

    /// Who it is from; none if it is too short to say.
    pub fn source(&self) -> Option<Mac> {
        self.address(6)
    }
}

/// Frames that were passed on, and that were not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Frames passed on.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames for which there was no room, or that may not be passed on.
    pub dropped: u64,
}

impl Counters {
    /// Counts a frame that is passed on.
    pub fn count(&mut self, bytes: usize) {
        self.frames = self.frames.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(bytes as u64);
    }

    /// Counts a frame that is not.
    pub fn count_dropped(&mut self) {
        self.dropped = self.dropped.wrapping_add(1);
    }
}

/// How the other end breaks the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Violation {
    /// A ring's index makes no sense.
    Ring(Overrun),
    /// A part of a frame goes beyond its page.
    BeyondPage {
        /// Where it begins.
        offset: u16,
        /// Bytes.
        size: u16,
    },
    /// A frame of more slots than there may be.
    TooManySlots,
    /// More extras than there may be.
    TooManyExtras,
    /// An extra of a kind that there is not.
    UnknownExtra(u8),
    /// Segments of nothing, or of a protocol that there is not.
    BadSegments {
        /// The protocol.
        kind: u8,
        /// Bytes of payload.
        size: u16,
    },
    /// An answer to what was not asked, or not next.
    WrongAnswer(u16),
    /// More bytes than a frame has.
    TooLong,
}

impl From<Overrun> for Violation {
    fn from(overrun: Overrun) -> Self {
        Self::Ring(overrun)
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ring(overrun) => overrun.fmt(f),
            Self::BeyondPage { offset, size } => {
                write!(f, "{size} bytes at {offset} are not within a page")
            }
            Self::TooManySlots => write!(f, "a frame has more than {MAX_SLOTS} slots"),
            Self::TooManyExtras => write!(f, "a frame has more than {MAX_EXTRAS} extras"),
            Self::UnknownExtra(kind) => write!(f, "there is no extra of kind {kind}"),
            Self::BadSegments { kind, size } => {
                write!(f, "there are no segments of kind {kind} with {size} bytes")
            }
            Self::WrongAnswer(id) => write!(f, "{id} is answered, which was not asked"),
            Self::TooLong => write!(f, "a frame has more than {MAX_FRAME} bytes"),
        }
    }
}

impl core::error::Error for Violation {}

/// Extras in the rings.
mod extra {
    use hypercall_abi::io::netif::*;
    use zerocopy::{FromBytes, FromZeros, IntoBytes};

    use super::{Gso, GsoKind, Mac, Violation};

    /// What an extra says.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Extra {
        Gso(Gso),
        Join(Mac),
        Leave(Mac),
        /// Of no meaning here.
        Hash,
    }

    impl Extra {
        /// What a slot's first bytes say, and whether another extra follows.
        pub fn parse(slot: &[u8]) -> Result<(Self, bool), Violation> {
            let info = match NetifExtraInfo::read_from_prefix(slot) {
                Ok((info, _)) => info,
                Err(_) => return Err(Violation::UnknownExtra(0)),
            };
            let extra = match info.type_ {
                XEN_NETIF_EXTRA_TYPE_GSO => {
                    let gso: NetifExtraGso = info.u.get();
                    let bad = Violation::BadSegments {
                        kind: gso.type_,
                        size: gso.size,
                    };
                    let kind = match gso.type_ {
                        XEN_NETIF_GSO_TYPE_TCPV4 => GsoKind::Tcp4,
                        XEN_NETIF_GSO_TYPE_TCPV6 => GsoKind::Tcp6,
                        _ => return Err(bad),
                    };
                    if gso.size == 0 {
                        return Err(bad);
                    }
                    Self::Gso(Gso {
                        kind,
                        size: gso.size,
                    })
                }
                XEN_NETIF_EXTRA_TYPE_MCAST_ADD => Self::Join(Mac(info.u.get())),
                XEN_NETIF_EXTRA_TYPE_MCAST_DEL => Self::Leave(Mac(info.u.get())),
                XEN_NETIF_EXTRA_TYPE_HASH => Self::Hash,
                other => return Err(Violation::UnknownExtra(other)),
            };
            Ok((extra, info.flags & XEN_NETIF_EXTRA_FLAG_MORE != 0))
        }

        /// As it is in a slot, with no other behind it.
        pub fn info(self) -> NetifExtraInfo {
            let mut info = NetifExtraInfo::new_zeroed();
            match self {
                Self::Gso(gso) => {
                    info.type_ = XEN_NETIF_EXTRA_TYPE_GSO;
                    info.u.set(&NetifExtraGso {
                        size: gso.size,
                        type_: match gso.kind {
                            GsoKind::Tcp4 => XEN_NETIF_GSO_TYPE_TCPV4,
                            GsoKind::Tcp6 => XEN_NETIF_GSO_TYPE_TCPV6,
                        },
                        ..Default::default()
                    });
                }
                Self::Join(Mac(addr)) => {
                    info.type_ = XEN_NETIF_EXTRA_TYPE_MCAST_ADD;
                    info.u.set(&addr);
                }
                Self::Leave(Mac(addr)) => {
                    info.type_ = XEN_NETIF_EXTRA_TYPE_MCAST_DEL;
                    info.u.set(&addr);
                }
                Self::Hash => info.type_ = XEN_NETIF_EXTRA_TYPE_HASH,
            }
            info
        }
    }

    const _: () = assert!(size_of::<NetifExtraInfo>() <= NETIF_RX_ENTRY_SIZE);

    /// A slot's bytes, the rest zero.
    pub fn slot<const N: usize>(value: &(impl IntoBytes + zerocopy::Immutable)) -> [u8; N] {
        let mut slot = [0; N];
        for (place, byte) in slot.iter_mut().zip(value.as_bytes()) {
            *place = *byte;
        }
        slot
    }
}
