//! What LZO has packed, and the files of lzop that have it.
//!
//! Linux's `Documentation/staging/lzo.rst` describes the stream of LZO1X, lzop's own description its files. The
//! libraries there are for it are of another licence, or panic where a stream is damaged.

use std::io::{self, Cursor, Read, Seek, Write};

use super::MOST;

/// What a file of lzop begins with.
pub const MAGIC: &[u8] = b"\x89LZO\0\r\n\x1a\n";
/// The version of lzop from which on its header has more.
pub(super) const LONG_HEADER: u16 = 0x0940;
/// Flags of what else is in the header.
pub(super) const FILTER: u32 = 0x800;
pub(super) const EXTRA: u32 = 0x40;
/// Flags of the checksums of a block: of what it has, then of what it is packed to.
pub(super) const CHECKSUMS: [u32; 2] = [0x1 | 0x100, 0x2 | 0x200];
/// The most bytes of a block.
const MOST_OF_BLOCK: u32 = 64 << 20;

/// Decompresses what lzop has packed. No checksum is looked at: the length of it all is.
///
/// # Errors
///
/// If it is damaged, or unpacks to more than [`MOST`].
pub fn unpack(bytes: &[u8], to: &mut impl Write) -> io::Result<u64> {
    let mut from = Cursor::new(bytes);
    let skip = |from: &mut Cursor<&[u8]>, bytes: u64| from.seek_relative(bytes as i64);
    skip(&mut from, MAGIC.len() as u64)?;
    let long = u16::from_be_bytes(take(&mut from)?) >= LONG_HEADER;
    // The library's version, that which is needed, the method, and its level.
    skip(&mut from, if long { 2 + 2 + 1 + 1 } else { 2 + 1 })?;
    let flags = u32::from_be_bytes(take(&mut from)?);
    let filter = if flags & FILTER != 0 { 4 } else { 0 };
    // The mode and the time.
    skip(&mut from, filter + 4 + 4 + if long { 4 } else { 0 })?;
    let [name] = take(&mut from)?;
    skip(&mut from, u64::from(name) + 4)?;
    if flags & EXTRA != 0 {
        let length = u32::from_be_bytes(take(&mut from)?);
        skip(&mut from, u64::from(length) + 4)?;
    }
    let mut all = 0;
    loop {
        let size = u32::from_be_bytes(take(&mut from)?);
        if size == 0 {
            return Ok(all);
        }
        let packed = u32::from_be_bytes(take(&mut from)?);
        all += u64::from(size);
        if size > MOST_OF_BLOCK || packed > size || all > MOST {
            return Err(io::Error::other("a block is too large"));
        }
        let [of_all, of_packed] = CHECKSUMS.map(|sums| (flags & sums).count_ones());
        let checksums = of_all + if packed < size { of_packed } else { 0 };
        skip(&mut from, u64::from(checksums) * 4)?;
        let mut block = Vec::new();
        from.by_ref()
            .take(u64::from(packed))
            .read_to_end(&mut block)?;
        if packed < size {
            let block = Stream::unpack(&block, size as usize);
            to.write_all(&block.ok_or_else(|| io::Error::other("a block is damaged"))?)?;
        } else if block.len() == size as usize {
            to.write_all(&block)?;
        } else {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn take<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// The state behind a run of literals, rather than behind a match that had as many.
const RUN: usize = 4;

/// A stream that is unpacked.
struct Stream<'a> {
    from: &'a [u8],
    to: Vec<u8>,
    /// As long as it is to become.
    size: usize,
}

impl Stream<'_> {
    /// Unpacks a stream of so many bytes; none if it is damaged.
    fn unpack(from: &[u8], size: usize) -> Option<Vec<u8>> {
        let mut stream = Stream {
            from,
            to: Vec::new(),
            size,
        };
        let mut state = stream.begin()?;
        loop {
            let byte = usize::from(stream.byte()?);
            if byte < 16 && state == 0 {
                let length = 3 + stream.length(byte, 15)?;
                stream.literals(length)?;
                state = RUN;
                continue;
            }
            let (distance, length, literals) = match byte {
                0..16 => {
                    let near = (usize::from(stream.byte()?) << 2) + (byte >> 2);
                    match state {
                        RUN => (near + 2049, 3, byte),
                        _ => (near + 1, 2, byte),
                    }
                }
                16..32 => {
                    let length = 2 + stream.length(byte & 7, 7)?;
                    let word = stream.word()?;
                    let distance = 16384 + ((byte & 8) << 11) + (word >> 2);
                    if distance == 16384 {
                        let is_whole = stream.to.len() == size && stream.from.is_empty();
                        return is_whole.then_some(stream.to);
                    }
                    (distance, length, word)
                }
                32..64 => {
                    let length = 2 + stream.length(byte & 31, 31)?;
                    let word = stream.word()?;
                    ((word >> 2) + 1, length, word)
                }
                _ => {
                    let length = match byte {
                        ..128 => 3 + (byte >> 5 & 1),
                        _ => 5 + (byte >> 5 & 3),
                    };
                    let far = usize::from(stream.byte()?) << 3;
                    (far + (byte >> 2 & 7) + 1, length, byte)
                }
            };
            stream.copy(distance, length)?;
            state = literals & 3;
            stream.literals(state)?;
        }
    }

    /// The first byte may be about literals of which there are too few for a run; the state behind it.
    fn begin(&mut self) -> Option<usize> {
        let literals = match *self.from.first()? {
            byte @ 18.. => usize::from(byte) - 17,
            _ => return Some(0),
        };
        self.byte()?;
        self.literals(literals)?;
        Some(literals.min(RUN))
    }

    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.from.split_first()?;
        self.from = rest;
        Some(*first)
    }

    fn word(&mut self) -> Option<usize> {
        let bytes = [self.byte()?, self.byte()?];
        Some(u16::from_le_bytes(bytes).into())
    }

    /// A length that a field has, or, if it is zero, bytes that are added to the `most` that it could have.
    fn length(&mut self, field: usize, most: usize) -> Option<usize> {
        if field > 0 {
            return Some(field);
        }
        let mut length = most;
        loop {
            match self.byte()? {
                0 => length += 255,
                last => return Some(length + usize::from(last)),
            }
        }
    }

    fn literals(&mut self, length: usize) -> Option<()> {
        let (literals, rest) = self.from.split_at_checked(length)?;
        self.from = rest;
        self.to.extend_from_slice(literals);
        (self.to.len() <= self.size).then_some(())
    }

    /// Repeats what is so far back, and what comes of that.
    fn copy(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.to.len().checked_sub(distance)?;
        if length > self.size - self.to.len() {
            return None;
        }
        for at in from..from + length {
            self.to.push(*self.to.get(at)?);
        }
        Some(())
    }
}
