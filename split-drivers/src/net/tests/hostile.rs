//! Each end alone against a peer that keeps to nothing.

use proptest::collection::vec;
use proptest::prelude::*;

use crate::net::world::{hostile_back, hostile_front};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_frontend_has_the_backend_do_what_it_may_not(bytes in vec(any::<u8>(), 0..4000)) {
        hostile_front(&bytes);
    }

    #[test]
    fn no_backend_has_the_frontend_believe_what_it_did_not_ask(
        bytes in vec(any::<u8>(), 0..2000),
    ) {
        hostile_back(&bytes);
    }
}
