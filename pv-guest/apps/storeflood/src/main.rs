//! Does to the store what a hostile guest would: leaves transactions open, sets thousands of watches,
//! writes as much as it may, and keeps its ring full of requests.
//!
//! With one of the words `transactions`, `watches`, `rewatch` and `requests` on its command line it does that alone, without end.
//! With the word `measure` it is a well-behaved guest instead, which says how long its requests take.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![forbid(unsafe_code)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}

#[cfg(target_os = "none")]
mod guest;
