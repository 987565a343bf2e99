//! Network interfaces of domains.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::domain::DomainRef;

/// How much a domain may send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RateLimit {
    /// Bytes in each interval, more than 0.
    pub bytes: u64,
    /// The interval in microseconds, more than 0.
    pub interval_us: u32,
}

/// A network interface of a domain, as its configuration has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifConfig {
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The bridge that it is on.
    pub bridge: String,
    /// What the interface is called on the host, if it was given a name.
    pub name: Option<String>,
    /// The IP addresses that it may send from, if it is held to some: addresses and ranges, with spaces between.
    pub ip: Option<String>,
    /// How much it may send, if that is limited.
    pub rate: Option<RateLimit>,
}

impl VifConfig {
    /// How many interfaces a domain may have.
    pub const MAX_VIFS: usize = 16;
    /// The longest name of a bridge or of an interface in bytes, as with Linux.
    pub const MAX_NAME: usize = 15;
    /// The bridge that there is.
    pub const BRIDGE: &str = "xenbr0";
}

/// dom0's own address on the bridge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnAddress {
    /// The address.
    pub address: [u8; 4],
    /// How many of its bits are its network's, at most 32.
    pub prefix: u8,
    /// Whom to give what is for other networks.
    pub gateway: Option<[u8; 4]>,
    /// A DHCP server gave it.
    pub leased: bool,
}

impl fmt::Display for OwnAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.address), self.prefix)
    }
}

/// What xl asks about network interfaces.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkRequest {
    /// Give a domain an interface. Answer: [`crate::Reply::Done`].
    Attach {
        /// Which domain.
        domain: DomainRef,
        /// The interface.
        vif: VifConfig,
    },
    /// Take an interface away. Answer: [`crate::Reply::Done`] when the guest has let it go.
    Detach {
        /// Which domain.
        domain: DomainRef,
        /// Its number, or its address.
        vif: String,
    },
    /// The interfaces of a domain. Answer: [`NetworkReply::Interfaces`].
    Interfaces(DomainRef),
    /// Take one TCP connection to a port of dom0's own, and count what comes by it, to see how fast that is. The sender
    /// is told how many bytes came when it has sent all. Answer: [`NetworkReply::Listening`] at once, then
    /// [`NetworkReply::Received`]. The channel's close ends it.
    Receive {
        /// The port.
        port: u16,
    },
}

/// What dom0 answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkReply {
    /// Interfaces, by number.
    Interfaces(Vec<VifInfo>),
    /// A connection may come to this address.
    Listening(OwnAddress),
    /// What came.
    Received {
        /// Bytes.
        bytes: u64,
        /// The time from the first of them to the last, in nanoseconds.
        ns: u64,
    },
}

/// What an interface has passed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Traffic {
    /// Frames.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Frames that were dropped.
    pub dropped: u64,
}

/// A network interface as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VifInfo {
    /// Its number.
    pub devid: u32,
    /// Its Ethernet address.
    pub mac: [u8; 6],
    /// The IPv4 address that the guest was last seen to use.
    pub address: Option<[u8; 4]>,
    /// `XenbusState*` of the guest's end.
    pub state: u32,
    /// The guest's port, once it is connected.
    pub event_channel: Option<u32>,
    /// The grant of the ring that the guest sends by, once it is connected.
    pub tx_ring: Option<u32>,
    /// The grant of the ring that it receives by, once it is connected.
    pub rx_ring: Option<u32>,
    /// Where the backend has its nodes.
    pub path: String,
    /// What the guest has sent.
    pub sent: Traffic,
    /// What the guest was given.
    pub received: Traffic,
}
