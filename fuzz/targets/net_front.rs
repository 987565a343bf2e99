//! The frontend of a network device against a backend that does what the bytes say.
#![no_main]

use libfuzzer_sys::fuzz_target;
use split_drivers::net::world;

fuzz_target!(|bytes: &[u8]| world::hostile_back(bytes));
