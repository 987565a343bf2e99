//! The measurements, by subject.

mod calls;
mod disk;
mod entries;
mod fill;
mod grants;
mod meter;
mod page;
mod pair;
mod roots;
mod sleeper;
mod time;
mod turns;
mod user;

use pv_guest::{boot, clock, println};

use meter::{Meter, option};

pv_guest::entry!(main);

async fn main() {
    println!("# bench on {}", boot::magic());
    println!("bench tsc-hertz {}", clock::tsc_frequency());
    let meter = Meter::from_command_line();
    if let Some(seconds) = option("clock") {
        time::run(seconds).await;
        return;
    }
    if let Some(name) = boot::option("pair") {
        pair::run(&meter, name).await;
        return;
    }
    if let Some(name) = boot::option("disk") {
        disk::run(name).await;
        println!("# done");
        return;
    }
    calls::run(&meter);
    page::run(&meter);
    roots::run(&meter);
    entries::run(&meter);
    grants::run(&meter);
    turns::switches(&meter);
    if boot::option("timer") != Some("0") {
        turns::timer(&meter);
    }
    user::run(&meter);
    fill::run();
    println!("# done");
}
