//! [`Hypervisor`]: the one value that holds everything.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU16, Ordering};

use hv_machine::{MAX_CPUS, MachineRef, Platform};
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
    /// Per CPU: the scheduler is to be asked before a guest is entered.
    resched: [AtomicBool; MAX_CPUS],
}

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
            resched: [const { AtomicBool::new(false) }; MAX_CPUS],
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
            flag.store(true, Ordering::Release);
            if cpu != self.machine.cpu_id() {
                self.machine.send_ipi(cpu);
            }
        }
    }

    /// Whether this CPU is to ask the scheduler.
    #[inline]
    pub fn schedule_requested(&self) -> bool {
        let flag = self.resched.get(self.machine.cpu_id() as usize);
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// As [`Self::schedule_requested`]; the request is taken.
    pub fn take_schedule_request(&self) -> bool {
        let flag = self.resched.get(self.machine.cpu_id() as usize);
        flag.is_some_and(|flag| flag.load(Ordering::Relaxed) && flag.swap(false, Ordering::AcqRel))
    }
}
