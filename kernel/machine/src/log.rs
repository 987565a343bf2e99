//! The hypervisor's log: levels as on Xen's command line, and the ring that `console=` output is kept in for
//! `XEN_SYSCTL_readconsole`.

use alloc::boxed::Box;
use alloc::vec;

/// Importance of a message; the numbers are Xen's (`loglvl=` and `guest_loglvl=`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// Something failed.
    Error = 0,
    /// Something is wrong but handled.
    Warning = 1,
    /// What a reader of the boot log wants to see.
    Info = 2,
    /// What only a developer wants to see.
    Debug = 3,
}

/// The last bytes that were logged, addressed by their position in the endless stream.
#[derive(Debug)]
pub struct LogRing {
    bytes: Box<[u8]>,
    /// Position of the next byte to be written, modulo 2^32 as in the hypercall.
    produced: u32,
    /// How many bytes are held, at most the ring's size.
    held: u32,
}

impl LogRing {
    /// A ring of `size` bytes; a power of two, so that positions may wrap at 2^32.
    pub fn new(size: usize) -> Self {
        let size = size.next_power_of_two().clamp(1024, 1 << 30);
        Self {
            bytes: vec![0; size].into_boxed_slice(),
            produced: 0,
            held: 0,
        }
    }

    /// Appends `text`, forgetting the oldest bytes.
    pub fn push(&mut self, text: &[u8]) {
        let mask = self.bytes.len() - 1;
        for &byte in text {
            if let Some(slot) = self.bytes.get_mut(self.produced as usize & mask) {
                *slot = byte;
            }
            self.produced = self.produced.wrapping_add(1);
        }
        self.held = self
            .held
            .saturating_add(text.len() as u32)
            .min(self.bytes.len() as u32);
    }

    /// Position behind the newest byte.
    pub fn end(&self) -> u32 {
        self.produced
    }

    /// Position of the oldest byte that is still held.
    pub fn start(&self) -> u32 {
        self.produced.wrapping_sub(self.held)
    }

    /// Copies bytes from position `from` on (moved up to [`Self::start`] where it is older) into `out`;
    /// returns the position read from and the number of bytes.
    pub fn read(&self, from: u32, out: &mut [u8]) -> (u32, usize) {
        let behind = self.produced.wrapping_sub(from);
        let from = if behind > self.held {
            self.start()
        } else {
            from
        };
        let count = (self.produced.wrapping_sub(from) as usize).min(out.len());
        let mask = self.bytes.len() - 1;
        for (i, slot) in out.iter_mut().take(count).enumerate() {
            let at = from.wrapping_add(i as u32) as usize & mask;
            *slot = self.bytes.get(at).copied().unwrap_or(0);
        }
        (from, count)
    }

    /// Forgets all that was logged.
    pub fn clear(&mut self) {
        self.held = 0;
    }

    /// Forgets what was logged before a position, which is one between [`Self::start`] and [`Self::end`]; any other
    /// leaves all as it is.
    pub fn forget_before(&mut self, position: u32) {
        self.held = self.held.min(self.produced.wrapping_sub(position));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_bytes_are_kept_and_old_positions_move_up() {
        let mut ring = LogRing::new(1024);
        for i in 0..1500u32 {
            ring.push(&[(i % 251) as u8]);
        }
        assert_eq!((ring.start(), ring.end()), (476, 1500));
        let mut out = [0; 4];
        assert_eq!(ring.read(0, &mut out), (476, 4));
        assert_eq!(out, [225, 226, 227, 228]);
        assert_eq!(ring.read(1498, &mut out), (1498, 2));
        ring.forget_before(476 - 1);
        assert_eq!(ring.start(), 476);
        ring.forget_before(1499);
        assert_eq!((ring.start(), ring.end()), (1499, 1500));
        ring.clear();
        assert_eq!(ring.read(0, &mut out).1, 0);
    }
}
