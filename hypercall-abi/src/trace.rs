//! The trace that the hypervisor writes (`xen/trace.h`): buffers and event numbers.

use crate::layout::{constants, structs};

constants! {
    /// Most words of data in a record.
    pub const TRACE_EXTRA_MAX: u32 = 7;
    /// Where their number is in a record's header.
    pub const TRACE_EXTRA_SHIFT: u32 = 28;
    /// Where the class is in an event's number.
    pub const TRC_CLS_SHIFT: u32 = 16;
    /// Class: general.
    pub const TRC_GEN: u32 = 0x0001_f000;
    /// Class: scheduler.
    pub const TRC_SCHED: u32 = 0x0002_f000;
    /// Class: operations on domains.
    pub const TRC_DOM0OP: u32 = 0x0004_f000;
    /// Class: hardware-virtualized guests.
    pub const TRC_HVM: u32 = 0x0008_f000;
    /// Class: memory.
    pub const TRC_MEM: u32 = 0x0010_f000;
    /// Class: PV guests.
    pub const TRC_PV: u32 = 0x0020_f000;
    /// Class: shadow tables.
    pub const TRC_SHADOW: u32 = 0x0040_f000;
    /// Class: hardware.
    pub const TRC_HW: u32 = 0x0080_f000;
    /// Class: written by guests.
    pub const TRC_GUEST: u32 = 0x0800_f000;
    /// All classes.
    pub const TRC_ALL: u32 = 0x0fff_f000;
    /// Bit of a record's header: a time stamp follows.
    pub const TRC_HD_CYCLE_FLAG: u32 = 1 << 31;
    /// Where the subclass is in an event's number.
    pub const TRC_SUBCLS_SHIFT: u32 = 12;
    /// Subclass: runstates.
    pub const TRC_SCHED_MIN: u32 = 0x0002_1000;
    /// Subclass: of one scheduler.
    pub const TRC_SCHED_CLASS: u32 = 0x0002_2000;
    /// Subclass: of all schedulers.
    pub const TRC_SCHED_VERBOSE: u32 = 0x0002_8000;
    /// Bits of the scheduler's number.
    pub const TRC_SCHED_ID_BITS: u32 = 3;
    /// Where the scheduler's number is in an event's number.
    pub const TRC_SCHED_ID_SHIFT: u32 = TRC_SUBCLS_SHIFT - TRC_SCHED_ID_BITS;
    /// Those bits.
    pub const TRC_SCHED_ID_MASK: u64 = ((1 << TRC_SCHED_ID_BITS) - 1) << TRC_SCHED_ID_SHIFT;
    /// All other bits.
    pub const TRC_SCHED_EVT_MASK: u64 = !TRC_SCHED_ID_MASK;
    /// The credit scheduler's number.
    pub const TRC_SCHED_CSCHED: u32 = 0;
    /// The second credit scheduler's number.
    pub const TRC_SCHED_CSCHED2: u32 = 1;
    /// The number of the scheduler of ARINC 653.
    pub const TRC_SCHED_ARINC653: u32 = 3;
    /// The deadline scheduler's number.
    pub const TRC_SCHED_RTDS: u32 = 4;
    /// The null scheduler's number.
    pub const TRC_SCHED_SNULL: u32 = 5;
    /// Subclass: domains.
    pub const TRC_DOM0_DOMOPS: u32 = 0x0004_1000;
    /// Subclass: power.
    pub const TRC_HW_PM: u32 = 0x0080_1000;
    /// Subclass: interrupts.
    pub const TRC_HW_IRQ: u32 = 0x0080_2000;
    /// Records were lost.
    pub const TRC_LOST_RECORDS: u32 = TRC_GEN + 1;
    /// The buffer begins anew.
    pub const TRC_TRACE_WRAP_BUFFER: u32 = TRC_GEN + 2;
    /// The following records are of another CPU.
    pub const TRC_TRACE_CPU_CHANGE: u32 = TRC_GEN + 3;
    /// A vCPU's runstate changed.
    pub const TRC_SCHED_RUNSTATE_CHANGE: u32 = TRC_SCHED_MIN + 1;
    /// A vCPU goes on.
    pub const TRC_SCHED_CONTINUE_RUNNING: u32 = TRC_SCHED_MIN + 2;
    /// A domain was added.
    pub const TRC_SCHED_DOM_ADD: u32 = TRC_SCHED_VERBOSE + 1;
    /// A domain was removed.
    pub const TRC_SCHED_DOM_REM: u32 = TRC_SCHED_VERBOSE + 2;
    /// A vCPU sleeps.
    pub const TRC_SCHED_SLEEP: u32 = TRC_SCHED_VERBOSE + 3;
    /// A vCPU wakes.
    pub const TRC_SCHED_WAKE: u32 = TRC_SCHED_VERBOSE + 4;
    /// A vCPU yields.
    pub const TRC_SCHED_YIELD: u32 = TRC_SCHED_VERBOSE + 5;
    /// A vCPU blocks.
    pub const TRC_SCHED_BLOCK: u32 = TRC_SCHED_VERBOSE + 6;
    /// A domain shuts down.
    pub const TRC_SCHED_SHUTDOWN: u32 = TRC_SCHED_VERBOSE + 7;
    /// An operation on the scheduler.
    pub const TRC_SCHED_CTL: u32 = TRC_SCHED_VERBOSE + 8;
    /// A domain's parameters changed.
    pub const TRC_SCHED_ADJDOM: u32 = TRC_SCHED_VERBOSE + 9;
    /// Another vCPU runs.
    pub const TRC_SCHED_SWITCH: u32 = TRC_SCHED_VERBOSE + 10;
    /// The scheduler's timer.
    pub const TRC_SCHED_S_TIMER_FN: u32 = TRC_SCHED_VERBOSE + 11;
    /// The tick's timer.
    pub const TRC_SCHED_T_TIMER_FN: u32 = TRC_SCHED_VERBOSE + 12;
    /// A domain's timer.
    pub const TRC_SCHED_DOM_TIMER_FN: u32 = TRC_SCHED_VERBOSE + 13;
    /// Which vCPU ran.
    pub const TRC_SCHED_SWITCH_INFPREV: u32 = TRC_SCHED_VERBOSE + 14;
    /// Which vCPU runs.
    pub const TRC_SCHED_SWITCH_INFNEXT: u32 = TRC_SCHED_VERBOSE + 15;
    /// A domain latches the reason of a shutdown.
    pub const TRC_SCHED_SHUTDOWN_CODE: u32 = TRC_SCHED_VERBOSE + 16;
    /// Which vCPU goes on.
    pub const TRC_SCHED_SWITCH_INFCONT: u32 = TRC_SCHED_VERBOSE + 17;
    /// A domain was created.
    pub const TRC_DOM0_DOM_ADD: u32 = TRC_DOM0_DOMOPS + 1;
    /// A domain was destroyed.
    pub const TRC_DOM0_DOM_REM: u32 = TRC_DOM0_DOMOPS + 2;
    /// A grant was mapped.
    pub const TRC_MEM_PAGE_GRANT_MAP: u32 = TRC_MEM + 1;
    /// A grant was unmapped.
    pub const TRC_MEM_PAGE_GRANT_UNMAP: u32 = TRC_MEM + 2;
    /// A frame was given.
    pub const TRC_MEM_PAGE_GRANT_TRANSFER: u32 = TRC_MEM + 3;
    /// A guest-physical frame was mapped.
    pub const TRC_MEM_SET_P2M_ENTRY: u32 = TRC_MEM + 4;
    /// Memory was given back.
    pub const TRC_MEM_DECREASE_RESERVATION: u32 = TRC_MEM + 5;
    /// A page was populated on demand.
    pub const TRC_MEM_POD_POPULATE: u32 = TRC_MEM + 16;
    /// A zero page was taken back.
    pub const TRC_MEM_POD_ZERO_RECLAIM: u32 = TRC_MEM + 17;
    /// A superpage was split.
    pub const TRC_MEM_POD_SUPERPAGE_SPLINTER: u32 = TRC_MEM + 18;
    /// Subclass: entries from PV guests.
    pub const TRC_PV_ENTRY: u32 = 0x0020_1000;
    /// Subclass: calls in a multicall.
    pub const TRC_PV_SUBCALL: u32 = 0x0020_2000;
    /// A hypercall.
    pub const TRC_PV_HYPERCALL: u32 = TRC_PV_ENTRY + 1;
    /// A trap.
    pub const TRC_PV_TRAP: u32 = TRC_PV_ENTRY + 3;
    /// A page fault.
    pub const TRC_PV_PAGE_FAULT: u32 = TRC_PV_ENTRY + 4;
    /// The prefix for emulation.
    pub const TRC_PV_FORCED_INVALID_OP: u32 = TRC_PV_ENTRY + 5;
    /// A privileged instruction.
    pub const TRC_PV_EMULATE_PRIVOP: u32 = TRC_PV_ENTRY + 6;
    /// A segment's limit.
    pub const TRC_PV_EMULATE_4GB: u32 = TRC_PV_ENTRY + 7;
    /// The FPU's state was restored.
    pub const TRC_PV_MATH_STATE_RESTORE: u32 = TRC_PV_ENTRY + 8;
    /// A fault was put right.
    pub const TRC_PV_PAGING_FIXUP: u32 = TRC_PV_ENTRY + 9;
    /// A fault on a descriptor table.
    pub const TRC_PV_GDT_LDT_MAPPING_FAULT: u32 = TRC_PV_ENTRY + 10;
    /// A store to a page table.
    pub const TRC_PV_PTWR_EMULATION: u32 = TRC_PV_ENTRY + 11;
    /// A store to a page table of a 32-bit guest.
    pub const TRC_PV_PTWR_EMULATION_PAE: u32 = TRC_PV_ENTRY + 12;
    /// A hypercall, with arguments.
    pub const TRC_PV_HYPERCALL_V2: u32 = TRC_PV_ENTRY + 13;
    /// A call in a multicall, with arguments.
    pub const TRC_PV_HYPERCALL_SUBCALL: u32 = TRC_PV_SUBCALL + 14;
    /// Which arguments there are.
    pub const TRC_PV_HYPERCALL_V2_ARG_MASK: u32 = 0xfff0_0000;
    /// A CPU's frequency changed.
    pub const TRC_PM_FREQ_CHANGE: u32 = TRC_HW_PM + 1;
    /// A CPU goes idle.
    pub const TRC_PM_IDLE_ENTRY: u32 = TRC_HW_PM + 2;
    /// A CPU is no longer idle.
    pub const TRC_PM_IDLE_EXIT: u32 = TRC_HW_PM + 3;
    /// An interrupt's old vector is still in use.
    pub const TRC_HW_IRQ_MOVE_CLEANUP_DELAY: u32 = TRC_HW_IRQ + 1;
    /// An interrupt's old vector is freed.
    pub const TRC_HW_IRQ_MOVE_CLEANUP: u32 = TRC_HW_IRQ + 2;
    /// An interrupt is bound to a vector.
    pub const TRC_HW_IRQ_BIND_VECTOR: u32 = TRC_HW_IRQ + 3;
    /// An interrupt has no vector.
    pub const TRC_HW_IRQ_CLEAR_VECTOR: u32 = TRC_HW_IRQ + 4;
    /// An interrupt came by its new vector.
    pub const TRC_HW_IRQ_MOVE_FINISH: u32 = TRC_HW_IRQ + 5;
    /// An interrupt gets a vector.
    pub const TRC_HW_IRQ_ASSIGN_VECTOR: u32 = TRC_HW_IRQ + 6;
    /// An interrupt came by a vector that none has.
    pub const TRC_HW_IRQ_UNMAPPED_VECTOR: u32 = TRC_HW_IRQ + 7;
    /// An interrupt was handled.
    pub const TRC_HW_IRQ_HANDLED: u32 = TRC_HW_IRQ + 8;
    /// Added to an event's number: addresses are 64 bits wide.
    pub const TRC_64_FLAG: u32 = 0x100;
}

/// Class: what Xen has no events for. Its tools pass over numbers that they do not know.
pub const TRC_XENOLITH: u32 = 0x0100_f000;
/// A port became pending: domain and port.
pub const TRC_XENOLITH_EVENT: u32 = 0x0100_1001;
/// A page table was unhooked: domain and vCPU as in a runstate's record, its frame as two words, 0.
pub const TRC_XENOLITH_UNHOOK: u32 = 0x0100_2001;
/// A page table was hooked back: the same, and how many entries were changed.
pub const TRC_XENOLITH_REHOOK: u32 = 0x0100_2002;

structs! {
    /// The start of a CPU's buffer. Records follow.
    pub struct TBuf[8] = "struct t_buf" {
        /// Offset of the next record to be read, in bytes, modulo twice the size.
        pub cons: u32,
        /// Offset of the next record to be written.
        pub prod: u32,
    }

    /// The start of the description of all buffers. For each CPU follows the offset of its list of
    /// frames, a `u16` in units of 4 bytes; then the lists, of `u32`.
    pub struct TInfo[2] = "struct t_info" {
        /// Size of a buffer in pages.
        pub tbuf_size: u16,
    }
}
