//! A store that sends whatever it likes.

use hypercall_abi::io::xs_wire::{XENSTORE_RING_SIZE, XenstoreDomainInterface};
use proptest::collection::vec;
use proptest::prelude::*;
use pv_guest::store::Store;
use split_drivers::SharedMemory;
use std::mem::offset_of;
use xenstore::wire::{self, Kind};

use crate::harness::{Guest, Page, RSP_PROD};

/// What it does next.
#[derive(Clone, Debug)]
enum Stroke {
    /// Writes any word of the page.
    Word(usize, u32),
    /// Sends a message with some of the guest's own numbers.
    Message(usize, u32, u32, Vec<u8>),
    /// Sends bytes that are no message.
    Bytes(Vec<u8>),
    /// Has taken all requests.
    Take,
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        vec(any::<u8>(), 0..60),
        Just(b"1\0".to_vec()),
        Just(b"data\x001\0".to_vec()),
        Just(b"data\x00ffffffffffffffffffff\0".to_vec()),
        Just(b"EAGAIN\0".to_vec()),
        Just(b"ENOENT\0".to_vec()),
        Just(b"OK\0".to_vec()),
    ]
}

fn stroke() -> impl Strategy<Value = Stroke> {
    let words = size_of::<XenstoreDomainInterface>() / 4;
    prop_oneof![
        1 => (words - 7..words, any::<u32>()).prop_map(|(word, value)| Stroke::Word(word, value)),
        1 => (words - 7..words, 0..3_u32).prop_map(|(word, value)| Stroke::Word(word, value)),
        8 => (0..Kind::ALL.len(), 0..12_u32, 0..3_u32, payload())
            .prop_map(|(kind, request, transaction, payload)| {
                Stroke::Message(kind, request, transaction, payload)
            }),
        1 => vec(any::<u8>(), 0..100).prop_map(Stroke::Bytes),
        4 => Just(Stroke::Take),
    ]
}

fn send(page: &Page, bytes: &[u8]) {
    let index = page.load_index(RSP_PROD);
    for (byte, place) in bytes.iter().zip(index..) {
        let place = place as usize % XENSTORE_RING_SIZE;
        page.write(offset_of!(XenstoreDomainInterface, rsp) + place, &[*byte]);
    }
    page.store_index(RSP_PROD, index.wrapping_add(bytes.len() as u32));
}

fn strike(page: &Page, stroke: Stroke) {
    match stroke {
        Stroke::Word(word, value) => page.store_index(word * 4, value),
        Stroke::Message(kind, request, transaction, payload) => {
            let kind = Kind::ALL[kind];
            send(page, &wire::encode(kind, request, transaction, &payload));
        }
        Stroke::Bytes(bytes) => send(page, &bytes),
        Stroke::Take => {
            let taken = page.load_index(offset_of!(XenstoreDomainInterface, req_prod));
            page.store_index(offset_of!(XenstoreDomainInterface, req_cons), taken);
        }
    }
}

/// Uses all that the client has, a number of times, with whatever result.
async fn use_it(store: Store) {
    let mut watch = store.watch("data");
    for _ in 0..4 {
        _ = store.read("a").await;
        _ = store.parse::<u64>("a").await;
        _ = store.directory("a").await;
        _ = store
            .transaction(async |requests| {
                requests.write("a", "x").await?;
                requests.permissions("a").await
            })
            .await;
        _ = watch.next().await;
        drop(store.watch("b"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_store_does_the_guest_goes_on(strokes in vec(stroke(), 1..200)) {
        let guest = Guest::new(Page::new());
        for _ in 0..2 {
            guest.spawn(use_it(guest.store.clone())).detach();
        }
        for stroke in strokes {
            strike(&guest.page, stroke);
            // That this ends is half of what is tested.
            guest.settle();
        }
    }
}
