//! The shared info page as atomics: the hypervisor and other domains write it while this guest
//! reads it, so no field of it may be behind an ordinary reference. The layout is that of `struct
//! shared_info` (xen.h), checked at compile time.

use core::mem::offset_of;
use core::sync::atomic::{AtomicI8, AtomicU8, AtomicU32, AtomicU64};

use hypercall_abi::arch_x86::{ArchSharedInfo, ArchVcpuInfo, XEN_LEGACY_MAX_VCPUS};
use hypercall_abi::xen::{self, VcpuInfo, VcpuTimeInfo};

/// `struct vcpu_time_info`: what system time is computed from.
#[derive(Default)]
#[repr(C)]
pub struct TimeInfo {
    /// Odd while the hypervisor updates the other fields, and different after each update.
    pub version: AtomicU32,
    _pad0: u32,
    /// Time-stamp counter at the last update.
    pub tsc_timestamp: AtomicU64,
    /// Nanoseconds since the host booted, at the last update.
    pub system_time: AtomicU64,
    /// Nanoseconds per (shifted) tick, as a fraction of 2^32.
    pub tsc_to_system_mul: AtomicU32,
    /// Binary places to shift a tick count left (right if negative) before multiplying.
    pub tsc_shift: AtomicI8,
    /// `XEN_PVCLOCK_*`.
    pub flags: AtomicU8,
    _pad1: [u8; 2],
}

/// `struct vcpu_info`: what the hypervisor tells one vCPU.
#[derive(Default)]
#[repr(C)]
pub struct Vcpu {
    /// Not zero where some port of this vCPU became pending.
    pub upcall_pending: AtomicU8,
    /// Not zero where upcalls are held back: this vCPU's interrupt-disable flag.
    pub upcall_mask: AtomicU8,
    _pad0: [u8; 6],
    /// A bit for each word of [`SharedInfo::evtchn_pending`] to look at.
    pub pending_sel: AtomicU64,
    /// The address that the last page fault was about.
    pub cr2: AtomicU64,
    _pad1: u64,
    /// The clock.
    pub time: TimeInfo,
}

/// `struct shared_info`, as far as this library uses it.
#[repr(C)]
pub struct SharedInfo {
    /// The vCPUs.
    pub vcpu: [Vcpu; XEN_LEGACY_MAX_VCPUS],
    /// A bit for each port: an event came.
    pub evtchn_pending: [AtomicU64; 64],
    /// A bit for each port: its events cause no upcall.
    pub evtchn_mask: [AtomicU64; 64],
    /// Version of the wall clock, as [`TimeInfo::version`].
    pub wc_version: AtomicU32,
    /// Seconds from the Unix epoch to system time 0, the low half.
    pub wc_sec: AtomicU32,
    /// Nanoseconds to add to that.
    pub wc_nsec: AtomicU32,
    /// The high half of the seconds.
    pub wc_sec_hi: AtomicU32,
    /// `arch.max_pfn`: entries of the list of frames.
    pub max_pfn: AtomicU64,
    /// `arch.pfn_to_mfn_frame_list_list`.
    pub pfn_to_mfn_frame_list_list: AtomicU64,
    /// `arch.nmi_reason`.
    pub nmi_reason: AtomicU64,
    /// `arch.p2m_cr3`: root of the address space of the linear list of frames.
    pub p2m_cr3: AtomicU64,
    /// `arch.p2m_vaddr`: address of that list.
    pub p2m_vaddr: AtomicU64,
    /// `arch.p2m_generation`: odd while that list is being remapped.
    pub p2m_generation: AtomicU64,
}

const _: () = {
    assert!(size_of::<TimeInfo>() == size_of::<VcpuTimeInfo>());
    assert!(offset_of!(TimeInfo, system_time) == offset_of!(VcpuTimeInfo, system_time));
    assert!(offset_of!(TimeInfo, tsc_shift) == offset_of!(VcpuTimeInfo, tsc_shift));
    assert!(size_of::<Vcpu>() == size_of::<VcpuInfo>());
    assert!(offset_of!(Vcpu, upcall_mask) == offset_of!(VcpuInfo, evtchn_upcall_mask));
    assert!(offset_of!(Vcpu, pending_sel) == offset_of!(VcpuInfo, evtchn_pending_sel));
    assert!(offset_of!(Vcpu, cr2) == offset_of!(VcpuInfo, arch) + offset_of!(ArchVcpuInfo, cr2));
    assert!(offset_of!(Vcpu, time) == offset_of!(VcpuInfo, time));
    assert!(size_of::<SharedInfo>() == size_of::<xen::SharedInfo>());
    assert!(offset_of!(SharedInfo, evtchn_mask) == offset_of!(xen::SharedInfo, evtchn_mask));
    assert!(offset_of!(SharedInfo, wc_sec_hi) == offset_of!(xen::SharedInfo, wc_sec_hi));
    assert!(
        offset_of!(SharedInfo, p2m_vaddr)
            == offset_of!(xen::SharedInfo, arch) + offset_of!(ArchSharedInfo, p2m_vaddr)
    );
};

impl Default for SharedInfo {
    fn default() -> Self {
        Self {
            vcpu: Default::default(),
            evtchn_pending: [const { AtomicU64::new(0) }; 64],
            evtchn_mask: [const { AtomicU64::new(0) }; 64],
            wc_version: AtomicU32::default(),
            wc_sec: AtomicU32::default(),
            wc_nsec: AtomicU32::default(),
            wc_sec_hi: AtomicU32::default(),
            max_pfn: AtomicU64::default(),
            pfn_to_mfn_frame_list_list: AtomicU64::default(),
            nmi_reason: AtomicU64::default(),
            p2m_cr3: AtomicU64::default(),
            p2m_vaddr: AtomicU64::default(),
            p2m_generation: AtomicU64::default(),
        }
    }
}
