//! A guest whose store is served by the daemon, or by nobody.

use std::collections::BTreeMap;
use std::mem::offset_of;
use std::pin::Pin;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::{Arc, atomic};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::XenstoreDomainInterface;
use hypercall_abi::types::{Domid, Port};
use pv_guest::executor::{Executor, JoinHandle};
use pv_guest::store::{Carrier, Client, Failure, Frontend, Store};
use split_drivers::SharedMemory;
use xenstore::daemon::{Daemon, Host};
use xenstore::server::{ClientId, PRECEDENCE};
use xenstore::wire::{self, Kind};

const FIVE: Domid = Domid(5);
pub const REQ_PROD: usize = offset_of!(XenstoreDomainInterface, req_prod);
pub const RSP_PROD: usize = offset_of!(XenstoreDomainInterface, rsp_prod);

/// Rounds after which what should happen is not going to.
const ROUNDS: usize = 10_000;

/// Memory that two ends share.
#[derive(Clone)]
pub struct Page(Arc<Vec<AtomicU32>>);

impl Page {
    pub fn new() -> Self {
        Self(Arc::new((0..1024).map(|_| AtomicU32::new(0)).collect()))
    }
}

impl SharedMemory for Page {
    fn size(&self) -> usize {
        4096
    }

    fn load_index(&self, offset: usize) -> u32 {
        self.0[offset / 4].load(Acquire)
    }

    fn store_index(&self, offset: usize, value: u32) {
        self.0[offset / 4].store(value, Release);
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        for (place, byte) in (offset..).zip(bytes) {
            *byte = self.0[place / 4].load(Relaxed).to_le_bytes()[place % 4];
        }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        for (place, byte) in (offset..).zip(bytes) {
            let mut word = self.0[place / 4].load(Relaxed).to_le_bytes();
            word[place % 4] = *byte;
            self.0[place / 4].store(u32::from_le_bytes(word), Relaxed);
        }
    }
}

/// The guest's end of its ring; the event channel is that somebody looks.
struct Ring {
    front: Frontend<Page>,
    reconnections: Arc<atomic::AtomicUsize>,
}

impl Carrier for Ring {
    fn exchange(&mut self, client: &mut Client) -> Result<bool, Failure> {
        self.front.exchange(client)
    }

    fn reconnect(&mut self) -> bool {
        let offered = self.front.reconnect();
        self.reconnections.fetch_add(usize::from(offered), Relaxed);
        offered
    }
}

/// A guest with tasks.
pub struct Guest {
    pub page: Page,
    pub store: Store,
    pub reconnections: Arc<atomic::AtomicUsize>,
    executor: Executor,
}

impl Guest {
    pub fn new(page: Page) -> Self {
        let reconnections = Arc::<atomic::AtomicUsize>::default();
        let ring = Ring {
            front: Frontend::attach(page.clone()),
            reconnections: reconnections.clone(),
        };
        Self {
            page,
            store: Store::over(Box::new(ring)),
            reconnections,
            executor: Executor::new((|_| (), 0)),
        }
    }

    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
        self.executor.spawn(future)
    }

    /// Lets tasks run until none can, with bytes moved as far as they go.
    pub fn settle(&self) {
        for _ in 0..ROUNDS {
            let polled = self.executor.run_ready();
            if !self.store.turn() && polled == 0 && self.executor.is_idle() {
                return;
            }
        }
        panic!("tasks go on for ever");
    }
}

#[derive(Default)]
pub struct Machine {
    pages: BTreeMap<Domid, Page>,
    now: Duration,
}

impl Host for Machine {
    type Page = Page;

    fn map(&mut self, domain: Domid, _: u64, _: Port) -> Result<Page, Errno> {
        Ok(self.pages.entry(domain).or_insert_with(Page::new).clone())
    }

    fn unmap(&mut self, _: Domid, _: Page) {}

    fn notify(&mut self, _: Domid) {}

    fn print(&mut self, _: &str) {}

    fn now(&self) -> Duration {
        self.now
    }
}

/// The store, dom0's client of it, and a guest.
pub struct System {
    daemon: Daemon<Page>,
    machine: Machine,
    pub guest: Guest,
    dom0: ClientId,
}

impl System {
    /// The guest is domain 5, and owns all below its `/local/domain/5`.
    pub fn new() -> Self {
        Self::prepared(|_, _, _| ())
    }

    /// One whose store does not offer to connect anew.
    pub fn without_reconnection() -> Self {
        Self::prepared(|daemon, machine, dom0| {
            ask(daemon, machine, dom0, Kind::SetFeature, b"5\x000\0");
        })
    }

    fn prepared(prepare: impl Fn(&mut Daemon<Page>, &mut Machine, ClientId)) -> Self {
        let (mut daemon, mut machine) = (Daemon::new(), Machine::default());
        let dom0 = daemon.server().connect();
        ask(
            &mut daemon,
            &mut machine,
            dom0,
            Kind::Mkdir,
            b"/local/domain/5\0",
        );
        prepare(&mut daemon, &mut machine, dom0);
        let owned = b"/local/domain/5\0n5\0";
        ask(&mut daemon, &mut machine, dom0, Kind::SetPermissions, owned);
        ask(
            &mut daemon,
            &mut machine,
            dom0,
            Kind::Introduce,
            b"5\x001\x001\0",
        );
        let page = machine.pages[&FIVE].clone();
        Self {
            daemon,
            machine,
            guest: Guest::new(page),
            dom0,
        }
    }

    /// A request of dom0's: the payload of the reply.
    pub fn dom0(&mut self, kind: Kind, payload: impl AsRef<[u8]>) -> Vec<u8> {
        ask(
            &mut self.daemon,
            &mut self.machine,
            self.dom0,
            kind,
            payload.as_ref(),
        )
    }

    /// The line about `what` in the store's account of the guest.
    pub fn quota(&mut self, what: &str) -> usize {
        let account = String::from_utf8(self.dom0(Kind::Control, "quota\x005\0")).unwrap();
        let line = account.lines().find(|line| line.starts_with(what));
        let number = line.and_then(|line| line.split([':', '/']).nth(1));
        number
            .unwrap_or_else(|| panic!("no {what} in {account}"))
            .trim()
            .parse()
            .unwrap()
    }

    /// The store serves the guest.
    pub fn serve(&mut self) {
        self.daemon.signal(FIVE);
        while self.daemon.poll(&mut self.machine, 1000) {}
        self.machine.now += PRECEDENCE;
    }

    /// Store and guest work until both have nothing to do.
    pub fn settle(&mut self) {
        for _ in 0..100 {
            self.guest.settle();
            self.serve();
        }
        self.guest.settle();
    }

    /// Works until a task of the guest is done.
    #[track_caller]
    pub fn run<T: 'static>(&mut self, future: impl Future<Output = T> + 'static) -> T {
        let handle = self.guest.spawn(future);
        self.finish(handle)
    }

    /// Works until a task of the guest is done.
    #[track_caller]
    pub fn finish<T>(&mut self, handle: JoinHandle<T>) -> T {
        for _ in 0..ROUNDS {
            self.guest.settle();
            if handle.is_finished() {
                return result(handle);
            }
            self.serve();
        }
        panic!("the task waits for ever");
    }
}

/// What a task that is done gave.
pub fn result<T>(mut handle: JoinHandle<T>) -> T {
    match Pin::new(&mut handle).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("the task is not done"),
    }
}

fn ask(
    daemon: &mut Daemon<Page>,
    machine: &mut Machine,
    who: ClientId,
    kind: Kind,
    payload: &[u8],
) -> Vec<u8> {
    let request = wire::encode(kind, 1, 0, payload);
    daemon.server().receive(who, &request).unwrap();
    while daemon.poll(machine, 1000) {}
    let mut output = Vec::new();
    loop {
        let bytes = daemon.server().output(who).to_vec();
        if bytes.is_empty() {
            break;
        }
        daemon.server().sent(who, bytes.len());
        output.extend(bytes);
    }
    let mut assembler = wire::Assembler::default();
    assembler.push(&output).unwrap();
    let reply = assembler.take().expect("a reply");
    assert_eq!(reply.kind, kind as u32, "{kind:?}: {reply:?}");
    reply.payload
}
