//! Records of what was done to the hardware, and what it answers, for tests to look at and to set.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{MutexGuard, PoisonError};

use super::Machine;
use super::script::Script;
use crate::{GuestContext, Polarity, TriggerMode};

/// A TLB flush that the hypervisor asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flush {
    /// Everything, on these CPUs.
    All(u64),
    /// One page of one CPU.
    Page(u32, u64),
}

/// Scripts for the guests and records of what was done to the hardware.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) script: VecDeque<Script>,
    pub(super) entered: Vec<GuestContext>,
    pub(super) flushes: Vec<Flush>,
    pub(super) cache_flushes: u32,
    pub(super) interrupted: u64,
    pub(super) output: Vec<u8>,
    pub(super) input: VecDeque<u8>,
    pub(super) ports: BTreeMap<u16, u32>,
    pub(super) port_writes: Vec<(u16, u32, u32)>,
    pub(super) msrs: BTreeMap<u32, u64>,
    pub(super) cpuid: BTreeMap<(u32, u32), [u32; 4]>,
    pub(super) vectors: Vec<u8>,
    pub(super) gsis: BTreeMap<u32, Gsi>,
    pub(super) sleep_ports: [Option<u16>; 2],
}

/// How a global system interrupt is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gsi {
    /// Trigger mode.
    pub trigger: TriggerMode,
    /// Polarity.
    pub polarity: Polarity,
    /// Whether it is held back.
    pub masked: bool,
}

impl Machine {
    /// The contexts that guests were entered with, and forgets them.
    pub fn take_entered(&self) -> Vec<GuestContext> {
        std::mem::take(&mut self.record().entered)
    }

    /// The TLB flushes asked for, and forgets them.
    pub fn take_flushes(&self) -> Vec<Flush> {
        std::mem::take(&mut self.record().flushes)
    }

    /// How often caches were flushed, and forgets it.
    pub fn take_cache_flushes(&self) -> u32 {
        std::mem::take(&mut self.record().cache_flushes)
    }

    /// The CPUs that were sent an interrupt, bit n for CPU n, and forgets them.
    pub fn take_interrupted(&self) -> u64 {
        std::mem::take(&mut self.record().interrupted)
    }

    /// What was printed on the console, and forgets it.
    pub fn take_output(&self) -> String {
        let bytes = std::mem::take(&mut self.record().output);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Types at the console.
    pub fn type_input(&self, text: &[u8]) {
        self.record().input.extend(text);
    }

    /// Sets what reading a port gives.
    pub fn set_port(&self, port: u16, value: u32) {
        self.record().ports.insert(port, value);
    }

    /// Port writes so far as (port, bytes, value), and forgets them.
    pub fn take_port_writes(&self) -> Vec<(u16, u32, u32)> {
        std::mem::take(&mut self.record().port_writes)
    }

    /// Sets a model-specific register; registers never set raise #GP.
    pub fn set_msr(&self, msr: u32, value: u64) {
        self.record().msrs.insert(msr, value);
    }

    /// Sets a CPUID leaf; leaves never set are zero.
    pub fn set_cpuid(&self, leaf: u32, subleaf: u32, value: [u32; 4]) {
        self.record().cpuid.insert((leaf, subleaf), value);
    }

    /// Sets the ports of the power-management control registers.
    pub fn set_sleep_ports(&self, ports: [Option<u16>; 2]) {
        self.record().sleep_ports = ports;
    }

    /// How a global system interrupt is set up; `None` if it never was.
    pub fn gsi(&self, gsi: u32) -> Option<Gsi> {
        self.record().gsis.get(&gsi).copied()
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
