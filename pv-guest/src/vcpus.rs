//! The domain's vCPUs: which one this is, what each has of its own, and bringing further ones up.
//!
//! A vCPU finds what is its own by its GS base. The boot vCPU runs `main`; each other runs a future
//! of its own once it is started, and has an executor, a timer and an event channel by which the
//! others wake it. Tasks stay on the vCPU that spawned them.

use alloc::boxed::Box;
use core::arch::asm;
use core::cell::{RefCell, UnsafeCell};
use core::mem::offset_of;
use core::ops::Range;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64};

use alloc::sync::Arc;
use critical_section::Mutex;
use hypercall_abi::arch_x86::{
    SEGBASE_GS_KERNEL, VGCF_IN_KERNEL, VcpuGuestContext, XEN_LEGACY_MAX_VCPUS, mfn_to_cr3,
};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Port;

use crate::events::EventChannel;
use crate::hypercall::{Result, event_channel, trap, vcpu};
use crate::memory::{self, Stack};
use crate::traps::{KERNEL_CS, KERNEL_SS};
use crate::user::Space;
use crate::{clock, cpu, task, traps};

/// How many vCPUs the library can use: those that the shared info page has room for.
pub const MAX_VCPUS: usize = XEN_LEGACY_MAX_VCPUS;

/// Bytes for the frame of a trap from user mode, and for what an NMI then needs.
const TRAP_STACK: usize = 4096;

/// What a vCPU has of its own.
#[repr(C, align(16))]
pub(crate) struct Local {
    /// Its own address, which `gs:[0]` reads.
    this: AtomicPtr<Local>,
    /// The stack pointer of the kernel while user mode runs, else 0.
    pub(crate) kernel_stack: AtomicU64,
    id: u32,
    /// The stack that it runs on, for reports.
    stack: Range<u64>,
    /// The user address space that is loaded.
    pub(crate) space: Mutex<RefCell<Option<Arc<Space>>>>,
    /// Where the hypervisor puts the frame of a trap from user mode.
    trap_stack: UnsafeCell<[u8; TRAP_STACK]>,
}

/// Offset of [`Local::kernel_stack`] from the GS base.
pub(crate) const KERNEL_STACK: usize = offset_of!(Local, kernel_stack);

// SAFETY: the trap stack is the hypervisor's and the trap entry's alone; all else is `Sync`.
unsafe impl Sync for Local {}

unsafe extern "C" {
    static __stack_bottom: u8;
    static __stack_top: u8;
}

static BOOT: Local = Local::new(0, 0..0);

/// The event channels that wake each vCPU; 0 where there is none.
static KICKS: [AtomicU32; MAX_VCPUS] = [const { AtomicU32::new(0) }; MAX_VCPUS];

/// How many vCPUs were started.
static STARTED: AtomicU32 = AtomicU32::new(1);

impl Local {
    const fn new(id: u32, stack: Range<u64>) -> Self {
        Self {
            this: AtomicPtr::new(core::ptr::null_mut()),
            kernel_stack: AtomicU64::new(0),
            id,
            stack,
            space: Mutex::new(RefCell::new(None)),
            trap_stack: UnsafeCell::new([0; TRAP_STACK]),
        }
    }

    /// Makes it known to itself; its address.
    fn anchor(&'static self) -> u64 {
        let this = core::ptr::from_ref(self);
        self.this.store(this.cast_mut(), Relaxed);
        this.expose_provenance() as u64
    }

    /// The top of the stack for traps from user mode.
    fn trap_stack_top(&self) -> u64 {
        self.trap_stack.get().expose_provenance() as u64 + TRAP_STACK as u64
    }
}

/// Gives the boot vCPU what is its own.
///
/// # Safety
///
/// Only as the first thing at start of day.
pub(crate) unsafe fn init_boot() {
    let address = BOOT.anchor();
    // SAFETY: nothing uses the GS base but this module and the trap entry, for which it is meant.
    unsafe { trap::set_segment_base(SEGBASE_GS_KERNEL, address) }.expect("a GS base can be set");
    // SAFETY: the stack is kept for this.
    unsafe { trap::stack_switch(KERNEL_SS, BOOT.trap_stack_top()) }.expect("a stack can be set");
}

/// What this vCPU has of its own.
pub(crate) fn local() -> &'static Local {
    let this: *const Local;
    // SAFETY: the GS base is the address of this vCPU's `Local`, from start of day on, whose first
    // word is never written again. Code stays on its vCPU.
    unsafe {
        asm!(
            "mov {}, gs:[0]",
            out(reg) this,
            options(pure, readonly, nostack, preserves_flags),
        );
        &*this
    }
}

/// The number of this vCPU; the boot vCPU is 0.
pub fn current() -> u32 {
    local().id
}

/// How many vCPUs the domain has, up or not, as far as the library can use them.
pub fn count() -> u32 {
    (1..MAX_VCPUS as u32)
        .find(|id| vcpu::is_up(*id).is_err())
        .unwrap_or(MAX_VCPUS as u32)
}

/// Whether a vCPU was started, and not only brought up by somebody else.
pub(crate) fn was_started(id: u32) -> bool {
    KICKS
        .get(id as usize)
        .is_some_and(|port| port.load(Acquire) != 0)
}

/// Whether only the boot vCPU was started: then a flush of its own TLB is one of all.
pub(crate) fn is_alone() -> bool {
    STARTED.load(SeqCst) == 1
}

/// The stack of this vCPU.
pub(crate) fn stack() -> Range<u64> {
    match current() {
        0 => (&raw const __stack_bottom).addr() as u64..(&raw const __stack_top).addr() as u64,
        _ => local().stack.clone(),
    }
}

/// Makes a vCPU look at its ready queue, if it is not the one that asks.
pub(crate) fn kick(id: u32) {
    if id != current() {
        let port = KICKS[id as usize].load(Acquire);
        if port != 0 {
            // The port is bound for ever.
            _ = event_channel::send(Port(port));
        }
    }
}

type Start = Box<dyn FnOnce() + Send>;

/// Starts vCPU `id`, which runs the future that `main` makes, and all that this spawns there. It goes
/// down when the future is done, and cannot be started again.
///
/// # Errors
///
/// `ENOENT` where there is no such vCPU, `EEXIST` where it was started before, `ENOMEM` without
/// memory for its stack; else what the hypervisor says.
pub fn start<F>(id: u32, main: impl FnOnce() -> F + Send + 'static) -> Result<()>
where
    F: Future<Output = ()> + 'static,
{
    if id as usize >= MAX_VCPUS {
        return Err(Errno::ENOENT.into());
    }
    if vcpu::is_up(id)? || KICKS[id as usize].load(Relaxed) != 0 {
        return Err(Errno::EEXIST.into());
    }
    // Wakes may come from here on, so both vCPUs need a port.
    for id in [current(), id] {
        if KICKS[id as usize].load(Relaxed) == 0 {
            let channel = EventChannel::bind_ipi_of(id)?;
            KICKS[id as usize].store(channel.port().0, Release);
            core::mem::forget(channel);
        }
    }
    let stack = Stack::new()?.leak();
    let main: Start = Box::new(move || task::run_here(main()));
    let main = Box::into_raw(Box::new(main));
    let local: &'static Local = Box::leak(Box::new(Local::new(id, stack.clone())));
    let mut context = Box::new(VcpuGuestContext::default());
    context.flags = VGCF_IN_KERNEL;
    context.user_regs.rip = secondary as *const () as u64;
    context.user_regs.rdi = main.expose_provenance() as u64;
    // As after a call.
    context.user_regs.rsp = stack.end - 8;
    context.user_regs.cs = KERNEL_CS;
    context.user_regs.ss = KERNEL_SS;
    context.kernel_ss = KERNEL_SS.into();
    context.kernel_sp = local.trap_stack_top();
    context.gs_base_kernel = local.anchor();
    context.ctrlreg[3] = mfn_to_cr3(memory::root());
    cpu::shared().vcpu[id as usize].upcall_mask.store(1, SeqCst);
    STARTED.fetch_add(1, SeqCst);
    // SAFETY: the entry is a function that never returns, on a stack of its own, with the argument
    // that it is meant for; GS base and trap stack are those of a vCPU that has neither yet.
    unsafe { vcpu::initialise(id, &context) }?;
    vcpu::up(id)
}

/// The first code of a vCPU other than the boot vCPU, with upcalls masked.
///
/// # Safety
///
/// `main` is what [`start`] made.
unsafe extern "C" fn secondary(main: *mut Start) -> ! {
    traps::register();
    clock::init();
    cpu::enable_upcalls();
    // SAFETY: it was made of a box, for this call alone.
    let main = unsafe { Box::from_raw(main) };
    main();
    loop {
        // The last vCPU that goes down takes the domain with it.
        _ = vcpu::down(current());
    }
}
