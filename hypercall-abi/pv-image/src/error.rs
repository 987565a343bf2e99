//! What can be wrong with an image, in words for the person who has to fix it.

use alloc::string::String;
use core::fmt;

/// Why a file is not a PV kernel that can be started here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file does not begin with an ELF header.
    NotElf,
    /// A 32-bit ELF.
    Not64Bit,
    /// An ELF for another machine; the value is `e_machine`.
    NotX86(u16),
    /// A big-endian ELF.
    BigEndian,
    /// The file ends before the named part of it does.
    Truncated(&'static str),
    /// `e_phentsize` is not that of a 64-bit program header.
    ProgramHeaderSize(u16),
    /// No program header of type `PT_LOAD`.
    NothingToLoad,
    /// The numbered program header contradicts itself or the file.
    BadSegment(usize, &'static str),
    /// Loading would write more than twice the kernel's own size.
    SegmentsOverlap,
    /// Neither `XEN_ELFNOTE_*` notes nor a `__xen_guest` section.
    NoNotes,
    /// More notes than any kernel has.
    TooManyNotes,
    /// A note that must be there is not.
    MissingNote(&'static str),
    /// A note's value is unusable.
    BadNote(&'static str, &'static str),
    /// Neither `LOADER` begins with "generic" nor `GUEST_OS` with "linux".
    ForeignLoader {
        /// Contents of the note `LOADER`.
        loader: String,
        /// Contents of the note `GUEST_OS`.
        guest_os: String,
    },
    /// `XEN_VERSION` does not begin with "xen-3.0".
    XenVersion(String),
    /// The kernel can be started as an HVM or PVH guest only.
    PvhOnly,
    /// The kernel requires a feature that is unknown.
    UnknownFeature(String),
    /// The kernel requires a feature that PV guests do not have here.
    UnsupportedFeature(&'static str),
    /// The kernel cannot be a control domain.
    NotForDom0,
    /// The kernel can be nothing but a control domain.
    OnlyForDom0,
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("not an ELF file (no ELF magic number)"),
            Self::Not64Bit => {
                f.write_str("a 32-bit ELF file; only 64-bit x86 kernels can be started")
            }
            Self::NotX86(machine) => write!(
                f,
                "an ELF file for another machine (e_machine is {machine}, x86-64 is 62)"
            ),
            Self::BigEndian => f.write_str("a big-endian ELF file"),
            Self::Truncated(part) => write!(f, "truncated: the file ends before the {part}"),
            Self::ProgramHeaderSize(size) => {
                write!(f, "ELF header: e_phentsize is {size}, must be 56")
            }
            Self::NothingToLoad => {
                f.write_str("no loadable segment (program header of type PT_LOAD)")
            }
            Self::BadSegment(index, what) => write!(f, "program header {index}: {what}"),
            Self::SegmentsOverlap => {
                f.write_str("program headers overlap: they load more than twice the kernel's size")
            }
            Self::NoNotes => {
                f.write_str("not a Xen PV kernel: no Xen ELF notes and no __xen_guest section")
            }
            Self::TooManyNotes => f.write_str("too many ELF notes"),
            Self::MissingNote(name) => write!(f, "ELF note {name} is missing"),
            Self::BadNote(name, what) => write!(f, "ELF note {name}: {what}"),
            Self::ForeignLoader { loader, guest_os } => write!(
                f,
                "ELF notes: neither is LOADER \"generic\" (it is \"{loader}\") \
                 nor GUEST_OS \"linux\" (it is \"{guest_os}\")"
            ),
            Self::XenVersion(version) => {
                write!(
                    f,
                    "ELF note XEN_VERSION is \"{version}\", must be \"xen-3.0\""
                )
            }
            Self::PvhOnly => f.write_str(
                "an HVM/PVH-only kernel: it has the ELF note PHYS32_ENTRY, \
                 but for PV the notes ENTRY and VIRT_BASE are missing",
            ),
            Self::UnknownFeature(name) => {
                write!(
                    f,
                    "ELF note FEATURES: requires the unknown feature \"{name}\""
                )
            }
            Self::UnsupportedFeature(name) => write!(
                f,
                "ELF note FEATURES: requires the feature \"{name}\", which PV guests do not have"
            ),
            Self::NotForDom0 => f.write_str(
                "ELF note SUPPORTED_FEATURES: the kernel does not support running as dom0",
            ),
            Self::OnlyForDom0 => {
                f.write_str("ELF note FEATURES: the kernel requires to run as dom0")
            }
        }
    }
}

impl core::error::Error for ImageError {}

/// Why an image cannot be laid out in a domain of the given size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// The domain has fewer pages than the boot layout takes.
    OutOfMemory {
        /// Pages that the layout takes.
        needed: u64,
        /// Pages that the domain has.
        available: u64,
    },
    /// The boot region would reach outside the addresses that a guest may use.
    OutOfAddressSpace {
        /// First address of the region.
        start: u64,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfMemory { needed, available } => write!(
                f,
                "the kernel and its boot data need {} KiB of memory, the domain has {} KiB",
                needed.saturating_mul(4),
                available.saturating_mul(4)
            ),
            Self::OutOfAddressSpace { start } => write!(
                f,
                "the kernel's boot region at {start:#x} reaches outside the guest's address space"
            ),
        }
    }
}

impl core::error::Error for LayoutError {}
