//! Event channels against a model of them, and from two processors at once.

use super::*;

use proptest::prelude::*;

#[test]
fn two_processors_that_connect_and_disconnect_never_wait_for_each_other() {
    let host = host();
    let hv = &host.hv;
    let pair = [host.domain(DOM0), host.domain(DOMU)];
    std::thread::scope(|scope| {
        for me in 0..2_usize {
            let (own, other) = (&pair[me], &pair[1 - me]);
            scope.spawn(move || {
                hv_machine::sim::Machine::become_cpu(0);
                let mut seed = me as u32 + 1;
                for _ in 0..20_000 {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let port = Port(1 + (seed >> 8) % 12);
                    // What fails because of the other processor fails.
                    let _ = match seed >> 28 {
                        0..5 => event::bind_interdomain(hv, own, other, port).map(drop),
                        5..8 => event::alloc_unbound(own, own, other.id).map(drop),
                        8..13 => event::close(hv, own, port),
                        _ => event::send(hv, own, port),
                    };
                    if seed >> 28 == 7 {
                        let _ = event::reset(hv, own, false, &mut || false);
                    }
                }
            });
        }
    });
    // What is connected is connected from both ends.
    for me in 0..2 {
        let table = pair[me].events.table.lock();
        for port in (1..table.len()).map(Port) {
            let Some(crate::event::table::Binding::Interdomain { remote, port: end }) =
                table.get(port).map(|channel| channel.binding.clone())
            else {
                continue;
            };
            assert_eq!(remote.id, pair[1 - me].id);
            let theirs = remote.events.table.lock();
            match theirs.get(end).map(|channel| &channel.binding) {
                Some(crate::event::table::Binding::Interdomain { remote, port: back }) => {
                    assert_eq!((remote.id, *back), (pair[me].id, port));
                }
                _ => panic!("one end of a connection knows nothing of the other"),
            }
        }
    }
}

/// What a port is, as the model sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Model {
    Free,
    Waits(usize),
    Connected(usize, usize),
    Ipi,
    Timer,
}

const DOMAINS: [Domid; 3] = [DOM0, DOMU, OTHER];
const MODEL_PORTS: usize = 24;

struct World {
    ports: [[Model; MODEL_PORTS]; 3],
    pending: [[bool; MODEL_PORTS]; 3],
}

impl World {
    fn free(&self, domain: usize) -> usize {
        (1..MODEL_PORTS)
            .find(|&port| self.ports[domain][port] == Model::Free)
            .unwrap()
    }

    fn full(&self, domain: usize) -> bool {
        self.ports[domain][1..MODEL_PORTS - 1]
            .iter()
            .all(|&port| port != Model::Free)
    }

    fn close(&mut self, domain: usize, port: usize) -> Result<(), Errno> {
        match self.ports[domain][port] {
            Model::Free => return Err(Errno::EINVAL),
            Model::Connected(other, end) => self.ports[other][end] = Model::Waits(domain),
            _ => {}
        }
        self.ports[domain][port] = Model::Free;
        self.pending[domain][port] = false;
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn three_domains_that_do_anything_see_what_the_model_says(
        steps in prop::collection::vec((0_usize..3, 0_u8..8, 0_usize..3, 0_usize..12), 1..120)
    ) {
        let host = host();
        let mut world = World { ports: [[Model::Free; MODEL_PORTS]; 3], pending: [[false; MODEL_PORTS]; 3] };
        for (who, what, other, port) in steps {
            let (id, remote, number) = (DOMAINS[who], DOMAINS[other], Port(port as u32));
            if world.full(who) {
                continue;
            }
            let free = world.free(who);
            match what {
                0 => {
                    let got = event::alloc_unbound(&host.domain(id), &host.domain(id), remote);
                    prop_assert_eq!(got, Ok(Port(free as u32)));
                    world.ports[who][free] = Model::Waits(other);
                }
                1 | 2 => {
                    let got = event::bind_interdomain(&host.hv, &host.domain(id), &host.domain(remote), number);
                    if world.ports[other][port] == Model::Waits(who) && port != 0 {
                        prop_assert_eq!(got, Ok(Port(free as u32)));
                        world.ports[who][free] = Model::Connected(other, port);
                        world.ports[other][port] = Model::Connected(who, free);
                        world.pending[who][free] = true;
                    } else {
                        prop_assert_eq!(got, Err(Errno::EINVAL));
                    }
                }
                3 => {
                    prop_assert_eq!(event::bind_ipi(&host.domain(id), 0), Ok(Port(free as u32)));
                    world.ports[who][free] = Model::Ipi;
                }
                4 => {
                    let got = event::bind_virq(&host.domain(id), VIRQ_TIMER, 0);
                    if world.ports[who].contains(&Model::Timer) {
                        prop_assert_eq!(got, Err(Errno::EEXIST));
                    } else {
                        prop_assert_eq!(got, Ok(Port(free as u32)));
                        world.ports[who][free] = Model::Timer;
                    }
                }
                5 => {
                    let got = event::close(&host.hv, &host.domain(id), number);
                    prop_assert_eq!(got, world.close(who, port));
                }
                6 => {
                    let got = event::send(&host.hv, &host.domain(id), number);
                    let expected = match world.ports[who][port] {
                        Model::Connected(other, end) => {
                            world.pending[other][end] = true;
                            Ok(())
                        }
                        Model::Ipi => {
                            world.pending[who][port] = true;
                            Ok(())
                        }
                        Model::Waits(_) => Ok(()),
                        Model::Free | Model::Timer => Err(Errno::EINVAL),
                    };
                    prop_assert_eq!(got, expected);
                }
                _ => {
                    let taken = take_events(&host, id);
                    let expected: Vec<Port> = (0..MODEL_PORTS)
                        .filter(|&port| std::mem::take(&mut world.pending[who][port]))
                        .map(|port| Port(port as u32))
                        .collect();
                    prop_assert_eq!(taken, expected);
                }
            }
            for (domain, &id) in DOMAINS.iter().enumerate() {
                let bound = world.ports[domain].iter().filter(|&&port| port != Model::Free).count();
                prop_assert_eq!(host.domain(id).events.active() as usize, bound);
                for port in 1..MODEL_PORTS {
                    let is_pending = pending(&host, id, Port(port as u32));
                    prop_assert_eq!(is_pending, world.pending[domain][port]);
                }
            }
        }
        for (domain, &id) in DOMAINS.iter().enumerate() {
            for port in 1..MODEL_PORTS {
                let seen = status(&host, DOM0, id, Port(port as u32)).unwrap().status;
                let expected = match world.ports[domain][port] {
                    Model::Free => EVTCHNSTAT_CLOSED,
                    Model::Waits(_) => EVTCHNSTAT_UNBOUND,
                    Model::Connected(..) => EVTCHNSTAT_INTERDOMAIN,
                    Model::Ipi => EVTCHNSTAT_IPI,
                    Model::Timer => EVTCHNSTAT_VIRQ,
                };
                prop_assert_eq!(seen, expected);
            }
        }
    }
}
