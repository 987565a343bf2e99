//! Memory for devices, as the crate `virtio-drivers` wants it.
//!
//! Devices are given machine addresses. Memory that is consecutive here need not be so there, and a
//! buffer that a device writes must not be behind a reference, so buffers are copied to and from
//! memory that is made for devices. That memory is kept for the next buffer of its size. A [`Buffer`] is such
//! memory in the first place, and is not copied.
#![allow(unsafe_code)]

use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ptr::NonNull;

use hypercall_abi::types::Mfn;
use pv_guest::memory::{DmaMemory, Mapping, Window};
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
    /// Buffers, by linear address: their lengths and machine addresses.
    buffers: BTreeMap<usize, (usize, PhysAddr)>,
    /// What buffers had, by number of pages.
    spare_buffers: BTreeMap<usize, Vec<DmaMemory>>,
    /// Bytes of all buffers, spare ones included.
    held: usize,
}

/// Most bytes that buffers may have.
const MOST: usize = 32 << 20;

/// Not used in upcalls, so that it is never found locked.
static MEMORY: Mutex<Memory> = Mutex::new(Memory {
    used: BTreeMap::new(),
    spare: BTreeMap::new(),
    registers: Vec::new(),
    buffers: BTreeMap::new(),
    spare_buffers: BTreeMap::new(),
    held: 0,
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

    /// The machine address of something that is within a buffer.
    fn in_buffer(&self, pointer: NonNull<[u8]>) -> Option<PhysAddr> {
        let at = pointer.as_ptr().expose_provenance();
        let (start, (length, address)) = self.buffers.range(..=at).next_back()?;
        let offset = at - start;
        (pointer.len() <= length.saturating_sub(offset)).then_some(address + offset as PhysAddr)
    }

    /// Memory for a buffer.
    fn take_buffer(&mut self, pages: usize) -> Option<DmaMemory> {
        if let Some(memory) = self.spare_buffers.get_mut(&pages).and_then(Vec::pop) {
            return Some(memory);
        }
        let bytes = pages * PAGE_SIZE;
        if self.held + bytes > MOST {
            let spare = core::mem::take(&mut self.spare_buffers);
            self.held -= spare
                .into_values()
                .flatten()
                .map(|it| it.size())
                .sum::<usize>();
        }
        if self.held + bytes > MOST {
            return None;
        }
        let memory = DmaMemory::new(bytes, 64).ok()?;
        self.held += memory.size();
        Some(memory)
    }

    fn give_back(&mut self, address: PhysAddr, bytes: usize) {
        if let Some(memory) = self.used.remove(&address) {
            let pages = bytes.div_ceil(PAGE_SIZE);
            self.spare.entry(pages).or_default().push(memory);
        }
    }
}

/// Bytes of buffers that nobody has, and that are kept.
pub fn spare_bytes() -> u64 {
    let memory = MEMORY.lock();
    let spare = memory.spare_buffers.values().flatten();
    spare.map(|it| it.size() as u64).sum()
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
        if let Some(address) = memory.in_buffer(buffer) {
            return address;
        }
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
        if memory.in_buffer(buffer).is_some() {
            return;
        }
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

/// Memory that devices transfer to and from without another copy. What was in it before is still there.
#[derive(Debug)]
pub struct Buffer(Option<DmaMemory>);

impl Buffer {
    /// So many bytes; none as long as too much is in use.
    pub fn new(bytes: usize) -> Option<Self> {
        let pages = bytes.div_ceil(PAGE_SIZE).max(1).next_power_of_two();
        let mut memory = MEMORY.lock();
        let new = memory.take_buffer(pages)?;
        let place = (new.size(), new.machine_address());
        memory.buffers.insert(new.address() as usize, place);
        Some(Self(Some(new)))
    }

    /// The memory.
    pub fn window(&self) -> &Window {
        self.0
            .as_ref()
            .expect("it is there until the buffer is dropped")
    }

    /// The machine address of the first byte.
    pub fn machine_address(&self) -> PhysAddr {
        self.0.as_ref().map_or(0, DmaMemory::machine_address)
    }

    /// A part of it, to be named to a device.
    pub fn part(&self, offset: usize, bytes: usize) -> NonNull<[u8]> {
        let window = self.window();
        assert!(offset <= window.size() && bytes <= window.size() - offset);
        let address = window.address() as usize + offset;
        let pointer = NonNull::new(core::ptr::with_exposed_provenance_mut(address));
        NonNull::slice_from_raw_parts(pointer.expect("no buffer is at address 0"), bytes)
    }
}

split_drivers::shared_memory_by!(Buffer, buffer => *buffer.window());

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(old) = self.0.take() {
            let mut memory = MEMORY.lock();
            memory.buffers.remove(&(old.address() as usize));
            let pages = old.size() / PAGE_SIZE;
            memory.spare_buffers.entry(pages).or_default().push(old);
        }
    }
}
