//! Frames: how the byte stream is cut into pieces, and found again after bytes that are none.
//!
//! A client can die in the middle of a frame, and a stream that is joined late starts in the middle
//! of one. So each frame carries a magic number and a checksum over all of itself; [`Decoder`]
//! skips bytes until both are right.
//!
//! | offset | size | field |
//! |---|---|---|
//! | 0 | 4 | [`MAGIC`] |
//! | 4 | 1 | [`Kind`] |
//! | 5 | 1 | zero |
//! | 6 | 2 | length of the payload, at most [`MAX_PAYLOAD`] |
//! | 8 | 4 | channel |
//! | 12 | 4 | CRC-32 (IEEE) of bytes 0 to 11 and the payload |
//! | 16 | | payload |
//!
//! Numbers are little-endian.

use alloc::vec::Vec;

/// The first four bytes of each frame.
pub const MAGIC: [u8; 4] = [0xf5, b'X', b'n', 0x01];
/// Bytes in a frame before its payload.
pub const HEADER: usize = 16;
/// The largest payload in bytes.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Forget all channels and answer with [`Kind::SyncAck`] of the same payload. Channel 0;
    /// payload: an 8-byte nonce.
    Sync = 1,
    /// The answer to [`Kind::Sync`].
    SyncAck = 2,
    /// Opens a channel. Payload: the protocol version of the opener, two bytes.
    Open = 3,
    /// A message on a channel.
    Data = 4,
    /// Allows the receiver to send so many more bytes of payload on a channel. Payload: four bytes.
    Credit = 5,
    /// Ends a channel at once, in both directions. Payload: the reason.
    Close = 6,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Kind> {
        Some(match byte {
            1 => Kind::Sync,
            2 => Kind::SyncAck,
            3 => Kind::Open,
            4 => Kind::Data,
            5 => Kind::Credit,
            6 => Kind::Close,
            _ => return None,
        })
    }
}

/// A frame that came in whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is for.
    pub kind: Kind,
    /// The channel that it belongs to; 0 is none.
    pub channel: u32,
    /// At most [`MAX_PAYLOAD`] bytes.
    pub payload: Vec<u8>,
}

/// A payload was longer than [`MAX_PAYLOAD`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {0} bytes is too long for a frame")]
pub struct TooLong(pub usize);

/// Appends a frame to `out`.
///
/// # Errors
/// [`TooLong`], and `out` is as before.
pub fn encode(kind: Kind, channel: u32, payload: &[u8], out: &mut Vec<u8>) -> Result<(), TooLong> {
    let too_long = TooLong(payload.len());
    if payload.len() > MAX_PAYLOAD {
        return Err(too_long);
    }
    let length = u16::try_from(payload.len()).map_err(|_| too_long)?;
    let mut header = [0; HEADER - 4];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = kind as u8;
    header[6..8].copy_from_slice(&length.to_le_bytes());
    header[8..12].copy_from_slice(&channel.to_le_bytes());
    out.reserve(HEADER + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(&checksum(&header, payload).to_le_bytes());
    out.extend_from_slice(payload);
    Ok(())
}

fn checksum(header: &[u8], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(payload);
    crc.finalize()
}

/// Finds frames in a byte stream. Holds the bytes of at most one frame beyond what the last
/// [`Decoder::push`] brought.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// Where in `buffer` the bytes begin that are not decoded yet.
    start: usize,
    skipped: u64,
}

enum Look {
    Frame(Frame),
    /// No frame begins at the start of the bytes.
    Garbage,
    More,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Adds bytes of the stream. Take all frames out by [`Decoder::next_frame`] before the next
    /// push, so that the buffer does not grow beyond one frame and one push.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// How many bytes were skipped because no frame was in them.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// The next frame, or none until more bytes are pushed.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            let rest = self.buffer.get(self.start..).unwrap_or_default();
            match look(rest) {
                Look::Frame(frame) => {
                    self.start += HEADER + frame.payload.len();
                    return Some(frame);
                }
                Look::More => return None,
                Look::Garbage => {
                    // The next place where the magic could begin.
                    let skip = rest
                        .iter()
                        .skip(1)
                        .position(|&byte| byte == MAGIC[0])
                        .map_or(rest.len(), |at| at + 1);
                    self.start += skip;
                    self.skipped += skip as u64;
                }
            }
        }
    }
}

/// What is at the start of `bytes`. A header whose own fields are wrong is garbage at once, so that
/// a false start costs no wait for a payload that never comes; one that is right but for its
/// checksum costs at most [`MAX_PAYLOAD`] bytes of wait, and then nothing is lost, for the search
/// goes on right behind the false start.
fn look(bytes: &[u8]) -> Look {
    let magic = bytes.len().min(MAGIC.len());
    if bytes.get(..magic) != MAGIC.get(..magic) {
        return Look::Garbage;
    }
    let Some((header, rest)) = bytes.split_at_checked(HEADER) else {
        return Look::More;
    };
    let [
        _,
        _,
        _,
        _,
        kind,
        zero,
        l0,
        l1,
        c0,
        c1,
        c2,
        c3,
        s0,
        s1,
        s2,
        s3,
    ] = *header
    else {
        return Look::More;
    };
    let length = usize::from(u16::from_le_bytes([l0, l1]));
    let (Some(kind), 0) = (Kind::from_byte(kind), zero) else {
        return Look::Garbage;
    };
    if length > MAX_PAYLOAD {
        return Look::Garbage;
    }
    let Some(payload) = rest.get(..length) else {
        return Look::More;
    };
    if checksum(&header[..HEADER - 4], payload) != u32::from_le_bytes([s0, s1, s2, s3]) {
        return Look::Garbage;
    }
    Look::Frame(Frame {
        kind,
        channel: u32::from_le_bytes([c0, c1, c2, c3]),
        payload: payload.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::collection::vec as bytes;
    use proptest::prelude::*;

    use super::*;

    fn kinds() -> impl Strategy<Value = Kind> {
        (1u8..=6).prop_map(|byte| Kind::from_byte(byte).unwrap())
    }

    fn frames() -> impl Strategy<Value = Frame> {
        let payload = prop_oneof![
            8 => bytes(any::<u8>(), 0..64),
            1 => (any::<u8>(), 0..=MAX_PAYLOAD).prop_map(|(byte, length)| vec![byte; length]),
            // Payloads that look like frames.
            4 => bytes(proptest::sample::select(MAGIC.to_vec()), 0..64),
        ];
        (kinds(), any::<u32>(), payload).prop_map(|(kind, channel, payload)| Frame {
            kind,
            channel,
            payload,
        })
    }

    fn encoded(frames: &[Frame]) -> Vec<u8> {
        let mut out = Vec::new();
        for frame in frames {
            encode(frame.kind, frame.channel, &frame.payload, &mut out).unwrap();
        }
        out
    }

    fn decode_in_pieces(stream: &[u8], piece: usize) -> (Vec<Frame>, Decoder) {
        let mut decoder = Decoder::new();
        let mut found = Vec::new();
        for bytes in stream.chunks(piece) {
            decoder.push(bytes);
            found.extend(core::iter::from_fn(|| decoder.next_frame()));
            assert!(decoder.buffer.len() - decoder.start <= HEADER + MAX_PAYLOAD);
        }
        (found, decoder)
    }

    proptest! {
        #[test]
        fn frames_come_out_as_they_went_in_however_the_stream_is_cut(
            frames in bytes(frames(), 0..6),
            piece in 1usize..70_000,
        ) {
            let (found, decoder) = decode_in_pieces(&encoded(&frames), piece);
            prop_assert_eq!(found, frames);
            prop_assert_eq!(decoder.skipped(), 0);
        }

        #[test]
        fn frames_behind_stale_bytes_are_found(
            stale in bytes(any::<u8>(), 0..200),
            frames in bytes(frames(), 1..4),
        ) {
            let mut stream = stale.clone();
            stream.extend(encoded(&frames));
            // A false start in the stale bytes may wait for as much as one payload.
            stream.resize(stream.len() + HEADER + MAX_PAYLOAD, 0);
            let (found, _) = decode_in_pieces(&stream, 4096);
            prop_assert!(found.ends_with(&frames));
        }

        #[test]
        fn a_torn_frame_costs_no_other(
            torn in frames(),
            keep in any::<proptest::sample::Index>(),
            frames in bytes(frames(), 2..4),
        ) {
            let mut stream = encoded(&[torn]);
            let missing = stream.split_off(keep.index(stream.len()));
            let rest = encoded(&frames);
            // By chance the next bytes may be the very ones that are missing: then the frame is
            // whole.
            prop_assume!(!rest.starts_with(&missing));
            stream.extend(rest);
            stream.resize(stream.len() + HEADER + MAX_PAYLOAD, 0);
            let (found, _) = decode_in_pieces(&stream, 4096);
            prop_assert!(found.ends_with(&frames));
        }

        #[test]
        fn arbitrary_bytes_do_no_harm(stream in bytes(any::<u8>(), 0..4096), piece in 1usize..512) {
            decode_in_pieces(&stream, piece);
        }

        #[test]
        fn a_flipped_bit_is_noticed(frame in frames(), bit in any::<proptest::sample::Index>()) {
            let mut stream = encoded(core::slice::from_ref(&frame));
            let bit = bit.index(stream.len() * 8);
            stream[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(!decode_in_pieces(&stream, stream.len()).0.contains(&frame));
        }
    }

    #[test]
    fn a_payload_too_long_is_refused_and_leaves_the_output_alone() {
        let mut out = vec![7];
        let result = encode(Kind::Data, 1, &vec![0; MAX_PAYLOAD + 1], &mut out);
        assert_eq!(result, Err(TooLong(MAX_PAYLOAD + 1)));
        assert_eq!(out, [7]);
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut out = Vec::new();
        encode(Kind::Data, 0x0403_0201, b"ab", &mut out).unwrap();
        assert_eq!(out[..12], [0xf5, b'X', b'n', 1, 4, 0, 2, 0, 1, 2, 3, 4]);
        assert_eq!(&out[16..], b"ab");
        assert_eq!(out.len(), HEADER + 2);
    }
}
