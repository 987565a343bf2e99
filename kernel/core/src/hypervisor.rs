//! [`Hypervisor`]: the one value that holds everything.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::cell::Cell;
use core::ops::Deref;
use core::sync::atomic::{AtomicU8, AtomicU16, Ordering};

use hv_machine::{Irq, MAX_CPUS, MachineRef, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use crate::counters::Counters;
use crate::cpuid::Policy;
use crate::domain::Domain;
use crate::event::VirqHandlers;
use crate::interrupt::Pirqs;
use crate::lock::{Mutex, RwLock, rank};
use crate::log::Log;
use crate::memory::Memory;
use crate::options::Options;
use crate::sched::{self, Busy};
use crate::time::{Clock, Timers};
use crate::trace::Tracer;

/// Order of the blocks that the hypervisor's own heap grows by: 2 MiB.
const HEAP_GROWTH_ORDER: u32 = 9;
/// Heap that nothing large takes: 256 KiB, for what calls need a little of and cannot be refused everywhere.
pub(crate) const SPARE_HEAP: usize = 256 << 10;

/// The hypervisor.
pub struct Hypervisor {
    /// The machine it runs on.
    pub machine: MachineRef,
    /// Frames and page types.
    pub memory: Memory,
    /// What the command line asked for.
    pub options: Options,
    /// Held by the toolstack's operation on domains that is under way.
    pub toolstack: Mutex<(), { rank::TOOLSTACK }>,
    /// All domains that are not dead.
    pub domains: RwLock<BTreeMap<Domid, Arc<Domain>>, { rank::DOMAINS }>,
    /// Where the search for a free domain number begins.
    pub next_domid: AtomicU16,
    /// Who runs next.
    pub scheduler: Mutex<sched::Policy, { rank::SCHEDULER }>,
    /// How long each CPU has run vCPUs.
    pub busy: Busy,
    /// What is to happen at which time.
    pub timers: Mutex<Timers, { rank::SCHEDULER }>,
    /// What was done for guests, counted.
    pub counters: Counters,
    /// What is written down of all that.
    pub tracer: Tracer,
    /// System time.
    pub clock: Clock,
    /// The log ring and the console.
    pub log: Log,
    /// Interrupt lines that guests have bound.
    pub pirqs: Mutex<Pirqs, { rank::INTERRUPTS }>,
    /// Who handles the host's virtual interrupts.
    pub virq_handlers: Mutex<VirqHandlers, { rank::INTERRUPTS }>,
    /// What CPUID shows to guests.
    pub cpuid: Policy,
    /// Held between writing a port that is an index and using the port that it is the index of.
    pub indexed_ports: Mutex<(), { rank::INDEXED_PORTS }>,
    /// Per CPU: [`ASKED`], [`LOOKING`].
    resched: [AtomicU8; MAX_CPUS],
}

/// The scheduler is to be asked before a guest is entered.
const ASKED: u8 = 1;
/// The CPU looks for [`ASKED`] by itself, so that nobody needs to interrupt it.
const LOOKING: u8 = 2;
/// Looks at [`ASKED`] for each at the time.
const LOOKS: u32 = 256;

impl Hypervisor {
    /// Takes over a machine: reads its command line, makes the frame table and the heap. No domain exists yet.
    pub fn new(machine: MachineRef) -> Self {
        let options = Options::parse(machine.command_line());
        let cpus = machine.cpu_count();
        Self {
            memory: Memory::new(MachineRef::clone(&machine)),
            toolstack: Mutex::new(()),
            domains: RwLock::new(BTreeMap::new()),
            next_domid: AtomicU16::new(1),
            scheduler: Mutex::new(sched::policy(&options.scheduler, cpus)),
            busy: Busy::new(cpus),
            counters: Counters::new(cpus),
            tracer: Tracer::new(),
            timers: Mutex::new(Timers::new(cpus)),
            clock: Clock::new(Deref::deref(&machine)),
            log: Log::new(&options, &machine.boot_log()),
            pirqs: Mutex::new(Pirqs::new()),
            virq_handlers: Mutex::new(VirqHandlers::new()),
            cpuid: Policy::new(&|leaf, subleaf| machine.cpuid(leaf, subleaf)),
            indexed_ports: Mutex::new(()),
            resched: [const { AtomicU8::new(0) }; MAX_CPUS],
            options,
            machine,
        }
    }

    /// Makes sure that the hypervisor's own heap has `bytes` to spare besides [`SPARE_HEAP`], from free frames. What
    /// grows for a guest asks first, because an allocation that fails where no errno can be given stops the machine.
    ///
    /// # Errors
    /// `ENOMEM` where no block of frames is left.
    pub fn reserve_heap(&self, bytes: usize) -> Result<(), Errno> {
        while self.machine.heap_free() < bytes.saturating_add(SPARE_HEAP) {
            if !self.memory.donate_to_machine(HEAP_GROWTH_ORDER) {
                return Err(Errno::ENOMEM);
            }
        }
        Ok(())
    }

    /// The domain with this number.
    ///
    /// # Errors
    /// `ESRCH` if there is none.
    #[inline(never)]
    pub fn domain(&self, id: Domid) -> Result<Arc<Domain>, Errno> {
        self.domains.read().get(&id).cloned().ok_or(Errno::ESRCH)
    }

    /// The control domain, once it is built.
    pub fn control_domain(&self) -> Option<Arc<Domain>> {
        self.domains
            .read()
            .values()
            .find(|domain| domain.privileged)
            .cloned()
    }

    /// Has the scheduler asked again on CPU `cpu` before a guest runs there.
    pub fn request_schedule(&self, cpu: u32) {
        if let Some(flag) = self.resched.get(cpu as usize) {
            let before = flag.fetch_or(ASKED, Ordering::AcqRel);
            if cpu != self.machine.cpu_id() && before & LOOKING == 0 {
                self.machine.send_ipi(cpu);
            }
        }
    }

    /// Looks for a request to ask the scheduler here, or an interrupt, for so many ticks; `None` where neither came.
    pub fn look_for_request(&self, ticks: u64) -> Option<Irq> {
        let machine = &self.machine;
        let flag = self.resched.get(machine.cpu_id() as usize)?;
        let asked = |flags: u8| flags & ASKED != 0;
        flag.fetch_or(LOOKING, Ordering::AcqRel);
        let end = machine.tsc().saturating_add(ticks);
        // Software emulation takes a lock to read the counter, which the others want to read as well.
        let looks = Cell::new(0_u32);
        let late = || {
            looks.set(looks.get().wrapping_add(1));
            looks.get().is_multiple_of(LOOKS) && machine.tsc() >= end
        };
        let irq = machine.poll_until(|| asked(flag.load(Ordering::Acquire)) || late());
        // Whoever comes behind this interrupts; who came before is seen here.
        let flags = flag.fetch_and(!LOOKING, Ordering::AcqRel);
        irq.or(asked(flags).then_some(Irq::Ipi))
    }

    /// Whether this CPU is to ask the scheduler.
    #[inline]
    pub fn schedule_requested(&self) -> bool {
        let flag = self.resched.get(self.machine.cpu_id() as usize);
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed) & ASKED != 0)
    }

    /// As [`Self::schedule_requested`]; the request is taken.
    pub fn take_schedule_request(&self) -> bool {
        let flag = self.resched.get(self.machine.cpu_id() as usize);
        flag.is_some_and(|flag| {
            flag.load(Ordering::Relaxed) & ASKED != 0
                && flag.fetch_and(!ASKED, Ordering::AcqRel) & ASKED != 0
        })
    }
}
