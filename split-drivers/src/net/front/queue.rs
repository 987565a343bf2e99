//! A queue of a frontend: the two rings, and the pages that are in them.

use alloc::collections::{BTreeMap, VecDeque};
use alloc::vec::Vec;

use hypercall_abi::io::netif::*;
use zerocopy::FromBytes;

use super::Refused;
use crate::SharedMemory;
use crate::grants::{GrantedPage, Pages};
use crate::net::extra::{Extra, slot};
use crate::net::{Checksum, Frame, MAX_EXTRAS, MAX_FRAME, MAX_SLOTS, PAGE, Violation};
use crate::ring;

/// A frame that is being received.
#[derive(Debug, Default)]
struct Incoming {
    frame: Frame,
    slots: usize,
    /// Extras that were taken.
    extras: usize,
    /// Extras come next.
    extra_next: bool,
    /// Parts come behind them.
    more: bool,
    /// The backend has failed to copy some of it.
    failed: bool,
}

/// A queue.
#[derive(Debug)]
pub(super) struct Queue<R, P> {
    tx: ring::Front<R>,
    rx: ring::Front<R>,
    /// What was sent and has no answer: the page, by number.
    sent: BTreeMap<u16, Option<P>>,
    next_id: u16,
    /// Answers that extras have.
    extras: u32,
    spare_tx: Vec<P>,
    /// Pages that the backend fills, from the next on.
    posted: VecDeque<(u16, P)>,
    next_posted: u16,
    spare_rx: Vec<P>,
    incoming: Option<Incoming>,
}

impl<R: SharedMemory, P: GrantedPage> Queue<R, P> {
    /// A queue with these new rings.
    pub fn new(tx: R, rx: R) -> Self {
        Self {
            tx: ring::Front::new(tx, NETIF_TX_ENTRY_SIZE),
            rx: ring::Front::new(rx, NETIF_RX_ENTRY_SIZE),
            sent: BTreeMap::new(),
            next_id: 0,
            extras: 0,
            spare_tx: Vec::new(),
            posted: VecDeque::new(),
            next_posted: 0,
            spare_rx: Vec::new(),
            incoming: None,
        }
    }

    /// Frames and parts of frames that have no answer yet.
    pub fn under_way(&self) -> usize {
        self.sent.len()
    }

    /// How many slots there are for what is sent.
    pub fn room(&self) -> usize {
        self.tx.room() as usize
    }

    fn request(&mut self, page: Option<P>, offset: u16, flags: u16, size: u16) {
        let request = NetifTxRequest {
            gref: page
                .as_ref()
                .map_or(Default::default(), GrantedPage::reference),
            offset,
            flags,
            id: self.next_id,
            size,
        };
        // Fewer are under way than there are numbers.
        self.sent.insert(self.next_id, page);
        self.next_id = self.next_id.wrapping_add(1);
        let pushed = self.tx.push(&request);
        debug_assert!(pushed, "room was looked for");
    }

    fn push_extra(&mut self, extra: Extra) {
        let pushed = self.tx.push(&slot::<NETIF_TX_ENTRY_SIZE>(&extra.info()));
        debug_assert!(pushed, "room was looked for");
        self.extras += 1;
    }

    /// Sends a frame of a length that the backend takes.
    ///
    /// # Errors
    ///
    /// If there is no room, or no page; nothing is sent then.
    pub fn send<G: Pages<Page = P>>(
        &mut self,
        pages: &mut G,
        frame: &Frame,
    ) -> Result<(), Refused> {
        let length = frame.bytes.len();
        let parts = length.div_ceil(PAGE);
        let slots = parts + usize::from(frame.gso.is_some());
        if self.room() < slots {
            return Err(Refused::Full);
        }
        while self.spare_tx.len() < parts {
            self.spare_tx
                .push(pages.page(true).ok_or(Refused::NoPages)?);
        }
        let mut flags = match frame.checksum {
            Checksum::Blank => NETTXF_CSUM_BLANK | NETTXF_DATA_VALIDATED,
            Checksum::Valid => NETTXF_DATA_VALIDATED,
            Checksum::Unchecked => 0,
        };
        if frame.gso.is_some() {
            flags |= NETTXF_EXTRA_INFO;
        }
        // The first part's size is that of the whole.
        let mut size = length;
        for (nth, part) in frame.bytes.chunks(PAGE).enumerate() {
            let page = self.spare_tx.pop();
            if let Some(page) = &page {
                page.write(0, part);
            }
            if nth > 0 {
                size = part.len();
            }
            if nth + 1 < parts {
                flags |= NETTXF_MORE_DATA;
            } else {
                flags &= !NETTXF_MORE_DATA;
            }
            self.request(page, 0, flags, size as u16);
            if let (0, Some(gso)) = (nth, frame.gso) {
                self.push_extra(Extra::Gso(gso));
            }
            flags = 0;
        }
        Ok(())
    }

    /// Sends an extra alone.
    ///
    /// # Errors
    ///
    /// If there is no room.
    pub fn send_extra(&mut self, extra: Extra) -> Result<(), Refused> {
        if self.room() < 2 {
            return Err(Refused::Full);
        }
        self.request(None, 0, NETTXF_EXTRA_INFO, 0);
        self.push_extra(extra);
        Ok(())
    }

    /// Has up to `depth` pages filled, as far as they can be had.
    pub fn fill<G: Pages<Page = P>>(&mut self, pages: &mut G, depth: usize) {
        while self.posted.len() < depth && self.rx.room() > 0 {
            let Some(page) = self.spare_rx.pop().or_else(|| pages.page(false)) else {
                return;
            };
            let request = NetifRxRequest {
                id: self.next_posted,
                gref: page.reference(),
                ..Default::default()
            };
            let pushed = self.rx.push(&request);
            debug_assert!(pushed, "there is room");
            self.posted.push_back((self.next_posted, page));
            // Some backends take the number for the slot's.
            self.next_posted = (self.next_posted + 1) % self.rx.capacity() as u16;
        }
    }

    /// Has the backend see what is new; whether it is to be notified, of what was sent and of pages to
    /// fill.
    pub fn publish(&mut self) -> (bool, bool) {
        (self.tx.publish(), self.rx.publish())
    }

    /// Takes answers, and the frames that have come.
    ///
    /// # Errors
    ///
    /// If the backend breaks the protocol.
    pub fn turn(&mut self, frames: &mut Vec<Frame>) -> Result<(), Violation> {
        self.take_answers()?;
        self.take_frames(frames)
    }

    fn take_answers(&mut self) -> Result<(), Violation> {
        loop {
            while let Some(answer) = self.tx.pop::<NetifTxResponse>()? {
                if answer.status == NETIF_RSP_NULL {
                    let left = self.extras.checked_sub(1);
                    self.extras = left.ok_or(Violation::WrongAnswer(answer.id))?;
                    continue;
                }
                let page = self.sent.remove(&answer.id);
                let page = page.ok_or(Violation::WrongAnswer(answer.id))?;
                self.spare_tx.extend(page);
            }
            if !self.tx.sleep()? {
                return Ok(());
            }
        }
    }

    fn take_frames(&mut self, frames: &mut Vec<Frame>) -> Result<(), Violation> {
        loop {
            while let Some(bytes) = self.rx.pop::<[u8; NETIF_RX_ENTRY_SIZE]>()? {
                let Some((id, page)) = self.posted.pop_front() else {
                    return Err(Violation::WrongAnswer(0));
                };
                let mut incoming = self.incoming.take().unwrap_or_default();
                let whole = incoming.take(&bytes, id, &page);
                self.spare_rx.push(page);
                match whole? {
                    false => self.incoming = Some(incoming),
                    true if !incoming.failed => frames.push(incoming.frame),
                    true => {}
                }
            }
            if !self.rx.sleep()? {
                return Ok(());
            }
        }
    }
}

impl Incoming {
    /// Takes one answer, to the page of that number; whether the frame is whole.
    fn take<P: GrantedPage>(
        &mut self,
        bytes: &[u8; NETIF_RX_ENTRY_SIZE],
        id: u16,
        page: &P,
    ) -> Result<bool, Violation> {
        if self.extra_next {
            self.extras += 1;
            if self.extras > MAX_EXTRAS {
                return Err(Violation::TooManyExtras);
            }
            let (extra, more) = Extra::parse(bytes)?;
            match extra {
                Extra::Gso(gso) => self.frame.gso = Some(gso),
                Extra::Hash => {}
                Extra::Join(_) => {
                    return Err(Violation::UnknownExtra(XEN_NETIF_EXTRA_TYPE_MCAST_ADD));
                }
                Extra::Leave(_) => {
                    return Err(Violation::UnknownExtra(XEN_NETIF_EXTRA_TYPE_MCAST_DEL));
                }
            }
            self.extra_next = more;
            return Ok(!more && !self.more);
        }
        let Ok(answer) = NetifRxResponse::read_from_bytes(bytes) else {
            return Err(Violation::WrongAnswer(id));
        };
        if answer.id != id {
            return Err(Violation::WrongAnswer(answer.id));
        }
        let first = self.slots == 0;
        self.slots += 1;
        if self.slots > MAX_SLOTS {
            return Err(Violation::TooManySlots);
        }
        if first {
            self.extra_next = answer.flags & NETRXF_EXTRA_INFO != 0;
            self.frame.checksum = if answer.flags & NETRXF_CSUM_BLANK != 0 {
                Checksum::Blank
            } else if answer.flags & NETRXF_DATA_VALIDATED != 0 {
                Checksum::Valid
            } else {
                Checksum::Unchecked
            };
        }
        self.more = answer.flags & NETRXF_MORE_DATA != 0;
        match usize::try_from(answer.status) {
            Err(_) => self.failed = true,
            Ok(size) => {
                let start = usize::from(answer.offset);
                if start + size > PAGE {
                    return Err(Violation::BeyondPage {
                        offset: answer.offset,
                        size: size as u16,
                    });
                }
                let before = self.frame.bytes.len();
                if before + size > MAX_FRAME {
                    return Err(Violation::TooLong);
                }
                self.frame.bytes.resize(before + size, 0);
                page.read(start, &mut self.frame.bytes[before..]);
            }
        }
        Ok(!self.extra_next && !self.more)
    }
}
