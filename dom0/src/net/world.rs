//! A station that sends what bytes say, beside this domain's own stack: for tests and for a fuzzer.
//!
//! What it sends is mostly well formed, or little of it would be looked at: ARP, pings, DHCP replies to what was asked,
//! segments of connections that there are.

use alloc::vec;
use alloc::vec::Vec;

use split_drivers::net::{Checksum, Frame, Mac};

use super::addressing::{self, Addressing};
use super::stack::{BUDGET, Connection, MAX_CONNECTIONS, MAX_OUT, MAX_WAITING, Stack};

/// This domain's address on the wire.
pub const OWN: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The other station's.
pub const OTHER: Mac = Mac([2, 0, 0, 0, 0, 9]);
/// Addresses that are worth something: this domain's, the other's, and what is no station's.
const ADDRESSES: [[u8; 4]; 8] = [
    [10, 0, 2, 15],
    [10, 0, 2, 9],
    [10, 0, 2, 255],
    [0; 4],
    [255; 4],
    [224, 0, 0, 1],
    [127, 0, 0, 1],
    [192, 168, 0, 1],
];
/// Ports that something may be at.
const PORTS: [u16; 4] = [80, 5001, 49152, 9];
/// The largest frame on a wire.
const WIRE: usize = 1514;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;

/// The Internet checksum.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u32::from(u16::from_be_bytes([*high, *low])),
        [high] => u32::from(*high) << 8,
        _ => 0,
    });
    let mut sum = words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

/// An Ethernet frame from the other station.
pub fn ethernet(to: Mac, kind: u16, content: &[u8]) -> Frame {
    let mut bytes = Vec::from(to.0);
    bytes.extend(OTHER.0);
    bytes.extend(kind.to_be_bytes());
    bytes.extend(content);
    Frame::new(bytes)
}

/// An ARP message from the other station.
pub fn arp(operation: u16, sender: [u8; 4], target: [u8; 4]) -> Frame {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(operation.to_be_bytes());
    bytes.extend(OTHER.0);
    bytes.extend(sender);
    bytes.extend([0; 6]);
    bytes.extend(target);
    ethernet(Mac::BROADCAST, 0x0806, &bytes)
}

/// An IP packet from the other station. What it carries has no checksum, or need not have one.
pub fn ip(protocol: u8, from: [u8; 4], to: [u8; 4], content: &[u8]) -> Frame {
    let length = (20 + content.len()).min(0xffff) as u16;
    let mut header = vec![0x45, 0];
    header.extend(length.to_be_bytes());
    header.extend([0, 0, 0, 0, 64, protocol, 0, 0]);
    header.extend(from);
    header.extend(to);
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum);
    header.extend(content);
    let mut frame = ethernet(OWN, 0x0800, &header);
    frame.checksum = Checksum::Valid;
    frame
}

/// A ping.
pub fn ping(from: [u8; 4], to: [u8; 4], content: &[u8]) -> Frame {
    let mut bytes = vec![8, 0, 0, 0, 0, 7, 0, 1];
    bytes.extend(content);
    let sum = checksum(&bytes);
    bytes[2..4].copy_from_slice(&sum);
    ip(ICMP, from, to, &bytes)
}

/// A DHCP server's message, with options behind that of its kind.
pub fn dhcp(kind: u8, xid: [u8; 4], given: [u8; 4], server: [u8; 4], options: &[u8]) -> Frame {
    let mut message = vec![2, 1, 6, 0];
    message.extend(xid);
    message.extend([0; 8]);
    message.extend(given);
    message.extend([0; 8]);
    message.extend(OWN.0);
    message.resize(236, 0);
    message.extend([99, 130, 83, 99, 53, 1, kind, 54, 4]);
    message.extend(server);
    message.extend(options);
    message.push(255);
    let mut udp = vec![0, 67, 0, 68];
    udp.extend(((8 + message.len()) as u16).to_be_bytes());
    udp.extend([0, 0]);
    udp.extend(message);
    ip(UDP, server, [255; 4], &udp)
}

/// Bytes of a frame, as many as there are.
pub fn part<const N: usize>(frame: &Frame, at: usize) -> Option<[u8; N]> {
    frame.bytes.get(at..at + N)?.try_into().ok()
}

/// The bytes that say what happens.
struct Script<'a>(&'a [u8]);

impl Script<'_> {
    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let (bytes, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        bytes.to_vec()
    }

    fn byte(&mut self) -> u8 {
        self.bytes(1).first().copied().unwrap_or(0)
    }

    fn pick<T: Copy, const N: usize>(&mut self, of: [T; N]) -> T {
        of[usize::from(self.byte()) % N]
    }

    /// A number, more often a small one, that may be negative.
    fn offset(&mut self) -> u32 {
        let value = u32::from(self.byte());
        match self.byte() % 8 {
            0..=3 => value % 4,
            4 => value * 1460,
            5 => (value % 4).wrapping_neg(),
            6 => value << 24,
            _ => value.wrapping_mul(0x0101_0101),
        }
    }
}

struct World<'a> {
    script: Script<'a>,
    stack: Stack,
    now: u64,
    connections: Vec<Connection>,
    /// What this domain last said of itself: the number of its DHCP request, and of a connection its sequence number,
    /// what it has seen of the other's, and the ports.
    xid: [u8; 4],
    sequence: u32,
    seen: u32,
    ports: (u16, u16),
}

/// Has the other station and the users of the stack do what the bytes say.
///
/// # Panics
///
/// If the stack keeps or sends more than it may, has an address that nobody can have, or panics itself.
pub fn hostile_neighbour(bytes: &[u8]) {
    let mut script = Script(bytes);
    let given = match script.byte() % 3 {
        0 => Addressing::Dhcp,
        1 => Addressing::parse(Some("10.0.2.15/24"), Some("10.0.2.2")).unwrap_or_default(),
        _ => Addressing::parse(Some("10.0.2.15/24"), None).unwrap_or_default(),
    };
    let Some(stack) = Stack::new(OWN, given, 7, 0) else {
        return;
    };
    let mut world = World {
        script,
        stack,
        now: 0,
        connections: Vec::new(),
        xid: [0; 4],
        sequence: 0,
        seen: 0,
        ports: (80, 4000),
    };
    world.connections.extend(world.stack.listen(80));
    while !world.script.0.is_empty() {
        world.step();
    }
    for connection in world.connections.drain(..) {
        world.stack.close(connection, world.now);
    }
}

impl World<'_> {
    fn step(&mut self) {
        let count = match self.script.byte() % 16 {
            // More than it keeps.
            0 => 2 * MAX_WAITING,
            1 => usize::from(self.script.byte()),
            _ => 1,
        };
        match self.script.byte() % 16 {
            0 => self.now += 1_000_000 << (self.script.byte() % 24),
            1 => self.now += 1_000_000,
            2 | 3 => self.use_connections(),
            _ => {
                let frame = self.frame();
                for _ in 0..count {
                    self.stack.deliver(frame.clone());
                }
            }
        }
        let mut turns = 0;
        while self.stack.is_busy() || turns == 0 {
            let out = self.stack.turn(self.now);
            turns += 1;
            assert!(
                out.len() <= MAX_OUT,
                "{} frames are sent in a turn",
                out.len()
            );
            assert!(
                turns <= 2 + MAX_WAITING / BUDGET,
                "more was kept than may be"
            );
            for frame in out {
                self.hear(&frame);
            }
        }
        let own = self.stack.address();
        assert!(own.is_none_or(|own| addressing::is_sound(&own)), "{own:?}");
    }

    fn frame(&mut self) -> Frame {
        let script = &mut self.script;
        let mut frame = match script.byte() % 12 {
            0 => {
                let bytes = script.bytes(100);
                let kind = script.pick([0x0800, 0x0806, 0x86dd, 0x8100]);
                ethernet(OWN, kind, &bytes)
            }
            1 => {
                let operation = u16::from(script.byte() % 4);
                arp(operation, script.pick(ADDRESSES), script.pick(ADDRESSES))
            }
            2 => {
                let content = vec![7; usize::from(script.byte()) * 256];
                ping(script.pick(ADDRESSES), script.pick(ADDRESSES), &content)
            }
            3 => {
                let (protocol, content) = (script.byte(), script.bytes(64));
                ip(protocol, script.pick(ADDRESSES), ADDRESSES[0], &content)
            }
            4..=6 => {
                let kind = script.pick([2, 5, 5, 6, 1]);
                let (given, server) = (script.pick(ADDRESSES), script.pick(ADDRESSES));
                let mut options = Vec::new();
                for _ in 0..script.byte() % 4 {
                    // The mask, the gateway, the name servers, and the times.
                    let option = script.pick([1, 3, 6, 51, 58, 59]);
                    options.extend([option, 4]);
                    options.extend(match script.byte() % 4 {
                        0 => [255, 255, 255, 0],
                        1 => [0, 0, script.byte(), 60],
                        _ => script.pick(ADDRESSES),
                    });
                }
                let more = usize::from(script.byte() % 8);
                options.extend(script.bytes(more));
                dhcp(kind, self.xid, given, server, &options)
            }
            _ => self.segment(),
        };
        match self.script.byte() % 8 {
            0 => frame.bytes.truncate(usize::from(self.script.byte())),
            1 => {
                let at = usize::from(self.script.byte());
                let value = self.script.byte();
                if let Some(byte) = frame.bytes.get_mut(at) {
                    *byte = value;
                }
            }
            _ => {}
        }
        frame
    }

    /// A segment of the connection that this domain last said something by, or of another.
    fn segment(&mut self) -> Frame {
        let script = &mut self.script;
        let (to, from) = match script.byte() % 4 {
            0 => (script.pick(PORTS), 4000 + u16::from(script.byte() % 4)),
            _ => self.ports,
        };
        let sequence = self.seen.wrapping_add(script.offset());
        let acknowledged = self.sequence.wrapping_add(script.offset());
        let flags = script.pick([0x02, 0x10, 0x18, 0x11, 0x12, 0x04, 0x14, 0x00, 0xff, 0x10]);
        let window = script.pick([0, 1, 1000, 0xffff]);
        let mut options = match script.byte() % 4 {
            0 => vec![2, 4, script.byte(), script.byte(), 3, 3, script.byte(), 0],
            1 => script.bytes(12),
            _ => Vec::new(),
        };
        options.resize(options.len().next_multiple_of(4), 0);
        let payload = match script.byte() % 4 {
            0 => usize::from(script.byte()),
            1 => usize::from(script.byte()) * 200,
            _ => 0,
        };
        let mut bytes = Vec::from(from.to_be_bytes());
        bytes.extend(to.to_be_bytes());
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(acknowledged.to_be_bytes());
        bytes.extend([(((20 + options.len()) / 4) << 4) as u8, flags]);
        bytes.extend(u16::to_be_bytes(window));
        bytes.extend([0; 4]);
        bytes.extend(options);
        bytes.resize(bytes.len() + payload, 5);
        let sender = match script.byte() % 16 {
            0 => script.pick(ADDRESSES),
            _ => ADDRESSES[1],
        };
        ip(TCP, sender, ADDRESSES[0], &bytes)
    }

    /// What this domain's own users of the stack do.
    fn use_connections(&mut self) {
        let (stack, script) = (&mut self.stack, &mut self.script);
        let number = usize::from(script.byte());
        let connection = number.checked_rem(self.connections.len());
        match (script.byte() % 8, connection) {
            (0, _) => self.connections.extend(stack.listen(script.pick(PORTS))),
            (1, _) => {
                let (to, port) = (script.pick(ADDRESSES), script.pick([80, 0]));
                self.connections.extend(stack.connect(to, port));
            }
            (2, Some(nth)) => {
                let connection = self.connections.swap_remove(nth);
                stack.close(connection, self.now);
            }
            (3, Some(nth)) => stack.finish(&self.connections[nth]),
            (4, Some(nth)) => {
                let bytes = vec![3; usize::from(script.byte()) * 1000];
                stack.send(&self.connections[nth], &bytes);
            }
            (_, Some(nth)) => {
                let most = usize::from(script.byte()) * 1000;
                stack.receive(&self.connections[nth], |bytes| most.min(bytes.len()));
                _ = stack.life(&self.connections[nth]);
            }
            (_, None) => {}
        }
        assert!(self.connections.len() <= MAX_CONNECTIONS);
    }

    /// What this domain says.
    fn hear(&mut self, frame: &Frame) {
        assert_eq!(frame.source(), Some(OWN));
        assert!(
            frame.bytes.len() <= WIRE,
            "{} bytes are sent",
            frame.bytes.len()
        );
        if part(frame, 12) != Some([8, 0]) {
            return;
        }
        match part(frame, 23) {
            Some([UDP]) => self.xid = part(frame, 46).unwrap_or_default(),
            Some([TCP]) => {
                let word = |at| part(frame, at).map(u32::from_be_bytes).unwrap_or_default();
                let port = |at| part(frame, at).map(u16::from_be_bytes).unwrap_or_default();
                self.ports = (port(34), port(36));
                self.sequence = word(38);
                self.seen = word(42);
            }
            _ => {}
        }
    }
}
