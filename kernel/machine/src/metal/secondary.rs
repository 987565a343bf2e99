//! The CPUs but the first: waking them one by one, and holding them until the core wants them.

use alloc::vec::Vec;
use core::arch::global_asm;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, Ordering};

use super::apic::Apic;
use super::frames::{direct, raw_copy};
use super::lock::relax;
use super::processor::{self, Features};
use super::tsc::Rates;
use super::tsc_sync::Comparison;
use super::{Machine, cpu, gdt, idt, log};
use crate::{MemoryKind, MemoryRegion, PAGE_SIZE};

global_asm!(include_str!("secondary.s"), options(att_syntax));

/// Most CPUs that run: as many as a mask of CPUs has bits.
pub const MAX_CPUS: usize = 64;

/// Machine address that a woken CPU starts at: a page of low memory, of which nobody else makes use.
const TRAMPOLINE: u64 = 0x8000;

/// What the firmware's manuals give a CPU after each message.
const INIT_DELAY_US: u64 = 10_000;
const STARTUP_DELAY_US: u64 = 200;
/// How long a CPU may take to come, also where other machines share the processor.
const COMING_US: u64 = 2_000_000;

const EFER_LME: u32 = 1 << 8;
const EFER_NXE: u32 = 1 << 11;

/// What the trampoline reads.
#[repr(C)]
struct Parameters {
    root: u64,
    stack: u64,
    entry: u64,
    boot_root: u32,
    efer: u32,
}

/// What a CPU that comes needs, valid while it is awaited.
struct Arrival {
    features: *const Features,
    apic: *const Apic,
    tsc: Comparison,
}

static ARRIVAL: AtomicPtr<Arrival> = AtomicPtr::new(core::ptr::null_mut());
/// CPUs that are there, the first among them.
static PRESENT: AtomicU32 = AtomicU32::new(1);
static RELEASED: AtomicBool = AtomicBool::new(false);
/// The other CPUs are to stop.
static STOPPING: AtomicBool = AtomicBool::new(false);
static MACHINE: AtomicPtr<Machine> = AtomicPtr::new(core::ptr::null_mut());

/// Where the tables are that a CPU starts with.
pub struct Roots {
    /// The boot tables, below 4 GiB.
    pub boot: u64,
    /// The hypervisor's.
    pub hypervisor: u64,
}

/// What was woken.
pub struct Present {
    /// The APIC numbers of all CPUs that run, this one's first.
    pub apic_ids: Vec<u32>,
    /// Whether their time-stamp counters agree.
    pub tsc_synchronised: bool,
}

/// Wakes the CPUs with these APIC numbers. The windows of that many CPUs are mapped.
pub fn wake(
    apic: &Apic,
    features: &Features,
    rates: &Rates,
    roots: &Roots,
    others: &[u32],
    map: &[MemoryRegion],
) -> Present {
    let mut present = Present {
        apic_ids: Vec::from([apic.id()]),
        tsc_synchronised: true,
    };
    let page = TRAMPOLINE..TRAMPOLINE + PAGE_SIZE as u64;
    let has_page = map.iter().any(|region| {
        region.kind == MemoryKind::Ram
            && region.base <= page.start
            && page.end <= region.base + region.size
    });
    if others.is_empty() || !has_page {
        return present;
    }
    for &apic_id in others {
        let cpu = present.apic_ids.len() as u32;
        let arrival = Arrival {
            features,
            apic,
            tsc: Comparison::new(),
        };
        ARRIVAL.store((&raw const arrival).cast_mut(), Ordering::Release);
        write_trampoline(features, roots, cpu);
        if let Some(lag) = start(apic, rates, apic_id, cpu, &arrival) {
            present.apic_ids.push(apic_id);
            if lag != 0 {
                log!("TSC of CPU {cpu} is {} ticks behind", lag as i64);
                present.tsc_synchronised = false;
            }
        } else {
            // It must not come later, when the page is another CPU's.
            apic.send_init(apic_id);
            log!("CPU with APIC number {apic_id} does not come");
        }
    }
    ARRIVAL.store(core::ptr::null_mut(), Ordering::Release);
    present
}

fn write_trampoline(features: &Features, roots: &Roots, cpu: u32) {
    unsafe extern "C" {
        static secondary_start: u8;
        static secondary_end: u8;
        static secondary_parameters: u8;
        static secondary_high: u8;
    }
    let start = &raw const secondary_start;
    let len = (&raw const secondary_end).addr() - start.addr();
    let offset = (&raw const secondary_parameters).addr() - start.addr();
    let parameters = Parameters {
        root: roots.hypervisor,
        stack: cpu::stack_top(cpu),
        entry: (&raw const secondary_high).addr() as u64,
        boot_root: roots.boot as u32,
        efer: EFER_LME | if features.nx { EFER_NXE } else { 0 },
    };
    // SAFETY: the page is low memory, which the direct map has and nobody uses, and no CPU runs it now; the code is
    // shorter than a page, with the parameters in it, and both are plain data.
    unsafe {
        let page = direct(TRAMPOLINE);
        raw_copy(page, start, len);
        page.add(offset)
            .cast::<Parameters>()
            .write_volatile(parameters);
    }
}

/// Starts a CPU; where it came, by how many ticks its time-stamp counter is behind this one's.
fn start(apic: &Apic, rates: &Rates, apic_id: u32, cpu: u32, arrival: &Arrival) -> Option<u64> {
    let here = || arrival.tsc.has_begun();
    apic.send_init(apic_id);
    wait(rates, INIT_DELAY_US, || false);
    for _ in 0..2 {
        apic.send_startup(apic_id, (TRAMPOLINE / PAGE_SIZE as u64) as u8);
        if wait(rates, STARTUP_DELAY_US, here) {
            break;
        }
    }
    if !wait(rates, COMING_US, here) {
        return None;
    }
    let end = processor::tsc() + COMING_US * (rates.tsc_hz / 1_000_000);
    let lag = arrival
        .tsc
        .first(processor::tsc, || processor::tsc() < end)?;
    let came = || PRESENT.load(Ordering::Acquire) > cpu;
    wait(rates, COMING_US, came).then_some(lag)
}

/// Waits until something is done, for a time in microseconds; whether it is.
fn wait(rates: &Rates, us: u64, done: impl Fn() -> bool) -> bool {
    let end = processor::tsc() + us * (rates.tsc_hz / 1_000_000);
    while processor::tsc() < end {
        if done() {
            return true;
        }
        relax();
    }
    done()
}

/// The machine is complete.
pub fn set_machine(machine: &'static Machine) {
    MACHINE.store(core::ptr::from_ref(machine).cast_mut(), Ordering::Release);
}

fn machine() -> Option<&'static Machine> {
    // SAFETY: `set_machine` stores a reference that lives for ever.
    unsafe { MACHINE.load(Ordering::Acquire).as_ref() }
}

/// Lets the CPUs that are held go to the core.
pub fn release() {
    RELEASED.store(true, Ordering::Release);
}

/// Stops all other CPUs for good: the machine ends.
pub fn stop_others() {
    if let Some(machine) = machine()
        && !STOPPING.swap(true, Ordering::AcqRel)
        && machine.interrupts.cpu_count() > 1
    {
        machine.interrupts.apic().send_nmi_to_others();
    }
}

/// A non-maskable interrupt has come to this CPU: does not return if it is to stop.
pub fn stop_if_asked() {
    if STOPPING.load(Ordering::Acquire) {
        processor::halt();
    }
}

/// Where secondary.s calls Rust, with interrupts off, on the CPU's own stack.
///
/// # Safety
/// To be called by secondary.s, once on each CPU.
#[unsafe(no_mangle)]
unsafe extern "C" fn secondary_rust() -> ! {
    let block = cpu::this();
    {
        let arrival = ARRIVAL.load(Ordering::Acquire);
        // SAFETY: `wake` keeps all of it until this CPU has said that it is there.
        let arrival = unsafe { &*arrival };
        // SAFETY: the same of these.
        let (features, apic) = unsafe { (&*arrival.features, &*arrival.apic) };
        // SAFETY: the hypervisor's tables are loaded, this CPU's window is mapped, and the IDT is filled.
        unsafe {
            features.enable();
            gdt::load(block);
            idt::load(block, features);
        }
        apic.enable();
        block.tsc_lag.set(arrival.tsc.second(processor::tsc));
    }
    PRESENT.store(block.id + 1, Ordering::Release);
    while !RELEASED.load(Ordering::Acquire) {
        relax();
    }
    let machine = machine().expect("the core has it");
    unsafe extern "Rust" {
        fn xenolith_secondary(machine: &'static Machine) -> !;
    }
    // SAFETY: `entry!` in the image defines it with this type.
    unsafe { xenolith_secondary(machine) }
}
