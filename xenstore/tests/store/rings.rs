//! Domains on their pages, some of them hostile.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::rc::Rc;
use std::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::*;
use hypercall_abi::types::{Domid, Port};
use proptest::collection::vec;
use proptest::prelude::*;
use split_drivers::SharedMemory;
use xenstore::client::{Client, TransactionId};
use xenstore::daemon::{Daemon, Host};
use xenstore::ring::{Backend, Failure, Frontend};
use xenstore::server::ClientId;
use xenstore::wire::{self, Kind};

const NONE: TransactionId = TransactionId::NONE;
const REQ_PROD: usize = offset_of!(XenstoreDomainInterface, req_prod);
const REQ_CONS: usize = offset_of!(XenstoreDomainInterface, req_cons);
const RSP_CONS: usize = offset_of!(XenstoreDomainInterface, rsp_cons);
const RSP_PROD: usize = offset_of!(XenstoreDomainInterface, rsp_prod);
const CONNECTION: usize = offset_of!(XenstoreDomainInterface, connection);
const ERROR: usize = offset_of!(XenstoreDomainInterface, error);

/// Memory that two ends share.
#[derive(Clone)]
struct Page(Rc<RefCell<Vec<u8>>>);

/// A page whose domain reads as fast as the store writes.
struct Drain(Page);

impl SharedMemory for Drain {
    fn size(&self) -> usize {
        self.0.size()
    }

    fn load_index(&self, offset: usize) -> u32 {
        let read_up_to = if offset == RSP_CONS { RSP_PROD } else { offset };
        self.0.load_index(read_up_to)
    }

    fn store_index(&self, offset: usize, value: u32) {
        self.0.store_index(offset, value);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        self.0.read(offset, bytes);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.write(offset, bytes);
    }
}

impl Page {
    fn new() -> Self {
        Self(Rc::new(RefCell::new(vec![0xa5; 4096])))
    }
}

impl SharedMemory for Page {
    fn size(&self) -> usize {
        4096
    }

    fn load_index(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn store_index(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.0.borrow()[offset..offset + bytes.len()]);
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.0.borrow_mut()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }
}

#[derive(Default)]
struct Machine {
    pages: BTreeMap<Domid, Page>,
    mapped: Vec<Domid>,
    notified: Vec<Domid>,
    now: Duration,
}

impl Host for Machine {
    type Page = Page;

    fn map(&mut self, domain: Domid, gfn: u64, _: Port) -> Result<Page, Errno> {
        if gfn != 1 {
            return Err(Errno::EINVAL);
        }
        self.mapped.push(domain);
        Ok(self.pages.entry(domain).or_insert_with(Page::new).clone())
    }

    fn unmap(&mut self, domain: Domid, _: Page) {
        self.mapped.retain(|other| *other != domain);
    }

    fn notify(&mut self, domain: Domid) {
        self.notified.push(domain);
    }

    fn print(&mut self, _: &str) {}

    fn now(&self) -> Duration {
        self.now
    }
}

struct Guest {
    domain: Domid,
    page: Page,
    front: Frontend<Page>,
    client: Client,
}

struct System {
    daemon: Daemon<Page>,
    machine: Machine,
    dom0: ClientId,
}

impl System {
    fn new() -> Self {
        let mut daemon = Daemon::new();
        let dom0 = daemon.server().connect();
        Self {
            daemon,
            machine: Machine::default(),
            dom0,
        }
    }

    fn poll(&mut self, budget: u64) -> bool {
        self.daemon.poll(&mut self.machine, budget)
    }

    fn dom0(&mut self, kind: Kind, payload: &str) -> Vec<u8> {
        let request = wire::encode(kind, 1, 0, payload.as_bytes());
        self.daemon.server().receive(self.dom0, &request).unwrap();
        while self.poll(1000) {}
        let server = self.daemon.server();
        let mut output = Vec::new();
        while !server.output(self.dom0).is_empty() {
            let bytes = server.output(self.dom0).to_vec();
            server.sent(self.dom0, bytes.len());
            output.extend(bytes);
        }
        output
    }

    fn guest(&mut self, domain: u16) -> Guest {
        self.dom0(Kind::Mkdir, &format!("/local/domain/{domain}\0"));
        let owned = format!("/local/domain/{domain}\0n{domain}\0");
        self.dom0(Kind::SetPermissions, &owned);
        self.dom0(Kind::Introduce, &format!("{domain}\x001\x001\0"));
        let domain = Domid(domain);
        let page = self.machine.pages[&domain].clone();
        Guest {
            domain,
            front: Frontend::attach(page.clone()),
            page,
            client: Client::new(),
        }
    }

    /// A guest exchanges what it can with the store.
    fn turn(&mut self, guest: &mut Guest) -> Result<(), Failure> {
        if guest.front.exchange(&mut guest.client)? {
            self.daemon.signal(guest.domain);
        }
        Ok(())
    }

    /// A guest's request and its reply.
    fn ask(&mut self, guest: &mut Guest, kind: Kind, payload: &[u8]) -> Result<Vec<u8>, Errno> {
        let request = guest.client.request(kind, NONE, &[payload]).unwrap();
        for _ in 0..100 {
            self.turn(guest).unwrap();
            while self.poll(1000) {}
            self.turn(guest).unwrap();
            if let Some(reply) = guest.client.reply(request) {
                return reply;
            }
        }
        panic!("no reply to {kind:?}");
    }
}

fn ok() -> Result<Vec<u8>, Errno> {
    Ok(b"OK\0".to_vec())
}

#[test]
fn messages_larger_than_the_ring_pass_through_it() {
    let mut system = System::new();
    let mut five = system.guest(5);
    for size in [0, 1, 1008, 2040, 2048] {
        let value: Vec<u8> = (0..size).map(|byte| byte as u8).collect();
        let payload = [b"a\0", &value[..]].concat();
        assert_eq!(system.ask(&mut five, Kind::Write, &payload), ok());
        assert_eq!(system.ask(&mut five, Kind::Read, b"a\0"), Ok(value));
    }
    assert!(system.machine.notified.contains(&Domid(5)));
}

#[test]
fn a_page_that_cannot_be_mapped_introduces_nobody() {
    let mut system = System::new();
    let reply = system.dom0(Kind::Introduce, "5\x002\x001\0");
    assert!(reply.ends_with(b"EINVAL\0"));
    assert!(
        system
            .dom0(Kind::IsDomainIntroduced, "5\0")
            .ends_with(b"F\0")
    );
}

#[test]
fn release_unmaps_the_page_and_a_new_domain_begins_there() {
    let mut system = System::new();
    let mut five = system.guest(5);
    assert_eq!(system.ask(&mut five, Kind::Write, b"a\0x"), ok());
    system.dom0(Kind::Release, "5\0");
    assert_eq!(system.machine.mapped, []);
    system.daemon.signal(Domid(5));
    while system.poll(1000) {}
    let mut five = system.guest(5);
    assert_eq!(system.machine.mapped, [Domid(5)]);
    assert_eq!(
        system.ask(&mut five, Kind::Read, b"a\0"),
        Err(Errno::ENOENT)
    );
    system
        .daemon
        .domain_destroyed(&mut system.machine, Domid(5));
    assert_eq!(system.machine.mapped, []);
}

#[test]
fn a_domain_introduced_again_has_its_page_mapped_once() {
    let mut system = System::new();
    system.guest(5);
    let mut five = system.guest(5);
    assert_eq!(system.machine.mapped, [Domid(5)]);
    assert_eq!(system.ask(&mut five, Kind::Write, b"a\0x"), ok());
}

#[test]
fn a_message_may_come_byte_by_byte() {
    let mut system = System::new();
    let five = system.guest(5);
    let request = wire::encode(Kind::Write, 3, 0, b"a\0x");
    for (byte, number) in request.iter().zip(0..) {
        assert!(!system.poll(1000));
        five.page.write(number as usize, &[*byte]);
        five.page.store_index(REQ_PROD, number + 1);
        system.daemon.signal(Domid(5));
    }
    while system.poll(1000) {}
    let mut reply = [0; 19];
    five.page.read(XENSTORE_RING_SIZE, &mut reply);
    assert_eq!(reply[..], wire::encode(Kind::Write, 3, 0, b"OK\0"));
    assert_eq!(five.page.load_index(REQ_CONS), request.len() as u32);
}

/// What a guest does to its page, and the error that it finds there.
#[track_caller]
fn breaks_the_rules(mischief: impl Fn(&Page), error: u32) {
    let mut system = System::new();
    let (mut five, mut six) = (system.guest(5), system.guest(6));
    assert_eq!(system.ask(&mut five, Kind::Watch, b"a\0t\0"), ok());
    while five.client.event().is_some() {}
    mischief(&five.page);
    system.daemon.signal(Domid(5));
    while system.poll(1000) {}
    assert_eq!(five.page.load_index(ERROR), error);
    let mut client = Client::new();
    assert_eq!(five.front.exchange(&mut client), Err(Failure(error)));

    // It is not listened to, and its watches are gone; others are served.
    system.dom0(Kind::Write, "/local/domain/5/a\0");
    let before = five.page.0.borrow().clone();
    system.daemon.signal(Domid(5));
    while system.poll(1000) {}
    assert!(*five.page.0.borrow() == before);
    assert_eq!(system.ask(&mut six, Kind::Write, b"a\0"), ok());
    system.daemon.server().check().unwrap();

    let used = system.dom0(Kind::Control, "quota\x005\0");
    let used = String::from_utf8_lossy(&used);
    assert!(used.contains("watches         :        0"), "{used}");

    // It may begin anew.
    assert!(five.front.reconnect());
    five.client = Client::new();
    system.daemon.signal(Domid(5));
    while system.poll(1000) {}
    assert_eq!(five.page.load_index(CONNECTION), XENSTORE_CONNECTED);
    assert_eq!(five.page.load_index(ERROR), XENSTORE_ERROR_NONE);
    assert_eq!(system.ask(&mut five, Kind::Write, b"a\0"), ok());
    assert_eq!(five.client.event(), None);
}

#[test]
fn indices_out_of_range_end_the_connection() {
    for excess in [1025, 0x8000_0000, u32::MAX] {
        breaks_the_rules(
            |page| {
                let index = page.load_index(REQ_CONS);
                page.store_index(REQ_PROD, index.wrapping_add(excess));
            },
            XENSTORE_ERROR_RINGIDX,
        );
        breaks_the_rules(
            |page| {
                let index = page.load_index(RSP_CONS);
                page.store_index(RSP_CONS, index.wrapping_sub(excess));
            },
            XENSTORE_ERROR_RINGIDX,
        );
    }
}

#[test]
fn too_long_a_message_ends_the_connection() {
    for length in [XENSTORE_PAYLOAD_MAX as u32 + 1, u32::MAX] {
        breaks_the_rules(
            |page| {
                let mut header = wire::encode(Kind::Read, 0, 0, b"");
                header[12..].copy_from_slice(&length.to_le_bytes());
                let index = page.load_index(REQ_PROD);
                for (byte, place) in header.iter().zip(index..) {
                    page.write(place as usize % XENSTORE_RING_SIZE, &[*byte]);
                }
                page.store_index(REQ_PROD, index + 16);
            },
            XENSTORE_ERROR_PROTO,
        );
    }
}

#[test]
fn reconnecting_drops_what_was_under_way() {
    let mut system = System::new();
    let mut five = system.guest(5);
    assert_eq!(system.ask(&mut five, Kind::Watch, b"a\0t\0"), ok());
    assert_eq!(
        system.ask(&mut five, Kind::TransactionStart, b"\0"),
        Ok(b"1\0".to_vec())
    );
    let half = &wire::encode(Kind::Read, 0, 0, b"a\0")[..10];
    let index = five.page.load_index(REQ_PROD);
    five.page.write(index as usize, half);
    five.page.store_index(REQ_PROD, index + 10);
    system.daemon.signal(Domid(5));
    while system.poll(1000) {}

    assert!(five.front.reconnect());
    five.client = Client::new();
    assert_eq!(five.front.exchange(&mut five.client), Ok(false));
    system.daemon.signal(Domid(5));
    while system.poll(1000) {}
    assert_eq!(five.page.load_index(REQ_PROD), 0);
    assert_eq!(system.ask(&mut five, Kind::Write, b"a\0"), ok());
    assert_eq!(five.client.event(), None);
    let used = system.dom0(Kind::Control, "quota\x005\0");
    let used = String::from_utf8_lossy(&used);
    assert!(used.contains("watches         :        0"), "{used}");
    assert!(used.contains("transactions    :        0"), "{used}");
}

#[test]
fn what_is_not_offered_does_not_work() {
    let mut system = System::new();
    system.dom0(Kind::SetFeature, "5\x000\0");
    let mut five = system.guest(5);
    assert!(!five.front.reconnect());
    five.page.store_index(CONNECTION, XENSTORE_RECONNECT);
    assert_eq!(system.ask(&mut five, Kind::Write, b"a\0"), ok());
    five.page
        .store_index(REQ_PROD, five.page.load_index(REQ_CONS) + 1025);
    system.daemon.signal(Domid(5));
    while system.poll(1000) {}
    assert_eq!(five.page.load_index(ERROR), XENSTORE_ERROR_NONE);
}

#[test]
fn who_does_not_read_replies_has_its_requests_wait() {
    let mut system = System::new();
    let (five, mut six) = (system.guest(5), system.guest(6));
    assert_eq!(
        system.ask(&mut six, Kind::Write, &[b"a\0", &[7; 2000][..]].concat()),
        ok()
    );
    assert_eq!(system.ask(&mut six, Kind::SetPermissions, b"a\0r6\0"), ok());

    // As many requests as fit, again and again, each with a long reply.
    let mut client = Client::new();
    let mut front = five.front;
    let path = "/local/domain/6/a";
    let requests: Vec<_> = (0..500).map(|_| client.read(NONE, path).unwrap()).collect();
    for _ in 0..100 {
        // The requests go out, and nothing comes in.
        let ring = five
            .page
            .load_index(REQ_PROD)
            .wrapping_sub(five.page.load_index(REQ_CONS));
        let room = (XENSTORE_RING_SIZE - ring as usize).min(client.output().len());
        for (byte, place) in client.output()[..room]
            .to_vec()
            .iter()
            .zip(five.page.load_index(REQ_PROD)..)
        {
            five.page
                .write(place as usize % XENSTORE_RING_SIZE, &[*byte]);
        }
        five.page
            .store_index(REQ_PROD, five.page.load_index(REQ_PROD) + room as u32);
        client.sent(room);
        system.daemon.signal(Domid(5));
        while system.poll(1000) {}
        assert_eq!(system.ask(&mut six, Kind::Write, b"b\0"), ok());
    }
    let used = system.dom0(Kind::Control, "quota\x005\0");
    assert!(String::from_utf8_lossy(&used).contains("outstanding     :       20"));
    assert!(!client.output().is_empty());

    // Once it reads, all is answered.
    for _ in 0..2000 {
        if front.exchange(&mut client).unwrap() {
            system.daemon.signal(Domid(5));
        }
        while system.poll(1000) {}
    }
    for request in requests {
        assert_eq!(client.reply(request), Some(Ok(vec![7; 2000])));
    }
}

#[test]
fn a_flood_does_not_delay_the_others() {
    let mut system = System::new();
    let mut floods: Vec<_> = (1..=20).map(|domain| system.guest(domain)).collect();
    let mut victim = system.guest(99);
    for flood in &mut floods {
        for _ in 0..100 {
            flood.client.write(NONE, "a", b"x").unwrap();
        }
        system.turn(flood).unwrap();
    }
    let request = victim.client.write(NONE, "a", b"x").unwrap();
    system.turn(&mut victim).unwrap();
    // One request of each comes before, and costs a handful.
    assert!(system.poll(21 * 12));
    system.turn(&mut victim).unwrap();
    assert_eq!(victim.client.reply(request), Some(ok()));
}

#[test]
fn who_reads_as_fast_as_the_store_writes_does_not_keep_it_for_ever() {
    let mut system = System::new();
    let client = system.dom0;
    let request = wire::encode(Kind::Read, 0, 0, b"/absent\0");
    let page = Page::new();
    let mut ring = Backend::connect(Drain(page.clone()), 0);
    for _ in 0..200 {
        let server = system.daemon.server();
        assert_eq!(server.receive(client, &request), Ok(request.len()));
        system.poll(1);
    }
    let server = system.daemon.server();
    assert!(ring.exchange(server, client));
    assert_eq!(page.load_index(RSP_PROD), XENSTORE_RING_SIZE as u32);
    assert!(!server.output(client).is_empty());
}

#[test]
fn a_poll_does_a_bounded_amount() {
    let mut system = System::new();
    let mut five = system.guest(5);
    for _ in 0..40 {
        five.client.write(NONE, "a", b"x").unwrap();
    }
    system.turn(&mut five).unwrap();
    let before = system.daemon.server().work();
    assert!(system.poll(1));
    let first = system.daemon.server().work() - before;
    assert!((1..20).contains(&first), "{first}");
    assert!(system.poll(50));
    let work = system.daemon.server().work() - before;
    assert!((50..90).contains(&work), "{work}");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_a_domain_writes_to_its_page_hurts_itself_alone(
        strokes in vec((0..519_usize, any::<u32>(), any::<bool>()), 1..200),
    ) {
        let mut system = System::new();
        let (five, mut six) = (system.guest(5), system.guest(6));
        for (word, value, index) in strokes {
            // Mostly plausible: small steps of the indices, small numbers in the ring.
            let value = if index { value % 40 } else { value };
            match word {
                0..512 if index => five.page.store_index(word * 4 % 128, value),
                0..512 => {
                    let produced = five.page.load_index(REQ_PROD);
                    five.page.store_index(REQ_PROD, produced.wrapping_add(value % 64));
                }
                _ => five.page.store_index(word * 4, value),
            }
            system.daemon.signal(Domid(5));
            system.poll(20);
        }
        prop_assert_eq!(system.ask(&mut six, Kind::Write, b"a\0x"), ok());
        prop_assert_eq!(system.daemon.server().check(), Ok(()));
    }
}
