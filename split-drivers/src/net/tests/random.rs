//! A frontend against a backend, with everything that happens between them in any order.

use std::collections::{BTreeMap, VecDeque};

use proptest::collection::vec;
use proptest::prelude::*;

use super::pair::Pair;
use crate::net::back::Policy;
use crate::net::front::Refused;
use crate::net::world::{large_tcp, plain, tcp};
use crate::net::{Features, Frame};

#[derive(Clone, Copy, Debug)]
enum Step {
    Send(u8, usize),
    Deliver(u8, usize),
    Publish(usize),
    Fill,
    Take,
    Back(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let length = || prop_oneof![3 => 14_usize..1515, 1 => 14_usize..60_000];
    prop_oneof![
        6 => (any::<u8>(), length()).prop_map(|(kind, length)| Step::Send(kind, length)),
        6 => (any::<u8>(), length()).prop_map(|(kind, length)| Step::Deliver(kind, length)),
        4 => any::<usize>().prop_map(Step::Publish),
        2 => Just(Step::Fill),
        4 => Just(Step::Take),
        6 => (0_usize..20).prop_map(Step::Back),
    ]
}

/// A frame of one of eight flows of TCP, or of what has none.
fn frame(kind: u8, length: usize) -> Frame {
    let payload = vec![kind; length];
    let mut frame = match kind % 4 {
        0 => tcp(kind & 4 != 0, &payload),
        1 => large_tcp(kind & 4 != 0, &payload, 1448),
        _ => return plain(length, kind),
    };
    let at = port_at(&frame);
    frame.bytes[at] = kind >> 3 & 3;
    frame
}

/// Where the low byte of the TCP's source port is.
fn port_at(frame: &Frame) -> usize {
    if frame.bytes[12] == 8 { 35 } else { 55 }
}

/// Frames by the flow that they are of.
#[derive(Debug, Default, PartialEq)]
struct Flows(BTreeMap<(u8, u8), VecDeque<Frame>>);

impl Flows {
    fn push(&mut self, frame: Frame) {
        let kind = frame.bytes[12..14] == [0x88, 0xb5];
        let port = if kind {
            0
        } else {
            frame.bytes[port_at(&frame)]
        };
        let flow = self.0.entry((frame.bytes[13], port)).or_default();
        flow.push_back(frame);
    }

    fn of(frames: impl IntoIterator<Item = Frame>) -> Self {
        let mut flows = Self::default();
        frames.into_iter().for_each(|frame| flows.push(frame));
        flows
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn nothing_is_lost_or_mixed_up_whatever_the_order(
        queues in 1_usize..5, steps in vec(step(), 0..250),
    ) {
        let mut pair = Pair::with_queues(queues, Features::ALL, Policy::default());
        let (mut sent, mut given) = (Flows::default(), Flows::default());
        let mut queued = 0;
        let mut received = Vec::new();
        for step in steps {
            match step {
                Step::Send(kind, length) => {
                    let frame = frame(kind, length);
                    match pair.send(&frame) {
                        Ok(()) => sent.push(frame),
                        Err(refused) => prop_assert_eq!(refused, Refused::Full),
                    }
                }
                Step::Deliver(kind, length) => {
                    let frame = frame(kind, length);
                    let dropped = pair.back.received().dropped;
                    pair.back.deliver(frame.clone());
                    if pair.back.received().dropped == dropped {
                        given.push(frame);
                        queued += 1;
                    }
                }
                Step::Publish(nth) => _ = pair.front.publish(nth % queues),
                Step::Fill => pair.front.fill(&mut pair.guest),
                Step::Take => received.extend(pair.front.turn().unwrap()),
                Step::Back(budget) => {
                    let out = pair.out.len();
                    pair.back.turn(&mut pair.host, 0, budget, &mut pair.out).unwrap();
                    prop_assert!(pair.out.len() - out <= budget);
                }
            }
        }
        received.extend(pair.settle());
        prop_assert_eq!(received.len(), queued);
        let (out, received) = (Flows::of(pair.out), Flows::of(received));
        prop_assert!(out == sent, "what was sent has arrived, each flow in its order");
        prop_assert!(received == given, "what was given has arrived");
        prop_assert_eq!(pair.front.under_way(), 0);
        prop_assert_eq!(pair.host.room.get(), 2 << 20);
        pair.front.fail();
        prop_assert_eq!(pair.guest.grants(), 0);
    }
}
