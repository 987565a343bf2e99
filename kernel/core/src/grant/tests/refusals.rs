//! What is refused of any operation: lists that cannot be read or written, and memory that is not there.

use super::*;

use hv_machine::HYPERVISOR_VIRT_START;
use hypercall_abi::xen::{HYPERVISOR_MMU_UPDATE, MmuUpdate};

use crate::testing::RO;

/// Makes a call on a list that is somewhere.
fn raw(host: &Host, command: u32, at: u64) -> i64 {
    let args = [command.into(), at, 1];
    host.hypercall(DOMU, HYPERVISOR_GRANT_TABLE_OP, &args)
}

/// Takes all memory that is left.
fn exhaust(host: &Host) -> Vec<Mfn> {
    let owner = host.domain(DOM0).owner.clone();
    owner.set_max_frames(u64::MAX);
    let frame = || host.hv.memory.allocate(&owner, 0, u64::MAX).ok();
    std::iter::from_fn(frame).collect()
}

#[test]
fn each_list_is_read_and_its_statuses_are_written_where_the_caller_could() {
    let host = host();
    let read_only = host.put_read_only(DOMU, &[0; 64]);
    for command in [
        GNTTABOP_MAP_GRANT_REF,
        GNTTABOP_UNMAP_GRANT_REF,
        GNTTABOP_UNMAP_AND_REPLACE,
        GNTTABOP_COPY,
        GNTTABOP_TRANSFER,
        GNTTABOP_SWAP_GRANT_REF,
        GNTTABOP_CACHE_FLUSH,
    ] {
        assert_eq!(raw(&host, command, UNMAPPED), FAULT, "{command}");
        assert_eq!(raw(&host, command, HYPERVISOR_VIRT_START), FAULT);
        let silent = command == GNTTABOP_CACHE_FLUSH;
        let result = raw(&host, command, read_only);
        assert_eq!(result, if silent { 0 } else { FAULT }, "{command}");
    }
    in_order(&host);
}

#[test]
fn what_there_is_one_of_is_read_and_answered_where_the_caller_could() {
    let host = host();
    let dom = Domid::SELF;
    let table = GnttabSetupTable {
        dom,
        ..Default::default()
    };
    let size = GnttabQuerySize {
        dom,
        ..Default::default()
    };
    let statuses = GnttabGetStatusFrames {
        dom,
        ..Default::default()
    };
    let version = GnttabGetVersion {
        dom,
        ..Default::default()
    };
    let wanted = GnttabSetVersion { version: 1 };
    for (command, bytes) in [
        (GNTTABOP_SETUP_TABLE, table.as_bytes()),
        (GNTTABOP_QUERY_SIZE, size.as_bytes()),
        (GNTTABOP_GET_STATUS_FRAMES, statuses.as_bytes()),
        (GNTTABOP_GET_VERSION, version.as_bytes()),
        (GNTTABOP_SET_VERSION, wanted.as_bytes()),
    ] {
        assert_eq!(raw(&host, command, UNMAPPED), FAULT, "{command}");
        let read_only = host.put_read_only(DOMU, bytes);
        assert_eq!(raw(&host, command, read_only), FAULT, "{command}");
        let at = host.room(DOMU, bytes.len());
        host.as_guest(DOMU, |cx| cx.write_bytes(at, bytes).expect("scratch"));
        assert_eq!(raw(&host, command, at), 0, "{command}");
    }
    in_order(&host);
}

#[test]
fn a_wrong_wish_for_status_frames_is_refused() {
    let host = host();
    let version = GnttabSetVersion { version: 2 };
    one(&host, DOMU, GNTTABOP_SET_VERSION, version);
    let ask = |dom, nr_frames, list| {
        let mut ops = [GnttabGetStatusFrames {
            nr_frames,
            dom,
            frame_list: GuestHandle::new(list),
            ..Default::default()
        }];
        let result = call(&host, DOMU, GNTTABOP_GET_STATUS_FRAMES, &mut ops);
        (result, ops[0].status)
    };
    let list = host.put_slice(DOMU, &[0_u64; 2]);
    assert_eq!(ask(DOM0, 1, list), (0, GNTST_PERMISSION_DENIED));
    assert_eq!(ask(Domid(99), 1, list), (0, GNTST_BAD_DOMAIN));
    assert_eq!(ask(Domid::SELF, 2, list), (0, GNTST_GENERAL_ERROR));
    assert_eq!(ask(Domid::SELF, 1, UNMAPPED), (0, GNTST_BAD_VIRT_ADDR));
    assert_eq!(ask(Domid::SELF, 1, HYPERVISOR_VIRT_START).0, FAULT);
    assert_eq!(ask(Domid::SELF, 1, list), (0, GNTST_OKAY));
    in_order(&host);
}

#[test]
fn a_flush_goes_on_only_where_one_was_and_is_of_somebodys_memory() {
    let host = host();
    let flush = |command: u32, mfn: Mfn, length| {
        let op = GnttabCacheFlush {
            a: Union::new(&(mfn.0 << 12)),
            offset: 0,
            length,
            op: GNTTAB_CACHE_CLEAN,
        };
        call(&host, DOMU, command, &mut [op])
    };
    let own = host.layout(DOMU).scratch[30];
    assert_eq!(flush(GNTTABOP_CACHE_FLUSH, own, 0), 0);
    let from_a_grant = GNTTABOP_CACHE_FLUSH | 1 << 12;
    let sequence = Errno::EILSEQ.to_return();
    assert_eq!(flush(from_a_grant, own, 0), sequence);
    let memory = &host.hv.memory;
    let owner = host.domain(DOMU).owner.clone();
    let free = memory.allocate(&owner, 0, u64::MAX).expect("room");
    assert!(memory.release_allocation(memory.get(free, DOMU).expect("its own")));
    let permission = Errno::EPERM.to_return();
    assert_eq!(flush(GNTTABOP_CACHE_FLUSH, free, 8), permission);
    in_order(&host);
}

#[test]
fn an_address_without_a_table_of_pages_is_not_unmapped() {
    let host = host();
    granted(&host, 8, GTF_PERMIT_ACCESS);
    let done = map(&host, OTHER, wish(8, MAP, 30));
    let unmap_at = |host_addr| {
        let op = GnttabUnmapGrantRef {
            host_addr,
            handle: done.handle,
            ..Default::default()
        };
        one(&host, OTHER, GNTTABOP_UNMAP_GRANT_REF, op).status
    };
    let replace = |new_addr| {
        let op = GnttabUnmapAndReplace {
            host_addr: va(30),
            new_addr,
            handle: done.handle,
            ..Default::default()
        };
        one(&host, OTHER, GNTTABOP_UNMAP_AND_REPLACE, op).status
    };
    // By a root that names itself a table above the last level looks like one of pages.
    let [l4, ..] = host.layout(OTHER).tables;
    let request = MmuUpdate {
        ptr: (l4.0 << 12) | (300 * 8),
        val: Pte::new(l4, RO).0,
    };
    let args = [host.put(OTHER, &request), 1, 0, u64::from(Domid::SELF.0)];
    assert_eq!(host.hypercall(OTHER, HYPERVISOR_MMU_UPDATE, &args), 0);
    let page = SCRATCH & ((1 << 48) - 1);
    let linear = 0xffff_0000_0000_0000 | 300 << 39 | page >> 9 & !0xfff;
    for nowhere in [UNMAPPED, HYPERVISOR_VIRT_START, linear] {
        assert_eq!(unmap_at(nowhere), GNTST_GENERAL_ERROR, "{nowhere:#x}");
        assert_eq!(replace(nowhere), GNTST_GENERAL_ERROR, "{nowhere:#x}");
    }
    assert_eq!(replace(va(31)), GNTST_OKAY);
    in_order(&host);
}

#[test]
fn a_table_grows_only_where_there_is_memory() {
    let host = host();
    let taken = exhaust(&host);
    let version = |version| {
        let op = &mut [GnttabSetVersion { version }];
        call(&host, DOMU, GNTTABOP_SET_VERSION, op)
    };
    assert_eq!(version(2), Errno::ENOMEM.to_return());
    let list = host.put_slice(DOMU, &[0_u64; 2]);
    let grow = || {
        let op = GnttabSetupTable {
            dom: Domid::SELF,
            nr_frames: 2,
            frame_list: GuestHandle::new(list),
            ..Default::default()
        };
        one(&host, DOMU, GNTTABOP_SETUP_TABLE, op).status
    };
    assert_eq!(grow(), GNTST_GENERAL_ERROR);
    in_order(&host);
    let memory = &host.hv.memory;
    for mfn in taken {
        assert!(memory.release_allocation(memory.get(mfn, DOM0).expect("its own")));
    }
    assert_eq!(grow(), GNTST_OKAY);
    assert_eq!(version(2), 0);
    in_order(&host);
}
