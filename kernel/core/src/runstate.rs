//! How long each vCPU was running, runnable, blocked and offline (`xen/vcpu.h`), and the areas in guest
//! memory in which a vCPU is told that and the time.
//!
//! The areas are linear addresses of the guest's kernel. They are written when the vCPU is switched in
//! or out, while its address space is loaded; in user mode they are not mapped, and what could not be
//! written is made up for when the vCPU enters its kernel ([`refresh_areas`]).

use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hv_machine::Platform;
use hypercall_abi::vcpu::{
    RUNSTATE_OFFLINE, RUNSTATE_RUNNING, VcpuRunstateInfo, XEN_RUNSTATE_UPDATE,
};
use hypercall_abi::xen::VMASST_TYPE_RUNSTATE_UPDATE_FLAG;
use zerocopy::IntoBytes;

use crate::lock::{Mutex, rank};
use crate::{Hypervisor, Vcpu, time, trace};

/// A vCPU's time in each state.
pub struct Runstate(Mutex<VcpuRunstateInfo, { rank::RUNSTATE }>);

impl Runstate {
    /// Offline since system time 0.
    pub fn new() -> Self {
        Self(Mutex::new(VcpuRunstateInfo {
            state: RUNSTATE_OFFLINE,
            _pad0: 0,
            state_entry_time: 0,
            time: [0; 4],
        }))
    }

    /// The state (`RUNSTATE_*`).
    pub fn state(&self) -> u32 {
        self.0.lock().state
    }

    /// Enters `state` at system time `now`; the state before.
    fn enter(&self, state: u32, now: u64) -> u32 {
        let mut info = self.0.lock();
        *info = up_to(*info, now);
        info.state_entry_time = now;
        core::mem::replace(&mut info.state, state)
    }
}

impl Default for Runstate {
    fn default() -> Self {
        Self::new()
    }
}

fn up_to(mut info: VcpuRunstateInfo, now: u64) -> VcpuRunstateInfo {
    let passed = now.saturating_sub(info.state_entry_time);
    if let Some(time) = info.time.get_mut(info.state as usize) {
        *time = time.saturating_add(passed);
    }
    info
}

/// The areas that a vCPU registered; address 0 for none.
#[derive(Default)]
pub struct Areas {
    runstate: AtomicU64,
    time: AtomicU64,
    stale_runstate: AtomicBool,
    stale_time: AtomicBool,
}

impl Areas {
    /// Sets the address of the runstate area (`VCPUOP_register_runstate_memory_area`).
    pub fn set_runstate(&self, address: u64) {
        self.runstate.store(address, Ordering::Release);
        self.stale_runstate.store(address != 0, Ordering::Release);
    }

    /// Sets the address of the time area (`VCPUOP_register_vcpu_time_memory_area`).
    pub fn set_time(&self, address: u64) {
        self.time.store(address, Ordering::Release);
        self.time_is_stale();
    }

    /// The time area is to be written again.
    pub(crate) fn time_is_stale(&self) {
        if self.time.load(Ordering::Acquire) != 0 {
            self.stale_time.store(true, Ordering::Release);
        }
    }
}

/// Changes a vCPU's state (`RUNSTATE_*`) at system time `now`.
pub fn change(hv: &Hypervisor, vcpu: &Vcpu, state: u32, now: u64) {
    let before = vcpu.runstate.enter(state, now);
    if hv.tracer.is_on() {
        trace::runstate(hv, vcpu, before, state);
    }
    if vcpu.areas.runstate.load(Ordering::Acquire) != 0 {
        vcpu.areas.stale_runstate.store(true, Ordering::Release);
    }
}

/// A vCPU's time in each state up to this moment.
pub fn get(hv: &Hypervisor, vcpu: &Vcpu) -> VcpuRunstateInfo {
    up_to(*vcpu.runstate.0.lock(), time::now(hv))
}

/// Nanoseconds for which a vCPU has run.
pub fn running_time(hv: &Hypervisor, vcpu: &Vcpu) -> u64 {
    get(hv, vcpu).time[RUNSTATE_RUNNING as usize]
}

/// Writes what is stale of a vCPU's areas; its kernel's address space is loaded. Where a page is not
/// there, it is tried again the next time.
pub fn refresh_areas(hv: &Hypervisor, vcpu: &Vcpu) {
    let areas = &vcpu.areas;
    if areas.stale_runstate.load(Ordering::Acquire) {
        let info = *vcpu.runstate.0.lock();
        let written = write_runstate(hv, vcpu, areas.runstate.load(Ordering::Acquire), info);
        areas.stale_runstate.store(!written, Ordering::Release);
    }
    if areas.stale_time.load(Ordering::Acquire) {
        let written = time::refresh_time_area(hv, vcpu, areas.time.load(Ordering::Acquire));
        areas.stale_time.store(!written, Ordering::Release);
    }
}

/// Writes a runstate area. A guest that asked for it sees by a flag in the entry time that the area is
/// being written.
pub fn write_runstate(hv: &Hypervisor, vcpu: &Vcpu, area: u64, mut info: VcpuRunstateInfo) -> bool {
    let domain = vcpu.domain.upgrade();
    let flagged = domain.is_some_and(|domain| domain.assisted(VMASST_TYPE_RUNSTATE_UPDATE_FLAG));
    let put = |offset: usize, data: &[u8]| {
        hv.machine
            .copy_to_guest(area.wrapping_add(offset as u64), data)
            .is_ok()
    };
    let put_time = |time: u64| {
        put(
            offset_of!(VcpuRunstateInfo, state_entry_time),
            time.as_bytes(),
        )
    };
    if !flagged {
        return put(0, info.as_bytes());
    }
    let entered = info.state_entry_time;
    info.state_entry_time |= XEN_RUNSTATE_UPDATE;
    put_time(info.state_entry_time) && put(0, info.as_bytes()) && put_time(entered)
}
