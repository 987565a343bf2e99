//! Physical interrupts that guests handle (PIRQs): which interrupt line each number of a domain means,
//! who has bound which line, and when a line is let through.
//!
//! An interrupt's number here is its GSI. A line that signals by level is held back from the moment it
//! fires until every domain that was told of it has said that it is done (`PHYSDEVOP_eoi`).

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::sync::{Arc, Weak};
use alloc::vec::Vec;

use hv_machine::{Platform, Polarity, TriggerMode};
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Port};

use crate::memory::FrameType;
use crate::{Domain, Hypervisor, event};

/// Numbers that an unprivileged domain has beyond the lines.
const EXTRA_PIRQS: u32 = 32;
/// Numbers that the control domain has beyond the lines.
const EXTRA_PIRQS_CONTROL: u32 = 256;
/// First line that is no ISA interrupt.
const FIRST_PCI_GSI: u32 = 16;
/// The ISA interrupt of the first serial port, which is the hypervisor's console.
const CONSOLE_ISA: u8 = 4;

/// What a domain's number means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pirq {
    /// Reserved (`PHYSDEVOP_get_free_pirq`).
    Allocated,
    /// A line.
    Line(u32),
}

/// A domain's numbers, and how it wants to know of their end-of-interrupt needs.
#[derive(Debug, Default)]
struct DomainPirqs {
    pirqs: BTreeMap<u32, Pirq>,
    /// The frame of its bitmap of interrupts that need `PHYSDEVOP_eoi`, held as a writable page.
    eoi_map: Option<Mfn>,
    /// `PHYSDEVOP_eoi` unmasks the port as well.
    unmasks: bool,
}

impl DomainPirqs {
    fn line(&self, pirq: u32) -> Option<u32> {
        match self.pirqs.get(&pirq) {
            Some(&Pirq::Line(gsi)) => Some(gsi),
            _ => None,
        }
    }

    fn pirq_of(&self, gsi: u32) -> Option<u32> {
        let mut found = self
            .pirqs
            .iter()
            .filter(|&(_, &what)| what == Pirq::Line(gsi));
        found.next().map(|(&pirq, _)| pirq)
    }
}

/// A domain that has bound a line.
#[derive(Debug)]
struct Guest {
    domain: Weak<Domain>,
    id: Domid,
    pirq: u32,
    /// It was told of the interrupt and is not done with it.
    busy: bool,
}

/// An interrupt line.
#[derive(Debug)]
struct Line {
    trigger: TriggerMode,
    polarity: Polarity,
    /// A domain has said how it signals; it stays so.
    set_up: bool,
    shareable: bool,
    guests: Vec<Guest>,
}

/// The interrupts of all domains.
#[derive(Debug, Default)]
pub struct Pirqs {
    lines: BTreeMap<u32, Line>,
    domains: BTreeMap<Domid, DomainPirqs>,
    /// PCI functions that the control domain told of: segment, bus, device and function.
    pub(crate) pci_devices: BTreeSet<(u16, u8, u8)>,
}

impl Pirqs {
    /// None bound.
    pub fn new() -> Self {
        Self::default()
    }
}

/// How many numbers a domain has.
pub fn pirq_count(hv: &Hypervisor, domain: &Domain) -> u32 {
    hv.machine.gsi_count()
        + if domain.privileged {
            EXTRA_PIRQS_CONTROL
        } else {
            EXTRA_PIRQS
        }
}

/// Whether a domain may have an interrupt line.
pub fn may_use(domain: &Domain, gsi: u32) -> bool {
    domain.privileged || domain.access.lock().irq_allowed(gsi)
}

/// How a line signals that nobody has set up: as ACPI says for the ISA interrupts, else as PCI's do.
fn default_signalling(hv: &Hypervisor, gsi: u32) -> (TriggerMode, Polarity) {
    let isa = (0..16)
        .map(|isa| hv.machine.isa_gsi(isa))
        .find(|&(isa, ..)| isa == gsi);
    isa.map_or(
        (TriggerMode::Level, Polarity::Low),
        |(_, trigger, polarity)| (trigger, polarity),
    )
}

fn line<'a>(hv: &Hypervisor, pirqs: &'a mut Pirqs, gsi: u32) -> &'a mut Line {
    pirqs.lines.entry(gsi).or_insert_with(|| {
        let (trigger, polarity) = default_signalling(hv, gsi);
        Line {
            trigger,
            polarity,
            set_up: false,
            shareable: false,
            guests: Vec::new(),
        }
    })
}

/// Whether the hypervisor keeps a line for itself.
fn is_reserved(hv: &Hypervisor, gsi: u32) -> bool {
    hv.options.line.contains("com1") && hv.machine.isa_gsi(CONSOLE_ISA).0 == gsi
}

/// Tells a domain of a line from here on, by a port that `find_port` has once it is clear that it may have the line.
/// The line is let through with its first domain.
///
/// # Errors
/// `EINVAL` for a number that no domain of its kind has; `EPERM` for one that means no line, or a line that the domain
/// may not have; those of `find_port`; `EBUSY` where the hypervisor has the line, or another domain and not both share.
pub fn bind(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    pirq: u32,
    share: bool,
    find_port: impl FnOnce() -> Result<Port, Errno>,
) -> Result<Port, Errno> {
    if pirq >= pirq_count(hv, domain) {
        return Err(Errno::EINVAL);
    }
    let mut pirqs = hv.pirqs.lock();
    let numbers = pirqs.domains.get(&domain.id);
    let gsi = numbers
        .and_then(|numbers| numbers.line(pirq))
        .filter(|&gsi| may_use(domain, gsi))
        .ok_or(Errno::EPERM)?;
    let port = find_port()?;
    if is_reserved(hv, gsi) {
        return Err(Errno::EBUSY);
    }
    let line = line(hv, &mut pirqs, gsi);
    let first = line.guests.is_empty();
    if first {
        line.shareable = share;
    } else if !share || !line.shareable {
        return Err(Errno::EBUSY);
    }
    let guest = Guest {
        domain: Arc::downgrade(domain),
        id: domain.id,
        pirq,
        busy: false,
    };
    line.guests.push(guest);
    let (trigger, polarity) = (line.trigger, line.polarity);
    if first {
        hv.machine.route_gsi(gsi, trigger, polarity);
        hv.machine.unmask_gsi(gsi);
    }
    note_need(hv, &pirqs, domain.id, pirq, trigger == TriggerMode::Level);
    Ok(port)
}

/// Writes a domain's bitmap of interrupts that need an end.
fn note_need(hv: &Hypervisor, pirqs: &Pirqs, domain: Domid, pirq: u32, needed: bool) {
    if let Some(map) = pirqs
        .domains
        .get(&domain)
        .and_then(|numbers| numbers.eoi_map)
    {
        let (word, bit) = (pirq as usize / 64, 1 << (pirq % 64));
        if needed {
            hv.machine.fetch_or_u64(map, word, bit);
        } else {
            hv.machine.fetch_and_u64(map, word, !bit);
        }
    }
}

/// Tells a domain of a line no more. The line is held back with its last domain.
pub fn unbind(hv: &Hypervisor, domain: &Domain, pirq: u32) {
    let mut pirqs = hv.pirqs.lock();
    release_guest(hv, &mut pirqs, domain.id, pirq);
}

fn release_guest(hv: &Hypervisor, pirqs: &mut Pirqs, domain: Domid, pirq: u32) {
    let is_it = |guest: &Guest| guest.id == domain && guest.pirq == pirq;
    for (&gsi, line) in &mut pirqs.lines {
        let Some(place) = line.guests.iter().position(is_it) else {
            continue;
        };
        let guest = line.guests.swap_remove(place);
        if line.guests.is_empty() {
            hv.machine.mask_gsi(gsi);
        } else if guest.busy && !line.guests.iter().any(|guest| guest.busy) {
            hv.machine.unmask_gsi(gsi);
        }
    }
}

/// An interrupt line has fired: tells every domain that has bound it.
pub fn deliver(hv: &Hypervisor, gsi: u32) {
    let told: Vec<_> = {
        let mut pirqs = hv.pirqs.lock();
        let Some(line) = pirqs.lines.get_mut(&gsi) else {
            return;
        };
        let level = line.trigger == TriggerMode::Level;
        line.guests
            .iter_mut()
            .filter_map(|guest| {
                guest.busy = level;
                Some((guest.domain.upgrade()?, guest.pirq))
            })
            .collect()
    };
    for (domain, pirq) in told {
        event::raise_pirq(hv, &domain, pirq);
    }
}

/// A domain is done with an interrupt (`PHYSDEVOP_eoi`). Returns whether its port is to be unmasked too.
///
/// # Errors
/// `EINVAL` for a number that means nothing.
pub fn end(hv: &Hypervisor, domain: &Domain, pirq: u32) -> Result<bool, Errno> {
    let mut pirqs = hv.pirqs.lock();
    let numbers = pirqs
        .domains
        .get(&domain.id)
        .filter(|numbers| numbers.pirqs.contains_key(&pirq))
        .ok_or(Errno::EINVAL)?;
    let unmasks = numbers.unmasks;
    if let Some(gsi) = numbers.line(pirq) {
        end_line(hv, &mut pirqs, gsi, domain.id);
    }
    Ok(unmasks)
}

fn end_line(hv: &Hypervisor, pirqs: &mut Pirqs, gsi: u32, domain: Domid) {
    let Some(line) = pirqs.lines.get_mut(&gsi) else {
        return;
    };
    let mut ended = false;
    for guest in line.guests.iter_mut().filter(|guest| guest.id == domain) {
        ended |= core::mem::take(&mut guest.busy);
    }
    if ended && !line.guests.iter().any(|guest| guest.busy) {
        hv.machine.unmask_gsi(gsi);
    }
}

/// Ends those interrupts of a domain whose ports it does not mask (`PHYSDEVOP_IRQ_UNMASK_NOTIFY`).
pub fn end_unmasked(hv: &Hypervisor, domain: &Domain) {
    let numbers: Vec<_> = {
        let pirqs = hv.pirqs.lock();
        let own = pirqs.domains.get(&domain.id);
        own.into_iter()
            .flat_map(|own| own.pirqs.keys().copied())
            .collect()
    };
    for pirq in numbers {
        if !event::is_pirq_masked(hv, domain, pirq) {
            // It may have been unmapped in the meantime.
            let _ = end(hv, domain, pirq);
        }
    }
}

/// Whether other domains have bound the same line.
pub fn is_shared(hv: &Hypervisor, domain: &Domain, pirq: u32) -> bool {
    let pirqs = hv.pirqs.lock();
    let gsi = pirqs
        .domains
        .get(&domain.id)
        .and_then(|numbers| numbers.line(pirq));
    gsi.and_then(|gsi| pirqs.lines.get(&gsi))
        .is_some_and(|line| line.guests.len() > 1)
}

/// Has the hypervisor keep a bitmap of the interrupts that need an end, in a page of the domain's.
///
/// # Errors
/// `EINVAL` where the frame cannot be one of the domain's writable pages; `EBUSY` where there is one.
pub fn set_eoi_map(hv: &Hypervisor, domain: &Domain, mfn: Mfn, unmasks: bool) -> Result<(), Errno> {
    let frame = hv
        .memory
        .get_typed(mfn, domain.id, FrameType::Writable)
        .map_err(|_| Errno::EINVAL)?;
    let mut pirqs = hv.pirqs.lock();
    let numbers = pirqs.domains.entry(domain.id).or_default();
    if numbers.eoi_map.is_some() {
        drop(pirqs);
        return Err(Errno::EBUSY);
    }
    frame.into_bits();
    numbers.eoi_map = Some(mfn);
    numbers.unmasks |= unmasks;
    Ok(())
}

/// The lowest free line's number, or the highest free one beyond the lines; it is reserved.
///
/// # Errors
/// `ENOSPC` where none is free.
pub fn allocate(hv: &Hypervisor, domain: &Domain, for_line: bool) -> Result<u32, Errno> {
    let mut pirqs = hv.pirqs.lock();
    let pirq = free_number(hv, &pirqs, domain, for_line).ok_or(Errno::ENOSPC)?;
    let numbers = pirqs.domains.entry(domain.id).or_default();
    numbers.pirqs.insert(pirq, Pirq::Allocated);
    Ok(pirq)
}

fn free_number(hv: &Hypervisor, pirqs: &Pirqs, domain: &Domain, for_line: bool) -> Option<u32> {
    let lines = hv.machine.gsi_count();
    let numbers = pirqs.domains.get(&domain.id);
    let is_free = |pirq: &u32| numbers.is_none_or(|numbers| !numbers.pirqs.contains_key(pirq));
    let line = for_line
        .then(|| (FIRST_PCI_GSI..lines).find(is_free))
        .flatten();
    line.or_else(|| (lines..pirq_count(hv, domain)).rev().find(is_free))
}

/// Makes a number of `domain` mean a line, and allows the domain that line. `pirq` is the number, or
/// negative for any; `caller` asks, the control domain. Returns the number.
///
/// # Errors
/// `EINVAL` for no such line or number; `EPERM` where any number is asked for and the line has one; `EEXIST` where it
/// has another; `ENOSPC` where no number is free; `ENOMEM`.
pub fn map_line(
    hv: &Hypervisor,
    caller: &Domain,
    domain: &Domain,
    index: i32,
    pirq: i32,
) -> Result<u32, Errno> {
    let index = u32::try_from(index).map_err(|_| Errno::EINVAL)?;
    if index >= hv.machine.gsi_count() {
        return Err(Errno::EINVAL);
    }
    let mut pirqs = hv.pirqs.lock();
    let of_caller = pirqs
        .domains
        .get(&caller.id)
        .and_then(|numbers| numbers.line(index));
    let gsi = of_caller.unwrap_or(index);
    let present = pirqs
        .domains
        .get(&domain.id)
        .and_then(|numbers| numbers.pirq_of(gsi));
    let pirq = match (u32::try_from(pirq), present) {
        (Err(_), Some(_)) => return Err(Errno::EPERM),
        (Err(_), None) => free_number(hv, &pirqs, domain, true).ok_or(Errno::ENOSPC)?,
        (Ok(pirq), Some(present)) if pirq != present => return Err(Errno::EEXIST),
        (Ok(pirq), _) => pirq,
    };
    // Line 0 is the timer's, which is the hypervisor's.
    if pirq >= pirq_count(hv, domain) || gsi == 0 {
        return Err(Errno::EINVAL);
    }
    let numbers = pirqs.domains.entry(domain.id).or_default();
    if numbers.line(pirq).is_none() {
        domain.access.lock().set_irqs(gsi, gsi, true)?;
        numbers.pirqs.insert(pirq, Pirq::Line(gsi));
    }
    Ok(pirq)
}

/// Makes a number of a domain mean nothing, and forbids the domain the line.
///
/// # Errors
/// `EINVAL` where it means no line; `ENOMEM`.
pub fn unmap_line(hv: &Hypervisor, domain: &Domain, pirq: i32) -> Result<(), Errno> {
    let pirq = u32::try_from(pirq).map_err(|_| Errno::EINVAL)?;
    let mut pirqs = hv.pirqs.lock();
    let numbers = pirqs.domains.get_mut(&domain.id);
    let (numbers, gsi) = numbers
        .and_then(|numbers| numbers.line(pirq).map(|gsi| (numbers, gsi)))
        .ok_or(Errno::EINVAL)?;
    domain.access.lock().set_irqs(gsi, gsi, false)?;
    numbers.pirqs.remove(&pirq);
    release_guest(hv, &mut pirqs, domain.id, pirq);
    Ok(())
}

/// Says how a line signals.
///
/// # Errors
/// `EEXIST` where that was said before, or the line is bound.
pub fn set_up_line(
    hv: &Hypervisor,
    gsi: u32,
    trigger: TriggerMode,
    polarity: Polarity,
) -> Result<(), Errno> {
    if is_reserved(hv, gsi) {
        return Err(Errno::EEXIST);
    }
    let mut pirqs = hv.pirqs.lock();
    let line = line(hv, &mut pirqs, gsi);
    if line.set_up || !line.guests.is_empty() {
        return Err(Errno::EEXIST);
    }
    (line.trigger, line.polarity, line.set_up) = (trigger, polarity, true);
    Ok(())
}

/// How a line signals, and whether a domain has bound it.
pub fn signalling(hv: &Hypervisor, gsi: u32) -> (TriggerMode, Polarity, bool) {
    let pirqs = hv.pirqs.lock();
    pirqs.lines.get(&gsi).map_or_else(
        || {
            let (trigger, polarity) = default_signalling(hv, gsi);
            (trigger, polarity, false)
        },
        |line| (line.trigger, line.polarity, !line.guests.is_empty()),
    )
}

/// Sets how a line signals that no domain has bound, whatever was said before.
pub fn set_signalling(hv: &Hypervisor, gsi: u32, trigger: TriggerMode, polarity: Polarity) {
    let mut pirqs = hv.pirqs.lock();
    let line = line(hv, &mut pirqs, gsi);
    if line.guests.is_empty() {
        (line.trigger, line.polarity) = (trigger, polarity);
    }
}

/// Forgets a domain that is going.
pub fn release_domain(hv: &Hypervisor, domain: &Domain) {
    let numbers = {
        let mut pirqs = hv.pirqs.lock();
        let Some(numbers) = pirqs.domains.remove(&domain.id) else {
            return;
        };
        for &pirq in numbers.pirqs.keys() {
            release_guest(hv, &mut pirqs, domain.id, pirq);
        }
        numbers
    };
    if let Some(mfn) = numbers.eoi_map {
        drop(hv.memory.adopt_typed(mfn, FrameType::Writable));
    }
}
