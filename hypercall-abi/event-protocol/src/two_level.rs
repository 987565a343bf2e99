//! The two-level interface: bits in the shared-info page say which ports are pending and which are masked, a selector
//! of each vCPU which words of these bits to look at, and a byte of each vCPU that there is something to look at.
//!
//! The hypervisor sets a port's pending bit, then, unless the port is masked, the selector's bit for its word, then the
//! vCPU's byte; each only where the one before was clear. The guest clears them the other way round, so that an event
//! that arrives in between is found in the next round and none is lost.

use hypercall_abi::event_channel::EVTCHN_2L_NR_CHANNELS;
use hypercall_abi::types::Port;

use crate::Word;

/// Where a port's bits are: the number of the word, and the bit. `None` for a port that has none.
#[inline]
pub fn place(port: Port) -> Option<(usize, u64)> {
    (port.0 < EVTCHN_2L_NR_CHANNELS).then(|| ((port.0 / 64) as usize, 1 << (port.0 % 64)))
}

/// A port's bits.
#[derive(Clone, Copy, Debug)]
pub struct Bits<W> {
    /// The word of pending bits.
    pub pending: W,
    /// The word of mask bits.
    pub mask: W,
    /// The port's bit in each.
    pub bit: u64,
}

/// What became of a port that was made pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Raised {
    /// It was pending before: whoever is to know was told then.
    Before,
    /// It is, but masked.
    Masked,
    /// It is, and its vCPU is to [`select`] its word.
    Ready,
}

impl<W: Word<u64>> Bits<W> {
    /// The hypervisor: makes the port pending.
    #[inline]
    pub fn raise(&self) -> Raised {
        if self.pending.fetch_or(self.bit) & self.bit != 0 {
            Raised::Before
        } else if self.is_masked() {
            Raised::Masked
        } else {
            Raised::Ready
        }
    }

    /// The hypervisor: unmasks the port for the guest. Whether the port's vCPU is to [`select`] its word.
    #[inline]
    pub fn unmask_for_guest(&self) -> bool {
        self.mask.fetch_and(!self.bit) & self.bit != 0 && self.is_pending()
    }

    /// Masks the port.
    pub fn mask(&self) {
        self.mask.fetch_or(self.bit);
    }

    /// The guest: unmasks the port. `false` means that it is pending, so that the event's edge is lost: it is masked
    /// still, and the hypervisor must unmask it (`EVTCHNOP_unmask`, which does nothing for a port that is not masked).
    #[must_use = "an event that came while the port was masked would be lost"]
    pub fn unmask(&self) -> bool {
        self.mask.fetch_and(!self.bit);
        // An event from here on makes its upcall. If it came before, or its upcall is held back, this sees it.
        let pending = self.is_pending();
        if pending {
            self.mask();
        }
        !pending
    }

    /// Whether the port is masked.
    #[inline]
    pub fn is_masked(&self) -> bool {
        self.mask.load() & self.bit != 0
    }

    /// Whether the port is pending.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending.load() & self.bit != 0
    }

    /// Makes the port not pending; whether it was.
    #[inline]
    pub fn clear(&self) -> bool {
        self.pending.fetch_and(!self.bit) & self.bit != 0
    }
}

/// The hypervisor: points a vCPU at a word of pending bits. `true` where it is to be told that it has events.
#[inline]
pub fn select(selector: &impl Word<u64>, word: usize) -> bool {
    let bit = 1 << word;
    selector.fetch_or(bit) & bit == 0
}

/// The guest: takes every pending port of a vCPU that is not masked, clears it, and hands it to `serve`, until none is
/// left. Ports of other vCPUs, which share its words of bits, are left to them: `bound` has the bits of its own.
pub fn take_pending<W: Word<u64>>(
    upcall: &impl Word<u8>,
    selector: &W,
    pending: &[W],
    mask: &[W],
    bound: impl Fn(usize) -> u64,
    mut serve: impl FnMut(Port),
) {
    while upcall.fetch_and(0) != 0 {
        let mut selected = selector.fetch_and(0);
        while selected != 0 {
            let word = selected.trailing_zeros();
            selected &= selected - 1;
            let index = word as usize;
            let (Some(pending), Some(mask)) = (pending.get(index), mask.get(index)) else {
                continue;
            };
            let mut ready = pending.load() & !mask.load() & bound(index);
            while ready != 0 {
                let bit = ready.trailing_zeros();
                ready &= ready - 1;
                // Another vCPU may have taken it since: the port moved there.
                if pending.fetch_and(!(1 << bit)) & 1 << bit != 0 {
                    serve(Port(word * 64 + bit));
                }
            }
        }
    }
}
