//! What each CPU has for itself: a window of 1 MiB beside the image, the same inside for every CPU.
//!
//! | offset | holds |
//! |---|---|
//! | 0x00000 | GDT: 14 pages of the guest's, one of the hypervisor's |
//! | 0x10000 | LDT of the guest: 16 pages |
//! | 0x21000 | entry code (entry.s), which reaches the block relative to its own address |
//! | 0x22000 | the block: TSS and what the entry code needs |
//! | 0x40000 | stacks of #DF, NMI, #MC and #DB, 12 KiB each above an unmapped page |
//! | 0x60000 | the stack, above an unmapped page |
//!
//! All stacks of a CPU are in its window, so the stack pointer tells which CPU this is.

use core::arch::asm;
use core::cell::Cell;

use super::frames::{direct, raw_zero};
use super::layout;
use super::paging::{Builder, Flags, Purpose};
use crate::{GUEST_GDT_FRAMES, PAGE_SIZE};

const WINDOW: u64 = 1 << 20;
/// Offset of the GDT.
pub const GDT: u64 = 0;
/// Offset of the LDT.
pub const LDT: u64 = 0x1_0000;
/// Bytes of the LDT's part of the window.
pub const LDT_SIZE: u64 = 0x1_0000;
const ENTRY: u64 = 0x2_1000;
const BLOCK: u64 = 0x2_2000;
const FAULT_STACKS: u64 = 0x4_0000;
const FAULT_STACK: u64 = 0x4000;
const STACK: u64 = 0x6_0000;
const STACK_SIZE: u64 = 0x2_0000;

/// Stacks by number in the TSS, from 1.
pub const DOUBLE_FAULT_STACK: u8 = 1;
/// Stack of the non-maskable interrupt.
pub const NMI_STACK: u8 = 2;
/// Stack of the machine check.
pub const MACHINE_CHECK_STACK: u8 = 3;
/// Stack of the debug exception: it can hit the first instruction behind a `syscall`.
pub const DEBUG_STACK: u8 = 4;

/// Page of the GDT that the hypervisor's descriptors are in.
pub const RESERVED_GDT_PAGE: u64 = 14;

/// Task-state segment.
#[repr(C, packed(4))]
pub struct TaskState {
    reserved0: u32,
    rsp: [u64; 3],
    reserved1: u64,
    ist: [u64; 7],
    reserved2: u64,
    reserved3: u16,
    io_map: u16,
}

/// A CPU's own data. The offsets that entry.s uses are checked below.
#[repr(C)]
pub struct Block {
    _pad: u32,
    /// Its `rsp[0]` is where the host's registers are while a guest runs.
    pub task_state: TaskState,
    _pad2: u32,
    /// The guest's stack pointer, in the first instructions of `syscall`'s entry.
    scratch: Cell<u64>,
    /// The register file of the guest that runs.
    registers: Cell<u64>,
    /// This CPU's number.
    pub id: u32,
    /// Vector of the interrupt that ended `idle_wait`, plus one.
    pub woken_by: Cell<u32>,
    /// A non-maskable interrupt came while the hypervisor ran.
    pub nmi_pending: Cell<bool>,
    /// What the timer was last set to.
    pub deadline: Cell<Option<u64>>,
    /// The root that is loaded is needed no more.
    pub root_left: Cell<bool>,
    /// The entries of this window in its level-1 table, in the direct map.
    window_entries: Cell<*mut u64>,
    /// Number of guest frames in the GDT.
    pub gdt_frames: Cell<usize>,
    /// Which pages of the LDT are mapped.
    pub ldt_pages: Cell<u16>,
    /// Frames, by machine address, for copies of an L4, an L3 and an L2 table of a guest.
    pub table_copies: [u64; 3],
    /// DR7 as last loaded.
    pub debug_control: Cell<u64>,
    /// Ticks by which this CPU's time-stamp counter is behind the first CPU's, modulo 2^64.
    pub tsc_lag: Cell<u64>,
    /// Which locks of the core this CPU holds, as the core notes them.
    #[cfg(debug_assertions)]
    pub held_locks: Cell<u64>,
}

const _: () = {
    assert!(core::mem::offset_of!(Block, task_state) == 4);
    assert!(core::mem::size_of::<TaskState>() == 104);
    assert!(core::mem::offset_of!(Block, scratch) == 0x70);
    assert!(core::mem::offset_of!(Block, registers) == 0x78);
    assert!(core::mem::size_of::<Block>() <= PAGE_SIZE);
};

fn window(cpu: u32) -> u64 {
    layout::CPU_WINDOWS + u64::from(cpu) * WINDOW
}

/// Address of something in a CPU's window.
pub fn address(cpu: u32, offset: u64) -> u64 {
    window(cpu) + offset
}

/// Top of a CPU's stack.
pub fn stack_top(cpu: u32) -> u64 {
    window(cpu) + STACK + STACK_SIZE
}

/// Where the `syscall` entry named by `symbol` of the image is in a CPU's window.
pub fn entry_address(cpu: u32, symbol: u64) -> u64 {
    window(cpu) + ENTRY + symbol % PAGE_SIZE as u64
}

/// Maps a CPU's window with everything in it and prepares its block. Needs the boot tables' direct map.
pub fn build(tables: &mut Builder, cpu: u32, image: u64, zero_page: u64) {
    unsafe extern "C" {
        static cpu_entry_start: u8;
    }
    let base = window(cpu);
    let page = PAGE_SIZE as u64;
    let fresh = |tables: &mut Builder, offset: u64, pages: u64| -> u64 {
        let mut last = 0;
        for i in 0..pages {
            let frame = tables
                .free()
                .take(page, page, 1 << 32)
                .expect("no memory for a CPU's stacks");
            // SAFETY: the frame was free, and the boot tables' direct map reaches it.
            unsafe { raw_zero(direct(frame), PAGE_SIZE) };
            tables.map(base + offset + i * page, frame, page, Purpose::Data);
            last = frame;
        }
        last
    };

    for i in 0..GUEST_GDT_FRAMES as u64 {
        tables.map(base + GDT + i * page, zero_page, page, Purpose::Constants);
    }
    fresh(tables, GDT + RESERVED_GDT_PAGE * page, 1);
    let entry = image + ((&raw const cpu_entry_start).addr() as u64 - layout::IMAGE);
    tables.map(base + ENTRY, entry, page, Purpose::Code);
    let block = fresh(tables, BLOCK, 1);
    for i in 0..4 {
        fresh(
            tables,
            FAULT_STACKS + i * FAULT_STACK + page,
            FAULT_STACK / page - 1,
        );
    }
    fresh(tables, STACK + page, STACK_SIZE / page - 1);

    let table_copies = [(); 3].map(|()| {
        let frame = tables.free().take(page, page, 1 << 32);
        frame.expect("no memory for a CPU's tables")
    });
    let window_entries = tables.entry(base, 1, false);
    let mut ist = [0; 7];
    for (i, stack) in (0..4).zip(ist.iter_mut()) {
        *stack = base + FAULT_STACKS + (i + 1) * FAULT_STACK;
    }
    let value = Block {
        _pad: 0,
        task_state: TaskState {
            reserved0: 0,
            rsp: [stack_top(cpu), 0, 0],
            reserved1: 0,
            ist,
            reserved2: 0,
            reserved3: 0,
            // Behind the limit: no port is open to ring 3.
            io_map: 104,
        },
        _pad2: 0,
        scratch: Cell::new(0),
        registers: Cell::new(0),
        id: cpu,
        woken_by: Cell::new(0),
        nmi_pending: Cell::new(false),
        deadline: Cell::new(None),
        root_left: Cell::new(false),
        window_entries: Cell::new(window_entries),
        gdt_frames: Cell::new(0),
        ldt_pages: Cell::new(0),
        table_copies,
        debug_control: Cell::new(0),
        tsc_lag: Cell::new(0),
        #[cfg(debug_assertions)]
        held_locks: Cell::new(0),
    };
    // SAFETY: the page is fresh and the block fits.
    unsafe { direct(block).cast::<Block>().write(value) };
}

/// This CPU's block.
///
/// It lives for ever; `&'static` would let it be sent to another CPU, and its `Cell`s keep that from happening.
#[inline]
pub fn this() -> &'static Block {
    let rsp: u64;
    // SAFETY: reading the stack pointer changes nothing.
    unsafe { asm!("mov {}, rsp", out(reg) rsp, options(nomem, nostack, preserves_flags)) };
    let block =
        core::ptr::with_exposed_provenance::<Block>(((rsp & !(WINDOW - 1)) + BLOCK) as usize);
    // SAFETY: all stacks of a CPU but the one of early boot are in its window, whose block `build` has filled.
    unsafe { &*block }
}

impl Block {
    /// Changes the mapping of a page of the window. The caller flushes the translation where one was in use.
    pub fn set_window_page(&self, offset: u64, entry: u64) {
        assert!(offset < BLOCK, "only descriptor tables are remapped");
        let index = (offset >> 12) as usize;
        // SAFETY: the window has an entry for each of its pages, all in one table, and only this CPU changes them.
        unsafe { self.window_entries.get().add(index).write_volatile(entry) };
    }

    /// Where in this CPU's LDT window an address is.
    #[inline]
    pub fn ldt_offset(&self, va: u64) -> Option<u32> {
        let window = core::ptr::from_ref(self).addr() as u64 - BLOCK;
        let offset = va.wrapping_sub(window + LDT);
        (offset < LDT_SIZE).then_some(offset as u32)
    }

    /// Where the host's registers are while a guest runs, or were when one last ran.
    pub fn host_stack(&self) -> u64 {
        let rsp = self.task_state.rsp;
        rsp[0]
    }
}

/// Entry of a page in a descriptor-table window.
pub fn window_entry(flags: &Flags, address: u64, writable: bool) -> u64 {
    // Not global: it changes with the vCPU.
    flags.leaf(
        address,
        if writable {
            Purpose::Data
        } else {
            Purpose::Constants
        },
    ) & !super::paging::GLOBAL
}
