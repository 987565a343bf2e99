//! Memory reservations, physical maps and resources (`xen/memory.h`).

use crate::layout::{constants, structs};
use crate::physdev::PhysdevPciDevice;
use crate::types::{Domid, GuestHandle, Mfn, Pfn};

constants! {
    /// Add extents to a domain, at machine frames of the hypervisor's choice: `MemoryReservation`;
    /// returns their number.
    pub const XENMEM_INCREASE_RESERVATION: u32 = 0;
    /// Give extents back: `MemoryReservation`; returns their number.
    pub const XENMEM_DECREASE_RESERVATION: u32 = 1;
    /// Add extents at guest-physical frames: `MemoryReservation`; returns their number.
    pub const XENMEM_POPULATE_PHYSMAP: u32 = 6;
    /// Swap extents for others: `MemoryExchange`.
    pub const XENMEM_EXCHANGE: u32 = 11;
    /// Returns the highest machine frame that is RAM, plus one. No argument.
    pub const XENMEM_MAXIMUM_RAM_PAGE: u32 = 2;
    /// Returns a domain's number of pages: `MemoryDomain`.
    pub const XENMEM_CURRENT_RESERVATION: u32 = 3;
    /// Returns a domain's limit of pages: `MemoryDomain`.
    pub const XENMEM_MAXIMUM_RESERVATION: u32 = 4;
    /// Returns a domain's highest guest-physical frame: `MemoryDomain`.
    pub const XENMEM_MAXIMUM_GPFN: u32 = 14;
    /// Frames of the machine-to-phys table: `MachphysMfnList`.
    pub const XENMEM_MACHPHYS_MFN_LIST: u32 = 5;
    /// Frames of the 32-bit machine-to-phys table: `MachphysMfnList`.
    pub const XENMEM_MACHPHYS_COMPAT_MFN_LIST: u32 = 25;
    /// Where the machine-to-phys table is: `MachphysMapping`.
    pub const XENMEM_MACHPHYS_MAPPING: u32 = 12;
    /// Map a page of some space at a guest-physical frame: `AddToPhysmap`.
    pub const XENMEM_ADD_TO_PHYSMAP: u32 = 7;
    /// Map many: `AddToPhysmapBatch`.
    pub const XENMEM_ADD_TO_PHYSMAP_BATCH: u32 = 23;
    /// Unmap a guest-physical frame: `RemoveFromPhysmap`.
    pub const XENMEM_REMOVE_FROM_PHYSMAP: u32 = 15;
    /// The caller's pseudo-physical memory map: `MemoryMap`.
    pub const XENMEM_MEMORY_MAP: u32 = 9;
    /// The machine's memory map, for dom0: `MemoryMap`.
    pub const XENMEM_MACHINE_MEMORY_MAP: u32 = 10;
    /// Set a domain's memory map: `ForeignMemoryMap`.
    pub const XENMEM_SET_MEMORY_MAP: u32 = 13;
    /// Set a target of populate-on-demand: `PodTarget`.
    pub const XENMEM_SET_POD_TARGET: u32 = 16;
    /// Get the state of populate-on-demand: `PodTarget`.
    pub const XENMEM_GET_POD_TARGET: u32 = 17;
    /// Returns the number of pages freed by sharing. No argument.
    pub const XENMEM_GET_SHARING_FREED_PAGES: u32 = 18;
    /// Returns the number of pages shared. No argument.
    pub const XENMEM_GET_SHARING_SHARED_PAGES: u32 = 19;
    /// Paging, for hardware-virtualized guests.
    pub const XENMEM_PAGING_OP: u32 = 20;
    /// Access rights, for hardware-virtualized guests.
    pub const XENMEM_ACCESS_OP: u32 = 21;
    /// Sharing, for hardware-virtualized guests.
    pub const XENMEM_SHARING_OP: u32 = 22;
    /// Set pages aside for a domain: `MemoryReservation`.
    pub const XENMEM_CLAIM_PAGES: u32 = 24;
    /// Virtual NUMA topology: `VnumaTopologyInfo`.
    pub const XENMEM_GET_VNUMAINFO: u32 = 26;
    /// Memory that devices claim: `ReservedDeviceMemoryMap`.
    pub const XENMEM_RESERVED_DEVICE_MEMORY_MAP: u32 = 27;
    /// Frames of a domain's resource: `MemAcquireResource`.
    pub const XENMEM_ACQUIRE_RESOURCE: u32 = 28;

    /// `MemoryReservation::mem_flags`: populate on demand.
    pub const XENMEMF_POPULATE_ON_DEMAND: u32 = 1 << 16;
    /// `MemoryReservation::mem_flags`: from the given node only.
    pub const XENMEMF_EXACT_NODE_REQUEST: u32 = 1 << 17;
    /// `MemoryReservation::mem_flags`: the node is a virtual one.
    pub const XENMEMF_VNODE: u32 = 1 << 18;

    /// The shared page.
    pub const XENMAPSPACE_SHARED_INFO: u32 = 0;
    /// A page of the grant table.
    pub const XENMAPSPACE_GRANT_TABLE: u32 = 1;
    /// A guest-physical frame.
    pub const XENMAPSPACE_GMFN: u32 = 2;
    /// A range of guest-physical frames.
    pub const XENMAPSPACE_GMFN_RANGE: u32 = 3;
    /// A guest-physical frame of another domain.
    pub const XENMAPSPACE_GMFN_FOREIGN: u32 = 4;
    /// Memory-mapped I/O.
    pub const XENMAPSPACE_DEV_MMIO: u32 = 5;
    /// `AddToPhysmap::idx`: the grant status pages.
    pub const XENMAPIDX_GRANT_TABLE_STATUS: u32 = 0x8000_0000;

    /// `ReservedDeviceMemoryMap::flags`: of all devices.
    pub const XENMEM_RDM_ALL: u32 = 1;

    /// `MemAcquireResource::type_`: pages of an I/O request server.
    pub const XENMEM_RESOURCE_IOREQ_SERVER: u16 = 0;
    /// `MemAcquireResource::type_`: pages of the grant table.
    pub const XENMEM_RESOURCE_GRANT_TABLE: u16 = 1;
    /// `MemAcquireResource::type_`: pages of a trace.
    pub const XENMEM_RESOURCE_VMTRACE_BUF: u16 = 2;
    /// `MemAcquireResource::id` of the grant table: its shared pages.
    pub const XENMEM_RESOURCE_GRANT_TABLE_ID_SHARED: u32 = 0;
    /// `MemAcquireResource::id` of the grant table: its status pages.
    pub const XENMEM_RESOURCE_GRANT_TABLE_ID_STATUS: u32 = 1;
    /// `MemAcquireResource::frame` of an I/O request server: buffered requests.
    pub const XENMEM_RESOURCE_IOREQ_SERVER_FRAME_BUFIOREQ: u64 = 0;
}

/// `MemoryReservation::mem_flags`: machine addresses of at most this many bits, 0 for any
/// (`XENMEMF_address_bits`).
pub const fn memf_address_bits(bits: u8) -> u32 {
    bits as u32
}

/// The address width in `mem_flags` (`XENMEMF_get_address_bits`).
pub const fn memf_get_address_bits(mem_flags: u32) -> u8 {
    mem_flags as u8
}

/// `MemoryReservation::mem_flags`: preferably from this node (`XENMEMF_node`).
pub const fn memf_node(node: u8) -> u32 {
    (node as u32 + 1) << 8
}

/// The node in `mem_flags`, 255 for any (`XENMEMF_get_node`).
pub const fn memf_get_node(mem_flags: u32) -> u8 {
    (mem_flags >> 8).wrapping_sub(1) as u8
}

/// `MemoryReservation::mem_flags`: from this node only (`XENMEMF_exact_node`).
pub const fn memf_exact_node(node: u8) -> u32 {
    memf_node(node) | XENMEMF_EXACT_NODE_REQUEST
}

structs! {
    /// A list of extents, each of `1 << extent_order` pages.
    pub struct MemoryReservation[32] = "struct xen_memory_reservation" {
        /// Their first frames: machine or guest-physical, in or out, as the operation says.
        pub extent_start: GuestHandle<u64>,
        /// How many.
        pub nr_extents: u64,
        /// Size of each, as a power of two of pages, and its alignment.
        pub extent_order: u32,
        /// `XENMEMF_*` and what the `memf_*` functions give.
        pub mem_flags: u32,
        /// The domain.
        pub domid: Domid,
        /// Zero.
        pub _pad0: [u16; 3],
    }

    /// `XENMEM_EXCHANGE`.
    pub struct MemoryExchange[72] = "struct xen_memory_exchange" {
        /// Extents to give.
        pub in_: MemoryReservation,
        /// Extents to get.
        pub out: MemoryReservation,
        /// In: 0; out: number of `in_` extents done.
        pub nr_exchanged: u64,
    }

    /// A domain that a query is about.
    pub struct MemoryDomain[2] = "struct xen_memory_domain" {
        /// The domain.
        pub domid: Domid,
    }

    /// `XENMEM_MACHPHYS_MFN_LIST`: the first frame of every 2 MiB of the table.
    pub struct MachphysMfnList[24] = "struct xen_machphys_mfn_list" {
        /// Room in `extent_start`.
        pub max_extents: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: the frames.
        pub extent_start: GuestHandle<Mfn>,
        /// Out: how many.
        pub nr_extents: u32,
        /// Zero.
        pub _pad1: u32,
    }

    /// `XENMEM_MACHPHYS_MAPPING`.
    pub struct MachphysMapping[24] = "struct xen_machphys_mapping" {
        /// First address of the table.
        pub v_start: u64,
        /// Address of its end.
        pub v_end: u64,
        /// The highest frame that it has.
        pub max_mfn: u64,
    }

    /// `XENMEM_ADD_TO_PHYSMAP`.
    pub struct AddToPhysmap[24] = "struct xen_add_to_physmap" {
        /// The domain.
        pub domid: Domid,
        /// Number of pages of a `XENMAPSPACE_GMFN_RANGE`.
        pub size: u16,
        /// `XENMAPSPACE_*`.
        pub space: u32,
        /// Index into the space.
        pub idx: u64,
        /// Where it is to appear.
        pub gpfn: Pfn,
    }

    /// `XENMEM_ADD_TO_PHYSMAP_BATCH`.
    pub struct AddToPhysmapBatch[32] = "struct xen_add_to_physmap_batch" {
        /// The domain.
        pub domid: Domid,
        /// `XENMAPSPACE_*`.
        pub space: u16,
        /// Number of pages.
        pub size: u16,
        /// The owner of foreign frames, else 0.
        pub u: u16,
        /// Indices into the space.
        pub idxs: GuestHandle<u64>,
        /// Where they are to appear.
        pub gpfns: GuestHandle<Pfn>,
        /// Out: an error for each, or 0.
        pub errs: GuestHandle<i32>,
    }

    /// `XENMEM_REMOVE_FROM_PHYSMAP`.
    pub struct RemoveFromPhysmap[16] = "struct xen_remove_from_physmap" {
        /// The domain.
        pub domid: Domid,
        /// Zero.
        pub _pad0: [u16; 3],
        /// The frame.
        pub gpfn: Pfn,
    }

    /// `XENMEM_MEMORY_MAP`: entries as BIOS function E820 gives them, 20 bytes each.
    pub struct MemoryMap[16] = "struct xen_memory_map" {
        /// In: room for entries; out: how many there are.
        pub nr_entries: u32,
        /// Zero.
        pub _pad0: u32,
        /// Out: the entries.
        pub buffer: GuestHandle<u8>,
    }

    /// `XENMEM_SET_MEMORY_MAP`.
    pub struct ForeignMemoryMap[24] = "struct xen_foreign_memory_map" {
        /// The domain.
        pub domid: Domid,
        /// Zero.
        pub _pad0: [u16; 3],
        /// Its map.
        pub map: MemoryMap,
    }

    /// `XENMEM_SET_POD_TARGET` and `XENMEM_GET_POD_TARGET`.
    pub struct PodTarget[40] = "struct xen_pod_target" {
        /// In: pages the domain is to have.
        pub target_pages: u64,
        /// Out: pages it has.
        pub tot_pages: u64,
        /// Out: pages that are set aside.
        pub pod_cache_pages: u64,
        /// Out: frames that have none yet.
        pub pod_entries: u64,
        /// In: the domain.
        pub domid: Domid,
        /// Zero.
        pub _pad0: [u16; 3],
    }

    /// A range of memory that a device claims.
    pub struct ReservedDeviceMemory[16] = "struct xen_reserved_device_memory" {
        /// First frame.
        pub start_pfn: Pfn,
        /// How many.
        pub nr_pages: u64,
    }

    /// `XENMEM_RESERVED_DEVICE_MEMORY_MAP`.
    pub struct ReservedDeviceMemoryMap[24] = "struct xen_reserved_device_memory_map" {
        /// In: `XENMEM_RDM_ALL` or 0.
        pub flags: u32,
        /// In: room for entries; out: how many there are.
        pub nr_entries: u32,
        /// Out: the entries.
        pub buffer: GuestHandle<ReservedDeviceMemory>,
        /// In: the device.
        pub dev: PhysdevPciDevice,
        /// Zero.
        pub _pad0: u32,
    }

    /// `XENMEM_ACQUIRE_RESOURCE`.
    pub struct MemAcquireResource[32] = "struct xen_mem_acquire_resource" {
        /// In: whose.
        pub domid: Domid,
        /// In: `XENMEM_RESOURCE_*`.
        pub type_: u16,
        /// In: which of that type.
        pub id: u32,
        /// In: number of frames; with a null `frame_list`, out: how many there are.
        pub nr_frames: u32,
        /// Zero.
        pub pad: u32,
        /// In: the first frame of the resource.
        pub frame: u64,
        /// Out, for PV callers: the machine frames.
        pub frame_list: GuestHandle<Mfn>,
    }

    /// A range of memory on a virtual node.
    pub struct Vmemrange[24] = "struct xen_vmemrange" {
        /// First address.
        pub start: u64,
        /// End.
        pub end: u64,
        /// Zero.
        pub flags: u32,
        /// The node.
        pub nid: u32,
    }

    /// `XENMEM_GET_VNUMAINFO`.
    pub struct VnumaTopologyInfo[40] = "struct xen_vnuma_topology_info" {
        /// In: the domain.
        pub domid: Domid,
        /// Zero.
        pub pad: u16,
        /// In: room for nodes; out: how many there are.
        pub nr_vnodes: u32,
        /// In: room for vCPUs; out: how many there are.
        pub nr_vcpus: u32,
        /// In: room for ranges; out: how many there are.
        pub nr_vmemranges: u32,
        /// Out: distances between nodes.
        pub vdistance: GuestHandle<u32>,
        /// Out: the node of each vCPU.
        pub vcpu_to_vnode: GuestHandle<u32>,
        /// Out: the ranges.
        pub vmemrange: GuestHandle<Vmemrange>,
    }
}

impl AddToPhysmapBatch {
    /// The domain whose frames `XENMAPSPACE_GMFN_FOREIGN` maps.
    pub const fn foreign_domid(&self) -> Domid {
        Domid(self.u)
    }
}
