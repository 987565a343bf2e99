//! The end of a guest that cannot go on: a report on the console, and a crash that the toolstack
//! sees.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::console::{flush, print_emergency};
use crate::power::{Reason, shutdown};
use crate::{cpu, traps, vcpus};

unsafe extern "C" {
    static __image_start: u8;
    static __rodata_start: u8;
}

/// How many words of the stack that look like return addresses are shown.
const TRACE: usize = 16;

static PANICKING: AtomicBool = AtomicBool::new(false);

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    cpu::disable_upcalls();
    // A panic while reporting one would go on for ever.
    if !PANICKING.swap(true, Relaxed) {
        let frame = traps::current_frame();
        print_emergency(format_args!(
            "\n*** {info}\nat the panic:\n{frame}\nreturn addresses:"
        ));
        print_trace(frame.rsp);
        print_emergency(format_args!("\n"));
        flush();
    }
    shutdown(Reason::Crash)
}

fn print_trace(stack: u64) {
    let address = |symbol: *const u8| symbol.addr() as u64;
    let text = address(&raw const __image_start)..address(&raw const __rodata_start);
    let bounds = vcpus::stack();
    if !bounds.contains(&stack) {
        return;
    }
    let words = (stack.next_multiple_of(8)..bounds.end).step_by(8);
    let words = words.map(|place| {
        // SAFETY: within this vCPU's stack, and aligned; the words are only printed.
        unsafe { core::ptr::with_exposed_provenance::<u64>(place as usize).read_volatile() }
    });
    for word in words.filter(|word| text.contains(word)).take(TRACE) {
        print_emergency(format_args!(" {word:#x}"));
    }
}
