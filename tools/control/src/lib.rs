//! The protocol between xl and dom0's toolstack server.
//!
//! There is one byte stream between the host of QEMU and dom0 (a virtio console), and any number of
//! xl processes. So the protocol has three layers, each usable on both sides and none doing I/O:
//!
//! - [`frame`]: checksummed frames on a byte stream that may begin with stale or torn bytes.
//! - [`session`]: channels over frames, with credit per channel and direction, so that a reader
//!   that is slow stops its own channel only. xl opens a channel for each thing it does at once;
//!   dom0 accepts.
//! - [`message`]: what is said on a channel: [`Request`]s from xl, [`Reply`]s from dom0, one
//!   message in each data frame, encoded by postcard.
//!
//! Every length is bounded, and input that breaks the rules is an error, never a panic nor memory
//! without bound.
//!
//! A server is a loop around [`Session`]:
//!
//! ```
//! use control::{Event, Reply, Request, Session};
//!
//! fn on_input(session: &mut Session, bytes: &[u8]) {
//!     session.receive(bytes);
//!     while let Some(event) = session.next_event() {
//!         match event {
//!             Event::Message { channel, payload } => {
//!                 let reply = match Request::decode(&payload) {
//!                     Ok(Request::Hello) => Reply::Hello { server: "example".into() },
//!                     Ok(_) => Reply::Done,
//!                     Err(error) => Reply::Error(error),
//!                 };
//!                 session.consumed(channel, payload.len());
//!                 // An answer that finds no credit is kept and sent after Event::Writable.
//!                 let _ = session.send(channel, &reply.encode());
//!             }
//!             Event::Synced | Event::Opened { .. } | Event::Closed { .. } | Event::Writable { .. } => {}
//!         }
//!     }
//!     let _output: Vec<u8> = session.take_output();
//! }
//! # on_input(&mut Session::server(), b"stale bytes");
//! ```
//!
//! With the feature `std` come the host's pieces: the blocking `client`, the multiplexer `mux`, and
//! `hosts`, where running hosts keep their sockets.
#![forbid(unsafe_code)]
#![no_std]

extern crate alloc;
#[cfg(any(feature = "std", test))]
extern crate std;

pub mod block;
#[cfg(feature = "std")]
pub mod client;
pub mod domain;
pub mod error;
pub mod frame;
pub mod host;
#[cfg(feature = "std")]
pub mod hosts;
pub mod image;
pub mod message;
#[cfg(feature = "std")]
pub mod mux;
pub mod net;
pub mod scheduling;
pub mod session;
pub mod trace;
pub mod volume;

pub use block::{BlockReply, BlockRequest, DiskConfig};
pub use domain::{
    Action, DeviceUse, DomainConfig, DomainInfo, DomainRef, DomainState, OnEvent, ShutdownReason,
    Uuid,
};
pub use error::Error;
pub use host::{HostInfo, Usage};
pub use image::{Image, ImageHash, ImageHasher};
pub use message::{ConsoleEnd, HostAction, Reply, Request, Stop};
pub use net::{NetworkReply, NetworkRequest, OwnAddress, VifConfig};
pub use scheduling::{Scheduling, SchedulingReply, SchedulingRequest};
pub use session::{CloseReason, Event, SendError, Session};
pub use trace::{TraceReply, TraceRequest};
pub use volume::{VolumeReply, VolumeRequest};

/// The version of the messages. Both sides must have the same; a channel opened with another is
/// refused by [`CloseReason::Version`], which names the other side's. The layout of frames, and of
/// opening and closing, does not depend on it.
pub const PROTOCOL_VERSION: u16 = 12;
