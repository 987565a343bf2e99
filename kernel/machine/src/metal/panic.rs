//! The end: what the hypervisor says when it cannot go on.

use core::fmt::Write;
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, Ordering};

use super::trap::Frame;
use super::uart::{self, Console};
use super::{layout, power, processor, secondary};

static DYING: AtomicBool = AtomicBool::new(false);

/// Prints a heading, once: what fails while this is printing stops the CPU at once.
fn begin() {
    if DYING.swap(true, Ordering::Relaxed) {
        processor::halt();
    }
    secondary::stop_others();
    uart::break_lock();
    uart::write(b"\n*** The hypervisor has stopped ***\n");
}

fn end() -> ! {
    power::stop()
}

/// An exception in the hypervisor itself.
pub fn trap(frame: &Frame) -> ! {
    begin();
    let _ = write!(Console, "{frame}");
    print_stack(frame.rsp, frame.rip);
    end()
}

/// A machine check.
pub fn machine_check() -> ! {
    begin();
    let _ = writeln!(Console, "machine check");
    const COUNT: u32 = 0x179;
    const STATUS: u32 = 0x401;
    let banks = processor::try_read_msr(COUNT).unwrap_or(0) & 0xff;
    for bank in 0..banks as u32 {
        if let Some(status) = processor::try_read_msr(STATUS + 4 * bank)
            && status >> 63 != 0
        {
            let _ = writeln!(Console, "bank {bank}: {status:#018x}");
        }
    }
    end()
}

#[panic_handler]
fn panic(info: &PanicInfo) -> ! {
    begin();
    let _ = writeln!(Console, "{info}");
    let here = (&raw const info).addr() as u64;
    print_stack(here & !7, 0);
    end()
}

/// Prints the words of the stack that may be return addresses.
fn print_stack(rsp: u64, rip: u64) {
    let image = layout::image();
    let is_code = |address: u64| (image.text.0..image.text.1).contains(&address);
    let _ = write!(Console, "return addresses:");
    if is_code(rip) {
        let _ = write!(Console, " [{rip:x}]");
    }
    const STACK_WORDS: u64 = 1024;
    const PRINTED: usize = 48;
    let mut printed = 0;
    for i in 0..STACK_WORDS {
        let address = rsp + 8 * i;
        // Beyond the stack's ends there is nothing.
        let Some(word) = processor::try_read_u64(address) else {
            continue;
        };
        if is_code(word) {
            let _ = write!(Console, " {word:x}");
            printed += 1;
            if printed == PRINTED {
                break;
            }
        }
    }
    let _ = writeln!(Console);
}
