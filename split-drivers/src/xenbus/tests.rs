use proptest::collection::vec;
use proptest::prelude::*;

use super::State::*;
use super::{State, backend, frontend};

/// A device with both ends, whose rings are counted.
struct Device {
    front: frontend::Frontend,
    back: backend::Backend,
    /// As the store has them.
    states: (State, State),
    online: bool,
    rings: bool,
    used: bool,
    removed: bool,
    starts: u32,
}

impl Device {
    fn new() -> Self {
        Self {
            front: frontend::Frontend::new(),
            back: backend::Backend::new(),
            states: (Initialising, Initialising),
            online: true,
            rings: false,
            used: false,
            removed: false,
            starts: 0,
        }
    }

    fn step_front(&mut self) -> frontend::Step {
        let step = self.front.advance(self.states.1);
        match step {
            frontend::Step::Wait => {}
            frontend::Step::Connect => {
                assert!(!self.rings);
                self.rings = true;
                self.front.offered();
            }
            frontend::Step::Start => {
                assert!(self.rings);
                self.starts += 1;
                self.front.connected();
            }
            frontend::Step::Quiesce => self.front.quiet(),
            frontend::Step::Release => {
                assert!(self.rings && !self.used, "the backend uses the rings");
                self.rings = false;
                self.front.released();
            }
        }
        self.states.0 = self.front.state();
        step
    }

    fn step_back(&mut self) -> backend::Step {
        let step = self.back.advance(self.states.0, self.online);
        match step {
            backend::Step::Wait => {}
            backend::Step::Offer => self.back.offered(),
            backend::Step::Connect => {
                assert!(self.rings && !self.used);
                self.used = true;
                self.back.connected();
            }
            backend::Step::Disconnect => {
                assert!(self.used);
                self.used = false;
                self.back.disconnected();
            }
            backend::Step::Remove => self.removed = true,
        }
        assert_eq!(self.back.is_linked(), self.used);
        self.states.1 = self.back.state();
        step
    }

    fn settle(&mut self) {
        for _ in 0..20 {
            let before = self.states;
            let front = self.step_front();
            let back = self.step_back();
            let idle = matches!(back, backend::Step::Wait | backend::Step::Remove);
            if front == frontend::Step::Wait && idle && self.states == before {
                return;
            }
        }
        panic!("no end of steps in {:?}", self.states);
    }
}

#[test]
fn two_ends_connect_in_the_documented_order() {
    let mut device = Device::new();
    assert_eq!(device.step_front(), frontend::Step::Wait);
    assert_eq!(device.step_back(), backend::Step::Offer);
    assert_eq!(device.states, (Initialising, InitWait));
    assert_eq!(device.step_front(), frontend::Step::Connect);
    assert_eq!(device.states, (Initialised, InitWait));
    assert_eq!(device.step_back(), backend::Step::Connect);
    assert_eq!(device.states, (Initialised, Connected));
    assert_eq!(device.step_front(), frontend::Step::Start);
    assert_eq!(device.states, (Connected, Connected));
    assert_eq!(device.step_back(), backend::Step::Wait);
}

#[test]
fn a_device_that_the_toolstack_takes_away_closes_at_both_ends_and_goes() {
    let mut device = Device::new();
    device.settle();
    device.online = false;
    device.back.close();
    device.states.1 = device.back.state();
    device.settle();
    assert_eq!(device.states, (Closed, Closed));
    assert!(device.removed && !device.rings && !device.used);
}

#[test]
fn a_frontend_that_closes_may_come_back() {
    let mut device = Device::new();
    device.settle();
    device.front.close();
    device.states.0 = Closing;
    device.settle();
    assert_eq!(device.states, (Closed, Closed));
    assert!(!device.removed && !device.rings);
    device.front = frontend::Frontend::new();
    device.states.0 = Initialising;
    device.settle();
    assert_eq!(device.states, (Connected, Connected));
    assert_eq!(device.starts, 2);
}

#[test]
fn a_backend_that_starts_anew_is_connected_to_again() {
    let mut device = Device::new();
    device.settle();
    // It has lost everything, as by a crash.
    device.back = backend::Backend::new();
    device.used = false;
    device.states.1 = Initialising;
    device.settle();
    assert_eq!(device.states, (Connected, Connected));
    assert_eq!(device.starts, 2);
}

#[test]
fn a_frontend_that_starts_anew_without_closing_is_offered_the_device_again() {
    let mut device = Device::new();
    device.settle();
    device.front = frontend::Frontend::new();
    device.rings = false;
    device.states.0 = Initialising;
    device.settle();
    assert_eq!(device.states, (Connected, Connected));
}

#[test]
fn a_backend_that_gives_a_frontend_up_waits_for_it_to_begin_anew() {
    let mut device = Device::new();
    device.settle();
    device.back.fail();
    device.used = false;
    // A frontend that does not care.
    for front in [Connected, Initialised, InitWait, Closing] {
        device.states.0 = front;
        assert_eq!(device.step_back(), backend::Step::Wait);
        assert_eq!(device.states.1, Closing);
    }
    device.states.0 = Closed;
    assert_eq!(device.step_back(), backend::Step::Wait);
    assert_eq!(device.states.1, Closed);
}

#[test]
fn an_offer_that_is_of_no_use_is_not_taken_again_until_there_is_another() {
    let mut front = frontend::Frontend::new();
    assert_eq!(front.advance(InitWait), frontend::Step::Connect);
    front.fail();
    assert_eq!(front.advance(InitWait), frontend::Step::Wait);
    assert_eq!(front.state(), Closed);
    assert_eq!(front.advance(Closed), frontend::Step::Wait);
    assert_eq!(front.advance(InitWait), frontend::Step::Connect);
}

#[test]
fn a_node_that_is_no_state_counts_as_none() {
    assert_eq!(State::parse(None), Unknown);
    for odd in ["", "-1", "9", "4294967296", "Connected", "0x4"] {
        assert_eq!(State::parse(Some(odd)), Unknown, "{odd}");
    }
    for state in State::ALL {
        assert_eq!(State::parse(Some(&state.to_string())), state);
    }
}

fn state() -> impl Strategy<Value = State> {
    (0..State::ALL.len()).prop_map(|number| State::ALL[number])
}

proptest! {
    #[test]
    fn no_order_of_claims_makes_an_end_connect_twice_or_let_go_too_early(
        claims in vec((state(), any::<bool>(), 0_u8..20), 0..100),
    ) {
        let (mut front, mut back) = (Device::new(), Device::new());
        for (claim, online, event) in claims {
            // Each alone against a peer that says anything; what the other end would have counts as
            // the peer's.
            front.states.1 = claim;
            front.used = matches!(claim, Connected | Closing | Initialised);
            back.states.0 = claim;
            back.rings = true;
            back.online = online;
            match event {
                0 => front.front.close(),
                1 => back.back.close(),
                2 => {
                    back.back.fail();
                    back.used = false;
                }
                _ => {}
            }
            front.step_front();
            back.step_back();
        }
    }

    #[test]
    fn ends_that_take_turns_in_any_order_connect_and_close(
        turns in vec(any::<bool>(), 0..40), closer in any::<bool>(),
    ) {
        let mut device = Device::new();
        for (nth, front) in turns.iter().enumerate() {
            if nth == turns.len() / 2 {
                device.online = false;
                if closer { device.front.close() } else { device.back.close() }
            }
            if *front { device.step_front(); } else { device.step_back(); }
        }
        device.online = false;
        device.back.close();
        device.settle();
        // One that never began need not close.
        prop_assert!(matches!(device.states, (Closed | Initialising, Closed)));
        prop_assert!(device.removed && !device.rings && !device.used);
    }
}
