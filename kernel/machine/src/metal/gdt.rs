//! The hypervisor's descriptors: page 14 of the GDT window, at the selectors that `arch-x86/xen-x86_64.h` promises
//! to guests, and the LDT's descriptor.

use core::arch::asm;

use super::cpu::{self, Block};
use crate::PAGE_SIZE;

/// Code segment of ring 0.
pub const HYPERVISOR_CS: u16 = 0xe008;
/// Data segment of ring 0.
pub const HYPERVISOR_DS: u16 = 0xe010;
/// What `sysret` counts from: 32-bit code, then data, then 64-bit code of ring 3.
pub const GUEST_CS32: u16 = 0xe023;
const TASK_STATE: u16 = 0xe040;
const LDT: u16 = 0xe050;

const LDT_TYPE: u64 = 0x82;
const TASK_STATE_TYPE: u64 = 0x89;

#[repr(C, packed)]
struct TableRegister {
    limit: u16,
    base: u64,
}

fn entry(cpu: u32, selector: u16) -> *mut u64 {
    let address = cpu::address(cpu, cpu::GDT) + u64::from(selector & !7);
    core::ptr::with_exposed_provenance_mut(address as usize)
}

/// The two words of a system descriptor.
fn system_descriptor(base: u64, limit: u64, kind: u64) -> [u64; 2] {
    let low = limit & 0xffff
        | (base & 0xff_ffff) << 16
        | kind << 40
        | (limit >> 16 & 0xf) << 48
        | (base >> 24 & 0xff) << 56;
    [low, base >> 32]
}

/// Fills in the hypervisor's descriptors and makes the table, the segments and the TSS this CPU's.
///
/// # Safety
/// To be called once on each CPU, with its window mapped.
pub unsafe fn load(block: &Block) {
    let cpu = block.id;
    let task_state = (&raw const block.task_state).addr() as u64;
    let [low, high] = system_descriptor(task_state, 103, TASK_STATE_TYPE);
    for (selector, value) in [
        (HYPERVISOR_CS, 0x00af_9b00_0000_ffff),
        (HYPERVISOR_DS, 0x00cf_9300_0000_ffff),
        (GUEST_CS32, 0x00cf_fb00_0000_ffff),
        (GUEST_CS32 + 8, 0x00cf_f300_0000_ffff),
        (GUEST_CS32 + 16, 0x00af_fb00_0000_ffff),
        (TASK_STATE, low),
        (TASK_STATE + 8, high),
    ] {
        // SAFETY: the selector is in page 14 of the window, which is this CPU's alone.
        unsafe { entry(cpu, selector).write_volatile(value) };
    }
    let register = TableRegister {
        limit: (15 * PAGE_SIZE - 1) as u16,
        base: cpu::address(cpu, cpu::GDT),
    };
    // SAFETY: the descriptors are in place. The far return continues at the next instruction with the new CS.
    unsafe {
        asm!(
            "lgdt [{register}]",
            "push {cs}",
            "lea {scratch}, [rip + 2f]",
            "push {scratch}",
            "retfq",
            "2:",
            "mov ss, {ds:x}",
            "xor {scratch:e}, {scratch:e}",
            "mov ds, {scratch:x}",
            "mov es, {scratch:x}",
            "mov fs, {scratch:x}",
            "mov gs, {scratch:x}",
            "lldt {scratch:x}",
            "ltr {tr:x}",
            register = in(reg) &register,
            cs = in(reg) u64::from(HYPERVISOR_CS),
            ds = in(reg) u32::from(HYPERVISOR_DS),
            tr = in(reg) u32::from(TASK_STATE),
            scratch = out(reg) _,
        );
    }
}

/// Makes the LDT window, of so many entries, the LDT; none for 0.
pub fn load_ldt(block: &Block, entries: u32) {
    assert!(entries <= 8192, "an LDT of {entries} entries");
    let selector = if entries == 0 {
        0
    } else {
        let base = cpu::address(block.id, cpu::LDT);
        let [low, high] = system_descriptor(base, u64::from(entries) * 8 - 1, LDT_TYPE);
        // SAFETY: the selector is in page 14 of the window, which is this CPU's alone.
        unsafe {
            entry(block.id, LDT).write_volatile(low);
            entry(block.id, LDT + 8).write_volatile(high);
        }
        LDT
    };
    // SAFETY: null, or the descriptor written above. Its pages are the guest's or not mapped.
    unsafe { asm!("lldt {:x}", in(reg) u32::from(selector), options(nostack, preserves_flags)) };
}
