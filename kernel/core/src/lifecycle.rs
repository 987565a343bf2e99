//! How domains come, pause, shut down and go.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use hv_machine::{LogLevel, Platform};
use hypercall_abi::errno::Errno;
use hypercall_abi::sched::{
    SHUTDOWN_CRASH, SHUTDOWN_POWEROFF, SHUTDOWN_SUSPEND, SHUTDOWN_WATCHDOG,
};
use hypercall_abi::trace::{TRC_DOM0_DOM_ADD, TRC_DOM0_DOM_REM};
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::VIRQ_DOM_EXC;

use crate::domain::Domain;
use crate::event;
use crate::hypervisor::Hypervisor;
use crate::memory::{FrameType, Level};
use crate::sched_op;
use crate::vcpu::{InfoPlace, Vcpu, VcpuState};
use crate::{grant, sched, time, trace};

/// vCPUs whose `vcpu_info` has a place in the shared-info page; the others must register one.
const SHARED_INFO_VCPUS: u32 = 32;
/// Bytes of a `vcpu_info`.
const VCPU_INFO_SIZE: usize = size_of::<hypercall_abi::xen::VcpuInfo>();

/// Heap that must be free before a domain, a vCPU or a vCPU's state is made: 1 MiB, many times what any of them takes.
pub(crate) const NEW_DOMAIN_HEAP: usize = 1 << 20;

/// Tables that [`reap`] takes apart of each domain.
const REAP_STEPS: u32 = 16;

/// What a new domain is to be.
#[derive(Clone, Copy, Debug)]
pub struct NewDomain {
    /// Its number.
    pub id: Domid,
    /// Whether it is the control domain.
    pub privileged: bool,
    /// The toolstack's name for it.
    pub handle: [u8; 16],
    /// Number of vCPUs that it will have.
    pub max_vcpus: u32,
    /// Highest event-channel port that it may have.
    pub max_port: u32,
    /// How much of grants it may have.
    pub grants: grant::Limits,
}

/// Makes a domain without memory and vCPUs, paused by the toolstack, and puts it on the list. Its number is free: the
/// caller has looked, and it is the toolstack's operation that is under way, or the machine's start.
///
/// # Errors
/// `ENOMEM`; nothing is made then.
pub fn create(hv: &Hypervisor, new: &NewDomain) -> Result<Arc<Domain>, Errno> {
    hv.reserve_heap(NEW_DOMAIN_HEAP)?;
    let owner = hv.memory.create_owner(new.id, 0);
    let shared_info = match hv.memory.allocate_shared(&owner) {
        Ok(mfn) => mfn,
        Err(errno) => {
            hv.memory.remove_owner(new.id);
            return Err(errno);
        }
    };
    let domain = Arc::new(Domain::new(new, owner, shared_info));
    if let Err(errno) = domain.grants.open(hv, &domain.owner) {
        hv.memory.release_all(&domain.owner, &mut || false);
        hv.memory.release_shared(shared_info);
        hv.memory.remove_owner(new.id);
        return Err(errno);
    }
    domain.life.lock().toolstack_pauses = 1;
    time::publish_wall_clock(hv, &domain);
    hv.domains.write().insert(new.id, domain.clone());
    if hv.tracer.is_on() {
        trace::domain(hv, TRC_DOM0_DOM_ADD, new.id);
    }
    Ok(domain)
}

/// Gives a domain its vCPUs up to number `count`-1, as far as it may have them, all down.
///
/// # Errors
/// `ENOMEM`; those that are made stay, and the next call goes on behind them.
pub fn create_vcpus(hv: &Hypervisor, domain: &Arc<Domain>, count: u32) -> Result<(), Errno> {
    for id in domain.vcpu_count()..count.min(domain.max_vcpus) {
        hv.reserve_heap(NEW_DOMAIN_HEAP)?;
        let vcpu = Vcpu::new(id, Arc::downgrade(domain), first_info_place(domain, id));
        let held = {
            let life = domain.life.lock();
            u32::from(life.toolstack_pauses > 0)
                + u32::from(life.shutdown.is_some())
                + u32::from(is_dying(domain))
        };
        vcpu.pause_count.store(held, Ordering::Release);
        let vcpu = Arc::new(vcpu);
        domain.add_vcpu(vcpu.clone());
        sched::insert(hv, &vcpu);
    }
    Ok(())
}

/// Where a vCPU's information is before it registers a place of its own. Those that have none in the shared-info
/// page share the last 64 bytes of it, which belong to no vCPU and are no guest's business.
fn first_info_place(domain: &Domain, id: u32) -> InfoPlace {
    let offset = if id < SHARED_INFO_VCPUS {
        core::mem::offset_of!(hypercall_abi::xen::SharedInfo, vcpu_info)
            + id as usize * VCPU_INFO_SIZE
    } else {
        hv_machine::PAGE_SIZE - VCPU_INFO_SIZE
    };
    InfoPlace {
        mfn: domain.shared_info,
        offset,
    }
}

/// Whether a vCPU still has the place that it began with.
pub fn has_first_info_place(domain: &Domain, vcpu: &Vcpu) -> bool {
    vcpu.info() == first_info_place(domain, vcpu.id)
}

/// Whether a vCPU has no place of its own at all: neither one in the shared-info page nor one that it registered.
pub fn has_no_info_place(domain: &Domain, vcpu: &Vcpu) -> bool {
    vcpu.id >= SHARED_INFO_VCPUS && has_first_info_place(domain, vcpu)
}

/// Holds all vCPUs of a domain back once more; when it returns, none of them runs but the caller's own.
pub fn pause(hv: &Hypervisor, domain: &Domain) {
    for vcpu in domain.vcpus() {
        pause_vcpu(hv, &vcpu);
    }
}

/// Takes back one [`pause`].
pub fn unpause(hv: &Hypervisor, domain: &Domain) {
    for vcpu in domain.vcpus() {
        unpause_vcpu(hv, &vcpu);
    }
}

/// Holds one vCPU back once more.
pub fn pause_vcpu(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    vcpu.pause_count.fetch_add(1, Ordering::AcqRel);
    sched::sleep(hv, vcpu);
}

/// Takes back one [`pause_vcpu`].
pub fn unpause_vcpu(hv: &Hypervisor, vcpu: &Arc<Vcpu>) {
    let fewer = |count: u32| count.checked_sub(1);
    let before = vcpu
        .pause_count
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, fewer);
    if before == Ok(1) {
        sched::wake(hv, vcpu);
    }
}

/// The toolstack's pause (`XEN_DOMCTL_pausedomain`): counted.
pub fn toolstack_pause(hv: &Hypervisor, domain: &Domain) {
    let first = {
        let mut life = domain.life.lock();
        life.toolstack_pauses = life.toolstack_pauses.saturating_add(1);
        life.toolstack_pauses == 1
    };
    if first {
        pause(hv, domain);
    }
}

/// The toolstack's unpause.
///
/// # Errors
/// `EINVAL` where the toolstack has not paused it.
pub fn toolstack_unpause(hv: &Hypervisor, domain: &Domain) -> Result<(), Errno> {
    let last = {
        let mut life = domain.life.lock();
        life.toolstack_pauses = life.toolstack_pauses.checked_sub(1).ok_or(Errno::EINVAL)?;
        life.started |= life.toolstack_pauses == 0;
        life.toolstack_pauses == 0
    };
    if last {
        unpause(hv, domain);
    }
    Ok(())
}

/// Stops a domain for `reason` (`SHUTDOWN_*`) and tells the control domain, of a suspension by the domain's port for
/// that if there is one; the first reason stays.
/// The control domain's own shutdown is the machine's.
pub fn shutdown(hv: &Hypervisor, domain: &Domain, reason: u32) {
    let reason = *domain.life.lock().reason.get_or_insert(reason);
    if domain.privileged {
        machine_shutdown(hv, reason);
    }
    {
        let mut life = domain.life.lock();
        if life.shutdown.is_some() {
            return;
        }
        life.shutdown = Some(reason);
    }
    pause(hv, domain);
    let port = domain.suspend_port.load(Ordering::Relaxed);
    if reason == SHUTDOWN_SUSPEND && port != 0 {
        // A port that the domain does not have tells nobody: it is the toolstack's to name the right one.
        let _ = event::send(hv, domain, Port(port));
    } else {
        event::send_host_virq(hv, VIRQ_DOM_EXC);
    }
}

/// Lets a domain that has shut down go on (`XEN_DOMCTL_resumedomain`, after a suspend that did not come to be).
pub fn resume(hv: &Hypervisor, domain: &Domain) {
    let was_shut_down = {
        let mut life = domain.life.lock();
        life.reason = None;
        life.shutdown.take().is_some()
    };
    if was_shut_down {
        unpause(hv, domain);
    }
}

/// Stops a domain that made a mistake which leaves nothing to return to.
pub fn crash(hv: &Hypervisor, domain: &Domain) {
    shutdown(hv, domain, SHUTDOWN_CRASH);
}

/// Whether [`destroy`] has begun.
pub fn is_dying(domain: &Domain) -> bool {
    domain.dying.load(Ordering::Acquire)
}

/// What the end of the control domain means for the machine: whatever is not a wish to switch it off restarts it, so
/// that a machine whose control domain hangs comes back.
fn machine_shutdown(hv: &Hypervisor, reason: u32) -> ! {
    let end = match reason {
        SHUTDOWN_POWEROFF => {
            hv.print(b"(XEN) Hardware Dom0 halted: halting machine\n");
            hv.machine.halt()
        }
        SHUTDOWN_CRASH => "crashed",
        SHUTDOWN_WATCHDOG => "shutdown by its watchdog",
        _ => "shutdown",
    };
    let next = if hv.options.no_reboot {
        "the machine is not to reboot"
    } else {
        "rebooting machine"
    };
    hv.log(LogLevel::Error, format_args!("Hardware Dom0 {end}: {next}"));
    if hv.options.no_reboot {
        hv.machine.halt()
    }
    hv.machine.reboot()
}

/// Takes a domain apart (`XEN_DOMCTL_destroydomain`); returns whether that is finished. Where it is not, because
/// `out_of_time` said so, the next call goes on.
///
/// Its frames are freed as far as nobody else refers to them. The domain leaves the list with its last frame,
/// by [`reap`].
pub fn destroy(
    hv: &Hypervisor,
    domain: &Arc<Domain>,
    out_of_time: &mut dyn FnMut() -> bool,
) -> bool {
    let first = {
        let _life = domain.life.lock();
        !domain.dying.swap(true, Ordering::AcqRel)
    };
    if first {
        hv.memory.close(&domain.owner);
        pause(hv, domain);
    }
    // Who sends an event writes where a vCPU has its information, so that stays until no port is left.
    if !domain.events.all_closed() {
        if !event::close_all(hv, domain, out_of_time) {
            return false;
        }
        domain.grants.close(hv);
        sched_op::stop_watchdogs(hv, domain);
        for vcpu in domain.vcpus() {
            release_vcpu(hv, domain, &vcpu);
        }
    }
    // Without its page tables nothing of the domain refers to its frames any more.
    let memory = &hv.memory;
    let finished = memory.unpin_all(&domain.owner, out_of_time)
        && memory.take_apart(&domain.owner, out_of_time)
        && domain.grants.release_mappings(hv, out_of_time)
        && memory.release_all(&domain.owner, out_of_time);
    if finished {
        reap(hv);
    }
    finished
}

/// Gives back what a vCPU of a dying domain holds.
fn release_vcpu(hv: &Hypervisor, domain: &Domain, vcpu: &Arc<Vcpu>) {
    sched::remove(hv, vcpu);
    if !has_first_info_place(domain, vcpu) {
        let place = vcpu.info();
        vcpu.set_info(first_info_place(domain, vcpu.id));
        drop(hv.memory.adopt_typed(place.mfn, FrameType::Writable));
    }
    // It may be about to leave the CPU that ran it last.
    let mut state = vcpu.state.lock_out_of_order();
    release_tables(hv, &mut state);
}

/// Gives back the roots and descriptor tables that a vCPU's state holds.
pub fn release_tables(hv: &Hypervisor, state: &mut VcpuState) {
    for root in [state.kernel_root.take(), state.user_root.take()]
        .into_iter()
        .flatten()
    {
        if hv.machine.current_root() == root {
            hv.machine.load_idle_root();
        }
        drop(hv.memory.adopt_typed(root, FrameType::Table(Level::L4)));
    }
    let gdt = core::mem::take(&mut state.gdt);
    let ldt = core::mem::take(&mut state.ldt_frames);
    for mfn in gdt.into_iter().chain(ldt.into_iter().flatten()) {
        drop(hv.memory.adopt_typed(mfn, FrameType::Descriptors));
    }
    state.gdt_entries = 0;
    state.ldt_entries = 0;
}

/// Takes domains off the list of which only the shared-info page is left, and tells the control domain.
///
/// The page goes last: hypercalls that find the domain, be it dying, write to it.
pub fn reap(hv: &Hypervisor) {
    let mut gone = false;
    hv.domains.write().retain(|_, domain| {
        let end = is_dying(domain) && is_empty(hv, domain);
        if end {
            hv.memory.release_shared(domain.shared_info);
            domain.drop_vcpus();
            hv.memory.remove_owner(domain.id);
            if hv.tracer.is_on() {
                trace::domain(hv, TRC_DOM0_DOM_REM, domain.id);
            }
            gone = true;
        }
        !end
    });
    if gone {
        event::send_host_virq(hv, VIRQ_DOM_EXC);
    }
}

/// Whether only the shared-info page is left of a dying domain. A hypercall on its behalf that was under way when the
/// domain was destroyed may have let go of a page table since, which is taken apart by and by.
fn is_empty(hv: &Hypervisor, domain: &Domain) -> bool {
    let mut steps = 0;
    let mut out_of_time = || {
        steps += 1;
        steps == REAP_STEPS
    };
    hv.memory.take_apart(&domain.owner, &mut out_of_time)
        && hv.memory.is_last(&domain.owner, domain.shared_info)
}

/// The lowest free domain number from 1 on.
pub fn free_domid(hv: &Hypervisor, after: Domid) -> Option<Domid> {
    let domains = hv.domains.read();
    let last = Domid::FIRST_RESERVED.0;
    let from = after.0.clamp(1, last - 1);
    (from..last)
        .chain(1..from)
        .map(Domid)
        .find(|id| !domains.contains_key(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::panic::{AssertUnwindSafe, catch_unwind};

    use hypercall_abi::sched::SHUTDOWN_REBOOT;

    use crate::testing::{DOM0, DOMU, Host};

    #[test]
    fn a_destroyed_domain_leaves_all_its_frames() {
        let mut host = Host::new();
        let before = host.hv.memory.free_frames();
        host.add_domain(Domid(7), false);
        assert!(host.hv.memory.free_frames() < before);
        let domain = host.domain(Domid(7));
        let mut steps = 0;
        while !destroy(&host.hv, &domain, &mut || true) {
            steps += 1;
        }
        assert!(steps > 2, "a step for every few frames");
        assert_eq!(host.hv.memory.free_frames(), before);
        assert!(host.hv.domain(Domid(7)).is_err());
    }

    #[test]
    fn a_frame_that_another_domain_holds_outlives_its_owner() {
        let host = Host::new();
        let domain = host.domain(DOMU);
        let mfn = host.layout(DOMU).scratch[0];
        let held = host
            .hv
            .memory
            .get(mfn, DOMU)
            .expect("a frame of the domain");
        assert!(destroy(&host.hv, &domain, &mut || false));
        assert!(host.hv.domain(DOMU).is_ok(), "a zombie stays on the list");
        assert_eq!(domain.owner.frames(), 1);
        drop(held);
        reap(&host.hv);
        assert!(host.hv.domain(DOMU).is_err());
    }

    #[test]
    fn a_zombies_shared_info_is_written_to_and_nobody_elses_page() {
        let host = Host::new();
        let domain = host.domain(DOMU);
        let held = host.layout(DOMU).scratch[0];
        let held = host.hv.memory.get(held, DOMU).expect("its own");
        assert!(destroy(&host.hv, &domain, &mut || false));
        assert_eq!(host.hv.memory.owner_of(domain.shared_info), Some(DOMU));
        let before = host.hv.machine.load_u64(domain.shared_info, 0);
        host.hv.machine.store_u64(domain.shared_info, 0, !before);
        time::publish_wall_clock(&host.hv, &domain);
        drop(held);
        reap(&host.hv);
        crate::memory::recount::check(&host.hv).expect("all in order");
        assert!(host.hv.domain(DOMU).is_err());
    }

    #[test]
    fn a_page_table_given_up_while_pinned_goes_with_its_owner() {
        let mut host = Host::new();
        let before = host.hv.memory.free_frames();
        host.add_domain(Domid(7), false);
        let domain = host.domain(Domid(7));
        let mfn = host
            .hv
            .memory
            .allocate(&domain.owner, 0, u64::MAX)
            .expect("a frame");
        host.hv
            .memory
            .pin(mfn, Domid(7), Level::L1, &mut || false)
            .expect("an empty table");
        let frame = host.hv.memory.get(mfn, Domid(7)).expect("its own");
        assert!(host.hv.memory.release_allocation(frame));
        assert!(destroy(&host.hv, &domain, &mut || false));
        assert_eq!(host.hv.memory.free_frames(), before);
    }

    #[test]
    fn pauses_are_counted() {
        let host = Host::new();
        let (domain, vcpu) = (host.domain(DOMU), host.vcpu(DOMU));
        toolstack_pause(&host.hv, &domain);
        toolstack_pause(&host.hv, &domain);
        assert_eq!(toolstack_unpause(&host.hv, &domain), Ok(()));
        assert!(!vcpu.is_runnable());
        assert_eq!(toolstack_unpause(&host.hv, &domain), Ok(()));
        assert!(vcpu.is_runnable());
        assert_eq!(toolstack_unpause(&host.hv, &domain), Err(Errno::EINVAL));
    }

    #[test]
    fn the_first_reason_for_a_shutdown_stays() {
        let host = Host::new();
        let domain = host.domain(DOMU);
        shutdown(&host.hv, &domain, 2);
        crash(&host.hv, &domain);
        assert_eq!(domain.life.lock().shutdown, Some(2));
        assert!(!host.vcpu(DOMU).is_runnable());
        resume(&host.hv, &domain);
        assert!(host.vcpu(DOMU).is_runnable());
    }

    #[test]
    fn the_machine_restarts_with_a_control_domain_that_did_not_switch_it_off() {
        for (reason, end) in [
            (SHUTDOWN_POWEROFF, "halts"),
            (SHUTDOWN_REBOOT, "restarts"),
            (SHUTDOWN_CRASH, "restarts"),
            (SHUTDOWN_WATCHDOG, "restarts"),
            (99, "restarts"),
        ] {
            let host = Host::new();
            let ended = catch_unwind(AssertUnwindSafe(|| {
                shutdown(&host.hv, &host.domain(DOM0), reason);
            }));
            let message = ended.expect_err("the machine ends");
            let message = message.downcast_ref::<&str>().expect("its words");
            assert!(message.contains(end), "{reason}: {message}");
        }
    }
}
