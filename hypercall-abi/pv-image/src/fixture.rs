//! A small ELF writer: valid kernels for tests, and, with a field changed, invalid ones.

use alloc::vec::Vec;
use hypercall_abi::elfnote;

/// A kernel to be written as an ELF file.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// `XEN_ELFNOTE_*` number and contents of each note.
    pub notes: Vec<(u32, Vec<u8>)>,
    /// Segments: physical address, bytes in the file, size in memory.
    pub segments: Vec<(u64, Vec<u8>, u64)>,
    /// `e_entry`.
    pub entry: u64,
    /// `e_machine`.
    pub machine: u16,
}

impl Kernel {
    /// A kernel of one segment of `code` followed by `bss` zero bytes, linked at 4 MiB, entered at
    /// its first byte, with its hypercall page in its second page.
    pub fn small(code: &[u8], bss: u64) -> Self {
        const BASE: u64 = 0xffff_ffff_8000_0000;
        const LOAD: u64 = 0x40_0000;
        let memsz = code.len() as u64 + bss;
        Self {
            notes: Vec::from([
                (elfnote::XEN_ELFNOTE_GUEST_OS, Vec::from(*b"fixture\0")),
                (elfnote::XEN_ELFNOTE_LOADER, Vec::from(*b"generic\0")),
                (elfnote::XEN_ELFNOTE_XEN_VERSION, Vec::from(*b"xen-3.0\0")),
                (elfnote::XEN_ELFNOTE_VIRT_BASE, BASE.to_le_bytes().into()),
                (
                    elfnote::XEN_ELFNOTE_ENTRY,
                    (BASE + LOAD).to_le_bytes().into(),
                ),
                (
                    elfnote::XEN_ELFNOTE_HYPERCALL_PAGE,
                    (BASE + LOAD + 0x1000).to_le_bytes().into(),
                ),
                (
                    elfnote::XEN_ELFNOTE_FEATURES,
                    Vec::from(*b"!writable_page_tables|dom0\0"),
                ),
            ]),
            segments: Vec::from([(LOAD, Vec::from(code), memsz)]),
            entry: LOAD,
            machine: elf::abi::EM_X86_64,
        }
    }

    /// Replaces or adds a note that holds a number.
    pub fn note(mut self, number: u32, value: u64) -> Self {
        self.notes.retain(|(n, _)| *n != number);
        self.notes.push((number, value.to_le_bytes().into()));
        self
    }

    /// Replaces or adds a note that holds a string.
    pub fn note_string(mut self, number: u32, value: &str) -> Self {
        self.notes.retain(|(n, _)| *n != number);
        let mut bytes = Vec::from(value);
        bytes.push(0);
        self.notes.push((number, bytes));
        self
    }

    /// Takes a note away.
    pub fn without(mut self, number: u32) -> Self {
        self.notes.retain(|(n, _)| *n != number);
        self
    }

    /// The ELF file: header, program headers, notes, segments.
    pub fn write(&self) -> Vec<u8> {
        const HEADER: usize = 64;
        const PROGRAM_HEADER: usize = 56;
        let mut notes = Vec::new();
        for (number, desc) in &self.notes {
            notes.extend(4u32.to_le_bytes());
            notes.extend((desc.len() as u32).to_le_bytes());
            notes.extend(number.to_le_bytes());
            notes.extend(*b"Xen\0");
            notes.extend(desc);
            notes.resize(notes.len().next_multiple_of(4), 0);
        }
        let count = self.segments.len() + 1;
        let mut file = Vec::from(*b"\x7fELF\x02\x01\x01");
        file.resize(16, 0);
        file.extend(elf::abi::ET_EXEC.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
        file.extend((HEADER as u64).to_le_bytes());
        file.extend([0; 12]);
        for half in [HEADER, PROGRAM_HEADER, count, 64, 0, 0] {
            file.extend((half as u16).to_le_bytes());
        }
        let mut offset = (HEADER + count * PROGRAM_HEADER) as u64;
        let mut header = |kind: u32, flags: u32, paddr: u64, filesz: u64, memsz: u64| {
            file.extend(kind.to_le_bytes());
            file.extend(flags.to_le_bytes());
            for word in [offset, paddr, paddr, filesz, memsz, 4] {
                file.extend(word.to_le_bytes());
            }
            offset += filesz;
        };
        let note_size = notes.len() as u64;
        header(elf::abi::PT_NOTE, elf::abi::PF_R, 0, note_size, note_size);
        for (paddr, bytes, memsz) in &self.segments {
            header(elf::abi::PT_LOAD, 7, *paddr, bytes.len() as u64, *memsz);
        }
        file.extend(notes);
        for (_, bytes, _) in &self.segments {
            file.extend(bytes);
        }
        file
    }
}
