//! The partitions of a disk that have names, by its GUID partition table (UEFI specification, chapter 5).
//!
//! What is on a disk may have been written by a guest, so a table that is not right in every respect
//! counts as none, and a partition that is not within the disk is left out.

use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::fmt;

use gpt_disk_io::gpt_disk_types::{BlockSize, GptHeader, GptPartitionEntry, Lba};
use gpt_disk_io::{BlockIo, Disk};
use split_drivers::block::SECTOR;

use crate::storage::{HostDisk, Partition};

/// Most bytes of a table: 1024 entries of the usual size.
const MOST: usize = 1024 * 128;

/// The disk cannot be read, or is not written here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failed;

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the disk cannot be read")
    }
}

/// A disk that is read by sectors of 512 bytes.
struct Reader<'a, F> {
    disk: &'a HostDisk,
    block: BlockSize,
    read: F,
}

impl<F> Reader<'_, F> {
    /// Sectors of 512 bytes in a block.
    fn unit(&self) -> u64 {
        self.block.to_u64() / SECTOR as u64
    }
}

impl<F: FnMut(u64, &mut [u8]) -> bool> BlockIo for Reader<'_, F> {
    type Error = Failed;

    fn block_size(&self) -> BlockSize {
        self.block
    }

    fn num_blocks(&mut self) -> Result<u64, Failed> {
        Ok(self.disk.sectors / self.unit())
    }

    fn read_blocks(&mut self, start: Lba, bytes: &mut [u8]) -> Result<(), Failed> {
        let sector = start.to_u64().checked_mul(self.unit()).ok_or(Failed)?;
        let end = sector.checked_add((bytes.len() / SECTOR) as u64);
        let within = end.is_some_and(|end| end <= self.disk.sectors);
        match within && (self.read)(sector, bytes) {
            true => Ok(()),
            false => Err(Failed),
        }
    }

    fn write_blocks(&mut self, _: Lba, _: &[u8]) -> Result<(), Failed> {
        Err(Failed)
    }

    fn flush(&mut self) -> Result<(), Failed> {
        Ok(())
    }
}

/// The partitions of a disk that have names; `read` reads sectors, and says whether that was done.
pub fn partitions(disk: &HostDisk, read: impl FnMut(u64, &mut [u8]) -> bool) -> Vec<Partition> {
    let Some(block) = BlockSize::new(disk.sector_size) else {
        return Vec::new();
    };
    let reader = Reader { disk, block, read };
    let unit = reader.unit();
    let Ok(mut table) = Disk::new(reader) else {
        return Vec::new();
    };
    let mut buffer = vec![0; disk.sector_size as usize];
    // The second copy is for when the first is damaged.
    let entries = table
        .read_primary_gpt_header(&mut buffer)
        .ok()
        .and_then(|header| entries(&mut table, &header))
        .or_else(|| {
            let header = table.read_secondary_gpt_header(&mut buffer).ok()?;
            entries(&mut table, &header)
        });
    let named = entries.unwrap_or_default().into_iter();
    named
        .filter_map(|(entry, first_usable, last_usable)| {
            let range = entry.lba_range()?;
            let (first, last) = (range.start().to_u64(), range.end().to_u64());
            let label = label(&entry);
            let good = entry.is_used()
                && !label.is_empty()
                && first >= first_usable
                && last <= last_usable
                && last < disk.sectors / unit;
            good.then(|| Partition {
                label,
                first: first * unit,
                sectors: (last - first + 1) * unit,
            })
        })
        .collect()
}

/// All entries of a table, with the first and the last block that they may use; none if it is not a good
/// one.
fn entries<Io: BlockIo>(
    table: &mut Disk<Io>,
    header: &GptHeader,
) -> Option<Vec<(GptPartitionEntry, u64, u64)>> {
    let good =
        header.is_signature_valid() && header.header_crc32 == header.calculate_header_crc32();
    if !good {
        return None;
    }
    let layout = header.get_partition_entry_array_layout().ok()?;
    if layout.num_bytes_exact_as_usize()? > MOST {
        return None;
    }
    let mut storage = vec![0; MOST];
    let array = table
        .read_gpt_partition_entry_array(layout, &mut storage)
        .ok()?;
    if array.calculate_crc32() != header.partition_entry_array_crc32 {
        return None;
    }
    let (first, last) = (
        header.first_usable_lba.to_u64(),
        header.last_usable_lba.to_u64(),
    );
    let all = 0..header.number_of_partition_entries.to_u32();
    all.map(|nth| Some((*array.get_partition_entry(nth)?, first, last)))
        .collect()
}

/// A partition's label, without what cannot be in a volume's name.
fn label(entry: &GptPartitionEntry) -> String {
    // The field may have been written by anyone, and need not be aligned.
    let name = entry.name;
    name.chars()
        .filter(|c| !c.is_control() && !c.is_whitespace() && !matches!(c, '/' | ',' | ':'))
        .collect()
}

#[cfg(test)]
mod tests {
    use gpt_disk_io::gpt_disk_types::{GptPartitionEntryArray, GptPartitionType, LbaLe, U32Le};

    use super::*;

    fn disk(sectors: u64, sector_size: u32) -> HostDisk {
        HostDisk {
            serial: "d".into(),
            sectors,
            sector_size,
            read_only: false,
            flush: true,
            discard: None,
            partitions: Vec::new(),
        }
    }

    /// What is on a disk with these partitions: label, first and last block.
    fn image(disk: &HostDisk, parts: &[(&str, u64, u64)]) -> Vec<u8> {
        let size = disk.sector_size as usize;
        let block = BlockSize::new(disk.sector_size).unwrap();
        let blocks = disk.sectors * SECTOR as u64 / size as u64;
        let mut bytes = vec![0; disk.sectors as usize * SECTOR];
        let mut header = GptHeader {
            my_lba: LbaLe::from_u64(1),
            alternate_lba: LbaLe::from_u64(blocks - 1),
            first_usable_lba: LbaLe::from_u64(34),
            last_usable_lba: LbaLe::from_u64(blocks - 34),
            partition_entry_lba: LbaLe::from_u64(2),
            number_of_partition_entries: U32Le::from_u32(8),
            ..GptHeader::default()
        };
        let layout = header.get_partition_entry_array_layout().unwrap();
        let length = layout.num_bytes_rounded_to_block_as_usize(block).unwrap();
        let mut storage = vec![0; length];
        let mut array = GptPartitionEntryArray::new(layout, block, &mut storage).unwrap();
        for (nth, (label, first, last)) in parts.iter().enumerate() {
            *array.get_partition_entry_mut(nth as u32).unwrap() = GptPartitionEntry {
                partition_type_guid: GptPartitionType::BASIC_DATA,
                starting_lba: LbaLe::from_u64(*first),
                ending_lba: LbaLe::from_u64(*last),
                name: label.parse().unwrap(),
                ..GptPartitionEntry::default()
            };
        }
        header.partition_entry_array_crc32 = array.calculate_crc32();
        let mut put = |header: &mut GptHeader, at: u64, entries: u64| {
            header.my_lba = LbaLe::from_u64(at);
            header.partition_entry_lba = LbaLe::from_u64(entries);
            header.update_header_crc32();
            let start = at as usize * size;
            let raw = bytes_of(header);
            bytes[start..start + raw.len()].copy_from_slice(&raw);
            let start = entries as usize * size;
            bytes[start..start + length].copy_from_slice(array.storage());
        };
        put(&mut header, 1, 2);
        put(&mut header, blocks - 1, blocks - 33);
        bytes
    }

    /// A header as it is on a disk.
    fn bytes_of(header: &GptHeader) -> Vec<u8> {
        let mut bytes = b"EFI PART".to_vec();
        for word in [
            header.revision.0.to_u32(),
            header.header_size.to_u32(),
            header.header_crc32.0.to_u32(),
            0,
        ] {
            bytes.extend(word.to_le_bytes());
        }
        for lba in [
            header.my_lba,
            header.alternate_lba,
            header.first_usable_lba,
            header.last_usable_lba,
        ] {
            bytes.extend(lba.to_u64().to_le_bytes());
        }
        bytes.extend(header.disk_guid.to_bytes());
        bytes.extend(header.partition_entry_lba.to_u64().to_le_bytes());
        for word in [
            header.number_of_partition_entries.to_u32(),
            header.size_of_partition_entry.to_u32(),
            header.partition_entry_array_crc32.0.to_u32(),
        ] {
            bytes.extend(word.to_le_bytes());
        }
        bytes
    }

    fn read(disk: &HostDisk, bytes: &[u8]) -> Vec<(String, u64, u64)> {
        let partitions = partitions(disk, |sector, into| {
            let start = sector as usize * SECTOR;
            into.copy_from_slice(&bytes[start..start + into.len()]);
            true
        });
        partitions
            .into_iter()
            .map(|it| (it.label, it.first, it.sectors))
            .collect()
    }

    #[test]
    fn partitions_are_found_by_their_labels_with_sectors_of_any_size() {
        for size in [512, 4096] {
            let unit = u64::from(size) / 512;
            let disk = disk(200 * unit, size);
            let bytes = image(&disk, &[("root", 40, 99), ("home dir", 100, 110)]);
            let expected = [
                ("root".into(), 40 * unit, 60 * unit),
                ("homedir".into(), 100 * unit, 11 * unit),
            ];
            assert_eq!(read(&disk, &bytes), expected);
        }
    }

    #[test]
    fn partitions_without_a_label_or_beyond_the_disk_are_left_out() {
        let disk = disk(200, 512);
        let parts = [
            ("", 40, 50),
            ("beyond", 150, 170),
            ("header", 1, 40),
            ("backwards", 60, 50),
            ("good", 166, 166),
        ];
        let bytes = image(&disk, &parts);
        assert_eq!(read(&disk, &bytes), [("good".into(), 166, 1)]);
    }

    #[test]
    fn a_damaged_table_is_replaced_by_its_copy_or_counts_as_none() {
        let disk = disk(200, 512);
        let mut bytes = image(&disk, &[("root", 40, 99)]);
        assert_eq!(read(&disk, &bytes).len(), 1);
        // An entry of the first table, then one of the second.
        bytes[2 * 512 + 40] ^= 1;
        assert_eq!(read(&disk, &bytes), [("root".into(), 40, 60)]);
        bytes[167 * 512 + 40] ^= 1;
        assert_eq!(read(&disk, &bytes), []);
        assert_eq!(read(&disk, &vec![0; 200 * 512]), []);
        let nothing = partitions(&disk, |_, _| false);
        assert_eq!(nothing, []);
    }
}
