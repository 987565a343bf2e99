//! The simulated machine: frames in ordinary memory, a software page walk, scripted guests, and records of
//! what the hypervisor asked of the hardware, for the tests to look at.
//!
//! Frames below 1 MiB and the machine's own tables are private, as on the metal. Every CPU is a slot of
//! state; a host thread is CPU 0 unless it says otherwise with [`Machine::become_cpu`]. No CPU waits for another:
//! what one asks of others is done at once.

mod tlb;
mod walk;

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use hypercall_abi::types::Mfn;

pub use self::tlb::Remembered;
use self::tlb::Tlb;
use crate::flush_clock::FlushClock;
use crate::{
    BootModule, Exit, Fault, FpuState, GUEST_GDT_FRAMES, GeneralProtection, GuestContext,
    HYPERVISOR_SLOTS, IoWidth, Irq, MemoryKind, MemoryRegion, PAGE_SIZE, Platform, Polarity,
    SegmentBase, Segments, SelectorFault, TABLE_ENTRIES, TriggerMode, TscInfo, is_guest_range,
};

/// First frame behind the private ones: 1 MiB for firmware, 16 frames for the machine's tables.
const FIRST_UNTYPED: u64 = 256 + HYPERVISOR_SLOTS as u64 + 1;

/// A TLB flush that the hypervisor asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything, on these CPUs.
    All(u64),
    /// One page of one CPU.
    Page(u32, u64),
}

/// What the simulated CPU holds.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// L4 table; `None` while the machine's own is loaded.
    pub root: Option<Mfn>,
    /// An address around which 2 MiB are left out of that.
    pub hole: Option<u64>,
    /// It is to give that up when a flush is asked of it.
    pub root_left: bool,
    /// Data segments and bases.
    pub segments: Segments,
    /// The guest's part of the GDT.
    pub gdt: Vec<Mfn>,
    /// Size of the LDT window, in entries.
    pub ldt_entries: u32,
    /// Pages of the LDT window.
    pub ldt: [Option<Mfn>; 16],
    /// CR0.TS.
    pub task_switched: bool,
    /// Debug registers.
    pub debug: [u64; 8],
    /// DR6 as the processor left it.
    pub debug_status: u64,
    /// Timer deadline.
    pub deadline: Option<u64>,
    /// Floating-point state, the legacy image.
    pub fpu: Vec<u8>,
    /// XCR0.
    pub extended_control: u64,
    /// CR4 of the guest.
    pub control_bits: u64,
}

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
    record: Mutex<Record>,
}

/// What a guest does until it leaves.
enum Script {
    /// Nothing but leave.
    Leave(Exit, Option<Box<GuestContext>>),
    /// What the program does.
    Program(Box<Program>),
}

/// What a scripted guest executes: the machine's copies from and to guest memory are its accesses.
type Program = dyn FnOnce(&Machine, &mut GuestContext) -> Exit + Send;

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Leave(exit, _) => exit.fmt(f),
            Self::Program(_) => f.write_str("a program"),
        }
    }
}

/// Scripts for the guests and records of what was done to the hardware.
#[derive(Debug, Default)]
struct Record {
    script: VecDeque<Script>,
    entered: Vec<GuestContext>,
    flushes: Vec<Flush>,
    cache_flushes: u32,
    output: Vec<u8>,
    input: VecDeque<u8>,
    ports: BTreeMap<u16, u32>,
    port_writes: Vec<(u16, u32, u32)>,
    msrs: BTreeMap<u32, u64>,
    cpuid: BTreeMap<(u32, u32), [u32; 4]>,
    vectors: Vec<u8>,
    gsis: BTreeMap<u32, Gsi>,
    sleep_ports: [Option<u16>; 2],
}

/// How a global system interrupt is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gsi {
    /// Trigger mode.
    pub trigger: TriggerMode,
    /// Polarity.
    pub polarity: Polarity,
    /// Whether it is held back.
    pub masked: bool,
}

/// What every wait for another CPU does between two looks.
pub fn relax() {
    std::thread::yield_now();
}

thread_local! {
    static CPU: Cell<u32> = const { Cell::new(0) };
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
            record: Mutex::default(),
        }
    }

    /// Sets the hypervisor's command line.
    pub fn set_command_line(&mut self, text: &str) {
        self.command_line = text.into();
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

    /// Makes the calling host thread CPU `cpu` of every simulated machine.
    pub fn become_cpu(cpu: u32) {
        CPU.with(|current| current.set(cpu));
    }

    /// Queues what the next [`Platform::enter_guest`] (or [`Platform::idle`], for interrupts) returns;
    /// `context` replaces the guest's registers first.
    pub fn script(&self, exit: Exit, context: Option<GuestContext>) {
        let script = Script::Leave(exit, context.map(Box::new));
        self.record().script.push_back(script);
    }

    /// Queues what the guest executes in the next [`Platform::enter_guest`].
    pub fn script_program(
        &self,
        program: impl FnOnce(&Self, &mut GuestContext) -> Exit + Send + 'static,
    ) {
        let script = Script::Program(Box::new(program));
        self.record().script.push_back(script);
    }

    /// The contexts that guests were entered with, and forgets them.
    pub fn take_entered(&self) -> Vec<GuestContext> {
        std::mem::take(&mut self.record().entered)
    }

    /// The TLB flushes asked for, and forgets them.
    pub fn take_flushes(&self) -> Vec<Flush> {
        std::mem::take(&mut self.record().flushes)
    }

    /// How often caches were flushed, and forgets it.
    pub fn take_cache_flushes(&self) -> u32 {
        std::mem::take(&mut self.record().cache_flushes)
    }

    /// What was printed on the console, and forgets it.
    pub fn take_output(&self) -> String {
        let bytes = std::mem::take(&mut self.record().output);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Types at the console.
    pub fn type_input(&self, text: &[u8]) {
        self.record().input.extend(text);
    }

    /// Sets what reading a port gives.
    pub fn set_port(&self, port: u16, value: u32) {
        self.record().ports.insert(port, value);
    }

    /// Port writes so far as (port, bytes, value), and forgets them.
    pub fn take_port_writes(&self) -> Vec<(u16, u32, u32)> {
        std::mem::take(&mut self.record().port_writes)
    }

    /// Sets a model-specific register; registers never set raise #GP.
    pub fn set_msr(&self, msr: u32, value: u64) {
        self.record().msrs.insert(msr, value);
    }

    /// Sets a CPUID leaf; leaves never set are zero.
    pub fn set_cpuid(&self, leaf: u32, subleaf: u32, value: [u32; 4]) {
        self.record().cpuid.insert((leaf, subleaf), value);
    }

    /// Sets the ports of the power-management control registers.
    pub fn set_sleep_ports(&self, ports: [Option<u16>; 2]) {
        self.record().sleep_ports = ports;
    }

    /// How a global system interrupt is set up; `None` if it never was.
    pub fn gsi(&self, gsi: u32) -> Option<Gsi> {
        self.record().gsis.get(&gsi).copied()
    }

    /// Lets `ticks` of the time-stamp counter pass.
    pub fn pass_time(&self, ticks: u64) {
        self.tsc.fetch_add(ticks, SeqCst);
    }

    /// Lets `ticks` pass with every look at the time-stamp counter from here on.
    pub fn set_tsc_step(&self, ticks: u64) {
        self.tsc_step.store(ticks, SeqCst);
    }

    /// The most [`Platform::read_frame`] between two looks at the time-stamp counter, and forgets it.
    pub fn take_most_reads(&self) -> u64 {
        self.reads.store(0, SeqCst);
        self.most_reads.swap(0, SeqCst)
    }

    /// From now on CPUs walk ahead whenever that could do harm: behind every flush, and when the time of one is asked.
    pub fn set_eager(&self) {
        self.eager.store(true, SeqCst);
    }

    /// Every CPU walks ahead: it remembers all that its root reaches, and all that it has passed reaches.
    pub fn remember_all(&self) {
        for cpu in 0..self.cpu_count() {
            let (root, hole) = {
                let slot = self.cpu_slot(cpu);
                (slot.root, slot.hole)
            };
            if let Some(root) = root {
                let left_out = hole.and_then(|va| walk::l1_table(self, root, va));
                self.tlb(cpu).walk_ahead(self, root, left_out);
            }
        }
    }

    /// What CPU `cpu` remembers of walks since its last flush, by frame.
    pub fn remembered(&self, cpu: u32) -> Vec<(Mfn, Remembered)> {
        self.tlb(cpu).uses().collect()
    }

    /// How often a frame was written to.
    pub fn writes(&self, mfn: Mfn) -> u32 {
        let writes = self.writes.get(mfn.0 as usize);
        writes.map_or(0, |writes| writes.load(SeqCst))
    }

    /// What CPU `cpu` holds.
    pub fn cpu(&self, cpu: u32) -> Cpu {
        self.cpu_slot(cpu).clone()
    }

    /// Sets the DR6 that the hypervisor will find on this CPU.
    pub fn set_debug_status(&self, dr6: u64) {
        self.this_cpu().debug_status = dr6;
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cpu_slot(&self, cpu: u32) -> MutexGuard<'_, Cpu> {
        self.cpus[cpu as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn this_cpu(&self) -> MutexGuard<'_, Cpu> {
        self.cpu_slot(self.cpu_id())
    }

    fn scans(&self) -> MutexGuard<'_, walk::Scans> {
        self.scans.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tlb(&self, cpu: u32) -> MutexGuard<'_, Tlb> {
        self.tlbs[cpu as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Flushes a CPU's TLB, on which it may walk at once.
    fn flush(&self, cpu: u32) {
        self.flush_clock.flush(cpu, || self.tlb(cpu).clear());
        self.walk_eagerly();
    }

    fn walk_eagerly(&self) {
        if self.eager.load(SeqCst) {
            self.remember_all();
        }
    }

    fn set_root(&self, cpu: u32, root: Option<Mfn>, hole: Option<u64>) {
        {
            let mut slot = self.cpu_slot(cpu);
            (slot.root, slot.hole) = (root, hole);
            slot.root_left = false;
        }
        self.flush(cpu);
    }

    fn translate(&self, va: u64, write: bool) -> Result<(Mfn, usize), Fault> {
        let (root, hole) = {
            let cpu = self.this_cpu();
            (cpu.root.ok_or(Fault)?, cpu.hole)
        };
        if hole.is_some_and(|hole| hole >> 21 == va >> 21) {
            return Err(Fault);
        }
        let mut tlb = self.tlb(self.cpu_id());
        let mfn = tlb.translate(self, root, va, write).ok_or(Fault)?;
        Ok((mfn, va as usize % PAGE_SIZE))
    }

    /// A word of a frame, as the processor's walk reads it; `None` where no frame of RAM is.
    fn peek(&self, mfn: Mfn, index: usize) -> Option<u64> {
        (!self.is_private(mfn)).then(|| self.word(mfn, index).load(SeqCst))
    }

    fn word(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        assert!(
            !self.is_private(mfn),
            "access to private or absent frame {mfn:?}"
        );
        assert!(index < TABLE_ENTRIES, "entry {index} of a frame");
        &self.words[mfn.0 as usize * TABLE_ENTRIES + index]
    }

    /// As [`Self::word`], of a frame that is written to.
    fn word_to_write(&self, mfn: Mfn, index: usize) -> &AtomicU64 {
        let word = self.word(mfn, index);
        self.writes[mfn.0 as usize].fetch_add(1, SeqCst);
        word
    }
}

impl Platform for Machine {
    fn memory_map(&self) -> &[MemoryRegion] {
        &self.regions
    }

    fn frame_limit(&self) -> u64 {
        self.m2p.len() as u64
    }

    fn is_private(&self, mfn: Mfn) -> bool {
        let private = self.private.get(mfn.0 as usize);
        private.is_none_or(|private| private.load(SeqCst))
    }

    fn command_line(&self) -> &str {
        &self.command_line
    }

    fn boot_modules(&self) -> &[BootModule] {
        &self.modules
    }

    fn donate_to_heap(&self, first: Mfn, order: u32) {
        for private in self.private.iter().skip(first.0 as usize).take(1 << order) {
            private.store(true, SeqCst);
        }
    }

    fn heap_free(&self) -> usize {
        usize::MAX
    }

    fn load_u64(&self, mfn: Mfn, index: usize) -> u64 {
        self.word(mfn, index).load(SeqCst)
    }

    fn store_u64(&self, mfn: Mfn, index: usize, value: u64) {
        self.word_to_write(mfn, index).store(value, SeqCst);
    }

    fn compare_exchange_u64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64> {
        self.word_to_write(mfn, index)
            .compare_exchange(old, new, SeqCst, SeqCst)
    }

    fn fetch_or_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word_to_write(mfn, index).fetch_or(bits, SeqCst)
    }

    fn fetch_and_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64 {
        self.word_to_write(mfn, index).fetch_and(bits, SeqCst)
    }

    fn read_frame(&self, mfn: Mfn, offset: usize, out: &mut [u8]) {
        self.reads.fetch_add(1, SeqCst);
        assert!(
            offset <= PAGE_SIZE && out.len() <= PAGE_SIZE - offset,
            "read across the end of a frame"
        );
        let mut at = offset;
        let mut rest = out;
        while !rest.is_empty() {
            let word = self.word(mfn, at / 8).load(SeqCst).to_le_bytes();
            let part = &word[at % 8..];
            let (now, later) = rest.split_at_mut(part.len().min(rest.len()));
            now.copy_from_slice(&part[..now.len()]);
            at += now.len();
            rest = later;
        }
    }

    fn write_frame(&self, mfn: Mfn, offset: usize, data: &[u8]) {
        assert!(
            offset <= PAGE_SIZE && data.len() <= PAGE_SIZE - offset,
            "write across the end of a frame"
        );
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (now, later) = rest.split_at((8 - at % 8).min(rest.len()));
            let set = |old: u64| {
                let mut word = old.to_le_bytes();
                word[at % 8..at % 8 + now.len()].copy_from_slice(now);
                Some(u64::from_le_bytes(word))
            };
            let word = self.word_to_write(mfn, at / 8);
            word.fetch_update(SeqCst, SeqCst, set).ok();
            at += now.len();
            rest = later;
        }
    }

    fn zero_frame(&self, mfn: Mfn) {
        for index in 0..TABLE_ENTRIES {
            self.store_u64(mfn, index, 0);
        }
    }

    fn copy_frame(&self, to: Mfn, from: Mfn) {
        for index in 0..TABLE_ENTRIES {
            self.store_u64(to, index, self.load_u64(from, index));
        }
    }

    fn set_m2p(&self, mfn: Mfn, pfn: u64) {
        if let Some(entry) = self.m2p.get(mfn.0 as usize) {
            entry.store(pfn, SeqCst);
        }
    }

    fn m2p(&self, mfn: Mfn) -> u64 {
        self.m2p
            .get(mfn.0 as usize)
            .map_or(u64::MAX, |entry| entry.load(SeqCst))
    }

    fn m2p_extents(&self) -> Vec<Mfn> {
        vec![Mfn(FIRST_UNTYPED - 1)]
    }

    fn hypervisor_slots(&self) -> [u64; HYPERVISOR_SLOTS] {
        // Present, supervisor: tables in private frames, one a slot.
        std::array::from_fn(|slot| (256 + slot as u64) << 12 | 0x63)
    }

    fn load_root(&self, root: Mfn) {
        assert!(!self.is_private(root), "a root in a private frame");
        for (slot, &entry) in self.hypervisor_slots().iter().enumerate() {
            let found = self.load_u64(root, 256 + slot);
            let hidden = slot == 0 && found == 0;
            assert!(found == entry || hidden, "slot {slot} of root {root:?}");
        }
        self.set_root(self.cpu_id(), Some(root), None);
    }

    fn load_root_without(&self, root: Mfn, va: u64) {
        self.set_root(self.cpu_id(), Some(root), Some(va));
    }

    fn current_root(&self) -> Mfn {
        self.this_cpu().root.unwrap_or(Mfn(FIRST_UNTYPED - 1))
    }

    fn load_idle_root(&self) {
        self.set_root(self.cpu_id(), None, None);
    }

    fn flush_tlb(&self) {
        let cpu = self.cpu_id();
        self.record().flushes.push(Flush::All(1 << cpu));
        self.flush(cpu);
    }

    fn flush_tlb_page(&self, va: u64) {
        let cpu = self.cpu_id();
        self.record().flushes.push(Flush::Page(cpu, va & !0xfff));
        self.tlb(cpu).forget_page(va);
    }

    fn flush_tlb_on(&self, cpus: u64) {
        self.record().flushes.push(Flush::All(cpus));
        for cpu in (0..self.cpu_count()).filter(|cpu| cpus >> cpu & 1 != 0) {
            if self.cpu_slot(cpu).root_left {
                self.set_root(cpu, None, None);
            } else {
                self.flush(cpu);
            }
        }
    }

    fn leave_root(&self) {
        self.this_cpu().root_left = true;
    }

    fn flush_time(&self) -> u64 {
        self.walk_eagerly();
        self.flush_clock.now()
    }

    fn unflushed_since(&self, time: u64) -> u64 {
        self.flush_clock.unflushed_since(time, self.cpu_count())
    }

    fn copy_from_guest(&self, va: u64, out: &mut [u8]) -> Result<(), Fault> {
        if !is_guest_range(va, out.len() as u64) {
            return Err(Fault);
        }
        let mut done = 0;
        while done < out.len() {
            let (mfn, offset) = self.translate(va.wrapping_add(done as u64), false)?;
            let count = (PAGE_SIZE - offset).min(out.len() - done);
            self.read_frame(mfn, offset, &mut out[done..done + count]);
            done += count;
        }
        Ok(())
    }

    fn copy_to_guest(&self, va: u64, data: &[u8]) -> Result<(), Fault> {
        if !is_guest_range(va, data.len() as u64) {
            return Err(Fault);
        }
        let mut done = 0;
        while done < data.len() {
            let (mfn, offset) = self.translate(va.wrapping_add(done as u64), true)?;
            let count = (PAGE_SIZE - offset).min(data.len() - done);
            self.write_frame(mfn, offset, &data[done..done + count]);
            done += count;
        }
        Ok(())
    }

    fn enter_guest(&self, context: &mut GuestContext) -> Exit {
        let script = {
            let mut record = self.record();
            record.entered.push(*context);
            record.script.pop_front()
        };
        match script.expect("the script says what the guest does") {
            Script::Leave(exit, replace) => {
                if let Some(replace) = replace {
                    *context = *replace;
                }
                exit
            }
            Script::Program(program) => program(self, context),
        }
    }

    fn idle(&self) -> Irq {
        match self.record().script.pop_front() {
            Some(Script::Leave(Exit::Interrupt(irq), _)) => irq,
            other => panic!("the script has {other:?} where all vCPUs wait"),
        }
    }

    fn poll(&self) -> Option<Irq> {
        let mut record = self.record();
        match record.script.front() {
            Some(&Script::Leave(Exit::Interrupt(irq), _)) => {
                record.script.pop_front();
                Some(irq)
            }
            _ => None,
        }
    }

    fn load_segments(&self, segments: &Segments) -> Result<(), SelectorFault> {
        self.this_cpu().segments = *segments;
        Ok(())
    }

    fn store_segments(&self) -> Segments {
        self.this_cpu().segments
    }

    fn set_segment_base(&self, which: SegmentBase, base: u64) {
        let mut cpu = self.this_cpu();
        match which {
            SegmentBase::Fs => cpu.segments.fs_base = base,
            SegmentBase::Gs => cpu.segments.gs_base = base,
            SegmentBase::GsShadow => cpu.segments.gs_base_shadow = base,
        }
    }

    fn load_user_gs(&self, _selector: u16) -> Result<(), SelectorFault> {
        Ok(())
    }

    fn swap_gs(&self) {
        let mut cpu = self.this_cpu();
        let segments = &mut cpu.segments;
        std::mem::swap(&mut segments.gs_base, &mut segments.gs_base_shadow);
    }

    fn load_gdt(&self, frames: &[Mfn]) {
        assert!(frames.len() <= GUEST_GDT_FRAMES);
        self.this_cpu().gdt = frames.to_vec();
    }

    fn load_ldt(&self, entries: u32) {
        let mut cpu = self.this_cpu();
        cpu.ldt_entries = entries;
        cpu.ldt = [None; 16];
    }

    fn map_ldt_page(&self, index: usize, mfn: Mfn) {
        self.this_cpu().ldt[index] = Some(mfn);
    }

    fn save_fpu(&self, state: &mut FpuState) {
        let cpu = self.this_cpu();
        state.area.bytes[..cpu.fpu.len()].copy_from_slice(&cpu.fpu);
    }

    fn load_fpu(&self, state: &FpuState) {
        let mut cpu = self.this_cpu();
        cpu.fpu = state.area.bytes.to_vec();
        cpu.extended_control = state.enabled();
    }

    fn set_extended_control(&self, xcr0: u64) {
        self.this_cpu().extended_control = xcr0;
    }

    fn set_control_bits(&self, cr4: u64) {
        self.this_cpu().control_bits = cr4;
    }

    fn set_task_switched(&self, on: bool) {
        self.this_cpu().task_switched = on;
    }

    fn load_debug_registers(&self, dr: &[u64; 8]) {
        self.this_cpu().debug = *dr;
    }

    fn take_debug_status(&self) -> u64 {
        std::mem::replace(&mut self.this_cpu().debug_status, 0xffff_0ff0)
    }

    fn cpu_count(&self) -> u32 {
        self.cpus.len() as u32
    }

    fn cpu_id(&self) -> u32 {
        CPU.with(Cell::get)
    }

    fn release_cpus(&self) {}

    fn send_ipi(&self, _cpu: u32) {}

    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4] {
        self.record()
            .cpuid
            .get(&(leaf, subleaf))
            .copied()
            .unwrap_or_default()
    }

    fn rdmsr(&self, msr: u32) -> Result<u64, GeneralProtection> {
        self.record()
            .msrs
            .get(&msr)
            .copied()
            .ok_or(GeneralProtection)
    }

    fn wrmsr(&self, msr: u32, value: u64) -> Result<(), GeneralProtection> {
        let mut record = self.record();
        let slot = record.msrs.get_mut(&msr).ok_or(GeneralProtection)?;
        *slot = value;
        Ok(())
    }

    fn control_registers(&self) -> (u64, u64) {
        (0x8005_0033, 0x3406b0)
    }

    fn flush_caches(&self) {
        self.record().cache_flushes += 1;
    }

    fn port_in(&self, port: u16, width: IoWidth) -> u32 {
        let all = self.record().ports.get(&port).copied().unwrap_or(u32::MAX);
        match width {
            IoWidth::Byte => all & 0xff,
            IoWidth::Word => all & 0xffff,
            IoWidth::Long => all,
        }
    }

    fn port_out(&self, port: u16, width: IoWidth, value: u32) {
        self.record().port_writes.push((port, width.bytes(), value));
    }

    fn tsc(&self) -> u64 {
        let reads = self.reads.swap(0, SeqCst);
        self.most_reads.fetch_max(reads, SeqCst);
        self.tsc.fetch_add(self.tsc_step.load(SeqCst), SeqCst)
    }

    fn tsc_info(&self) -> TscInfo {
        TscInfo {
            khz: TSC_KHZ,
            at_boot: 0,
        }
    }

    fn boot_wall_clock(&self) -> u64 {
        1_700_000_000
    }

    fn set_timer(&self, deadline: Option<u64>) {
        self.this_cpu().deadline = deadline;
    }

    fn gsi_count(&self) -> u32 {
        24
    }

    fn isa_gsi(&self, isa: u8) -> (u32, TriggerMode, Polarity) {
        let gsi = if isa == 0 { 2 } else { u32::from(isa) };
        (gsi, TriggerMode::Edge, Polarity::High)
    }

    fn route_gsi(&self, gsi: u32, trigger: TriggerMode, polarity: Polarity) {
        self.record().gsis.insert(
            gsi,
            Gsi {
                trigger,
                polarity,
                masked: true,
            },
        );
    }

    fn unmask_gsi(&self, gsi: u32) {
        if let Some(gsi) = self.record().gsis.get_mut(&gsi) {
            gsi.masked = false;
        }
    }

    fn mask_gsi(&self, gsi: u32) {
        if let Some(gsi) = self.record().gsis.get_mut(&gsi) {
            gsi.masked = true;
        }
    }

    fn allocate_vector(&self) -> Option<u8> {
        let mut record = self.record();
        let vector = (0x40..0xe0).find(|vector| !record.vectors.contains(vector))?;
        record.vectors.push(vector);
        Some(vector)
    }

    fn release_vector(&self, vector: u8) {
        self.record().vectors.retain(|&taken| taken != vector);
    }

    fn interrupt_message(&self, vector: u8) -> (u64, u32) {
        (0xfee0_0000, u32::from(vector))
    }

    fn sleep_ports(&self) -> [Option<u16>; 2] {
        self.record().sleep_ports
    }

    fn acpi_rsdp(&self) -> Option<u64> {
        None
    }

    fn boot_log(&self) -> String {
        String::new()
    }

    fn console_write(&self, text: &[u8]) {
        self.record().output.extend_from_slice(text);
    }

    fn console_read(&self) -> Option<u8> {
        self.record().input.pop_front()
    }

    fn reboot(&self) -> ! {
        panic!("the simulated machine restarts");
    }

    fn halt(&self) -> ! {
        panic!("the simulated machine halts");
    }
}
