//! A port of this domain's own that takes what a guest sends it, to see how fast that goes.

use control::{Error, NetworkReply};

use super::stack::{Connection, Life, Stack};

/// One connection, of which every byte is counted and none is kept.
#[derive(Debug)]
pub struct Sink {
    connection: Connection,
    bytes: u64,
    /// When the first byte was there, and when the last.
    since: Option<u64>,
    until: u64,
    answered: bool,
}

impl Sink {
    /// Waits at a port.
    ///
    /// # Errors
    ///
    /// If there is no room for another connection.
    pub fn listen(stack: &mut Stack, port: u16) -> Result<Self, Error> {
        Ok(Self {
            connection: stack.listen(port)?,
            bytes: 0,
            since: None,
            until: 0,
            answered: false,
        })
    }

    /// Goes on; how much came in what time, once all has come and the sender has been told of it.
    ///
    /// # Errors
    ///
    /// If the sender went away.
    pub fn step(&mut self, stack: &mut Stack, now: u64) -> Result<Option<NetworkReply>, Error> {
        loop {
            let taken = stack.receive(&self.connection, <[u8]>::len);
            if taken == 0 {
                break;
            }
            self.since.get_or_insert(now);
            self.bytes = self.bytes.wrapping_add(taken as u64);
        }
        match stack.life(&self.connection) {
            Life::Opening | Life::Open => Ok(None),
            Life::Finished => {
                if !self.answered {
                    self.answered = true;
                    self.until = now;
                    // Nothing was sent before, so there is room.
                    stack.send(&self.connection, &self.bytes.to_le_bytes());
                    stack.finish(&self.connection);
                }
                Ok(None)
            }
            Life::Over if self.answered => Ok(Some(NetworkReply::Received {
                bytes: self.bytes,
                ns: self.until.saturating_sub(self.since.unwrap_or(self.until)),
            })),
            Life::Over => Err(Error::Disconnected),
        }
    }

    /// Ends it.
    pub fn close(self, stack: &mut Stack, now: u64) {
        stack.close(self.connection, now);
    }
}
