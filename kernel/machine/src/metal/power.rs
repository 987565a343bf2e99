//! Restarting and stopping the machine.

use core::sync::atomic::{AtomicBool, Ordering};

use super::acpi::Reset;
use super::lock::Lock;
use super::processor::{self, port};
use super::{secondary, uart};

static NO_REBOOT: AtomicBool = AtomicBool::new(false);
static RESET: Lock<Option<Reset>> = Lock::new(None);

/// `noreboot`: whether a failure stops the machine instead of restarting it.
pub fn set_no_reboot(on: bool) {
    NO_REBOOT.store(on, Ordering::Relaxed);
}

/// The reset register that the firmware describes.
pub fn set_reset(reset: Option<Reset>) {
    *RESET.lock() = reset;
}

/// After a failure: restarts the machine, or stops it if `noreboot` says so.
pub fn stop() -> ! {
    secondary::stop_others();
    if NO_REBOOT.load(Ordering::Relaxed) {
        processor::halt();
    }
    uart::write(b"Restarting in five seconds.\n");
    // The rate may not be known yet: at 3 GHz these are five seconds.
    let start = processor::tsc();
    while processor::tsc().wrapping_sub(start) < 15_000_000_000 {
        core::hint::spin_loop();
    }
    reboot()
}

/// Restarts the machine: by the firmware's register, the keyboard controller, the chipset's port, and at last by a
/// triple fault.
pub fn reboot() -> ! {
    secondary::stop_others();
    const KEYBOARD: u16 = 0x64;
    const CHIPSET: u16 = 0xcf9;
    let reset = RESET.try_lock().and_then(|reset| *reset);
    // SAFETY: the machine restarts; nothing that these ports do matters any more.
    unsafe {
        if let Some(reset) = reset {
            port::out8(reset.port, reset.value);
            pause();
        }
        port::out8(KEYBOARD, 0xfe);
        pause();
        port::out8(CHIPSET, 0x02);
        port::out8(CHIPSET, 0x06);
        pause();
        let no_table = [0_u8; 10];
        core::arch::asm!("lidt [{}]", "int3", in(reg) &no_table, options(noreturn));
    }
}

fn pause() {
    for _ in 0..1_000_000 {
        core::hint::spin_loop();
    }
}
