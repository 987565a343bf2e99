//! Shared memory for tests: ordinary memory that several threads may use.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::SharedMemory;

/// Zeroed words.
#[derive(Debug)]
pub struct Memory(Vec<AtomicU32>);

impl Memory {
    pub fn new(bytes: usize) -> Self {
        Self((0..bytes / 4).map(|_| AtomicU32::new(0)).collect())
    }

    pub fn snapshot(&self) -> Vec<u32> {
        self.0.iter().map(|word| word.load(Relaxed)).collect()
    }

    /// What is from `offset` on, which a ring that ends there must not touch.
    pub fn guard(&self, offset: usize) -> Vec<u32> {
        self.snapshot().split_off(offset / 4)
    }
}

impl SharedMemory for Memory {
    fn size(&self) -> usize {
        self.0.len() * 4
    }

    fn load_index(&self, offset: usize) -> u32 {
        assert_eq!(offset % 4, 0);
        self.0[offset / 4].load(Acquire)
    }

    fn store_index(&self, offset: usize, value: u32) {
        assert_eq!(offset % 4, 0);
        self.0[offset / 4].store(value, Release);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        for (place, byte) in (offset..).zip(bytes) {
            *byte = self.0[place / 4].load(Relaxed).to_le_bytes()[place % 4];
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (place, byte) in (offset..).zip(bytes) {
            let shift = place % 4 * 8;
            self.0[place / 4]
                .try_update(Relaxed, Relaxed, |word| {
                    Some(word & !(0xff << shift) | u32::from(*byte) << shift)
                })
                .unwrap();
        }
    }
}

/// Some of a memory's bytes; an access beyond them is the end of the test.
#[derive(Debug)]
pub struct Part<'a> {
    memory: &'a Memory,
    start: usize,
    size: usize,
}

impl<'a> Part<'a> {
    pub fn new(memory: &'a Memory, start: usize, size: usize) -> Self {
        Self {
            memory,
            start,
            size,
        }
    }

    fn at(&self, offset: usize, length: usize) -> usize {
        assert!(offset + length <= self.size, "access beyond the end");
        self.start + offset
    }
}

impl SharedMemory for Part<'_> {
    fn size(&self) -> usize {
        self.size
    }

    fn load_index(&self, offset: usize) -> u32 {
        self.memory.load_index(self.at(offset, 4))
    }

    fn store_index(&self, offset: usize, value: u32) {
        self.memory.store_index(self.at(offset, 4), value);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.memory.read(self.at(offset, bytes.len()), bytes);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.memory.write(self.at(offset, bytes.len()), bytes);
    }
}
