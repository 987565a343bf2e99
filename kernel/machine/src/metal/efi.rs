//! The one thing wanted of UEFI's system table: where the ACPI root pointer is.

use super::multiboot::Memory;

const SIGNATURE: u64 = u64::from_le_bytes(*b"IBI SYST");
const ENTRY_COUNT: u64 = 104;
const ENTRIES: u64 = 112;
const ENTRY_SIZE: u64 = 24;

/// 8868e871-e4f1-11d3-bc22-0080c73c8881: ACPI 2.0 and later.
const ACPI_2: [u8; 16] = [
    0x71, 0xe8, 0x68, 0x88, 0xf1, 0xe4, 0xd3, 0x11, 0xbc, 0x22, 0x00, 0x80, 0xc7, 0x3c, 0x88, 0x81,
];
/// eb9d2d30-2d88-11d3-9a16-0090273fc14d: ACPI 1.0.
const ACPI_1: [u8; 16] = [
    0x30, 0x2d, 0x9d, 0xeb, 0x88, 0x2d, 0xd3, 0x11, 0x9a, 0x16, 0x00, 0x90, 0x27, 0x3f, 0xc1, 0x4d,
];

fn u64_at(memory: &impl Memory, address: u64) -> Option<u64> {
    Some(u64::from_le_bytes(
        memory.bytes(address, 8)?.try_into().ok()?,
    ))
}

/// Machine address of the ACPI root pointer, by the configuration tables of the system table at `address`.
pub fn find_rsdp(address: u64, memory: &impl Memory) -> Option<u64> {
    if u64_at(memory, address)? != SIGNATURE {
        return None;
    }
    let count = u64_at(memory, address.checked_add(ENTRY_COUNT)?)?;
    let entries = u64_at(memory, address.checked_add(ENTRIES)?)?;
    let entries = memory.bytes(entries, count.checked_mul(ENTRY_SIZE)?)?;
    let find = |guid: [u8; 16]| {
        let entry = entries
            .chunks_exact(ENTRY_SIZE as usize)
            .find(|e| e.starts_with(&guid))?;
        Some(u64::from_le_bytes(entry.get(16..24)?.try_into().ok()?))
    };
    find(ACPI_2).or_else(|| find(ACPI_1))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Memory that begins at 0.
    struct Fake(Vec<u8>);

    impl Memory for Fake {
        fn bytes(&self, address: u64, len: u64) -> Option<&[u8]> {
            let start = usize::try_from(address).ok()?;
            self.0
                .get(start..start.checked_add(usize::try_from(len).ok()?)?)
        }
    }

    fn system_table(entries: &[([u8; 16], u64)]) -> Fake {
        let mut bytes = b"IBI SYST".to_vec();
        bytes.resize(ENTRY_COUNT as usize, 0);
        bytes.extend((entries.len() as u64).to_le_bytes());
        bytes.extend(128_u64.to_le_bytes());
        bytes.resize(128, 0);
        for (guid, address) in entries {
            bytes.extend(guid);
            bytes.extend(address.to_le_bytes());
        }
        Fake(bytes)
    }

    #[test]
    fn the_newer_root_pointer_is_preferred() {
        let table = system_table(&[([0; 16], 1), (ACPI_1, 2), (ACPI_2, 3)]);
        assert_eq!(find_rsdp(0, &table), Some(3));
        assert_eq!(find_rsdp(0, &system_table(&[(ACPI_1, 2)])), Some(2));
        assert_eq!(find_rsdp(0, &system_table(&[])), None);
    }

    #[test]
    fn what_is_no_system_table_is_refused() {
        let mut table = system_table(&[(ACPI_2, 3)]);
        table.0[ENTRY_COUNT as usize] = 99;
        assert_eq!(find_rsdp(0, &table), None);
        table.0[0] = 0;
        assert_eq!(find_rsdp(0, &table), None);
        assert_eq!(find_rsdp(u64::MAX, &table), None);
    }
}
