//! [`Sleeper`]: a vCPU that waits for the events of one port, with an upcall that does nothing but count them.

use core::arch::global_asm;
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use hypercall_abi::callback::CALLBACKTYPE_EVENT;
use hypercall_abi::types::Port;
use hypercall_abi::xen::{HYPERVISOR_IRET, SharedInfo};
use pv_guest::hypercall::sched;
use pv_guest::{cpu, traps};

use super::entries::register;

/// The port that is waited for.
static PORT: AtomicU64 = AtomicU64::new(0);
/// How many of its events came.
static CAME: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .text.bench_came, \"ax\", @progbits",
    "bench_came:",
    "pop rcx",
    "pop r11",
    "push rax",
    "mov rax, [rip + {port}]",
    "mov byte ptr [rip + __shared_info], 0",
    "mov qword ptr [rip + __shared_info + 8], 0",
    "lock btr qword ptr [rip + __shared_info + {pending}], rax",
    "adc qword ptr [rip + {came}], 0",
    "pop rax",
    "push 0",
    "jmp hypercall_page + {iret} * 32",
    ".popsection",
    iret = const HYPERVISOR_IRET,
    pending = const core::mem::offset_of!(SharedInfo, evtchn_pending),
    port = sym PORT,
    came = sym CAME,
);

unsafe extern "C" {
    fn bench_came();
}

/// The boot vCPU, as long as it gets no other events than those of one port. Upcalls are masked while it is awake.
pub struct Sleeper {
    seen: u64,
}

impl Sleeper {
    /// Waits for events of this port from here on; `came` says, with upcalls masked, whether one came already.
    pub fn new(port: Port, came: impl FnOnce() -> bool) -> Self {
        cpu::disable_upcalls();
        PORT.store(port.0.into(), Relaxed);
        CAME.store(came().into(), Relaxed);
        // SAFETY: it is an entry point for events.
        unsafe { register(CALLBACKTYPE_EVENT, bench_came) };
        Self { seen: 0 }
    }

    /// Sleeps until the next event has come.
    pub fn wait(&mut self) {
        self.seen += 1;
        while CAME.load(Relaxed) < self.seen {
            sched::block();
            cpu::disable_upcalls();
        }
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        traps::register();
        cpu::enable_upcalls();
    }
}
