//! [`Cpu`]: what a simulated processor holds, and how it comes to a guest's memory.

use std::cell::Cell;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{MutexGuard, PoisonError};

use hypercall_abi::types::Mfn;

use super::tlb::{Remembered, Tlb};
use super::{Machine, walk};
use crate::{Fault, PAGE_SIZE, Platform, Segments};

/// What the simulated CPU holds.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    /// L4 table; `None` while the machine's own is loaded.
    pub root: Option<Mfn>,
    /// An address around which 2 MiB are left out of that.
    pub hole: Option<u64>,
    /// It is to give that up when a flush is asked of it.
    pub root_left: bool,
    /// Data segments and bases.
    pub segments: Segments,
    /// The guest's part of the GDT.
    pub gdt: Vec<Mfn>,
    /// Size of the LDT window, in entries.
    pub ldt_entries: u32,
    /// Pages of the LDT window.
    pub ldt: [Option<Mfn>; 16],
    /// CR0.TS.
    pub task_switched: bool,
    /// Debug registers.
    pub debug: [u64; 8],
    /// DR6 as the processor left it.
    pub debug_status: u64,
    /// Timer deadline.
    pub deadline: Option<u64>,
    /// Floating-point state, the legacy image.
    pub fpu: Vec<u8>,
    /// XCR0.
    pub extended_control: u64,
    /// CR4 of the guest.
    pub control_bits: u64,
    /// Ticks by which its time-stamp counter is behind the first CPU's.
    pub tsc_lag: u64,
}

/// What [`set_held_locks`] last noted on this thread, which is a CPU's.
pub fn held_locks() -> u64 {
    HELD_LOCKS.get()
}

/// Notes which locks this CPU holds, in bits whose meaning is the caller's.
pub fn set_held_locks(held: u64) {
    HELD_LOCKS.set(held);
}

thread_local! {
    static HELD_LOCKS: Cell<u64> = const { Cell::new(0) };
    pub(super) static CPU: Cell<u32> = const { Cell::new(0) };
}

impl Machine {
    /// Makes the calling host thread CPU `cpu` of every simulated machine.
    pub fn become_cpu(cpu: u32) {
        CPU.with(|current| current.set(cpu));
    }

    /// What CPU `cpu` holds.
    pub fn cpu(&self, cpu: u32) -> Cpu {
        self.cpu_slot(cpu).clone()
    }

    /// Sets the DR6 that the hypervisor will find on this CPU.
    pub fn set_debug_status(&self, dr6: u64) {
        self.this_cpu().debug_status = dr6;
    }

    /// From now on CPUs walk ahead whenever that could do harm: behind every flush, and when the time of one is asked.
    pub fn set_eager(&self) {
        self.eager.store(true, SeqCst);
    }

    /// Every CPU walks ahead: it remembers all that its root reaches, and all that it has passed reaches.
    pub fn remember_all(&self) {
        for cpu in 0..self.cpu_count() {
            let (root, hole) = {
                let slot = self.cpu_slot(cpu);
                (slot.root, slot.hole)
            };
            if let Some(root) = root {
                let left_out = hole.and_then(|va| walk::l1_table(self, root, va));
                self.tlb(cpu).walk_ahead(self, root, left_out);
            }
        }
    }

    /// What CPU `cpu` remembers of walks since its last flush, by frame.
    pub fn remembered(&self, cpu: u32) -> Vec<(Mfn, Remembered)> {
        self.tlb(cpu).uses().collect()
    }

    pub(super) fn cpu_slot(&self, cpu: u32) -> MutexGuard<'_, Cpu> {
        self.cpus[cpu as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn this_cpu(&self) -> MutexGuard<'_, Cpu> {
        self.cpu_slot(self.cpu_id())
    }

    pub(super) fn tlb(&self, cpu: u32) -> MutexGuard<'_, Tlb> {
        self.tlbs[cpu as usize]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Flushes a CPU's TLB, on which it may walk at once.
    pub(super) fn flush(&self, cpu: u32) {
        self.flush_clock.flush(cpu, || self.tlb(cpu).clear());
        self.walk_eagerly();
    }

    pub(super) fn walk_eagerly(&self) {
        if self.eager.load(SeqCst) {
            self.remember_all();
        }
    }

    pub(super) fn set_root(&self, cpu: u32, root: Option<Mfn>, hole: Option<u64>) {
        {
            let mut slot = self.cpu_slot(cpu);
            (slot.root, slot.hole) = (root, hole);
            slot.root_left = false;
        }
        self.flush(cpu);
    }

    pub(super) fn translate(&self, va: u64, write: bool) -> Result<(Mfn, usize), Fault> {
        let (root, hole) = {
            let cpu = self.this_cpu();
            (cpu.root.ok_or(Fault)?, cpu.hole)
        };
        if hole.is_some_and(|hole| hole >> 21 == va >> 21) {
            return Err(Fault);
        }
        let mut tlb = self.tlb(self.cpu_id());
        let mfn = tlb.translate(self, root, va, write).ok_or(Fault)?;
        Ok((mfn, va as usize % PAGE_SIZE))
    }
}
