//! Hypercalls that have no other place here: versions, multicalls, registrations, and what is asked
//! for wrongly.

use hypercall_abi::arch_x86::TrapInfo;
use hypercall_abi::callback::CallbackRegister;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Port};
use hypercall_abi::xen::{self, MulticallEntry};
use hypercall_abi::{features, version};
use pv_guest::hypercall::{check, hypercall3, hypercall5, memory, sched, system, trap, vcpu};
use pv_guest::memory::{DmaMemory, Frames, frame_count};
use pv_guest::{boot, clock};

use super::tap::{OK, Tap};

/// Where the hypervisor is: no argument of a guest is there.
const HYPERVISOR: u64 = 0xffff_8300_0000_0000;

pub fn run(tap: &mut Tap) {
    versions(tap);
    unknown(tap);
    multicalls(tap);
    registrations(tap);
    scheduling(tap);
    vcpus(tap);
    reservations(tap);
}

fn versions(tap: &mut Tap) {
    tap.is("version", system::version(), (4, 17));
    tap.is(
        "page size",
        system::page_size().map(|size| size as u32).ok(),
        Some(4096),
    );
    let start = system::platform_parameters()
        .map(|parameters| parameters.virt_start)
        .ok();
    tap.is(
        "the hypervisor's first address",
        start,
        Some(0xffff_8000_0000_0000),
    );
    let bits = system::features(0).unwrap_or_default();
    let wanted = [
        features::XENFEAT_PAE_PGDIR_ABOVE_4GB,
        features::XENFEAT_MMU_PT_UPDATE_PRESERVE_AD,
        features::XENFEAT_HIGHMEM_ASSIST,
        features::XENFEAT_GNTTAB_MAP_AVAIL_BITS,
        features::XENFEAT_MEMORY_OP_VNODE_SUPPORTED,
        features::XENFEAT_DIRECT_MAPPED,
    ]
    .map(|feature| 1 << feature)
    .iter()
    .sum::<u32>();
    let dom0 = u32::from(boot::is_initial_domain()) << features::XENFEAT_DOM0;
    let wanted = wanted | dom0;
    // Of an ordinary domain's, that is for the toolstack to say.
    let page_directories = 1 << features::XENFEAT_PAE_PGDIR_ABOVE_4GB;
    let bits = if boot::is_initial_domain() {
        bits
    } else {
        bits | page_directories
    };
    tap.is("features", bits, wanted);
    tap.call(
        "there is no second word of features",
        system::features(1),
        Err(Errno::EINVAL),
    );
    let capabilities = system::capabilities().unwrap_or([0; version::XEN_CAPABILITIES_INFO_LEN]);
    tap.holds(
        "it runs 64-bit PV guests",
        capabilities.starts_with(b"xen-3.0-x86_64"),
    );
    // SAFETY: these fail before they touch any memory.
    unsafe {
        tap.call(
            "there is no operation 99",
            check(hypercall3::<{ xen::HYPERVISOR_XEN_VERSION }>(99, 0, 0)),
            Err(Errno::ENOSYS),
        );
        let features = u64::from(version::XENVER_GET_FEATURES);
        tap.call(
            "an argument in the hypervisor is refused",
            check(hypercall3::<{ xen::HYPERVISOR_XEN_VERSION }>(
                features, HYPERVISOR, 0,
            )),
            Err(Errno::EFAULT),
        );
        tap.call(
            "an argument that is not mapped is refused",
            check(hypercall3::<{ xen::HYPERVISOR_XEN_VERSION }>(
                features, 0x1000, 0,
            )),
            Err(Errno::EFAULT),
        );
        tap.call(
            "an argument that is no address is refused",
            check(hypercall3::<{ xen::HYPERVISOR_XEN_VERSION }>(
                features,
                1 << 63,
                0,
            )),
            Err(Errno::EFAULT),
        );
    }
}

fn unknown(tap: &mut Tap) {
    // SAFETY: there are no such calls.
    unsafe {
        tap.call(
            "hypercall 47",
            check(hypercall5::<47>(0, 0, 0, 0, 0)),
            Err(Errno::ENOSYS),
        );
        tap.call(
            "hypercall 63",
            check(hypercall5::<63>(0, 0, 0, 0, 0)),
            Err(Errno::ENOSYS),
        );
        tap.call(
            "hypercall 127",
            check(hypercall5::<127>(0, 0, 0, 0, 0)),
            Err(Errno::ENOSYS),
        );
        tap.call(
            "hypercall 11, which never was",
            check(hypercall5::<11>(0, 0, 0, 0, 0)),
            Err(Errno::ENOSYS),
        );
        tap.call(
            "console operation 9",
            check(hypercall3::<{ xen::HYPERVISOR_CONSOLE_IO }>(9, 0, 0)),
            if boot::is_initial_domain() {
                Err(Errno::ENOSYS)
            } else {
                Err(Errno::EPERM)
            },
        );
        if boot::is_initial_domain() {
            tap.call(
                "console output from nowhere",
                check(hypercall3::<{ xen::HYPERVISOR_CONSOLE_IO }>(0, 8, 0x1000)),
                Err(Errno::EFAULT),
            );
        } else {
            tap.skip("console output from nowhere", "not the initial domain");
        }
    }
    tap.call(
        "there is no assistance 1000",
        system::vm_assist(1000, true),
        Err(Errno::EINVAL),
    );
    tap.call(
        "writable page tables can be asked for",
        system::vm_assist(xen::VMASST_TYPE_WRITABLE_PAGETABLES, true),
        OK,
    );
}

fn multicalls(tap: &mut Tap) {
    let mut calls = [MulticallEntry::default(); 4];
    calls[0].op = u64::from(xen::HYPERVISOR_XEN_VERSION);
    calls[1].op = 47;
    calls[2].op = u64::from(xen::HYPERVISOR_SCHED_OP);
    calls[3].op = u64::from(xen::HYPERVISOR_XEN_VERSION);
    calls[3].args[0] = 99;
    // SAFETY: none of the calls touches memory.
    tap.call(
        "a multicall of four",
        unsafe { system::multicall(&mut calls) },
        OK,
    );
    tap.is(
        "gives the result of each",
        calls.map(|call| call.result as i64),
        [0x4_0011, -38, 0, -38],
    );
    let mut inner = [MulticallEntry::default()];
    let mut outer = [MulticallEntry::default()];
    outer[0].op = u64::from(xen::HYPERVISOR_MULTICALL);
    outer[0].args = [inner.as_mut_ptr() as u64, 1, 0, 0, 0, 0];
    // SAFETY: the inner call touches no memory.
    tap.call(
        "a multicall in a multicall",
        unsafe { system::multicall(&mut outer) },
        OK,
    );
    tap.is("is refused", outer[0].result as i64, -22);
    // SAFETY: it fails.
    tap.call(
        "a multicall from nowhere",
        check(unsafe { hypercall3::<{ xen::HYPERVISOR_MULTICALL }>(0x1000, 1, 0) }),
        Err(Errno::EFAULT),
    );
    // SAFETY: there is nothing to do.
    tap.call(
        "a multicall of nothing",
        unsafe { system::multicall(&mut []) },
        OK,
    );
}

fn registrations(tap: &mut Tap) {
    // SAFETY: an empty table changes nothing; what is not accepted neither; no entry point that is
    // used is changed.
    unsafe {
        tap.call(
            "a trap table without entries",
            trap::set_trap_table(&[TrapInfo::default()]),
            OK,
        );
        tap.call(
            "a trap table from nowhere",
            check(hypercall3::<{ xen::HYPERVISOR_SET_TRAP_TABLE }>(
                0x1000, 0, 0,
            )),
            Err(Errno::EFAULT),
        );
        let handler = TrapInfo {
            vector: 0xf0,
            cs: 0xe033,
            address: 0x8000_0000_0000_0000,
            ..TrapInfo::default()
        };
        tap.call(
            "a handler at an address that is none",
            trap::set_trap_table(&[handler, TrapInfo::default()]),
            Err(Errno::EINVAL),
        );
        let callback = CallbackRegister {
            type_: 99,
            ..CallbackRegister::default()
        };
        tap.call(
            "there is no callback 99",
            trap::register_callback(&callback),
            Err(Errno::ENOSYS),
        );
        let callback = CallbackRegister {
            address: 1 << 63,
            ..CallbackRegister::default()
        };
        tap.call(
            "a callback at an address that is none",
            trap::register_callback(&callback),
            Err(Errno::EINVAL),
        );
        tap.call(
            "a GDT that is too long",
            trap::set_gdt(&[Mfn(0); 16], 8192),
            Err(Errno::EINVAL),
        );
        tap.call("no GDT", trap::set_gdt(&[], 0), OK);
        tap.call(
            "a GDT in a frame that does not exist",
            trap::set_gdt(&[Mfn(1 << 40)], 1),
            Err(Errno::EINVAL),
        );
        let page = Frames::zeroed(0).expect("there is memory");
        let frame = pv_guest::memory::mfn_of(page.pfn()).expect("it has a machine frame");
        tap.call(
            "a GDT in a frame that is mapped writable",
            trap::set_gdt(&[frame], 512),
            Err(Errno::EINVAL),
        );
        tap.call(
            "a descriptor in a page of data",
            trap::update_descriptor(frame.0 << 12, 0),
            OK,
        );
        tap.call(
            "a descriptor at an odd address",
            trap::update_descriptor((frame.0 << 12) + 4, 0),
            Err(Errno::EINVAL),
        );
    }
    tap.call(
        "the event callback cannot be removed",
        trap::unregister_callback(0),
        Err(Errno::EINVAL),
    );
}

fn scheduling(tap: &mut Tap) {
    // SAFETY: there is no such operation.
    tap.call(
        "scheduler operation 99",
        check(unsafe { hypercall3::<{ xen::HYPERVISOR_SCHED_OP }>(99, 0, 0) }),
        Err(Errno::ENOSYS),
    );
    sched::yield_now();
    tap.holds("yield comes back", true);
    // SAFETY: it fails.
    tap.call(
        "poll from nowhere",
        check(unsafe { hypercall3::<{ xen::HYPERVISOR_SCHED_OP }>(3, 0x1000, 0) }),
        Err(Errno::EFAULT),
    );
    let ports = [Port(1); 129];
    tap.call(
        "poll of 129 ports",
        sched::poll(&ports, 1),
        Err(Errno::EINVAL),
    );
    // An event that is due ends a poll before the ports are looked at.
    let mut polls = (0..100).map(|_| sched::poll(&[Port(9999)], 1));
    tap.call(
        "poll of a port that is not there",
        polls.find(Result::is_err).unwrap_or(Ok(())),
        Err(Errno::EINVAL),
    );
    let deadline = clock::now() + 20_000_000;
    tap.call("poll of nothing, for 20 ms", sched::poll(&[], deadline), OK);
    tap.holds("takes 20 ms", poll_until(&[], deadline));
    tap.call(
        "there is no watchdog 9",
        sched::watchdog(9, 1),
        Err(Errno::EINVAL),
    );
    tap.call(
        "watchdog 1 does not run",
        sched::watchdog(1, 0),
        Err(Errno::EINVAL),
    );
    let watchdog = sched::watchdog(0, 30);
    tap.is(
        "a watchdog is set",
        watchdog.as_ref().copied().ok(),
        Some(1),
    );
    tap.call(
        "and stopped",
        sched::watchdog(watchdog.unwrap_or_default(), 0),
        OK,
    );
    tap.call(
        "another domain is not ours to shut down",
        sched::remote_shutdown(Domid(77), 0),
        Err(Errno::ESRCH),
    );
    tap.call(
        "pinning a vCPU",
        sched::pin_override(0),
        if boot::is_initial_domain() {
            Ok(())
        } else {
            Err(Errno::EPERM)
        },
    );
    _ = sched::pin_override(-1);
}

/// Polls until a deadline, for any event ends a poll, and the console has some. Whether that took
/// few polls.
pub fn poll_until(ports: &[Port], deadline: u64) -> bool {
    (0..100).any(|_| {
        let polled = sched::poll(ports, deadline);
        polled.is_ok() && clock::now() >= deadline
    })
}

fn vcpus(tap: &mut Tap) {
    tap.is("vCPU 0 is up", vcpu::is_up(0).ok(), Some(true));
    tap.call("there is no vCPU 99", vcpu::is_up(99), Err(Errno::ENOENT));
    tap.is(
        "vCPU 0 runs",
        vcpu::runstate_info(0).map(|info| info.state).ok(),
        Some(0),
    );
    let (info, now) = (vcpu::runstate_info(0).unwrap_or_default(), clock::now());
    let total: u64 = info.time.iter().sum();
    tap.holds(
        "its times add up to no more than there was",
        total > 0 && total <= now,
    );
    tap.call(
        "a timer in the past, though it is to be in the future",
        vcpu::set_singleshot_timer(0, 1, hypercall_abi::vcpu::VCPU_SSHOTTMR_FUTURE),
        OK,
    );
    tap.call(
        "a timer of another vCPU",
        vcpu::set_singleshot_timer(9, 1, 0),
        Err(Errno::ENOENT),
    );
    tap.call(
        "a period below a millisecond",
        vcpu::set_periodic_timer(0, 999_999),
        Err(Errno::EINVAL),
    );
    tap.call(
        "a period of more than a century",
        vcpu::set_periodic_timer(0, u64::MAX),
        Err(Errno::EINVAL),
    );
    tap.call("no period", vcpu::stop_periodic_timer(0), OK);
    tap.call("no timer", vcpu::stop_singleshot_timer(0), OK);
    // SAFETY: there is no such operation.
    tap.call(
        "vCPU operation 99",
        check(unsafe { hypercall3::<{ xen::HYPERVISOR_VCPU_OP }>(99, 0, 0) }),
        Err(Errno::ENOSYS),
    );
    // SAFETY: they fail.
    unsafe {
        tap.call(
            "time information at an address that is none",
            vcpu::register_time_memory_area(0, HYPERVISOR),
            Err(Errno::EFAULT),
        );
        tap.call(
            "runstate information at an address that is none",
            vcpu::register_runstate_memory_area(0, HYPERVISOR),
            Err(Errno::EFAULT),
        );
        tap.call(
            "vCPU information across a page",
            vcpu::register_vcpu_info(0, Mfn(0), 4092),
            Err(Errno::ENXIO),
        );
        tap.call(
            "vCPU information in no frame",
            vcpu::register_vcpu_info(0, Mfn(1 << 40), 0),
            Err(Errno::EINVAL),
        );
    }
}

fn reservations(tap: &mut Tap) {
    let pages = boot::start_info().nr_pages;
    let reservation = memory::current_reservation(Domid::SELF).unwrap_or_default();
    tap.is(
        "the current reservation is what we were given",
        reservation,
        pages,
    );
    let maximum = memory::maximum_reservation(Domid::SELF).unwrap_or_default();
    tap.holds("the maximum is no less", maximum >= pages);
    tap.call(
        "another domain's reservation",
        memory::current_reservation(Domid(77)),
        Err(Errno::ESRCH),
    );
    tap.is(
        "the highest frame that our list has room for",
        memory::maximum_gpfn(Domid::SELF).ok(),
        Some(frame_count() - 1),
    );
    let mapping = memory::machphys_mapping().unwrap_or_default();
    tap.is(
        "where the machine-to-physical table is",
        mapping.v_start,
        0xffff_8000_0000_0000,
    );
    let highest = memory::maximum_ram_page().unwrap_or_default();
    tap.holds(
        "its last entry is for the last frame of memory",
        mapping.max_mfn + 1 >= highest,
    );
    // SAFETY: there is no such operation.
    tap.call(
        "memory operation 63",
        check(unsafe { hypercall3::<{ xen::HYPERVISOR_MEMORY_OP }>(63, 0, 0) }),
        Err(Errno::ENOSYS),
    );
    let mut frames = [1 << 40];
    // SAFETY: it is no frame.
    let released = unsafe { memory::decrease_reservation(Domid::SELF, &mut frames, 0) };
    tap.is(
        "a frame that does not exist cannot be given back",
        released.ok(),
        Some(0),
    );
    // Below 16 MiB there is nothing of a guest by chance, so this exchanges frames.
    match DmaMemory::new(4 * 4096, 24) {
        Ok(memory) => {
            tap.holds(
                "memory below 16 MiB",
                memory.machine_address() + 0x4000 <= 1 << 24,
            );
            memory.set::<u64>(0x3ff8, 0x1234);
            tap.is("it is there", memory.get::<u64>(0x3ff8), 0x1234);
            let pfn = pv_guest::memory::pfn_of(memory.mfn());
            tap.is(
                "and in the machine-to-physical table",
                pfn,
                Some(memory.pfn()),
            );
        }
        Err(error) => tap.is("memory below 16 MiB", Err(error.errno()), Ok(())),
    }
    tap.is(
        "the reservation is what it was",
        memory::current_reservation(Domid::SELF).unwrap_or_default(),
        reservation,
    );
}
