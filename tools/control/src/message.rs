//! What is said on a channel.
//!
//! xl sends a [`Request`]; dom0 answers it with one [`Reply`] or a row of them, then takes the next
//! request of that channel. The exceptions: [`Request::ImageChunk`], [`VolumeRequest::Chunk`],
//! [`Request::ConsoleInput`] and [`Request::StoreInput`] are not answered one by one, and a console or the store, once attached,
//! keeps its channel until it ends.
//! Whatever fails is answered by [`Reply::Error`].

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::block::{BlockReply, BlockRequest};
use crate::domain::{DomainConfig, DomainInfo, DomainRef, ShutdownReason};
use crate::error::Error;
use crate::frame::MAX_PAYLOAD;
use crate::host::{HostInfo, Usage};
use crate::image::ImageHash;
use crate::net::{NetworkReply, NetworkRequest};
use crate::scheduling::{SchedulingReply, SchedulingRequest};
use crate::trace::{TraceReply, TraceRequest};
use crate::volume::{VolumeReply, VolumeRequest};

/// The most bytes in one [`Request::ImageChunk`], [`Request::ConsoleInput`],
/// [`Request::StoreInput`], [`Reply::ConsoleOutput`], [`Reply::StoreOutput`] or [`Reply::Text`]; with the rest of the message they fit a frame.
pub const MAX_CHUNK: usize = MAX_PAYLOAD - 64;
/// The most domains in one [`Reply::Domains`]; with names of full length they fit a frame.
pub const MAX_DOMAINS: usize = 64;

/// What xl asks of dom0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? Answer: [`Reply::Hello`].
    Hello,

    /// Is this image cached? Answer: [`Reply::ImageCached`].
    HasImage(ImageHash),
    /// Here comes an image of `size` bytes. Answer: [`Reply::Done`] when its chunks may come. When
    /// the last byte has come and the hash is right, [`Reply::Done`] again. An error at any time
    /// ends the upload; chunks still on their way are dropped. An image that is cached already may
    /// be uploaded again.
    UploadImage {
        /// The hash of all its bytes.
        hash: ImageHash,
        /// How many.
        size: u64,
    },
    /// The next bytes of the image, at most [`MAX_CHUNK`].
    ImageChunk(#[serde(with = "serde_bytes")] Vec<u8>),

    /// Build a domain. Answer: [`Reply::Domid`].
    CreateDomain {
        /// What to build.
        config: Box<DomainConfig>,
        /// Leave it paused.
        paused: bool,
    },
    /// All domains, or one. Answer: [`Reply::Domains`], repeated while `more` is set; ordered by
    /// domid.
    ListDomains(Option<DomainRef>),
    /// What a domain was created from. Answer: [`Reply::Config`].
    DomainConfig(DomainRef),
    /// Which id has it? Answer: [`Reply::Domid`]. Fails if there is no such domain, also for a
    /// number.
    Domid(DomainRef),
    /// Which name has it? Answer: [`Reply::Name`].
    DomainName(DomainRef),
    /// Give it another name. Answer: [`Reply::Done`].
    Rename {
        /// Which domain.
        domain: DomainRef,
        /// The new name.
        name: String,
    },
    /// Pause it. Pauses nest not: pausing a paused domain changes nothing. Answer: [`Reply::Done`].
    Pause(DomainRef),
    /// Let it run. Answer: [`Reply::Done`].
    Unpause(DomainRef),
    /// Ask it to shut down or to reboot. Answer: [`Reply::Done`] when it has acknowledged, not when
    /// it is down; [`Error::NotAcknowledged`] when it has not in the time given.
    Stop {
        /// Which domain.
        domain: DomainRef,
        /// What it is asked to do.
        how: Stop,
        /// How long it may take to acknowledge, in milliseconds.
        patience_ms: u32,
    },
    /// Press a magic system request key. Answer: [`Reply::Done`].
    Sysrq {
        /// Which domain.
        domain: DomainRef,
        /// The key, a graphic ASCII character.
        key: u8,
    },
    /// Send a vCPU something like an interrupt. Answer: [`Reply::Done`].
    Trigger {
        /// Which domain.
        domain: DomainRef,
        /// One of `XEN_DOMCTL_SENDTRIGGER_*`.
        trigger: u32,
        /// Which vCPU.
        vcpu: u32,
    },
    /// Ask it to have so much memory, and let it have no more. Answer: [`Reply::Done`] when it was
    /// asked.
    SetMemoryTarget {
        /// Which domain.
        domain: DomainRef,
        /// How much, in KiB.
        kib: u64,
    },
    /// Set how much memory it may have. Answer: [`Reply::Done`].
    SetMaxMemory {
        /// Which domain.
        domain: DomainRef,
        /// How much, in KiB.
        kib: u64,
    },
    /// Ask it to have its first so many vCPUs online, and the others not. Answer: [`Reply::Done`]
    /// when it was asked.
    SetVcpus {
        /// Which domain.
        domain: DomainRef,
        /// How many.
        online: u32,
    },
    /// Change what it will be built from when it reboots. It keeps its name and its UUID. Answer:
    /// [`Reply::Done`].
    UpdateConfig {
        /// Which domain.
        domain: DomainRef,
        /// What it will be built from.
        config: Box<DomainConfig>,
    },
    /// End it at once. Answer: [`Reply::Done`] when it is gone.
    Destroy(DomainRef),
    /// Tell me when it has shut down or is gone. Answer: [`Reply::ShutDown`], at once if it is down
    /// already.
    WaitShutdown(DomainRef),

    /// Show me its console. Answer: [`Reply::Domid`], then [`Reply::ConsoleOutput`] as it comes, at
    /// last [`Reply::ConsoleEnd`]. The channel's close detaches.
    AttachConsole {
        /// Which domain.
        domain: DomainRef,
        /// First what it printed before, as far as it is kept.
        scrollback: bool,
    },
    /// Typed bytes for the attached console, at most [`MAX_CHUNK`].
    ConsoleInput(#[serde(with = "serde_bytes")] Vec<u8>),

    /// Let me speak with the store, as a part of dom0. Answer: [`Reply::Done`], then
    /// [`Reply::StoreOutput`] as it comes. The channel's close ends the connection.
    AttachStore,
    /// Bytes for the store, in the wire format of Xen's `io/xs_wire.h`, at most [`MAX_CHUNK`]; a
    /// message may go over several, and several may be in one.
    StoreInput(#[serde(with = "serde_bytes")] Vec<u8>),

    /// All about the host. Answer: [`Reply::HostInfo`].
    HostInfo,
    /// What the host's CPUs were used for. Answer: [`Reply::Usage`], then [`Reply::Domains`] as to
    /// [`Request::ListDomains`], of the same moment.
    Usage,
    /// The hypervisor's log. Answer: [`Reply::Text`], repeated while `more` is set.
    Dmesg {
        /// Empty the log after reading.
        clear: bool,
    },
    /// Stop the host. Answer: [`Reply::Done`], then the host goes down with all its domains.
    StopHost(HostAction),

    /// About scheduling. Answer: [`Reply::Scheduling`] or [`Reply::Done`], as the request says.
    Scheduling(SchedulingRequest),
    /// About disks. Answer: [`Reply::Block`] or [`Reply::Done`], as the request says.
    Block(BlockRequest),
    /// About what is on volumes. Answer: [`Reply::Volume`] and [`Reply::Done`], as the request says.
    Volume(VolumeRequest),
    /// About network interfaces. Answer: [`Reply::Network`] or [`Reply::Done`], as the request says.
    Network(NetworkRequest),
    /// About the hypervisor's trace. Answer: [`Reply::Done`] and [`Reply::Trace`], as the request says.
    Trace(TraceRequest),
}

/// What a domain is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Stop {
    /// Shut down.
    PowerOff,
    /// Shut down, to be started again.
    Reboot,
}

impl Stop {
    /// The word for it in `control/shutdown`.
    pub fn name(self) -> &'static str {
        match self {
            Stop::PowerOff => "poweroff",
            Stop::Reboot => "reboot",
        }
    }
}

/// How the host stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostAction {
    /// Switch it off.
    PowerOff,
    /// Start it again.
    Reboot,
}

/// What dom0 answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// It is not done, and why.
    Error(Error),
    /// I am here.
    Hello {
        /// Name and version of the server, for showing.
        server: String,
    },
    /// Whether the image is cached.
    ImageCached(bool),
    /// The domain's id.
    Domid(u16),
    /// The domain's name.
    Name(String),
    /// Domains, at most [`MAX_DOMAINS`].
    Domains {
        /// Ordered by domid.
        domains: Vec<DomainInfo>,
        /// Another such reply follows.
        more: bool,
    },
    /// What a domain was created from.
    Config {
        /// Its id.
        domid: u16,
        /// None for dom0, which the hypervisor built.
        config: Option<Box<DomainConfig>>,
    },
    /// The domain has shut down for that reason, or it was destroyed without having shut down.
    ShutDown(Option<ShutdownReason>),
    /// Bytes that the domain printed, at most [`MAX_CHUNK`].
    ConsoleOutput(#[serde(with = "serde_bytes")] Vec<u8>),
    /// The console has ended.
    ConsoleEnd(ConsoleEnd),
    /// Bytes from the store, at most [`MAX_CHUNK`].
    StoreOutput(#[serde(with = "serde_bytes")] Vec<u8>),
    /// All about the host.
    HostInfo(Box<HostInfo>),
    /// How the host's CPUs were used.
    Usage(Usage),
    /// A piece of a log.
    Text {
        /// At most [`MAX_CHUNK`] bytes; not cut at characters.
        #[serde(with = "serde_bytes")]
        bytes: Vec<u8>,
        /// Another such reply follows.
        more: bool,
    },
    /// About scheduling.
    Scheduling(SchedulingReply),
    /// About disks.
    Block(BlockReply),
    /// Of what is on a volume.
    Volume(VolumeReply),
    /// About network interfaces.
    Network(NetworkReply),
    /// Of the hypervisor's trace.
    Trace(TraceReply),
}

/// Why a console ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleEnd {
    /// The domain is gone.
    Destroyed,
    /// The domain was restarted and has this id now.
    Restarted(u16),
}

impl Request {
    /// The message as the payload of a data frame.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads the payload of a data frame.
    ///
    /// # Errors
    /// [`Error::BadRequest`].
    pub fn decode(payload: &[u8]) -> Result<Request, Error> {
        decode(payload)
    }
}

impl Reply {
    /// The message as the payload of a data frame.
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads the payload of a data frame.
    ///
    /// # Errors
    /// [`Error::BadRequest`].
    pub fn decode(payload: &[u8]) -> Result<Reply, Error> {
        decode(payload)
    }
}

/// Encoding to a vector fails for no type of this module; were it to, the peer would answer the
/// empty payload with [`Error::BadRequest`].
fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    postcard::to_allocvec(message).unwrap_or_default()
}

fn decode<T: DeserializeOwned>(payload: &[u8]) -> Result<T, Error> {
    match postcard::take_from_bytes(payload) {
        Ok((message, [])) => Ok(message),
        Ok((_, rest)) => Err(Error::BadRequest(alloc::format!(
            "{} bytes behind the message",
            rest.len()
        ))),
        Err(error) => Err(Error::BadRequest(error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::vec;

    use proptest::prelude::*;

    use super::*;
    use crate::domain::{DeviceUse, DomainState, Uuid};

    fn longest_info() -> DomainInfo {
        DomainInfo {
            domid: u16::MAX,
            name: "n".repeat(DomainRef::MAX_NAME),
            uuid: Uuid([0xff; 16]),
            memory_kib: u64::MAX,
            max_memory_kib: u64::MAX,
            outstanding_kib: u64::MAX,
            vcpus: u32::MAX,
            max_vcpus: u32::MAX,
            cpu_time_ns: u64::MAX,
            upcalls: Some(u32::MAX),
            uptime_ms: u64::MAX,
            state: DomainState {
                shutdown: Some(ShutdownReason(255)),
                ..DomainState::default()
            },
            ssidref: u32::MAX,
            cpupool: u32::MAX,
            devices: DeviceUse {
                vifs: u32::MAX,
                sent: u64::MAX,
                received: u64::MAX,
                vbds: u32::MAX,
                held: u64::MAX,
                reads: u64::MAX,
                writes: u64::MAX,
                sectors_read: u64::MAX,
                sectors_written: u64::MAX,
            },
        }
    }

    #[test]
    fn messages_of_full_length_fit_a_frame() {
        let domains = vec![longest_info(); MAX_DOMAINS];
        assert!(
            Reply::Domains {
                domains,
                more: true
            }
            .encode()
            .len()
                <= MAX_PAYLOAD
        );
        let bytes = vec![0xff; MAX_CHUNK];
        assert!(Request::ImageChunk(bytes.clone()).encode().len() <= MAX_PAYLOAD);
        let usage = Usage {
            time_ns: u64::MAX,
            idle_ns: vec![u64::MAX; Usage::MAX_CPUS],
        };
        assert!(Reply::Usage(usage).encode().len() <= MAX_PAYLOAD);
        let records = TraceReply::Records {
            cpu: u32::MAX,
            bytes: bytes.clone(),
        };
        assert!(Reply::Trace(records).encode().len() <= MAX_PAYLOAD);
        assert!(Reply::Text { bytes, more: true }.encode().len() <= MAX_PAYLOAD);
    }

    #[test]
    fn requests_and_replies_come_back_as_they_were() {
        let request = Request::Rename {
            domain: DomainRef::Name("old".into()),
            name: "new".into(),
        };
        assert_eq!(Request::decode(&request.encode()), Ok(request));
        let reply = Reply::Domains {
            domains: vec![longest_info(); 3],
            more: false,
        };
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
        let reply = Reply::Error(Error::NameInUse {
            name: "a".into(),
            domid: 3,
        });
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }

    #[test]
    fn bytes_behind_a_message_are_an_error() {
        let mut payload = Request::Hello.encode();
        payload.push(0);
        assert!(matches!(
            Request::decode(&payload),
            Err(Error::BadRequest(_))
        ));
        assert!(matches!(Request::decode(&[]), Err(Error::BadRequest(_))));
    }

    #[test]
    fn a_word_of_digits_is_a_domid() {
        assert_eq!(DomainRef::parse("12"), DomainRef::Id(12));
        assert_eq!(DomainRef::parse("+12"), DomainRef::Name("+12".into()));
        assert_eq!(DomainRef::parse("70000"), DomainRef::Name("70000".into()));
        assert_eq!(DomainRef::parse("a1"), DomainRef::Name("a1".into()));
    }

    proptest! {
        #[test]
        fn arbitrary_payloads_are_messages_or_errors(
            payload in proptest::collection::vec(any::<u8>(), 0..512)
        ) {
            let _ = Request::decode(&payload);
            let _ = Reply::decode(&payload);
        }

        #[test]
        fn a_message_cut_short_is_an_error(cut in any::<proptest::sample::Index>()) {
            let payload = Reply::Domains { domains: vec![longest_info(); 3], more: false }.encode();
            let cut = cut.index(payload.len());
            prop_assert!(matches!(Reply::decode(&payload[..cut]), Err(Error::BadRequest(_))));
        }

        #[test]
        fn chunks_come_back_as_they_were(
            bytes in proptest::collection::vec(any::<u8>(), 0..1000)
        ) {
            let request = Request::ConsoleInput(bytes);
            prop_assert_eq!(Request::decode(&request.encode()), Ok(request));
        }
    }
}
