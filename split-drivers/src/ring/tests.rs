use std::collections::VecDeque;

use hypercall_abi::io::blkif::{BLKIF_ENTRY_SIZE, BlkifRequest};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::test_memory::Memory;

const ENTRY: usize = 16;

fn ring(pages: usize) -> Memory {
    Memory::new(pages * 4096)
}

/// Both ends of a ring whose indices begin anywhere.
fn ring_at(memory: &Memory, index: u32) -> (Front<&Memory>, Back<&Memory>) {
    let mut front = Front::new(memory, ENTRY);
    for place in [REQ_PROD, RSP_PROD] {
        memory.store_index(place, index);
    }
    for place in [REQ_EVENT, RSP_EVENT] {
        memory.store_index(place, index.wrapping_add(1));
    }
    let state = [
        &mut front.written,
        &mut front.published,
        &mut front.taken,
        &mut front.seen,
    ];
    state.into_iter().for_each(|own| *own = index);
    let back = Back::attach(memory, ENTRY).unwrap();
    (front, back)
}

#[test]
fn a_ring_has_as_many_entries_as_the_header_of_xen_says() {
    for (pages, entries) in [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
        let memory = ring(pages);
        let front = Front::new(&memory, BLKIF_ENTRY_SIZE);
        assert_eq!(front.capacity(), entries);
    }
}

#[test]
fn a_full_ring_takes_no_request_until_a_response_is_taken() {
    let memory = ring(1);
    let mut front = Front::new(&memory, BLKIF_ENTRY_SIZE);
    let mut back = Back::attach(&memory, BLKIF_ENTRY_SIZE).unwrap();
    let request = BlkifRequest::default();
    for _ in 0..32 {
        assert!(front.push(&request));
    }
    assert!(!front.push(&request));
    assert!(front.publish());
    assert!(back.pop::<BlkifRequest>().unwrap().is_some());
    back.push(&1_u64);
    assert!(!front.push(&request));
    assert!(back.publish());
    assert_eq!(front.pop::<u64>(), Ok(Some(1)));
    assert!(front.push(&request));
    assert_eq!(front.outstanding(), 32);
}

#[test]
fn who_is_awake_is_not_notified() {
    let memory = ring(1);
    let (mut front, mut back) = ring_at(&memory, 0);
    assert!(front.push(&1_u64) && front.publish());
    // It has been notified, and did not ask to be again.
    assert!(front.push(&2_u64) && !front.publish());
    assert_eq!(back.pop::<u64>(), Ok(Some(1)));
    assert_eq!(back.pop::<u64>(), Ok(Some(2)));
    assert_eq!(back.pop::<u64>(), Ok(None));
    assert_eq!(back.sleep(1), Ok(false));
    assert!(front.push(&3_u64) && front.publish());
    assert!(!front.publish(), "nothing is new");
}

#[test]
fn a_backend_may_wait_for_several_requests() {
    let memory = ring(1);
    let (mut front, mut back) = ring_at(&memory, u32::MAX);
    assert_eq!(back.sleep(3), Ok(false));
    assert!(front.push(&1_u64) && !front.publish());
    assert!(front.push(&2_u64) && !front.publish());
    assert!(front.push(&3_u64) && front.publish());
    assert_eq!(back.sleep(3), Ok(true));
    assert_eq!(back.sleep(4), Ok(false));
    assert_eq!(back.available(), Ok(3));
}

#[test]
fn what_comes_before_one_sleeps_is_not_missed() {
    let memory = ring(1);
    let (mut front, mut back) = ring_at(&memory, 7);
    assert_eq!(back.pop::<u64>(), Ok(None));
    // Between the last look and sleeping.
    assert!(front.push(&1_u64) && front.publish());
    assert_eq!(back.sleep(1), Ok(true));
    assert_eq!(back.pop::<u64>(), Ok(Some(1)));
    back.push(&2_u64);
    assert!(back.publish());
    assert_eq!(front.sleep(), Ok(true));
}

#[test]
fn a_backend_goes_on_where_another_has_stopped() {
    let memory = ring(1);
    let (mut front, mut first) = ring_at(&memory, 100);
    for request in 0..3_u64 {
        assert!(front.push(&request));
    }
    _ = front.publish();
    assert_eq!(first.pop::<u64>(), Ok(Some(0)));
    assert_eq!(first.pop::<u64>(), Ok(Some(1)));
    first.push(&0_u64);
    _ = first.publish();
    let mut second = Back::<&Memory>::attach(&memory, ENTRY).unwrap();
    assert_eq!(second.pop::<u64>(), Ok(Some(1)));
    assert_eq!(second.pop::<u64>(), Ok(Some(2)));
}

#[test]
fn a_ring_that_claims_too_much_is_not_attached_to() {
    let memory = ring(1);
    memory.store_index(REQ_PROD, 33);
    let error = Back::attach(&memory, BLKIF_ENTRY_SIZE).unwrap_err();
    assert_eq!((error.from, error.to, error.most), (0, 33, 32));
}

#[test]
#[should_panic(expected = "a response is to a request")]
fn a_response_without_a_request_is_a_mistake() {
    let memory = ring(1);
    ring_at(&memory, 0).1.push(&1_u64);
}

proptest! {
    #[test]
    fn requests_and_responses_arrive_once_and_in_order(
        start in prop_oneof![any::<u32>(), (u32::MAX - 300)..=u32::MAX],
        steps in vec((0_u8..6, 1_u32..9), 0..300),
    ) {
        let memory = ring(1);
        let (mut front, mut back) = ring_at(&memory, start);
        let (mut asked, mut got, mut answered, mut sent) = (0_u64, 0_u64, 0_u64, 0_u64);
        let mut pending = VecDeque::new();
        let (mut front_told, mut back_told) = (false, false);
        let (mut front_sleeps, mut back_sleeps) = (false, false);
        for (step, count) in steps {
            for _ in 0..count {
                match step {
                    0 => sent += u64::from(front.push(&sent)),
                    1 => back_told |= front.publish(),
                    2 => if let Some(request) = back.pop::<u64>().unwrap() {
                        prop_assert_eq!(request, got);
                        got += 1;
                        pending.push_back(request);
                    },
                    3 => if let Some(request) = pending.pop_front() {
                        back.push(&(request + 1000));
                    },
                    4 => front_told |= back.publish(),
                    _ => while let Some(response) = front.pop::<u64>().unwrap() {
                        prop_assert_eq!(response, answered + 1000);
                        answered += 1;
                    },
                }
            }
            if step == 1 {
                asked = sent;
                // Whoever sleeps with something to do has been told of it.
                prop_assert!(!back_sleeps || back_told || asked == got);
            }
            if step == 2 && back.available() == Ok(0) {
                back_told = false;
                back_sleeps = !back.sleep(1).unwrap();
            }
            if step == 4 {
                let done = got - pending.len() as u64;
                prop_assert!(!front_sleeps || front_told || done == answered);
            }
            if step == 5 {
                front_told = false;
                front_sleeps = !front.sleep().unwrap();
            }
        }
        prop_assert!(answered <= got && got <= asked && asked <= sent);
    }

    #[test]
    fn a_peer_that_scribbles_everywhere_gets_no_end_out_of_the_ring(
        steps in vec((any::<[u32; 4]>(), 0_u8..5), 0..200),
        close in any::<bool>(),
    ) {
        let memory = Memory::new(4096 + 64);
        let guard = memory.guard(4096);
        let pages = crate::test_memory::Part::new(&memory, 0, 4096);
        let mut front = Front::new(&pages, ENTRY);
        let mut back = Back::attach(&pages, ENTRY).unwrap();
        for (indices, step) in steps {
            for (place, index) in [REQ_PROD, RSP_PROD, REQ_EVENT, RSP_EVENT].into_iter().zip(indices) {
                // Near the right one, or anywhere.
                memory.store_index(place, if close { index % 600 } else { index });
            }
            match step {
                0 => _ = front.push(&1_u64),
                1 => _ = front.publish(),
                2 => _ = front.pop::<u64>(),
                3 => if let Ok(Some(request)) = back.pop::<u64>() { back.push(&request) },
                _ => _ = back.publish(),
            }
            prop_assert!(front.outstanding() <= front.capacity());
            prop_assert!(back.outstanding() <= back.capacity());
            prop_assert_eq!(memory.guard(4096), guard.clone());
        }
    }
}
