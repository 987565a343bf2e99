//! Memory for devices, as the crate `virtio-drivers` wants it.
//!
//! Devices are given machine addresses. Memory that is consecutive here need not be so there, and a
//! buffer that a device writes must not be behind a reference, so buffers are copied to and from
//! memory that is made for devices. That memory is kept for the next buffer of its size.
#![allow(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ptr::NonNull;

use hypercall_abi::types::Mfn;
use pv_guest::memory::{DmaMemory, Mapping};
use spin::Mutex;
use virtio_drivers::{BufferDirection, Hal, PAGE_SIZE, PhysAddr};

/// What devices have, and what they had and may get again.
struct Memory {
    /// By machine address.
    used: BTreeMap<PhysAddr, DmaMemory>,
    /// By number of pages.
    spare: BTreeMap<usize, Vec<DmaMemory>>,
    /// Registers, which stay mapped for ever.
    registers: Vec<Mapping>,
}

/// Not used in upcalls, so that it is never found locked.
static MEMORY: Mutex<Memory> = Mutex::new(Memory {
    used: BTreeMap::new(),
    spare: BTreeMap::new(),
    registers: Vec::new(),
});

impl Memory {
    /// Memory of at least so many bytes; its machine address is its name from here on.
    fn take(&mut self, bytes: usize) -> Option<(PhysAddr, &DmaMemory)> {
        let pages = bytes.div_ceil(PAGE_SIZE);
        let spare = self.spare.get_mut(&pages).and_then(Vec::pop);
        let memory = match spare {
            Some(memory) => memory,
            None => DmaMemory::new(pages * PAGE_SIZE, 64).ok()?,
        };
        let address = memory.machine_address();
        Some((address, self.used.entry(address).or_insert(memory)))
    }

    fn give_back(&mut self, address: PhysAddr, bytes: usize) {
        if let Some(memory) = self.used.remove(&address) {
            let pages = bytes.div_ceil(PAGE_SIZE);
            self.spare.entry(pages).or_default().push(memory);
        }
    }
}

/// The control domain, to `virtio-drivers`.
#[derive(Debug)]
pub enum Host {}

// SAFETY: what `dma_alloc` and `mmio_phys_to_virt` return is mapped, page-aligned memory that is
// handed out once and that no reference is made into; see each.
unsafe impl Hal for Host {
    fn dma_alloc(pages: usize, _: BufferDirection) -> (PhysAddr, NonNull<u8>) {
        let mut memory = MEMORY.lock();
        let Some((address, new)) = memory.take(pages * PAGE_SIZE) else {
            // Address 0 stands for failure.
            return (0, NonNull::dangling());
        };
        new.fill(0, new.size(), 0);
        let pointer = core::ptr::with_exposed_provenance_mut(new.address() as usize);
        (
            address,
            NonNull::new(pointer).unwrap_or(NonNull::dangling()),
        )
    }

    unsafe fn dma_dealloc(address: PhysAddr, _: NonNull<u8>, pages: usize) -> i32 {
        MEMORY.lock().give_back(address, pages * PAGE_SIZE);
        0
    }

    unsafe fn mmio_phys_to_virt(address: PhysAddr, size: usize) -> NonNull<u8> {
        let offset = address as usize % PAGE_SIZE;
        let pages = (offset + size).div_ceil(PAGE_SIZE);
        // SAFETY: the driver tells the device no address but those of `dma_alloc` and `share`.
        let registers = unsafe { Mapping::device(Mfn(address / PAGE_SIZE as u64), pages) }
            .expect("the registers of a device can be mapped");
        let base = registers.address() as usize;
        MEMORY.lock().registers.push(registers);
        let pointer = core::ptr::with_exposed_provenance_mut(base + offset);
        NonNull::new(pointer).expect("nothing is mapped at address 0")
    }

    unsafe fn share(buffer: NonNull<[u8]>, direction: BufferDirection) -> PhysAddr {
        let mut memory = MEMORY.lock();
        let (address, copy) = memory
            .take(buffer.len())
            .expect("there is memory for a buffer");
        if direction != BufferDirection::DeviceToDriver {
            // SAFETY: the caller's promise: it is valid, and nobody writes it meanwhile.
            copy.copy_in(0, unsafe { buffer.as_ref() });
        }
        address
    }

    unsafe fn unshare(address: PhysAddr, buffer: NonNull<[u8]>, direction: BufferDirection) {
        let mut memory = MEMORY.lock();
        if direction != BufferDirection::DriverToDevice
            && let Some(copy) = memory.used.get(&address)
        {
            let mut buffer = buffer;
            // SAFETY: the caller's promise: it is valid, and nobody else accesses it meanwhile.
            copy.copy_out(0, unsafe { buffer.as_mut() });
        }
        memory.give_back(address, buffer.len());
    }
}
