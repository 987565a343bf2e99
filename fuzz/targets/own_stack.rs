//! dom0's own TCP/IP stack beside a neighbour that does what the bytes say.
#![no_main]

use dom0::net::world;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| world::hostile_neighbour(bytes));
