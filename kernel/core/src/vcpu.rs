//! A virtual CPU: what belongs to it whether it runs or not.

use alloc::boxed::Box;
use alloc::sync::Weak;
use alloc::vec::Vec;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use hv_machine::{FpuState, GuestContext, Machine, Place, Platform, Segments};
use hypercall_abi::arch_x86::TrapInfo;
use hypercall_abi::types::Mfn;
use hypercall_abi::xen::VcpuInfo;

use crate::emulate::unhook::TableStores;
use crate::lock::{Mutex, rank};
use crate::runstate::{self, Areas, Runstate};
use crate::sched::Seat;
use crate::time::VcpuTimers;
use crate::{Current, Domain, traps};

/// A virtual CPU of a domain.
pub struct Vcpu {
    /// Its number in the domain, from 0.
    pub id: u32,
    /// Its domain, which holds it.
    pub domain: Weak<Domain>,
    /// Registers and everything that only its own hypercalls (or its builder) touch.
    pub state: Mutex<VcpuState, { rank::VCPU }>,
    /// Where its `vcpu_info` is; see [`Vcpu::info`]. The frame is held.
    pub place: Place,
    /// Not up: never initialised, or `VCPUOP_down`.
    pub down: AtomicBool,
    /// In `SCHEDOP_block` or `SCHEDOP_poll`.
    pub blocked: AtomicBool,
    /// In `SCHEDOP_poll`: the port polled, `u32::MAX` for several, 0 for none.
    pub polling: AtomicU32,
    /// Reasons for which it is held back; runnable at 0 only. A domain's pause adds one to each vCPU.
    pub pause_count: AtomicU32,
    /// Whether a CPU runs it at this moment.
    pub running: AtomicBool,
    /// An NMI was sent to it (`VCPUOP_send_nmi`); whoever runs it takes that into its state.
    pub nmi_requested: AtomicBool,
    /// How often it entered its event callback; wraps around. Only the CPU that runs it adds to it.
    pub upcalls: AtomicU32,
    /// Its place in the scheduler.
    pub seat: Seat,
    /// Its timers.
    pub timers: VcpuTimers,
    /// Its time in each run state.
    pub runstate: Runstate,
    /// Where in its memory it is told its run state and the time.
    pub areas: Areas,
}

/// The byte `evtchn_upcall_mask` in the first word of a `vcpu_info`.
const UPCALL_MASK: u64 = 0xff << (8 * offset_of!(VcpuInfo, evtchn_upcall_mask));
/// What it holds where the hypervisor masks events.
const UPCALL_MASKED: u64 = 1 << (8 * offset_of!(VcpuInfo, evtchn_upcall_mask));

/// Place of a `vcpu_info`: a frame and the byte offset in it, a multiple of 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InfoPlace {
    /// The frame, which the domain owns and which is held for as long as the place stands.
    pub mfn: Mfn,
    /// Offset in bytes.
    pub offset: usize,
}

impl Vcpu {
    /// A vCPU that is down, with nothing set.
    pub fn new(id: u32, domain: Weak<Domain>, info: InfoPlace) -> Self {
        Self {
            id,
            domain,
            state: Mutex::new(VcpuState::default()),
            place: Place::new(info.mfn, info.offset),
            down: AtomicBool::new(true),
            blocked: AtomicBool::new(false),
            polling: AtomicU32::new(0),
            pause_count: AtomicU32::new(0),
            running: AtomicBool::new(false),
            nmi_requested: AtomicBool::new(false),
            upcalls: AtomicU32::new(0),
            seat: Seat::new(),
            timers: VcpuTimers::new(),
            runstate: Runstate::new(),
            areas: Areas::default(),
        }
    }

    /// Where its `vcpu_info` is.
    pub fn info(&self) -> InfoPlace {
        let (mfn, offset) = self.place.get();
        InfoPlace { mfn, offset }
    }

    /// Moves its `vcpu_info`; the caller holds the frame and has copied the contents.
    pub fn set_info(&self, info: InfoPlace) {
        self.place.set(info.mfn, info.offset);
    }

    /// Whether the guest holds back events (`vcpu_info.evtchn_upcall_mask`).
    #[inline]
    pub fn upcalls_masked(&self, machine: &Machine) -> bool {
        machine.load_at(&self.place, 0) & UPCALL_MASK != 0
    }

    /// Sets `evtchn_upcall_mask` to 1 or 0. The pending flag beside it, which any CPU may set at this moment, is
    /// left alone.
    #[inline]
    pub fn set_upcalls_masked(&self, machine: &Machine, masked: bool) {
        if masked {
            machine.set_at(&self.place, 0, UPCALL_MASKED);
        } else {
            machine.keep_at(&self.place, 0, !UPCALL_MASK);
        }
    }

    /// The CPU that runs it, or is about to.
    pub fn runs_on(&self) -> Option<u32> {
        let runs = self.running.load(Ordering::SeqCst);
        runs.then(|| self.seat.cpu())
    }

    /// Whether the scheduler may pick it.
    #[inline]
    pub fn is_runnable(&self) -> bool {
        // One branch for all three.
        !self.down.load(Ordering::Acquire)
            & !self.blocked.load(Ordering::Acquire)
            & (self.pause_count.load(Ordering::Acquire) == 0)
    }
}

/// Registers and settings of a vCPU. While it runs, segments, FPU and the context are in the CPU.
pub struct VcpuState {
    /// General registers as they are to be loaded, or were left. `rflags` here is the real one: IF set, IOPL 0.
    pub context: GuestContext,
    /// Data segments and bases while it does not run.
    pub segments: Segments,
    /// Floating-point state while it does not run.
    pub fpu: FpuState,
    /// The guest asked for #NM at its next floating-point instruction (`HYPERVISOR_fpu_taskswitch`).
    pub task_switched: bool,
    /// Whether it is in its kernel's mode, as opposed to user mode; both are ring 3.
    pub kernel_mode: bool,
    /// L4 table of kernel mode (`guest_table`), validated and held.
    pub kernel_root: Option<Mfn>,
    /// L4 table of user mode (`guest_table_user`), validated and held.
    pub user_root: Option<Mfn>,
    /// Kernel stack for entries from user mode (`HYPERVISOR_stack_switch`).
    pub kernel_sp: u64,
    /// Its stack segment.
    pub kernel_ss: u16,
    /// What handles each of the 256 vectors; an address of 0 for none.
    pub traps: Box<[TrapInfo; 256]>,
    /// Entry points set by `set_callbacks` and `callback_op`.
    pub callbacks: Callbacks,
    /// Frames of the guest's GDT, each held as a descriptor table.
    pub gdt: Vec<Mfn>,
    /// Entries of the guest's GDT.
    pub gdt_entries: u32,
    /// Linear address of the guest's LDT.
    pub ldt_base: u64,
    /// Entries of the guest's LDT.
    pub ldt_entries: u32,
    /// Frames of the LDT that are mapped in the window, each held as a descriptor table.
    pub ldt_frames: [Option<Mfn>; 16],
    /// The guest's view of DR0 to DR7.
    pub debug: [u64; 8],
    /// I/O breakpoints that the guest enabled in DR7; the processor has them disabled, because the emulator of I/O
    /// instructions finds them.
    pub io_breakpoints: u64,
    /// The guest's CR2.
    pub cr2: u64,
    /// CR4 as the guest sees it.
    pub cr4: u64,
    /// IA32_TSC_AUX.
    pub tsc_aux: u32,
    /// I/O privilege level that the guest gave itself (0 to 3).
    pub iopl: u32,
    /// Linear address of its bitmap of I/O ports that user mode may not use (`PHYSDEVOP_set_iobitmap`).
    pub io_bitmap: u64,
    /// Number of ports that the bitmap covers.
    pub io_bitmap_ports: u32,
    /// It has been given a context (`vcpu_guest_context`), without which it cannot run.
    pub initialised: bool,
    /// Its stores to page tables.
    pub table_stores: TableStores,
    /// The guest handles an NMI: no second one before its `iret`.
    pub nmi_blocked: bool,
}

/// A guest's entry points; address 0 for none. That for NMIs (`CALLBACKTYPE_nmi`) is in the trap table.
#[derive(Clone, Copy, Debug, Default)]
pub struct Callbacks {
    /// Events (`CALLBACKTYPE_event`).
    pub event: u64,
    /// A selector or `iret` frame that cannot be loaded (`CALLBACKTYPE_failsafe`).
    pub failsafe: u64,
    /// Whether entering it masks events.
    pub failsafe_masks_events: bool,
    /// `syscall` in 64-bit user mode (`CALLBACKTYPE_syscall`).
    pub syscall: u64,
    /// Whether entering it masks events.
    pub syscall_masks_events: bool,
    /// `syscall` in 32-bit user mode (`CALLBACKTYPE_syscall32`).
    pub syscall32: u64,
    /// Whether entering it masks events.
    pub syscall32_masks_events: bool,
    /// `sysenter` (`CALLBACKTYPE_sysenter`).
    pub sysenter: u64,
    /// Whether entering it masks events.
    pub sysenter_masks_events: bool,
}

impl Default for VcpuState {
    fn default() -> Self {
        Self {
            context: GuestContext::default(),
            segments: Segments::default(),
            fpu: FpuState::new(),
            task_switched: false,
            kernel_mode: true,
            kernel_root: None,
            user_root: None,
            kernel_sp: 0,
            kernel_ss: 0,
            traps: Box::new([TrapInfo::default(); 256]),
            callbacks: Callbacks::default(),
            gdt: Vec::new(),
            gdt_entries: 0,
            ldt_base: 0,
            ldt_entries: 0,
            ldt_frames: [None; 16],
            debug: [0, 0, 0, 0, 0, 0, 0xffff_0ff0, 0x400],
            io_breakpoints: 0,
            cr2: 0,
            cr4: 0,
            tsc_aux: 0,
            iopl: 0,
            io_bitmap: 0,
            io_bitmap_ports: 0,
            initialised: false,
            table_stores: TableStores::default(),
            nmi_blocked: false,
        }
    }
}

impl VcpuState {
    /// The L4 table of the mode that it is in.
    pub fn root(&self) -> Option<Mfn> {
        if self.kernel_mode {
            self.kernel_root
        } else {
            self.user_root
        }
    }
}

/// Switches between the guest's kernel mode and its user mode: root table and GS base. `false` where the other mode
/// has no root table; the domain is then crashed.
#[must_use]
pub fn toggle_mode(cx: &mut Current<'_>) -> bool {
    let to_kernel = !cx.state.kernel_mode;
    let root = if to_kernel {
        cx.state.kernel_root
    } else {
        cx.state.user_root
    };
    let Some(root) = root else {
        let mode = if to_kernel { "kernel" } else { "user" };
        traps::crash(cx, format_args!("{mode} mode has no page tables"));
        return false;
    };
    cx.state.kernel_mode = to_kernel;
    let machine = cx.machine();
    machine.swap_gs();
    machine.load_root(root);
    if to_kernel {
        runstate::refresh_areas(cx.hv, cx.vcpu);
    }
    true
}
