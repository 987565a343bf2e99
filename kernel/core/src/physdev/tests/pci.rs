//! PCI functions.

use super::*;

#[test]
fn pci_functions_come_and_go_by_the_control_domain() {
    let host = Host::new();
    let device = |seg, devfn| PhysdevPciDevice { seg, bus: 1, devfn };
    let remove = |id, op| errno(call(&host, id, PHYSDEVOP_PCI_DEVICE_REMOVE, &op));
    let add = PhysdevPciDeviceAdd {
        seg: 2,
        bus: 1,
        devfn: 8,
        flags: 0,
        physfn: PhysdevPhysfn { bus: 0, devfn: 0 },
        _pad0: 0,
    };
    assert_eq!(
        errno(call(&host, DOMU, PHYSDEVOP_PCI_DEVICE_ADD, &add)),
        Some(Errno::EPERM)
    );
    assert_eq!(remove(DOM0, device(2, 8)), Some(Errno::ENODEV));
    assert_eq!(
        errno(call(&host, DOM0, PHYSDEVOP_PCI_DEVICE_ADD, &add)),
        None
    );
    assert_eq!(
        errno(call(&host, DOM0, PHYSDEVOP_RESTORE_MSI_EXT, &device(2, 8))),
        None
    );
    assert_eq!(
        errno(call(&host, DOM0, PHYSDEVOP_PREPARE_MSIX, &device(2, 8))),
        None
    );
    assert_eq!(
        errno(call(&host, DOM0, PHYSDEVOP_PREPARE_MSIX, &device(2, 9))),
        Some(Errno::ENODEV)
    );
    assert_eq!(remove(DOMU, device(2, 8)), Some(Errno::EPERM));
    assert_eq!(remove(DOM0, device(2, 8)), None);
    let old = PhysdevManagePci { bus: 3, devfn: 16 };
    assert_eq!(
        errno(call(&host, DOM0, PHYSDEVOP_MANAGE_PCI_ADD, &old)),
        None
    );
    assert_eq!(
        errno(call(&host, DOM0, PHYSDEVOP_MANAGE_PCI_REMOVE, &old)),
        None
    );
    assert_eq!(
        errno(call(&host, DOM0, PHYSDEVOP_MANAGE_PCI_REMOVE, &old)),
        Some(Errno::ENODEV)
    );
    let extended = PhysdevManagePciExt {
        bus: 0,
        devfn: 0,
        _pad0: 0,
        is_extfn: 2,
        is_virtfn: 0,
        physfn: PhysdevPhysfn { bus: 0, devfn: 0 },
        _pad1: 0,
    };
    let refused = call(&host, DOM0, PHYSDEVOP_MANAGE_PCI_ADD_EXT, &extended);
    assert_eq!(errno(refused), Some(Errno::EINVAL));
}

#[test]
fn only_functions_that_are_there_have_messages_set_up() {
    let host = Host::new();
    let device = |devfn| PhysdevPciDevice {
        seg: 0,
        bus: 1,
        devfn,
    };
    let old = |devfn| PhysdevRestoreMsi { bus: 1, devfn };
    host.hv.pirqs.lock().pci_devices.insert((0, 1, 8));
    // Who may not learns of a function's absence where Xen says so first.
    for (caller, devfn, restored, prepared) in [
        (DOM0, 8, None, None),
        (DOM0, 9, Some(Errno::ENODEV), Some(Errno::ENODEV)),
        (DOMU, 8, Some(Errno::EPERM), Some(Errno::EPERM)),
        (DOMU, 9, Some(Errno::ENODEV), Some(Errno::EPERM)),
    ] {
        let restore = call(&host, caller, PHYSDEVOP_RESTORE_MSI, &old(devfn));
        assert_eq!(errno(restore), restored);
        for (command, expected) in [
            (PHYSDEVOP_RESTORE_MSI_EXT, restored),
            (PHYSDEVOP_PREPARE_MSIX, prepared),
            (PHYSDEVOP_RELEASE_MSIX, prepared),
        ] {
            let result = call(&host, caller, command, &device(devfn));
            assert_eq!(errno(result), expected, "{command} {caller} {devfn}");
        }
    }
}

#[test]
fn a_proximity_domain_must_be_there_where_it_is_promised() {
    let host = Host::new();
    let add = |flags| PhysdevPciDeviceAdd {
        seg: 0,
        bus: 1,
        devfn: 8,
        flags,
        physfn: PhysdevPhysfn { bus: 0, devfn: 0 },
        _pad0: 0,
    };
    let end = SCRATCH + SCRATCH_PAGES * 4096;
    let at = end - size_of::<PhysdevPciDeviceAdd>() as u64;
    let args = [PHYSDEVOP_PCI_DEVICE_ADD.into(), at];
    host.put_at(DOM0, at, &add(XEN_PCI_DEV_PXM));
    let refused = host.hypercall(DOM0, HYPERVISOR_PHYSDEV_OP, &args);
    assert_eq!(refused, Errno::EFAULT.to_return());
    assert!(host.hv.pirqs.lock().pci_devices.is_empty());
    host.put_at(DOM0, at, &add(0));
    assert_eq!(host.hypercall(DOM0, HYPERVISOR_PHYSDEV_OP, &args), 0);
}
