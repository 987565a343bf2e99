//! What the boot loader said of memory: the E820 map and the boot modules.

use alloc::string::String;
use hypercall_abi::types::Mfn;

/// What a range of machine addresses is good for; the numbers are those of E820.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemoryKind {
    /// Usable RAM (1).
    Ram,
    /// Reserved (2, and every number this list does not have).
    Reserved,
    /// ACPI tables that may be reclaimed (3).
    AcpiReclaimable,
    /// ACPI non-volatile storage (4).
    AcpiNvs,
    /// RAM with errors (5).
    Unusable,
}

impl MemoryKind {
    /// The E820 type number.
    pub fn e820_type(self) -> u32 {
        match self {
            Self::Ram => 1,
            Self::Reserved => 2,
            Self::AcpiReclaimable => 3,
            Self::AcpiNvs => 4,
            Self::Unusable => 5,
        }
    }

    /// The kind that an E820 type number stands for; unknown ones are reserved.
    pub fn from_e820_type(number: u32) -> Self {
        match number {
            1 => Self::Ram,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            _ => Self::Reserved,
        }
    }
}

/// One range of machine addresses, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryRegion {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub size: u64,
    /// What it is.
    pub kind: MemoryKind,
}

/// A boot module, in whole frames of its own from the start of the first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BootModule {
    /// Its first frame; the others follow without a gap.
    pub first: Mfn,
    /// Its length in bytes.
    pub len: u64,
    /// Its command line, without the module's own name.
    pub command_line: String,
}
