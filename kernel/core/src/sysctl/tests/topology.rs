//! Threads, cores, sockets, nodes and the nodes of devices.

use super::*;

use hypercall_abi::physdev::PhysdevPciDevice;

use crate::sysctl::topology::Topology;

fn machine_with_topology(cpus: u32) -> hv_machine::sim::Machine {
    let machine = hv_machine::sim::Machine::with_cpus(4096, cpus);
    machine.set_cpuid(0, 0, [0xb, 0, 0, 0]);
    machine.set_cpuid(0xb, 0, [1, 2, 0x100, 0]);
    machine.set_cpuid(0xb, 1, [2, 4, 0x201, 0]);
    machine
}

#[test]
fn topology_counts_no_more_than_the_processors_that_are_up() {
    for (cpus, threads, cores) in [(1, 1, 1), (2, 2, 1), (4, 2, 2), (8, 2, 2)] {
        let topology = Topology::of(&machine_with_topology(cpus));
        assert_eq!(
            (topology.threads_per_core, topology.cores_per_socket),
            (threads, cores),
            "{cpus}"
        );
    }
    let silent = hv_machine::sim::Machine::with_cpus(4096, 4);
    let topology = Topology::of(&silent);
    assert_eq!(
        (topology.threads_per_core, topology.cores_per_socket),
        (1, 1)
    );
}

#[test]
fn processors_are_placed_by_thread_core_and_socket() {
    let host = Host::with_machine(MachineRef::new(machine_with_topology(8)));
    let buffer = host.room(DOM0, 8 * size_of::<SysctlCputopo>());
    let arm = SysctlCputopoinfo {
        num_cpus: 99,
        cputopo: GuestHandle::new(buffer),
        ..Default::default()
    };
    assert_eq!(succeed(&host, XEN_SYSCTL_CPUTOPOINFO, &arm).num_cpus, 8);
    let places = host.get::<[SysctlCputopo; 8]>(DOM0, buffer);
    assert_eq!(
        places.map(|place| (place.socket, place.core, place.node)),
        [
            (0, 0, 0),
            (0, 0, 0),
            (0, 1, 0),
            (0, 1, 0),
            (1, 0, 0),
            (1, 0, 0),
            (1, 1, 0),
            (1, 1, 0)
        ]
    );
    let fewer = SysctlCputopoinfo { num_cpus: 3, ..arm };
    assert_eq!(succeed(&host, XEN_SYSCTL_CPUTOPOINFO, &fewer).num_cpus, 3);
    let count = SysctlCputopoinfo::new_zeroed();
    assert_eq!(succeed(&host, XEN_SYSCTL_CPUTOPOINFO, &count).num_cpus, 8);
    let bad = SysctlCputopoinfo {
        num_cpus: 1,
        cputopo: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    fail(&host, XEN_SYSCTL_CPUTOPOINFO, &bad, Errno::EFAULT);
}

#[test]
fn one_node_has_all_memory() {
    let host = Host::new();
    let (memory, distance) = (host.room(DOM0, 16), host.room(DOM0, 8));
    let arm = SysctlNumainfo {
        num_nodes: 5,
        meminfo: GuestHandle::new(memory),
        distance: GuestHandle::new(distance),
        ..Default::default()
    };
    assert_eq!(succeed(&host, XEN_SYSCTL_NUMAINFO, &arm).num_nodes, 1);
    let info: SysctlMeminfo = host.get(DOM0, memory);
    assert_eq!(info.memsize, host.hv.machine.frame_limit() * 4096);
    assert_eq!(info.memfree, host.hv.memory.free_frames() * 4096);
    assert_eq!(host.get::<u32>(DOM0, distance), 10);
    let none = SysctlNumainfo::new_zeroed();
    assert_eq!(succeed(&host, XEN_SYSCTL_NUMAINFO, &none).num_nodes, 1);
    let no_room = SysctlNumainfo {
        num_nodes: 0,
        meminfo: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    assert_eq!(succeed(&host, XEN_SYSCTL_NUMAINFO, &no_room).num_nodes, 0);
    let bad_memory = SysctlNumainfo {
        num_nodes: 1,
        ..no_room
    };
    fail(&host, XEN_SYSCTL_NUMAINFO, &bad_memory, Errno::EFAULT);
    let bad_distance = SysctlNumainfo {
        num_nodes: 1,
        distance: GuestHandle::new(UNMAPPED),
        ..Default::default()
    };
    fail(&host, XEN_SYSCTL_NUMAINFO, &bad_distance, Errno::EFAULT);
}

#[test]
fn no_node_is_known_of_any_device() {
    let host = Host::new();
    let device = |devfn| PhysdevPciDevice {
        seg: 0,
        bus: 1,
        devfn,
    };
    host.hv.pirqs.lock().pci_devices.insert((0, 1, 8));
    let devices = host.put_slice(DOM0, &[device(8), device(9)]);
    let nodes = host.put(DOM0, &[0_u32; 3]);
    let arm = |num_devs, devs, nodes| SysctlPcitopoinfo {
        num_devs,
        devs: GuestHandle::new(devs),
        nodes: GuestHandle::new(nodes),
        ..Default::default()
    };
    let cmd = XEN_SYSCTL_PCITOPOINFO;
    assert_eq!(succeed(&host, cmd, &arm(2, devices, nodes)).num_devs, 2);
    assert_eq!(
        host.get::<[u32; 3]>(DOM0, nodes),
        [XEN_INVALID_NODE_ID, XEN_INVALID_DEV, 0]
    );
    assert_eq!(succeed(&host, cmd, &arm(0, UNMAPPED, nodes)).num_devs, 0);
    for (devs, nodes, errno) in [
        (0, nodes, Errno::EINVAL),
        (devices, 0, Errno::EINVAL),
        (UNMAPPED, nodes, Errno::EFAULT),
        (devices, UNMAPPED, Errno::EFAULT),
    ] {
        fail(&host, cmd, &arm(u32::MAX, devs, nodes), errno);
    }
    // Out of time: as many as were done.
    let at = host.put(DOM0, &Sysctl::with(cmd, &arm(2, devices, nodes)));
    host.as_guest(DOM0, |cx| {
        cx.deadline.set(Some(0));
        assert_eq!(do_sysctl(cx, &[at, 0, 0, 0, 0, 0]), Ok(0));
    });
    let told: SysctlPcitopoinfo = host.get::<Sysctl>(DOM0, at).u.get();
    assert_eq!(told.num_devs, 1);
}
