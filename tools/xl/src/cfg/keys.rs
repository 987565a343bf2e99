//! Which keys xl.cfg has, and which of them mean something here.

/// What is to be said of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// It is heeded.
    Supported,
    /// xl.cfg has it; Xenolith does nothing with it.
    Unsupported,
    /// xl.cfg has no such key.
    Unknown,
}

const SUPPORTED: &[&str] = &[
    "builder",
    "cap",
    "cmdline",
    "cpu_weight",
    "cpus",
    "cpus_soft",
    "disk",
    "extra",
    "kernel",
    "max_event_channels",
    "maxmem",
    "maxvcpus",
    "memory",
    "name",
    "on_crash",
    "on_poweroff",
    "on_reboot",
    "on_soft_reset",
    "on_watchdog",
    "ramdisk",
    "root",
    "type",
    "uuid",
    "vcpus",
    "vif",
];

/// The other keys of `xl.cfg(5)`, sorted.
const UNSUPPORTED: &[&str] = &[
    "acpi",
    "acpi_firmware",
    "acpi_laptop_slate",
    "acpi_s3",
    "acpi_s4",
    "altp2m",
    "altp2mhvm",
    "apic",
    "bios",
    "bios_path_override",
    "boot",
    "bootloader",
    "bootloader_args",
    "channel",
    "cpuid",
    "device_model",
    "device_model_args",
    "device_model_args_hvm",
    "device_model_args_pv",
    "device_model_override",
    "device_model_stubdomain_override",
    "device_model_stubdomain_seclabel",
    "device_model_user",
    "device_model_version",
    "device_tree",
    "dm_restrict",
    "driver_domain",
    "dtdev",
    "e820_host",
    "extratime",
    "firmware",
    "firmware_override",
    "gfx_passthru",
    "gic_version",
    "hap",
    "hdtype",
    "hpet",
    "init_seclabel",
    "iomem",
    "ioports",
    "irqs",
    "keymap",
    "latency",
    "localtime",
    "max_grant_frames",
    "max_grant_version",
    "max_maptrack_frames",
    "mca_caps",
    "mmio_hole",
    "ms_vm_genid",
    "msr_relaxed",
    "nestedhvm",
    "nographic",
    "nomigrate",
    "nx",
    "oos",
    "opengl",
    "p9",
    "pae",
    "passthrough",
    "pci",
    "pci_msitranslate",
    "pci_permissive",
    "pci_power_mgmt",
    "pci_seize",
    "period",
    "pool",
    "pvcalls",
    "pvshim",
    "pvshim_cmdline",
    "pvshim_extra",
    "pvshim_path",
    "rdm",
    "rdm_mem_boundary",
    "rtc_timeoffset",
    "sdl",
    "seclabel",
    "serial",
    "shadow_memory",
    "slice",
    "smbios_firmware",
    "soundhw",
    "spice",
    "spice_clipboard_sharing",
    "spice_image_compression",
    "spice_streaming_video",
    "spiceagent_mouse",
    "spicedisable_ticketing",
    "spicehost",
    "spicepasswd",
    "spiceport",
    "spicetls_port",
    "spiceusbredirection",
    "spicevdagent",
    "stdvga",
    "stubdomain_cmdline",
    "stubdomain_kernel",
    "stubdomain_memory",
    "stubdomain_ramdisk",
    "tee",
    "timer_mode",
    "tsc_mode",
    "usb",
    "usbctrl",
    "usbdev",
    "usbdevice",
    "usbversion",
    "vdispl",
    "vendor_device",
    "vfb",
    "vga",
    "videoram",
    "vif2",
    "viridian",
    "vkb",
    "vkb_device",
    "vmtrace_buf_kb",
    "vnc",
    "vncdisplay",
    "vnclisten",
    "vncpasswd",
    "vncunused",
    "vncviewer",
    "vnuma",
    "vpmu",
    "vpt_align",
    "vsnd",
    "vtpm",
    "vuart",
    "xen_platform_pci",
    "xend_suspend_evtchn_compat",
];

/// Looks a key up.
pub fn look_up(key: &str) -> Key {
    if SUPPORTED.binary_search(&key).is_ok() {
        Key::Supported
    } else if UNSUPPORTED.binary_search(&key).is_ok() {
        Key::Unsupported
    } else {
        Key::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_are_sorted_and_share_no_key() {
        assert!(SUPPORTED.is_sorted() && UNSUPPORTED.is_sorted());
        assert!(SUPPORTED.iter().all(|key| !UNSUPPORTED.contains(key)));
    }

    #[test]
    fn keys_are_told_apart() {
        assert_eq!(look_up("kernel"), Key::Supported);
        assert_eq!(look_up("vif2"), Key::Unsupported);
        assert_eq!(look_up("kernal"), Key::Unknown);
    }
}
