//! What is refused, and how.

use super::*;

#[test]
fn only_the_control_domain_makes_ports_for_others() {
    let host = host();
    assert_eq!(alloc(&host, DOM0, DOMU, OTHER), Ok(Port(1)));
    assert_eq!(alloc(&host, DOMU, OTHER, DOMU), Err(Errno::EPERM));
    assert_eq!(alloc(&host, DOMU, DOMU, OTHER), Ok(Port(2)));
    assert_eq!(alloc(&host, DOM0, Domid(77), DOM0), Err(Errno::ESRCH));
    assert_eq!(alloc(&host, DOM0, Domid::IO, DOM0), Err(Errno::ESRCH));
    // The remote end is the caller, not the owner of the port.
    assert_eq!(alloc(&host, DOM0, DOMU, Domid::SELF), Ok(Port(3)));
    let waits = status(&host, DOMU, Domid::SELF, Port(3)).unwrap();
    assert_eq!(waits.u.get::<EvtchnStatusUnbound>().dom, DOM0);
    // A refusal leaves no port behind.
    assert_eq!(bind_ipi(&host, OTHER, 0), Ok(Port(1)));
}

#[test]
fn a_domain_gets_no_more_ports_than_it_may_have() {
    let host = host();
    for _ in 1..=1024 {
        event::bind_ipi(&host.domain(DOMU), 0).unwrap();
    }
    assert_eq!(alloc(&host, DOMU, Domid::SELF, DOM0), Err(Errno::ENOSPC));
    assert_eq!(bind_ipi(&host, DOMU, 0), Err(Errno::ENOSPC));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Err(Errno::ENOSPC));
    assert_eq!(connect(&host, DOMU, DOM0, Port(1)), Err(Errno::ENOSPC));
}

#[test]
fn no_domain_has_more_ports_than_the_shared_page_has_bits() {
    let mut table = crate::event::table::Table::new(u32::MAX);
    for expected in 1..EVTCHN_2L_NR_CHANNELS {
        let port = table.free_port().unwrap();
        assert_eq!(port, Port(expected));
        table.bind(port, crate::event::table::Binding::Ipi, 0);
    }
    assert_eq!(table.free_port(), Err(Errno::ENOSPC));
    table.free(Port(4095));
    assert_eq!(table.free_port(), Ok(Port(4095)));
}

#[test]
fn virtual_interrupts_are_bound_once_and_to_vcpus_that_exist() {
    let host = host();
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Ok(Port(1)));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Err(Errno::EEXIST));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 1), Ok(Port(2)));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 2), Err(Errno::ENOENT));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 1), Err(Errno::EINVAL));
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 0), Ok(Port(3)));
    assert_eq!(bind_virq(&host, DOMU, NR_VIRQS, 0), Err(Errno::EINVAL));
    assert_eq!(bind_virq(&host, DOMU, u32::MAX, 0), Err(Errno::EINVAL));
    assert_eq!(
        send(&host, DOMU, Port(1)),
        Err(Errno::EINVAL),
        "no guest sends interrupts"
    );
    let timer = status(&host, DOMU, Domid::SELF, Port(2)).unwrap();
    assert_eq!(
        (timer.status, timer.vcpu, timer.u.get::<u32>()),
        (EVTCHNSTAT_VIRQ, 1, VIRQ_TIMER)
    );
    close(&host, DOMU, Port(1)).unwrap();
    assert_eq!(bind_virq(&host, DOMU, VIRQ_TIMER, 0), Ok(Port(1)));
}

#[test]
fn a_guest_chooses_the_vcpu_of_a_port_but_not_of_a_per_vcpu_interrupt() {
    let host = host();
    lifecycle::create_vcpus(&host.hv, &host.domain(DOMU), 2).unwrap();
    let waits = alloc(&host, DOMU, Domid::SELF, DOM0).unwrap();
    let timer = bind_virq(&host, DOMU, VIRQ_TIMER, 0).unwrap();
    let global = bind_virq(&host, DOMU, VIRQ_CONSOLE, 0).unwrap();
    let ipi = bind_ipi(&host, DOMU, 1).unwrap();
    assert_eq!(bind_vcpu(&host, DOMU, waits, 1), Ok(()));
    assert_eq!(bind_vcpu(&host, DOMU, global, 1), Ok(()));
    assert_eq!(bind_vcpu(&host, DOMU, timer, 0), Err(Errno::EINVAL));
    assert_eq!(bind_vcpu(&host, DOMU, ipi, 0), Err(Errno::EINVAL));
    assert_eq!(bind_vcpu(&host, DOMU, waits, 2), Err(Errno::ENOENT));
    assert_eq!(bind_vcpu(&host, DOMU, Port(20), 0), Err(Errno::EINVAL));
    assert_eq!(bind_vcpu(&host, DOMU, Port(1000), 0), Err(Errno::EINVAL));
    // What was global stays so: a second one cannot be bound.
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 0), Err(Errno::EEXIST));
    event::send_global_virq(&host.hv, &host.domain(DOMU), VIRQ_CONSOLE);
    assert_eq!(take_events(&host, DOMU), []);
    let second = host.domain(DOMU).vcpu(1).unwrap();
    assert!(event::upcall_due(&host.hv, &second));
    close(&host, DOMU, global).unwrap();
    assert_eq!(bind_virq(&host, DOMU, VIRQ_CONSOLE, 0), Ok(global));
    assert_eq!(status(&host, DOMU, Domid::SELF, global).unwrap().vcpu, 0);
}

#[test]
fn status_is_the_owners_and_the_control_domains_to_ask() {
    let host = host();
    let port = bind_ipi(&host, DOMU, 0).unwrap();
    assert_eq!(status(&host, OTHER, DOMU, port).err(), Some(Errno::EPERM));
    assert_eq!(
        status(&host, DOM0, DOMU, port).unwrap().status,
        EVTCHNSTAT_IPI
    );
    assert_eq!(
        status(&host, DOM0, Domid(55), port).err(),
        Some(Errno::ESRCH)
    );
    assert_eq!(
        status(&host, DOMU, Domid::SELF, Port(64)).err(),
        Some(Errno::EINVAL)
    );
    assert_eq!(
        status(&host, DOMU, Domid::SELF, Port(0)).unwrap().status,
        EVTCHNSTAT_CLOSED
    );
}

#[test]
fn unknown_commands_are_refused() {
    let host = host();
    let raw =
        |command: u32, at| host.hypercall(DOMU, HYPERVISOR_EVENT_CHANNEL_OP, &[command.into(), at]);
    let at = host.put(DOMU, &[0_u64; 4]);
    for command in [15, 1000, u32::MAX] {
        assert_eq!(raw(command, at), Errno::ENOSYS.to_return());
    }
}

#[test]
fn ports_and_vcpus_that_are_not_there_are_refused() {
    let host = host();
    for port in [64, 4095, 4096, u32::MAX].map(Port) {
        assert_eq!(close(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(send(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(unmask(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(bind_vcpu(&host, DOMU, port, 0), Err(Errno::EINVAL));
        assert_eq!(connect(&host, DOMU, DOM0, port), Err(Errno::EINVAL));
        let asked = status(&host, DOMU, Domid::SELF, port);
        assert_eq!(asked.err(), Some(Errno::EINVAL));
    }
    // Port 0 exists, and is nobody's; port 1 is free.
    for port in [0, 1].map(Port) {
        assert_eq!(close(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(send(&host, DOMU, port), Err(Errno::EINVAL));
        assert_eq!(bind_vcpu(&host, DOMU, port, 0), Err(Errno::EINVAL));
        assert_eq!(unmask(&host, DOMU, port), Ok(()));
    }
    let port = alloc(&host, DOMU, Domid::SELF, DOM0).unwrap();
    for vcpu in [1, 32, 128, u32::MAX] {
        assert_eq!(bind_ipi(&host, DOMU, vcpu), Err(Errno::ENOENT));
        assert_eq!(bind_vcpu(&host, DOMU, port, vcpu), Err(Errno::ENOENT));
        let timer = bind_virq(&host, DOMU, VIRQ_TIMER, vcpu);
        assert_eq!(timer, Err(Errno::ENOENT));
    }
}

#[test]
fn reserved_numbers_are_no_domains() {
    let host = host();
    for dom in [Domid::IO, Domid::XEN, Domid::COW, Domid::INVALID, Domid(77)] {
        for caller in [DOM0, DOMU] {
            let refused = Errno::ESRCH;
            assert_eq!(alloc(&host, caller, dom, DOM0), Err(refused));
            assert_eq!(connect(&host, caller, dom, Port(1)), Err(refused));
            let asked = status(&host, caller, dom, Port(1));
            assert_eq!(asked.err(), Some(refused));
            let reset = call(&host, caller, EVTCHNOP_RESET, &EvtchnReset { dom });
            assert_eq!(outcome(reset.0), Err(refused));
        }
    }
}

#[test]
fn a_domain_that_is_taken_apart_is_not_connected_to() {
    let host = host();
    let waits = alloc(&host, DOMU, Domid::SELF, DOM0).unwrap();
    assert!(!lifecycle::destroy(
        &host.hv,
        &host.domain(DOMU),
        &mut || { true }
    ));
    assert_eq!(alloc(&host, DOM0, DOMU, DOM0), Err(Errno::EINVAL));
    assert_eq!(connect(&host, DOM0, DOMU, waits), Err(Errno::EINVAL));
    assert_eq!(host.domain(DOM0).events.active(), 0);
}

#[test]
fn a_port_that_another_processor_closes_meanwhile_is_closed_once() {
    let host: &'static Host = Box::leak(Box::new(host()));
    let waits = alloc(host, DOM0, Domid::SELF, DOMU).unwrap();
    let port = connect(host, DOMU, DOM0, waits).unwrap();
    let [dom0, domu]: [&'static std::sync::Arc<crate::Domain>; 2] =
        [DOM0, DOMU].map(|id| &*Box::leak(Box::new(host.domain(id))));
    // It has seen where the other end is, and waits for that domain's ports.
    let theirs = dom0.events.table.lock();
    hv_machine::sim::on_next_wait(move || {
        drop(theirs);
        event::close(&host.hv, domu, port).unwrap();
    });
    assert_eq!(close(host, DOMU, port), Err(Errno::EINVAL));
    let left = status(host, DOM0, Domid::SELF, waits).unwrap();
    assert_eq!(left.status, EVTCHNSTAT_UNBOUND);
    assert_eq!(connect(host, DOMU, DOM0, waits), Ok(port));
}
