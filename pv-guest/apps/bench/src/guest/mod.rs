//! The measurements, by subject.

mod calls;
mod entries;
mod fill;
mod meter;
mod page;
mod roots;
mod user;

use pv_guest::{boot, clock, println};

use meter::Meter;

pv_guest::entry!(main);

async fn main() {
    println!("# bench on {}", boot::magic());
    println!("bench tsc-hertz {}", clock::tsc_frequency());
    let meter = Meter::from_command_line();
    calls::run(&meter);
    page::run(&meter);
    roots::run(&meter);
    entries::run(&meter);
    user::run(&meter);
    fill::run();
    println!("# done");
}
