//! Requests about nodes: READ, WRITE, MKDIR, RM, DIRECTORY, DIRECTORY_PART, GET_PERMS, SET_PERMS.

use alloc::format;
use alloc::vec::Vec;

use hypercall_abi::errno::Errno;
use hypercall_abi::io::xs_wire::XENSTORE_PAYLOAD_MAX;

use super::{ClientId, Server, caller, ok, text};
use crate::path::Path;
use crate::permissions::{Access, Permissions};
use crate::quota::Resource;
use crate::view::{Change, View};
use crate::watch;
use crate::wire;

impl Server {
    pub(super) fn read(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = only_path(client, payload)?;
        let value = self.view(client, transaction, |view| view.read(&path))?;
        Ok(value.to_vec())
    }

    pub(super) fn get_permissions(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = only_path(client, payload)?;
        let permissions = self.view(client, transaction, |view| view.permissions(&path))?;
        Ok(permissions.to_wire())
    }

    pub(super) fn directory(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = only_path(client, payload)?;
        self.view(client, transaction, |view| list(view, &path))
    }

    /// The answer has the node's state, then what fits of the list from an offset on; an empty
    /// string ends the last part.
    pub(super) fn directory_part(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let [path, offset] = wire::strings(payload)[..] else {
            return Err(Errno::EINVAL);
        };
        let path = Path::resolve(path, client.domain())?;
        let offset: usize = wire::number(offset)?;
        self.view(client, transaction, |view| {
            let mut part = text(&format!("{}", view.state(&path)?));
            let list = list(view, &path)?;
            let rest = list.get(offset..).unwrap_or_default();
            let room = XENSTORE_PAYLOAD_MAX - part.len() - 1;
            if rest.len() <= room {
                part.extend_from_slice(rest);
                part.push(0);
            } else {
                let end = rest[..room].iter().rposition(|byte| *byte == 0);
                part.extend_from_slice(&rest[..end.map_or(0, |end| end + 1)]);
            }
            Ok(part)
        })
    }

    pub(super) fn write(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let (path, value) = wire::string_and_rest(payload)?;
        let path = Path::resolve(path, client.domain())?;
        self.change(client, transaction, |view| view.write(&path, value))
    }

    pub(super) fn make(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = only_path(client, payload)?;
        self.change(client, transaction, |view| view.make(&path))
    }

    pub(super) fn remove(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let path = only_path(client, payload)?;
        self.change(client, transaction, |view| view.remove(&path))
    }

    /// Of the special events the permissions say who gets them.
    pub(super) fn set_permissions(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        payload: &[u8],
    ) -> Result<Vec<u8>, Errno> {
        let strings = wire::strings(payload);
        let [path, permissions @ ..] = &strings[..] else {
            return Err(Errno::EINVAL);
        };
        if permissions.is_empty() {
            return Err(Errno::EINVAL);
        }
        let limit = self.accounts.limit(client.domain(), Resource::Permissions);
        if permissions.len() > limit {
            return Err(Errno::ENOSPC);
        }
        self.generation += 1;
        let permissions = Permissions::parse(permissions, self.generation)?;
        if !path.starts_with(b"@") {
            let path = Path::resolve(path, client.domain())?;
            return self.change(client, transaction, |view| {
                view.set_permissions(&path, permissions)
            });
        }
        let special = match *path {
            name if name == watch::INTRODUCE.as_bytes() => &mut self.introduce,
            name if name == watch::RELEASE.as_bytes() => &mut self.release,
            _ => return Err(Errno::EINVAL),
        };
        let caller = caller(client, &self.domains, &self.departures);
        if !special.allow(caller, Access::WRITE | Access::OWN) {
            return Err(Errno::EACCES);
        }
        *special = permissions;
        Ok(ok())
    }

    fn change(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        request: impl FnOnce(&mut View) -> Result<Vec<Change>, Errno>,
    ) -> Result<Vec<u8>, Errno> {
        let changes = self.view(client, transaction, request)?;
        match self.transaction(client, transaction) {
            Some(transaction) => transaction.note(&changes),
            None => self.settle(changes),
        }
        Ok(ok())
    }

    fn view<T>(
        &mut self,
        client: ClientId,
        transaction: Option<u32>,
        request: impl FnOnce(&mut View) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let transactions = self
            .clients
            .get_mut(client)
            .map(|connection| &mut connection.transactions);
        let (tree, record, elsewhere) = match (transactions, transaction) {
            (Some(transactions), Some(id)) => {
                let elsewhere = transactions
                    .iter()
                    .filter(|(other, _)| **other != id)
                    .map(|(_, transaction)| transaction.record.bytes)
                    .sum();
                let transaction = transactions.get_mut(&id).ok_or(Errno::ENOENT)?;
                (
                    &mut transaction.work,
                    Some(&mut transaction.record),
                    elsewhere,
                )
            }
            _ => (&mut self.tree, None, 0),
        };
        request(&mut View {
            tree,
            record,
            caller: caller(client, &self.domains, &self.departures),
            accounts: &self.accounts,
            elsewhere,
            generation: &mut self.generation,
            work: &mut self.work,
        })
    }
}

fn only_path(client: ClientId, payload: &[u8]) -> Result<Path, Errno> {
    Path::resolve(wire::one_string(payload)?, client.domain())
}

fn list(view: &mut View, path: &Path) -> Result<Vec<u8>, Errno> {
    let mut list = Vec::new();
    for name in view.children(path)? {
        list.extend_from_slice(name.as_bytes());
        list.push(0);
    }
    Ok(list)
}
