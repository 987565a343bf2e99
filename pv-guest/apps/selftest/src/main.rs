//! A guest that exercises the hypercall interface from inside and says what it finds, in the Test
//! Anything Protocol.
//!
//! What it expects is what Xen 4.17 does, found by running this image there, as initial domain and
//! as an ordinary one. Where the two kinds of domain differ, it expects what is right for its own.
//!
//! The last line begins with `# done`; then the domain powers off, or crashes if a test failed.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this image runs on bare metal only: build it with `cargo xtask build`");
}

#[cfg(target_os = "none")]
mod guest;
