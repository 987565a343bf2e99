//! ELF notes of vendor "Xen" (`elfnote.h`), out of a segment or section that may hold anything.

use alloc::string::String;

/// One note: its number and its contents.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Note<'a> {
    pub number: u32,
    pub xen: bool,
    desc: &'a [u8],
}

impl<'a> Note<'a> {
    /// The contents as a number of 1, 2, 4 or 8 bytes; any other size counts as 0, as it does for
    /// Xen.
    pub fn value(&self) -> u64 {
        match self.desc.len() {
            1 | 2 | 4 | 8 => little_endian(self.desc),
            _ => 0,
        }
    }

    /// The contents up to the first NUL.
    pub fn string(&self) -> String {
        let end = self
            .desc
            .iter()
            .position(|b| *b == 0)
            .unwrap_or(self.desc.len());
        // A note is a word or a short list; the rest of a longer one carries no meaning for
        // anybody.
        let end = end.min(MAX_STRING);
        String::from_utf8_lossy(self.desc.get(..end).unwrap_or_default()).into_owned()
    }

    /// The contents as an array of 32-bit words.
    pub fn words(&self) -> impl Iterator<Item = u32> + 'a {
        self.desc
            .chunks_exact(4)
            .map(|word| little_endian(word) as u32)
    }

    /// The contents as an array of 64-bit words.
    pub fn longs(&self) -> impl Iterator<Item = u64> + 'a {
        self.desc.chunks_exact(8).map(little_endian)
    }
}

const MAX_STRING: usize = 4096;

fn little_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// All notes in `data`, in order, ending at the first one that does not fit. Each step consumes at
/// least the twelve bytes of a note's header.
pub(crate) fn notes(data: &[u8]) -> impl Iterator<Item = Note<'_>> {
    let mut rest = data;
    core::iter::from_fn(move || {
        let (header, body) = rest.split_at_checked(12)?;
        let (name_len, after) = header.split_at_checked(4)?;
        let (desc_len, number) = after.split_at_checked(4)?;
        let name_len = usize::try_from(little_endian(name_len)).ok()?;
        let desc_len = usize::try_from(little_endian(desc_len)).ok()?;
        let (name, body) = split_padded(body, name_len)?;
        let (desc, body) = split_padded(body, desc_len)?;
        rest = body;
        Some(Note {
            number: little_endian(number) as u32,
            xen: is_xen(name),
            desc,
        })
    })
}

fn is_xen(name: &[u8]) -> bool {
    name.split(|b| *b == 0).next() == Some(b"Xen".as_slice())
}

/// The first `len` bytes, and what follows after padding to four bytes. The padding of the very
/// last note may be missing.
fn split_padded(data: &[u8], len: usize) -> Option<(&[u8], &[u8])> {
    let field = data.get(..len)?;
    let rest = data
        .get(len.checked_next_multiple_of(4)?..)
        .unwrap_or_default();
    Some((field, rest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_note_that_is_longer_than_its_segment_ends_the_list() {
        let mut data = vec![4, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0];
        data.extend(b"Xen\0\x01\0\0\0\0\0\0\0");
        assert_eq!(notes(&data).map(|n| n.value()).collect::<Vec<_>>(), [1]);
        data.extend([4, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0]);
        assert_eq!(notes(&data).count(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_give_at_most_one_note_per_twelve(data: Vec<u8>) {
            prop_assert!(notes(&data).count() <= data.len() / 12);
        }
    }
}
