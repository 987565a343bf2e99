//! The machine as it is: x86-64 without anything underneath.
//!
//! How it boots is in `boot`; how it is laid out in memory in `layout` and `cpu`; how guests are entered and left in
//! `trap` and entry.s. The parts that only compute are built for the host too, where they are tested.

mod calibration;
mod efi;
mod memory;
mod multiboot;
mod options;
mod rtc;
mod shootdown;
mod tsc_sync;

#[cfg(target_os = "none")]
mod acpi;
#[cfg(target_os = "none")]
mod apic;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod device;
#[cfg(target_os = "none")]
mod fpu;
#[cfg(target_os = "none")]
mod frames;
#[cfg(target_os = "none")]
mod gdt;
#[cfg(target_os = "none")]
mod guest_copy;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod idt;
#[cfg(target_os = "none")]
mod interrupts;
#[cfg(target_os = "none")]
mod ioapic;
#[cfg(target_os = "none")]
mod layout;
#[cfg(target_os = "none")]
mod lock;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod machine_to_phys;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod power;
#[cfg(target_os = "none")]
mod processor;
#[cfg(target_os = "none")]
mod secondary;
#[cfg(target_os = "none")]
mod segments;
#[cfg(target_os = "none")]
mod tlb;
#[cfg(target_os = "none")]
mod trap;
#[cfg(target_os = "none")]
mod tsc;
#[cfg(target_os = "none")]
mod uart;

#[cfg(target_os = "none")]
pub use lock::relax;
#[cfg(all(target_os = "none", debug_assertions))]
pub use lock::{held_locks, set_held_locks};
#[cfg(target_os = "none")]
pub use machine::Machine;
#[cfg(target_os = "none")]
use machine_to_phys::MachineToPhys;

/// Prints a line of the boot log.
#[cfg(target_os = "none")]
macro_rules! log {
    ($($argument:tt)*) => {
        $crate::metal::machine::log_line(format_args!($($argument)*))
    };
}
#[cfg(target_os = "none")]
use log;

/// A reference to a static of this crate by its distance. What is inlined into other crates would load its address
/// from the table of these, and after a flush of the TLB the table's page costs as much as the static's.
#[cfg(target_os = "none")]
macro_rules! nearby {
    ($name:path: $type:ty) => {{
        let address: *const $type;
        // SAFETY: the instruction computes the static's address.
        unsafe {
            core::arch::asm!("lea {address}, [rip + {name}]", name = sym $name, address = out(reg) address,
                options(pure, nomem, nostack, preserves_flags));
            &*address
        }
    }};
}
#[cfg(target_os = "none")]
use nearby;

/// Makes two functions of type `fn(&'static Machine) -> !` the ones that boot ends in: on the first CPU, and on each
/// of the others once the first has called [`Platform::release_cpus`](crate::Platform::release_cpus).
#[macro_export]
macro_rules! entry {
    ($start:path, $join:path) => {
        #[unsafe(no_mangle)]
        fn xenolith_main(machine: &'static $crate::Machine) -> ! {
            $start(machine)
        }

        #[unsafe(no_mangle)]
        fn xenolith_secondary(machine: &'static $crate::Machine) -> ! {
            $join(machine)
        }
    };
}
