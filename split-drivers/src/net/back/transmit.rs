//! Frames that a frontend sends, put together from slots.

use alloc::vec::Vec;

use hypercall_abi::io::netif::*;
use hypercall_abi::types::GrantRef;
use zerocopy::FromBytes;

use crate::net::extra::Extra;
use crate::net::{
    Checksum, ETHERNET_HEADER, Frame, Gso, MAX_EXTRAS, MAX_SLOTS, Mac, PAGE, Violation,
};

/// Slots by which a frame may have more than it is granted before that is taken for malice: some frontends
/// count otherwise.
const TOLERATED: usize = 2;

/// A part of a frame, in a page of the frontend's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub gref: GrantRef,
    pub offset: usize,
    pub size: usize,
}

/// A slot that wants an answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Slot {
    Request(u16),
    Extra,
}

/// What a frontend sends in several slots.
#[derive(Debug)]
pub(super) struct Packet {
    flags: u16,
    /// Bytes of the whole.
    pub size: usize,
    pub parts: Vec<Part>,
    pub slots: Vec<Slot>,
    gso: Option<Gso>,
    /// A group to join or to leave, in place of a frame.
    pub group: Option<(Mac, bool)>,
    /// It cannot be passed on.
    pub bad: bool,
}

impl Packet {
    /// Whether its bytes are wanted.
    pub fn is_copied(&self) -> bool {
        !self.bad && self.group.is_none()
    }

    /// The frame, of these bytes.
    pub fn frame(&self, bytes: Vec<u8>) -> Frame {
        Frame {
            bytes,
            checksum: if self.flags & NETTXF_CSUM_BLANK != 0 {
                Checksum::Blank
            } else if self.flags & NETTXF_DATA_VALIDATED != 0 {
                Checksum::Valid
            } else {
                Checksum::Unchecked
            },
            gso: self.gso,
        }
    }
}

/// A packet of which not all slots were seen.
#[derive(Debug, Default)]
pub(super) struct Assembly {
    packet: Option<Packet>,
    extra_next: bool,
    more: bool,
}

impl Assembly {
    /// Takes a slot; the packet if that was its last.
    pub fn push(&mut self, bytes: &[u8; NETIF_TX_ENTRY_SIZE]) -> Result<Option<Packet>, Violation> {
        match &mut self.packet {
            Some(packet) if self.extra_next => self.extra_next = packet.take_extra(bytes)?,
            packet => {
                let Ok(request) = NetifTxRequest::read_from_bytes(bytes) else {
                    return Ok(None);
                };
                self.more = request.flags & NETTXF_MORE_DATA != 0;
                match packet {
                    Some(packet) => packet.take_part(&request)?,
                    None => {
                        self.extra_next = request.flags & NETTXF_EXTRA_INFO != 0;
                        *packet = Some(Packet::begin(&request));
                    }
                }
            }
        }
        if self.extra_next || self.more {
            return Ok(None);
        }
        self.packet.take().map(Packet::finish).transpose()
    }
}

impl Packet {
    fn begin(request: &NetifTxRequest) -> Self {
        let part = Part {
            gref: request.gref,
            offset: request.offset.into(),
            // What is not in others is in this.
            size: request.size.into(),
        };
        Self {
            flags: request.flags,
            size: request.size.into(),
            parts: Vec::from([part]),
            slots: Vec::from([Slot::Request(request.id)]),
            gso: None,
            group: None,
            bad: false,
        }
    }

    fn take_part(&mut self, request: &NetifTxRequest) -> Result<(), Violation> {
        if self.parts.len() >= MAX_SLOTS + TOLERATED {
            return Err(Violation::TooManySlots);
        }
        self.parts.push(Part {
            gref: request.gref,
            offset: request.offset.into(),
            size: request.size.into(),
        });
        self.slots.push(Slot::Request(request.id));
        Ok(())
    }

    /// Whether another follows.
    fn take_extra(&mut self, bytes: &[u8]) -> Result<bool, Violation> {
        if self.slots.len() > MAX_EXTRAS {
            return Err(Violation::TooManyExtras);
        }
        self.slots.push(Slot::Extra);
        let (extra, more) = Extra::parse(bytes)?;
        match extra {
            Extra::Gso(gso) => self.gso = Some(gso),
            Extra::Join(group) => self.group = Some((group, true)),
            Extra::Leave(group) => self.group = Some((group, false)),
            Extra::Hash => {}
        }
        Ok(more)
    }

    /// All slots are there.
    fn finish(mut self) -> Result<Self, Violation> {
        if self.group.is_some() {
            return Ok(self);
        }
        let others: usize = self.parts.iter().skip(1).map(|part| part.size).sum();
        let rest = self.size.checked_sub(others);
        self.bad = rest.is_none()
            || self.size < ETHERNET_HEADER
            || self.parts.len() > MAX_SLOTS
            // Segments are cut with checksums that are filled in then.
            || self.gso.is_some() && self.flags & NETTXF_CSUM_BLANK == 0;
        if let (Some(first), Some(rest)) = (self.parts.first_mut(), rest) {
            first.size = rest;
        }
        if !self.bad
            && let Some(part) = self.parts.iter().find(|it| it.offset + it.size > PAGE)
        {
            return Err(Violation::BeyondPage {
                offset: part.offset as u16,
                size: part.size as u16,
            });
        }
        Ok(self)
    }
}
