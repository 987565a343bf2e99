//! Names and numbers of virtual disks (`docs/man/xen-vbd-interface.7` of Xen).

/// The number of the disk or partition of that name; `None` if it is no such name.
///
/// `xvda` is the first disk and `xvda1` its first partition, likewise `sda`, `hda`; `d0` and `d0p1` are
/// the same without a driver's name.
pub fn number(name: &str) -> Option<u32> {
    if let Some(rest) = name.strip_prefix("xvd") {
        let (disk, partition) = letters(rest)?;
        return any(disk, partition);
    }
    if let Some(rest) = name.strip_prefix("sd") {
        let (disk, partition) = letters(rest)?;
        return (disk < 16 && partition < 16).then_some(8 << 8 | disk << 4 | partition);
    }
    if let Some(rest) = name.strip_prefix("hd") {
        let (disk, partition) = letters(rest)?;
        let major = match disk {
            0 | 1 => 3,
            2 | 3 => 22,
            _ => return None,
        };
        return (partition < 64).then_some(major << 8 | (disk & 1) << 6 | partition);
    }
    let rest = name.strip_prefix('d')?;
    let (disk, partition) = match rest.split_once('p') {
        Some((disk, partition)) => (decimal(disk)?, decimal(partition)?),
        None => (decimal(rest)?, 0),
    };
    any(disk, partition)
}

fn any(disk: u32, partition: u32) -> Option<u32> {
    match (disk, partition) {
        (0..16, 0..16) => Some(202 << 8 | disk << 4 | partition),
        (0..0x10_0000, 0..256) => Some(1 << 28 | disk << 8 | partition),
        _ => None,
    }
}

/// `a` to `z`, `aa` and so on, then the number of a partition.
fn letters(text: &str) -> Option<(u32, u32)> {
    let end = text
        .find(|c: char| !c.is_ascii_lowercase())
        .unwrap_or(text.len());
    let (letters, partition) = text.split_at(end);
    if letters.is_empty() || letters.len() > 4 {
        return None;
    }
    let value = |letter: u8| u32::from(letter - b'a') + 1;
    let disk = letters
        .bytes()
        .fold(0, |sum, letter| sum * 26 + value(letter))
        - 1;
    match partition {
        "" => Some((disk, 0)),
        digits => decimal(digits)
            .filter(|partition| *partition > 0)
            .map(|partition| (disk, partition)),
    }
}

fn decimal(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty();
    let leading = text.len() > 1 && text.starts_with('0');
    (plain && !leading).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::number;

    #[test]
    fn names_have_the_numbers_of_xen_s_documentation() {
        for (name, expected) in [
            ("xvda", 51712),
            ("xvda1", 51713),
            ("xvdb", 51728),
            ("xvdp15", 51712 + 255),
            ("xvdq", 268_439_552),
            ("xvdz3", (1 << 28) + (25 << 8) + 3),
            ("xvdaa", (1 << 28) + (26 << 8)),
            ("xvda16", (1 << 28) + 16),
            ("sda", 2048),
            ("sdb2", 2066),
            ("hda", 768),
            ("hdb1", 768 + 65),
            ("hdc", 5632),
            ("d0", 51712),
            ("d536p37", (1 << 28) + (536 << 8) + 37),
        ] {
            assert_eq!(number(name), Some(expected), "{name}");
        }
        for name in [
            "", "xvd", "xvd1", "xvdA", "xvda0", "xvda01", "xvda1x", "sdq", "sda16", "hde", "d",
            "dp1", "d1p", "vda", "xvdaaaaa", "xvda256", "d00",
        ] {
            assert_eq!(number(name), None, "{name}");
        }
    }
}
