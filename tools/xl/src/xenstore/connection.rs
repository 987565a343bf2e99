//! A connection to the store, through the control port.

use control::message::MAX_CHUNK;
use control::{Reply, Request};
use hypercall_abi::errno::Errno;
use xenstore::client::{self, Client, RequestId, TransactionId};
use xenstore::wire::Kind;

use crate::host::{Connection, wrong};

/// How often a transaction is tried that others come between.
const ATTEMPTS: u32 = 100;

/// The store, as a privileged client of dom0's sees it.
pub struct Store<'a> {
    host: &'a mut Connection,
    client: Client,
    transaction: TransactionId,
}

/// A request's outcome: what the store said, unless the connection failed.
type Answer<T> = anyhow::Result<Result<T, Errno>>;

impl<'a> Store<'a> {
    /// Connects. The host's channel is the store's from then on.
    ///
    /// # Errors
    /// When the host does not let one.
    pub fn attach(host: &'a mut Connection) -> anyhow::Result<Store<'a>> {
        host.done(&Request::AttachStore)?;
        Ok(Store {
            host,
            client: Client::new(),
            transaction: TransactionId::NONE,
        })
    }

    /// Reads a node's value.
    pub fn read(&mut self, path: &str) -> Answer<Vec<u8>> {
        let request = self.client.read(self.transaction, path);
        self.finish(request)
    }

    /// Writes a node's value.
    pub fn write(&mut self, path: &str, value: &[u8]) -> Answer<()> {
        let request = self.client.write(self.transaction, path, value);
        Ok(self.finish(request)?.map(drop))
    }

    /// Removes a node and what is below it.
    pub fn remove(&mut self, path: &str) -> Answer<()> {
        let request = self.client.remove(self.transaction, path);
        Ok(self.finish(request)?.map(drop))
    }

    /// The names of a node's children.
    pub fn directory(&mut self, path: &str) -> Answer<Vec<String>> {
        let request = self.client.directory(self.transaction, path);
        match self.finish(request)? {
            Err(Errno::E2BIG) => self.long_directory(path),
            reply => Ok(reply.map(|names| client::names(&names))),
        }
    }

    /// A list of children that does not fit a message: part by part, and from the beginning if it
    /// changed meanwhile.
    fn long_directory(&mut self, path: &str) -> Answer<Vec<String>> {
        let (mut names, mut state) = (Vec::new(), None);
        let mut offset = 0;
        loop {
            let at = format!("{offset}\0");
            let parts = [path.as_bytes(), b"\0", at.as_bytes()];
            let request = self
                .client
                .request(Kind::DirectoryPart, self.transaction, &parts);
            let reply = match self.finish(request)? {
                Ok(reply) => reply,
                Err(error) => return Ok(Err(error)),
            };
            let mut part = reply.split(|byte| *byte == 0);
            let found = part.next().map(<[u8]>::to_vec);
            if state.is_some() && state != found {
                (names, state, offset) = (Vec::new(), None, 0);
                continue;
            }
            state = found;
            // What follows the last zero is no name.
            let strings: Vec<&[u8]> = part.collect();
            let strings = strings.split_last().map_or(&[][..], |(_, rest)| rest);
            let ends = strings.is_empty() || strings.last().is_some_and(|name| name.is_empty());
            for name in strings.iter().filter(|name| !name.is_empty()) {
                offset += name.len() + 1;
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            if ends {
                return Ok(Ok(names));
            }
        }
    }

    /// A node's permissions, as `n0`, `r5` and so on.
    pub fn permissions(&mut self, path: &str) -> Answer<Vec<String>> {
        let request = self.client.get_permissions(self.transaction, path);
        Ok(self.finish(request)?.map(|reply| client::names(&reply)))
    }

    /// Sets a node's permissions.
    pub fn set_permissions(&mut self, path: &str, permissions: &[&str]) -> Answer<()> {
        let request = self
            .client
            .set_permissions(self.transaction, path, permissions);
        Ok(self.finish(request)?.map(drop))
    }

    /// Watches a path.
    pub fn watch(&mut self, path: &str) -> Answer<()> {
        let request = self.client.watch(path, path.as_bytes());
        Ok(self.finish(request)?.map(drop))
    }

    /// The path that the next event is about, once there is one.
    ///
    /// # Errors
    /// When the connection fails.
    pub fn next_event(&mut self) -> anyhow::Result<String> {
        loop {
            if let Some(event) = self.client.event() {
                return Ok(event.path);
            }
            self.receive()?;
        }
    }

    /// Does what `body` does in one transaction, again if others came between. If `body` fails,
    /// nothing of it is done.
    ///
    /// # Errors
    /// Those of `body` and of the connection.
    pub fn in_transaction<T>(
        &mut self,
        body: impl Fn(&mut Self) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        for _ in 0..ATTEMPTS {
            let request = self.client.start();
            let id = self
                .finish(request)?
                .and_then(|reply| client::transaction(&reply))
                .map_err(|error| anyhow::anyhow!("could not start a transaction: {error}"))?;
            self.transaction = id;
            let result = body(self);
            self.transaction = TransactionId::NONE;
            let request = self.client.end(id, result.is_ok());
            match (result, self.finish(request)?) {
                (Err(error), _) => return Err(error),
                (Ok(value), Ok(_)) => return Ok(value),
                (Ok(_), Err(Errno::EAGAIN)) => {}
                (Ok(_), Err(error)) => anyhow::bail!("could not end the transaction: {error}"),
            }
        }
        anyhow::bail!("others came between {ATTEMPTS} times")
    }

    fn finish(&mut self, request: Result<RequestId, Errno>) -> Answer<Vec<u8>> {
        let request = match request {
            Ok(request) => request,
            Err(error) => return Ok(Err(error)),
        };
        while !self.client.output().is_empty() {
            let output = self.client.output();
            let bytes = output[..output.len().min(MAX_CHUNK)].to_vec();
            let count = bytes.len();
            let input = Request::StoreInput(bytes);
            self.host.client.send(self.host.channel, &input)?;
            self.client.sent(count);
        }
        loop {
            if let Some(reply) = self.client.reply(request) {
                return Ok(reply);
            }
            self.receive()?;
        }
    }

    fn receive(&mut self) -> anyhow::Result<()> {
        match self.host.client.receive(self.host.channel)? {
            Reply::StoreOutput(bytes) => {
                let understood = self.client.receive(&bytes);
                understood.map_err(|_| anyhow::anyhow!("the store sent too long a message"))
            }
            other => Err(wrong(&other).into()),
        }
    }
}
