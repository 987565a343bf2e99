//! Queued events of a guest that writes whatever it likes to its words and control blocks.

use super::fifo::{Guest, init_control, reset};
use super::*;

use event_protocol::fifo::{BUSY, LINK, LINKED, MASKED, PENDING};
use hv_machine::sim::Machine;
use proptest::prelude::*;

use crate::memory::recount;

#[derive(Clone, Debug)]
enum Step {
    /// Writes to a port's word.
    Word(u32, u32),
    /// Writes to a word of the control blocks' page.
    Control(usize, u32),
    Send(usize),
    Take(u32),
    Unmask(u32),
    Bind(u32),
    Close(u32),
    Priority(u32, u32),
    Vcpu(u32, u32),
}

fn word() -> impl Strategy<Value = u32> {
    let bits = prop::sample::subsequence(vec![PENDING, MASKED, LINKED, BUSY], 0..=4);
    let flags = bits.prop_map(|bits| bits.into_iter().sum::<u32>());
    let link = prop_oneof![0..24_u32, Just(LINK), any::<u32>()];
    (flags, link).prop_map(|(flags, link)| flags | link)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..24_u32, word()).prop_map(|(port, word)| Step::Word(port, word)),
        1 => (0..64_usize, word()).prop_map(|(index, word)| Step::Control(index, word)),
        8 => (0..8_usize).prop_map(Step::Send),
        2 => (0..2_u32).prop_map(Step::Take),
        2 => (0..24_u32).prop_map(Step::Unmask),
        1 => (0..2_u32).prop_map(Step::Bind),
        1 => (0..24_u32).prop_map(Step::Close),
        1 => (0..24_u32, 0..16_u32).prop_map(|(port, level)| Step::Priority(port, level)),
        1 => (0..24_u32, 0..2_u32).prop_map(|(port, vcpu)| Step::Vcpu(port, vcpu)),
    ]
}

/// A connection of `DOM0` with `DOMU`, which is unmasked there: the port of `DOM0`.
fn line(host: &Host, guest: &Guest<'_>) -> Port {
    let theirs = alloc(host, DOMU, Domid::SELF, DOM0).unwrap();
    guest.unmask(theirs);
    connect(host, DOM0, DOMU, theirs).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_guest_that_ruins_its_queues_loses_its_own_events_only(
        steps in prop::collection::vec(step(), 1..200)
    ) {
        let host = host();
        let mut guest = Guest::new(&host, DOMU, 2, 1);
        let lines: Vec<Port> = (0..8).map(|_| line(&host, &guest)).collect();
        take_events(&host, DOM0);
        let machine = &host.hv.machine;
        let mut bystander = Guest::new(&host, OTHER, 1, 1);
        let bell = bystander.ipi(0);
        for step in steps {
            // Whatever is answered: it is an answer.
            match step {
                Step::Word(port, word) => machine.store_u32(guest.pages[0], port as usize, word),
                Step::Control(index, word) => machine.store_u32(guest.control, index, word),
                Step::Send(line) => drop(send(&host, DOM0, lines[line])),
                Step::Take(vcpu) => drop(guest.take(vcpu)),
                Step::Unmask(port) => drop(unmask(&host, DOMU, Port(port))),
                Step::Bind(vcpu) => drop(event::bind_ipi(&host.domain(DOMU), vcpu)),
                Step::Close(port) => drop(event::close(&host.hv, &host.domain(DOMU), Port(port))),
                Step::Priority(port, level) => drop(
                    event::fifo::set_priority(&host.domain(DOMU), Port(port), level)
                ),
                Step::Vcpu(port, vcpu) => drop(
                    event::bind_vcpu(&host.domain(DOMU), Port(port), vcpu)
                ),
            }
            send(&host, OTHER, bell).unwrap();
            prop_assert_eq!(bystander.take(0), [bell]);
        }
        prop_assert_eq!(recount::check(&host.hv), Ok(()));
        // A kernel that begins anew finds all in order.
        reset(&host, DOMU).unwrap();
        guest = Guest::new(&host, DOMU, 2, 1);
        guest.take(0);
        let line = line(&host, &guest);
        guest.take(0);
        for _ in 0..3 {
            send(&host, DOM0, line).unwrap();
            prop_assert_eq!(guest.take(0).len(), 1);
        }
    }
}

#[test]
fn a_guest_that_changes_a_word_all_the_time_holds_up_nobody() {
    let host = host();
    let guest = Guest::new(&host, DOMU, 1, 1);
    let lines: Vec<Port> = (0..8).map(|_| line(&host, &guest)).collect();
    let (page, hv) = (guest.pages[0], &host.hv);
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            Machine::become_cpu(0);
            let mut seed = 1_u32;
            while !stop.load(Ordering::Relaxed) {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let word = seed & !LINK & !PENDING | LINKED | seed >> 8 & 7;
                hv.machine.store_u32(page, (1 + seed % 8) as usize, word);
            }
        });
        let dom0 = host.domain(DOM0);
        for round in 0..20_000 {
            event::send(hv, &dom0, lines[round % 8]).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(init_control(&host, DOMU, 0, page, 0), Err(Errno::EINVAL));
    recount::check(hv).unwrap();
}
