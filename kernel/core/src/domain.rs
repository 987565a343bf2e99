//! A domain: its identity, its memory account, its vCPUs, its event channels, and how it lives and dies.

use alloc::collections::BTreeMap;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};

use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn};

use crate::emulate::unhook::Unhooking;
use crate::event::EventChannels;
use crate::grant::GrantTable;
use crate::lifecycle::NewDomain;
use crate::lock::{Mutex, RwLock, rank};
use crate::memory::Owner;
use crate::sched_op::Watchdogs;
use crate::vcpu::Vcpu;

/// Upper limit of vCPUs in a PV domain (`hypercall_abi::arch_x86` has more than that for HVM only).
pub const MAX_VCPUS: u32 = 128;

/// A domain.
pub struct Domain {
    /// Its number.
    pub id: Domid,
    /// Number of vCPUs that it was created for.
    pub max_vcpus: u32,
    /// Whether it may use the privileged hypercalls: it is the control domain.
    pub privileged: bool,
    /// Its memory account: frames, limits, I/O memory.
    pub owner: Arc<Owner>,
    /// Frame of its shared-info page, which it owns and which lives as long as the domain.
    pub shared_info: Mfn,
    /// Its event channels.
    pub events: EventChannels,
    /// What it grants, and what is granted to it.
    pub grants: GrantTable,
    /// How far its life has come.
    pub life: Mutex<Life, { rank::LIFE }>,
    /// `XEN_DOMCTL_destroydomain` has begun. It is set with [`Self::life`] locked, and read at each hypercall, without.
    pub dying: AtomicBool,
    /// The toolstack's name for it (`XEN_DOMCTL_setdomainhandle`).
    pub handle: Mutex<[u8; 16], { rank::SETTINGS }>,
    /// `VMASST_TYPE_*` bits that it enabled.
    pub vm_assist: AtomicU64,
    /// What of the machine's ports and interrupts it may use; memory is in [`Owner`].
    pub access: Mutex<Access, { rank::SETTINGS }>,
    /// What CPUID shows it: leaf and subleaf to EAX, EBX, ECX, EDX (`XEN_DOMCTL_set_cpu_policy`); leaves
    /// that are not here follow the host's default policy.
    pub cpuid: Mutex<BTreeMap<(u32, u32), [u32; 4]>, { rank::SETTINGS }>,
    /// Its memory map (`XENMEM_set_memory_map`): base, size in bytes and E820 type; empty for none.
    pub memory_map: Mutex<Vec<(u64, u64, u32)>, { rank::SETTINGS }>,
    /// Offset of its wall clock from the host's, in seconds (`XEN_DOMCTL_settimeoffset`).
    pub time_offset: AtomicU64,
    /// How it was told to tell time (`XEN_DOMCTL_settscinfo`).
    pub tsc: Mutex<TscChoice, { rank::SETTINGS }>,
    /// Its port by which its suspension is told (`XEN_DOMCTL_subscribe`); 0 for none.
    pub suspend_port: AtomicU32,
    /// Whether a debugger has it (`XEN_DOMCTL_setdebugging`).
    pub debugged: AtomicBool,
    /// Whether one of its page tables is unhooked.
    pub unhooking: Unhooking,
    /// Its watchdogs (`SCHEDOP_watchdog`).
    pub watchdogs: Watchdogs,
    /// What it wrote to the PCI configuration address port.
    pub pci_address: AtomicU32,
    /// What it wrote to the CMOS index port.
    pub cmos_index: AtomicU8,
    vcpus: RwLock<Vec<Arc<Vcpu>>, { rank::VCPUS }>,
}

/// How far a domain's life has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// `SCHEDOP_shutdown` or a crash: the reason (`SHUTDOWN_*`); its vCPUs are held.
    pub shutdown: Option<u32>,
    /// The reason that the next shutdown will have, whatever it says (`SCHEDOP_shutdown_code`).
    pub reason: Option<u32>,
    /// The toolstack has let it run at least once.
    pub started: bool,
    /// Times that the toolstack paused it (`XEN_DOMCTL_pausedomain`).
    pub toolstack_pauses: u32,
}

/// What a toolstack chose for a domain's time-stamp counter, which is always the processor's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TscChoice {
    /// 0 for the default, 2 for never emulated.
    pub mode: u32,
    /// Counts how often it was chosen: at creation and after each migration.
    pub incarnation: u32,
}

/// Ranges, ends included, of machine resources that a domain may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Access {
    ports: Vec<(u32, u32)>,
    irqs: Vec<(u32, u32)>,
}

impl Access {
    /// Whether the domain may use every I/O port from `first` to `last`.
    pub fn ports_allowed(&self, first: u32, last: u32) -> bool {
        covers(&self.ports, first, last)
    }

    /// Whether the domain may use any I/O port.
    pub fn has_ports(&self) -> bool {
        !self.ports.is_empty()
    }

    /// Allows or forbids I/O ports from `first` to `last`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set_ports(&mut self, first: u32, last: u32, allow: bool) -> Result<(), Errno> {
        set_range(&mut self.ports, first, last, allow)
    }

    /// Whether the domain may bind interrupt line `irq` (a GSI).
    pub fn irq_allowed(&self, irq: u32) -> bool {
        covers(&self.irqs, irq, irq)
    }

    /// Allows or forbids interrupt lines from `first` to `last`.
    ///
    /// # Errors
    /// `ENOMEM`.
    pub fn set_irqs(&mut self, first: u32, last: u32, allow: bool) -> Result<(), Errno> {
        set_range(&mut self.irqs, first, last, allow)
    }
}

/// Whether one of the ranges, kept merged, has all of `first..=last`.
pub(crate) fn covers<N: Ord + Copy>(ranges: &[(N, N)], first: N, last: N) -> bool {
    first <= last && ranges.iter().any(|&(from, to)| from <= first && last <= to)
}

/// Adds `first..=last` to sorted, merged ranges, or takes it out of them.
///
/// # Errors
/// `ENOMEM`; they are as they were then.
pub(crate) fn set_range<N>(
    ranges: &mut Vec<(N, N)>,
    first: N,
    last: N,
    add: bool,
) -> Result<(), Errno>
where
    N: Ord + Copy + From<u8> + core::ops::Add<Output = N> + core::ops::Sub<Output = N>,
{
    if first > last {
        return Ok(());
    }
    // The one that is added, or what is left behind a hole.
    ranges.try_reserve(1).map_err(|_| Errno::ENOMEM)?;
    let one = N::from(1);
    let insert = |ranges: &mut Vec<(N, N)>, range: (N, N)| {
        let place = ranges.partition_point(|&(from, _)| from < range.0);
        ranges.insert(place, range);
    };
    if add {
        let (mut low, mut high) = (first, last);
        ranges.retain(|&(from, to)| {
            let apart = to < first && first - to > one || from > last && from - last > one;
            if !apart {
                (low, high) = (low.min(from), high.max(to));
            }
            apart
        });
        insert(ranges, (low, high));
    } else {
        let mut behind = None;
        ranges.retain_mut(|(from, to)| {
            if *to < first || *from > last {
                return true;
            }
            if *to > last {
                behind = Some((last + one, *to));
            }
            let before = *from < first;
            if before {
                *to = first - one;
            }
            before
        });
        if let Some(behind) = behind {
            insert(ranges, behind);
        }
    }
    Ok(())
}

impl Domain {
    /// A domain without vCPUs; it is in no list yet.
    pub fn new(new: &NewDomain, owner: Arc<Owner>, shared_info: Mfn) -> Self {
        Self {
            id: new.id,
            max_vcpus: new.max_vcpus,
            privileged: new.privileged,
            owner,
            shared_info,
            events: EventChannels::new(new.max_port),
            grants: GrantTable::new(new.grants),
            life: Mutex::new(Life::default()),
            dying: AtomicBool::new(false),
            handle: Mutex::new(new.handle),
            vm_assist: AtomicU64::new(0),
            access: Mutex::new(Access::default()),
            cpuid: Mutex::new(BTreeMap::new()),
            memory_map: Mutex::new(Vec::new()),
            time_offset: AtomicU64::new(0),
            tsc: Mutex::new(TscChoice {
                mode: 0,
                incarnation: u32::from(!new.privileged),
            }),
            suspend_port: AtomicU32::new(0),
            debugged: AtomicBool::new(false),
            unhooking: Unhooking::default(),
            watchdogs: Watchdogs::default(),
            pci_address: AtomicU32::new(0),
            cmos_index: AtomicU8::new(0),
            vcpus: RwLock::new(Vec::new()),
        }
    }

    /// vCPU `id`, if the domain has it.
    pub fn vcpu(&self, id: u32) -> Option<Arc<Vcpu>> {
        self.vcpus.read().get(id as usize).cloned()
    }

    /// All vCPUs, in order.
    pub fn vcpus(&self) -> Vec<Arc<Vcpu>> {
        self.vcpus.read().clone()
    }

    /// Whether no vCPU but this one runs.
    pub fn runs_alone(&self, vcpu: &Arc<Vcpu>) -> bool {
        let vcpus = self.vcpus.read();
        let mut others = vcpus.iter().filter(|&other| !Arc::ptr_eq(other, vcpu));
        others.all(|other| !other.running.load(Ordering::SeqCst))
    }

    /// Number of vCPUs.
    pub fn vcpu_count(&self) -> u32 {
        self.vcpus.read().len() as u32
    }

    /// How often its vCPUs entered their event callback; wraps around.
    pub fn upcalls(&self) -> u32 {
        let vcpus = self.vcpus.read();
        let counts = vcpus
            .iter()
            .map(|vcpu| vcpu.upcalls.load(Ordering::Relaxed));
        counts.fold(0, u32::wrapping_add)
    }

    /// CPUs that run those of its vCPUs that are `chosen` by number, bit n for CPU n.
    pub fn running_on(&self, chosen: impl Fn(u32) -> bool) -> u64 {
        let vcpus = self.vcpus.read();
        let chosen = vcpus.iter().filter(|vcpu| chosen(vcpu.id));
        chosen
            .filter_map(|vcpu| vcpu.runs_on())
            .fold(0, |cpus, cpu| cpus | 1 << cpu)
    }

    /// Appends vCPUs (`XEN_DOMCTL_max_vcpus`).
    pub(crate) fn add_vcpu(&self, vcpu: Arc<Vcpu>) {
        self.vcpus.write().push(vcpu);
    }

    /// Lets go of the vCPUs, which breaks their circle with the domain.
    pub(crate) fn drop_vcpus(&self) {
        self.vcpus.write().clear();
    }

    /// Whether it has devices, so that flushing caches may matter to it.
    pub fn may_flush_caches(&self) -> bool {
        self.owner.has_io_memory() || self.access.lock().has_ports()
    }

    /// Whether the guest enabled assistance `kind` (`VMASST_TYPE_*`).
    pub fn assisted(&self, kind: u32) -> bool {
        self.vm_assist.load(Ordering::Relaxed) & 1 << kind != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ranges_stay_sorted_merged_and_equal_to_a_set(
            steps in prop::collection::vec((0_u32..40, 0_u32..10, any::<bool>()), 1..60)
        ) {
            let mut ranges = Vec::new();
            let mut model = [false; 64];
            for (first, len, add) in steps {
                prop_assert_eq!(set_range(&mut ranges, first, first + len, add), Ok(()));
                model[first as usize..=(first + len) as usize].fill(add);
                for pair in ranges.windows(2) {
                    prop_assert!(pair[0].1 + 1 < pair[1].0);
                }
                for (n, &held) in model.iter().enumerate() {
                    prop_assert_eq!(covers(&ranges, n as u32, n as u32), held);
                }
            }
        }
    }
}
