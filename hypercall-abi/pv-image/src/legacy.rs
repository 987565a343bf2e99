//! The section `__xen_guest`: a string `NAME=VALUE,NAME=VALUE...`, which kernels had before there
//! were notes.

/// The pairs of the string that `section` begins with; a name without `=` has an empty value.
pub(crate) fn pairs(section: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let end = section
        .iter()
        .position(|b| *b == 0)
        .unwrap_or(section.len());
    let text = section.get(..end).unwrap_or_default();
    text.split(|b| *b == b',')
        .filter_map(|pair| core::str::from_utf8(pair).ok())
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// A number as C's `strtoull` with base 0 reads it: `0x` for hexadecimal, a leading zero for octal.
pub(crate) fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    if let Some(hex) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u64::from_str_radix(hex, 16).ok()
    } else if let Some(octal) = text.strip_prefix('0').filter(|rest| !rest.is_empty()) {
        u64::from_str_radix(octal, 8).ok()
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_end_at_the_first_nul_and_flags_have_no_value() {
        let text = b"GUEST_OS=Mini-OS,BSD_SYMTAB,VIRT_BASE=0x0\0LOADER=x";
        assert_eq!(
            pairs(text).collect::<Vec<_>>(),
            [
                ("GUEST_OS", "Mini-OS"),
                ("BSD_SYMTAB", ""),
                ("VIRT_BASE", "0x0")
            ]
        );
    }

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        assert_eq!(number("0xffffffff80000000"), Some(0xffff_ffff_8000_0000));
        assert_eq!(number("010"), Some(8));
        assert_eq!(number("0"), Some(0));
        assert_eq!(number("12"), Some(12));
        assert_eq!(number("twelve"), None);
        assert_eq!(number("0x1ffffffffffffffff"), None);
    }
}
