//! A host with two processors, which guests' vCPUs share.

use tests::host::TestHost;
use tests::{dist, wait_for};
use xtask::qemu::Hardware;

#[test]
#[ignore = "needs QEMU: run by cargo xtask test"]
fn guests_run_on_two_processors_and_leave_nothing_behind() {
    const ROUNDS: u32 = 10;
    let host = TestHost::boot_on(&Hardware {
        cpus: 2,
        ..Hardware::default()
    });
    assert_eq!(host.info("nr_cpus"), "2");
    let forks = dist("guests/forks.cfg");
    let forks = forks.display();
    let idler = host.hello("idler", "");
    let round = || {
        for name in ["first", "second"] {
            host.xl(&format!("create -q -p {forks} name='{name}' vcpus=2"))
                .ok();
        }
        let consoles = ["first", "second"].map(|name| {
            let console = host.start_xl(&format!("console {name}"));
            host.xl(&format!("unpause {name}")).ok();
            console
        });
        // Others come and go meanwhile.
        for _ in 0..ROUNDS {
            host.xl(&format!("create -q {}", idler.display())).ok();
            host.xl("destroy idler").ok();
        }
        for console in consoles {
            console.expect_line("forks: 100 processes, all contents right");
        }
        wait_for("both to be gone", || {
            ["first", "second"]
                .iter()
                .all(|name| host.row(name).is_none())
                .then_some(())
        });
    };
    // The first round fills the cache of images.
    round();
    let before = host.info("free_memory");
    round();
    assert_eq!(host.info("free_memory"), before);
}
