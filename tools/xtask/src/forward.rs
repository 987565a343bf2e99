//! Ports of this machine that lead to ports of guests.
//!
//! QEMU's network takes connections here and passes them on to an address there. Which address a guest has is
//! for dom0 to tell, which sees what guests send; it is asked for as long as the host runs, so that a port
//! leads to a guest that comes later, or comes back with another address.

use crate::host::Host;
use crate::qmp::Monitor;
use anyhow::{Context, Result, bail};
use control::client::{Channel, Client, ClientError};
use control::{DomainRef, NetworkReply, NetworkRequest, Reply, Request};
use std::net::{Ipv4Addr, TcpListener};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How often dom0 is asked where guests are.
const LOOK: Duration = Duration::from_millis(250);
/// How long dom0 may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A port that leads to a guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// The port of this machine.
    pub port: u16,
    /// The guest's name.
    pub guest: String,
    /// The guest's port.
    pub to: u16,
}

impl FromStr for Forward {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once(':').and_then(|(port, rest)| {
            let (guest, to) = rest.rsplit_once(':')?;
            let number = |text: &str| text.parse().ok().filter(|port| *port > 0);
            Some((number(port)?, guest, number(to)?))
        });
        match parts {
            Some((port, guest, to)) if !guest.is_empty() => Ok(Self {
                port,
                guest: guest.to_owned(),
                to,
            }),
            _ => Err("expected HOSTPORT:GUEST:PORT".to_owned()),
        }
    }
}

/// Says so if a port cannot be had, before a host is started for it.
pub fn check(forwards: &[Forward]) -> Result<()> {
    for (nth, forward) in forwards.iter().enumerate() {
        let port = forward.port;
        if forwards.iter().take(nth).any(|other| other.port == port) {
            bail!("port {port} cannot lead to two guests");
        }
        TcpListener::bind((Ipv4Addr::LOCALHOST, port))
            .with_context(|| format!("port {port} of this machine cannot be forwarded"))?;
    }
    Ok(())
}

/// The thread that keeps ports and addresses together. It ends when this is dropped.
pub struct Forwarder {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Has these ports of this machine lead to guests of a host.
    ///
    /// # Errors
    /// When QEMU or dom0 do not answer.
    pub fn start(host: &Host, forwards: &[Forward]) -> Result<Self> {
        let mut places: Vec<Place> = forwards
            .iter()
            .map(|forward| Place {
                forward: forward.clone(),
                address: None,
            })
            .collect();
        let over = Arc::new(AtomicBool::new(false));
        let thread = if places.is_empty() {
            None
        } else {
            let mut monitor = host.qemu().monitor()?;
            let mut client = host.connect(PATIENCE)?;
            let channel = client.open()?;
            let over = Arc::clone(&over);
            let spawned = std::thread::Builder::new().name("forward".into()).spawn({
                move || {
                    while !over.load(Ordering::Relaxed) {
                        for place in &mut places {
                            if let Err(error) = place.follow(&mut client, channel, &mut monitor) {
                                // The host is going down, or else says why by itself.
                                if !over.load(Ordering::Relaxed) {
                                    eprintln!("xtask: forward {}: {error:#}", place.forward.port);
                                }
                                return;
                            }
                        }
                        std::thread::park_timeout(LOOK);
                    }
                }
            });
            Some(spawned?)
        };
        Ok(Self { over, thread })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It has nothing to tell.
            let _ = thread.join();
        }
    }
}

/// A port, and where it leads at the moment.
struct Place {
    forward: Forward,
    address: Option<Ipv4Addr>,
}

impl Place {
    /// Looks where the guest is, and has the port lead there.
    fn follow(
        &mut self,
        client: &mut Client,
        channel: Channel,
        monitor: &mut Monitor,
    ) -> Result<()> {
        let Forward { port, guest, to } = &self.forward;
        let domain = DomainRef::Name(guest.clone());
        let request = Request::Network(NetworkRequest::Interfaces(domain));
        let found = match client.call(channel, &request) {
            Ok(Reply::Network(NetworkReply::Interfaces(vifs))) => {
                vifs.iter().find_map(|vif| vif.address)
            }
            // The guest is not running. It may come.
            Ok(_) | Err(ClientError::Refused(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let address = found.map(Ipv4Addr::from);
        // A guest that is gone may come back where it was.
        if address.is_none() || address == self.address {
            return Ok(());
        }
        if self.address.is_some() {
            monitor.human(&format!("hostfwd_remove net tcp:127.0.0.1:{port}"))?;
        }
        self.address = None;
        if let Some(address) = address {
            let answer = monitor.human(&format!(
                "hostfwd_add net tcp:127.0.0.1:{port}-{address}:{to}"
            ))?;
            if !answer.trim().is_empty() {
                bail!("QEMU: {}", answer.trim());
            }
            println!("xtask: port {port} leads to port {to} of {guest} at {address}");
            self.address = Some(address);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forward_is_two_ports_and_a_name() {
        let web = Forward {
            port: 18080,
            guest: "web".into(),
            to: 80,
        };
        assert_eq!("18080:web:80".parse(), Ok(web));
        assert_eq!("1:a:b:2".parse::<Forward>().unwrap().guest, "a:b");
        for odd in [
            "",
            "18080",
            "18080:web",
            "18080::80",
            "0:web:80",
            "1:web:0",
            "70000:web:80",
        ] {
            assert!(odd.parse::<Forward>().is_err(), "{odd}");
        }
    }

    #[test]
    fn a_port_that_is_taken_or_named_twice_is_refused() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let forward = |port| Forward {
            port,
            guest: "web".into(),
            to: 80,
        };
        let error = check(&[forward(port)]).unwrap_err();
        assert!(error.to_string().contains(&port.to_string()), "{error:#}");
        drop(listener);
        check(&[forward(port)]).unwrap();
        assert!(check(&[forward(port), forward(port)]).is_err());
    }
}
