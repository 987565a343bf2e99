//! The tracer (`xen/trace.h`): what happens is written, as records, to a buffer for each CPU, which the toolstack maps
//! and empties.
//!
//! While nothing is traced, each place that could write a record looks at one word and goes on ([`Tracer::is_on`]).
//! Buffers are made once and stay, as Xen's do: their frames are those of `DOMID_XEN`, for the control domain to map.
//! It reads records while other CPUs write them: what a record says is stored first, then the index behind it.

mod events;
mod ring;

pub use events::*;

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use hv_machine::{PAGE_SIZE, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::trace::{TRC_ALL, TRC_CLS_SHIFT, TRC_SUBCLS_SHIFT};
use hypercall_abi::types::{Domid, Mfn};
use hypercall_abi::xen::VIRQ_TBUF;
use spin::Once;
use zerocopy::IntoBytes;

use crate::lock::{Mutex, MutexGuard, rank};
use crate::{Hypervisor, event, time};
use ring::{Hostile, Ring};

/// Words in the page that describes the buffers.
const INFO_WORDS: usize = PAGE_SIZE / 4;

/// Who writes what, and where to.
pub struct Tracer {
    /// The events that are written at this moment: 0 while tracing is off.
    active: AtomicU32,
    /// The events that are written while it is on.
    events: AtomicU32,
    on: AtomicBool,
    /// CPUs that write, bit n for CPU n.
    cpus: AtomicU64,
    /// A buffer has become half full, and nobody has been told.
    due: AtomicBool,
    /// Held to make the buffers.
    making: Mutex<(), { rank::SETTINGS }>,
    buffers: Once<Buffers>,
}

/// The buffers.
struct Buffers {
    /// The page that says where they are (`struct t_info`). Whoever may map it could write to it, so it is not read.
    info: Mfn,
    /// Pages in each.
    pages: u32,
    rings: Vec<Mutex<Ring, { rank::LAST }>>,
}

impl Tracer {
    /// Off, without buffers.
    pub const fn new() -> Self {
        Self {
            active: AtomicU32::new(0),
            events: AtomicU32::new(TRC_ALL),
            on: AtomicBool::new(false),
            cpus: AtomicU64::new(u64::MAX),
            due: AtomicBool::new(false),
            making: Mutex::new(()),
            buffers: Once::new(),
        }
    }

    /// Whether anything is written at all: the one look that a path costs while nothing is.
    #[inline(always)]
    pub fn is_on(&self) -> bool {
        self.active.load(Ordering::Relaxed) != 0
    }

    /// The events that are written while tracing is on.
    pub fn events(&self) -> u32 {
        self.events.load(Ordering::Relaxed)
    }

    /// The page that describes the buffers, if there are any.
    pub fn info(&self) -> Option<Mfn> {
        self.buffers.get().map(|buffers| buffers.info)
    }

    /// Chooses the CPUs that write.
    pub fn set_cpus(&self, cpus: u64) {
        self.cpus.store(cpus, Ordering::Relaxed);
    }

    /// Chooses the events that are written.
    pub fn set_events(&self, events: u32) {
        self.events.store(events, Ordering::Relaxed);
        if self.on.load(Ordering::Relaxed) {
            self.active.store(events, Ordering::Release);
        }
    }

    /// Begins to write.
    ///
    /// # Errors
    /// `EINVAL` without buffers.
    pub fn enable(&self) -> Result<(), Errno> {
        self.buffers.get().ok_or(Errno::EINVAL)?;
        self.on.store(true, Ordering::Relaxed);
        self.active.store(self.events(), Ordering::Release);
        Ok(())
    }

    /// Ends it; when this returns, no record is written any more, and none counts as lost.
    pub fn disable(&self) {
        self.stop();
        for ring in self.buffers.get().iter().flat_map(|it| &it.rings) {
            ring.lock().forget();
        }
    }

    fn stop(&self) {
        self.on.store(false, Ordering::Relaxed);
        self.active.store(0, Ordering::SeqCst);
    }

    fn ring(&self, cpu: u32) -> Option<MutexGuard<'_, Ring>> {
        Some(self.buffers.get()?.rings.get(cpu as usize)?.lock())
    }

    fn writes(&self, event: u32, cpu: u32) -> bool {
        let active = self.active.load(Ordering::SeqCst) & event;
        active >> TRC_CLS_SHIFT != 0
            && active >> TRC_SUBCLS_SHIFT & 0xf != 0
            && self.cpus.load(Ordering::Relaxed) >> cpu & 1 != 0
    }
}

impl Default for Tracer {
    fn default() -> Self {
        Self::new()
    }
}

/// Makes buffers of so many pages, or of as many as can be described, and begins to write.
///
/// # Errors
/// `EINVAL` for no pages, or other than there are; `EBUSY` where there are as many; `ENOMEM`.
pub fn make_buffers(hv: &Hypervisor, pages: u32) -> Result<(), Errno> {
    let tracer = &hv.tracer;
    let _making = tracer.making.lock();
    if let Some(buffers) = tracer.buffers.get() {
        let same = buffers.pages == pages;
        return Err(if same { Errno::EBUSY } else { Errno::EINVAL });
    }
    let cpus = hv.machine.cpu_count() as usize;
    // A 16-bit word for the size and for each CPU.
    let first = (1 + cpus).div_ceil(2);
    let pages = pages.min((INFO_WORDS.saturating_sub(first) / cpus) as u32);
    if pages == 0 {
        return Err(Errno::EINVAL);
    }
    let mut taken = Vec::new();
    let buffers = allocate(hv, pages, cpus, first, &mut taken);
    let buffers = buffers.inspect_err(|_| {
        for &mfn in &taken {
            // Nobody has heard of it, so nobody maps it.
            let _ = hv.memory.release_unused_shared(mfn);
        }
    })?;
    tracer.buffers.call_once(|| buffers);
    tracer.enable()
}

fn allocate(
    hv: &Hypervisor,
    pages: u32,
    cpus: usize,
    first: usize,
    taken: &mut Vec<Mfn>,
) -> Result<Buffers, Errno> {
    let owner = hv.memory.owner(Domid::XEN);
    let owner = owner.unwrap_or_else(|| hv.memory.create_owner(Domid::XEN, 0));
    hv.reserve_heap(INFO_WORDS * 2 * size_of::<Mfn>())?;
    for _ in 0..cpus * pages as usize {
        taken.push(hv.memory.allocate_shared(&owner)?);
    }
    let info = hv.memory.allocate_shared(&owner)?;
    let mut header = [0_u16; INFO_WORDS * 2];
    let offsets = (0..cpus).map(|cpu| (first + cpu * pages as usize) as u16);
    for (word, value) in header
        .iter_mut()
        .zip([pages as u16].into_iter().chain(offsets))
    {
        *word = value;
    }
    hv.machine.write_frame(info, 0, header.as_bytes());
    for (index, mfn) in taken.iter().enumerate() {
        let at = 4 * (first + index);
        hv.machine.write_frame(info, at, (mfn.0 as u32).as_bytes());
    }
    let rings = taken.chunks(pages as usize);
    Ok(Buffers {
        info,
        pages,
        rings: rings
            .map(|frames| Mutex::new(Ring::new(frames.into())))
            .collect(),
    })
}

/// Writes a record: an event's number and up to seven words that say more.
#[cold]
#[inline(never)]
fn record(hv: &Hypervisor, event: u32, data: &[u32]) {
    let (tracer, cpu) = (&hv.tracer, hv.machine.cpu_id());
    let Some(mut ring) = tracer.ring(cpu) else {
        return;
    };
    // Under the lock: after `disable` has had it, nothing more is written.
    if !tracer.writes(event, cpu) {
        return;
    }
    let machine = &hv.machine;
    match ring.put(machine, event, time::first_tsc(hv), data) {
        Ok(false) => {}
        // Not told from here, where any lock may be held.
        Ok(true) => {
            tracer.due.store(true, Ordering::Relaxed);
            hv.request_schedule(cpu);
        }
        Err(Hostile) => tracer.stop(),
    }
}

/// The frames that are the tracer's.
#[cfg(any(test, fuzzing))]
pub(crate) fn frames(hv: &Hypervisor) -> Vec<Mfn> {
    let Some(buffers) = hv.tracer.buffers.get() else {
        return Vec::new();
    };
    let rings = buffers.rings.iter().flat_map(|ring| ring.lock().frames());
    rings.chain([buffers.info]).collect()
}

/// Tells the control domain that a buffer is half full, where one has become so; whether it was.
#[inline(always)]
pub fn tell(hv: &Hypervisor) -> bool {
    let due = hv.tracer.due.load(Ordering::Relaxed);
    if due {
        hv.tracer.due.store(false, Ordering::Relaxed);
        event::send_host_virq(hv, VIRQ_TBUF);
    }
    due
}

#[cfg(test)]
mod tests;
