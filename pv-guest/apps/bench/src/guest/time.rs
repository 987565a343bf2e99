//! What time it is, again and again, for who reads it to compare with his own.

use core::time::Duration;

use pv_guest::{clock, println};

/// Time between two lines.
const PERIOD: Duration = Duration::from_millis(5);

/// Says the system time in nanoseconds for so many seconds.
pub async fn run(seconds: u64) {
    let end = clock::now() + seconds * 1_000_000_000;
    while clock::now() < end {
        println!("clock {}", clock::now());
        clock::sleep(PERIOD).await;
    }
    println!("# done");
}
