//! One vCPU goes down, another brings it up again.

use core::sync::atomic::AtomicBool;
use core::sync::atomic::Ordering::SeqCst;
use core::time::Duration;

use pv_guest::clock;
use pv_guest::hypercall::vcpu;

use super::{Count, fail};

/// How often it went down.
pub static DOWNS: Count = Count::new();
/// How often it was brought up.
static UPS: Count = Count::new();
/// It is about to go down, or has.
static GOING: AtomicBool = AtomicBool::new(false);
/// Its worker has ended: it goes down for good.
static ENDED: AtomicBool = AtomicBool::new(false);

/// Goes down, and returns when this vCPU is up again.
pub fn go_down(id: u32) {
    DOWNS.add();
    GOING.store(true, SeqCst);
    if let Err(error) = vcpu::down(id) {
        fail(format_args!("it cannot go down: {error}"));
    }
    if GOING.load(SeqCst) {
        fail(format_args!("it came up by itself"));
    }
}

/// The vCPU's worker ends.
pub fn end() {
    ENDED.store(true, SeqCst);
}

/// Brings vCPU `id` up whenever it is down, until its worker ends.
pub async fn bring_up(id: u32) {
    while !ENDED.load(SeqCst) {
        match vcpu::is_up(id) {
            Ok(true) => {}
            Ok(false) if ENDED.load(SeqCst) => {}
            Ok(false) => {
                if !GOING.swap(false, SeqCst) {
                    fail(format_args!("vCPU {id} is down by itself"));
                }
                UPS.add();
                if let Err(error) = vcpu::up(id) {
                    fail(format_args!("vCPU {id} does not come up: {error}"));
                }
            }
            Err(error) => fail(format_args!("vCPU {id} is neither up nor down: {error}")),
        }
        clock::sleep(Duration::from_micros(700)).await;
    }
}

/// It came up as often as it went down.
pub fn check() {
    if DOWNS.get() != UPS.get() {
        fail(format_args!("down {}, up {}", DOWNS.get(), UPS.get()));
    }
}
