//! The store's client: requests of many tasks at a time, transactions, and watches.
//!
//! A [`Store`] is one connection and may be cloned. What a task asks goes out when the connection is
//! served next, in the order in which it was asked; replies are found by the number of their request,
//! so that tasks do not wait for each other.
//!
//! The store is not trusted to be right: what it sends too much of is not kept, and whatever breaks
//! the protocol (`docs/misc/xenstore-ring.txt`) ends the connection. Where the store offers it, a new
//! one begins. What was under way is then [`Error::Lost`], transactions begin anew by themselves, and
//! watches are set again, each of which fires.

mod connection;
#[cfg(target_os = "none")]
mod domain;
mod requests;
mod watch;

use alloc::boxed::Box;
use alloc::string::String;
use alloc::sync::Arc;
use core::fmt;
use core::ops::Deref;
use core::task::{Context, Poll};

use hypercall_abi::errno::Errno;

use connection::Connection;
#[cfg(target_os = "none")]
pub use domain::store;
pub use requests::Requests;
use requests::Transaction;
pub use watch::Watch;
pub use xenstore::client::Client;
pub use xenstore::ring::{Failure, Frontend};

/// Why a request has no answer, or not the one that was hoped for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// This domain has no store, as the initial domain has not.
    NoStore,
    /// The connection was renewed before the reply came; whether the store did what was asked is not
    /// known.
    Lost,
    /// The connection has failed, and there is no other.
    Failed(Failure),
    /// The store refuses: `ENOENT`, `EACCES` and so on. `EIO` is an answer that makes no sense.
    Refused(Errno),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoStore => f.write_str("this domain has no store"),
            Self::Lost => f.write_str("the connection to the store was renewed meanwhile"),
            Self::Failed(Failure(error)) => {
                write!(f, "the connection to the store has failed (error {error})")
            }
            Self::Refused(errno) => write!(f, "the store says {errno:?}"),
        }
    }
}

impl core::error::Error for Error {}

impl From<Errno> for Error {
    fn from(errno: Errno) -> Self {
        Self::Refused(errno)
    }
}

/// What carries bytes between a client and the store.
pub trait Carrier: Send {
    /// Moves what it can both ways, a bounded amount; whether anything moved. If so, it has told the
    /// store, and there may be more to move at once.
    ///
    /// # Errors
    ///
    /// If the connection has failed.
    fn exchange(&mut self, client: &mut Client) -> Result<bool, Failure>;

    /// Asks the store for a new connection, if it offers that.
    fn reconnect(&mut self) -> bool;
}

/// A connection to the store. Requests on it are those of [`Requests`], by themselves.
#[derive(Clone)]
pub struct Store(Requests);

impl Deref for Store {
    type Target = Requests;

    fn deref(&self) -> &Requests {
        &self.0
    }
}

impl Store {
    /// A client of the store at the other end of `carrier`. Nothing moves but by [`Self::turn`].
    pub fn over(carrier: Box<dyn Carrier>) -> Self {
        Self(Requests::alone(Arc::new(Connection::new(carrier))))
    }

    /// Moves a bounded amount of bytes both ways, and wakes those whose replies and events have
    /// come; whether there may be more to move at once.
    pub fn turn(&self) -> bool {
        self.0.connection().turn()
    }

    /// Ready when something was asked since the last time, and so a [`Self::turn`] is due.
    pub fn poll_asked(&self, context: &mut Context<'_>) -> Poll<()> {
        self.0.connection().poll_asked(context)
    }

    /// Watches a path: a node and all below it, one that does not exist yet included, or `@...`. The
    /// watch fires at once, or says why it cannot.
    pub fn watch(&self, path: &str) -> Watch {
        Watch::new(self.0.connection().clone(), String::from(path))
    }

    /// Does what `body` says in a transaction, and commits it. It begins anew for as long as others
    /// come between, so `body` should do nothing but requests.
    ///
    /// # Errors
    ///
    /// The error of `body`, in which case nothing was changed, or that of the transaction.
    pub async fn transaction<T>(
        &self,
        body: impl AsyncFn(&Requests) -> Result<T, Error>,
    ) -> Result<T, Error> {
        loop {
            match self.attempt(&body).await {
                Err(Error::Refused(Errno::EAGAIN) | Error::Lost) => {}
                other => return other,
            }
        }
    }

    async fn attempt<T>(
        &self,
        body: &impl AsyncFn(&Requests) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let transaction = Transaction::start(self.0.connection()).await?;
        let value = body(transaction.requests()).await?;
        transaction.commit().await?;
        Ok(value)
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").finish_non_exhaustive()
    }
}
