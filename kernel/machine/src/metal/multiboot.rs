//! What the boot loader hands over, by either version of the multiboot specification: command line, memory map,
//! modules, the ACPI root pointer.
//!
//! Everything is read through [`Memory`], which may refuse: addresses and lengths are the loader's claims.

use alloc::string::String;
use alloc::vec::Vec;

use crate::{MemoryKind, MemoryRegion};

/// Value of EAX after a multiboot 1 loader.
pub const MAGIC_1: u32 = 0x2bad_b002;
/// Value of EAX after a multiboot 2 loader.
pub const MAGIC_2: u32 = 0x36d7_6289;

/// Physical memory as far as it can be read.
pub trait Memory {
    /// The bytes at `address`, or `None` where there is no such memory.
    fn bytes(&self, address: u64, len: u64) -> Option<&[u8]>;
}

/// A module: where it is, and its command line without the module's own name.
#[derive(Debug, PartialEq, Eq)]
pub struct Module {
    /// First byte.
    pub start: u64,
    /// Behind the last byte.
    pub end: u64,
    /// Its command line.
    pub command_line: String,
}

/// What both versions of the specification can say.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct BootInfo {
    /// The hypervisor's command line, without the image's name.
    pub command_line: String,
    /// Modules, in the loader's order.
    pub modules: Vec<Module>,
    /// The memory map as given.
    pub memory: Vec<MemoryRegion>,
    /// A copy of the ACPI root pointer, where the loader gives one.
    pub rsdp: Option<Vec<u8>>,
    /// Machine address of UEFI's system table, where there is one.
    pub efi_system_table: Option<u64>,
}

/// Longest command line that is read.
const COMMAND_LINE_LIMIT: usize = 4096;
/// Largest multiboot 2 structure that is read.
const INFO_LIMIT: u64 = 16 << 20;

/// Reads what the loader left at `address`; `None` where it cannot be made sense of.
pub fn read(magic: u32, address: u64, memory: &impl Memory) -> Option<BootInfo> {
    match magic {
        MAGIC_1 => read_1(address, memory),
        MAGIC_2 => read_2(address, memory),
        _ => None,
    }
}

fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    let end = offset.checked_add(4)?;
    Some(u32::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    let end = offset.checked_add(8)?;
    Some(u64::from_le_bytes(bytes.get(offset..end)?.try_into().ok()?))
}

/// The text up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let len = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..len).unwrap_or(&[])).into_owned()
}

/// The NUL-terminated text at an address, read in pieces because where it ends is not known before.
fn text_at(memory: &impl Memory, address: u64) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < COMMAND_LINE_LIMIT {
        match memory.bytes(address + bytes.len() as u64, 1) {
            Some([byte]) if *byte != 0 => bytes.push(*byte),
            _ => break,
        }
    }
    text(&bytes)
}

/// Drops the first word, which multiboot 1 loaders make the name of the file; GRUB 2 does not.
fn without_name(line: &str, loader: &str) -> String {
    let line = line.trim_start();
    if loader
        .strip_prefix("GRUB ")
        .is_some_and(|version| !version.starts_with(['0', '1']))
    {
        return String::from(line.trim_end());
    }
    match line.split_once(char::is_whitespace) {
        Some((_, rest)) => String::from(rest.trim()),
        None => String::new(),
    }
}

fn region(base: u64, size: u64, number: u32) -> MemoryRegion {
    MemoryRegion {
        base,
        size,
        kind: MemoryKind::from_e820_type(number),
    }
}

fn read_1(address: u64, memory: &impl Memory) -> Option<BootInfo> {
    const FLAG_COMMAND_LINE: u32 = 1 << 2;
    const FLAG_MODULES: u32 = 1 << 3;
    const FLAG_MEMORY_MAP: u32 = 1 << 6;
    const FLAG_LOADER_NAME: u32 = 1 << 9;

    let info = memory.bytes(address, 68)?;
    let flags = u32_at(info, 0)?;
    let field = |offset| u32_at(info, offset).map(u64::from);
    let mut boot = BootInfo::default();
    let loader = if flags & FLAG_LOADER_NAME != 0 {
        text_at(memory, field(64)?)
    } else {
        String::new()
    };
    if flags & FLAG_COMMAND_LINE != 0 {
        boot.command_line = without_name(&text_at(memory, field(16)?), &loader);
    }
    if flags & FLAG_MODULES != 0 {
        let table = memory.bytes(field(24)?, field(20)?.checked_mul(16)?)?;
        for entry in table.chunks_exact(16) {
            let line = u64::from(u32_at(entry, 8)?);
            boot.modules.push(Module {
                start: u32_at(entry, 0)?.into(),
                end: u32_at(entry, 4)?.into(),
                command_line: if line == 0 {
                    String::new()
                } else {
                    without_name(&text_at(memory, line), &loader)
                },
            });
        }
    }
    if flags & FLAG_MEMORY_MAP != 0 {
        let mut entries = memory.bytes(field(48)?, field(44)?)?;
        while entries.len() >= 24 {
            // The size field does not count itself.
            let size = u32_at(entries, 0)? as usize;
            if size < 20 {
                return None;
            }
            boot.memory.push(region(
                u64_at(entries, 4)?,
                u64_at(entries, 12)?,
                u32_at(entries, 20)?,
            ));
            entries = entries.get(size.checked_add(4)?..).unwrap_or(&[]);
        }
    }
    Some(boot)
}

fn read_2(address: u64, memory: &impl Memory) -> Option<BootInfo> {
    const TAG_END: u32 = 0;
    const TAG_COMMAND_LINE: u32 = 1;
    const TAG_MODULE: u32 = 3;
    const TAG_MEMORY_MAP: u32 = 6;
    const TAG_EFI_64: u32 = 12;
    const TAG_ACPI_OLD: u32 = 14;
    const TAG_ACPI_NEW: u32 = 15;

    let total = u64::from(u32_at(memory.bytes(address, 8)?, 0)?);
    if total > INFO_LIMIT {
        return None;
    }
    let mut tags = memory.bytes(address, total)?.get(8..)?;
    let mut boot = BootInfo::default();
    while let (Some(kind), Some(size)) = (u32_at(tags, 0), u32_at(tags, 4)) {
        if kind == TAG_END {
            break;
        }
        let body = tags.get(8..size as usize)?;
        match kind {
            // GRUB gives the words behind the file's name, here and for modules.
            TAG_COMMAND_LINE => boot.command_line = String::from(text(body).trim()),
            TAG_MODULE => boot.modules.push(Module {
                start: u32_at(body, 0)?.into(),
                end: u32_at(body, 4)?.into(),
                command_line: String::from(text(body.get(8..)?).trim()),
            }),
            TAG_MEMORY_MAP => {
                let entry_size = u32_at(body, 0)? as usize;
                if entry_size < 24 {
                    return None;
                }
                for entry in body.get(8..)?.chunks_exact(entry_size) {
                    boot.memory.push(region(
                        u64_at(entry, 0)?,
                        u64_at(entry, 8)?,
                        u32_at(entry, 16)?,
                    ));
                }
            }
            TAG_EFI_64 => boot.efi_system_table = Some(u64_at(body, 0)?),
            TAG_ACPI_NEW => boot.rsdp = Some(body.to_vec()),
            TAG_ACPI_OLD if boot.rsdp.is_none() => boot.rsdp = Some(body.to_vec()),
            _ => {}
        }
        tags = tags
            .get((size as usize).next_multiple_of(8)..)
            .unwrap_or(&[]);
    }
    Some(boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that begins at 0x1000.
    struct Fake(Vec<u8>);

    impl Memory for Fake {
        fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
            let start = usize::try_from(address.checked_sub(0x1000)?).ok()?;
            self.0
                .get(start..start.checked_add(usize::try_from(len).ok()?)?)
        }
    }

    impl Fake {
        fn new() -> Self {
            Self(vec![0; 0x1000])
        }
        fn put(&mut self, address: usize, bytes: &[u8]) {
            let at = address - 0x1000;
            self.0[at..at + bytes.len()].copy_from_slice(bytes);
        }
        fn put_u32(&mut self, address: usize, values: &[u32]) {
            for (i, value) in values.iter().enumerate() {
                self.put(address + 4 * i, &value.to_le_bytes());
            }
        }
    }

    fn multiboot_1() -> Fake {
        let mut memory = Fake::new();
        memory.put_u32(0x1000, &[0x4c, 0, 0, 0, 0x1100, 2, 0x1200]);
        memory.put_u32(0x1000 + 44, &[48, 0x1300]);
        memory.put(0x1100, b"xenolith com1=115200 dom0_mem=256M\0");
        memory.put_u32(0x1200, &[0x20_0000, 0x20_1234, 0x1180, 0]);
        memory.put_u32(0x1210, &[0x30_0000, 0x30_0010, 0x11c0, 0]);
        memory.put(0x1180, b"dom0 a=b  c\0");
        memory.put(0x11c0, b"ramdisk\0");
        memory.put_u32(0x1300, &[20, 0, 0, 0x9_fc00, 0, 1]);
        memory.put_u32(0x1318, &[20, 0, 1, 0x1000, 0, 7]);
        memory
    }

    #[test]
    fn multiboot_1_gives_command_lines_without_file_names() {
        let boot = read(MAGIC_1, 0x1000, &multiboot_1()).unwrap();
        assert_eq!(boot.command_line, "com1=115200 dom0_mem=256M");
        let lines: Vec<_> = boot
            .modules
            .iter()
            .map(|m| m.command_line.as_str())
            .collect();
        assert_eq!(lines, ["a=b  c", ""]);
        assert_eq!(
            (boot.modules[0].start, boot.modules[0].end),
            (0x20_0000, 0x20_1234)
        );
        assert_eq!(
            boot.memory,
            [
                MemoryRegion {
                    base: 0,
                    size: 0x9_fc00,
                    kind: MemoryKind::Ram
                },
                MemoryRegion {
                    base: 1 << 32,
                    size: 0x1000,
                    kind: MemoryKind::Reserved
                },
            ]
        );
    }

    #[test]
    fn grub_2_gives_multiboot_1_command_lines_without_file_names_itself() {
        let mut memory = multiboot_1();
        memory.put_u32(0x1000, &[0x24c]);
        memory.put_u32(0x1000 + 64, &[0x1400]);
        memory.put(0x1400, b"GRUB 2.06\0");
        let boot = read(MAGIC_1, 0x1000, &memory).unwrap();
        assert_eq!(boot.command_line, "xenolith com1=115200 dom0_mem=256M");
        assert_eq!(boot.modules[0].command_line, "dom0 a=b  c");
        memory.put(0x1400, b"GRUB 0.97\0");
        let boot = read(MAGIC_1, 0x1000, &memory).unwrap();
        assert_eq!(boot.modules[0].command_line, "a=b  c");
    }

    #[test]
    fn multiboot_1_tables_outside_memory_are_refused() {
        let mut memory = multiboot_1();
        memory.put_u32(0x1000 + 20, &[u32::MAX]);
        assert_eq!(read(MAGIC_1, 0x1000, &memory), None);
        let mut memory = multiboot_1();
        memory.put_u32(0x1300, &[4]);
        assert_eq!(read(MAGIC_1, 0x1000, &memory), None);
        assert_eq!(read(MAGIC_1, 0xffff_f000, &memory), None);
    }

    fn multiboot_2() -> Fake {
        let mut memory = Fake::new();
        memory.put_u32(0x1000, &[176, 0]);
        memory.put_u32(0x1008, &[1, 8 + 9]);
        memory.put(0x1010, b" noreboot\0"[..9].as_ref());
        memory.put_u32(0x1020, &[3, 8 + 8 + 4, 0x40_0000, 0x50_0000]);
        memory.put(0x1030, b"x=y\0");
        memory.put_u32(
            0x1038,
            &[6, 16 + 24, 24, 0, 0x10_0000, 0, 0x8_0000, 0, 1, 0],
        );
        memory.put_u32(0x1060, &[14, 8 + 20]);
        memory.put(0x1068, b"RSD PTR old.........");
        memory.put_u32(0x1080, &[15, 8 + 16]);
        memory.put(0x1088, b"RSD PTR new.....");
        memory.put_u32(0x1098, &[12, 16, 0x1234_5678, 1]);
        memory.put_u32(0x10a8, &[0, 8]);
        memory
    }

    #[test]
    fn multiboot_2_gives_the_same_and_the_newer_root_pointer() {
        let boot = read(MAGIC_2, 0x1000, &multiboot_2()).unwrap();
        assert_eq!(boot.command_line, "noreboot");
        assert_eq!(boot.modules[0].command_line, "x=y");
        assert_eq!(
            (boot.modules[0].start, boot.modules[0].end),
            (0x40_0000, 0x50_0000)
        );
        assert_eq!(
            boot.memory,
            [MemoryRegion {
                base: 0x10_0000,
                size: 0x8_0000,
                kind: MemoryKind::Ram
            }]
        );
        assert_eq!(boot.rsdp.as_deref(), Some(&b"RSD PTR new....."[..]));
        assert_eq!(boot.efi_system_table, Some(0x1_1234_5678));
    }

    #[test]
    fn a_multiboot_2_tag_that_is_shorter_than_its_head_is_refused() {
        let mut memory = multiboot_2();
        memory.put_u32(0x1020, &[3, 4]);
        assert_eq!(read(MAGIC_2, 0x1000, &memory), None);
        memory.put_u32(0x1020, &[3, 0x7fff_ffff]);
        assert_eq!(read(MAGIC_2, 0x1000, &memory), None);
    }

    #[test]
    fn an_unknown_loader_is_refused() {
        assert_eq!(read(0, 0x1000, &multiboot_1()), None);
    }
}
