//! The machine-to-phys table: for each machine frame, the frame number that its owner knows it by. Guests read it;
//! the hypervisor writes it through the direct map.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering};

use hypercall_abi::types::Mfn;

use super::frames::direct;
use super::memory::FreeMemory;
use crate::{MemoryKind, MemoryRegion, PAGE_SHIFT};

/// Bytes of a chunk: one large page.
const CHUNK: u64 = 2 << 20;
/// Frames that a chunk has entries for.
const CHUNK_FRAMES: u64 = CHUNK / 8;

/// The table's chunks. Those for 1 GiB of machine addresses without RAM are missing.
#[derive(Debug)]
pub struct MachineToPhys {
    chunks: Vec<Option<u64>>,
}

impl MachineToPhys {
    /// Takes memory for all frames below `limit`, and fills it with `u64::MAX`. Needs the boot tables' direct map.
    pub fn new(map: &[MemoryRegion], limit: u64, free: &mut FreeMemory) -> Self {
        let mut chunks = Vec::new();
        for i in 0..limit.div_ceil(CHUNK_FRAMES) {
            let start = (i * CHUNK_FRAMES) << PAGE_SHIFT;
            let end = ((i + 1) * CHUNK_FRAMES) << PAGE_SHIFT;
            let has_ram = map
                .iter()
                .any(|r| r.kind == MemoryKind::Ram && r.base < end && r.base + r.size > start);
            chunks.push(has_ram.then(|| {
                let chunk = free.take(CHUNK, CHUNK, 1 << 32);
                let chunk = chunk.expect("no memory for the machine-to-phys table");
                // SAFETY: the frames were free, and the boot tables' direct map reaches them.
                unsafe { core::ptr::write_bytes(direct(chunk), 0xff, CHUNK as usize) };
                chunk
            }));
        }
        Self { chunks }
    }

    /// Machine addresses of the chunks, in order.
    pub fn chunks(&self) -> &[Option<u64>] {
        &self.chunks
    }

    /// First frames of the chunks, in order; for a missing one the last one before it.
    pub fn extents(&self) -> Vec<Mfn> {
        let mut last = Mfn(0);
        let mut extents = Vec::new();
        for chunk in &self.chunks {
            if let Some(chunk) = chunk {
                last = Mfn(chunk >> PAGE_SHIFT);
            }
            extents.push(last);
        }
        extents
    }

    /// The entry of a frame.
    #[inline]
    pub fn entry(&self, mfn: Mfn) -> Option<&AtomicU64> {
        let chunk = (*self.chunks.get((mfn.0 / CHUNK_FRAMES) as usize)?)?;
        let entry = direct(chunk).cast::<u64>();
        // SAFETY: the index is inside the chunk, which is this table's for ever and which guests only read.
        Some(unsafe { AtomicU64::from_ptr(entry.add((mfn.0 % CHUNK_FRAMES) as usize)) })
    }

    /// Reads a frame's entry; `u64::MAX` where there is none.
    #[inline]
    pub fn get(&self, mfn: Mfn) -> u64 {
        self.entry(mfn)
            .map_or(u64::MAX, |entry| entry.load(Ordering::Relaxed))
    }

    /// Writes a frame's entry, if there is one.
    #[inline]
    pub fn set(&self, mfn: Mfn, pfn: u64) {
        if let Some(entry) = self.entry(mfn) {
            entry.store(pfn, Ordering::Relaxed);
        }
    }
}
