//! Ways into the guest's kernel, and back by the iret hypercall: page faults, breakpoints, events.
//! The handlers here do nothing else.

use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::Relaxed;

use hypercall_abi::arch_x86::TrapInfo;
use hypercall_abi::callback::{CALLBACKF_MASK_EVENTS, CALLBACKTYPE_EVENT, CallbackRegister};
use hypercall_abi::types::Domid;
use hypercall_abi::xen::{HYPERVISOR_IRET, SharedInfo};
use pv_guest::cpu;
use pv_guest::events::EventChannel;
use pv_guest::hypercall::trap;
use pv_guest::traps::{self, KERNEL_CS};

use super::meter::Meter;

/// Upcalls are masked on entry.
const MASK_EVENTS: u8 = 4;

/// Events that [`bench_event`] took.
static EVENTS: AtomicU64 = AtomicU64::new(0);

global_asm!(
    ".pushsection .text.bench_entries, \"ax\", @progbits",
    // Goes on behind a faulting instruction of two bytes.
    "bench_page_fault:",
    "pop rcx",
    "pop r11",
    "add rsp, 8",
    "add qword ptr [rsp], 2",
    "push 0",
    "jmp hypercall_page + {iret} * 32",
    "bench_breakpoint:",
    "pop rcx",
    "pop r11",
    "push 0",
    "jmp hypercall_page + {iret} * 32",
    // Ports below 64, which is where a guest's first ones are.
    "bench_event:",
    "pop rcx",
    "pop r11",
    "mov byte ptr [rip + __shared_info], 0",
    "mov qword ptr [rip + __shared_info + 8], 0",
    "mov qword ptr [rip + __shared_info + {pending}], 0",
    "inc qword ptr [rip + {events}]",
    "push 0",
    "jmp hypercall_page + {iret} * 32",
    ".popsection",
    iret = const HYPERVISOR_IRET,
    pending = const core::mem::offset_of!(SharedInfo, evtchn_pending),
    events = sym EVENTS,
);

unsafe extern "C" {
    fn bench_page_fault();
    fn bench_breakpoint();
    fn bench_event();
}

/// Makes an entry point that of a callback, which masks upcalls.
///
/// # Safety
///
/// It is one.
pub unsafe fn register(kind: u16, entry: unsafe extern "C" fn()) {
    let callback = CallbackRegister {
        type_: kind,
        flags: CALLBACKF_MASK_EVENTS,
        address: entry as usize as u64,
        ..CallbackRegister::default()
    };
    // SAFETY: the caller's promise.
    unsafe { trap::register_callback(&callback) }.expect("the callback is accepted");
}

fn handle(vector: u8, entry: unsafe extern "C" fn()) {
    let info = TrapInfo {
        vector,
        // Privilege level 0 is enough for the kernel's own faults; `int3` needs 3.
        flags: MASK_EVENTS | if vector == 3 { 3 } else { 0 },
        cs: KERNEL_CS,
        address: entry as usize as u64,
        ..TrapInfo::default()
    };
    // SAFETY: the handlers above go on behind the instruction that these measurements use.
    unsafe { trap::set_trap_table(&[info, TrapInfo::default()]) }.expect("the table is accepted");
}

pub fn run(meter: &Meter) {
    handle(14, bench_page_fault);
    meter.measure("page-fault", |_| {
        // SAFETY: nothing is mapped there; the handler goes on behind the instruction, which is two
        // bytes long.
        unsafe { asm!("mov al, [rdi]", in("rdi") 0x1000, out("al") _) };
    });
    handle(3, bench_breakpoint);
    meter.measure("breakpoint", |_| {
        // SAFETY: the handler goes on behind it.
        unsafe { asm!("int3") };
    });
    let channel = EventChannel::bind_ipi().expect("there are ports");
    assert!(channel.port().0 < 64);
    // SAFETY: it is an entry point for events.
    unsafe { register(CALLBACKTYPE_EVENT, bench_event) };
    let mut sent = 0;
    meter.measure("event-to-self", |_| {
        channel.notify().expect("the port is bound");
        sent += 1;
    });
    assert_eq!(EVENTS.load(Relaxed), sent, "each event makes an upcall");
    traps::register();
    send(meter);
}

/// Sending alone, to another port of this vCPU's, which takes back what that marks before it would have an upcall.
fn send(meter: &Meter) {
    let end = EventChannel::alloc_unbound(Domid::SELF).expect("there are ports");
    let other = EventChannel::bind_interdomain(Domid::SELF, end.port()).expect("a port to itself");
    cpu::disable_upcalls();
    let info = cpu::vcpu();
    let mut sent = 0;
    meter.measure("event-send", |_| {
        other.notify().expect("the port is bound");
        sent += u64::from(end.clear());
        info.pending_sel.store(0, Relaxed);
        info.upcall_pending.store(0, Relaxed);
    });
    assert!(
        !meter.wants("event-send") || sent == meter.total(),
        "each event is there"
    );
    cpu::enable_upcalls();
}
