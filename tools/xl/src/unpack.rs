//! Kernels as distributions ship them: taken out of their boot images, and decompressed.
//!
//! Linux's `Documentation/arch/x86/boot.rst` has the layout of a boot image (`bzImage`). What was compressed into it is
//! an ELF file; its length follows the compressed bytes, unless these end with it by themselves.

mod lzo;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};

use anyhow::{Context, bail, ensure};

/// The most bytes that a kernel has, packed or not.
const MOST: u64 = 512 << 20;
/// Memory that a decompressor may use, in KiB: as much as the largest window that kernels are packed with, and more.
const MOST_MEMORY: u32 = 256 << 10;
/// The largest window of zstd, as a power of two: Linux packs with `-22 --ultra`.
const ZSTD_WINDOW: u32 = 27;

/// A boot image's header, as far as it is looked at.
const HEADER: usize = 0x250;
/// The protocol of boot images that says where the payload is.
const PAYLOAD_VERSION: u16 = 0x208;

/// How a kernel is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// Not at all.
    Elf,
    Gzip,
    Bzip2,
    Lzma,
    Xz,
    Lzo,
    Lz4,
    Zstd,
}

impl Method {
    /// By the first bytes.
    fn of(bytes: &[u8]) -> Option<Self> {
        let known: [(&[u8], Self); 9] = [
            (b"\x7fELF", Self::Elf),
            (b"\x1f\x8b", Self::Gzip),
            (b"BZh", Self::Bzip2),
            (b"\x5d\0\0", Self::Lzma),
            (b"\xfd7zXZ\0", Self::Xz),
            (lzo::MAGIC, Self::Lzo),
            (b"\x02\x21\x4c\x18", Self::Lz4),
            (b"\x04\x22\x4d\x18", Self::Lz4),
            (b"\x28\xb5\x2f\xfd", Self::Zstd),
        ];
        let found = known.iter().find(|(magic, _)| bytes.starts_with(magic));
        found.map(|(_, method)| *method)
    }

    /// Decompresses all bytes.
    fn unpack(self, bytes: &[u8], to: &mut impl Write) -> io::Result<u64> {
        match self {
            Self::Elf => pour(bytes, to),
            Self::Gzip => pour(flate2::bufread::GzDecoder::new(bytes), to),
            Self::Bzip2 => pour(bzip2::bufread::BzDecoder::new(bytes), to),
            Self::Lzma => {
                let reader = lzma_rust2::LzmaReader::new_mem_limit(bytes, MOST_MEMORY, None);
                pour(reader.map_err(io::Error::other)?, to)
            }
            Self::Xz => {
                let reader = lzma_rust2::XzReader::new_mem_limit(bytes, false, MOST_MEMORY);
                pour(reader, to)
            }
            Self::Lzo => lzo::unpack(bytes, to),
            Self::Lz4 => pour(lz4_flex::frame::FrameDecoder::new(bytes), to),
            Self::Zstd => {
                let mut reader = zstd::stream::read::Decoder::with_buffer(bytes)?;
                reader.window_log_max(ZSTD_WINDOW)?;
                pour(reader, to)
            }
        }
    }
}

/// Writes all that there is to read, but not more than [`MOST`].
fn pour(from: impl Read, to: &mut impl Write) -> io::Result<u64> {
    let bytes = io::copy(&mut from.take(MOST + 1), to)?;
    match bytes {
        0..=MOST => Ok(bytes),
        _ => Err(io::Error::other("it is too large")),
    }
}

/// The kernel that a file has packed; none if the file is no boot image and not compressed.
///
/// # Errors
///
/// If it is packed in an unknown way, or damaged.
pub fn unpack(file: &mut File) -> anyhow::Result<Option<File>> {
    let mut header = Vec::new();
    file.rewind()?;
    file.take(HEADER as u64).read_to_end(&mut header)?;
    let bytes = match payload(&header)? {
        Some((at, length)) => {
            let end = at.checked_add(length);
            ensure!(
                end.is_some_and(|end| end <= file.metadata().map_or(0, |it| it.len())),
                "the boot image is cut off"
            );
            read(file, at, length)?
        }
        None if Method::of(&header) == Some(Method::Gzip) => read(file, 0, MOST)?,
        None => return Ok(None),
    };
    let Some(method) = Method::of(&bytes) else {
        let first: Vec<String> = bytes.iter().take(4).map(|it| format!("{it:02x}")).collect();
        bail!(
            "the boot image is packed in an unknown way: it begins with {}",
            first.join(" ")
        );
    };
    let (bytes, length) = match method {
        Method::Elf | Method::Gzip => (&*bytes, None),
        _ => {
            let (bytes, length) = bytes
                .split_last_chunk()
                .context("the boot image is empty")?;
            (bytes, Some(u64::from(u32::from_le_bytes(*length))))
        }
    };
    let mut unpacked = tempfile::tempfile().context("a temporary file")?;
    let result = method.unpack(bytes, &mut unpacked);
    let size = result.context("the packed kernel is damaged")?;
    ensure!(
        size > 0 && length.is_none_or(|length| length == size),
        "the packed kernel is damaged: it has another size than it should have"
    );
    Ok(Some(unpacked))
}

/// Where the payload of a boot image is, and its length; none for other files.
fn payload(header: &[u8]) -> anyhow::Result<Option<(u64, u64)>> {
    let word = |at: usize| -> Option<u32> {
        let bytes = header.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let is_image =
        header.get(0x1fe..0x200) == Some(b"\x55\xaa") && header.get(0x202..0x206) == Some(b"HdrS");
    if !is_image {
        return Ok(None);
    }
    let version = word(0x206).unwrap_or(0) as u16;
    ensure!(
        version >= PAYLOAD_VERSION,
        "a boot image so old that it does not say where the kernel is in it (protocol {}.{:02})",
        version >> 8,
        version & 0xff
    );
    let sectors = match header.get(0x1f1).copied().unwrap_or(0) {
        0 => 4,
        sectors => u64::from(sectors),
    };
    let (offset, length) = word(0x248)
        .zip(word(0x24c))
        .context("the boot image is cut off")?;
    Ok(Some((
        (sectors + 1) * 512 + u64::from(offset),
        u64::from(length),
    )))
}

fn read(file: &mut File, at: u64, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(at))?;
    BufReader::new(file)
        .take(length.min(MOST))
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
