//! [`Active`]: what the hypervisor keeps of a grant that is in use, where its domain cannot change it.

use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, Mfn};

use super::Status;
use super::entry::Target;

/// Uses of one kind of which no more are given out (Xen's number).
const MOST: u8 = 128;

/// How a grant is used: by one mapping for processors, for devices or for both, or by one copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uses {
    /// By processors.
    pub host: bool,
    /// By devices.
    pub device: bool,
    /// To write.
    pub write: bool,
}

impl Uses {
    /// By a copy.
    pub(super) fn copy(write: bool) -> Self {
        Self {
            host: true,
            device: false,
            write,
        }
    }

    /// By a mapping with these `GNTMAP_*` flags.
    pub(super) fn mapping(flags: u32) -> Self {
        Self {
            host: flags & GNTMAP_HOST_MAP != 0,
            device: flags & GNTMAP_DEVICE_MAP != 0,
            write: flags & GNTMAP_READONLY == 0,
        }
    }

    /// Whether there is any.
    pub(super) fn any(self) -> bool {
        self.host || self.device
    }

    /// Numbers of the counters.
    fn counters(self) -> impl Iterator<Item = usize> {
        let write = usize::from(self.write);
        let host = self.host.then_some(write);
        host.into_iter().chain(self.device.then_some(2 + write))
    }
}

/// A grant in use, or, with all counters 0, one that is not.
#[derive(Clone, Debug)]
pub struct Active {
    /// Uses: to read and to write by processors, to read and to write by devices.
    pins: [u8; 4],
    /// Who uses it.
    pub(super) domid: Domid,
    /// What was granted when the first use began.
    pub(super) target: Target,
}

impl Active {
    pub(super) const NONE: Self = Self {
        pins: [0; 4],
        domid: Domid::INVALID,
        target: Target::Frame {
            mfn: Mfn(0),
            start: 0,
            len: 0,
            part: false,
        },
    };

    /// Whether it is in use.
    pub(super) fn pinned(&self) -> bool {
        self.pins != [0; 4]
    }

    /// Whether it is in use to write.
    pub(super) fn written(&self) -> bool {
        let [_, host, _, device] = self.pins;
        host != 0 || device != 0
    }

    /// Whether it is in use by this domain, and of this frame.
    pub(super) fn is_of(&self, mfn: Mfn, domid: Domid) -> bool {
        let named = matches!(self.target, Target::Frame { mfn: named, .. } if named == mfn);
        self.pinned() && self.domid == domid && named
    }

    /// Whether uses can come to those that there are.
    ///
    /// # Errors
    /// `GNTST_general_error` where another domain has it, it is not one to be mapped and they `map`, or there are too
    /// many.
    pub(super) fn admits(&self, uses: Uses, domid: Domid, map: bool) -> Result<(), Status> {
        let whole = matches!(self.target, Target::Frame { part: false, .. });
        let full = |counter: usize| self.pins.get(counter).is_none_or(|&pins| pins >= MOST);
        let refused = self.domid != domid || map && !whole || uses.counters().any(full);
        match self.pinned() && refused {
            true => Err(GNTST_GENERAL_ERROR),
            false => Ok(()),
        }
    }

    /// Counts uses that were admitted.
    pub(super) fn add(&mut self, uses: Uses) {
        for counter in uses.counters() {
            if let Some(pins) = self.pins.get_mut(counter) {
                *pins += 1;
            }
        }
    }

    /// Takes uses away; the marks that the entry is to lose.
    pub(super) fn remove(&mut self, uses: Uses) -> u16 {
        for counter in uses.counters() {
            if let Some(pins) = self.pins.get_mut(counter) {
                *pins = pins.saturating_sub(1);
            }
        }
        let reading = if self.pinned() { 0 } else { GTF_READING };
        let writing = if uses.write && !self.written() {
            GTF_WRITING
        } else {
            0
        };
        reading | writing
    }

    /// The counters: to read and to write by processors, to read and to write by devices.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn pins(&self) -> [u8; 4] {
        self.pins
    }
}
