//! What an ELF file says about the PV kernel in it.
//!
//! The rules are those of Xen's public `elfnote.h`: notes are looked for in `PT_NOTE` segments,
//! failing that in `SHT_NOTE` sections, failing that in the section `__xen_guest`; segments are
//! placed by their physical addresses, which `PADDR_OFFSET` and `VIRT_BASE` turn into virtual ones.

use crate::notes::{Note, notes};
use crate::{Features, ImageError, PAGE_SIZE, legacy, page_align_up};
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use elf::abi;
use elf::endian::{AnyEndian, LittleEndian};
use elf::file::{Class, FileHeader, parse_ident};
use elf::section::{SectionHeader, SectionHeaderTable};
use elf::segment::{ProgramHeader, SegmentTable};
use hypercall_abi::elfnote;

/// Notes that are read before the file is taken for hostile.
const MAX_NOTES: usize = 65536;

/// A PV kernel as its file describes it. All addresses are virtual addresses in the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PvImage {
    /// Where the boot vCPU starts.
    pub entry: u64,
    /// Start of the initial mapping, page-aligned: the address of pseudo-physical page 0.
    pub virt_base: u64,
    /// What is subtracted from the ELF file's physical addresses to get pseudo-physical ones.
    pub paddr_offset: u64,
    /// The kernel itself, from its lowest segment to the end of its highest.
    pub kernel: Range<u64>,
    /// Page inside `kernel` that the hypervisor fills with hypercall stubs.
    pub hypercall_page: Option<u64>,
    /// Where the kernel wants the phys-to-machine list, page-aligned, if not behind itself.
    pub init_p2m: Option<u64>,
    /// The lowest address at which the kernel lets the hypervisor's hole begin (32-bit kernels use
    /// it).
    pub hv_start_low: Option<u64>,
    /// Features supported and required.
    pub features: Features,
    /// Whether the numeric note `SUPPORTED_FEATURES` is there; only then is the lack of a feature a
    /// statement.
    pub features_are_complete: bool,
    /// How to recognise non-present page-table entries that hold machine frames.
    pub l1_mfn_valid: Vec<L1MfnValid>,
    /// The ramdisk need not be mapped: `mod_start` may be a pseudo-physical frame number.
    pub mod_start_pfn: bool,
    /// PAE mode, of interest for 32-bit kernels and for `start_info.magic`.
    pub pae: PaeMode,
    /// The kernel supports a suspend that is cancelled.
    pub suspend_cancel: bool,
    /// The kernel would like its symbol table loaded behind it. It is not: such kernels run
    /// without.
    pub bsd_symtab: bool,
    /// Note `GUEST_OS`, or empty.
    pub guest_os: String,
    /// Note `GUEST_VERSION`, or empty.
    pub guest_version: String,
    /// Note `LOADER`, or empty.
    pub loader: String,
    /// Note `XEN_VERSION`.
    pub xen_version: String,
    /// What to load, in file order; later segments overwrite earlier ones.
    pub segments: Vec<Segment>,
}

/// A loadable segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Where it goes.
    pub vaddr: u64,
    /// Its bytes in the file; inside the file, and no longer than `memsz`.
    pub file: Range<usize>,
    /// Its size in memory; what the file does not provide is zero.
    pub memsz: u64,
}

/// A pattern of the note `L1_MFN_VALID`: an entry holds a frame if `entry & mask == value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L1MfnValid {
    /// Bits that are compared.
    pub mask: u64,
    /// Their values.
    pub value: u64,
}

/// Values of the note `PAE_MODE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PaeMode {
    /// Not stated.
    #[default]
    No,
    /// PAE, with the page directory below 4 GiB.
    Yes,
    /// PAE, with the page directory anywhere.
    ExtendedCr3,
    /// PAE or not, as the hypervisor likes.
    Bimodal,
}

/// What a domain is to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The control domain, built by the hypervisor.
    Dom0,
    /// Any other domain, built by a toolstack.
    DomU,
}

impl PvImage {
    /// Reads the headers and notes of `file`.
    pub fn parse(file: &[u8]) -> Result<Self, ImageError> {
        let header = file_header(file)?;
        let segments = program_headers(file, &header)?;
        let sections = section_headers(file, &header);

        let raw = read_notes(file, &segments, &sections)?;
        raw.check()?;
        let loadable = loadable(file, &segments)?;
        raw.place(header.e_entry, loadable)
    }

    /// Whether the kernel can be run as `role`.
    pub fn check_role(&self, role: Role) -> Result<(), ImageError> {
        match role {
            Role::Dom0 if self.features_are_complete && !self.features.supports_dom0() => {
                Err(ImageError::NotForDom0)
            }
            Role::DomU if self.features.requires_dom0() => Err(ImageError::OnlyForDom0),
            _ => Ok(()),
        }
    }
}

fn file_header(file: &[u8]) -> Result<FileHeader<AnyEndian>, ImageError> {
    let ident = file.get(..abi::EI_NIDENT).ok_or(ImageError::NotElf)?;
    let ident = parse_ident::<AnyEndian>(ident).map_err(|_| ImageError::NotElf)?;
    if ident.1 != Class::ELF64 {
        return Err(ImageError::Not64Bit);
    }
    let tail = file.get(abi::EI_NIDENT..).unwrap_or_default();
    let header = FileHeader::parse_tail(ident, tail)
        .map_err(|_| ImageError::Truncated("end of the ELF header"))?;
    if header.endianness != AnyEndian::Little {
        return Err(ImageError::BigEndian);
    }
    if header.e_machine != abi::EM_X86_64 {
        return Err(ImageError::NotX86(header.e_machine));
    }
    Ok(header)
}

type Segments<'a> = SegmentTable<'a, LittleEndian>;
type Sections<'a> = SectionHeaderTable<'a, LittleEndian>;

fn program_headers<'a>(
    file: &'a [u8],
    header: &FileHeader<AnyEndian>,
) -> Result<Segments<'a>, ImageError> {
    if header.e_phnum == 0 {
        return Err(ImageError::NothingToLoad);
    }
    let entry = size_of::<elf::segment::Elf64_Phdr>();
    if usize::from(header.e_phentsize) != entry {
        return Err(ImageError::ProgramHeaderSize(header.e_phentsize));
    }
    let table = part(
        file,
        header.e_phoff,
        u64::from(header.e_phnum) * entry as u64,
    )
    .ok_or(ImageError::Truncated("end of the program headers"))?;
    Ok(SegmentTable::new(LittleEndian, Class::ELF64, table))
}

/// The section headers and the table with their names. Sections are optional in an executable, so
/// that damaged ones count as none.
struct SectionTable<'a> {
    headers: Sections<'a>,
    names: &'a [u8],
}

impl SectionTable<'_> {
    fn name_is(&self, section: &SectionHeader, name: &[u8]) -> bool {
        usize::try_from(section.sh_name)
            .ok()
            .and_then(|start| self.names.get(start..))
            .and_then(|rest| rest.split_at_checked(name.len()))
            .is_some_and(|(found, rest)| found == name && rest.first() == Some(&0))
    }
}

fn section_headers<'a>(file: &'a [u8], header: &FileHeader<AnyEndian>) -> SectionTable<'a> {
    let entry = size_of::<elf::section::Elf64_Shdr>();
    let table = if usize::from(header.e_shentsize) == entry {
        part(
            file,
            header.e_shoff,
            u64::from(header.e_shnum) * entry as u64,
        )
    } else {
        None
    };
    let headers = SectionHeaderTable::new(LittleEndian, Class::ELF64, table.unwrap_or_default());
    let names = headers
        .get(usize::from(header.e_shstrndx))
        .ok()
        .and_then(|section| part(file, section.sh_offset, section.sh_size));
    SectionTable {
        headers,
        names: names.unwrap_or_default(),
    }
}

/// `size` bytes of the file from `offset`, if it has them.
fn part(file: &[u8], offset: u64, size: u64) -> Option<&[u8]> {
    file.get(part_range(offset, size)?)
}

fn part_range(offset: u64, size: u64) -> Option<Range<usize>> {
    let end = offset.checked_add(size)?;
    Some(usize::try_from(offset).ok()?..usize::try_from(end).ok()?)
}

/// The notes' values before anything is derived from them.
#[derive(Default)]
struct Raw {
    entry: Option<u64>,
    hypercall_page: Option<u64>,
    virt_base: Option<u64>,
    paddr_offset: Option<u64>,
    init_p2m: Option<u64>,
    hv_start_low: Option<u64>,
    phys32_entry: Option<u64>,
    xen_version: Option<String>,
    guest_os: Option<String>,
    guest_version: Option<String>,
    loader: Option<String>,
    features: Features,
    features_are_complete: bool,
    l1_mfn_valid: Vec<L1MfnValid>,
    mod_start_pfn: bool,
    pae: PaeMode,
    suspend_cancel: bool,
    bsd_symtab: bool,
    legacy: bool,
}

fn read_notes(
    file: &[u8],
    segments: &Segments<'_>,
    sections: &SectionTable<'_>,
) -> Result<Raw, ImageError> {
    let mut raw = Raw::default();
    let mut budget = MAX_NOTES;

    // Some versions of binutils leave the offset of a note segment at 0, where the ELF header is.
    let in_segments = segments
        .iter()
        .filter(|s| s.p_type == abi::PT_NOTE && s.p_offset != 0)
        .filter_map(|s| part(file, s.p_offset, s.p_filesz));
    if raw.add_all(in_segments, &mut budget)? {
        return Ok(raw);
    }
    let in_sections = sections
        .headers
        .iter()
        .filter(|s| s.sh_type == abi::SHT_NOTE)
        .filter_map(|s| part(file, s.sh_offset, s.sh_size));
    if raw.add_all(in_sections, &mut budget)? {
        return Ok(raw);
    }
    let section = sections
        .headers
        .iter()
        .find(|s| sections.name_is(s, b"__xen_guest"))
        .and_then(|s| part(file, s.sh_offset, s.sh_size))
        .ok_or(ImageError::NoNotes)?;
    raw.add_legacy(section)?;
    Ok(raw)
}

impl Raw {
    /// Reads the Xen notes in all of `parts`; whether there was one.
    fn add_all<'a>(
        &mut self,
        parts: impl Iterator<Item = &'a [u8]>,
        budget: &mut usize,
    ) -> Result<bool, ImageError> {
        let mut found = false;
        for note in parts.flat_map(notes) {
            *budget = budget.checked_sub(1).ok_or(ImageError::TooManyNotes)?;
            if note.xen {
                found = true;
                self.add(&note)?;
            }
        }
        Ok(found)
    }

    fn add(&mut self, note: &Note<'_>) -> Result<(), ImageError> {
        match note.number {
            elfnote::XEN_ELFNOTE_ENTRY => self.entry = Some(note.value()),
            elfnote::XEN_ELFNOTE_HYPERCALL_PAGE => self.hypercall_page = Some(note.value()),
            elfnote::XEN_ELFNOTE_VIRT_BASE => self.virt_base = Some(note.value()),
            elfnote::XEN_ELFNOTE_PADDR_OFFSET => self.paddr_offset = Some(note.value()),
            elfnote::XEN_ELFNOTE_XEN_VERSION => self.xen_version = Some(note.string()),
            elfnote::XEN_ELFNOTE_GUEST_OS => self.guest_os = Some(note.string()),
            elfnote::XEN_ELFNOTE_GUEST_VERSION => self.guest_version = Some(note.string()),
            elfnote::XEN_ELFNOTE_LOADER => self.loader = Some(note.string()),
            elfnote::XEN_ELFNOTE_PAE_MODE => {
                let mode = note.string();
                if mode.contains("bimodal") {
                    self.pae = PaeMode::Bimodal;
                } else if mode == "yes" {
                    self.pae = PaeMode::ExtendedCr3;
                }
            }
            elfnote::XEN_ELFNOTE_FEATURES => self.features.add_string(&note.string())?,
            elfnote::XEN_ELFNOTE_BSD_SYMTAB => self.bsd_symtab |= note.string() == "yes",
            elfnote::XEN_ELFNOTE_HV_START_LOW => self.hv_start_low = Some(note.value()),
            elfnote::XEN_ELFNOTE_L1_MFN_VALID => {
                let mut words = note.longs();
                self.l1_mfn_valid.clear();
                while let (Some(mask), Some(value)) = (words.next(), words.next()) {
                    self.l1_mfn_valid.push(L1MfnValid { mask, value });
                }
            }
            elfnote::XEN_ELFNOTE_SUSPEND_CANCEL => self.suspend_cancel = note.value() != 0,
            elfnote::XEN_ELFNOTE_INIT_P2M => self.init_p2m = Some(note.value()),
            elfnote::XEN_ELFNOTE_MOD_START_PFN => self.mod_start_pfn = note.value() != 0,
            elfnote::XEN_ELFNOTE_SUPPORTED_FEATURES => {
                self.features_are_complete = true;
                self.features.supported |= note.words().next().unwrap_or(0);
            }
            elfnote::XEN_ELFNOTE_PHYS32_ENTRY => self.phys32_entry = Some(note.value()),
            // Notes that newer kernels have for newer hypervisors.
            _ => {}
        }
        Ok(())
    }

    fn add_legacy(&mut self, section: &[u8]) -> Result<(), ImageError> {
        self.legacy = true;
        let mut hypercall_frame = None;
        for (name, value) in legacy::pairs(section) {
            let number = |name| {
                legacy::number(value).ok_or(ImageError::BadNote(
                    name,
                    "not a number (in section __xen_guest)",
                ))
            };
            match name {
                "LOADER" => self.loader = Some(String::from(value)),
                "GUEST_OS" => self.guest_os = Some(String::from(value)),
                "GUEST_VER" => self.guest_version = Some(String::from(value)),
                "XEN_VER" => self.xen_version = Some(String::from(value)),
                "PAE" if value == "yes[extended-cr3]" => self.pae = PaeMode::ExtendedCr3,
                "PAE" if value.starts_with("yes") => self.pae = PaeMode::Yes,
                "BSD_SYMTAB" => self.bsd_symtab = true,
                "VIRT_BASE" => self.virt_base = Some(number("VIRT_BASE")?),
                "VIRT_ENTRY" => self.entry = Some(number("VIRT_ENTRY")?),
                "ELF_PADDR_OFFSET" => self.paddr_offset = Some(number("ELF_PADDR_OFFSET")?),
                // Here, and here only, a frame number and not an address.
                "HYPERCALL_PAGE" => hypercall_frame = Some(number("HYPERCALL_PAGE")?),
                "FEATURES" => self.features.add_string(value)?,
                _ => {}
            }
        }
        if let Some(frame) = hypercall_frame {
            let address = frame
                .checked_mul(PAGE_SIZE)
                .and_then(|offset| offset.checked_add(self.virt_base.unwrap_or(0)))
                .ok_or(ImageError::BadNote("HYPERCALL_PAGE", "not an address"))?;
            self.hypercall_page = Some(address);
        }
        Ok(())
    }

    /// Whether this is a kernel for us at all.
    fn check(&self) -> Result<(), ImageError> {
        if self.phys32_entry.is_some() && self.entry.is_none() && self.virt_base.is_none() {
            return Err(ImageError::PvhOnly);
        }
        let loader = self.loader.as_deref().unwrap_or_default();
        let guest_os = self.guest_os.as_deref().unwrap_or_default();
        if !loader.starts_with("generic") && !guest_os.starts_with("linux") {
            return Err(ImageError::ForeignLoader {
                loader: String::from(loader),
                guest_os: String::from(guest_os),
            });
        }
        match &self.xen_version {
            None => return Err(ImageError::MissingNote("XEN_VERSION")),
            Some(version) if !version.starts_with("xen-3.0") => {
                return Err(ImageError::XenVersion(version.clone()));
            }
            Some(_) => {}
        }
        self.features.check_pv()
    }

    /// Turns physical into virtual addresses and checks where everything lies.
    fn place(self, elf_entry: u64, loadable: Loadable) -> Result<PvImage, ImageError> {
        if self.paddr_offset.is_some() && self.virt_base.is_none() {
            return Err(ImageError::MissingNote("VIRT_BASE"));
        }
        let virt_base = self.virt_base.unwrap_or(0);
        if !virt_base.is_multiple_of(PAGE_SIZE) {
            return Err(ImageError::BadNote("VIRT_BASE", "not page-aligned"));
        }
        let default_offset = if self.legacy { virt_base } else { 0 };
        let paddr_offset = self.paddr_offset.unwrap_or(default_offset);
        // Kernels with an offset below their load address wrap around here by intent: what counts
        // is the sum.
        let virtual_of = |paddr: u64| paddr.wrapping_sub(paddr_offset).wrapping_add(virt_base);

        let kernel = virtual_of(loadable.paddrs.start)..virtual_of(loadable.paddrs.end);
        if kernel.start > kernel.end {
            return Err(ImageError::BadNote(
                "PADDR_OFFSET",
                "the kernel wraps around the end of the address space",
            ));
        }
        if virt_base > kernel.start {
            return Err(ImageError::BadNote(
                "VIRT_BASE",
                "above the kernel's first segment",
            ));
        }
        let kernel_pages_end = page_align_up(kernel.end).ok_or(ImageError::BadNote(
            "PADDR_OFFSET",
            "the kernel reaches the end of the address space",
        ))?;
        let entry = self.entry.unwrap_or(elf_entry);
        if !kernel.contains(&entry) {
            return Err(if self.entry.is_some() {
                ImageError::BadNote("ENTRY", "outside the kernel's segments")
            } else {
                ImageError::BadNote("ENTRY", "missing, and e_entry is outside the segments")
            });
        }
        if let Some(page) = self.hypercall_page {
            if !page.is_multiple_of(PAGE_SIZE) {
                return Err(ImageError::BadNote("HYPERCALL_PAGE", "not page-aligned"));
            }
            if !(virt_base..kernel_pages_end).contains(&page) {
                return Err(ImageError::BadNote("HYPERCALL_PAGE", "outside the kernel"));
            }
        }
        if let Some(base) = self.init_p2m {
            if !base.is_multiple_of(PAGE_SIZE) {
                return Err(ImageError::BadNote("INIT_P2M", "not page-aligned"));
            }
            if kernel.contains(&base) {
                return Err(ImageError::BadNote("INIT_P2M", "inside the kernel"));
            }
        }
        let mut segments = loadable.segments;
        for segment in &mut segments {
            segment.vaddr = virtual_of(segment.vaddr);
        }
        Ok(PvImage {
            entry,
            virt_base,
            paddr_offset,
            kernel,
            hypercall_page: self.hypercall_page,
            init_p2m: self.init_p2m,
            hv_start_low: self.hv_start_low,
            features: self.features,
            features_are_complete: self.features_are_complete,
            l1_mfn_valid: self.l1_mfn_valid,
            mod_start_pfn: self.mod_start_pfn,
            pae: self.pae,
            suspend_cancel: self.suspend_cancel,
            bsd_symtab: self.bsd_symtab,
            guest_os: self.guest_os.unwrap_or_default(),
            guest_version: self.guest_version.unwrap_or_default(),
            loader: self.loader.unwrap_or_default(),
            xen_version: self.xen_version.unwrap_or_default(),
            segments,
        })
    }
}

/// The segments to load, still at physical addresses, and the span of these.
struct Loadable {
    segments: Vec<Segment>,
    paddrs: Range<u64>,
}

fn loadable(file: &[u8], headers: &Segments<'_>) -> Result<Loadable, ImageError> {
    let any_access = abi::PF_R | abi::PF_W | abi::PF_X;
    let mut segments = Vec::new();
    let mut paddrs: Option<Range<u64>> = None;
    let mut total = 0u64;
    for (index, header) in headers.iter().enumerate() {
        if header.p_type != abi::PT_LOAD || header.p_flags & any_access == 0 {
            continue;
        }
        let end = check_segment(file, index, &header)?;
        let all = paddrs.get_or_insert(header.p_paddr..end);
        all.start = all.start.min(header.p_paddr);
        all.end = all.end.max(end);
        total = total.saturating_add(header.p_memsz);
        let file = part_range(header.p_offset, header.p_filesz)
            .ok_or(ImageError::BadSegment(index, "outside the file"))?;
        segments.push(Segment {
            vaddr: header.p_paddr,
            file,
            memsz: header.p_memsz,
        });
    }
    let paddrs = paddrs.ok_or(ImageError::NothingToLoad)?;
    // A thousand headers that each load the whole file would keep the builder busy for ever.
    if total > (paddrs.end - paddrs.start).saturating_mul(2) {
        return Err(ImageError::SegmentsOverlap);
    }
    Ok(Loadable { segments, paddrs })
}

/// The physical address after a segment.
fn check_segment(file: &[u8], index: usize, header: &ProgramHeader) -> Result<u64, ImageError> {
    if header.p_filesz > header.p_memsz {
        return Err(ImageError::BadSegment(
            index,
            "p_filesz is larger than p_memsz",
        ));
    }
    if part(file, header.p_offset, header.p_filesz).is_none() {
        return Err(ImageError::BadSegment(
            index,
            "its contents lie outside the file",
        ));
    }
    header
        .p_paddr
        .checked_add(header.p_memsz)
        .ok_or(ImageError::BadSegment(
            index,
            "wraps around the end of the address space",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::Kernel;
    use proptest::prelude::*;

    const BASE: u64 = 0xffff_ffff_8000_0000;

    fn small() -> Kernel {
        Kernel::small(&[0x90; 0x3000], 0x1800)
    }

    fn refusal(kernel: Kernel) -> ImageError {
        PvImage::parse(&kernel.write()).unwrap_err()
    }

    #[test]
    fn a_kernel_with_notes_is_understood() {
        let file = small()
            .note(elfnote::XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000)
            .write();
        let image = PvImage::parse(&file).unwrap();
        assert_eq!(image.entry, BASE + 0x40_0000);
        assert_eq!(image.virt_base, BASE);
        assert_eq!(image.kernel, BASE + 0x40_0000..BASE + 0x40_4800);
        assert_eq!(image.hypercall_page, Some(BASE + 0x40_1000));
        assert_eq!(image.init_p2m, Some(0x80_0000_0000));
        assert_eq!(image.loader, "generic");
        assert_eq!(image.guest_os, "fixture");
        let [segment] = image.segments.as_slice() else {
            panic!("{:?}", image.segments)
        };
        assert_eq!((segment.vaddr, segment.memsz), (BASE + 0x40_0000, 0x4800));
        assert_eq!(file[segment.file.clone()], [0x90; 0x3000]);
        assert_eq!(image.check_role(Role::Dom0), Ok(()));
        assert_eq!(image.check_role(Role::DomU), Ok(()));
    }

    #[test]
    fn physical_addresses_that_are_virtual_ones_are_undone_by_paddr_offset() {
        let mut kernel = small().note(elfnote::XEN_ELFNOTE_PADDR_OFFSET, BASE);
        kernel.segments[0].0 = BASE + 0x40_0000;
        let image = PvImage::parse(&kernel.write()).unwrap();
        assert_eq!(image.kernel, BASE + 0x40_0000..BASE + 0x40_4800);
    }

    #[test]
    fn l1_mfn_valid_is_a_list_of_pairs() {
        let mut kernel = small();
        let desc = [1u64, 1, 0x80, 0]
            .iter()
            .flat_map(|v| v.to_le_bytes())
            .collect();
        kernel.notes.push((elfnote::XEN_ELFNOTE_L1_MFN_VALID, desc));
        let image = PvImage::parse(&kernel.write()).unwrap();
        assert_eq!(
            image.l1_mfn_valid,
            [
                L1MfnValid { mask: 1, value: 1 },
                L1MfnValid {
                    mask: 0x80,
                    value: 0
                }
            ]
        );
    }

    #[test]
    fn missing_notes_are_named() {
        assert_eq!(
            refusal(small().without(elfnote::XEN_ELFNOTE_XEN_VERSION)).to_string(),
            "ELF note XEN_VERSION is missing"
        );
        assert_eq!(
            refusal(small().without(elfnote::XEN_ELFNOTE_LOADER)).to_string(),
            "ELF notes: neither is LOADER \"generic\" (it is \"\") nor GUEST_OS \"linux\" \
             (it is \"fixture\")"
        );
        let bare = Kernel {
            notes: Vec::new(),
            ..small()
        };
        assert_eq!(refusal(bare), ImageError::NoNotes);
        let offset_alone = small()
            .without(elfnote::XEN_ELFNOTE_VIRT_BASE)
            .without(elfnote::XEN_ELFNOTE_ENTRY)
            .without(elfnote::XEN_ELFNOTE_HYPERCALL_PAGE)
            .note(elfnote::XEN_ELFNOTE_PADDR_OFFSET, 0);
        assert_eq!(refusal(offset_alone), ImageError::MissingNote("VIRT_BASE"));
    }

    #[test]
    fn a_kernel_for_pvh_alone_is_refused_as_such() {
        let kernel = small()
            .without(elfnote::XEN_ELFNOTE_ENTRY)
            .without(elfnote::XEN_ELFNOTE_VIRT_BASE)
            .without(elfnote::XEN_ELFNOTE_HYPERCALL_PAGE)
            .note(elfnote::XEN_ELFNOTE_PHYS32_ENTRY, 0x40_0000);
        assert_eq!(refusal(kernel), ImageError::PvhOnly);
        let both = small().note(elfnote::XEN_ELFNOTE_PHYS32_ENTRY, 0x40_0000);
        assert!(PvImage::parse(&both.write()).is_ok());
    }

    #[test]
    fn addresses_outside_the_kernel_are_refused_by_note() {
        let named = |kernel| match refusal(kernel) {
            ImageError::BadNote(name, _) => name,
            other => panic!("{other}"),
        };
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_ENTRY, BASE)),
            "ENTRY"
        );
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_ENTRY, BASE + 0x40_4800)),
            "ENTRY"
        );
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x40_1001)),
            "HYPERCALL_PAGE"
        );
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_HYPERCALL_PAGE, BASE + 0x40_5000)),
            "HYPERCALL_PAGE"
        );
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_INIT_P2M, BASE + 0x40_0000)),
            "INIT_P2M"
        );
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_VIRT_BASE, BASE + 0x800)),
            "VIRT_BASE"
        );
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_PADDR_OFFSET, 0x100_0000)),
            "VIRT_BASE"
        );
        assert_eq!(
            named(small().note(elfnote::XEN_ELFNOTE_PADDR_OFFSET, BASE + 0x40_1000)),
            "PADDR_OFFSET"
        );
    }

    #[test]
    fn features_that_pv_does_not_have_are_refused() {
        let requires =
            |list: &str| refusal(small().note_string(elfnote::XEN_ELFNOTE_FEATURES, list));
        assert_eq!(
            requires("!warp_drive"),
            ImageError::UnknownFeature("warp_drive".into())
        );
        for name in [
            "auto_translated_physmap",
            "supervisor_mode_kernel",
            "hvm_callback_vector",
        ] {
            assert_eq!(
                requires(&format!("!{name}")),
                ImageError::UnsupportedFeature(name)
            );
        }
    }

    #[test]
    fn the_role_must_suit_the_features() {
        let mut kernel = small().without(elfnote::XEN_ELFNOTE_FEATURES);
        kernel.notes.push((
            elfnote::XEN_ELFNOTE_SUPPORTED_FEATURES,
            1u32.to_le_bytes().into(),
        ));
        let image = PvImage::parse(&kernel.write()).unwrap();
        assert_eq!(image.check_role(Role::Dom0), Err(ImageError::NotForDom0));
        assert_eq!(image.check_role(Role::DomU), Ok(()));
        let kernel = small().note_string(elfnote::XEN_ELFNOTE_FEATURES, "!dom0");
        let image = PvImage::parse(&kernel.write()).unwrap();
        assert_eq!(image.check_role(Role::Dom0), Ok(()));
        assert_eq!(image.check_role(Role::DomU), Err(ImageError::OnlyForDom0));
    }

    #[test]
    fn other_files_are_refused_by_what_they_are() {
        let file = small().write();
        assert_eq!(PvImage::parse(b""), Err(ImageError::NotElf));
        assert_eq!(
            PvImage::parse(b"#!/bin/sh\nexit 0\n# padding"),
            Err(ImageError::NotElf)
        );
        assert_eq!(
            PvImage::parse(&file[..40]),
            Err(ImageError::Truncated("end of the ELF header"))
        );
        assert_eq!(
            PvImage::parse(&file[..100]),
            Err(ImageError::Truncated("end of the program headers"))
        );
        assert!(matches!(
            PvImage::parse(&file[..file.len() - 1]),
            Err(ImageError::BadSegment(1, _))
        ));
        assert_eq!(
            refusal(Kernel {
                machine: 183,
                ..small()
            }),
            ImageError::NotX86(183)
        );
        let mut elf32 = file.clone();
        elf32[4] = 1;
        assert_eq!(PvImage::parse(&elf32), Err(ImageError::Not64Bit));
    }

    #[test]
    fn segments_that_contradict_themselves_are_refused_by_number() {
        let with = |paddr, bytes: usize, memsz| {
            let mut kernel = small();
            kernel.segments.push((paddr, vec![0; bytes], memsz));
            refusal(kernel)
        };
        assert!(matches!(
            with(0x50_0000, 2, 1),
            ImageError::BadSegment(2, _)
        ));
        assert!(matches!(
            with(u64::MAX - 1, 0, 2),
            ImageError::BadSegment(2, _)
        ));
        let mut kernel = small();
        for _ in 0..4 {
            kernel.segments.push(kernel.segments[0].clone());
        }
        assert_eq!(refusal(kernel), ImageError::SegmentsOverlap);
    }

    /// A kernel whose notes are in the string of section `__xen_guest`.
    fn legacy(text: &str) -> Vec<u8> {
        let mut kernel = small();
        kernel.notes.clear();
        let mut file = kernel.write();
        let names = b"\0__xen_guest\0";
        let strings = file.len() as u64;
        file.extend(names);
        let section = file.len() as u64;
        file.extend(text.as_bytes());
        file.push(0);
        let headers = file.len() as u64;
        for (name, kind, offset, size) in [
            (0u32, 0u32, 0u64, 0u64),
            (1, abi::SHT_PROGBITS, section, text.len() as u64 + 1),
            (0, abi::SHT_STRTAB, strings, names.len() as u64),
        ] {
            file.extend(name.to_le_bytes());
            file.extend(kind.to_le_bytes());
            for word in [0, 0, offset, size, 0, 0, 0] {
                file.extend(word.to_le_bytes());
            }
        }
        file[40..48].copy_from_slice(&headers.to_le_bytes());
        file[60..62].copy_from_slice(&3u16.to_le_bytes());
        file[62..64].copy_from_slice(&2u16.to_le_bytes());
        file
    }

    #[test]
    fn the_legacy_section_does_when_there_are_no_notes() {
        let file = legacy(
            "GUEST_OS=old,XEN_VER=xen-3.0,VIRT_BASE=0xffffffff80000000,ELF_PADDR_OFFSET=0x0,\
             VIRT_ENTRY=0xffffffff80400010,HYPERCALL_PAGE=0x401,LOADER=generic,\
             FEATURES=writable_page_tables,PAE=yes[extended-cr3],BSD_SYMTAB",
        );
        let image = PvImage::parse(&file).unwrap();
        assert_eq!(image.entry, BASE + 0x40_0010);
        assert_eq!(image.hypercall_page, Some(BASE + 0x40_1000));
        assert_eq!(image.guest_os, "old");
        assert_eq!(image.pae, PaeMode::ExtendedCr3);
        assert_eq!(
            image.features,
            Features {
                supported: 1,
                required: 0
            }
        );
        assert!(image.bsd_symtab);
    }

    #[test]
    fn the_legacy_default_of_paddr_offset_is_virt_base() {
        // So that the load address of 4 MiB lies below the base and wraps.
        let file = legacy("XEN_VER=xen-3.0,VIRT_BASE=0x300000,VIRT_ENTRY=0x400000,LOADER=generic");
        let image = PvImage::parse(&file).unwrap();
        assert_eq!(image.paddr_offset, 0x30_0000);
        assert_eq!(image.kernel.start, 0x40_0000);
    }

    fn consistent(image: &PvImage, file: &[u8]) {
        assert!(image.kernel.start >= image.virt_base);
        assert!(image.kernel.contains(&image.entry));
        for segment in &image.segments {
            assert!(file.get(segment.file.clone()).is_some());
            assert!(segment.file.len() as u64 <= segment.memsz);
            assert!(segment.vaddr >= image.kernel.start);
            assert!(segment.vaddr + segment.memsz <= image.kernel.end);
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(file: Vec<u8>) {
            let _ = PvImage::parse(&file);
        }

        #[test]
        fn a_damaged_kernel_never_panics_and_what_is_accepted_is_consistent(
            in_legacy: bool,
            damage in prop::collection::vec((0usize..700, any::<u8>()), 1..12),
            words in prop::collection::vec((0usize..80, prop::sample::select(vec![
                0, 1, 0xfff, 0x1000, u64::MAX, u64::MAX - 0xfff, 1 << 63, 1 << 47, BASE,
            ])), 0..3),
        ) {
            let mut file = if in_legacy {
                legacy("XEN_VER=xen-3.0,VIRT_BASE=0x300000,VIRT_ENTRY=0x400000,LOADER=generic")
            } else {
                small().note(elfnote::XEN_ELFNOTE_INIT_P2M, 0x80_0000_0000).write()
            };
            let len = file.len();
            for (index, value) in damage {
                // The end of the file is where the legacy section and its headers are.
                let index = if in_legacy && index >= 350 { len - 1 - (index - 350) } else { index };
                file[index] = value;
            }
            for (index, value) in words {
                file[index * 8..index * 8 + 8].copy_from_slice(&u64::to_le_bytes(value));
            }
            if let Ok(image) = PvImage::parse(&file) {
                consistent(&image, &file);
            }
        }
    }
}
