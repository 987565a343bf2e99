//! The stubs of the feature `caller`, against a hypercall page that tells what it was called with.

use std::arch::global_asm;
use std::cell::RefCell;

use hypercall_abi::caller::{self, event_channel, mmu, sched, system};
use hypercall_abi::errno::Errno;
use hypercall_abi::event_channel::*;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::*;

// Every stub leaves its number in rax and goes on to `answer`, with the arguments where C has them.
// Like a hypervisor, it keeps all registers but those that the interface gives up.
global_asm!(
    ".pushsection .text.hypercall_page, \"ax\", @progbits",
    ".balign 4096",
    ".globl hypercall_page",
    "hypercall_page:",
    ".set number, 0",
    ".rept 128",
    ".balign 32",
    "mov eax, number",
    "jmp 2f",
    ".set number, number + 1",
    ".endr",
    ".balign 32",
    "2: push rbp",
    "mov rbp, rsp",
    "push r9",
    "sub rsp, 8",
    "and rsp, -16",
    "mov rcx, r10",
    "mov r9, rax",
    "call {answer}",
    "mov r9, [rbp - 8]",
    "mov rsp, rbp",
    "pop rbp",
    "mov rdi, -1",
    "mov rsi, -1",
    "mov rdx, -1",
    "mov r10, -1",
    "mov r8, -1",
    "mov rcx, -1",
    "mov r11, -1",
    "ret",
    ".popsection",
    answer = sym answer,
);

/// A call as the hypervisor sees it: number and arguments.
type Call = (u32, [u64; 5]);

thread_local! {
    static ANSWER: RefCell<Box<dyn FnMut(Call) -> i64>> = RefCell::new(Box::new(|_| Errno::ENOSYS.to_return()));
}

extern "C" fn answer(a: u64, b: u64, c: u64, d: u64, e: u64, number: u64) -> i64 {
    ANSWER.with_borrow_mut(|answer| answer((number as u32, [a, b, c, d, e])))
}

/// Has the hypervisor of this thread answer like this.
fn hypervisor(answer: impl FnMut(Call) -> i64 + 'static) {
    ANSWER.set(Box::new(answer));
}

/// The argument of a call, which a test knows to be a `T`.
fn argument<T>(address: u64) -> &'static mut T {
    // SAFETY: the tests below call with the address of a `T` that outlives the call.
    unsafe { &mut *(address as *mut T) }
}

#[test]
fn a_call_passes_number_and_arguments_in_order() {
    hypervisor(|call| {
        assert_eq!(call.0, HYPERVISOR_UPDATE_VA_MAPPING_OTHERDOMAIN);
        assert_eq!(call.1[..4], [0x1000, 0x2067, UVMF_INVLPG | UVMF_ALL, 7]);
        0
    });
    // SAFETY: this hypervisor has no page tables.
    let result = unsafe {
        mmu::update_va_mapping_otherdomain(0x1000, 0x2067, UVMF_INVLPG | UVMF_ALL, Domid(7))
    };
    assert_eq!(result, Ok(()));
}

#[test]
fn an_out_parameter_comes_back() {
    hypervisor(|(number, [cmd, address, ..])| {
        assert_eq!(
            (number, cmd),
            (
                HYPERVISOR_EVENT_CHANNEL_OP,
                u64::from(EVTCHNOP_ALLOC_UNBOUND)
            )
        );
        let argument: &mut EvtchnAllocUnbound = argument(address);
        assert_eq!((argument.dom, argument.remote_dom), (Domid::SELF, Domid(0)));
        argument.port = Port(12);
        0
    });
    assert_eq!(
        event_channel::alloc_unbound(Domid::SELF, Domid(0)),
        Ok(Port(12))
    );
}

#[test]
fn an_error_comes_back_by_name() {
    hypervisor(|_| Errno::ENOENT.to_return());
    assert_eq!(event_channel::close(Port(3)).unwrap_err(), Errno::ENOENT);
}

#[test]
fn a_slice_is_passed_with_its_length() {
    hypervisor(|(number, [cmd, count, address, ..])| {
        assert_eq!(
            (number, cmd),
            (HYPERVISOR_CONSOLE_IO, u64::from(CONSOLEIO_WRITE))
        );
        assert_eq!(count, 5);
        assert_eq!(argument::<[u8; 5]>(address), b"hello");
        0
    });
    assert_eq!(system::console_write(b"hello"), Ok(()));
}

#[test]
fn the_owner_of_page_tables_is_passed_above_the_owner_of_frames() {
    hypervisor(|(number, [_, count, done, foreign, _])| {
        assert_eq!(
            (number, count, foreign),
            (HYPERVISOR_MMU_UPDATE, 2, 0x0004_0005)
        );
        *argument::<u32>(done) = 1;
        Errno::EINVAL.to_return()
    });
    let mut done = 0;
    let foreign = mmu::Foreign::new(Domid(5), Domid(3));
    // SAFETY: this hypervisor has no page tables.
    let result = unsafe { mmu::mmu_update(&[MmuUpdate::default(); 2], Some(&mut done), foreign) };
    assert_eq!(result.unwrap_err(), Errno::EINVAL);
    assert_eq!(done, 1);
}

#[test]
fn registers_that_a_call_gives_up_are_not_relied_on() {
    hypervisor(|_| 0);
    let numbers: Vec<u64> = (1..20).collect();
    let mut sum = 0;
    for number in &numbers {
        sched::yield_now();
        sum += number;
        assert_eq!(sched::set_timer(*number), Ok(()));
    }
    assert_eq!(sum, 190);
    assert_eq!(caller::check(0), Ok(0));
}
