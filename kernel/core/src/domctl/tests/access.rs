use super::*;

/// Ports of a card, at which the control domain is.
const PORTS: (u32, u32) = (0x300, 0x30f);

#[test]
fn ports_are_handed_on_and_taken_back() {
    let host = Host::new();
    host.domain(DOM0)
        .access
        .lock()
        .set_ports(PORTS.0, PORTS.1, true)
        .expect("room for a range");
    let arm = |first_port, nr_ports, allow_access| DomctlIoportPermission {
        first_port,
        nr_ports,
        allow_access,
        ..Default::default()
    };
    let allowed = || {
        host.domain(DOMU)
            .access
            .lock()
            .ports_allowed(PORTS.0, PORTS.1)
    };
    let cmd = XEN_DOMCTL_IOPORT_PERMISSION;
    succeed(&host, cmd, DOMU, &arm(PORTS.0, 16, 1));
    assert!(allowed());
    succeed(&host, cmd, DOMU, &arm(PORTS.0 + 3, 1, 0));
    assert!(!allowed());
    for (first, count, errno) in [
        (PORTS.0, 17, Errno::EPERM),
        (PORTS.0 - 1, 1, Errno::EPERM),
        (PORTS.0, 0, Errno::EINVAL),
        (0xffff, 2, Errno::EINVAL),
        (u32::MAX, 1, Errno::EINVAL),
        (PORTS.0, u32::MAX, Errno::EINVAL),
        (PORTS.0, 1_u32.wrapping_sub(PORTS.0), Errno::EINVAL),
    ] {
        fail(&host, cmd, DOMU, &arm(first, count, 1), errno);
    }
}

#[test]
fn interrupts_are_handed_on_and_taken_back() {
    let host = Host::new();
    host.domain(DOM0)
        .access
        .lock()
        .set_irqs(5, 5, true)
        .expect("room for a range");
    let arm = |pirq, allow_access| DomctlIrqPermission {
        pirq,
        allow_access,
        ..Default::default()
    };
    let cmd = XEN_DOMCTL_IRQ_PERMISSION;
    let allowed = || host.domain(DOMU).access.lock().irq_allowed(5);
    succeed(&host, cmd, DOMU, &arm(5, 1));
    assert!(allowed());
    succeed(&host, cmd, DOMU, &arm(5, 0));
    assert!(!allowed());
    fail(&host, cmd, DOMU, &arm(6, 1), Errno::EPERM);
    fail(&host, cmd, DOMU, &arm(u32::MAX, 1), Errno::EINVAL);
}

#[test]
fn io_memory_is_handed_on_and_taken_back() {
    let host = Host::new();
    let (first, last) = (Mfn(0xfe000), Mfn(0xfe00f));
    host.domain(DOM0)
        .owner
        .set_io_memory(first, last, true)
        .expect("room for a range");
    let arm = |first_mfn, nr_mfns, allow_access| DomctlIomemPermission {
        first_mfn: Mfn(first_mfn),
        nr_mfns,
        allow_access,
        ..Default::default()
    };
    let cmd = XEN_DOMCTL_IOMEM_PERMISSION;
    let allowed = || host.domain(DOMU).owner.io_memory_allowed(first, last);
    succeed(&host, cmd, DOMU, &arm(first.0, 16, 1));
    assert!(allowed());
    succeed(&host, cmd, DOMU, &arm(last.0, 1, 0));
    assert!(!allowed());
    for (first, count, errno) in [
        (first.0, 17, Errno::EPERM),
        (first.0 - 1, 2, Errno::EPERM),
        (first.0, 0, Errno::EINVAL),
        (u64::MAX, 2, Errno::EINVAL),
        (first.0, u64::MAX, Errno::EINVAL),
    ] {
        fail(&host, cmd, DOMU, &arm(first, count, 1), errno);
    }
}

#[test]
fn a_mapping_of_io_memory_says_whether_the_domain_may_make_it() {
    let host = Host::new();
    let (first, last) = (Mfn(0xfe000), Mfn(0xfe00f));
    let arm = |first_mfn, nr_mfns| DomctlMemoryMapping {
        first_mfn: Mfn(first_mfn),
        nr_mfns,
        add_mapping: 1,
        ..Default::default()
    };
    let cmd = XEN_DOMCTL_MEMORY_MAPPING;
    let good = arm(first.0, 16);
    fail(&host, cmd, DOMU, &good, Errno::EPERM);
    host.domain(DOM0)
        .owner
        .set_io_memory(first, last, true)
        .expect("room for a range");
    fail(&host, cmd, DOMU, &good, Errno::EPERM);
    host.domain(DOMU)
        .owner
        .set_io_memory(first, last, true)
        .expect("room for a range");
    succeed(&host, cmd, DOMU, &good);
    let wrapping = DomctlMemoryMapping {
        first_gfn: hypercall_abi::types::Pfn(u64::MAX),
        ..good
    };
    for bad in [
        wrapping,
        arm(first.0, 0),
        arm(u64::MAX, 2),
        arm(1 << 40, 1),
        arm(first.0, u64::MAX),
    ] {
        fail(&host, cmd, DOMU, &bad, Errno::EINVAL);
    }
}
