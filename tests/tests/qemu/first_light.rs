//! The same PV kernel as dom0, by the same line, under our hypervisor and under Xen 4.17.

use std::path::{Path, PathBuf};
use tests::bare::Bare;
use tests::{dist, hypervisor, reference};
use xtask::qemu::{Boot, Hardware, Module};

/// The line of every test here but for the image: words that Xen and we both know.
fn boot(image: &Path, dom0: PathBuf) -> Boot {
    Boot::Kernel {
        image: image.to_path_buf(),
        command_line: "com1=115200,8n1 console=com1 noreboot dom0_mem=256M".to_owned(),
        modules: vec![Module {
            file: dom0,
            arguments: "greeting=first-light".to_owned(),
        }],
    }
}

/// What `hello` says of its start_info: the memory that `dom0_mem` gives, and its command line.
fn says_hello_as_dom0(image: &Path) {
    let machine = Bare::boot(&Hardware::default(), &boot(image, dist("guests/hello")));
    machine.expect("Hello from a PV guest");
    machine.expect("65536 pages");
    machine.expect("greeting=first-light");
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn hello_prints_its_banner_as_dom0_under_our_hypervisor() {
    says_hello_as_dom0(&hypervisor());
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn hello_prints_its_banner_as_dom0_under_xen() {
    if let Some(xen) = reference() {
        says_hello_as_dom0(&xen);
    }
}

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn a_dom0_that_is_no_pv_kernel_is_refused_with_a_reason_in_the_log() {
    let machine = Bare::boot(&Hardware::default(), &boot(&hypervisor(), dist("bin/xl")));
    machine.expect("Could not construct dom");
}
