//! Which IP addresses a guest may send from (`ip=` of `xl`).
//!
//! The reference's hotplug scripts have iptables do this: what is from one of the addresses passes, and what is for a
//! DHCP server. Here no frame passes but IP and ARP, so that nothing is to be had by wrapping IP up in something
//! else, and whoever asks or answers by ARP or by IPv6's neighbour discovery which station has an address has to be
//! in its right as well.

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use super::packet::{ETHERTYPE_ARP, Ip, UDP, ethertype};

/// Ports of DHCP.
const DHCP_CLIENT: u16 = 68;
const DHCP_SERVER: u16 = 67;

// Headers that may be between IPv6's own and what it carries.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION: u8 = 60;
/// As many as a packet may have here.
const MAX_HEADERS: usize = 8;

const ICMPV6: u8 = 58;
const NEIGHBOR_SOLICITATION: u8 = 135;
const NEIGHBOR_ADVERTISEMENT: u8 = 136;

/// The start of ARP for IPv4 on Ethernet: kinds and lengths of addresses.
const ARP_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
/// Bytes of such a packet.
const ARP_SIZE: usize = 28;

/// The addresses that a guest may send from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources(Vec<IpNet>);

impl Sources {
    /// Most addresses of an interface.
    pub const MAX: usize = 64;
    /// Most bytes of a list.
    pub const MAX_TEXT: usize = 2048;

    /// As the configuration and the node `ip` have them: addresses with spaces between, each alone or as a range
    /// (`10.0.0.0/24`).
    ///
    /// # Errors
    ///
    /// The part that is no address; nothing if there is none, or more than there may be.
    pub fn parse(text: &str) -> Result<Self, &str> {
        let ranges: Result<Vec<_>, _> = text
            .split_whitespace()
            .map(|word| {
                let address = word.parse::<IpAddr>().map(IpNet::from);
                address.or_else(|_| word.parse()).map_err(|_| word)
            })
            .collect();
        let ranges = ranges?;
        match (1..=Self::MAX).contains(&ranges.len()) && text.len() <= Self::MAX_TEXT {
            true => Ok(Self(ranges)),
            false => Err(""),
        }
    }

    /// Whether a frame may be sent.
    pub fn permit(&self, bytes: &[u8]) -> bool {
        self.look(bytes).unwrap_or(false)
    }

    fn contain(&self, address: impl Into<IpAddr>) -> bool {
        let address = address.into();
        self.0.iter().any(|range| range.contains(&address))
    }

    /// None if the frame is cut off, or of something else.
    fn look(&self, bytes: &[u8]) -> Option<bool> {
        let (kind, at) = ethertype(bytes)?;
        if kind == ETHERTYPE_ARP {
            return self.look_at_arp(bytes.get(at..)?);
        }
        let ip = Ip::of(bytes)?;
        if ip.v6 {
            return self.look_at_v6(bytes, ip);
        }
        let source = Ipv4Addr::from(part::<4>(bytes, ip.addresses().start)?);
        Some(self.contain(source) || is_for_dhcp_server(bytes))
    }

    /// Who has no address yet may ask whether anyone has one.
    fn look_at_arp(&self, packet: &[u8]) -> Option<bool> {
        let packet: [u8; ARP_SIZE] = part(packet, 0)?;
        let sender = Ipv4Addr::from(part::<4>(&packet, 14)?);
        let good = packet.starts_with(&ARP_IPV4);
        Some(good && (sender.is_unspecified() || self.contain(sender)))
    }

    fn look_at_v6(&self, bytes: &[u8], ip: Ip) -> Option<bool> {
        let source = Ipv6Addr::from(part::<16>(bytes, ip.addresses().start)?);
        let (protocol, at) = carried(bytes, ip)?;
        let icmp = (protocol == ICMPV6).then(|| bytes.get(at)).flatten();
        let speaks_for_target = || {
            let target = Ipv6Addr::from(part::<16>(bytes, at + 8)?);
            Some(self.contain(target))
        };
        match icmp {
            Some(&NEIGHBOR_ADVERTISEMENT) => Some(self.contain(source) && speaks_for_target()?),
            // Who has no address yet asks whether anyone has the one that it wants.
            Some(&NEIGHBOR_SOLICITATION) if source.is_unspecified() => speaks_for_target(),
            _ => Some(self.contain(source)),
        }
    }
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn is_for_dhcp_server(bytes: &[u8]) -> bool {
    let udp = Ip::of_transport(bytes).filter(|ip| ip.protocol == UDP);
    let ports = udp.and_then(|ip| part::<4>(bytes, ip.payload));
    let [a, b] = DHCP_CLIENT.to_be_bytes();
    let [c, d] = DHCP_SERVER.to_be_bytes();
    ports == Some([a, b, c, d])
}

/// What an IPv6 packet carries, and where; none if that cannot be told.
fn carried(bytes: &[u8], ip: Ip) -> Option<(u8, usize)> {
    let (mut protocol, mut at) = (ip.protocol, ip.payload);
    for _ in 0..MAX_HEADERS {
        at += match protocol {
            HOP_BY_HOP | ROUTING | DESTINATION => {
                let [next, length] = part(bytes, at)?;
                protocol = next;
                8 + usize::from(length) * 8
            }
            FRAGMENT => {
                let [next, _, high, low] = part(bytes, at)?;
                // Only the first has what it carries; neighbour discovery never comes in several (RFC 6980).
                if u16::from_be_bytes([high, low]) & 0xfff8 != 0 {
                    return Some((FRAGMENT, at));
                }
                protocol = next;
                8
            }
            _ => return Some((protocol, at)),
        };
    }
    None
}
