//! A ring of bytes with free-running 32-bit indices, the building block of the console and xenstore
//! pages: the producer owns one index, the consumer the other, and a byte's place is its index
//! modulo the ring's size, a power of two.

use core::fmt;
use core::sync::atomic::{Ordering, fence};

use crate::SharedMemory;

/// The peer's index makes no sense: it claims more bytes than the ring holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingError {
    /// The consumer's index.
    pub cons: u32,
    /// The producer's index.
    pub prod: u32,
    /// Bytes in the ring.
    pub size: u32,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cons, prod, size } = self;
        write!(
            f,
            "indices from {cons:#x} to {prod:#x} do not fit a ring of {size} bytes"
        )
    }
}

impl core::error::Error for RingError {}

/// Where in the shared memory a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Offset of its bytes.
    pub data: usize,
    /// How many there are, a power of two.
    pub size: u32,
    /// Offset of the consumer's index.
    pub cons: usize,
    /// Offset of the producer's index.
    pub prod: usize,
}

impl Layout {
    fn filled(&self, cons: u32, prod: u32) -> Result<u32, RingError> {
        let filled = prod.wrapping_sub(cons);
        if filled > self.size {
            return Err(RingError {
                cons,
                prod,
                size: self.size,
            });
        }
        Ok(filled)
    }

    /// Splits `count` bytes from `index` on into the part before the ring's end (offset and length)
    /// and the length of the part at its beginning.
    fn parts(&self, index: u32, count: usize) -> (usize, usize, usize) {
        let place = (index & (self.size - 1)) as usize;
        let before_end = count.min(self.size as usize - place);
        (self.data + place, before_end, count - before_end)
    }
}

/// The writing end.
#[derive(Clone, Debug)]
pub struct Producer {
    layout: Layout,
    prod: u32,
}

impl Producer {
    /// Takes up writing where the ring's own index says.
    pub fn attach(memory: &impl SharedMemory, layout: Layout) -> Self {
        Self {
            layout,
            prod: memory.load_index(layout.prod),
        }
    }

    /// Bytes that there is room for.
    pub fn space(&self, memory: &impl SharedMemory) -> Result<usize, RingError> {
        let filled = self
            .layout
            .filled(memory.load_index(self.layout.cons), self.prod)?;
        Ok((self.layout.size - filled) as usize)
    }

    /// Writes as many of `bytes` as there is room for; how many. The peer is to be notified unless
    /// it is 0.
    pub fn write(&mut self, memory: &impl SharedMemory, bytes: &[u8]) -> Result<usize, RingError> {
        let count = self.space(memory)?.min(bytes.len());
        let (offset, first, _) = self.layout.parts(self.prod, count);
        memory.write(offset, &bytes[..first]);
        memory.write(self.layout.data, &bytes[first..count]);
        self.prod = self.prod.wrapping_add(count as u32);
        memory.store_index(self.layout.prod, self.prod);
        // A consumer that goes to sleep checks this index last; the notification must not be
        // decided on a consumer's index that is older than the store above.
        fence(Ordering::SeqCst);
        Ok(count)
    }
}

/// The reading end.
#[derive(Clone, Debug)]
pub struct Consumer {
    layout: Layout,
    cons: u32,
}

impl Consumer {
    /// Takes up reading where the ring's own index says.
    pub fn attach(memory: &impl SharedMemory, layout: Layout) -> Self {
        Self {
            layout,
            cons: memory.load_index(layout.cons),
        }
    }

    /// Bytes that can be read.
    pub fn available(&self, memory: &impl SharedMemory) -> Result<usize, RingError> {
        // Between an earlier read and going to sleep, the index must be looked at anew.
        fence(Ordering::SeqCst);
        Ok(self
            .layout
            .filled(self.cons, memory.load_index(self.layout.prod))? as usize)
    }

    /// Reads as many bytes as there are and `bytes` has room for; how many. The peer is to be
    /// notified unless it is 0.
    pub fn read(
        &mut self,
        memory: &impl SharedMemory,
        bytes: &mut [u8],
    ) -> Result<usize, RingError> {
        let count = self.available(memory)?.min(bytes.len());
        let (offset, first, _) = self.layout.parts(self.cons, count);
        memory.read(offset, &mut bytes[..first]);
        memory.read(self.layout.data, &mut bytes[first..count]);
        self.cons = self.cons.wrapping_add(count as u32);
        memory.store_index(self.layout.cons, self.cons);
        fence(Ordering::SeqCst);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_memory::Memory;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const LAYOUT: Layout = Layout {
        data: 16,
        size: 8,
        cons: 0,
        prod: 4,
    };

    fn ring_at(index: u32) -> (Memory, Producer, Consumer) {
        let memory = Memory::new(32);
        memory.store_index(LAYOUT.cons, index);
        memory.store_index(LAYOUT.prod, index);
        let producer = Producer::attach(&memory, LAYOUT);
        let consumer = Consumer::attach(&memory, LAYOUT);
        (memory, producer, consumer)
    }

    #[test]
    fn a_full_ring_takes_nothing_and_an_empty_one_gives_nothing() {
        let (memory, mut producer, mut consumer) = ring_at(0);
        let mut bytes = [0; 16];
        assert_eq!(consumer.read(&memory, &mut bytes), Ok(0));
        assert_eq!(producer.write(&memory, b"0123456789"), Ok(8));
        assert_eq!(producer.write(&memory, b"89"), Ok(0));
        assert_eq!(consumer.read(&memory, &mut bytes), Ok(8));
        assert_eq!(&bytes[..8], b"01234567");
    }

    proptest! {
        #[test]
        fn bytes_arrive_in_order_across_wraps_of_ring_and_index(
            start in prop_oneof![any::<u32>(), (u32::MAX - 40)..=u32::MAX],
            steps in vec((vec(any::<u8>(), 0..12), 0_usize..12), 0..60),
        ) {
            let (memory, mut producer, mut consumer) = ring_at(start);
            let (mut sent, mut received) = (Vec::new(), Vec::new());
            for (bytes, wanted) in steps {
                let count = producer.write(&memory, &bytes).unwrap();
                prop_assert!(count == bytes.len() || producer.space(&memory) == Ok(0));
                sent.extend_from_slice(&bytes[..count]);
                let mut buffer = vec![0; wanted];
                let count = consumer.read(&memory, &mut buffer).unwrap();
                received.extend_from_slice(&buffer[..count]);
                prop_assert_eq!(consumer.available(&memory), Ok(sent.len() - received.len()));
            }
            let mut rest = [0; 8];
            let count = consumer.read(&memory, &mut rest).unwrap();
            received.extend_from_slice(&rest[..count]);
            prop_assert_eq!(sent, received);
        }

        #[test]
        fn an_impossible_index_is_refused_and_nothing_is_touched(
            own in any::<u32>(), excess in 9_u32..,
        ) {
            let (memory, mut producer, mut consumer) = ring_at(own);
            memory.store_index(LAYOUT.prod, own.wrapping_add(excess));
            let before = memory.snapshot();
            let mut bytes = [0xee; 8];
            prop_assert!(consumer.read(&memory, &mut bytes).is_err());
            prop_assert_eq!(bytes, [0xee; 8]);
            prop_assert_eq!(memory.snapshot(), before);

            memory.store_index(LAYOUT.cons, own.wrapping_sub(excess));
            let before = memory.snapshot();
            prop_assert!(producer.write(&memory, b"x").is_err());
            prop_assert_eq!(memory.snapshot(), before);
        }

        #[test]
        fn a_peer_that_scribbles_everywhere_cannot_move_an_end_outside_the_ring(
            steps in vec((any::<u32>(), any::<u32>(), any::<bool>()), 0..100),
        ) {
            let (memory, mut producer, mut consumer) = ring_at(0);
            let guard = memory.guard(24);
            for (cons, prod, write) in steps {
                memory.store_index(LAYOUT.cons, cons);
                memory.store_index(LAYOUT.prod, prod);
                // Both ends hold their own index privately, so only the other's is believed, and
                // only within the ring.
                if write {
                    let own = producer.prod;
                    match producer.write(&memory, &[1; 20]) {
                        Ok(count) => prop_assert!(
                            count as u32 == 8 - own.wrapping_sub(cons)
                                && producer.prod == own.wrapping_add(count as u32)
                        ),
                        Err(_) => prop_assert!(own.wrapping_sub(cons) > 8 && producer.prod == own),
                    }
                } else {
                    let own = consumer.cons;
                    match consumer.read(&memory, &mut [0; 20]) {
                        Ok(count) => prop_assert!(
                            count as u32 == prod.wrapping_sub(own)
                                && consumer.cons == own.wrapping_add(count as u32)
                        ),
                        Err(_) => prop_assert!(prod.wrapping_sub(own) > 8 && consumer.cons == own),
                    }
                }
                prop_assert_eq!(memory.guard(24), guard.clone());
            }
        }
    }

    #[test]
    fn two_threads_hand_over_every_byte() {
        let (memory, mut producer, mut consumer) = ring_at(u32::MAX - 3);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let mut next = 0_u32;
                while next < 50_000 {
                    next += producer.write(&memory, &[next as u8]).unwrap() as u32;
                    std::thread::yield_now();
                }
            });
            let mut expected = 0_u32;
            while expected < 50_000 {
                let mut bytes = [0; 5];
                let count = consumer.read(&memory, &mut bytes).unwrap();
                for byte in &bytes[..count] {
                    assert_eq!(*byte, expected as u8);
                    expected += 1;
                }
                std::thread::yield_now();
            }
        });
    }
}
