//! A guest that writes whatever it likes to the page that it shares with the store, beside one that does
//! not: the store stays consistent, and the other guest is served.
#![no_main]

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::mem::offset_of;
use std::rc::Rc;
use std::time::Duration;

use arbitrary::Arbitrary;
use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::{XENSTORE_RING_SIZE, XenstoreDomainInterface};
use hypercall_abi::types::{Domid, Port};
use libfuzzer_sys::fuzz_target;
use split_drivers::SharedMemory;
use xenstore::client::{Client, TransactionId};
use xenstore::daemon::{Daemon, Host};
use xenstore::ring::Frontend;
use xenstore::wire::{self, Kind};

const HOSTILE: Domid = Domid(5);
const HONEST: Domid = Domid(6);
const REQ_PROD: usize = offset_of!(XenstoreDomainInterface, req_prod);
const RSP_PROD: usize = offset_of!(XenstoreDomainInterface, rsp_prod);
const RSP_CONS: usize = offset_of!(XenstoreDomainInterface, rsp_cons);

/// What the hostile guest, or dom0, does next.
#[derive(Arbitrary, Debug)]
enum Stroke<'a> {
    /// Writes any word of the page.
    Word(u16, u32),
    /// Sends a request, if there is room.
    Request(u8, u8, &'a [u8]),
    /// Sends bytes.
    Bytes(&'a [u8]),
    /// Takes all replies.
    Take,
    /// Notifies the store, which serves for so long.
    Notify(u8),
    /// Time goes by.
    Wait(u16),
    /// Dom0 makes a request.
    Dom0(u8, &'a [u8]),
    /// The domain ends, and another of its number begins.
    Anew,
}

/// A page that two ends share.
#[derive(Clone)]
struct Page(Rc<RefCell<Vec<u8>>>);

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
    now: Duration,
}

impl Machine {
    fn page(&mut self, domain: Domid) -> Page {
        let new = || Page(Rc::new(RefCell::new(vec![0; 4096])));
        self.pages.entry(domain).or_insert_with(new).clone()
    }
}

impl Host for Machine {
    type Page = Page;

    fn map(&mut self, domain: Domid, _: u64, _: Port) -> Result<Page, Errno> {
        Ok(self.page(domain))
    }

    fn unmap(&mut self, _: Domid, _: Page) {}

    fn notify(&mut self, _: Domid) {}

    fn print(&mut self, _: &str) {}

    fn now(&self) -> Duration {
        self.now
    }
}

struct System {
    daemon: Daemon<Page>,
    machine: Machine,
    dom0: xenstore::server::ClientId,
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

    fn settle(&mut self) {
        for _ in 0..1000 {
            if !self.poll(1000) {
                break;
            }
        }
        self.machine.now += Duration::from_millis(50);
    }

    fn dom0(&mut self, kind: Kind, payload: &[u8]) {
        let request = wire::encode(kind, 1, 0, payload);
        _ = self.daemon.server().receive(self.dom0, &request);
        self.settle();
        let server = self.daemon.server();
        loop {
            match server.output(self.dom0).len() {
                0 => break,
                count => server.sent(self.dom0, count),
            }
        }
    }

    fn begin(&mut self, domain: Domid) {
        self.dom0(Kind::Mkdir, format!("/local/domain/{domain}\0").as_bytes());
        let owned = format!("/local/domain/{domain}\0n{domain}\0");
        self.dom0(Kind::SetPermissions, owned.as_bytes());
        self.dom0(Kind::Introduce, format!("{domain}\x001\x001\0").as_bytes());
    }

    fn strike(&mut self, stroke: &Stroke<'_>) {
        let page = self.machine.page(HOSTILE);
        match *stroke {
            Stroke::Word(word, value) => page.store_index(usize::from(word) % 519 * 4, value),
            Stroke::Request(kind, transaction, payload) => {
                let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
                let payload = &payload[..payload.len().min(900)];
                send(&page, &wire::encode(kind, 1, transaction.into(), payload));
            }
            Stroke::Bytes(bytes) => send(&page, &bytes[..bytes.len().min(1024)]),
            Stroke::Take => page.store_index(RSP_CONS, page.load_index(RSP_PROD)),
            Stroke::Notify(budget) => {
                self.daemon.signal(HOSTILE);
                self.poll(budget.into());
            }
            Stroke::Wait(ms) => self.machine.now += Duration::from_millis(ms.into()),
            Stroke::Dom0(kind, payload) => {
                let kind = Kind::ALL[usize::from(kind) % Kind::ALL.len()];
                // It may do what it likes to the store, but not end the other guest.
                if !matches!(kind, Kind::Release | Kind::Introduce | Kind::Control)
                    && !matches!(kind, Kind::Remove | Kind::SetPermissions | Kind::SetQuota)
                {
                    self.dom0(kind, &payload[..payload.len().min(4096)]);
                }
            }
            Stroke::Anew => {
                self.daemon.domain_destroyed(&mut self.machine, HOSTILE);
                self.begin(HOSTILE);
            }
        }
    }
}

fn send(page: &Page, bytes: &[u8]) {
    let index = page.load_index(REQ_PROD);
    for (byte, place) in bytes.iter().zip(index as usize..) {
        page.write(place % XENSTORE_RING_SIZE, &[*byte]);
    }
    page.store_index(REQ_PROD, index.wrapping_add(bytes.len() as u32));
}

fuzz_target!(|strokes: Vec<Stroke<'_>>| {
    let mut system = System::new();
    system.begin(HOSTILE);
    system.begin(HONEST);
    for stroke in &strokes {
        system.strike(stroke);
    }
    let (mut front, mut client) = (Frontend::attach(system.machine.page(HONEST)), Client::new());
    let request = client.write(TransactionId::NONE, "a", b"x").unwrap();
    for _ in 0..100 {
        front.exchange(&mut client).unwrap();
        system.daemon.signal(HONEST);
        system.settle();
        front.exchange(&mut client).unwrap();
        if let Some(reply) = client.reply(request) {
            assert_eq!(reply, Ok(b"OK\0".to_vec()));
            assert_eq!(system.daemon.server().check(), Ok(()));
            return;
        }
    }
    panic!("no reply to the other guest");
});
