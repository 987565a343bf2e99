//! The simulated machine: frames in ordinary memory, a software page walk, scripted guests, and records of
//! what the hypervisor asked of the hardware, for the tests to look at.
//!
//! Frames below 1 MiB and the machine's own tables are private, as on the metal. Every CPU is a slot of
//! state; a host thread is CPU 0 unless it says otherwise with [`Machine::become_cpu`]. No CPU waits for another:
//! what one asks of others is done at once.

mod cpu;
mod heap;
mod platform;
mod ram;
mod record;
mod script;
mod tlb;
mod wait;
mod walk;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hypercall_abi::types::Mfn;

pub use self::cpu::{Cpu, held_locks, set_held_locks};
pub use self::heap::{Heap, with_largest_block};
use self::record::Record;
pub use self::record::{Flush, Gsi};
pub use self::tlb::Remembered;
use self::tlb::Tlb;
pub use self::wait::{on_next_wait, relax};
use crate::flush_clock::FlushClock;
use crate::{
    BootModule, HYPERVISOR_SLOTS, MemoryKind, MemoryRegion, PAGE_SIZE, Platform, TABLE_ENTRIES,
};

/// First frame behind the private ones: 1 MiB for firmware, 16 frames for the machine's tables.
const FIRST_UNTYPED: u64 = 256 + HYPERVISOR_SLOTS as u64 + 1;

/// The simulated machine.
#[derive(Debug)]
pub struct Machine {
    words: Vec<AtomicU64>,
    /// How often each frame was written to.
    writes: Vec<AtomicU32>,
    private: Vec<AtomicBool>,
    m2p: Vec<AtomicU64>,
    regions: Vec<MemoryRegion>,
    modules: Vec<BootModule>,
    command_line: String,
    cpus: Vec<Mutex<Cpu>>,
    tlbs: Vec<Mutex<Tlb>>,
    scans: Mutex<walk::Scans>,
    flush_clock: FlushClock,
    /// CPUs walk ahead whenever that could do harm.
    eager: AtomicBool,
    tsc: AtomicU64,
    /// Ticks that pass with every look at the time-stamp counter.
    tsc_step: AtomicU64,
    /// Reads of frames since the last look, and the most between two.
    reads: AtomicU64,
    most_reads: AtomicU64,
    heap_free: AtomicUsize,
    record: Mutex<Record>,
}

/// Rate of the simulated time-stamp counter: 1 GHz, so that a tick is a nanosecond.
pub const TSC_KHZ: u64 = 1_000_000;

impl Machine {
    /// A machine of `frames` frames of RAM and one CPU.
    pub fn new(frames: u64) -> Self {
        Self::with_cpus(frames, 1)
    }

    /// A machine of `frames` frames of RAM (at least 512) and `cpus` CPUs.
    pub fn with_cpus(frames: u64, cpus: u32) -> Self {
        let frames = frames.max(512);
        let words = (0..frames as usize * TABLE_ENTRIES)
            .map(|_| AtomicU64::new(0))
            .collect();
        let m2p = (0..frames).map(|_| AtomicU64::new(u64::MAX)).collect();
        let region = MemoryRegion {
            base: 0,
            size: frames * PAGE_SIZE as u64,
            kind: MemoryKind::Ram,
        };
        Self {
            words,
            writes: (0..frames).map(|_| AtomicU32::new(0)).collect(),
            private: (0..frames)
                .map(|number| AtomicBool::new(number < FIRST_UNTYPED))
                .collect(),
            m2p,
            regions: vec![region],
            modules: Vec::new(),
            command_line: String::new(),
            cpus: (0..cpus.max(1))
                .map(|_| Mutex::new(Cpu::default()))
                .collect(),
            tlbs: (0..cpus.max(1)).map(|_| Mutex::default()).collect(),
            scans: Mutex::default(),
            flush_clock: FlushClock::new(),
            eager: AtomicBool::new(false),
            tsc: AtomicU64::new(1_000_000),
            tsc_step: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            most_reads: AtomicU64::new(0),
            heap_free: AtomicUsize::new(1 << 30),
            record: Mutex::default(),
        }
    }

    /// Sets the hypervisor's command line.
    pub fn set_command_line(&mut self, text: &str) {
        self.command_line = text.into();
    }

    /// Has the last `frames` frames be no RAM that anybody may use, of which the memory map says so.
    pub fn reserve_last(&mut self, frames: u64) {
        let size = frames * PAGE_SIZE as u64;
        if let Some(last) = self.regions.last_mut() {
            last.size -= size;
            let base = last.base + last.size;
            self.regions.push(MemoryRegion {
                base,
                size,
                kind: MemoryKind::Reserved,
            });
        }
    }

    /// Adds a boot module, placed at the end of RAM or below the previous one.
    pub fn add_module(&mut self, image: &[u8], command_line: &str) {
        let frames = image.len().div_ceil(PAGE_SIZE) as u64;
        let end = self
            .modules
            .last()
            .map_or(self.frame_limit(), |last| last.first.0);
        let first = end
            .checked_sub(frames)
            .filter(|&first| first > FIRST_UNTYPED)
            .expect("the module fits in RAM");
        for (i, chunk) in image.chunks(PAGE_SIZE).enumerate() {
            self.write_frame(Mfn(first + i as u64), 0, chunk);
        }
        self.modules.push(BootModule {
            first: Mfn(first),
            len: image.len() as u64,
            command_line: command_line.into(),
        });
    }

    /// Lets `ticks` of the time-stamp counter pass.
    pub fn pass_time(&self, ticks: u64) {
        self.tsc.fetch_add(ticks, SeqCst);
    }

    /// Has the time-stamp counter of a CPU behind the first one's by `ticks`.
    pub fn set_tsc_lag(&self, cpu: u32, ticks: u64) {
        self.cpu_slot(cpu).tsc_lag = ticks;
    }

    /// Lets `ticks` pass with every look at the time-stamp counter from here on.
    pub fn set_tsc_step(&self, ticks: u64) {
        self.tsc_step.store(ticks, SeqCst);
    }

    /// Says how much of the hypervisor's own heap is free, until it is given more.
    pub fn set_heap_free(&self, bytes: usize) {
        self.heap_free.store(bytes, SeqCst);
    }

    /// The most [`Platform::read_frame`] between two looks at the time-stamp counter, and forgets it.
    pub fn take_most_reads(&self) -> u64 {
        self.reads.store(0, SeqCst);
        self.most_reads.swap(0, SeqCst)
    }

    fn scans(&self) -> MutexGuard<'_, walk::Scans> {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
