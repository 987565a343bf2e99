//! What all handles of one connection share, and futures of its replies.

use alloc::boxed::Box;
use alloc::collections::{BTreeMap, VecDeque};
use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::pin::Pin;
use core::task::{Context, Poll, Waker};

use critical_section::Mutex;
use hypercall_abi::errno::Errno;
use xenstore::client::{Client, RequestId, TransactionId, transaction};
use xenstore::ring::Failure;
use xenstore::wire::Kind;

use super::{Carrier, Error};

/// Events that a watch keeps for whoever does not look; more are told as a change of what it
/// watches.
const EVENTS: usize = 32;

pub(super) struct Connection(Mutex<RefCell<State>>);

struct State {
    carrier: Box<dyn Carrier>,
    client: Client,
    /// Counts connections: requests and transactions are those of one.
    number: u32,
    /// Whether the store answered anything on this connection.
    answered: bool,
    failure: Option<Failure>,
    /// Who waits for a reply.
    waiting: BTreeMap<RequestId, Waker>,
    /// Starts of transactions for which nobody waits any more.
    abandoned: Vec<RequestId>,
    watches: BTreeMap<u64, Watched>,
    last_token: u64,
    asked: bool,
    server: Option<Waker>,
}

struct Watched {
    path: String,
    /// The request that sets it, until it was answered.
    setting: Option<RequestId>,
    events: VecDeque<String>,
    waker: Option<Waker>,
}

impl State {
    fn request(
        &mut self,
        kind: Kind,
        transaction: TransactionId,
        parts: &[&[u8]],
    ) -> Result<RequestId, Error> {
        if let Some(failure) = self.failure {
            return Err(Error::Failed(failure));
        }
        let request = self.client.request(kind, transaction, parts)?;
        self.asked = true;
        if let Some(server) = self.server.take() {
            server.wake();
        }
        Ok(request)
    }

    /// Makes a request whose reply is of no interest.
    fn tell(&mut self, kind: Kind, transaction: TransactionId, parts: &[&[u8]]) {
        if let Ok(request) = self.request(kind, transaction, parts) {
            self.client.forget(request);
        }
    }

    fn set_watch(&mut self, token: u64) -> Option<RequestId> {
        let path = self.watches.get(&token)?.path.clone();
        let name = alloc::format!("{token:x}");
        let parts = [path.as_bytes(), b"\0", name.as_bytes(), b"\0"];
        self.request(Kind::Watch, TransactionId::NONE, &parts).ok()
    }

    fn turn(&mut self) -> bool {
        self.asked = false;
        if self.failure.is_some() {
            return false;
        }
        match self.carrier.exchange(&mut self.client) {
            Ok(moved) => {
                self.hand_out();
                moved
            }
            Err(failure) => {
                self.fail(failure);
                self.failure.is_none()
            }
        }
    }

    /// Gives what came to whom it is for.
    fn hand_out(&mut self) {
        for request in self.client.answered() {
            self.answered = true;
            if let Some(waker) = self.waiting.remove(&request) {
                waker.wake();
            }
        }
        for request in core::mem::take(&mut self.abandoned) {
            match self.client.reply(request) {
                None => self.abandoned.push(request),
                Some(reply) => {
                    if let Ok(id) = reply.and_then(|reply| transaction(&reply)) {
                        self.tell(Kind::TransactionEnd, id, &[b"F\0"]);
                    }
                }
            }
        }
        while let Some(event) = self.client.event() {
            let token = core::str::from_utf8(&event.token)
                .ok()
                .and_then(|token| u64::from_str_radix(token, 16).ok());
            // One for a watch that is gone may be under way.
            if let Some(watched) = token.and_then(|token| self.watches.get_mut(&token)) {
                watched.note(event.path);
            }
        }
    }

    /// Ends the connection and begins another, if there is one. A store that answers nothing on one
    /// is not asked for the next.
    fn fail(&mut self, failure: Failure) {
        if self.answered && self.carrier.reconnect() {
            self.client = Client::new();
            self.number += 1;
            self.answered = false;
            self.abandoned.clear();
            let tokens: Vec<u64> = self.watches.keys().copied().collect();
            for token in tokens {
                let setting = self.set_watch(token);
                if let Some(watched) = self.watches.get_mut(&token) {
                    watched.setting = setting;
                }
            }
        } else {
            self.failure = Some(failure);
        }
        let wakers = core::mem::take(&mut self.waiting).into_values();
        let watchers = self.watches.values_mut().filter_map(|w| w.waker.take());
        wakers.chain(watchers).for_each(Waker::wake);
    }
}

impl Watched {
    fn note(&mut self, path: String) {
        if !self.events.contains(&path) {
            if self.events.len() >= EVENTS {
                self.events.clear();
                self.events.push_back(self.path.clone());
            } else {
                self.events.push_back(path);
            }
        }
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl Connection {
    pub(super) fn new(carrier: Box<dyn Carrier>) -> Self {
        Self(Mutex::new(RefCell::new(State {
            carrier,
            client: Client::new(),
            number: 0,
            // The first reconnection may be the first thing that happens.
            answered: true,
            failure: None,
            waiting: BTreeMap::new(),
            abandoned: Vec::new(),
            watches: BTreeMap::new(),
            last_token: 0,
            asked: false,
            server: None,
        })))
    }

    fn with<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        critical_section::with(|cs| action(&mut self.0.borrow_ref_mut(cs)))
    }

    pub(super) fn turn(&self) -> bool {
        self.with(State::turn)
    }

    pub(super) fn poll_asked(&self, context: &mut Context<'_>) -> Poll<()> {
        self.with(|state| {
            if state.asked {
                return Poll::Ready(());
            }
            state.server = Some(context.waker().clone());
            Poll::Pending
        })
    }

    /// Asks; with a transaction, on the connection that it was begun on.
    pub(super) fn ask(
        self: &Arc<Self>,
        kind: Kind,
        within: Option<(TransactionId, u32)>,
        parts: &[&[u8]],
    ) -> Result<Reply, Error> {
        self.with(|state| {
            let (transaction, number) = within.unwrap_or((TransactionId::NONE, state.number));
            if number != state.number {
                return Err(Error::Lost);
            }
            let request = state.request(kind, transaction, parts)?;
            Ok(Reply {
                connection: self.clone(),
                number,
                request: Some(request),
                starts: kind == Kind::TransactionStart,
            })
        })
    }

    /// Asks, if that makes sense still, and does not wait for the reply.
    pub(super) fn tell(&self, kind: Kind, within: (TransactionId, u32), parts: &[&[u8]]) {
        self.with(|state| {
            if within.1 == state.number {
                state.tell(kind, within.0, parts);
            }
        });
    }

    /// Sets a watch; its token.
    pub(super) fn watch(&self, path: String) -> u64 {
        self.with(|state| {
            state.last_token += 1;
            let token = state.last_token;
            let watched = Watched {
                path,
                setting: None,
                events: VecDeque::new(),
                waker: None,
            };
            state.watches.insert(token, watched);
            let setting = state.set_watch(token);
            if let Some(watched) = state.watches.get_mut(&token) {
                watched.setting = setting;
            }
            token
        })
    }

    pub(super) fn unwatch(&self, token: u64) {
        self.with(|state| {
            let Some(watched) = state.watches.remove(&token) else {
                return;
            };
            if let Some(setting) = watched.setting {
                state.waiting.remove(&setting);
                state.client.forget(setting);
            }
            let name = alloc::format!("{token:x}");
            let parts = [watched.path.as_bytes(), b"\0", name.as_bytes(), b"\0"];
            state.tell(Kind::Unwatch, TransactionId::NONE, &parts);
        });
    }

    /// The next event of a watch, or why there is none.
    pub(super) fn poll_event(
        &self,
        token: u64,
        context: &mut Context<'_>,
    ) -> Poll<Result<String, Error>> {
        self.with(|state| {
            if let Some(failure) = state.failure {
                return Poll::Ready(Err(Error::Failed(failure)));
            }
            let Some(watched) = state.watches.get_mut(&token) else {
                return Poll::Ready(Err(Error::Refused(Errno::ENOENT)));
            };
            if let Some(setting) = watched.setting {
                match state.client.reply(setting) {
                    Some(Err(errno)) => return Poll::Ready(Err(errno.into())),
                    Some(Ok(_)) => watched.setting = None,
                    None => _ = state.waiting.insert(setting, context.waker().clone()),
                }
            }
            if let Some(path) = watched.events.pop_front() {
                return Poll::Ready(Ok(path));
            }
            watched.waker = Some(context.waker().clone());
            Poll::Pending
        })
    }
}

/// The reply to a request, when it has come.
#[must_use = "the reply comes to whoever awaits it"]
pub(super) struct Reply {
    connection: Arc<Connection>,
    number: u32,
    /// None once the reply was given.
    request: Option<RequestId>,
    /// Whether the request starts a transaction, which somebody has to end.
    starts: bool,
}

impl Reply {
    /// The number of the connection that it comes on.
    pub(super) fn number(&self) -> u32 {
        self.number
    }
}

impl Future for Reply {
    type Output = Result<Vec<u8>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(request) = self.request else {
            return Poll::Pending;
        };
        let number = self.number;
        let answer = self.connection.with(|state| {
            if let Some(failure) = state.failure {
                return Poll::Ready(Err(Error::Failed(failure)));
            }
            if number != state.number {
                return Poll::Ready(Err(Error::Lost));
            }
            match state.client.reply(request) {
                Some(reply) => Poll::Ready(reply.map_err(Error::Refused)),
                None => {
                    state.waiting.insert(request, context.waker().clone());
                    Poll::Pending
                }
            }
        });
        if answer.is_ready() {
            self.request = None;
        }
        answer
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        let Some(request) = self.request else {
            return;
        };
        self.connection.with(|state| {
            if self.number != state.number {
                return;
            }
            state.waiting.remove(&request);
            if self.starts {
                state.abandoned.push(request);
                // Its reply may be here already.
                state.hand_out();
            } else {
                state.client.forget(request);
            }
        });
    }
}
