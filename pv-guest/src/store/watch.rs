//! Watches.

use alloc::string::String;
use alloc::sync::Arc;
use core::future::poll_fn;
use core::task::{Context, Poll};

use super::Error;
use super::connection::Connection;

/// A watch: the changes of a node and of all below it, until it is dropped.
///
/// It fires once when it is set, and when the connection was renewed, since changes may have gone by
/// meanwhile. Changes that follow each other closely may be told as one of the watched path.
#[must_use = "dropping it ends the watch"]
pub struct Watch {
    connection: Arc<Connection>,
    token: u64,
}

impl Watch {
    pub(super) fn new(connection: Arc<Connection>, path: String) -> Self {
        let token = connection.watch(path);
        Self { connection, token }
    }

    /// Waits until something changes; the path of what did, relative if the watched one is.
    ///
    /// # Errors
    ///
    /// What the store says against the watch, or that there is no connection any more: in either
    /// case it never fires again.
    pub async fn next(&mut self) -> Result<String, Error> {
        poll_fn(|context| self.poll_next(context)).await
    }

    /// As [`Self::next`], to be polled along with other things.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<String, Error>> {
        self.connection.poll_event(self.token, context)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.connection.unwatch(self.token);
    }
}
