//! What this crate leaves out of Xen's headers, and why.

/// Names that are left out.
#[derive(Debug)]
pub struct Exclusion {
    /// Names, or beginnings of names where they end in `*`.
    names: &'static [&'static str],
    /// Why.
    #[allow(dead_code, reason = "it is for the reader, here and in a failure")]
    reason: &'static str,
}

impl Exclusion {
    /// Its patterns that fit a name.
    pub fn fitting(&self, name: &str) -> impl Iterator<Item = &'static str> {
        self.names
            .iter()
            .copied()
            .filter(move |pattern| match pattern.strip_suffix('*') {
                Some(start) => name.starts_with(start),
                None => name == *pattern,
            })
    }

    /// All its patterns.
    pub fn patterns(&self) -> &'static [&'static str] {
        self.names
    }
}

const fn exclusion(reason: &'static str, names: &'static [&'static str]) -> Exclusion {
    Exclusion { names, reason }
}

/// Constants, types and fields of covered headers.
pub const NAMES: &[Exclusion] = &[
    exclusion("generic here: `GuestHandle`", &["__guest_handle_*"]),
    exclusion(
        "how C spells types and declarations",
        &[
            "COMPAT_FLEX_ARRAY_DIM",
            "PRI_xen_*",
            "PRIu_xen_*",
            "XEN_HAVE_PV_GUEST_ENTRY",
            "XEN_HAVE_PV_UPCALL_MASK",
            "__XEN_INTERFACE_VERSION__",
            "blkif_sector_t",
            "blkif_vdev_t",
            "int64_aligned_t",
            "uint64_aligned_t",
            "xen_vga_console_info",
            "xen_vga_console_info_t",
            "xen_wc_sec_hi",
        ],
    ),
    exclusion(
        "an array of texts: `GNTST_*` are documented",
        &["GNTTABOP_error_msgs"],
    ),
    exclusion(
        "an array of texts, checked by a test of its own",
        &["struct xsd_errors"],
    ),
    exclusion(
        "text for an assembler, whose bytes are checked by a test of their own",
        &["XEN_CPUID", "XEN_EMULATE_PREFIX"],
    ),
    exclusion(
        "a pointer to `MACH2PHYS_VIRT_START`",
        &["machine_to_phys_mapping"],
    ),
    exclusion(
        "traces of hardware-virtualized guests and of shadow tables",
        &["TRC_HVM_*", "TRC_SHADOW_*"],
    ),
    exclusion(
        "bit-fields of varying length, which `TRACE_*` and `TRC_HD_*` describe",
        &[
            "struct t_rec",
            "struct t_rec.u.cycles",
            "struct t_rec.u.nocycles",
        ],
    ),
    exclusion(
        "paging, access rights and sharing are for hardware-virtualized guests",
        &[
            "XENMEM_FORK_*",
            "XENMEM_SHARING_OP_*",
            "XENMEM_access_*",
            "XENMEM_paging_op_*",
            "XENMEM_sharing_op_*",
            "struct mem_sharing_op_*",
            "struct xen_mem_access_op",
            "struct xen_mem_paging_op",
            "struct xen_mem_sharing_op",
        ],
    ),
    exclusion(
        "rings are one header and entries here, whatever the protocol",
        &[
            "struct blkif_sring",
            "struct netif_rx_sring",
            "struct netif_tx_sring",
            "struct xen_netif_ctrl_sring",
            "union blkif_sring_entry",
            "union netif_rx_sring_entry",
            "union netif_tx_sring_entry",
            "union xen_netif_ctrl_sring_entry",
            "struct nothing_sring.ring",
            "struct blkif_sring.pvt.*",
            "struct netif_rx_sring.pvt.*",
            "struct netif_tx_sring.pvt.*",
            "struct xen_netif_ctrl_sring.pvt.*",
        ],
    ),
    exclusion(
        "private to one end of a ring",
        &[
            "struct blkif_back_ring",
            "struct blkif_front_ring",
            "struct netif_rx_back_ring",
            "struct netif_rx_front_ring",
            "struct netif_tx_back_ring",
            "struct netif_tx_front_ring",
            "struct xen_netif_ctrl_back_ring",
            "struct xen_netif_ctrl_front_ring",
        ],
    ),
    exclusion(
        "one word, or the union of structs that are covered",
        &[
            "union xen_add_to_physmap_batch_extra",
            "union xenpf_efi_info",
            "struct xen_domctl_vm_event_op.u.enable",
            "union grant_entry_v2.full_page",
            "union grant_entry_v2.sub_page",
            "union grant_entry_v2.transitive",
            "union grant_entry_v2.__spacer",
            "union grant_entry_v2.hdr",
        ],
    ),
    exclusion(
        "the same as another struct that is covered",
        &[
            "struct physdev_manage_pci_ext.physfn",
            "struct xenpf_efi_runtime_call.u.set_variable",
        ],
    ),
    exclusion("an array of bytes", &["struct vcpu_guest_context.fpu_ctxt"]),
    exclusion(
        "an array without a length, which is not part of the struct here",
        &[
            "struct physdev_pci_device_add.optarr",
            "struct t_info.mfn_offset",
            "struct xen_build_id.buf",
        ],
    ),
    exclusion(
        "bit-fields, one word here",
        &["struct xen_processor_flags.*"],
    ),
];

/// Whole headers.
pub const HEADERS: &[Exclusion] = &[
    exclusion(
        "another architecture",
        &[
            "arch-arm*",
            "arch-x86_32.h",
            "arch-x86/xen-x86_32.h",
            "foreign/*",
        ],
    ),
    exclusion(
        "the same as arch-x86/xen.h under its old name",
        &["arch-x86_64.h"],
    ),
    exclusion(
        "calls of an operating system to its own kernel",
        &["evtchn.h", "gntalloc.h", "gntdev.h", "privcmd.h", "sys/*"],
    ),
    exclusion(
        "hardware-virtualized guests",
        &[
            "hvm/*",
            "arch-x86/hvm/*",
            "arch-x86/guest-acpi.h",
            "vm_event.h",
        ],
    ),
    exclusion(
        "device trees, which x86 does not have",
        &["device_tree_defs.h"],
    ),
    exclusion("withdrawn by Xen", &["dom0_ops.h", "tmem.h", "xencomm.h"]),
    exclusion(
        "optional hypercalls that this hypervisor does not have",
        &[
            "argo.h",
            "hypfs.h",
            "kexec.h",
            "pmu.h",
            "arch-x86/pmu.h",
            "xenoprof.h",
            "xsm/*",
            "arch-x86/xen-mca.h",
        ],
    ),
    exclusion(
        "CPUID bits, which the CPU's manuals define",
        &["arch-x86/cpufeatureset.h"],
    ),
    exclusion(
        "devices other than console, store, disk and network",
        &[
            "io/9pfs.h",
            "io/cameraif.h",
            "io/displif.h",
            "io/fbif.h",
            "io/fsif.h",
            "io/kbdif.h",
            "io/libxenvchan.h",
            "io/pciif.h",
            "io/pvcalls.h",
            "io/sndif.h",
            "io/tpmif.h",
            "io/usbif.h",
            "io/vscsiif.h",
        ],
    ),
];
