//! A frontend against a backend, with everything that happens between them in any order.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::pair::{Pair, pattern};
use crate::block::front::{Failure, Refused, Request, RequestId};
use crate::block::world::device;
use crate::block::{Device, SECTOR};

const SECTORS: u64 = 2048;

#[derive(Clone, Copy, Debug)]
enum Step {
    Read(u8, u64, usize),
    Write(u8, u64, usize),
    Flush(u8),
    Discard(u64, u64),
    Publish(u8),
    Take,
    Back(usize),
    Disk(usize),
    Fail(usize),
    Reconnect,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SECTORS, prop_oneof![3 => 1_usize..16, 1 => 1_usize..512]);
    prop_oneof![
        4 => (any::<u8>(), place()).prop_map(|(queue, (at, count))| Step::Read(queue, at, count)),
        4 => (any::<u8>(), place()).prop_map(|(queue, (at, count))| Step::Write(queue, at, count)),
        1 => any::<u8>().prop_map(Step::Flush),
        1 => (0..SECTORS, 1_u64..64).prop_map(|(at, count)| Step::Discard(at, count)),
        4 => any::<u8>().prop_map(Step::Publish),
        4 => Just(Step::Take),
        6 => (0_usize..20).prop_map(Step::Back),
        8 => any::<usize>().prop_map(Step::Disk),
        1 => any::<usize>().prop_map(Step::Fail),
        1 => Just(Step::Reconnect),
    ]
}

/// What a request does, and to what.
struct Asked {
    first: u64,
    count: u64,
    /// What is written, if something is.
    bytes: Option<Vec<u8>>,
    reads: bool,
}

/// What the disk must hold: for each sector its bytes, or none where a write may or may not have been
/// done.
struct Model {
    sectors: Vec<Option<Vec<u8>>>,
    asked: BTreeMap<RequestId, Asked>,
}

impl Model {
    fn is_free(&self, first: u64, count: u64) -> bool {
        let apart = |it: &Asked| it.first + it.count <= first || first + count <= it.first;
        self.asked.values().all(apart)
    }

    fn ended(&mut self, pair: &mut Pair, id: RequestId) {
        let asked = self.asked.remove(&id).expect("it was asked");
        let mut into = vec![0; asked.count as usize * SECTOR];
        let result = pair.front.take(id, &mut into).expect("it has ended");
        let range = asked.first as usize..(asked.first + asked.count) as usize;
        for (nth, sector) in self.sectors[range].iter_mut().enumerate() {
            let at = nth * SECTOR..(nth + 1) * SECTOR;
            match (&asked.bytes, result) {
                (Some(bytes), Ok(())) => *sector = Some(bytes[at].to_vec()),
                // A disk that fails has done it in part.
                (Some(_), Err(_)) => *sector = None,
                (None, Ok(())) if asked.reads => {
                    if let Some(sector) = sector {
                        assert!(
                            into[at] == *sector,
                            "sector {} was changed",
                            asked.first + nth as u64
                        );
                    }
                }
                (None, _) => {}
            }
        }
        if result == Err(Failure::Unsupported) {
            panic!("what was offered is refused");
        }
    }
}

fn run(steps: &[Step], device: Device, queues: usize, pages: usize) {
    let unit = u64::from(device.sector_size) / SECTOR as u64;
    let mut pair = Pair::new(device, queues, pages);
    let mut model = Model {
        sectors: vec![Some(vec![0; SECTOR]); SECTORS as usize],
        asked: BTreeMap::new(),
    };
    let queue = |queue: u8| usize::from(queue) % queues;
    for (nth, step) in steps.iter().enumerate() {
        let mut ask = |at: usize, first: u64, count: u64, bytes: Option<Vec<u8>>, reads: bool| {
            let first = first / unit * unit;
            let count = (count.div_ceil(unit) * unit).min(SECTORS - first);
            if !model.is_free(first, count) {
                return;
            }
            let bytes = bytes.map(|bytes| bytes[..count as usize * SECTOR].to_vec());
            let request = match &bytes {
                _ if reads => Request::Read {
                    sector: first,
                    count: count as usize,
                },
                Some(bytes) if bytes.iter().any(|it| *it != 0) => Request::Write {
                    sector: first,
                    bytes,
                },
                _ => Request::Discard {
                    sector: first,
                    count,
                    secure: false,
                },
            };
            match pair.submit(at, request) {
                Ok(id) => {
                    _ = model.asked.insert(
                        id,
                        Asked {
                            first,
                            count,
                            bytes,
                            reads,
                        },
                    )
                }
                Err(refused) => assert_eq!(refused, Refused::Full),
            }
        };
        match *step {
            Step::Read(at, first, count) => ask(queue(at), first, count as u64, None, true),
            Step::Write(at, first, count) => {
                let bytes = pattern(nth as u8 | 1, (count + 8) * SECTOR);
                ask(queue(at), first, count as u64, Some(bytes), false);
            }
            Step::Discard(first, count) => {
                let zeroes = vec![0; (count as usize + 8) * SECTOR];
                ask(0, first, count, Some(zeroes), false);
            }
            Step::Flush(at) => {
                if let Ok(id) = pair.submit(queue(at), Request::Flush) {
                    let nothing = Asked {
                        first: 0,
                        count: 0,
                        bytes: None,
                        reads: false,
                    };
                    model.asked.insert(id, nothing);
                }
            }
            Step::Publish(at) => _ = pair.front.publish(queue(at)),
            Step::Take => {
                for id in pair.front.turn().unwrap() {
                    model.ended(&mut pair, id);
                }
            }
            Step::Back(budget) => {
                pair.back
                    .turn(&mut pair.host, &mut pair.disk, budget)
                    .unwrap();
            }
            Step::Disk(pick) => _ = pair.disk.step(pick, false),
            Step::Fail(pick) => _ = pair.disk.step(pick, true),
            Step::Reconnect => {
                pair.back.close();
                pair.settle();
                for id in pair.front.turn().unwrap() {
                    model.ended(&mut pair, id);
                }
                for id in pair.front.fail() {
                    model.ended(&mut pair, id);
                }
                assert_eq!(
                    pair.guest.grants(),
                    0,
                    "the end of a connection ends its grants"
                );
                pair.reconnect(device, queues, pages);
            }
        }
    }
    pair.settle();
    for id in pair.front.turn().unwrap() {
        model.ended(&mut pair, id);
    }
    assert!(model.asked.is_empty(), "every request has ended");
    for (nth, sector) in model.sectors.iter().enumerate() {
        if let Some(sector) = sector {
            assert!(
                pair.disk.bytes[nth * SECTOR..][..SECTOR] == *sector,
                "sector {nth}"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn nothing_is_lost_or_mixed_up_whatever_the_order(
        steps in vec(step(), 0..250), large in any::<bool>(), persistent in any::<bool>(),
        queues in 1_usize..4, order in 0_u32..2, indirect in prop_oneof![Just(0), Just(64)],
    ) {
        let device = Device {
            persistent,
            max_indirect: indirect,
            ..device(SECTORS, if large { 4096 } else { 512 })
        };
        let steps: Vec<_> = steps
            .into_iter()
            .map(|step| match step {
                // What does not fit a request is refused, which others try.
                Step::Read(queue, at, count) if indirect == 0 => Step::Read(queue, at, count % 64 + 1),
                Step::Write(queue, at, count) if indirect == 0 => Step::Write(queue, at, count % 64 + 1),
                Step::Read(queue, at, count) => Step::Read(queue, at, count.min(504)),
                Step::Write(queue, at, count) => Step::Write(queue, at, count.min(504)),
                other => other,
            })
            .collect();
        run(&steps, device, queues, 1 << order);
    }
}
