//! What an end leaves to the other, done in software: checksums, and segments of TCP.
//!
//! Whatever a frame says of itself is checked against its length; a frame that is not what its sender says
//! is no frame that anything can be done with.

use alloc::vec::Vec;

use super::packet::{Ip, TCP, UDP, be16};
use super::{Checksum, Features, Frame, Gso, GsoKind, PAGE};

/// Segments of a frame at most. Else a guest has its neighbours' backends make thousands, each with all headers, by
/// one frame.
const MAX_SEGMENTS: usize = 512;

const TCP_FIN: u8 = 1;
const TCP_PSH: u8 = 1 << 3;
const TCP_CWR: u8 = 1 << 7;

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Of TCP and UDP.
impl Ip {
    fn checksum_at(&self) -> usize {
        self.payload + if self.protocol == TCP { 16 } else { 6 }
    }

    /// The sum of addresses, length and protocol.
    fn pseudo_sum(&self, bytes: &[u8]) -> Sum {
        let length = (self.end - self.payload) as u32;
        let mut sum = Sum::default();
        sum.add(bytes.get(self.addresses()).unwrap_or_default());
        sum.add(&length.to_be_bytes());
        sum.add(&[0, self.protocol]);
        sum
    }

    /// The transport's checksum.
    fn fill_checksum(&self, bytes: &mut [u8]) {
        put(bytes, self.checksum_at(), &[0; 2]);
        let mut sum = self.pseudo_sum(bytes);
        sum.add(bytes.get(self.payload..self.end).unwrap_or_default());
        let value = match sum.finish() {
            // Zero would say that there is none.
            0 if self.protocol == UDP => 0xffff,
            value => value,
        };
        put(bytes, self.checksum_at(), &value.to_be_bytes());
    }

    fn fill_ip_checksum(&self, bytes: &mut [u8]) {
        if !self.v6 {
            put(bytes, self.at + 10, &[0; 2]);
            let mut sum = Sum::default();
            sum.add(bytes.get(self.at..self.payload).unwrap_or_default());
            put(bytes, self.at + 10, &sum.finish().to_be_bytes());
        }
    }

    /// Bytes of all headers, if the packet is TCP.
    fn tcp_headers(&self, bytes: &[u8]) -> Option<usize> {
        let header = usize::from(*bytes.get(self.payload + 12)? >> 4) * 4;
        let headers = self.payload + header;
        (self.protocol == TCP && header >= 20 && headers <= self.end).then_some(headers)
    }
}

/// The Internet checksum, of parts of which all but the last have an even length.
#[derive(Default)]
struct Sum(u64);

impl Sum {
    fn add(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<4>();
        for word in words {
            self.0 += u64::from(u32::from_be_bytes(*word));
        }
        let (words, rest) = rest.as_chunks::<2>();
        for word in words {
            self.0 += u64::from(u16::from_be_bytes(*word));
        }
        if let [last] = rest {
            self.0 += u64::from(*last) << 8;
        }
    }

    fn finish(self) -> u16 {
        let mut sum = self.0;
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }
}

/// Whether a frame is what it says of itself: what it leaves to others can be done.
pub fn is_sound(frame: &Frame) -> bool {
    if frame.checksum != Checksum::Blank && frame.gso.is_none() {
        return true;
    }
    let Some(ip) = Ip::of_transport(&frame.bytes) else {
        return false;
    };
    match frame.gso {
        None => true,
        // Segments have new checksums in any case.
        Some(gso) => {
            let most = MAX_SEGMENTS * usize::from(gso.size);
            let headers = ip.tcp_headers(&frame.bytes);
            ip.v6 == (gso.kind == GsoKind::Tcp6)
                && headers.is_some_and(|headers| ip.end - headers <= most)
        }
    }
}

/// Whether a frame's checksum is right, or there is none to check.
pub fn is_checksum_right(bytes: &[u8]) -> bool {
    let Some(ip) = Ip::of_transport(bytes) else {
        return true;
    };
    let mut right = bytes.to_vec();
    ip.fill_checksum(&mut right);
    let given = be16(bytes, ip.checksum_at());
    given == be16(&right, ip.checksum_at()) || ip.protocol == UDP && given == Some(0)
}

/// Fills in the checksum of a frame that has none; false if the frame is not [sound](is_sound).
#[must_use]
pub fn complete(frame: &mut Frame) -> bool {
    if frame.checksum != Checksum::Blank {
        return true;
    }
    let Some(ip) = Ip::of_transport(&frame.bytes) else {
        return false;
    };
    ip.fill_checksum(&mut frame.bytes);
    frame.checksum = Checksum::Valid;
    true
}

/// Leaves the checksum of a frame to others, if it has one: what is in its place is the sum of addresses and
/// length, as they expect it.
pub fn leave(frame: &mut Frame) {
    if let Some(ip) = Ip::of_transport(&frame.bytes) {
        let sum = !ip.pseudo_sum(&frame.bytes).finish();
        put(&mut frame.bytes, ip.checksum_at(), &sum.to_be_bytes());
        frame.checksum = Checksum::Blank;
    }
}

/// Cuts a frame into segments, all with checksums; none if it is not [sound](is_sound).
fn segments(frame: &Frame, gso: Gso) -> Vec<Frame> {
    let mut segments = Vec::new();
    let bytes = &frame.bytes;
    let Some(ip) = Ip::of_transport(bytes).filter(|_| is_sound(frame) && gso.size > 0) else {
        return segments;
    };
    let Some(headers) = ip.tcp_headers(bytes) else {
        return segments;
    };
    let (head, payload) = bytes[..ip.end].split_at(headers);
    let count = payload.len().div_ceil(gso.size.into()).max(1);
    let sequence = be32(head, ip.payload + 4).unwrap_or_default();
    let identification = be16(head, ip.at + 4).unwrap_or_default();
    let flags = head.get(ip.payload + 13).copied().unwrap_or_default();
    for nth in 0..count {
        let start = nth * usize::from(gso.size);
        let part = &payload[start..payload.len().min(start + usize::from(gso.size))];
        let mut bytes = Vec::with_capacity(headers + part.len());
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(part);
        let ip = Ip {
            end: bytes.len(),
            ..ip
        };
        if ip.v6 {
            let length = (ip.end - ip.payload) as u16;
            put(&mut bytes, ip.at + 4, &length.to_be_bytes());
        } else {
            let length = (ip.end - ip.at) as u16;
            put(&mut bytes, ip.at + 2, &length.to_be_bytes());
            let number = identification.wrapping_add(nth as u16);
            put(&mut bytes, ip.at + 4, &number.to_be_bytes());
        }
        let number = sequence.wrapping_add(start as u32);
        put(&mut bytes, ip.payload + 4, &number.to_be_bytes());
        let mut flags = flags;
        if nth + 1 < count {
            flags &= !(TCP_FIN | TCP_PSH);
        }
        if nth > 0 {
            flags &= !TCP_CWR;
        }
        put(&mut bytes, ip.payload + 13, &[flags]);
        ip.fill_ip_checksum(&mut bytes);
        ip.fill_checksum(&mut bytes);
        segments.push(Frame {
            bytes,
            checksum: Checksum::Valid,
            gso: None,
        });
    }
    segments
}

/// Whether somebody with these features can take a frame as it is.
pub fn is_fit(frame: &Frame, features: &Features) -> bool {
    takes_segments(frame, features)
        && (frame.checksum != Checksum::Blank || takes_blank(frame, features))
        && (features.sg || frame.bytes.len() <= PAGE)
}

/// Whether what is to be cut can be left to them.
fn takes_segments(frame: &Frame, features: &Features) -> bool {
    match frame.gso.map(|gso| gso.kind) {
        None => true,
        Some(GsoKind::Tcp4) => features.gso_tcp4 && features.checksum4,
        Some(GsoKind::Tcp6) => features.gso_tcp6 && features.checksum6,
    }
}

/// Whether the checksum can be left to them.
fn takes_blank(frame: &Frame, features: &Features) -> bool {
    match Ip::of(&frame.bytes).is_some_and(|ip| ip.v6) {
        false => features.checksum4,
        true => features.checksum6,
    }
}

/// A frame as somebody can take it who has these features; several if it has to be cut, none if there is
/// no way.
pub fn fit(mut frame: Frame, features: &Features) -> Vec<Frame> {
    let mut frames = match frame.gso {
        Some(gso) if !takes_segments(&frame, features) => segments(&frame, gso),
        _ => {
            if !takes_blank(&frame, features) && !complete(&mut frame) {
                return Vec::new();
            }
            Vec::from([frame])
        }
    };
    frames.retain(|frame| features.sg || frame.bytes.len() <= PAGE);
    frames
}
