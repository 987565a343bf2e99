//! Time stamps and the wall clock as guests read them, by the version protocol of `xen/xen.h`: the
//! version is odd while the rest is being written, and a reader retries when it changed.

use core::mem::offset_of;
use core::sync::atomic::Ordering;

use hv_machine::Platform;
use hypercall_abi::xen::{SharedInfo, VcpuInfo, VcpuTimeInfo, XEN_PVCLOCK_TSC_STABLE_BIT};

use crate::{Domain, Hypervisor, Vcpu, lifecycle};

const TIME_WORD: usize = offset_of!(VcpuInfo, time) / 8;
const WALL_WORD: usize = offset_of!(SharedInfo, wc_version) / 8;

/// Gives a vCPU time stamps, if there are later ones than it has, or this CPU counts differently.
pub fn publish(hv: &Hypervisor, vcpu: &Vcpu) {
    let stamps = stamps(hv);
    if vcpu.timers.published.load(Ordering::Relaxed) != stamps.tsc_timestamp {
        write(hv, vcpu, stamps);
    }
}

/// Gives a vCPU time stamps, whatever it has; to be called when the place of its `vcpu_info` changed.
pub fn republish(hv: &Hypervisor, vcpu: &Vcpu) {
    write(hv, vcpu, stamps(hv));
}

fn write(hv: &Hypervisor, vcpu: &Vcpu, mut time: VcpuTimeInfo) {
    let published = &vcpu.timers.published;
    published.store(time.tsc_timestamp, Ordering::Relaxed);
    let place = vcpu.info();
    let first = place.offset / 8 + TIME_WORD;
    let version = hv.machine.load_u64(place.mfn, first) as u32 | 1;
    time.version = version.wrapping_add(1);
    hv.machine.store_u64(place.mfn, first, version.into());
    let words: [u64; 4] = zerocopy::transmute!(time);
    for (index, word) in words.into_iter().enumerate().skip(1) {
        hv.machine.store_u64(place.mfn, first + index, word);
    }
    hv.machine.store_u64(place.mfn, first, time.version.into());
    vcpu.areas.time_is_stale();
}

/// Copies a vCPU's time stamps to the area that it registered; its address space is loaded. Returns
/// whether that could be done.
pub fn refresh_time_area(hv: &Hypervisor, vcpu: &Vcpu, area: u64) -> bool {
    let place = vcpu.info();
    let mut bytes = [0; size_of::<VcpuTimeInfo>()];
    hv.machine
        .read_frame(place.mfn, place.offset + TIME_WORD * 8, &mut bytes);
    // The guest may have put anything in there: the stamps are worth no more than what it wrote.
    let (version, rest) = bytes.split_at_mut(size_of::<u32>());
    let even = u32::from_le_bytes([version[0], version[1], version[2], version[3]]) & !1;
    let put = |offset: u64, data: &[u8]| {
        hv.machine
            .copy_to_guest(area.wrapping_add(offset), data)
            .is_ok()
    };
    put(0, &(even | 1).to_le_bytes()) && put(4, rest) && put(0, &even.wrapping_add(2).to_le_bytes())
}

/// Writes a domain's wall clock: the host's, and the domain's own offset from it.
pub fn publish_wall_clock(hv: &Hypervisor, domain: &Domain) {
    let wall = hv.clock.wall();
    let seconds = wall
        .seconds
        .wrapping_add(domain.time_offset.load(Ordering::Relaxed));
    let mfn = domain.shared_info;
    let version = hv.machine.load_u64(mfn, WALL_WORD) as u32 | 1;
    let low = seconds << 32;
    hv.machine
        .store_u64(mfn, WALL_WORD, low | u64::from(version));
    hv.machine.store_u64(
        mfn,
        WALL_WORD + 1,
        seconds >> 32 << 32 | u64::from(wall.nanoseconds),
    );
    hv.machine
        .store_u64(mfn, WALL_WORD, low | u64::from(version.wrapping_add(1)));
}

/// Sets the host's wall clock, which was `seconds` and `nanoseconds` at `system_time`
/// (`XENPF_settime64`), and every domain's.
pub fn set_wall_clock(hv: &Hypervisor, seconds: u64, nanoseconds: u32, system_time: u64) {
    hv.clock.set_wall(seconds, nanoseconds, system_time);
    for domain in hv.domains.read().values() {
        // A domain that is going may have lost its shared-info page.
        let _life = domain.life.lock();
        if !lifecycle::is_dying(domain) {
            publish_wall_clock(hv, domain);
        }
    }
}

/// The stamps for a vCPU on this CPU, without a version.
fn stamps(hv: &Hypervisor) -> VcpuTimeInfo {
    let (scale, lag) = (hv.clock.scale(), hv.machine.tsc_lag());
    let (tsc, system_time) = hv.clock.stamp(super::first_tsc(hv));
    VcpuTimeInfo {
        version: 0,
        pad0: 0,
        tsc_timestamp: tsc.wrapping_sub(lag),
        system_time,
        tsc_to_system_mul: scale.mul,
        tsc_shift: scale.shift,
        flags: if hv.clock.is_stable() {
            XEN_PVCLOCK_TSC_STABLE_BIT
        } else {
            0
        },
        pad1: [0; 2],
    }
}
