//! What `xl info` tells of the host.

use alloc::string::String;
use core::fmt::Write;

use control::HostInfo;
use hypercall_abi::domctl::*;
use hypercall_abi::event_channel::EVTCHNSTAT_CLOSED;
use hypercall_abi::sysctl::*;
use hypercall_abi::types::{Domid, Port};
use pv_guest::hypercall::{event_channel, system};
use pv_guest::{boot, clock, memory};

use super::dma;
use super::hypervisor::free_kib;
use super::scheduling::scheduler;

/// All of it: what `XEN_SYSCTL_physinfo` told, `XENVER_*` and their like.
pub fn read(physinfo: &SysctlPhysinfo) -> HostInfo {
    let (major, minor) = system::version();
    let compile = system::compile_info().unwrap_or_default();
    HostInfo {
        hostname: String::from(boot::option("hostname").unwrap_or("xenolith")),
        release: String::from(env!("CARGO_PKG_VERSION")),
        version: String::from("xenolith dom0"),
        machine: String::from("x86_64"),
        nr_cpus: physinfo.nr_cpus,
        max_cpu_id: physinfo.max_cpu_id,
        nr_nodes: physinfo.nr_nodes,
        cores_per_socket: physinfo.cores_per_socket,
        threads_per_core: physinfo.threads_per_core,
        cpu_khz: physinfo.cpu_khz,
        hw_cap: physinfo.hw_cap,
        virt_caps: virt_caps(physinfo.capabilities),
        total_memory_kib: physinfo.total_pages * 4,
        free_memory_kib: free_kib(physinfo),
        outstanding_kib: physinfo.outstanding_pages * 4,
        sharing_freed_frames: 0,
        sharing_used_frames: 0,
        free_cpus: 0,
        xen_major: major.into(),
        xen_minor: minor.into(),
        xen_extra: text(&system::extraversion().unwrap_or([0; 16])),
        xen_caps: text(&system::capabilities().unwrap_or([0; 1024])),
        xen_scheduler: scheduler_name(),
        xen_pagesize: system::page_size().unwrap_or(4096) as u32,
        virt_start: system::platform_parameters().map_or(0, |p| p.virt_start),
        xen_changeset: text(&system::changeset().unwrap_or([0; 64])),
        xen_commandline: text(&system::commandline().unwrap_or([0; 1024])),
        cc_compiler: text(&compile.compiler),
        cc_compile_by: text(&compile.compile_by),
        cc_compile_domain: text(&compile.compile_domain),
        cc_compile_date: text(&compile.compile_date),
        build_id: String::new(),
        uptime_ms: clock::now() / 1_000_000,
        dom0_ports: ports(),
        dom0_used: memory::used_bytes().saturating_sub(dma::spare_bytes()),
        address: None,
    }
}

/// How many ports of this domain are not free.
fn ports() -> u32 {
    let states = (0..).map_while(|port| event_channel::status(Domid::SELF, Port(port)).ok());
    let used = states.filter(|state| state.status != EVTCHNSTAT_CLOSED);
    used.count() as u32
}

/// Text that a zero ends, without the space that Xen leaves behind lists.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    String::from(String::from_utf8_lossy(bytes).trim_end())
}

/// Capabilities in the words of xl.
fn virt_caps(capabilities: u32) -> String {
    let mut words = String::new();
    for (bits, word) in [
        (XEN_SYSCTL_PHYSCAP_PV, "pv"),
        (XEN_SYSCTL_PHYSCAP_HVM, "hvm"),
        (
            XEN_SYSCTL_PHYSCAP_HVM | XEN_SYSCTL_PHYSCAP_DIRECTIO,
            "hvm_directio",
        ),
        (
            XEN_SYSCTL_PHYSCAP_PV | XEN_SYSCTL_PHYSCAP_DIRECTIO,
            "pv_directio",
        ),
        (XEN_SYSCTL_PHYSCAP_HAP, "hap"),
        (XEN_SYSCTL_PHYSCAP_SHADOW, "shadow"),
        (XEN_SYSCTL_PHYSCAP_IOMMU_HAP_PT_SHARE, "iommu_hap_pt_share"),
        (XEN_SYSCTL_PHYSCAP_VMTRACE, "vmtrace"),
        (XEN_SYSCTL_PHYSCAP_VPMU, "vpmu"),
        (XEN_SYSCTL_PHYSCAP_GNTTAB_V1, "gnttab-v1"),
        (XEN_SYSCTL_PHYSCAP_GNTTAB_V2, "gnttab-v2"),
    ] {
        if capabilities & bits == bits {
            let space = if words.is_empty() { "" } else { " " };
            // Writing to a string does not fail.
            let _ = write!(words, "{space}{word}");
        }
    }
    words
}

fn scheduler_name() -> String {
    String::from(match scheduler() {
        Err(_) => "",
        Ok(XEN_SCHEDULER_CREDIT) => "credit",
        Ok(XEN_SCHEDULER_CREDIT2) => "credit2",
        Ok(XEN_SCHEDULER_ARINC653) => "arinc653",
        Ok(XEN_SCHEDULER_RTDS) => "rtds",
        Ok(XEN_SCHEDULER_NULL) => "null",
        Ok(_) => "unknown",
    })
}
