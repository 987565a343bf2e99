//! The host that a command is for.

use std::time::Duration;

use control::client::{Channel, Client, ClientError};
use control::hosts::Hosts;
use control::{DomainInfo, DomainRef, Error, Reply, Request, Usage};

/// How long a host that boots still is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// A connection with the channel on which commands are given.
#[derive(Debug)]
pub struct Connection {
    /// The connection, for further channels.
    pub client: Client,
    /// The channel of [`Connection::call`].
    pub channel: Channel,
    name: String,
}

impl Connection {
    /// Connects to the host of that name, or to the only one that runs.
    ///
    /// # Errors
    /// When there is no such host, several where none was named, or it does not answer.
    pub fn open(name: Option<&str>) -> anyhow::Result<Connection> {
        Connection::open_within(name, PATIENCE)
    }

    /// As [`Connection::open`], waiting no longer than that.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn open_within(name: Option<&str>, patience: Duration) -> anyhow::Result<Connection> {
        // An empty variable in the environment names no host.
        let host = Hosts::of_user().find(name.filter(|name| !name.is_empty()))?;
        let mut client = Client::connect(&host.socket, patience)?;
        let channel = client.open()?;
        Ok(Connection {
            client,
            channel,
            name: host.name,
        })
    }

    /// The host's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Asks, and waits for the first reply.
    ///
    /// # Errors
    /// What the host refused, or that it is gone.
    pub fn call(&mut self, request: &Request) -> Result<Reply, ClientError> {
        self.client.call(self.channel, request)
    }

    /// Asks for something to be done.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn done(&mut self, request: &Request) -> Result<(), ClientError> {
        match self.call(request)? {
            Reply::Done => Ok(()),
            other => Err(wrong(&other)),
        }
    }

    /// Asks for something that is answered by a domid.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn domid(&mut self, request: &Request) -> Result<u16, ClientError> {
        match self.call(request)? {
            Reply::Domid(domid) => Ok(domid),
            other => Err(wrong(&other)),
        }
    }

    /// The id of a domain as the user named it.
    ///
    /// # Errors
    /// When there is none.
    pub fn find(&mut self, domain: &str) -> Result<u16, ClientError> {
        self.domid(&Request::Domid(DomainRef::parse(domain)))
    }

    /// All domains, or those that the user named, in their order.
    ///
    /// # Errors
    /// When one of them does not exist.
    pub fn domains(&mut self, names: &[String]) -> Result<Vec<DomainInfo>, ClientError> {
        if names.is_empty() {
            return self.list(None);
        }
        let mut domains = Vec::new();
        for name in names {
            let domain = DomainRef::parse(name);
            let found = self.list(Some(domain.clone()))?;
            if found.is_empty() {
                return Err(ClientError::Refused(Error::NoSuchDomain(domain)));
            }
            domains.extend(found);
        }
        Ok(domains)
    }

    /// What the host's CPUs were used for, and its domains, at the same moment.
    ///
    /// # Errors
    /// As [`Connection::call`].
    pub fn usage(&mut self) -> Result<(Usage, Vec<DomainInfo>), ClientError> {
        match self.call(&Request::Usage)? {
            Reply::Usage(usage) => Ok((usage, self.listed()?)),
            other => Err(wrong(&other)),
        }
    }

    fn list(&mut self, domain: Option<DomainRef>) -> Result<Vec<DomainInfo>, ClientError> {
        self.client
            .send(self.channel, &Request::ListDomains(domain))?;
        self.listed()
    }

    /// The domains that were asked for.
    fn listed(&mut self) -> Result<Vec<DomainInfo>, ClientError> {
        let mut all = Vec::new();
        loop {
            match self.client.receive(self.channel)? {
                Reply::Domains { domains, more } => {
                    all.extend(domains);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(wrong(&other)),
            }
        }
    }
}

/// The error that a reply is none to what was asked.
pub fn wrong(reply: &Reply) -> ClientError {
    let mut text = format!("{reply:?}");
    if let Some((end, _)) = text.char_indices().nth(60) {
        text.truncate(end);
    }
    ClientError::WrongAnswer(text)
}

/// Whether the host said that there is no such domain.
pub fn is_no_such_domain(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(Error::NoSuchDomain(_)))
}
