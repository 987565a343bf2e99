//! This domain itself as a station on the bridge: a TCP/IP stack, with an address that is given or comes by DHCP.
//!
//! Whatever guests send, it keeps a bounded number of frames for the stack, hands it a few at a time, and takes no more
//! from it than there is room for. It answers ARP and pings; it listens on no port unless asked to.

use alloc::collections::VecDeque;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use control::{Error, OwnAddress};
use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet,
};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr};
use split_drivers::net::stack::{Line, Port};
use split_drivers::net::{Features, Frame, Mac};

use super::addressing::{self, Addressing};

/// Frames that the stack has not seen yet, at most, and their bytes.
pub(super) const MAX_WAITING: usize = 256;
const MAX_WAITING_BYTES: usize = 1 << 20;
/// Frames that it sees in a turn.
pub(super) const BUDGET: usize = 64;
/// Frames that it sends in a turn.
pub(super) const MAX_OUT: usize = 128;

/// Connections, those waited for included.
pub(super) const MAX_CONNECTIONS: usize = 8;
/// Bytes that are kept of each direction of a connection: several of the largest frames, as guests send them.
const BUFFER: usize = 256 * 1024;
/// How long a connection may be silent that waits for the other end, in seconds.
const PATIENCE: u64 = 30;
/// The first of the ports that connections are made from.
const FIRST_LOCAL_PORT: u16 = 49152;

const ETHERTYPE: usize = 12;
const IPV4: [u8; 2] = [0x08, 0x00];
const ARP: [u8; 2] = [0x08, 0x06];

/// What came and was not seen yet, and what is to go out.
#[derive(Debug, Default)]
struct Queues {
    waiting: VecDeque<Frame>,
    bytes: usize,
    out: Vec<Frame>,
}

impl Line for Queues {
    fn features(&self) -> Features {
        // The bridge does what is left to others.
        Features::ALL
    }

    fn has_room(&self) -> bool {
        self.out.len() < MAX_OUT
    }

    fn receive(&mut self) -> Option<Frame> {
        let frame = self.waiting.pop_front()?;
        self.bytes -= frame.bytes.len();
        Some(frame)
    }

    fn send(&mut self, frame: Frame) {
        self.out.push(frame);
    }
}

/// A connection, or a port that one is waited for at. It ends by [`Stack::close`].
#[derive(Debug)]
pub struct Connection(SocketHandle);

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The other end has not come yet, or not answered.
    Opening,
    /// The other end may send.
    Open,
    /// The other end has sent all, and all of it was taken.
    Finished,
    /// There is no connection any more, or none came about.
    Over,
}

/// The stack.
pub struct Stack {
    mac: Mac,
    line: Port<Queues>,
    interface: Interface,
    sockets: SocketSet<'static>,
    dhcp: Option<SocketHandle>,
    connections: usize,
    next_port: u16,
    own: Option<OwnAddress>,
    /// What is to be said of it.
    news: Option<String>,
    /// When it has something to do, in nanoseconds.
    due: Option<u64>,
    /// A connection was used: there may be something to send.
    kicked: bool,
}

impl Stack {
    /// A station of that address on the wire; none if it is to have no other. `seed` should differ each time.
    pub fn new(mac: Mac, addressing: Addressing, seed: u64, now: u64) -> Option<Self> {
        let given = match addressing {
            Addressing::None => return None,
            Addressing::Dhcp => None,
            Addressing::Given(own) => Some(own),
        };
        if mac.is_group() {
            return None;
        }
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac.0)));
        config.random_seed = seed;
        let mut line = Port(Queues::default());
        let interface = Interface::new(config, &mut line, instant(now));
        let mut sockets = SocketSet::new(Vec::new());
        let dhcp = given.is_none().then(|| sockets.add(dhcpv4::Socket::new()));
        let mut stack = Self {
            mac,
            line,
            interface,
            sockets,
            dhcp,
            connections: 0,
            next_port: FIRST_LOCAL_PORT + (seed % 8192) as u16,
            own: None,
            news: None,
            due: Some(now),
            kicked: false,
        };
        stack.set_address(given);
        Some(stack)
    }

    /// Its address on the wire.
    pub fn mac(&self) -> Mac {
        self.mac
    }

    /// Its address in the network, if it has one.
    pub fn address(&self) -> Option<OwnAddress> {
        self.own
    }

    /// What is to be said of its address since the last time.
    pub fn take_news(&mut self) -> Option<String> {
        self.news.take()
    }

    /// A frame for it has come. What there is no room for is lost, as on any wire.
    pub fn deliver(&mut self, frame: Frame) {
        let queues = &mut self.line.0;
        let kind = frame.bytes.get(ETHERTYPE..ETHERTYPE + 2);
        let bytes = queues.bytes + frame.bytes.len();
        if kind != Some(&IPV4) && kind != Some(&ARP)
            || queues.waiting.len() >= MAX_WAITING
            || bytes > MAX_WAITING_BYTES
        {
            return;
        }
        queues.bytes = bytes;
        queues.waiting.push_back(frame);
    }

    /// Whether it is to have a turn.
    pub fn is_ready(&self, now: u64) -> bool {
        self.is_busy() || self.kicked || self.due.is_some_and(|due| due <= now)
    }

    /// Whether it has not seen yet what came.
    pub fn is_busy(&self) -> bool {
        !self.line.0.waiting.is_empty()
    }

    /// Whether a connection was used since its last turn.
    pub fn is_kicked(&self) -> bool {
        self.kicked
    }

    /// When it is to have a turn although nothing came, in nanoseconds.
    pub fn due(&self) -> Option<u64> {
        self.due
    }

    /// Sees what came, up to a bound, and does what is due; what it sends.
    pub fn turn(&mut self, now: u64) -> Vec<Frame> {
        let at = instant(now);
        self.kicked = false;
        let (line, sockets) = (&mut self.line, &mut self.sockets);
        for _ in 0..BUDGET {
            let seen = self.interface.poll_ingress_single(at, line, sockets);
            if seen == PollIngressSingleResult::None {
                break;
            }
        }
        while self.interface.poll_egress(at, line, sockets) == PollResult::SocketStateChanged {}
        let due = self.interface.poll_at(at, sockets);
        self.due = due.map(|due| {
            u64::try_from(due.total_micros())
                .unwrap_or(0)
                .saturating_mul(1000)
        });
        self.hear_of_address();
        core::mem::take(&mut self.line.0.out)
    }

    fn hear_of_address(&mut self) {
        let Some(dhcp) = self.dhcp else {
            return;
        };
        let socket = self.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp);
        let own = match socket.poll() {
            None => return,
            Some(dhcpv4::Event::Deconfigured) => None,
            Some(dhcpv4::Event::Configured(config)) => {
                let own = OwnAddress {
                    address: config.address.address().octets(),
                    prefix: config.address.prefix_len(),
                    gateway: config.router.map(|it| it.octets()),
                    leased: true,
                };
                let alone = OwnAddress {
                    gateway: None,
                    ..own
                };
                [own, alone].into_iter().find(addressing::is_sound)
            }
        };
        self.set_address(own);
    }

    fn set_address(&mut self, own: Option<OwnAddress>) {
        if self.own == own {
            return;
        }
        self.own = own;
        self.news = Some(match own {
            None => String::from("the lease of this domain's address has ended"),
            Some(own) => {
                let how = if own.leased { "by DHCP" } else { "as given" };
                format!("this domain's address: {own}, {how}")
            }
        });
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(own) = own {
                let address = Ipv4Cidr::new(Ipv4Address::from(own.address), own.prefix.min(32));
                // There is room for one.
                _ = addresses.push(IpCidr::Ipv4(address));
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(gateway) = own.and_then(|own| own.gateway) {
            // There is room for one.
            _ = routes.add_default_ipv4_route(Ipv4Address::from(gateway));
        }
    }

    /// Takes one connection to a port.
    ///
    /// # Errors
    ///
    /// If there are too many, or no memory for another.
    pub fn listen(&mut self, port: u16) -> Result<Connection, Error> {
        let mut socket = self.socket()?;
        socket
            .listen(port)
            .map_err(|_| Error::BadRequest(format!("nobody can listen on port {port}")))?;
        Ok(self.add(socket))
    }

    /// Connects to a port of another station.
    ///
    /// # Errors
    ///
    /// If there are too many connections or no memory for another, or without an address.
    pub fn connect(&mut self, to: [u8; 4], port: u16) -> Result<Connection, Error> {
        let mut socket = self.socket()?;
        let to_text = Ipv4Address::from(to);
        let local = self.next_port;
        socket
            .connect(self.interface.context(), (to_text, port), local)
            .map_err(|_| Error::BadRequest(format!("there is no way to {to_text}:{port}")))?;
        self.next_port = local.checked_add(1).unwrap_or(FIRST_LOCAL_PORT);
        Ok(self.add(socket))
    }

    fn socket(&self) -> Result<tcp::Socket<'static>, Error> {
        let no_room = || Error::NoRoom(String::from("another connection"));
        if self.connections >= MAX_CONNECTIONS {
            return Err(no_room());
        }
        let buffer = || {
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(BUFFER).map_err(|_| no_room())?;
            bytes.resize(BUFFER, 0);
            Ok(tcp::SocketBuffer::new(bytes))
        };
        let mut socket = tcp::Socket::new(buffer()?, buffer()?);
        socket.set_timeout(Some(Duration::from_secs(PATIENCE)));
        // Whoever only listens would not notice that the other end is gone.
        socket.set_keep_alive(Some(Duration::from_secs(PATIENCE / 3)));
        socket.set_nagle_enabled(false);
        Ok(socket)
    }

    fn add(&mut self, socket: tcp::Socket<'static>) -> Connection {
        self.connections += 1;
        self.kicked = true;
        Connection(self.sockets.add(socket))
    }

    fn get(&mut self, connection: &Connection) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(connection.0)
    }

    /// Where a connection is in its life.
    pub fn life(&mut self, connection: &Connection) -> Life {
        let socket = self.get(connection);
        match socket.state() {
            tcp::State::Listen | tcp::State::SynSent | tcp::State::SynReceived => Life::Opening,
            _ if socket.may_recv() || socket.can_recv() => Life::Open,
            tcp::State::Closed | tcp::State::TimeWait => Life::Over,
            _ => Life::Finished,
        }
    }

    /// Takes what has come by a connection, of which `take` says how much it took; how much that was.
    pub fn receive(&mut self, connection: &Connection, take: impl FnOnce(&[u8]) -> usize) -> usize {
        let taken = self.get(connection).recv(|bytes| {
            let taken = take(bytes).min(bytes.len());
            (taken, taken)
        });
        let taken = taken.unwrap_or(0);
        // The other end may wait for the window to open.
        self.kicked |= taken > 0;
        taken
    }

    /// Sends by a connection as much as there is room for; how much that was.
    pub fn send(&mut self, connection: &Connection, bytes: &[u8]) -> usize {
        let sent = self.get(connection).send_slice(bytes).unwrap_or(0);
        self.kicked |= sent > 0;
        sent
    }

    /// Says that nothing more will be sent by a connection.
    pub fn finish(&mut self, connection: &Connection) {
        self.get(connection).close();
        self.kicked = true;
    }

    /// Lets a connection go, which is reset unless it is over.
    pub fn close(&mut self, connection: Connection, now: u64) {
        let socket = self.get(&connection);
        if !matches!(socket.state(), tcp::State::Closed | tcp::State::TimeWait) {
            socket.abort();
            let (line, sockets) = (&mut self.line, &mut self.sockets);
            // The other end is told if there is room.
            self.interface.poll_egress(instant(now), line, sockets);
        }
        self.sockets.remove(connection.0);
        self.connections -= 1;
        self.kicked = true;
    }
}

fn instant(now: u64) -> Instant {
    Instant::from_micros((now / 1000).cast_signed())
}

#[cfg(test)]
mod tests;
