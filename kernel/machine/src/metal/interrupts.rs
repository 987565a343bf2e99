//! Vectors: which are free, what each stands for, and what to do at the controllers when one comes.

use alloc::vec::Vec;

use super::acpi::Override;
use super::apic::{Apic, IPI_VECTOR, SPURIOUS_VECTOR, TIMER_VECTOR};
use super::cpu;
use super::ioapic::IoApics;
use super::lock::Lock;
use super::processor::{self, msr, write_msr};
use super::tlb;
use super::tsc::Rates;
use crate::{Irq, Polarity, TriggerMode};

/// Vectors that are handed out: above those of the 8259s, below the hypervisor's own.
const FIRST_VECTOR: u8 = 0x30;
const LAST_VECTOR: u8 = 0xef;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    Free,
    Gsi { gsi: u32, level: bool },
    Console { gsi: u32 },
    Message,
}

/// The interrupt controllers and the table of vectors.
#[derive(Debug)]
pub struct Interrupts {
    apic: Apic,
    io_apics: IoApics,
    overrides: Vec<Override>,
    rates: Rates,
    /// APIC numbers of the CPUs that run the hypervisor, by CPU number.
    cpus: Vec<u32>,
    sources: Lock<[Source; 256]>,
}

impl Interrupts {
    /// All vectors free. `cpus` are the APIC numbers of the CPUs that run, by CPU number.
    pub fn new(
        apic: Apic,
        cpus: Vec<u32>,
        io_apics: IoApics,
        overrides: Vec<Override>,
        rates: Rates,
    ) -> Self {
        Self {
            cpus,
            apic,
            io_apics,
            overrides,
            rates,
            sources: Lock::new([Source::Free; 256]),
        }
    }

    /// What a vector means; acknowledges it.
    pub fn take(&self, vector: u8) -> Irq {
        match vector {
            TIMER_VECTOR => {
                self.apic.end_of_interrupt();
                self.timer_fired()
            }
            IPI_VECTOR => {
                self.apic.end_of_interrupt();
                tlb::serve();
                Irq::Ipi
            }
            SPURIOUS_VECTOR => Irq::Spurious,
            FIRST_VECTOR..=LAST_VECTOR => {
                let source = self.sources.lock().get(usize::from(vector)).copied();
                if let Some(Source::Gsi { gsi, level: true }) = source {
                    self.io_apics.set_mask(gsi, true);
                }
                self.apic.end_of_interrupt();
                match source {
                    Some(Source::Gsi { gsi, .. }) => Irq::Gsi(gsi),
                    Some(Source::Console { .. }) => Irq::Console,
                    Some(Source::Message) => Irq::Message(vector),
                    _ => Irq::Spurious,
                }
            }
            // The 8259s, which are masked, raise such ones in spite of it.
            _ => Irq::Spurious,
        }
    }

    fn timer_fired(&self) -> Irq {
        let block = cpu::this();
        match block.deadline.get() {
            Some(deadline) if processor::tsc() < deadline => {
                // The counter is too short for the whole way, or ran a little fast.
                self.set_timer(deadline);
                Irq::Spurious
            }
            Some(_) => {
                block.deadline.set(None);
                Irq::Timer
            }
            None => Irq::Spurious,
        }
    }

    /// Sets this CPU's timer.
    pub fn set_timer(&self, deadline: u64) {
        cpu::this().deadline.set(Some(deadline));
        if self.apic.has_tsc_deadline() {
            // 0 is none; 1 is past.
            // SAFETY: the CPU has the register; the interrupt that follows is expected.
            unsafe { write_msr(msr::TSC_DEADLINE, deadline.max(1)) };
            return;
        }
        let left = deadline.saturating_sub(processor::tsc());
        let count =
            u128::from(left) * u128::from(self.rates.apic_hz) / u128::from(self.rates.tsc_hz);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.apic.start_count(count.saturating_add(1));
    }

    /// The local APIC of whatever CPU asks.
    pub fn apic(&self) -> &Apic {
        &self.apic
    }

    /// Number of CPUs that run the hypervisor.
    pub fn cpu_count(&self) -> u32 {
        self.cpus.len() as u32
    }

    /// Interrupts a CPU.
    pub fn send_ipi(&self, cpu: u32) {
        if let Some(&apic_id) = self.cpus.get(cpu as usize) {
            self.apic.send(apic_id, IPI_VECTOR);
        }
    }

    /// One more than the highest global system interrupt.
    pub fn gsi_count(&self) -> u32 {
        self.io_apics.gsi_count()
    }

    /// How an ISA interrupt is wired.
    pub fn isa_gsi(&self, isa: u8) -> (u32, TriggerMode, Polarity) {
        match self.overrides.iter().find(|o| o.isa == isa) {
            Some(o) => (o.gsi, o.trigger, o.polarity),
            None => (isa.into(), TriggerMode::Edge, Polarity::High),
        }
    }

    /// Takes a free vector.
    fn allocate(&self, source: Source) -> Option<u8> {
        let mut sources = self.sources.lock();
        let range = usize::from(FIRST_VECTOR)..=usize::from(LAST_VECTOR);
        let (vector, slot) = (0..)
            .zip(sources.iter_mut())
            .filter(|(v, _)| range.contains(v))
            .find(|(_, s)| **s == Source::Free)?;
        *slot = source;
        Some(vector as u8)
    }

    fn vector_of(&self, gsi: u32) -> Option<(u8, Source)> {
        let sources = self.sources.lock();
        let is_it = |s: &Source| match s {
            Source::Gsi { gsi: g, .. } | Source::Console { gsi: g } => *g == gsi,
            _ => false,
        };
        let vector = sources.iter().position(is_it)?;
        Some((vector as u8, *sources.get(vector)?))
    }

    /// Routes a GSI to this CPU, masked. The console's own interrupt stays what it is.
    pub fn route_gsi(&self, gsi: u32, trigger: TriggerMode, polarity: Polarity) {
        let source = Source::Gsi {
            gsi,
            level: trigger == TriggerMode::Level,
        };
        let vector = match self.vector_of(gsi) {
            Some((_, Source::Console { .. })) => return,
            Some((vector, _)) => {
                if let Some(slot) = self.sources.lock().get_mut(usize::from(vector)) {
                    *slot = source;
                }
                Some(vector)
            }
            None => self.allocate(source),
        };
        if let Some(vector) = vector {
            self.io_apics
                .route(gsi, vector, self.apic.id(), trigger, polarity);
        }
    }

    /// Routes an ISA interrupt as the console's, and lets it through.
    pub fn route_console(&self, isa: u8) {
        let (gsi, trigger, polarity) = self.isa_gsi(isa);
        if let Some(vector) = self.allocate(Source::Console { gsi }) {
            self.io_apics
                .route(gsi, vector, self.apic.id(), trigger, polarity);
            self.io_apics.set_mask(gsi, false);
        }
    }

    /// Holds a GSI back, or lets it through; the console's stays as it is.
    pub fn set_mask(&self, gsi: u32, masked: bool) {
        if let Some((_, Source::Gsi { .. })) = self.vector_of(gsi) {
            self.io_apics.set_mask(gsi, masked);
        }
    }

    /// A vector for messages.
    pub fn allocate_vector(&self) -> Option<u8> {
        self.allocate(Source::Message)
    }

    /// Gives a vector for messages back.
    pub fn release_vector(&self, vector: u8) {
        if let Some(slot) = self.sources.lock().get_mut(usize::from(vector))
            && *slot == Source::Message
        {
            *slot = Source::Free;
        }
    }

    /// Address and data of the message for a vector on this CPU.
    pub fn message(&self, vector: u8) -> (u64, u32) {
        const MESSAGE_BASE: u64 = 0xfee0_0000;
        (
            MESSAGE_BASE | u64::from(self.apic.id() & 0xff) << 12,
            vector.into(),
        )
    }
}
