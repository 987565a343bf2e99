//! TRANSACTION_START and TRANSACTION_END.

use alloc::format;
use alloc::vec::Vec;
use core::time::Duration;

use hypercall_abi::errno::Errno;
use hypercall_abi::types::Domid;

use super::{ClientId, PAST, PRECEDENCE, Server, ok, text};
use crate::quota::Resource;
use crate::transaction::{self, Transaction};
use crate::wire;

impl Server {
    /// The transaction of this number, none for 0.
    ///
    /// # Errors
    ///
    /// `ENOENT` if the client has none such.
    pub(super) fn check_transaction(
        &mut self,
        client: ClientId,
        id: u32,
    ) -> Result<Option<u32>, Errno> {
        match id {
            0 => Ok(None),
            _ if self.transaction(client, Some(id)).is_some() => Ok(Some(id)),
            _ => Err(Errno::ENOENT),
        }
    }

    pub(super) fn transaction(
        &mut self,
        client: ClientId,
        id: Option<u32>,
    ) -> Option<&mut Transaction> {
        self.clients.get_mut(client)?.transactions.get_mut(&id?)
    }

    pub(super) fn start_transaction(
        &mut self,
        client: ClientId,
        within: Option<u32>,
    ) -> Result<Vec<u8>, Errno> {
        if within.is_some() {
            return Err(Errno::EBUSY);
        }
        let limit = self.accounts.limit(client.domain(), Resource::Transactions);
        let connection = self.clients.get_mut(client).ok_or(Errno::EIO)?;
        if connection.transactions.len() >= limit {
            return Err(Errno::ENOSPC);
        }
        let mut id = connection.last_transaction;
        loop {
            id = id.wrapping_add(1);
            if id != 0 && !connection.transactions.contains_key(&id) {
                break;
            }
        }
        connection.last_transaction = id;
        let transaction = Transaction::begin(&self.tree, self.past);
        connection.transactions.insert(id, transaction);
        if !client.is_privileged() {
            self.copies.insert((self.past, client, id));
        }
        Ok(text(&format!("{id}")))
    }

    pub(super) fn end_transaction(
        &mut self,
        client: ClientId,
        id: Option<u32>,
        payload: &[u8],
        now: Duration,
    ) -> Result<Vec<u8>, Errno> {
        let commits = match wire::one_string(payload)? {
            b"T" => true,
            b"F" => false,
            _ => return Err(Errno::EINVAL),
        };
        let id = id.ok_or(Errno::ENOENT)?;
        let connection = self.clients.get_mut(client).ok_or(Errno::EIO)?;
        let transaction = connection.transactions.remove(&id).ok_or(Errno::ENOENT)?;
        self.copies.remove(&(transaction.since, client, id));
        let result = match commits {
            true => self.commit(client, &transaction),
            false => Ok(()),
        };
        if client.is_privileged() {
            match result {
                Err(Errno::EAGAIN) => {
                    self.precedence.insert(client, now + PRECEDENCE);
                }
                _ => {
                    self.precedence.remove(&client);
                }
            }
        }
        result.map(|()| ok())
    }

    fn commit(&mut self, client: ClientId, transaction: &Transaction) -> Result<(), Errno> {
        self.work += transaction.size() as u64;
        // Every change adds to the past.
        let as_it_was = transaction.since == self.past;
        let mut changes = transaction.changes(&self.tree, as_it_was, &self.departures)?;
        if !client.is_privileged() {
            self.accounts.permit(&changes)?;
        }
        if as_it_was && transaction.is_all(&changes) {
            self.tree = transaction.work.clone();
        } else {
            self.generation += 1;
            transaction::apply(&mut self.tree, &mut changes, self.generation);
        }
        self.settle(changes);
        Ok(())
    }

    pub(super) fn drop_transactions(&mut self, client: ClientId) {
        if let Some(connection) = self.clients.get_mut(client) {
            for (id, transaction) in core::mem::take(&mut connection.transactions) {
                self.copies.remove(&(transaction.since, client, id));
            }
        }
    }

    /// Has a domain's open transactions fail, as what it may do is no longer what it was.
    pub(super) fn doom_transactions(&mut self, domain: Domid) {
        let client = ClientId::Domain(domain);
        if let Some(connection) = self.clients.get_mut(client) {
            for (id, transaction) in &mut connection.transactions {
                self.copies.remove(&(transaction.since, client, *id));
                transaction.expire(&self.tree, self.past);
                self.copies.insert((self.past, client, *id));
            }
        }
    }

    /// Takes the copies from those transactions of guests that keep more than [`PAST`] bytes of the
    /// past in memory. All of them together keep no more than the oldest does.
    pub(super) fn expire_copies(&mut self) {
        while let Some((since, client, id)) = self.copies.first().copied()
            && self.past - since > PAST
        {
            self.copies.pop_first();
            let connection = self.clients.get_mut(client);
            if let Some(transaction) = connection.and_then(|it| it.transactions.get_mut(&id)) {
                transaction.expire(&self.tree, self.past);
                self.copies.insert((self.past, client, id));
            }
        }
    }
}
