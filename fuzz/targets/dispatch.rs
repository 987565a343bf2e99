//! Hypercalls of three domains on two processors, chosen by the fuzzer among the steps of the search for broken
//! isolation (`kernel/core/src/memory/search`), which recounts everything behind each. What fails is printed as a test.
#![no_main]

use hv_core::memory::search;
use libfuzzer_sys::fuzz_target;

fuzz_target!(
    init: {
        // A panic is a finding that the search shrinks; it ends nothing before.
        std::panic::set_hook(Box::new(|_| {}));
    },
    |choices: &[u8]| {
        if let Err(test) = search::try_choices(choices) {
            eprintln!("{test}");
            std::process::abort();
        }
    }
);
