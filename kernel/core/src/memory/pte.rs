//! Page-table entries and the levels of page tables.

use core::fmt;

use hypercall_abi::types::Mfn;

/// A page-table entry of any level, as the processor reads it.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Pte(pub u64);

impl Pte {
    /// The entry is in use.
    pub const PRESENT: u64 = 1;
    /// Writes are allowed.
    pub const WRITABLE: u64 = 1 << 1;
    /// Ring 3 may use it. The hypervisor sets it in every present guest entry.
    pub const USER: u64 = 1 << 2;
    /// Page-level write-through.
    pub const PWT: u64 = 1 << 3;
    /// Page-level cache disable.
    pub const PCD: u64 = 1 << 4;
    /// Accessed.
    pub const ACCESSED: u64 = 1 << 5;
    /// Dirty.
    pub const DIRTY: u64 = 1 << 6;
    /// PAT in an L1 entry.
    pub const PAT: u64 = 1 << 7;
    /// A superpage, in an entry of a higher level.
    pub const PSE: u64 = 1 << 7;
    /// Survives a change of root.
    pub const GLOBAL: u64 = 1 << 8;
    /// Bits 9 to 11, free for the guest.
    pub const AVAILABLE: u64 = 7 << 9;
    /// Bits 52 to 62, free for the guest too, but for [`Self::GUEST_KERNEL`].
    pub const AVAILABLE_HIGH: u64 = 0x7ff << 52;
    /// Set by the hypervisor in entries that the guest made without [`Self::USER`]: they are its kernel's.
    pub const GUEST_KERNEL: u64 = 1 << 52;
    /// Not executable.
    pub const NO_EXECUTE: u64 = 1 << 63;
    /// The bits that choose a memory type in an L1 entry.
    pub const CACHE: u64 = Self::PWT | Self::PCD | Self::PAT;

    const FRAME: u64 = 0x000f_ffff_ffff_f000;
    const COMMON: u64 = Self::PRESENT
        | Self::WRITABLE
        | Self::USER
        | Self::ACCESSED
        | Self::DIRTY
        | Self::AVAILABLE
        | Self::AVAILABLE_HIGH
        | Self::NO_EXECUTE;

    /// An entry that names `mfn`, with these flag bits.
    pub const fn new(mfn: Mfn, flags: u64) -> Self {
        Self((mfn.0 << 12) & Self::FRAME | flags)
    }

    /// The frame that it names.
    pub const fn mfn(self) -> Mfn {
        Mfn((self.0 & Self::FRAME) >> 12)
    }

    /// Everything but the frame number.
    pub const fn flags(self) -> u64 {
        self.0 & !Self::FRAME
    }

    /// Whether all of `flags` are set.
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags == flags
    }

    /// Whether it is in use.
    pub const fn present(self) -> bool {
        self.has(Self::PRESENT)
    }

    /// Whether it is in use and allows writes.
    pub const fn writable(self) -> bool {
        self.has(Self::PRESENT | Self::WRITABLE)
    }

    /// Whether a guest may write these flags into a table of this level.
    pub const fn flags_allowed(self, level: Level) -> bool {
        let allowed = match level {
            Level::L1 => Self::COMMON | Self::GLOBAL | Self::CACHE,
            _ => Self::COMMON,
        };
        self.flags() & !allowed == 0
    }

    /// The entry as the hypervisor stores it for the guest.
    ///
    /// Every present entry gets [`Self::USER`], because the guest's kernel runs in ring 3; in an L1 table
    /// [`Self::GUEST_KERNEL`] remembers that the guest did not ask for it. Global entries would outlive a switch
    /// between the guest's kernel and user roots, and between domains, so that no entry is global.
    pub const fn adjusted(self, level: Level) -> Self {
        if !self.present() {
            return self;
        }
        let kernel = match level {
            Level::L1 if !self.has(Self::USER) => Self::GUEST_KERNEL,
            _ => 0,
        };
        Self((self.0 | Self::USER | kernel) & !Self::GLOBAL)
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pte({:#x})", self.0)
    }
}

/// Level of a page table: L1 maps pages, L4 is a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Page table.
    L1 = 1,
    /// Page directory.
    L2 = 2,
    /// Page-directory-pointer table.
    L3 = 3,
    /// Root.
    L4 = 4,
}

impl Level {
    /// The level of the tables that this level's entries name; `None` for L1, whose entries name pages.
    pub const fn below(self) -> Option<Self> {
        match self {
            Self::L1 => None,
            Self::L2 => Some(Self::L1),
            Self::L3 => Some(Self::L2),
            Self::L4 => Some(Self::L3),
        }
    }

    /// The level of the tables whose entries name this level's; `None` for L4.
    pub const fn above(self) -> Option<Self> {
        match self {
            Self::L1 => Some(Self::L2),
            Self::L2 => Some(Self::L3),
            Self::L3 => Some(Self::L4),
            Self::L4 => None,
        }
    }

    /// The entry of a table of this level that translates `va`.
    pub const fn index(self, va: u64) -> usize {
        (va >> (12 + 9 * (self as u32 - 1))) as usize & 0x1ff
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_entries_stay_distinguishable_and_nothing_is_global() {
        let kernel = Pte(0x1000 | Pte::PRESENT | Pte::GLOBAL).adjusted(Level::L1);
        assert_eq!(
            kernel.0,
            0x1000 | Pte::PRESENT | Pte::USER | Pte::GUEST_KERNEL
        );
        let user = Pte(0x1000 | Pte::PRESENT | Pte::USER | Pte::GLOBAL).adjusted(Level::L1);
        assert_eq!(user.0, 0x1000 | Pte::PRESENT | Pte::USER);
        assert_eq!(kernel.adjusted(Level::L1), kernel);
        assert_eq!(
            Pte(0x1000 | Pte::GLOBAL).adjusted(Level::L1).0,
            0x1000 | Pte::GLOBAL
        );
    }

    #[test]
    fn superpages_and_global_tables_are_refused() {
        for level in [Level::L2, Level::L3, Level::L4] {
            assert!(!Pte(Pte::PRESENT | Pte::PSE).flags_allowed(level));
            assert!(!Pte(Pte::PRESENT | Pte::GLOBAL).flags_allowed(level));
            assert!(!Pte(Pte::PRESENT | Pte::PCD).flags_allowed(level));
        }
        assert!(Pte(Pte::PRESENT | Pte::PAT | Pte::GLOBAL).flags_allowed(Level::L1));
    }
}
