//! The interrupt-descriptor table, and the registers that `syscall` and `sysenter` go by.

use core::arch::asm;
use core::cell::UnsafeCell;

use super::cpu::{self, Block};
use super::gdt;
use super::processor::{Features, msr, write_msr};

#[repr(C, align(4096))]
struct Table(UnsafeCell<[[u64; 2]; 256]>);

// SAFETY: written by `fill` alone, before any CPU loads it.
unsafe impl Sync for Table {}

static IDT: Table = Table(UnsafeCell::new([[0; 2]; 256]));

#[repr(C, packed)]
struct TableRegister {
    limit: u16,
    base: u64,
}

const BREAKPOINT: usize = 3;
const OVERFLOW: usize = 4;
const PAGE_FAULT: usize = 14;

/// Flags that `syscall` clears: TF, IF, DF, IOPL, NT, RF, VM, AC.
const SYSCALL_MASK: u64 = 0x0007_7700;

unsafe extern "C" {
    static vector_entries: u8;
    static page_fault_entry: u8;
    static syscall_entry: u8;
    static syscall32_entry: u8;
    static sysenter_entry: u8;
}

/// Fills the table, which all CPUs share.
///
/// # Safety
/// To be called once, before [`load`].
pub unsafe fn fill() {
    let first = (&raw const vector_entries).addr() as u64;
    let mut table = [[0; 2]; 256];
    for (vector, gate) in table.iter_mut().enumerate() {
        let handler = match vector {
            PAGE_FAULT => (&raw const page_fault_entry).addr() as u64,
            _ => first + 16 * vector as u64,
        };
        let stack = match vector {
            1 => cpu::DEBUG_STACK,
            2 => cpu::NMI_STACK,
            8 => cpu::DOUBLE_FAULT_STACK,
            18 => cpu::MACHINE_CHECK_STACK,
            _ => 0,
        };
        // `int n` is the guest's for these two alone; any other is a general-protection fault that names it.
        let ring: u64 = if vector == BREAKPOINT || vector == OVERFLOW {
            3
        } else {
            0
        };
        const PRESENT_INTERRUPT_GATE: u64 = 0x8e;
        *gate = [
            handler & 0xffff
                | u64::from(gdt::HYPERVISOR_CS) << 16
                | u64::from(stack) << 32
                | (PRESENT_INTERRUPT_GATE | ring << 5) << 40
                | (handler >> 16 & 0xffff) << 48,
            handler >> 32,
        ];
    }
    // SAFETY: no CPU uses the table yet.
    unsafe { IDT.0.get().write(table) };
}

/// Makes the table this CPU's and sets up the system-call entries.
///
/// # Safety
/// The GDT and the window of this CPU are in place, and the table is filled.
pub unsafe fn load(block: &Block, features: &Features) {
    let register = TableRegister {
        limit: 256 * 16 - 1,
        base: IDT.0.get().addr() as u64,
    };
    let entry = |symbol: *const u8| cpu::entry_address(block.id, symbol.addr() as u64);
    let star = u64::from(gdt::HYPERVISOR_CS) << 32 | u64::from(gdt::GUEST_CS32) << 48;
    // SAFETY: the table's gates lead to entry.s; the entry page of the window has the entries.
    unsafe {
        asm!("lidt [{}]", in(reg) &register, options(readonly, nostack, preserves_flags));
        write_msr(msr::STAR, star);
        write_msr(msr::LSTAR, entry(&raw const syscall_entry));
        write_msr(msr::CSTAR, entry(&raw const syscall32_entry));
        write_msr(msr::SFMASK, SYSCALL_MASK);
        if features.sysenter {
            write_msr(msr::SYSENTER_CS, gdt::HYPERVISOR_CS.into());
            write_msr(msr::SYSENTER_ESP, cpu::stack_top(block.id));
            write_msr(msr::SYSENTER_EIP, entry(&raw const sysenter_entry));
        }
    }
}
