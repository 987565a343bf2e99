//! The CD boots the same host, by BIOS and by UEFI.

use tests::host::TestHost;
use tests::{WORKSPACE, dist, hypervisor};
use xtask::iso;
use xtask::qemu::{Boot, Firmware, Hardware};

fn boots_by(firmware: Firmware, name: &str) {
    let image = WORKSPACE.dist().join(name);
    iso::make(&hypervisor(), &dist("dom0"), &image).expect("the image is made");
    let host = TestHost::boot_from(&Hardware::default(), &Boot::Cd { image, firmware });
    host.create("passenger", "", "").ok();
    assert!(host.row("passenger").is_some());
    host.power_off();
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_cd_boots_by_bios() {
    boots_by(Firmware::Bios, "test-bios.iso");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn the_cd_boots_by_uefi() {
    boots_by(Firmware::Uefi, "test-uefi.iso");
}
