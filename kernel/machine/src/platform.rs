//! [`Platform`]: everything that the hypervisor's core asks of the hardware, as one safe interface.

use alloc::string::String;
use alloc::vec::Vec;
use hypercall_abi::types::Mfn;
use zerocopy::{FromBytes, IntoBytes};

use crate::{
    BootModule, Exit, FpuState, GuestContext, HYPERVISOR_SLOTS, Irq, MemoryRegion, Place,
    SegmentBase, Segments, SelectorFault,
};

/// Who is run by [`Platform::enter_guest`].
///
/// An exit is handed on, not given back, so that the ways of the most frequent ones are their own, with nothing of them
/// in memory.
pub trait Guest {
    /// Its registers.
    fn context(&mut self) -> &mut GuestContext;
    /// It left for this reason.
    fn left(self, exit: Exit);
}

/// A guest address could not be read or written: unmapped, not permitted, or not the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault;

/// The processor answered with a general-protection fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GeneralProtection;

/// Width of an access to an I/O port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoWidth {
    /// 1 byte.
    Byte,
    /// 2 bytes.
    Word,
    /// 4 bytes.
    Long,
}

impl IoWidth {
    /// The width of `bytes` bytes (1, 2 or 4).
    pub fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Long),
            _ => None,
        }
    }

    /// Bytes.
    pub fn bytes(self) -> u32 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Long => 4,
        }
    }
}

/// How an interrupt line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TriggerMode {
    /// By a transition.
    Edge,
    /// As long as it is asserted.
    Level,
}

/// Which level of an interrupt line is active.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polarity {
    /// High, or the rising edge.
    High,
    /// Low, or the falling edge.
    Low,
}

/// What is known of the time-stamp counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TscInfo {
    /// Its rate, per second.
    pub hz: u64,
    /// Its value when the hypervisor started: system time 0.
    pub at_boot: u64,
    /// No CPU's counter was ever seen behind another's.
    pub synchronised: bool,
}

impl TscInfo {
    /// Its rate in kHz, rounded down.
    pub fn khz(&self) -> u64 {
        self.hz / 1000
    }
}

/// The machine, as the core sees it.
///
/// "This CPU" is the one that makes the call. Frame numbers are machine frame numbers; methods that access a
/// frame take untyped frames only (see the crate's documentation).
pub trait Platform {
    // Memory as found at boot

    /// The memory map, ascending, without overlap.
    fn memory_map(&self) -> &[MemoryRegion];
    /// One more than the highest frame of RAM.
    fn frame_limit(&self) -> u64;
    /// Whether the frame holds the machine's own Rust values, code or tables, or is below 1 MiB.
    fn is_private(&self, mfn: Mfn) -> bool;
    /// The hypervisor's command line, without the image's name.
    fn command_line(&self) -> &str;
    /// Boot modules in the boot loader's order. Their frames are untyped.
    fn boot_modules(&self) -> &[BootModule];
    /// Gives 2^`order` untyped frames from `first` to the hypervisor's own heap for good: they become private.
    /// They must not be in use.
    fn donate_to_heap(&self, first: Mfn, order: u32);
    /// Bytes that the hypervisor's own heap has free.
    fn heap_free(&self) -> usize;

    // Frames

    /// Reads entry `index` (0 to 511) of a frame, atomically.
    fn load_u64(&self, mfn: Mfn, index: usize) -> u64;
    /// As [`Self::load_u64`], of a frame that nobody holds: it may be given to the hypervisor's heap at this moment, and
    /// what is read be anything. `None` where the frame is private or absent already.
    fn peek_u64(&self, mfn: Mfn, index: usize) -> Option<u64>;
    /// Writes entry `index` of a frame, atomically.
    fn store_u64(&self, mfn: Mfn, index: usize, value: u64);
    /// Writes entry `index` if it holds `old`; else returns what it holds.
    fn compare_exchange_u64(&self, mfn: Mfn, index: usize, old: u64, new: u64) -> Result<u64, u64>;
    /// Sets bits of entry `index`, returns what it held.
    fn fetch_or_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64;
    /// Keeps only `bits` of entry `index`, returns what it held.
    fn fetch_and_u64(&self, mfn: Mfn, index: usize, bits: u64) -> u64;
    /// Reads 32-bit word `index` (0 to 1023) of a frame, atomically.
    fn load_u32(&self, mfn: Mfn, index: usize) -> u32;
    /// Writes 32-bit word `index` of a frame, atomically.
    fn store_u32(&self, mfn: Mfn, index: usize, value: u32);
    /// Writes 32-bit word `index` if it holds `old`; else returns what it holds.
    fn compare_exchange_u32(&self, mfn: Mfn, index: usize, old: u32, new: u32) -> Result<u32, u32>;
    /// Sets bits of 32-bit word `index`, returns what it held.
    fn fetch_or_u32(&self, mfn: Mfn, index: usize, bits: u32) -> u32;
    /// Keeps only `bits` of 32-bit word `index`, returns what it held.
    fn fetch_and_u32(&self, mfn: Mfn, index: usize, bits: u32) -> u32;
    /// Reads word `index` of a place, atomically. The place's frame is held by the caller, who keeps it untyped.
    fn load_at(&self, place: &Place, index: usize) -> u64;
    /// Writes word `index` of a place, as [`Self::load_at`].
    fn store_at(&self, place: &Place, index: usize, value: u64);
    /// Sets bits of word `index` of a place, as [`Self::load_at`].
    fn set_at(&self, place: &Place, index: usize, bits: u64);
    /// Keeps only `bits` of word `index` of a place, as [`Self::load_at`].
    fn keep_at(&self, place: &Place, index: usize, bits: u64);
    /// Copies bytes out of a frame; `offset` and length stay inside it.
    fn read_frame(&self, mfn: Mfn, offset: usize, out: &mut [u8]);
    /// Copies bytes into a frame; `offset` and length stay inside it.
    fn write_frame(&self, mfn: Mfn, offset: usize, data: &[u8]);
    /// Fills a frame with zeros.
    fn zero_frame(&self, mfn: Mfn);
    /// Copies a whole frame.
    fn copy_frame(&self, to: Mfn, from: Mfn);
    /// Copies `len` bytes from a place in a frame, given by the frame and an offset, to one in a frame; both stay inside
    /// the frame. Where they overlap, the bytes may come out mixed.
    fn copy_bytes(&self, to: (Mfn, usize), from: (Mfn, usize), len: usize);
    /// Writes the machine-to-phys table's entry of a frame.
    fn set_m2p(&self, mfn: Mfn, pfn: u64);
    /// Reads the machine-to-phys table's entry of a frame; `u64::MAX` where it has none.
    fn m2p(&self, mfn: Mfn) -> u64;
    /// First frame of each 2 MiB of the machine-to-phys table, ascending (`XENMEM_machphys_mfn_list`).
    fn m2p_extents(&self) -> Vec<Mfn>;

    // Address spaces

    /// What L4 slots 256 to 271 hold in every address space.
    fn hypervisor_slots(&self) -> [u64; HYPERVISOR_SLOTS];
    /// Makes `root` this CPU's L4 table; forgets all non-global translations of this CPU. Slots 256 to 271 of
    /// it must hold [`Self::hypervisor_slots`]; slot 256, the machine-to-phys table for guests, may be empty.
    fn load_root(&self, root: Mfn);
    /// As [`Self::load_root`], but as if the L2 entry that translates `va` were empty. All tables on the way to that
    /// entry are there, and until another root is loaded nobody changes them; the processor's accessed and dirty
    /// bits in them may be lost.
    fn load_root_without(&self, root: Mfn, va: u64);
    /// This CPU's L4 table.
    fn current_root(&self) -> Mfn;
    /// Makes the machine's own tables this CPU's: no guest page is mapped.
    fn load_idle_root(&self);
    /// Forgets all translations of this CPU.
    fn flush_tlb(&self);
    /// Forgets this CPU's translations of the page at `va`.
    fn flush_tlb_page(&self, va: u64);
    /// Forgets all translations on every CPU of `cpus` (bit n for CPU n); returns when all have. One that has left
    /// its root ([`Self::leave_root`]) loads the machine's own tables.
    fn flush_tlb_on(&self, cpus: u64);
    /// Says that this CPU needs its root no more. Until it loads another, or the next flush that is asked of it, the
    /// root stays loaded, but nothing goes through it.
    fn leave_root(&self);
    /// Time on a clock that ticks with every full flush of any CPU.
    fn flush_time(&self) -> u64;
    /// CPUs that have had no full flush since `time` on that clock, bit n for CPU n: these may remember translations
    /// that were in the tables at that time.
    fn unflushed_since(&self, time: u64) -> u64;
    /// Copies from guest virtual memory as this CPU maps it.
    fn copy_from_guest(&self, va: u64, out: &mut [u8]) -> Result<(), Fault>;
    /// A value in guest virtual memory as this CPU maps it.
    fn read_from_guest<T: FromBytes + IntoBytes>(&self, va: u64) -> Result<T, Fault>;
    /// Copies to guest virtual memory as this CPU maps it. Bytes before the faulting one may be written.
    fn copy_to_guest(&self, va: u64, data: &[u8]) -> Result<(), Fault>;

    // vCPU state

    /// Runs the guest until it leaves, and tells it why.
    fn enter_guest<G: Guest>(&self, guest: G);
    /// Sleeps until an interrupt comes.
    fn idle(&self) -> Irq;
    /// Takes an interrupt that waits already, without sleeping.
    fn poll(&self) -> Option<Irq> {
        self.poll_until(|| true)
    }
    /// Looks for an interrupt until one has come, or `done` says to stop.
    fn poll_until(&self, done: impl Fn() -> bool) -> Option<Irq>;
    /// Loads data segments and bases. A refused selector becomes null; all others are loaded all the same.
    fn load_segments(&self, segments: &Segments) -> Result<(), SelectorFault>;
    /// The data segments and bases that this CPU holds.
    fn store_segments(&self) -> Segments;
    /// Sets one segment base; the caller has checked that it is canonical.
    fn set_segment_base(&self, which: SegmentBase, base: u64);
    /// Loads the GS selector of the mode that does not run: its base becomes the shadow base.
    fn load_user_gs(&self, selector: u16) -> Result<(), SelectorFault>;
    /// Exchanges the active and the shadow GS base.
    fn swap_gs(&self);
    /// Makes `frames` the guest's part of this CPU's GDT; missing ones read as empty. At most
    /// [`crate::GUEST_GDT_FRAMES`].
    fn load_gdt(&self, frames: &[Mfn]);
    /// Sets the size of the LDT window of this CPU (entries, at most 8192) and unmaps all its pages.
    fn load_ldt(&self, entries: u32);
    /// Maps page `index` (0 to 15) of the LDT window.
    fn map_ldt_page(&self, index: usize, mfn: Mfn);
    /// Saves the floating-point state of this CPU.
    fn save_fpu(&self, state: &mut FpuState);
    /// Loads the floating-point state of this CPU.
    fn load_fpu(&self, state: &FpuState);
    /// Sets XCR0 for the vCPU that runs, until its floating-point state is saved; the caller has checked that the
    /// processor takes the value. Components that the machine does not save are left out.
    fn set_extended_control(&self, xcr0: u64);
    /// Takes TSD and DE from the CR4 of the guest that runs. All other bits are the machine's own choice.
    fn set_control_bits(&self, cr4: u64);
    /// Sets or clears CR0.TS, so that floating-point instructions raise #NM.
    fn set_task_switched(&self, on: bool);
    /// Loads DR0 to DR3, DR6 and DR7; the caller has checked that no address is the hypervisor's and that
    /// reserved bits are as the processor wants them.
    fn load_debug_registers(&self, dr: &[u64; 8]);
    /// Reads DR6 and sets it back to its resting value.
    fn take_debug_status(&self) -> u64;

    // Processor

    /// Number of CPUs that run the hypervisor.
    fn cpu_count(&self) -> u32;
    /// This CPU's number, from 0.
    fn cpu_id(&self) -> u32;
    /// Lets the CPUs but the first, which have been waiting since boot, run the core.
    fn release_cpus(&self);
    /// Asks another CPU to look at its work ([`Irq::Ipi`]).
    fn send_ipi(&self, cpu: u32);
    /// CPUID as the hardware has it: EAX, EBX, ECX, EDX.
    fn cpuid(&self, leaf: u32, subleaf: u32) -> [u32; 4];
    /// Reads a model-specific register.
    fn rdmsr(&self, msr: u32) -> Result<u64, GeneralProtection>;
    /// Writes a model-specific register. The caller vouches that the guest may have this effect.
    fn wrmsr(&self, msr: u32, value: u64) -> Result<(), GeneralProtection>;
    /// CR4 bits and CR0 as this CPU has them (CR0, CR4).
    fn control_registers(&self) -> (u64, u64);
    /// Writes back and invalidates this CPU's caches.
    fn flush_caches(&self);
    /// Reads an I/O port.
    fn port_in(&self, port: u16, width: IoWidth) -> u32;
    /// Writes an I/O port; bits beyond the width are ignored.
    fn port_out(&self, port: u16, width: IoWidth, value: u32);

    // Time

    /// The time-stamp counter.
    fn tsc(&self) -> u64;
    /// Ticks by which this CPU's counter is behind the first CPU's, modulo 2^64; [`TscInfo`] is about that one.
    fn tsc_lag(&self) -> u64;
    /// Its rate and origin.
    fn tsc_info(&self) -> TscInfo;
    /// Seconds since 1970-01-01 00:00 UTC at [`TscInfo::at_boot`], by the battery clock.
    fn boot_wall_clock(&self) -> u64;
    /// Asks for [`Irq::Timer`] on this CPU once the time-stamp counter has reached `deadline`, soon if it has
    /// already. Replaces the previous one.
    fn set_timer(&self, deadline: u64);

    // Interrupts

    /// Number of global system interrupts that the interrupt controllers have.
    fn gsi_count(&self) -> u32;
    /// The GSI and the signalling that an ISA interrupt (0 to 15) has, by ACPI's overrides.
    fn isa_gsi(&self, isa: u8) -> (u32, TriggerMode, Polarity);
    /// Routes a GSI to this CPU as [`Irq::Gsi`], masked.
    fn route_gsi(&self, gsi: u32, trigger: TriggerMode, polarity: Polarity);
    /// Lets a routed GSI through.
    fn unmask_gsi(&self, gsi: u32);
    /// Holds a routed GSI back.
    fn mask_gsi(&self, gsi: u32);
    /// A vector that message-signalled interrupts may use, or `None` when all are taken.
    fn allocate_vector(&self) -> Option<u8>;
    /// Gives back a vector.
    fn release_vector(&self, vector: u8);
    /// Address and data of the message that raises a vector on this CPU.
    fn interrupt_message(&self, vector: u8) -> (u64, u32);
    /// Machine address of the ACPI root pointer (RSDP); `None` where there is none.
    fn acpi_rsdp(&self) -> Option<u64>;

    // Console and power

    /// I/O ports, 16 bits wide, of ACPI's power-management control registers PM1a and PM1b, as far as there are any.
    fn sleep_ports(&self) -> [Option<u16>; 2];
    /// What the machine has printed on the console so far, in lines with Xen's prefix.
    fn boot_log(&self) -> String;

    /// Prints on the hypervisor's console as it is; `\n` becomes `\r\n`.
    fn console_write(&self, text: &[u8]);
    /// Takes a byte of input from the console.
    fn console_read(&self) -> Option<u8>;
    /// Restarts the machine.
    fn reboot(&self) -> !;
    /// Stops this CPU for good.
    fn halt(&self) -> !;
}
