//! A volume in this domain's memory.

use alloc::vec::Vec;
use core::fmt;

use split_drivers::SharedMemory;
use split_drivers::block::SECTOR;
use split_drivers::block::back::Operation;

/// Memory is had in pieces of so many bytes.
const PIECE: usize = 64 * 1024;

/// The memory.
pub struct Ram(Vec<Vec<u8>>);

impl Ram {
    /// So many zeroes; none if there is no such memory.
    pub fn new(bytes: u64) -> Option<Self> {
        let mut left = usize::try_from(bytes).ok()?;
        let mut pieces = Vec::new();
        pieces.try_reserve_exact(left.div_ceil(PIECE)).ok()?;
        while left > 0 {
            let size = left.min(PIECE);
            let mut piece = Vec::new();
            piece.try_reserve_exact(size).ok()?;
            piece.resize(size, 0);
            pieces.push(piece);
            left -= size;
        }
        Some(Self(pieces))
    }

    /// Passes the parts of a range, in order.
    fn each(&mut self, sector: u64, bytes: usize, mut action: impl FnMut(&mut [u8])) {
        let mut at = (sector as usize).saturating_mul(SECTOR);
        let end = at.saturating_add(bytes);
        while at < end {
            let count = (end - at).min(PIECE - at % PIECE);
            let part = self
                .0
                .get_mut(at / PIECE)
                .and_then(|piece| piece.get_mut(at % PIECE..at % PIECE + count));
            if let Some(part) = part {
                action(part);
            }
            at += count;
        }
    }

    /// Does an operation; gives back the buffer of a read.
    pub fn run<B: SharedMemory>(&mut self, operation: Operation<B>) -> Option<B> {
        match operation {
            Operation::Read {
                sector,
                bytes,
                buffer,
            } => {
                let mut at = 0;
                self.each(sector, bytes, |part| {
                    buffer.write(at, part);
                    at += part.len();
                });
                Some(buffer)
            }
            Operation::Write {
                sector,
                bytes,
                buffer,
            } => {
                let mut at = 0;
                self.each(sector, bytes, |part| {
                    buffer.read(at, part);
                    at += part.len();
                });
                None
            }
            Operation::Discard { sector, count, .. } => {
                let bytes = (count as usize).saturating_mul(SECTOR);
                self.each(sector, bytes, |part| part.fill(0));
                None
            }
            Operation::Flush => None,
        }
    }
}

impl fmt::Debug for Ram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ram({} pieces)", self.0.len())
    }
}
