//! The server and the toolstack together, against a model of the hypervisor and with a real client.

mod consoles;
mod disks;
mod domains;
mod ends;
mod network;
mod own_address;
mod random;
mod remote;
mod store;
mod trace;
mod uploads;
mod volumes;
mod wishes;

use super::*;
use crate::fake::Fake;
use crate::net::addressing::Addressing;
use control::{
    Action, CloseReason, DomainConfig, DomainRef, Image, ImageHash, OnEvent, ShutdownReason, Stop,
    Uuid,
};
use hypercall_abi::io::console::XenconsInterface;
use hypercall_abi::types::{Domid, Port};
use hypercall_abi::xen::{StartInfo, StartInfoConsoleDomU};
use proptest::prelude::*;
use pv_image::fixture::Kernel;
use std::collections::VecDeque;
use std::mem::offset_of;
use zerocopy::FromBytes;

/// A server with its toolstack, and a client on the other end of the stream.
struct Host {
    server: Server,
    toolstack: Toolstack<Fake>,
    client: Session,
    events: VecDeque<Event>,
    /// A channel whose messages the client does not read.
    deaf: Option<u32>,
    /// The bytes of them.
    unread: usize,
}

impl Host {
    fn new() -> Self {
        Self::with(Fake::new(20_000))
    }

    fn with(xen: Fake) -> Self {
        Self::with_address(xen, Addressing::None)
    }

    fn with_address(xen: Fake, addressing: Addressing) -> Self {
        let mut host = Self {
            server: Server::new(1),
            toolstack: Toolstack::new(xen, 1 << 20, addressing),
            client: Session::client(),
            events: VecDeque::new(),
            deaf: None,
            unread: 0,
        };
        host.client.sync(2);
        host.pump();
        assert!(host.client.is_synced());
        host
    }

    fn xen(&mut self) -> &mut Fake {
        self.toolstack.xen()
    }

    fn pump(&mut self) {
        loop {
            while self.toolstack.serve_store()
                | self.toolstack.serve_disks()
                | self.toolstack.serve_network()
            {}
            self.server.advance(&mut self.toolstack);
            let to_client = self.server.take_output(&mut self.toolstack);
            self.client.receive(&to_client);
            while let Some(event) = self.client.next_event() {
                match &event {
                    Event::Message { channel, payload } if Some(*channel) == self.deaf => {
                        self.unread += payload.len();
                    }
                    Event::Message { channel, payload } => {
                        self.client.consumed(*channel, payload.len());
                    }
                    _ => {}
                }
                self.events.push_back(event);
            }
            let to_server = self.client.take_output();
            self.server.receive(&mut self.toolstack, &to_server);
            let quiet = to_client.is_empty() && to_server.is_empty();
            if quiet && !self.toolstack.is_network_ready() {
                return;
            }
        }
    }

    /// The client reads what it left on a channel.
    fn client_reads(&mut self, channel: u32) {
        self.client
            .consumed(channel, core::mem::take(&mut self.unread));
        self.pump();
    }

    fn store_is_consistent(&mut self) {
        let (store, _) = self.toolstack.store();
        store.check().unwrap();
    }

    fn open(&mut self) -> u32 {
        self.client.open().unwrap()
    }

    fn send(&mut self, channel: u32, request: Request) {
        self.client.send(channel, &request.encode()).unwrap();
        self.pump();
    }

    /// The replies that have come on a channel.
    fn replies(&mut self, channel: u32) -> Vec<Reply> {
        self.pump();
        let mut replies = Vec::new();
        self.events.retain(|event| match event {
            Event::Message {
                channel: c,
                payload,
            } if *c == channel => {
                replies.push(Reply::decode(payload).unwrap());
                false
            }
            _ => true,
        });
        replies
    }

    fn ask(&mut self, request: Request) -> Reply {
        let channel = self.open();
        self.send(channel, request);
        let mut replies = self.replies(channel);
        self.client.close(channel, CloseReason::Done);
        self.pump();
        assert_eq!(replies.len(), 1, "{replies:?}");
        replies.remove(0)
    }

    fn error(&mut self, request: Request) -> Error {
        match self.ask(request) {
            Reply::Error(error) => error,
            other => panic!("{other:?}"),
        }
    }

    fn upload(&mut self, bytes: &[u8]) -> Image {
        let hash = ImageHash::of(bytes);
        let size = bytes.len() as u64;
        let channel = self.open();
        self.send(channel, Request::UploadImage { hash, size });
        for chunk in bytes.chunks(1000) {
            self.send(channel, Request::ImageChunk(chunk.to_vec()));
        }
        assert_eq!(self.replies(channel), [Reply::Done, Reply::Done]);
        self.client.close(channel, CloseReason::Done);
        Image {
            hash,
            size,
            path: "kernel".into(),
        }
    }

    fn config(&mut self, name: &str) -> DomainConfig {
        let kernel = self.upload(&Kernel::small(&[0x90; 0x2000], 0).write());
        let mut uuid = [0; 16];
        uuid[..name.len()].copy_from_slice(name.as_bytes());
        DomainConfig {
            name: name.into(),
            uuid: Uuid(uuid),
            memory_kib: 16 << 10,
            max_memory_kib: 16 << 10,
            vcpus: 1,
            max_vcpus: 1,
            max_event_channels: DomainConfig::EVENT_CHANNELS,
            kernel,
            ramdisk: None,
            cmdline: String::new(),
            scheduling: Default::default(),
            disks: Vec::new(),
            vifs: Vec::new(),
            on: OnEvent::default(),
        }
    }

    fn create(&mut self, config: DomainConfig) -> u16 {
        let config = Box::new(config);
        match self.ask(Request::CreateDomain {
            config,
            paused: false,
        }) {
            Reply::Domid(domid) => domid,
            other => panic!("{other:?}"),
        }
    }

    fn names(&mut self) -> Vec<(u16, String)> {
        match self.ask(Request::ListDomains(None)) {
            Reply::Domains {
                domains,
                more: false,
            } => domains.into_iter().map(|d| (d.domid, d.name)).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A node's value, if it is there.
    fn node(&mut self, path: &str) -> Option<String> {
        let (store, xen) = self.toolstack.store();
        store.nodes(xen).read(path).unwrap()
    }

    fn store_permissions(&mut self, path: &str, permissions: &[&str]) {
        let (store, xen) = self.toolstack.store();
        store.nodes(xen).set_permissions(path, permissions).unwrap();
    }

    /// All nodes' paths.
    fn tree(&mut self) -> Vec<String> {
        let (store, xen) = self.toolstack.store();
        let mut paths = Vec::new();
        let mut next = Vec::from([String::new()]);
        while let Some(path) = next.pop() {
            let list = if path.is_empty() { "/" } else { &path };
            let names = store.nodes(xen).directory(list).unwrap();
            next.extend(names.iter().map(|name| format!("{path}/{name}")));
            paths.push(path);
        }
        paths.sort();
        paths
    }

    fn start_info(&mut self, domid: u16) -> StartInfo {
        let xen = self.xen();
        let at = xen.domains[&domid].context.unwrap().user_regs.rsi;
        let bytes = xen.peek(Domid(domid), at, size_of::<StartInfo>());
        StartInfo::read_from_bytes(&bytes).unwrap()
    }

    /// Our port that is bound to a guest's.
    fn our_port(&mut self, domid: u16, port: Port) -> u32 {
        let bound = |(_, found): &(&u32, &(u16, u32))| **found == (domid, port.0);
        *self.xen().ports.iter().find(bound).unwrap().0
    }

    /// The guest's console page and our port for it.
    fn console(&mut self, domid: u16) -> (u64, u32) {
        let info = self.start_info(domid);
        let console: StartInfoConsoleDomU = info.console.get();
        (console.mfn.0, self.our_port(domid, console.evtchn))
    }

    /// The guest prints.
    fn guest_prints(&mut self, domid: u16, text: &[u8]) {
        let (mfn, port) = self.console(domid);
        let xen = self.xen();
        let at = offset_of!(XenconsInterface, out_prod);
        let prod = u32::from_le_bytes(xen.bytes(mfn)[at..at + 4].try_into().unwrap());
        for (n, byte) in text.iter().enumerate() {
            let place = (prod as usize + n) % 2048;
            xen.poke(mfn, offset_of!(XenconsInterface, out) + place, &[*byte]);
        }
        xen.poke(mfn, at, &(prod + text.len() as u32).to_le_bytes());
        self.toolstack.on_port(Port(port));
        self.pump();
    }

    fn guest_stops(&mut self, domid: u16, reason: u8) {
        self.xen().domains.get_mut(&domid).unwrap().shutdown = Some(reason);
        self.toolstack.on_domain_exception();
        self.pump();
    }
}

fn stop(domid: u16, how: Stop) -> Request {
    Request::Stop {
        domain: DomainRef::Id(domid),
        how,
        patience_ms: 1000,
    }
}

fn output(replies: &[Reply]) -> String {
    let bytes: Vec<u8> = replies
        .iter()
        .flat_map(|reply| match reply {
            Reply::ConsoleOutput(bytes) => bytes.clone(),
            _ => Vec::new(),
        })
        .collect();
    String::from_utf8(bytes).unwrap()
}
