//! A queue of a backend: the two rings, and the frames that wait for the frontend.

use alloc::collections::VecDeque;
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::io::netif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::FromZeros;

use super::interface::Interface;
use super::transmit::{Assembly, Packet, Slot};
use crate::SharedMemory;
use crate::grants::{Copy, Grants, Place};
use crate::net::extra::{Extra, slot};
use crate::net::{Checksum, Frame, MAX_FRAME, PAGE, Violation};
use crate::ring;

/// Bytes that are copied at a time each way, and so the size of the buffer for it.
const BATCH: usize = 128 * 1024;

/// A queue.
#[derive(Debug)]
pub(super) struct Queue<R> {
    tx: ring::Back<R>,
    rx: ring::Back<R>,
    assembly: Assembly,
    /// A packet for which there was no credit.
    held: Option<Packet>,
    /// Frames for the frontend.
    waiting: VecDeque<Frame>,
    waiting_bytes: usize,
}

/// What one direction leaves to do.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    /// Frames that were taken from the frontend, good ones or not.
    pub taken: usize,
    /// The frontend is to be notified.
    pub notify: bool,
    /// There is more to do at once.
    pub more: bool,
    /// There was no buffer.
    pub starved: bool,
    /// When there may be credit again, in nanoseconds.
    pub wake_at: Option<u64>,
}

/// A frame to be given to the frontend, with its pages.
struct Filled {
    frame: Frame,
    at: usize,
    /// The number of the page that each part goes to, or that an extra takes up.
    pages: Vec<(u16, GrantRef)>,
}

impl Filled {
    fn parts(&self) -> usize {
        self.frame.bytes.len().div_ceil(PAGE)
    }
}

impl<R: SharedMemory> Queue<R> {
    /// Takes up the rings of a frontend.
    ///
    /// # Errors
    ///
    /// If a ring makes no sense.
    pub fn attach(tx: R, rx: R) -> Result<Self, Violation> {
        Ok(Self {
            tx: ring::Back::attach(tx, NETIF_TX_ENTRY_SIZE)?,
            rx: ring::Back::attach(rx, NETIF_RX_ENTRY_SIZE)?,
            assembly: Assembly::default(),
            held: None,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
        })
    }

    /// Whether something waits for the frontend.
    pub fn has_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Has a frame wait for the frontend; false if there is no room, of so many frames and bytes.
    pub fn push(&mut self, frame: Frame, (frames, bytes): (usize, usize)) -> bool {
        let length = frame.bytes.len();
        let fits = self.waiting.len() < frames && self.waiting_bytes + length <= bytes;
        if !fits || length > MAX_FRAME || length == 0 {
            return false;
        }
        self.waiting_bytes += length;
        self.waiting.push_back(frame);
        true
    }

    /// Takes at most `budget` frames that the frontend sends, which go to `out`.
    ///
    /// # Errors
    ///
    /// If the frontend breaks the protocol.
    pub fn transmit<G: Grants>(
        &mut self,
        interface: &mut Interface,
        grants: &mut G,
        now: u64,
        budget: usize,
        out: &mut Vec<Frame>,
    ) -> Result<Done, Violation> {
        let mut done = Done::default();
        let any = self.held.is_some() || self.tx.available()? > 0;
        if any && budget == 0 {
            done.more = true;
        } else if any {
            match grants.buffer(BATCH) {
                None => done.starved = true,
                Some(buffer) => {
                    let packets = self.take(interface, now, budget, &mut done)?;
                    done.taken = packets.len();
                    let copied = copy_all(grants, &buffer, &packets);
                    let mut at = 0;
                    for (packet, copied) in packets.iter().zip(copied) {
                        let frame = copied.then(|| {
                            let mut bytes = vec![0; packet.size];
                            buffer.read(at, &mut bytes);
                            packet.frame(bytes)
                        });
                        if packet.is_copied() {
                            at += packet.size;
                        }
                        let status = interface.pass(packet, frame, out);
                        answer(&mut self.tx, packet, status);
                    }
                }
            }
        }
        done.notify = self.tx.publish();
        // Whoever waits for credit or a buffer looks again without being told.
        if self.held.is_none() && !done.more && !done.starved {
            done.more = self.tx.sleep(1)?;
        }
        Ok(done)
    }

    /// Takes packets of at most a batch's bytes.
    fn take(
        &mut self,
        interface: &mut Interface,
        now: u64,
        budget: usize,
        done: &mut Done,
    ) -> Result<Vec<Packet>, Violation> {
        let mut packets = Vec::new();
        let mut bytes = 0;
        while packets.len() < budget && bytes + MAX_FRAME <= BATCH {
            let packet = match self.held.take() {
                Some(packet) => packet,
                None => match self.tx.pop::<[u8; NETIF_TX_ENTRY_SIZE]>()? {
                    None => return Ok(packets),
                    Some(slot) => match self.assembly.push(&slot)? {
                        None => continue,
                        Some(packet) => packet,
                    },
                },
            };
            if packet.is_copied() {
                if let Err(later) = interface.credit.take(packet.size, now) {
                    self.held = Some(packet);
                    done.wake_at = Some(later);
                    return Ok(packets);
                }
                bytes += packet.size;
            }
            packets.push(packet);
        }
        done.more = true;
        Ok(packets)
    }

    /// Gives the frontend what waits for it, as far as it has pages for that.
    ///
    /// # Errors
    ///
    /// If the frontend breaks the protocol.
    pub fn receive<G: Grants>(
        &mut self,
        interface: &mut Interface,
        grants: &mut G,
    ) -> Result<Done, Violation> {
        let mut done = Done::default();
        if self.waiting.is_empty() {
            return Ok(done);
        }
        let Some(buffer) = grants.buffer(BATCH) else {
            done.starved = true;
            return Ok(done);
        };
        let filled = self.fill(interface, &buffer, &mut done)?;
        let mut copies = Vec::new();
        for it in &filled {
            for (nth, (_, gref)) in it.pages.iter().take(it.parts()).enumerate() {
                copies.push(Copy {
                    page: Place::Grant(*gref),
                    offset: 0,
                    buffer: &buffer,
                    at: it.at + nth * PAGE,
                    bytes: (it.frame.bytes.len() - nth * PAGE).min(PAGE),
                    to_guest: true,
                });
            }
        }
        let mut results = match copies.as_slice() {
            [] => Vec::new(),
            copies => grants.copy(copies),
        }
        .into_iter();
        for it in &filled {
            let results = results.by_ref().take(it.parts());
            let copied = results.filter(|done| *done).count() == it.parts();
            match copied {
                true => interface.received.count(it.frame.bytes.len()),
                false => interface.received.count_dropped(),
            }
            give(&mut self.rx, it, copied);
        }
        done.notify = self.rx.publish();
        Ok(done)
    }

    /// Puts as many frames as there are pages for into the buffer.
    fn fill(
        &mut self,
        interface: &mut Interface,
        buffer: &impl SharedMemory,
        done: &mut Done,
    ) -> Result<Vec<Filled>, Violation> {
        let mut filled = Vec::new();
        let mut at = 0;
        while let Some(frame) = self.waiting.front() {
            let length = frame.bytes.len();
            let slots = length.div_ceil(PAGE) + usize::from(frame.gso.is_some());
            if at + length > BATCH {
                done.more = true;
                break;
            }
            let slots = slots as u32;
            let waits = self.rx.available()? < slots && !self.rx.sleep(slots)?;
            if waits && slots <= self.rx.capacity() {
                break;
            }
            let Some(frame) = self.waiting.pop_front() else {
                break;
            };
            self.waiting_bytes -= length;
            if waits {
                interface.received.count_dropped();
                continue;
            }
            let mut pages = Vec::new();
            for _ in 0..slots {
                if let Some(request) = self.rx.pop::<NetifRxRequest>()? {
                    pages.push((request.id, request.gref));
                }
            }
            // The page behind the first is what an extra takes up.
            if frame.gso.is_some() && pages.len() > 1 {
                let extra = pages.remove(1);
                pages.push(extra);
            }
            buffer.write(at, &frame.bytes);
            filled.push(Filled { frame, at, pages });
            at += length;
        }
        Ok(filled)
    }
}

/// Answers all of a packet's slots.
fn answer<R: SharedMemory>(ring: &mut ring::Back<R>, packet: &Packet, status: i16) {
    for slot in &packet.slots {
        ring.push(&match slot {
            Slot::Request(id) => NetifTxResponse { id: *id, status },
            Slot::Extra => NetifTxResponse {
                id: 0,
                status: NETIF_RSP_NULL,
            },
        });
    }
}

/// Gives a frame to the frontend.
fn give<R: SharedMemory>(ring: &mut ring::Back<R>, filled: &Filled, copied: bool) {
    let frame = &filled.frame;
    let parts = filled.parts();
    let mut flags = match frame.checksum {
        Checksum::Blank => NETRXF_CSUM_BLANK | NETRXF_DATA_VALIDATED,
        Checksum::Valid => NETRXF_DATA_VALIDATED,
        Checksum::Unchecked => 0,
    };
    if frame.gso.is_some() {
        flags |= NETRXF_EXTRA_INFO;
    }
    for (nth, (id, _)) in filled.pages.iter().take(parts).enumerate() {
        if nth + 1 < parts {
            flags |= NETRXF_MORE_DATA;
        } else {
            flags &= !NETRXF_MORE_DATA;
        }
        let bytes = (frame.bytes.len() - nth * PAGE).min(PAGE);
        let mut response = NetifRxResponse::new_zeroed();
        response.id = *id;
        response.flags = flags;
        response.status = if copied {
            bytes as i16
        } else {
            NETIF_RSP_ERROR
        };
        ring.push(&response);
        if let (0, Some(gso)) = (nth, frame.gso) {
            ring.push(&slot::<NETIF_RX_ENTRY_SIZE>(&Extra::Gso(gso).info()));
        }
        flags = 0;
    }
}

/// Copies packets to a buffer, one behind the other; for each whether all of it was copied.
fn copy_all<G: Grants>(grants: &mut G, buffer: &G::Buffer, packets: &[Packet]) -> Vec<bool> {
    let mut copies = Vec::new();
    let mut at = 0;
    for packet in packets.iter().filter(|it| it.is_copied()) {
        for part in packet.parts.iter().filter(|part| part.size > 0) {
            copies.push(Copy {
                page: Place::Grant(part.gref),
                offset: part.offset,
                buffer,
                at,
                bytes: part.size,
                to_guest: false,
            });
            at += part.size;
        }
    }
    let mut done = match copies.as_slice() {
        [] => Vec::new(),
        copies => grants.copy(copies),
    }
    .into_iter();
    packets
        .iter()
        .map(|packet| {
            if !packet.is_copied() {
                return false;
            }
            let parts = packet.parts.iter().filter(|part| part.size > 0).count();
            // All are taken, also behind one that failed.
            done.by_ref().take(parts).filter(|done| *done).count() == parts
        })
        .collect()
}
