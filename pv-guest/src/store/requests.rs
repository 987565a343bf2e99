//! Requests, by themselves or in a transaction.

use alloc::string::String;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::str::FromStr;

use hypercall_abi::errno::Errno;
use xenstore::client::{TransactionId, names, transaction};
use xenstore::wire::Kind;

use super::Error;
use super::connection::Connection;

/// Makes requests. A path is absolute, or relative to the domain's own `/local/domain/N`.
///
/// Each may fail as the store says (`EINVAL` for a path that is none, `ENOENT`, `EACCES`, `E2BIG`,
/// `ENOSPC` for what is beyond the domain's quota), or for want of a connection.
#[derive(Clone)]
pub struct Requests {
    connection: Arc<Connection>,
    /// The transaction, and the number of the connection that it is on.
    within: Option<(TransactionId, u32)>,
}

impl Requests {
    pub(super) fn alone(connection: Arc<Connection>) -> Self {
        Self {
            connection,
            within: None,
        }
    }

    pub(super) fn connection(&self) -> &Arc<Connection> {
        &self.connection
    }

    async fn ask(&self, kind: Kind, parts: &[&[u8]]) -> Result<Vec<u8>, Error> {
        self.connection.ask(kind, self.within, parts)?.await
    }

    /// A request about a node.
    async fn about(&self, kind: Kind, path: &str, rest: &[&[u8]]) -> Result<Vec<u8>, Error> {
        if path.contains('\0') {
            return Err(Errno::EINVAL.into());
        }
        let parts = [&[path.as_bytes(), b"\0"], rest].concat();
        self.ask(kind, &parts).await
    }

    /// A node's value.
    pub async fn read(&self, path: &str) -> Result<Vec<u8>, Error> {
        self.about(Kind::Read, path, &[]).await
    }

    /// A node's value as what it is in text: a number, a string. `EINVAL` if it is not.
    pub async fn parse<T: FromStr>(&self, path: &str) -> Result<T, Error> {
        let value = self.read(path).await?;
        core::str::from_utf8(&value)
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or(Error::Refused(Errno::EINVAL))
    }

    /// Gives a node a value; creates it and those above it, if they do not exist.
    pub async fn write(&self, path: &str, value: impl AsRef<[u8]>) -> Result<(), Error> {
        self.about(Kind::Write, path, &[value.as_ref()]).await?;
        Ok(())
    }

    /// Creates a node without a value, and those above it, if they do not exist.
    pub async fn mkdir(&self, path: &str) -> Result<(), Error> {
        self.about(Kind::Mkdir, path, &[]).await?;
        Ok(())
    }

    /// Removes a node and all below it. That it does not exist is no error if its parent does.
    pub async fn remove(&self, path: &str) -> Result<(), Error> {
        self.about(Kind::Remove, path, &[]).await?;
        Ok(())
    }

    /// The names of a node's children.
    pub async fn directory(&self, path: &str) -> Result<Vec<String>, Error> {
        Ok(names(&self.about(Kind::Directory, path, &[]).await?))
    }

    /// A node's permissions: `n5` for its owner and what others may, then `r6` and so on.
    pub async fn permissions(&self, path: &str) -> Result<Vec<String>, Error> {
        Ok(names(&self.about(Kind::GetPermissions, path, &[]).await?))
    }

    /// Sets a node's permissions, written as [`Self::permissions`] has them.
    pub async fn set_permissions(&self, path: &str, permissions: &[&str]) -> Result<(), Error> {
        let ended: Vec<&[u8]> = permissions
            .iter()
            .flat_map(|permission| [permission.as_bytes(), b"\0"])
            .collect();
        self.about(Kind::SetPermissions, path, &ended).await?;
        Ok(())
    }
}

/// Requests in a transaction, which ends without effect unless it is committed.
pub(super) struct Transaction {
    requests: Requests,
    open: bool,
}

impl Transaction {
    /// Begins one.
    pub(super) async fn start(connection: &Arc<Connection>) -> Result<Self, Error> {
        let reply = connection.ask(Kind::TransactionStart, None, &[b"\0"])?;
        let number = reply.number();
        let requests = Requests {
            connection: connection.clone(),
            within: Some((transaction(&reply.await?)?, number)),
        };
        Ok(Self {
            requests,
            open: true,
        })
    }

    /// Requests in it.
    pub(super) fn requests(&self) -> &Requests {
        &self.requests
    }

    /// Ends it with all that it changed. `EAGAIN` if others came between.
    pub(super) async fn commit(mut self) -> Result<(), Error> {
        self.open = false;
        self.requests.ask(Kind::TransactionEnd, &[b"T\0"]).await?;
        Ok(())
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if let (true, Some(within)) = (self.open, self.requests.within) {
            let connection = &self.requests.connection;
            connection.tell(Kind::TransactionEnd, within, &[b"F\0"]);
        }
    }
}
