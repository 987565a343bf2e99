//! Grant tables: memory that a domain lets others map or copy (`xen/grant_table.h`).

use crate::layout::{constants, structs};
use crate::types::{Domid, GrantHandle, GrantRef, GuestHandle, Mfn, Union};

constants! {
    /// Number of entries at the start of the table that are set aside.
    pub const GNTTAB_NR_RESERVED_ENTRIES: u32 = 8;
    /// Entry of the console's ring.
    pub const GNTTAB_RESERVED_CONSOLE: u32 = 0;
    /// Entry of the store's ring.
    pub const GNTTAB_RESERVED_XENSTORE: u32 = 1;

    /// Flags of an entry: it grants nothing.
    pub const GTF_INVALID: u16 = 0;
    /// Flags of an entry: its domain may access the frame.
    pub const GTF_PERMIT_ACCESS: u16 = 1;
    /// Flags of an entry: its domain may give a frame.
    pub const GTF_ACCEPT_TRANSFER: u16 = 2;
    /// Flags of an entry: its domain may use another grant.
    pub const GTF_TRANSITIVE: u16 = 3;
    /// Flags of an entry: the bits of the kind.
    pub const GTF_TYPE_MASK: u16 = 3;
    /// Flags of an entry: no writes.
    pub const GTF_READONLY: u16 = 1 << 2;
    /// Flags of an entry, set by the hypervisor: mapped for reading.
    pub const GTF_READING: u16 = 1 << 3;
    /// Flags of an entry, set by the hypervisor: mapped for writing.
    pub const GTF_WRITING: u16 = 1 << 4;
    /// Flags of an entry: caching bit PWT.
    pub const GTF_PWT: u16 = 1 << 5 => "GTF_PWT";
    /// Flags of an entry: caching bit PCD.
    pub const GTF_PCD: u16 = 1 << 6 => "GTF_PCD";
    /// Flags of an entry: caching bit PAT.
    pub const GTF_PAT: u16 = 1 << 7 => "GTF_PAT";
    /// Flags of an entry of version 2: part of the frame only, to be copied.
    pub const GTF_SUB_PAGE: u16 = 1 << 8;
    /// Flags of a transfer, set by the hypervisor: it is going on.
    pub const GTF_TRANSFER_COMMITTED: u16 = 1 << 2;
    /// Flags of a transfer, set by the hypervisor: it is done.
    pub const GTF_TRANSFER_COMPLETED: u16 = 1 << 3;

    /// Map grants: `GnttabMapGrantRef`.
    pub const GNTTABOP_MAP_GRANT_REF: u32 = 0;
    /// Unmap grants: `GnttabUnmapGrantRef`.
    pub const GNTTABOP_UNMAP_GRANT_REF: u32 = 1;
    /// Set the table's size and get its frames: `GnttabSetupTable`.
    pub const GNTTABOP_SETUP_TABLE: u32 = 2;
    /// Print the table on the hypervisor's console: `GnttabDumpTable`.
    pub const GNTTABOP_DUMP_TABLE: u32 = 3;
    /// Give frames: `GnttabTransfer`.
    pub const GNTTABOP_TRANSFER: u32 = 4;
    /// Copy from and to grants: `GnttabCopy`.
    pub const GNTTABOP_COPY: u32 = 5;
    /// Get the table's size: `GnttabQuerySize`.
    pub const GNTTABOP_QUERY_SIZE: u32 = 6;
    /// Unmap grants and map something else there: `GnttabUnmapAndReplace`.
    pub const GNTTABOP_UNMAP_AND_REPLACE: u32 = 7;
    /// Set the table's version: `GnttabSetVersion`.
    pub const GNTTABOP_SET_VERSION: u32 = 8;
    /// Get frames of the status array: `GnttabGetStatusFrames`.
    pub const GNTTABOP_GET_STATUS_FRAMES: u32 = 9;
    /// Get the table's version: `GnttabGetVersion`.
    pub const GNTTABOP_GET_VERSION: u32 = 10;
    /// Swap entries: `GnttabSwapGrantRef`.
    pub const GNTTABOP_SWAP_GRANT_REF: u32 = 11;
    /// Flush caches: `GnttabCacheFlush`.
    pub const GNTTABOP_CACHE_FLUSH: u32 = 12;

    /// `GnttabCopy::flags`: the source is a grant.
    pub const GNTCOPY_SOURCE_GREF: u16 = 1 << 0;
    /// `GnttabCopy::flags`: the destination is a grant.
    pub const GNTCOPY_DEST_GREF: u16 = 1 << 1;
    /// `GnttabCacheFlush::op`: write back.
    pub const GNTTAB_CACHE_CLEAN: u32 = 1 << 0;
    /// `GnttabCacheFlush::op`: invalidate.
    pub const GNTTAB_CACHE_INVAL: u32 = 1 << 1;
    /// `GnttabCacheFlush::op`: of a grant.
    pub const GNTTAB_CACHE_SOURCE_GREF: u32 = 1 << 31;

    /// `GnttabMapGrantRef::flags`: for devices.
    pub const GNTMAP_DEVICE_MAP: u32 = 1 << 0;
    /// `GnttabMapGrantRef::flags`: for CPUs.
    pub const GNTMAP_HOST_MAP: u32 = 1 << 1;
    /// `GnttabMapGrantRef::flags`: no writes.
    pub const GNTMAP_READONLY: u32 = 1 << 2;
    /// `GnttabMapGrantRef::flags`: for user mode too.
    pub const GNTMAP_APPLICATION_MAP: u32 = 1 << 3;
    /// `GnttabMapGrantRef::flags`: `host_addr` is the machine address of a page-table entry.
    pub const GNTMAP_CONTAINS_PTE: u32 = 1 << 4;
    /// `GnttabMapGrantRef::flags`: the first of the bits for the entry that are the guest's.
    pub const GNTMAP_GUEST_AVAIL0: u32 = 16 => "_GNTMAP_guest_avail0";
    /// `GnttabMapGrantRef::flags`: bits for the entry that are the guest's.
    pub const GNTMAP_GUEST_AVAIL_MASK: u32 = !0 << 16;

    /// Status: done.
    pub const GNTST_OKAY: i16 = 0;
    /// Status: failed.
    pub const GNTST_GENERAL_ERROR: i16 = -1;
    /// Status: no such domain.
    pub const GNTST_BAD_DOMAIN: i16 = -2;
    /// Status: no such grant, or not for the caller.
    pub const GNTST_BAD_GNTREF: i16 = -3;
    /// Status: no such mapping.
    pub const GNTST_BAD_HANDLE: i16 = -4;
    /// Status: wrong address.
    pub const GNTST_BAD_VIRT_ADDR: i16 = -5;
    /// Status: wrong address for devices.
    pub const GNTST_BAD_DEV_ADDR: i16 = -6;
    /// Status: no room in the IOMMU.
    pub const GNTST_NO_DEVICE_SPACE: i16 = -7;
    /// Status: no privilege.
    pub const GNTST_PERMISSION_DENIED: i16 = -8;
    /// Status: wrong page.
    pub const GNTST_BAD_PAGE: i16 = -9;
    /// Status: a copy crosses a page's end.
    pub const GNTST_BAD_COPY_ARG: i16 = -10;
    /// Status: the frame is too high for the receiver.
    pub const GNTST_ADDRESS_TOO_BIG: i16 = -11;
    /// Status: try again.
    pub const GNTST_EAGAIN: i16 = -12;
    /// Status: no room for mappings.
    pub const GNTST_NO_SPACE: i16 = -13;
}

structs! {
    /// An entry of a table of version 1. The guest writes `flags` last, and takes them back with a
    /// compare-and-swap.
    pub struct GrantEntryV1[8] = "struct grant_entry_v1" {
        /// `GTF_*`.
        pub flags: u16,
        /// Who is granted it.
        pub domid: Domid,
        /// The frame: guest-physical, or machine for PV guests.
        pub frame: u32,
    }

    /// The start of an entry of version 2.
    pub struct GrantEntryHeader[4] = "struct grant_entry_header" {
        /// `GTF_*`. `GTF_READING` and `GTF_WRITING` are in the status array.
        pub flags: u16,
        /// Who is granted it.
        pub domid: Domid,
    }

    /// An entry of a table of version 2: a `GrantEntryHeader`, and by the kind in its flags one of
    /// the structs below.
    pub struct GrantEntryV2[16] = "union grant_entry_v2" {
        /// The entry's words.
        pub u: Union<u64, 2> = "",
    }

    /// An entry of version 2 for a frame.
    pub struct GrantEntryV2FullPage[16] = "union grant_entry_v2.full_page" {
        /// The kind and the domain.
        pub hdr: GrantEntryHeader,
        /// Zero.
        pub pad0: u32,
        /// The frame.
        pub frame: u64,
    }

    /// An entry of version 2 for part of a frame.
    pub struct GrantEntryV2SubPage[16] = "union grant_entry_v2.sub_page" {
        /// The kind and the domain.
        pub hdr: GrantEntryHeader,
        /// First byte.
        pub page_off: u16,
        /// Number of bytes.
        pub length: u16,
        /// The frame.
        pub frame: u64,
    }

    /// An entry of version 2 for the grant of another domain.
    pub struct GrantEntryV2Transitive[12] = "union grant_entry_v2.transitive" {
        /// The kind and the domain.
        pub hdr: GrantEntryHeader,
        /// The other domain.
        pub trans_domid: Domid,
        /// Zero.
        pub pad0: u16,
        /// Its grant.
        pub gref: GrantRef,
    }

    /// `GNTTABOP_MAP_GRANT_REF`.
    pub struct GnttabMapGrantRef[32] = "struct gnttab_map_grant_ref" {
        /// In: linear address, or machine address of a page-table entry.
        pub host_addr: u64,
        /// In: `GNTMAP_*`.
        pub flags: u32,
        /// In: the grant.
        pub ref_: GrantRef,
        /// In: whose.
        pub dom: Domid,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Out: names the mapping.
        pub handle: GrantHandle,
        /// Out: address for devices.
        pub dev_bus_addr: u64,
    }

    /// `GNTTABOP_UNMAP_GRANT_REF`.
    pub struct GnttabUnmapGrantRef[24] = "struct gnttab_unmap_grant_ref" {
        /// In: as when it was mapped; 0 to leave it.
        pub host_addr: u64,
        /// In: address for devices; 0 to leave it.
        pub dev_bus_addr: u64,
        /// In: the mapping.
        pub handle: GrantHandle,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Zero.
        pub _pad0: u16,
    }

    /// `GNTTABOP_SETUP_TABLE`.
    pub struct GnttabSetupTable[24] = "struct gnttab_setup_table" {
        /// In: whose; another domain than `Domid::SELF` by privileged callers only.
        pub dom: Domid,
        /// Zero.
        pub _pad0: u16,
        /// In: number of frames.
        pub nr_frames: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Zero.
        pub _pad1: [u16; 3],
        /// Out: the frames.
        pub frame_list: GuestHandle<u64>,
    }

    /// `GNTTABOP_DUMP_TABLE`.
    pub struct GnttabDumpTable[4] = "struct gnttab_dump_table" {
        /// In: whose.
        pub dom: Domid,
        /// Out: `GNTST_*`.
        pub status: i16,
    }

    /// `GNTTABOP_TRANSFER`.
    pub struct GnttabTransfer[24] = "struct gnttab_transfer" {
        /// In: the frame to give.
        pub mfn: Mfn,
        /// In: to whom.
        pub domid: Domid,
        /// Zero.
        pub _pad0: u16,
        /// In: its grant that accepts it.
        pub ref_: GrantRef,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Zero.
        pub _pad1: [u16; 3],
    }

    /// One end of a `GnttabCopy`.
    pub struct GnttabCopyPtr[16] = "struct gnttab_copy_ptr" {
        /// A `GrantRef` or a frame, `u64`.
        pub u: Union<u64, 1>,
        /// Whose.
        pub domid: Domid,
        /// First byte.
        pub offset: u16,
        /// Zero.
        pub _pad0: u32,
    }

    /// `GNTTABOP_COPY`.
    pub struct GnttabCopy[40] = "struct gnttab_copy" {
        /// In: from where.
        pub source: GnttabCopyPtr,
        /// In: to where.
        pub dest: GnttabCopyPtr,
        /// In: number of bytes.
        pub len: u16,
        /// In: `GNTCOPY_*`.
        pub flags: u16,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Zero.
        pub _pad0: u16,
    }

    /// `GNTTABOP_QUERY_SIZE`.
    pub struct GnttabQuerySize[16] = "struct gnttab_query_size" {
        /// In: whose.
        pub dom: Domid,
        /// Zero.
        pub _pad0: u16,
        /// Out: number of frames.
        pub nr_frames: u32,
        /// Out: limit of frames.
        pub max_nr_frames: u32,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Zero.
        pub _pad1: u16,
    }

    /// `GNTTABOP_UNMAP_AND_REPLACE`.
    pub struct GnttabUnmapAndReplace[24] = "struct gnttab_unmap_and_replace" {
        /// In: linear address.
        pub host_addr: u64,
        /// In: linear address of what is to be mapped there, and no longer here.
        pub new_addr: u64,
        /// In: the mapping.
        pub handle: GrantHandle,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Zero.
        pub _pad0: u16,
    }

    /// `GNTTABOP_SET_VERSION`.
    pub struct GnttabSetVersion[4] = "struct gnttab_set_version" {
        /// In: 1 or 2; out: the version that it has.
        pub version: u32,
    }

    /// `GNTTABOP_GET_STATUS_FRAMES`.
    pub struct GnttabGetStatusFrames[16] = "struct gnttab_get_status_frames" {
        /// In: number of frames.
        pub nr_frames: u32,
        /// In: whose.
        pub dom: Domid,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Out: the frames.
        pub frame_list: GuestHandle<u64>,
    }

    /// `GNTTABOP_GET_VERSION`.
    pub struct GnttabGetVersion[8] = "struct gnttab_get_version" {
        /// In: whose.
        pub dom: Domid,
        /// Zero.
        pub pad: u16,
        /// Out: the version.
        pub version: u32,
    }

    /// `GNTTABOP_SWAP_GRANT_REF`.
    pub struct GnttabSwapGrantRef[12] = "struct gnttab_swap_grant_ref" {
        /// In: a grant.
        pub ref_a: GrantRef,
        /// In: another.
        pub ref_b: GrantRef,
        /// Out: `GNTST_*`.
        pub status: i16,
        /// Zero.
        pub _pad0: u16,
    }

    /// `GNTTABOP_CACHE_FLUSH`.
    pub struct GnttabCacheFlush[16] = "struct gnttab_cache_flush" {
        /// A machine address, `u64`, or a `GrantRef`.
        pub a: Union<u64, 1>,
        /// First byte.
        pub offset: u16,
        /// Number of bytes.
        pub length: u16,
        /// `GNTTAB_CACHE_*`.
        pub op: u32,
    }
}
