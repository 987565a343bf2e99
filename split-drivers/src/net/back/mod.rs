//! The backend of a network device.
//!
//! A turn takes a bounded number of frames that the frontend sends, copies them by grant in one batch, and
//! hands them out; and it passes on as many of those that wait for the frontend as there are pages for, in
//! one batch, too. Nothing of the frontend's stays in use between turns, so a guest that goes away takes
//! nothing along, and one that takes nothing has but a bounded queue.
//!
//! A frame that is wrong in itself is answered with an error and dropped. What no frontend does by mistake
//! is a [`Violation`], and the end of the connection.

use alloc::collections::{BTreeSet, VecDeque};
use alloc::vec;
use alloc::vec::Vec;

use hypercall_abi::io::netif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::FromZeros;

use super::credit::{Credit, Rate};
use super::extra::{Extra, slot};
use super::{Checksum, Counters, Features, Frame, MAX_FRAME, Mac, PAGE, Violation, offload};
use crate::SharedMemory;
use crate::grants::{Copy, Grants, Place};
use crate::ring;

mod transmit;
use transmit::{Assembly, Packet, Slot};

/// Bytes that are copied at a time each way, and so the size of the buffer for it.
const BATCH: usize = 128 * 1024;
/// Frames that wait for the frontend at most, and their bytes.
const MAX_QUEUED: usize = 512;
const MAX_QUEUED_BYTES: usize = 1024 * 1024;
/// Multicast groups that a frontend may ask for.
const MAX_GROUPS: usize = 64;

/// What a frontend may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// The only address that it may send from, if it is held to one.
    pub source: Option<Mac>,
    /// How much it may send.
    pub rate: Option<Rate>,
}

/// What a [turn](Back::turn) leaves to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// The frontend is to be notified of what it has sent.
    pub notify_tx: bool,
    /// The frontend is to be notified of what it receives.
    pub notify_rx: bool,
    /// There is more to do at once.
    pub more: bool,
    /// There was no buffer: to be called again when there may be.
    pub starved: bool,
    /// When the frontend may send again, in nanoseconds.
    pub wake_at: Option<u64>,
}

/// The backend.
#[derive(Debug)]
pub struct Back<R> {
    rings: Option<Rings<R>>,
    /// What the frontend takes.
    features: Features,
    policy: Policy,
    credit: Credit,
    assembly: Assembly,
    /// A packet for which there was no credit.
    held: Option<Packet>,
    queue: VecDeque<Frame>,
    queued_bytes: usize,
    groups: BTreeSet<Mac>,
    /// What the frontend has sent.
    sent: Counters,
    /// What it was given.
    received: Counters,
}

#[derive(Debug)]
struct Rings<R> {
    tx: ring::Back<R>,
    rx: ring::Back<R>,
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

impl<R: SharedMemory> Back<R> {
    /// Takes up the rings of a frontend that takes what `features` say.
    ///
    /// # Errors
    ///
    /// If a ring makes no sense.
    ///
    /// # Panics
    ///
    /// If a ring is smaller than a page.
    pub fn attach(
        tx: R,
        rx: R,
        features: Features,
        policy: Policy,
        now: u64,
    ) -> Result<Self, Violation> {
        Ok(Self {
            rings: Some(Rings {
                tx: ring::Back::attach(tx, NETIF_TX_ENTRY_SIZE)?,
                rx: ring::Back::attach(rx, NETIF_RX_ENTRY_SIZE)?,
            }),
            features,
            policy,
            credit: Credit::new(policy.rate, now),
            assembly: Assembly::default(),
            held: None,
            queue: VecDeque::new(),
            queued_bytes: 0,
            groups: BTreeSet::new(),
            sent: Counters::default(),
            received: Counters::default(),
        })
    }

    /// What the frontend has sent so far.
    pub fn sent(&self) -> Counters {
        self.sent
    }

    /// What the frontend was given so far.
    pub fn received(&self) -> Counters {
        self.received
    }

    /// Whether something waits for the frontend.
    pub fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Lets go of everything that is the frontend's.
    pub fn close(&mut self) {
        self.rings = None;
        self.held = None;
        self.queue.clear();
        self.queued_bytes = 0;
    }

    /// Queues a frame for the frontend, in a form that it takes, or drops it.
    pub fn deliver(&mut self, frame: Frame) {
        if self.rings.is_none() || !self.wants(&frame) {
            return;
        }
        let frames = offload::fit(frame, &self.features);
        if frames.is_empty() {
            self.received.count_dropped();
        }
        for frame in frames {
            let length = frame.bytes.len();
            if self.queue.len() >= MAX_QUEUED
                || self.queued_bytes + length > MAX_QUEUED_BYTES
                || length > MAX_FRAME
                || length == 0
            {
                self.received.count_dropped();
                continue;
            }
            self.queued_bytes += length;
            self.queue.push_back(frame);
        }
    }

    /// Frontends that say which groups they want get no others.
    fn wants(&self, frame: &Frame) -> bool {
        let group = frame.destination().filter(|to| to.is_group());
        match group {
            Some(group) if self.features.multicast && group != Mac::BROADCAST => {
                self.groups.contains(&group)
            }
            _ => true,
        }
    }

    /// Takes at most `budget` frames that the frontend sends, which go to `out`, and gives it what waits for
    /// it.
    ///
    /// # Errors
    ///
    /// If the frontend breaks the protocol. Its rings are let go of.
    pub fn turn<G: Grants>(
        &mut self,
        grants: &mut G,
        now: u64,
        budget: usize,
        out: &mut Vec<Frame>,
    ) -> Result<Turn, Violation> {
        let mut turn = Turn::default();
        let Some(mut rings) = self.rings.take() else {
            return Ok(turn);
        };
        self.transmit(&mut rings.tx, grants, now, budget, out, &mut turn)?;
        self.receive(&mut rings.rx, grants, &mut turn)?;
        self.rings = Some(rings);
        Ok(turn)
    }

    fn transmit<G: Grants>(
        &mut self,
        ring: &mut ring::Back<R>,
        grants: &mut G,
        now: u64,
        budget: usize,
        out: &mut Vec<Frame>,
        turn: &mut Turn,
    ) -> Result<(), Violation> {
        if self.held.is_some() || ring.available()? > 0 {
            match grants.buffer(BATCH) {
                None => turn.starved = true,
                Some(buffer) => {
                    let packets = self.take(ring, now, budget, turn)?;
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
                        let status = self.pass(packet, frame, out);
                        answer(ring, packet, status);
                    }
                }
            }
        }
        turn.notify_tx = ring.publish();
        // Whoever waits for credit or a buffer looks again without being told.
        if self.held.is_none() && !turn.more && !turn.starved {
            turn.more = ring.sleep(1)?;
        }
        Ok(())
    }

    /// Takes packets of at most a batch's bytes.
    fn take(
        &mut self,
        ring: &mut ring::Back<R>,
        now: u64,
        budget: usize,
        turn: &mut Turn,
    ) -> Result<Vec<Packet>, Violation> {
        let mut packets = Vec::new();
        let mut bytes = 0;
        while packets.len() < budget && bytes + MAX_FRAME <= BATCH {
            let packet = match self.held.take() {
                Some(packet) => packet,
                None => match ring.pop::<[u8; NETIF_TX_ENTRY_SIZE]>()? {
                    None => return Ok(packets),
                    Some(slot) => match self.assembly.push(&slot)? {
                        None => continue,
                        Some(packet) => packet,
                    },
                },
            };
            if packet.is_copied() {
                if let Err(later) = self.credit.take(packet.size, now) {
                    self.held = Some(packet);
                    turn.wake_at = Some(later);
                    return Ok(packets);
                }
                bytes += packet.size;
            }
            packets.push(packet);
        }
        turn.more = true;
        Ok(packets)
    }

    /// Does what a packet is for; what to answer.
    fn pass(&mut self, packet: &Packet, frame: Option<Frame>, out: &mut Vec<Frame>) -> i16 {
        if let Some((group, join)) = packet.group {
            let done = match join {
                true if self.groups.len() >= MAX_GROUPS => self.groups.contains(&group),
                true => {
                    self.groups.insert(group);
                    true
                }
                false => {
                    self.groups.remove(&group);
                    true
                }
            };
            return if done {
                NETIF_RSP_OKAY
            } else {
                NETIF_RSP_ERROR
            };
        }
        let Some(frame) = frame.filter(offload::is_sound) else {
            self.sent.count_dropped();
            return NETIF_RSP_ERROR;
        };
        if let Some(only) = self.policy.source
            && frame.source() != Some(only)
        {
            self.sent.count_dropped();
            return NETIF_RSP_DROPPED;
        }
        self.sent.count(frame.bytes.len());
        out.push(frame);
        NETIF_RSP_OKAY
    }

    fn receive<G: Grants>(
        &mut self,
        ring: &mut ring::Back<R>,
        grants: &mut G,
        turn: &mut Turn,
    ) -> Result<(), Violation> {
        if self.queue.is_empty() {
            return Ok(());
        }
        let Some(buffer) = grants.buffer(BATCH) else {
            turn.starved = true;
            return Ok(());
        };
        let filled = self.fill(ring, &buffer, turn)?;
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
        let mut done = match copies.as_slice() {
            [] => Vec::new(),
            copies => grants.copy(copies),
        }
        .into_iter();
        for it in &filled {
            let done = done.by_ref().take(it.parts()).filter(|done| *done).count();
            let copied = done == it.parts();
            match copied {
                true => self.received.count(it.frame.bytes.len()),
                false => self.received.count_dropped(),
            }
            give(ring, it, copied);
        }
        turn.notify_rx = ring.publish();
        Ok(())
    }

    /// Puts as many frames as there are pages for into the buffer.
    fn fill(
        &mut self,
        ring: &mut ring::Back<R>,
        buffer: &impl SharedMemory,
        turn: &mut Turn,
    ) -> Result<Vec<Filled>, Violation> {
        let mut filled = Vec::new();
        let mut at = 0;
        while let Some(frame) = self.queue.front() {
            let length = frame.bytes.len();
            let slots = length.div_ceil(PAGE) + usize::from(frame.gso.is_some());
            if at + length > BATCH {
                turn.more = true;
                break;
            }
            let slots = slots as u32;
            let waits = ring.available()? < slots && !ring.sleep(slots)?;
            if waits && slots <= ring.capacity() {
                break;
            }
            let Some(frame) = self.queue.pop_front() else {
                break;
            };
            self.queued_bytes -= length;
            if waits {
                self.received.count_dropped();
                continue;
            }
            let mut pages = Vec::new();
            for _ in 0..slots {
                if let Some(request) = ring.pop::<NetifRxRequest>()? {
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
