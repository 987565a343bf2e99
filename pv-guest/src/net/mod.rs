//! Network interfaces that another domain serves: the frontend of [`split_drivers::net`], with a TCP/IP stack
//! on it.
//!
//! A [`Network`] lasts as long as its domain. The device behind it may be taken away and come back; its
//! connections notice nothing but silence. The address comes by DHCP, or is given.

mod driver;
mod ping;
mod port;
mod tcp;

use alloc::collections::VecDeque;
use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::time::Instant;
use smoltcp::wire::IpCidr;
pub use smoltcp::wire::{IpEndpoint, Ipv4Address, Ipv4Cidr};
use split_drivers::net::Frame;
use split_drivers::net::stack::Port;

use crate::store::Store;
use crate::{clock, spawn};
use port::{Link, Wire};
pub use tcp::{Error, Listener, TcpStream};

/// The first of the ports that connections are made from.
const FIRST_LOCAL_PORT: u16 = 49152;

/// The stack, once the interface has its address.
struct Stack {
    interface: Interface,
    sockets: SocketSet<'static>,
    /// Unless the address was given.
    dhcp: Option<SocketHandle>,
}

struct State {
    link: Option<Link>,
    incoming: VecDeque<Frame>,
    stack: Option<Stack>,
    /// The address that is given instead of by DHCP.
    given: Option<Ipv4Cidr>,
    address: Option<Ipv4Cidr>,
    next_port: u16,
    /// Of the task that moves frames.
    mover: Option<Waker>,
    /// Of the task that follows the backend's state.
    follower: Option<Waker>,
    /// The backend has broken the protocol.
    broken: bool,
    /// It is to look even if nothing came.
    kicked: bool,
    /// Of those who wait for the stack or for an address.
    others: Vec<Waker>,
}

impl State {
    /// Has the stack see what came, and send what it has to.
    fn advance(&mut self) {
        let Some(stack) = &mut self.stack else {
            self.incoming.clear();
            return;
        };
        let mut port = Port(Wire {
            link: self.link.as_mut(),
            incoming: &mut self.incoming,
        });
        stack
            .interface
            .poll(instant(), &mut port, &mut stack.sockets);
        if let Some(link) = &mut self.link {
            link.publish();
        }
        self.hear_of_address();
    }

    fn hear_of_address(&mut self) {
        let Some(stack) = &mut self.stack else {
            return;
        };
        let Some(dhcp) = stack.dhcp else {
            return;
        };
        let (address, router) = match stack.sockets.get_mut::<dhcpv4::Socket<'_>>(dhcp).poll() {
            None => return,
            Some(dhcpv4::Event::Configured(config)) => (Some(config.address), config.router),
            Some(dhcpv4::Event::Deconfigured) => (None, None),
        };
        stack.set_address(address, router);
        self.address = address;
        self.others.drain(..).for_each(Waker::wake);
    }

    /// Has the task that moves frames look.
    fn kick(&mut self) {
        self.kicked = true;
        if let Some(mover) = &self.mover {
            mover.wake_by_ref();
        }
    }

    /// When the stack has something to do at the latest, in nanoseconds of system time.
    fn due(&mut self) -> u64 {
        let Some(stack) = &mut self.stack else {
            return u64::MAX;
        };
        match stack.interface.poll_at(instant(), &stack.sockets) {
            // Without a connection there is nothing to send by.
            Some(at) if self.link.is_some() => u64::try_from(at.total_micros())
                .unwrap_or(0)
                .saturating_mul(1000),
            _ => u64::MAX,
        }
    }

    /// Resets a connection that nobody has any more, once what it has to say is said.
    fn forget(&mut self, handle: SocketHandle) {
        if let Some(stack) = &mut self.stack {
            let socket = stack.sockets.get_mut::<tcp::Socket<'_>>(handle);
            if socket.is_open() && socket.state() != tcp::TcpState::TimeWait {
                socket.abort();
            }
            self.advance();
            if let Some(stack) = &mut self.stack {
                stack.sockets.remove(handle);
            }
        }
    }
}

impl Stack {
    fn set_address(&mut self, address: Option<Ipv4Cidr>, router: Option<Ipv4Address>) {
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some(address) = address {
                // There is room for one.
                _ = addresses.push(IpCidr::Ipv4(address));
            }
        });
        let routes = self.interface.routes_mut();
        routes.remove_default_ipv4_route();
        if let Some(router) = router {
            // There is room for one.
            _ = routes.add_default_ipv4_route(router);
        }
    }
}

fn instant() -> Instant {
    Instant::from_micros((clock::now() / 1000).cast_signed())
}

/// A network interface with its stack.
#[derive(Clone)]
pub struct Network(Rc<RefCell<State>>);

impl Network {
    /// The interface of that number, whether it is there yet or not, with an address by DHCP or the one
    /// `given`. It is served on the vCPU that asks, the boot one.
    pub fn open(store: Store, number: u32, given: Option<Ipv4Cidr>) -> Self {
        let network = Self(Rc::new(RefCell::new(State {
            link: None,
            incoming: VecDeque::new(),
            stack: None,
            given,
            address: None,
            // Those of before a restart are not taken again at once.
            next_port: FIRST_LOCAL_PORT + (clock::now() % 8192) as u16,
            mover: None,
            follower: None,
            broken: false,
            kicked: false,
            others: Vec::new(),
        })));
        let path = format!("device/vif/{number}");
        spawn(driver::drive(network.clone(), store, path)).detach();
        spawn(driver::pump(network.clone())).detach();
        network
    }

    /// Waits until it has an address.
    pub async fn address(&self) -> Ipv4Cidr {
        poll_fn(|context| {
            let mut state = self.0.borrow_mut();
            match state.address {
                Some(address) => Poll::Ready(address),
                None => {
                    state.others.push(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl core::fmt::Debug for Network {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("Network").finish_non_exhaustive()
    }
}
