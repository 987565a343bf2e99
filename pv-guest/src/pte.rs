//! Page-table entries and the indices of a linear address, 4-level x86-64 with 4 KiB pages.

use core::fmt;

use hypercall_abi::types::Mfn;

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// Entries in a page table.
pub const ENTRIES: usize = 512;

bitflags::bitflags! {
    /// The flag bits of a page-table entry that a PV guest sets.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Flags: u64 {
        /// Maps something.
        const PRESENT = 1;
        /// Can be written.
        const WRITABLE = 1 << 1;
        /// Reachable from guest user mode. The hypervisor sets the bit in every entry; guest kernel
        /// and guest user have different roots.
        const USER = 1 << 2;
        /// First bit of the cache attribute (PWT).
        const WRITE_THROUGH = 1 << 3;
        /// Second bit of the cache attribute (PCD).
        const CACHE_DISABLE = 1 << 4;
        /// Was used for an access.
        const ACCESSED = 1 << 5;
        /// Was used for a write.
        const DIRTY = 1 << 6;
        /// Third bit of the cache attribute (PAT; in a table of level 1).
        const PAT = 1 << 7;
        /// Survives a reload of the root.
        const GLOBAL = 1 << 8;
        /// Cannot be executed.
        const NO_EXECUTE = 1 << 63;
    }
}

impl Flags {
    /// An entry that points to a table.
    pub const TABLE: Self = Self::PRESENT
        .union(Self::WRITABLE)
        .union(Self::USER)
        .union(Self::ACCESSED);
    /// Read-only data.
    pub const READ: Self = Self::PRESENT.union(Self::ACCESSED).union(Self::NO_EXECUTE);
    /// Data.
    pub const READ_WRITE: Self = Self::READ.union(Self::WRITABLE).union(Self::DIRTY);
    /// Code.
    pub const READ_EXECUTE: Self = Self::PRESENT.union(Self::ACCESSED);
    /// Device registers: neither cached nor written through.
    pub const DEVICE: Self = Self::READ_WRITE
        .union(Self::CACHE_DISABLE)
        .union(Self::WRITE_THROUGH);
}

/// A page-table entry as a PV guest writes it: a machine frame and flags.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Pte(pub u64);

impl Pte {
    /// Maps nothing.
    pub const EMPTY: Self = Self(0);

    const FRAME: u64 = 0x000f_ffff_ffff_f000;

    /// An entry for a frame.
    pub const fn new(frame: Mfn, flags: Flags) -> Self {
        Self((frame.0 << 12 & Self::FRAME) | flags.bits())
    }

    /// The frame it names, if it is present.
    pub fn frame(self) -> Option<Mfn> {
        self.is_present()
            .then_some(Mfn((self.0 & Self::FRAME) >> 12))
    }

    /// Whether it maps something.
    pub const fn is_present(self) -> bool {
        self.0 & Flags::PRESENT.bits() != 0
    }

    /// Whether what it maps can be written.
    pub const fn is_writable(self) -> bool {
        self.0 & Flags::WRITABLE.bits() != 0
    }

    /// The same entry without some flags.
    pub const fn without(self, flags: Flags) -> Self {
        Self(self.0 & !flags.bits())
    }
}

impl fmt::Debug for Pte {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pte({:#x})", self.0)
    }
}

/// The index of a linear address in the table of `level` (1 to 4) that maps it.
pub const fn index(address: u64, level: u32) -> usize {
    (address >> (12 + 9 * (level - 1))) as usize % ENTRIES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_are_nine_bits_each() {
        let address = 0xffff_8800_0040_3000;
        assert_eq!(
            [4, 3, 2, 1].map(|level| index(address, level)),
            [272, 0, 2, 3]
        );
        assert_eq!([4, 3, 2, 1].map(|level| index(u64::MAX, level)), [511; 4]);
    }

    #[test]
    fn an_entry_gives_back_its_frame_unless_absent() {
        let pte = Pte::new(Mfn(0xf_ffff_ffff), Flags::READ_WRITE);
        assert_eq!(pte.0, 0x8000_ffff_ffff_f063);
        assert_eq!(pte.frame(), Some(Mfn(0xf_ffff_ffff)));
        assert!(pte.is_writable());
        let read_only = pte.without(Flags::WRITABLE | Flags::DIRTY);
        assert!(!read_only.is_writable());
        assert_eq!(read_only, Pte::new(Mfn(0xf_ffff_ffff), Flags::READ));
        assert_eq!(Pte(0x1000).frame(), None);
    }
}
