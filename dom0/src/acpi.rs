//! The firmware's tables, as far as switching the machine off needs them: the ACPI specification
//! has their layouts in section 5.2, and sleep states in chapters 7.4 and 16.
//!
//! The tables come from the firmware and the code in them is not run: the one object of interest,
//! `\_S5`, is looked for by its bytes, as it is a constant wherever it occurs.

use alloc::vec;
use alloc::vec::Vec;

/// Physical memory that the firmware has filled.
pub trait Memory {
    /// Reads from a machine address; false if there is nothing that can be read.
    fn read(&mut self, address: u64, out: &mut [u8]) -> bool;
}

/// What to write where to switch the machine off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SoftOff {
    /// The power-management control register.
    pub port: u16,
    /// Its second half, on machines that have two.
    pub second_port: Option<u16>,
    /// The sleep type for each of the two.
    pub sleep_types: [u8; 2],
}

/// `SLP_TYP` of a power-management control register.
const SLEEP_TYPE_SHIFT: u32 = 10;
const SLEEP_TYPE: u16 = 7 << SLEEP_TYPE_SHIFT;
/// `SLP_EN`: go.
const SLEEP_ENABLE: u16 = 1 << 13;

/// Where a BIOS puts the root pointer.
const BIOS: core::ops::Range<u64> = 0xe_0000..0x10_0000;
/// It begins at a multiple of this.
const ROOT_ALIGN: usize = 16;
/// The header of every table but the root pointer.
const HEADER: usize = 36;
/// No table is larger, or it is none.
const MAX_TABLE: usize = 1 << 20;

impl SoftOff {
    /// Finds out from the tables, or not: without a BIOS, or without `\_S5`.
    pub fn find(memory: &mut impl Memory) -> Option<Self> {
        let root = root_table(memory)?;
        let (table, entry_size) = root;
        let entries = table.get(HEADER..)?.chunks_exact(entry_size);
        let fadt = entries
            .filter_map(|entry| read_table(memory, number(entry)))
            .find(|table| table.starts_with(b"FACP"))?;
        let dsdt_address = match field(&fadt, 140, 8) {
            Some(address) if address != 0 => address,
            _ => field(&fadt, 40, 4)?,
        };
        let dsdt = read_table(memory, dsdt_address)?;
        let port = |offset| match field(&fadt, offset, 4) {
            None | Some(0) => None,
            Some(port) => u16::try_from(port).ok(),
        };
        Some(Self {
            port: port(64)?,
            second_port: port(68),
            sleep_types: sleep_types(dsdt.get(HEADER..)?)?,
        })
    }

    /// What to write to the first or second register, which holds `now`.
    pub fn value(&self, second: bool, now: u16) -> u16 {
        let kind = u16::from(self.sleep_types[usize::from(second)]);
        now & !SLEEP_TYPE | kind << SLEEP_TYPE_SHIFT & SLEEP_TYPE | SLEEP_ENABLE
    }
}

/// The table that lists all others, and the size of its entries.
fn root_table(memory: &mut impl Memory) -> Option<(Vec<u8>, usize)> {
    let mut bios = vec![0; (BIOS.end - BIOS.start) as usize];
    if !memory.read(BIOS.start, &mut bios) {
        return None;
    }
    let pointer = bios
        .chunks_exact(ROOT_ALIGN)
        .position(|chunk| chunk.starts_with(b"RSD PTR "))
        .and_then(|index| bios.get(index * ROOT_ALIGN..))?;
    if !sums_to_zero(pointer.get(..20)?) {
        return None;
    }
    let revision = *pointer.get(15)?;
    if revision >= 2
        && let Some(address) = field(pointer, 24, 8)
        && let Some(table) = read_table(memory, address)
    {
        return Some((table, 8));
    }
    let table = read_table(memory, field(pointer, 16, 4)?)?;
    Some((table, 4))
}

fn read_table(memory: &mut impl Memory, address: u64) -> Option<Vec<u8>> {
    let mut header = [0; HEADER];
    if address == 0 || !memory.read(address, &mut header) {
        return None;
    }
    let length = usize::try_from(field(&header, 4, 4)?).ok()?;
    if !(HEADER..=MAX_TABLE).contains(&length) {
        return None;
    }
    let mut table = vec![0; length];
    (memory.read(address, &mut table) && sums_to_zero(&table)).then_some(table)
}

fn sums_to_zero(bytes: &[u8]) -> bool {
    bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte)) == 0
}

fn field(table: &[u8], offset: usize, size: usize) -> Option<u64> {
    table.get(offset..offset + size).map(number)
}

/// A little-endian number of at most eight bytes.
fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// The first two numbers of the package `\_S5`.
fn sleep_types(code: &[u8]) -> Option<[u8; 2]> {
    const NAME: &[u8] = b"_S5_";
    const PACKAGE: u8 = 0x12;
    let named = (0..code.len()).find_map(|at| code.get(at..)?.strip_prefix(NAME))?;
    let (&op, package) = named.split_first()?;
    if op != PACKAGE {
        return None;
    }
    // The two highest bits of a package's length say how many more bytes it has.
    let more = usize::from(package.first()? >> 6);
    let elements = package.get(more + 2..)?;
    let (first, elements) = integer(elements)?;
    let (second, _) = integer(elements)?;
    Some([first, second])
}

/// An integer of the code, of which a byte is enough here, and what follows it.
fn integer(code: &[u8]) -> Option<(u8, &[u8])> {
    match *code {
        [0x00, ref rest @ ..] => Some((0, rest)),
        [0x01, ref rest @ ..] => Some((1, rest)),
        [0x0a, value, ref rest @ ..] => Some((value, rest)),
        [0x0b, value, _, ref rest @ ..] => Some((value, rest)),
        [0x0c, value, _, _, _, ref rest @ ..] => Some((value, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory from address 0.
    struct Ram(Vec<u8>);

    impl Memory for Ram {
        fn read(&mut self, address: u64, out: &mut [u8]) -> bool {
            let from = usize::try_from(address).unwrap_or(usize::MAX);
            let found = from
                .checked_add(out.len())
                .and_then(|end| self.0.get(from..end));
            found.map(|bytes| out.copy_from_slice(bytes)).is_some()
        }
    }

    const RSDT: usize = 0x10_0000;
    const FADT: usize = 0x10_1000;
    const DSDT: usize = 0x10_2000;

    fn put(ram: &mut [u8], at: usize, signature: &[u8], body: &[u8]) {
        let length = HEADER + body.len();
        let table = &mut ram[at..at + length];
        table[..4].copy_from_slice(signature);
        table[4..8].copy_from_slice(&(length as u32).to_le_bytes());
        table[HEADER..].copy_from_slice(body);
        table[9] = 0;
        table[9] = table.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
    }

    /// A machine like QEMU's, with this code in its DSDT.
    fn machine(code: &[u8]) -> Ram {
        let mut ram = vec![0; 0x11_0000];
        let mut root = [0; 20];
        root[..8].copy_from_slice(b"RSD PTR ");
        root[16..].copy_from_slice(&(RSDT as u32).to_le_bytes());
        root[8] = root.iter().fold(0_u8, |sum, byte| sum.wrapping_sub(*byte));
        ram[0xf_5250..0xf_5264].copy_from_slice(&root);
        put(&mut ram, RSDT, b"RSDT", &(FADT as u32).to_le_bytes());
        let mut fadt = [0; 0x74 - HEADER];
        fadt[40 - HEADER..44 - HEADER].copy_from_slice(&(DSDT as u32).to_le_bytes());
        fadt[64 - HEADER..68 - HEADER].copy_from_slice(&0x604_u32.to_le_bytes());
        put(&mut ram, FADT, b"FACP", &fadt);
        put(&mut ram, DSDT, b"DSDT", code);
        Ram(ram)
    }

    /// `Name (_S5, Package (4) { 0x07, One, Zero, Zero })` behind something else.
    const CODE: &[u8] = b"\x10\x02\\_S\x08_S5_\x12\x08\x04\x0a\x07\x01\x00\x00";

    #[test]
    fn the_register_and_the_sleep_type_are_found() {
        let found = SoftOff::find(&mut machine(CODE)).unwrap();
        let expected = SoftOff {
            port: 0x604,
            second_port: None,
            sleep_types: [7, 1],
        };
        assert_eq!(found, expected);
        assert_eq!(found.value(false, 0x0001), 0x3c01);
        assert_eq!(found.value(true, 0x1c00), 0x2400);
    }

    #[test]
    fn a_machine_without_the_state_or_without_tables_has_no_soft_off() {
        assert_eq!(
            SoftOff::find(&mut machine(b"\x08_S4_\x12\x03\x01\x00")),
            None
        );
        assert_eq!(SoftOff::find(&mut Ram(vec![0; 0x11_0000])), None);
        assert_eq!(SoftOff::find(&mut Ram(Vec::new())), None);
    }

    #[test]
    fn a_table_with_a_wrong_sum_or_cut_short_is_not_believed() {
        let mut damaged = machine(CODE);
        damaged.0[FADT + 64] ^= 1;
        assert_eq!(SoftOff::find(&mut damaged), None);
        for length in 0..CODE.len() {
            // Whatever it comes to, it comes to an end.
            let _ = SoftOff::find(&mut machine(&CODE[..length]));
        }
    }
}
