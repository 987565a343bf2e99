//! Boot images as Linux's build makes them, and such as no build makes.

use std::io::{Seek, Write};
use std::sync::LazyLock;

use lzma_rust2::FilterType;
use proptest::prelude::*;

use super::*;

/// Something of a kernel's kind: an ELF file with repetitions and x86 calls.
fn kernel() -> Vec<u8> {
    let mut bytes = b"\x7fELF\x02\x01\x01".to_vec();
    for nth in 0..20_000_u32 {
        bytes.extend_from_slice(b"\xe8");
        bytes.extend_from_slice(&nth.wrapping_mul(0x9e37).to_le_bytes());
        bytes.extend_from_slice(&[0x48, 0x89, 0xc7, (nth >> 7) as u8]);
    }
    bytes
}

/// A file of lzop, in blocks as its default is.
fn lzop(bytes: &[u8], version: u16, flags: u32) -> Vec<u8> {
    let mut file = lzo::MAGIC.to_vec();
    let long = version >= lzo::LONG_HEADER;
    file.extend_from_slice(&version.to_be_bytes());
    file.extend_from_slice(if long {
        &[0, 1, 0, 1, 3, 9]
    } else {
        &[0, 1, 3]
    });
    file.extend_from_slice(&flags.to_be_bytes());
    let rest = 4 + 4 + if long { 4 } else { 0 } + if flags & lzo::FILTER != 0 { 4 } else { 0 };
    file.resize(file.len() + rest, 0);
    file.extend_from_slice(b"\x07vmlinux");
    file.extend_from_slice(&[0; 4]);
    if flags & lzo::EXTRA != 0 {
        file.extend_from_slice(&[0, 0, 0, 3, 1, 2, 3, 0, 0, 0, 0]);
    }
    for block in bytes.chunks(64 * 1024) {
        let packed = lzokay_native::compress(block).expect("it can be packed");
        let packed = if packed.len() < block.len() {
            &packed
        } else {
            block
        };
        file.extend_from_slice(&(block.len() as u32).to_be_bytes());
        file.extend_from_slice(&(packed.len() as u32).to_be_bytes());
        let [all, rest] = lzo::CHECKSUMS.map(|sums| (flags & sums).count_ones() as usize);
        let sums = all + if packed.len() < block.len() { rest } else { 0 };
        file.resize(file.len() + sums * 4, 0);
        file.extend_from_slice(packed);
    }
    file.extend_from_slice(&[0; 4]);
    file
}

/// Bytes packed by each method.
fn packed(bytes: &[u8]) -> Vec<(Method, Vec<u8>)> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    gzip.write_all(bytes).unwrap();
    let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::best());
    bzip2.write_all(bytes).unwrap();
    let options = lzma_rust2::LzmaOptions::with_preset(1);
    let mut lzma = lzma_rust2::LzmaWriter::new_use_header(Vec::new(), &options, None).unwrap();
    lzma.write_all(bytes).unwrap();
    let mut options = lzma_rust2::XzOptions::with_preset(1);
    options.set_check_sum_type(lzma_rust2::CheckType::Crc32);
    options.prepend_pre_filter(FilterType::BcjX86, 0);
    let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
    xz.write_all(bytes).unwrap();
    let legacy = lz4_flex::frame::FrameInfo::new().legacy_frame(true);
    let mut lz4 = lz4_flex::frame::FrameEncoder::with_frame_info(legacy, Vec::new());
    lz4.write_all(bytes).unwrap();
    let all_checksums = lzo::CHECKSUMS[0] | lzo::CHECKSUMS[1];
    vec![
        (Method::Elf, bytes.to_vec()),
        (Method::Gzip, gzip.finish().unwrap()),
        (Method::Bzip2, bzip2.finish().unwrap()),
        (Method::Lzma, lzma.finish().unwrap()),
        (Method::Xz, xz.finish().unwrap()),
        (Method::Lz4, lz4.finish().unwrap()),
        (Method::Zstd, zstd::encode_all(bytes, 3).unwrap()),
        (Method::Lzo, lzop(bytes, 0x1030, all_checksums | lzo::EXTRA)),
        (Method::Lzo, lzop(bytes, 0x0930, lzo::FILTER)),
    ]
}

/// A boot image with a payload behind so many sectors of set-up code.
fn image(payload: &[u8], sectors: u8) -> Vec<u8> {
    let start = if sectors == 0 {
        4
    } else {
        usize::from(sectors)
    };
    let mut bytes = vec![0; (start + 1) * 512 + 100];
    bytes[0x1f1] = sectors;
    bytes[0x1fe..0x200].copy_from_slice(b"\x55\xaa");
    bytes[0x202..0x206].copy_from_slice(b"HdrS");
    bytes[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    bytes[0x248..0x24c].copy_from_slice(&100_u32.to_le_bytes());
    bytes[0x24c..0x250].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"what follows");
    bytes
}

/// What was packed by a method, as Linux's build has it follow.
fn payload_of(method: Method, packed: &[u8], length: usize) -> Vec<u8> {
    let mut payload = packed.to_vec();
    if !matches!(method, Method::Elf | Method::Gzip) {
        payload.extend_from_slice(&(length as u32).to_le_bytes());
    }
    payload
}

fn file(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn unpacked(bytes: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    let Some(mut found) = unpack(&mut file(bytes))? else {
        return Ok(None);
    };
    found.rewind().unwrap();
    let mut all = Vec::new();
    found.read_to_end(&mut all).unwrap();
    Ok(Some(all))
}

fn refused(bytes: &[u8]) -> String {
    format!("{:#}", unpacked(bytes).expect_err("it is refused"))
}

#[test]
fn a_kernel_is_taken_out_of_a_boot_image_however_it_is_packed() {
    let kernel = kernel();
    for (method, packed) in packed(&kernel) {
        assert_eq!(Method::of(&packed), Some(method));
        for sectors in [0, 1, 39] {
            let payload = payload_of(method, &packed, kernel.len());
            let found = unpacked(&image(&payload, sectors)).unwrap();
            assert!(found.as_ref() == Some(&kernel), "{method:?}");
        }
    }
}

#[test]
fn other_files_stay_as_they_are_but_for_those_that_gzip_has_packed() {
    let kernel = kernel();
    for bytes in [&kernel[..], b"", b"short", &[0x55; 0x400]] {
        assert_eq!(unpacked(bytes).unwrap(), None);
    }
    let all = packed(&kernel);
    assert_eq!(unpacked(&all[1].1).unwrap().as_ref(), Some(&kernel));
}

#[test]
fn a_boot_image_that_is_wrong_is_refused_in_words() {
    let good = image(b"\x7fELF and so on", 1);
    let mut old = good.clone();
    old[0x206] = 7;
    assert!(
        refused(&old).contains("(protocol 2.07)"),
        "{}",
        refused(&old)
    );
    let cut = &good[..good.len() - 13];
    assert!(refused(cut).contains("cut off"), "{}", refused(cut));
    let strange = image(b"\x01\x02\x03\x04\x05", 1);
    let why = refused(&strange);
    assert!(
        why.contains("unknown way: it begins with 01 02 03 04"),
        "{why}"
    );
    assert!(refused(&image(b"", 1)).contains("unknown"));
}

#[test]
fn a_payload_that_is_damaged_is_refused() {
    let kernel = kernel();
    for (method, packed) in packed(&kernel).into_iter().skip(1) {
        let half = payload_of(method, &packed[..packed.len() / 2], kernel.len());
        let why = refused(&image(&half, 1));
        assert!(
            why.starts_with("the packed kernel is damaged"),
            "{method:?}: {why}"
        );
        if method != Method::Gzip {
            let longer = payload_of(method, &packed, kernel.len() + 1);
            let why = refused(&image(&longer, 1));
            assert!(why.contains("another size"), "{method:?}: {why}");
        }
    }
}

/// Bytes of the kernel that is damaged at random.
const SMALL: usize = 5000;

static PACKED: LazyLock<Vec<(Method, Vec<u8>)>> = LazyLock::new(|| packed(&kernel()[..SMALL]));

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_is_in_a_boot_image_is_an_error_at_most(
        nth in 0_usize..9, changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<Option<prop::sample::Index>>(),
    ) {
        let (method, mut packed) = PACKED[nth].clone();
        for (at, value) in changes {
            let at = at.index(packed.len());
            packed[at] = value;
        }
        if let Some(cut) = cut {
            packed.truncate(cut.index(packed.len()));
        }
        let image = image(&payload_of(method, &packed, SMALL), 1);
        if let Ok(Some(found)) = unpacked(&image) {
            prop_assert!(found.len() < 1 << 20);
        }
    }
}
