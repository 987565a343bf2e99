//! The tests, by subject.

mod balloon;
mod calls;
mod demand;
mod descriptors;
mod domains;
mod events;
mod exceptions;
mod fill;
mod grants;
mod instructions;
mod memory;
mod mmu;
mod probe;
mod processes;
mod queues;
mod store;
mod tap;
mod time;
mod user;

use pv_guest::power::{Reason, shutdown};
use pv_guest::{boot, println};

use tap::Tap;

pv_guest::entry!(main);

async fn main() {
    println!("# selftest on {}", boot::magic());
    let mut tap = Tap::default();
    probe::init();
    exceptions::run(&mut tap);
    instructions::run(&mut tap);
    calls::run(&mut tap);
    mmu::run(&mut tap);
    demand::run(&mut tap);
    fill::run(&mut tap);
    memory::run(&mut tap);
    balloon::run(&mut tap);
    descriptors::run(&mut tap);
    events::run(&mut tap).await;
    grants::run(&mut tap);
    time::run(&mut tap).await;
    domains::run(&mut tap).await;
    store::run(&mut tap).await;
    processes::run(&mut tap);
    user::run(&mut tap);
    if tap.finish() {
        shutdown(Reason::Crash);
    }
}
