use super::*;

const ENTRIES: [[u64; 2]; 2] = [[0, 0xa_0000], [0x10_0000, 0x40_0000]];

/// Entries of RAM, as E820 packs them.
fn packed() -> Vec<u8> {
    let entry = |[base, size]: [u64; 2]| {
        let mut bytes = base.to_le_bytes().to_vec();
        bytes.extend(size.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes
    };
    ENTRIES.into_iter().flat_map(entry).collect()
}

fn map(buffer: u64, nr_entries: u32) -> MemoryMap {
    let mut map = MemoryMap::new_zeroed();
    map.buffer = GuestHandle::new(buffer);
    map.nr_entries = nr_entries;
    map
}

fn set(host: &Host, id: Domid, domid: Domid, map: MemoryMap) -> i64 {
    let mut foreign = ForeignMemoryMap::new_zeroed();
    (foreign.domid, foreign.map) = (domid, map);
    call(host, id, XENMEM_SET_MEMORY_MAP, &foreign)
}

/// Asks for a map; gives the result and the number of entries told.
fn get(host: &Host, id: Domid, command: u32, map: &MemoryMap) -> (i64, u32) {
    let at = host.put(id, map);
    let result = raw(host, id, command.into(), at);
    (result, host.get::<MemoryMap>(id, at).nr_entries)
}

#[test]
fn a_map_is_set_for_oneself_and_by_the_control_domain_for_others() {
    let host = Host::new();
    for id in [DOM0, DOMU] {
        let given = map(host.put_slice(id, &packed()), 2);
        for nobody in NOBODY.into_iter().chain([Domid::IO, Domid::XEN]) {
            assert_eq!(
                set(&host, id, nobody, given),
                errno(Errno::ESRCH),
                "{nobody:?}"
            );
        }
        assert_eq!(set(&host, id, Domid::SELF, given), 0);
        assert_eq!(set(&host, id, DOMU, given), 0);
        for count in [1025, u32::MAX] {
            let long = map(given.buffer.address(), count);
            assert_eq!(set(&host, id, Domid(99), long), errno(Errno::EINVAL));
        }
        for bad in BAD_ADDRESSES {
            assert_eq!(set(&host, id, DOMU, map(bad, 2)), errno(Errno::EFAULT));
        }
    }
    let given = map(host.put_slice(DOMU, &packed()), 2);
    assert_eq!(set(&host, DOMU, DOM0, given), errno(Errno::EPERM));
    let found = host.domain(DOMU).memory_map.lock().clone();
    assert_eq!(found, [(0, 0xa_0000, 1), (0x10_0000, 0x40_0000, 1)]);
    assert_eq!(set(&host, DOMU, DOMU, map(UNMAPPED, 0)), 0, "none at all");
}

#[test]
fn a_map_is_told_as_far_as_there_is_room() {
    let host = Host::new();
    let command = XENMEM_MEMORY_MAP;
    let room = host.room(DOMU, 60);
    let ask = |map: &MemoryMap| get(&host, DOMU, command, map);
    assert_eq!(ask(&map(room, 3)), (errno(Errno::ENOSYS), 3));
    let given = map(host.put_slice(DOMU, &packed()), 2);
    assert_eq!(set(&host, DOMU, DOMU, given), 0);
    for (room_for, told) in [(0, 0), (1, 1), (2, 2), (3, 2), (u32::MAX, 2)] {
        assert_eq!(ask(&map(room, room_for)), (0, told));
    }
    let told: [u8; 40] = host.get(DOMU, room);
    assert_eq!(told[..], packed()[..]);
    for bad in BAD_ADDRESSES.into_iter().chain([0, u64::MAX - 19]) {
        assert_eq!(ask(&map(bad, 2)), (errno(Errno::EFAULT), 2), "{bad:#x}");
        assert_eq!(ask(&map(bad, 0)), (0, 0));
    }
}

#[test]
fn the_machines_map_is_the_control_domains_and_needs_room_for_one_more() {
    let host = Host::new();
    let regions = host.hv.machine.memory_map().len() as u32;
    let room = host.room(DOM0, 20 * (regions as usize + 1));
    let ask = |map: &MemoryMap| get(&host, DOM0, XENMEM_MACHINE_MEMORY_MAP, map);
    assert_eq!(ask(&map(0, 0)), (0, regions), "how many there are");
    assert_eq!(ask(&map(room, regions + 1)), (0, regions));
    assert_eq!(host.get::<[u64; 2]>(DOM0, room), [0, 4096 << 12]);
    for few in [0, regions] {
        assert_eq!(ask(&map(room, few)), (errno(Errno::EINVAL), few));
    }
    for bad in BAD_ADDRESSES {
        let result = ask(&map(bad, regions + 1));
        assert_eq!(result, (errno(Errno::EFAULT), regions + 1), "{bad:#x}");
    }
    for at in BAD_ADDRESSES {
        let result = raw(&host, DOMU, XENMEM_MACHINE_MEMORY_MAP.into(), at);
        assert_eq!(result, errno(Errno::EPERM), "before all else");
    }
}

#[test]
fn the_machine_to_phys_table_is_found() {
    let host = Host::new();
    for id in [DOM0, DOMU] {
        let at = host.room(id, size_of::<MachphysMapping>());
        assert_eq!(raw(&host, id, XENMEM_MACHPHYS_MAPPING.into(), at), 0);
        let mapping: MachphysMapping = host.get(id, at);
        assert_eq!(mapping.v_start, hv_machine::HYPERVISOR_VIRT_START);
        let entries = (mapping.v_end - mapping.v_start) / 8;
        let told = if id == DOM0 { 4096 } else { entries };
        assert_eq!(
            mapping.max_mfn,
            told - 1,
            "where memory ends is not for all"
        );
    }
    let extents = host.hv.machine.m2p_extents();
    let room = host.room(DOMU, 8 * extents.len());
    let ask = |buffer: u64, max_extents: u32| {
        let mut list = MachphysMfnList::new_zeroed();
        list.max_extents = max_extents;
        list.extent_start = GuestHandle::new(buffer);
        let at = host.put(DOMU, &list);
        let result = raw(&host, DOMU, XENMEM_MACHPHYS_MFN_LIST.into(), at);
        (result, host.get::<MachphysMfnList>(DOMU, at).nr_extents)
    };
    for (room_for, told) in [(0, 0), (1, 1), (u32::MAX, extents.len() as u32)] {
        assert_eq!(ask(room, room_for), (0, told));
    }
    assert_eq!(host.get::<u64>(DOMU, room), extents[0].0);
    for bad in BAD_ADDRESSES {
        assert_eq!(ask(bad, 1), (errno(Errno::EFAULT), 0), "{bad:#x}");
    }
}

#[test]
fn what_cannot_be_told_in_the_struct_is_an_error() {
    let host = Host::new();
    let given = map(host.put_slice(DOMU, &packed()), 2);
    assert_eq!(set(&host, DOMU, DOMU, given), 0);
    let none = map(0, 0);
    for (id, command, bytes) in [
        (DOMU, XENMEM_MEMORY_MAP, none.as_bytes()),
        (DOM0, XENMEM_MACHINE_MEMORY_MAP, none.as_bytes()),
        (
            DOMU,
            XENMEM_MACHPHYS_MFN_LIST,
            MachphysMfnList::new_zeroed().as_bytes(),
        ),
        (
            DOMU,
            XENMEM_RESERVED_DEVICE_MEMORY_MAP,
            ReservedDeviceMemoryMap::new_zeroed().as_bytes(),
        ),
    ] {
        let fixed = host.put_read_only(id, bytes);
        let result = raw(&host, id, command.into(), fixed);
        assert_eq!(result, errno(Errno::EFAULT), "command {command}");
        let writable = host.put_slice(id, bytes);
        assert_eq!(raw(&host, id, command.into(), writable), 0);
    }
}

#[test]
fn a_map_does_not_go_on_at_the_first_address_behind_the_last() {
    let host = Host::new();
    host.map_top(DOMU);
    let given = map(host.put_slice(DOMU, &packed()), 2);
    assert_eq!(set(&host, DOMU, DOMU, given), 0);
    let top = u64::MAX - 19;
    let ask = |count| get(&host, DOMU, XENMEM_MEMORY_MAP, &map(top, count));
    assert_eq!(ask(1), (0, 1));
    assert_eq!(ask(2), (errno(Errno::EFAULT), 2));
}
