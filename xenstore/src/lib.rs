//! XenStore: the small tree of names and values by which domains find and agree with each other.
//!
//! [`Server`](server::Server) keeps it and [`Client`](client::Client) uses it. Both do no I/O: bytes
//! go in and bytes come out, in the wire format of Xen's `io/xs_wire.h`, and mean what
//! `docs/misc/xenstore.txt` of Xen 4.17 says. [`ring`] carries the bytes through the page that a
//! domain shares with the store, and [`Daemon`](daemon::Daemon) does that for all domains.
//!
//! What it is built on:
//!
//! - The [`tree`] is persistent: a copy takes no time, so a [`transaction`] is a copy of it.
//! - Every request sees the tree through a [`view`], which knows who asks, and either changes
//!   nothing or says what it changed. Accounts, transactions and watches follow from the changes.
//! - Clients are hostile. What one can have the server keep is bounded by a [`quota`], how long it
//!   can have it work by the length of a message and of what it may own. Each has its turn, and one
//!   that takes much of the server's time waits while others want some.
//!
//! Where Xen's own two servers differ from each other or from the documentation, errors are those of
//! xenstored in C. It is stricter than that, or less strict, in these points:
//!
//! - A transaction sees the store as it was at its start, and fails only for changes of what it
//!   looked at; that a node has another child is a change only for who listed its children.
//! - A change of a node's value is told to those who can read the node. To be able to list its
//!   parent is enough to hear of its creation and removal.
//! - A watch whose events are not taken falls back to an event that names its own path; none is lost.
//! - Numbers are decimal and within their range, or `EINVAL`.
//! - Dom0 is not hindered by the quota of a guest, nor by a guest that writes where it reads.
#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod client;
pub mod daemon;
pub mod path;
pub mod permissions;
pub mod quota;
pub mod ring;
pub mod server;
pub mod transaction;
pub mod tree;
pub mod view;
pub mod watch;
pub mod wire;
