//! The FIFO interface: pages of a guest's that it gave for its ports' words and its vCPUs' control blocks.
//!
//! Each page is held as writable for as long as the interface is in use: until a reset, or the domain's end.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::mem::offset_of;

use event_protocol::Word;
use event_protocol::fifo::{
    Array, Channel, Control, End, LINKED, MASKED, PENDING, QUEUES, Raised, Tails,
};
use hv_machine::{MachineRef, PAGE_SIZE};
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::{EVTCHN_FIFO_NR_CHANNELS, EvtchnFifoControlBlock};
use hypercall_abi::types::{Mfn, Port};

use super::table::Abi;
use super::word::FrameWord;
use super::{deliver, two_level};
use crate::memory::FrameType;
use crate::{Domain, Hypervisor};

/// Words in a page.
const WORDS: u32 = (PAGE_SIZE / size_of::<u32>()) as u32;
/// Pages of words that a domain may have.
const MAX_PAGES: usize = (EVTCHN_FIFO_NR_CHANNELS / WORDS) as usize;
/// Heap that must be free before a domain may begin with the interface: 16 KiB, more than [`Fifo::new`] takes.
pub(super) const HEAP: usize = 16 << 10;

/// A domain's queues.
pub struct Fifo {
    words: Words,
    /// Of each vCPU, its control block: the frame, and the offset in it in bytes.
    blocks: Vec<Option<(Mfn, usize)>>,
    tails: Vec<Tails>,
}

/// The words of a domain's ports.
struct Words {
    machine: MachineRef,
    pages: Vec<Mfn>,
}

impl<'a> Array for &'a Words {
    type Word = FrameWord<'a>;

    #[inline]
    fn word(&self, port: Port) -> Option<FrameWord<'a>> {
        let &mfn = self.pages.get((port.0 / WORDS) as usize)?;
        Some(FrameWord {
            machine: &self.machine,
            mfn,
            index: (port.0 % WORDS) as usize,
        })
    }
}

/// A vCPU's control block, at its first word.
struct Block<'a>(FrameWord<'a>);

impl<'a> Block<'a> {
    fn word(&self, offset: usize) -> FrameWord<'a> {
        let index = self.0.index + offset / size_of::<u32>();
        FrameWord { index, ..self.0 }
    }
}

impl<'a> Control for Block<'a> {
    type Word = FrameWord<'a>;

    fn ready(&self) -> FrameWord<'a> {
        self.word(offset_of!(EvtchnFifoControlBlock, ready))
    }

    fn head(&self, queue: usize) -> FrameWord<'a> {
        self.word(offset_of!(EvtchnFifoControlBlock, head) + queue * size_of::<u32>())
    }
}

impl Fifo {
    /// Without any page yet.
    fn new(hv: &Hypervisor, vcpus: u32) -> Result<Self, Errno> {
        let mut new = Self {
            words: Words {
                machine: MachineRef::clone(&hv.machine),
                pages: Vec::new(),
            },
            blocks: Vec::new(),
            tails: Vec::new(),
        };
        let vcpus = vcpus as usize;
        let reserved = new.words.pages.try_reserve_exact(MAX_PAGES);
        reserved
            .and_then(|()| new.blocks.try_reserve_exact(vcpus))
            .and_then(|()| new.tails.try_reserve_exact(vcpus))
            .map_err(|_| Errno::ENOMEM)?;
        new.blocks.resize(vcpus, None);
        new.tails.resize(vcpus, [0; QUEUES]);
        Ok(new)
    }

    /// Gives a vCPU its control block, once.
    fn set_block(
        &mut self,
        hv: &Hypervisor,
        domain: &Domain,
        vcpu: u32,
        (mfn, offset): (Mfn, usize),
    ) -> Result<(), Errno> {
        let block = self.blocks.get_mut(vcpu as usize).ok_or(Errno::ENOENT)?;
        if block.is_some() {
            return Err(Errno::EINVAL);
        }
        *block = Some((hold(hv, domain, mfn)?, offset));
        Ok(())
    }

    /// Makes a port pending and puts it on a queue of vCPU `vcpu`. Where its word is not there yet, that is left to
    /// [`expand_array`]; where the vCPU has no control block yet, the event is lost, and the guest's mistake.
    pub(super) fn raise(&mut self, port: (Port, &mut Channel), vcpu: u32) -> Option<Raised> {
        self.end(port, vcpu).map(End::raise)
    }

    /// Unmasks a port. Whether it went to a queue of vCPU `vcpu`, and that is to be told.
    pub(super) fn unmask(&mut self, port: (Port, &mut Channel), vcpu: u32) -> bool {
        let number = port.0;
        match self.end(port, vcpu) {
            Some(end) => end.unmask(),
            None => {
                self.keep(number, !MASKED);
                false
            }
        }
    }

    fn end<'a>(
        &'a mut self,
        (port, channel): (Port, &'a mut Channel),
        vcpu: u32,
    ) -> Option<End<'a, &'a Words, Block<'a>>> {
        let (array, tails) = (&self.words, self.tails.as_mut_slice());
        let word = array.word(port)?;
        let &Some((mfn, offset)) = self.blocks.get(vcpu as usize)? else {
            return None;
        };
        let control = Block(FrameWord {
            machine: &array.machine,
            mfn,
            index: offset / size_of::<u32>(),
        });
        let vcpu = vcpu as u8;
        Some(End {
            array,
            control,
            tails,
            port,
            word,
            channel,
            vcpu,
        })
    }

    /// Whether there is a word for a port.
    pub(super) fn has_word(&self, port: Port) -> bool {
        (&self.words).word(port).is_some()
    }

    fn is_set(&self, port: Port, bit: u32) -> Option<bool> {
        let held: u32 = (&self.words).word(port)?.load();
        Some(held & bit != 0)
    }

    /// Whether a port is pending.
    pub(super) fn is_pending(&self, port: Port) -> bool {
        self.is_set(port, PENDING).unwrap_or(false)
    }

    /// Whether a port is masked; one without a word is.
    pub(super) fn is_masked(&self, port: Port) -> bool {
        self.is_set(port, MASKED).unwrap_or(true)
    }

    /// Whether a port is on a queue, so that it must not be used anew.
    pub(super) fn is_linked(&self, port: Port) -> bool {
        self.is_set(port, LINKED).unwrap_or(false)
    }

    /// Takes a pending event back. Where it is on a queue it stays there: the guest passes over it.
    pub(super) fn clear_pending(&self, port: Port) {
        self.keep(port, !PENDING);
    }

    fn keep(&self, port: Port, bits: u32) {
        if let Some(word) = (&self.words).word(port) {
            word.fetch_and(bits);
        }
    }

    /// The frames that are held for it.
    pub(super) fn frames(&self) -> impl Iterator<Item = Mfn> {
        let blocks = self.blocks.iter().flatten().map(|&(mfn, _)| mfn);
        blocks.chain(self.words.pages.iter().copied())
    }

    /// Gives the guest its pages back.
    pub(super) fn release(self, hv: &Hypervisor) {
        for mfn in self.frames() {
            drop(hv.memory.adopt_typed(mfn, FrameType::Writable));
        }
    }
}

/// Holds a page of the domain's, to be written by both.
fn hold(hv: &Hypervisor, domain: &Domain, mfn: Mfn) -> Result<Mfn, Errno> {
    let page = hv.memory.get_typed(mfn, domain.id, FrameType::Writable)?;
    Ok(page.into_bits())
}

/// Gives vCPU `vcpu` of the domain its control block (`EVTCHNOP_init_control`). The first one switches the domain from
/// the two-level interface; what is pending there comes once the port has its word.
///
/// # Errors
/// `ENOENT` for no such vCPU; `EINVAL` for a vCPU that has a control block, or where none can be: across the end of a
/// page, not at a multiple of 8, or not in a page that the domain may write; `ENOMEM`.
pub(super) fn init_control(
    hv: &Hypervisor,
    domain: &Domain,
    vcpu: u32,
    mfn: Mfn,
    offset: u32,
) -> Result<(), Errno> {
    domain.vcpu(vcpu).ok_or(Errno::ENOENT)?;
    let place = (mfn, offset as usize);
    let last = PAGE_SIZE - size_of::<EvtchnFifoControlBlock>();
    if place.1 > last || !place.1.is_multiple_of(8) {
        return Err(Errno::EINVAL);
    }
    let mut table = domain.events.table.lock();
    if table.is_closed() {
        return Err(Errno::EINVAL);
    }
    if let Abi::Fifo(fifo) = &mut table.abi {
        return fifo.set_block(hv, domain, vcpu, place);
    }
    let mut fifo = Fifo::new(hv, domain.max_vcpus)?;
    fifo.set_block(hv, domain, vcpu, place)?;
    for port in (1..table.len()).map(Port) {
        if let Some(channel) = table.usable_mut(port) {
            let bits = two_level::bits(hv, domain, port);
            channel.pending = bits.is_some_and(|bits| bits.is_pending());
        }
    }
    table.abi = Abi::Fifo(Box::new(fifo));
    Ok(())
}

/// Adds a page of words (`EVTCHNOP_expand_array`), and raises those ports of it that are pending already.
///
/// # Errors
/// `EOPNOTSUPP` under the two-level interface; `ENOSPC` where there are words for all ports; `EINVAL` where the page is
/// none that the domain may write.
pub(super) fn expand_array(hv: &Hypervisor, domain: &Domain, mfn: Mfn) -> Result<(), Errno> {
    let mut table = domain.events.table.lock();
    let Abi::Fifo(fifo) = &mut table.abi else {
        return Err(Errno::EOPNOTSUPP);
    };
    let pages = &mut fifo.words.pages;
    if pages.len() >= MAX_PAGES {
        return Err(Errno::ENOSPC);
    }
    let first = pages.len() as u32 * WORDS;
    pages.push(hold(hv, domain, mfn)?);
    for port in (first..first + WORDS).map(Port) {
        let Some(channel) = table.get_mut(port) else {
            break;
        };
        if core::mem::take(&mut channel.pending) {
            let vcpu = channel.vcpu;
            deliver::set_pending(hv, domain, &mut table, port, vcpu);
        }
    }
    Ok(())
}

/// Sets the priority of a port for events to come (`EVTCHNOP_set_priority`).
///
/// # Errors
/// `EINVAL` for a port that does not exist, or no priority; `ENOSYS` under the two-level interface; `EACCES` for a port
/// that is free.
pub(super) fn set_priority(domain: &Domain, port: Port, priority: u32) -> Result<(), Errno> {
    let mut table = domain.events.table.lock();
    table.get(port).ok_or(Errno::EINVAL)?;
    if matches!(table.abi, Abi::TwoLevel) {
        return Err(Errno::ENOSYS);
    }
    let channel = table.usable_mut(port).ok_or(Errno::EACCES)?;
    if priority as usize >= QUEUES {
        return Err(Errno::EINVAL);
    }
    channel.fifo.priority = priority as u8;
    Ok(())
}
