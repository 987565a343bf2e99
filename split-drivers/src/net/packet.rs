//! Where IP is in an Ethernet frame. Nothing that a frame says of itself is believed before it is held against
//! the frame's length.

use core::ops::Range;

use super::ETHERNET_HEADER;

const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
/// The protocols of IP that are looked into.
pub(super) const TCP: u8 = 6;
pub(super) const UDP: u8 = 17;

/// Two bytes of a frame, as the network has them.
pub(super) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    let bytes = bytes.get(at..at.checked_add(2)?)?;
    Some(u16::from_be_bytes(bytes.try_into().ok()?))
}

/// What a frame is of, behind a VLAN's tag if it has one, and where that begins.
pub(super) fn ethertype(bytes: &[u8]) -> Option<(u16, usize)> {
    let kind = be16(bytes, ETHERNET_HEADER - 2)?;
    match kind {
        ETHERTYPE_VLAN => Some((be16(bytes, ETHERNET_HEADER + 2)?, ETHERNET_HEADER + 4)),
        _ => Some((kind, ETHERNET_HEADER)),
    }
}

/// An IP header, which is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ip {
    /// Where it begins.
    pub at: usize,
    pub v6: bool,
    pub protocol: u8,
    /// Where what it carries begins.
    pub payload: usize,
    /// The end of the packet, by what it says itself; behind it there is padding.
    pub end: usize,
    /// It is a part of a packet.
    pub fragment: bool,
}

impl Ip {
    /// That of a frame; none if the frame is of something else, or cut off.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let (kind, at) = ethertype(bytes)?;
        let first = *bytes.get(at)?;
        let ip = match kind {
            ETHERTYPE_IPV4 if first >> 4 == 4 => {
                let header = usize::from(first & 0xf) * 4;
                let total = usize::from(be16(bytes, at + 2)?);
                if header < 20 || total < header {
                    return None;
                }
                Self {
                    at,
                    v6: false,
                    protocol: *bytes.get(at + 9)?,
                    payload: at + header,
                    end: at + total,
                    // More of them, or not the first.
                    fragment: be16(bytes, at + 6)? & 0x3fff != 0,
                }
            }
            ETHERTYPE_IPV6 if first >> 4 == 6 => Self {
                at,
                v6: true,
                protocol: *bytes.get(at + 6)?,
                payload: at + 40,
                end: at + 40 + usize::from(be16(bytes, at + 4)?),
                fragment: false,
            },
            _ => return None,
        };
        (ip.payload <= bytes.len()).then_some(ip)
    }

    /// That of a whole TCP or UDP packet, with the whole of the header behind it.
    pub fn of_transport(bytes: &[u8]) -> Option<Self> {
        let ip = Self::of(bytes).filter(|ip| !ip.fragment)?;
        let least = match ip.protocol {
            TCP => 20,
            UDP => 8,
            _ => return None,
        };
        (ip.end <= bytes.len() && ip.payload + least <= ip.end).then_some(ip)
    }

    /// Where its two addresses are, the source's first.
    pub fn addresses(&self) -> Range<usize> {
        match self.v6 {
            true => self.at + 8..self.at + 40,
            false => self.at + 12..self.at + 20,
        }
    }
}
