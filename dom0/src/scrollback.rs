//! The last bytes that a guest printed, for those who look later.

use alloc::collections::VecDeque;
use alloc::vec::Vec;

/// A stream of which the end is kept. Positions count all bytes since its beginning, so that each
/// reader can have its own and those who fall behind know that they did.
#[derive(Debug)]
pub struct Scrollback {
    bytes: VecDeque<u8>,
    capacity: usize,
    /// Position behind the last byte.
    end: u64,
}

impl Scrollback {
    /// An empty one that keeps up to `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            bytes: VecDeque::new(),
            capacity,
            end: 0,
        }
    }

    /// Position of the oldest byte that is kept.
    pub fn start(&self) -> u64 {
        self.end - self.bytes.len() as u64
    }

    /// Position behind the last byte.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Adds bytes and forgets the oldest ones.
    pub fn push(&mut self, bytes: &[u8]) {
        self.end += bytes.len() as u64;
        let kept = bytes.len().min(self.capacity);
        let room = self.capacity - kept;
        self.bytes.drain(..self.bytes.len().saturating_sub(room));
        self.bytes.extend(bytes.iter().skip(bytes.len() - kept));
    }

    /// Up to `most` bytes from `*position` on, which is moved behind them. A position whose byte is
    /// forgotten means the oldest one.
    pub fn read(&self, position: &mut u64, most: usize) -> Vec<u8> {
        let from = (*position).clamp(self.start(), self.end);
        let skip = (from - self.start()) as usize;
        let out: Vec<u8> = self.bytes.iter().skip(skip).take(most).copied().collect();
        *position = from + out.len() as u64;
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_reader_that_fell_behind_goes_on_at_the_oldest_byte() {
        let mut scrollback = Scrollback::new(4);
        scrollback.push(b"abc");
        let mut position = 1;
        scrollback.push(b"defg");
        assert_eq!(scrollback.start(), 3);
        assert_eq!(scrollback.read(&mut position, 2), b"de");
        assert_eq!(scrollback.read(&mut position, 9), b"fg");
        assert_eq!(scrollback.read(&mut position, 9), b"");
    }

    proptest! {
        #[test]
        fn what_is_kept_is_the_end_of_what_was_pushed(
            pieces: Vec<Vec<u8>>, capacity in 0usize..50, position: u64,
        ) {
            let mut scrollback = Scrollback::new(capacity);
            let mut all = Vec::new();
            for piece in pieces {
                scrollback.push(&piece);
                all.extend(piece);
                let kept = all.len().min(capacity);
                let mut at = 0;
                prop_assert_eq!(scrollback.read(&mut at, usize::MAX), &all[all.len() - kept..]);
                prop_assert_eq!(at, all.len() as u64);
                let mut anywhere = position;
                scrollback.read(&mut anywhere, 1);
                prop_assert!(anywhere <= scrollback.end());
            }
        }
    }
}
