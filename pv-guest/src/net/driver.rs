//! The tasks of a network interface: one follows the backend's state and connects, the other moves frames.

use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use core::future::{Future, poll_fn};
use core::pin::pin;
use core::task::Poll;

use hypercall_abi::errno::Errno;
use smoltcp::iface::{Config, Interface, SocketSet};
use smoltcp::socket::dhcpv4;
use smoltcp::wire::{EthernetAddress, HardwareAddress};
use split_drivers::net::front::Front;
use split_drivers::net::{Connection, Features, Mac, Ports, QueueNodes, Transport};
use split_drivers::xenbus::State;
use split_drivers::xenbus::frontend::{Frontend, Step};

use super::{Link, Network, Port, Stack, Wire, instant};
use crate::events::EventChannel;
use crate::frontend::{Place, Ring, Source};
use crate::store::{Error, Store};
use crate::{clock, vcpus};

/// Pages for frames to come, in all queues.
const DEPTH: usize = 128;
/// The least that a queue has of them: the largest frame, and another.
const LEAST_DEPTH: usize = 36;

/// What this end takes.
const FEATURES: Features = Features {
    multicast: false,
    ..Features::ALL
};

pub(super) async fn drive(network: Network, store: Store, path: String) {
    let result = async {
        let place = Place::find(store, path).await?;
        follow(&network, &place).await
    }
    .await;
    if let Err(error) = result {
        crate::println!("net: {error}");
    }
}

async fn follow(network: &Network, place: &Place) -> Result<(), Error> {
    let mut life = Frontend::new();
    let mut written = State::Initialising;
    let mut watch = place.store.watch(&format!("{}/state", place.back));
    loop {
        let back = place.back_state().await;
        while step(network, place, &mut life, back).await | (said(life.state()) != written) {
            if said(life.state()) == written {
                continue;
            }
            written = said(life.state());
            let path = format!("{}/state", place.front);
            match place.store.write(&path, format!("{written}")).await {
                // The nodes are gone: the toolstack has taken the device away.
                Err(Error::Refused(_)) | Ok(()) => {}
                Err(error) => return Err(error),
            }
        }
        poll_fn(|context| {
            let mut state = network.0.borrow_mut();
            state.follower = Some(context.waker().clone());
            if core::mem::take(&mut state.broken) {
                life.fail();
                return Poll::Ready(Ok(()));
            }
            watch.poll_next(context).map(|event| event.map(drop))
        })
        .await?;
    }
}

/// The state as this protocol has it: backends connect when the frontend says that it is.
fn said(state: State) -> State {
    match state {
        State::Initialised => State::Connected,
        other => other,
    }
}

/// Does what is due; whether there may be more.
async fn step(network: &Network, place: &Place, life: &mut Frontend, back: State) -> bool {
    match life.advance(back) {
        Step::Wait => return false,
        Step::Connect => match connect(network, place).await {
            Ok(link) => {
                let mut state = network.0.borrow_mut();
                state.link = Some(link);
                state.broken = false;
                life.offered();
            }
            Err(error) => {
                crate::println!("net: {}: {error}", place.front);
                life.fail();
            }
        },
        Step::Start => {
            life.connected();
            network.0.borrow_mut().kick();
        }
        Step::Quiesce => {
            if let Some(link) = &mut network.0.borrow_mut().link {
                link.front.fail();
            }
            life.quiet();
        }
        Step::Release => {
            network.0.borrow_mut().link = None;
            life.released();
        }
    }
    true
}

/// Makes rings and ports, and tells the backend of them; and the stack, the first time.
async fn connect(network: &Network, place: &Place) -> Result<Link, Error> {
    let failed = |_| Error::Refused(Errno::ENOMEM);
    let mac = place.value(&format!("{}/mac", place.front)).await;
    let mac = mac.and_then(|mac| Mac::parse(mac.trim()));
    let mac = mac.ok_or(Error::Refused(Errno::EINVAL))?;
    let offers = place.offers().await;
    let offered = Features::read(|name| offers.get(name).cloned());
    let offered = offered.map_err(|_| Error::Refused(Errno::EOPNOTSUPP))?;
    let transport = Transport::read(|name| offers.get(name).cloned());
    let mut rings = Vec::new();
    let mut channels = Vec::new();
    let mut queues = Vec::new();
    for _ in 0..vcpus::count().clamp(1, transport.max_queues) {
        let ring = || Ring::new(place.domain, 1).map_err(failed);
        let (tx, rx) = (ring()?, ring()?);
        let channel = EventChannel::alloc_unbound(place.domain).map_err(failed)?;
        queues.push(QueueNodes {
            tx: tx.references()[0],
            rx: rx.references()[0],
            ports: Ports::One(channel.port()),
        });
        rings.push((tx, rx));
        channels.push(channel);
    }
    let depth = (DEPTH / queues.len()).max(LEAST_DEPTH);
    let connection = Connection {
        queues,
        features: FEATURES,
    };
    for (name, value) in connection.nodes() {
        let path = format!("{}/{name}", place.front);
        place.store.write(&path, value).await?;
    }
    let mut link = Link {
        front: Front::new(rings, offered, depth),
        source: Source(place.domain),
        channels,
    };
    link.publish();
    let mut state = network.0.borrow_mut();
    if state.stack.is_none() {
        let given = state.given;
        let stack = make_stack(&mut link, mac, given.is_none());
        let stack = state.stack.insert(stack);
        if given.is_some() {
            stack.set_address(given, None);
            state.address = given;
        }
        let others = core::mem::take(&mut state.others);
        others.into_iter().for_each(core::task::Waker::wake);
    }
    Ok(link)
}

fn make_stack(link: &mut Link, mac: Mac, by_dhcp: bool) -> Stack {
    let address = HardwareAddress::Ethernet(EthernetAddress(mac.0));
    let mut config = Config::new(address);
    config.random_seed = clock::now() ^ u64::from(mac.0[5]) << 32;
    let mut port = Port(Wire {
        link: Some(link),
        incoming: &mut Default::default(),
    });
    let interface = Interface::new(config, &mut port, instant());
    let mut sockets = SocketSet::new(vec![]);
    let dhcp = by_dhcp.then(|| sockets.add(dhcpv4::Socket::new()));
    Stack {
        interface,
        sockets,
        dhcp,
    }
}

/// Moves frames when there are some, and has the stack do what is due.
pub(super) async fn pump(network: Network) {
    loop {
        let due = {
            let mut state = network.0.borrow_mut();
            let state = &mut *state;
            if let Some(link) = &mut state.link {
                match link.front.turn() {
                    Ok(frames) => state.incoming.extend(frames),
                    Err(violation) => {
                        crate::println!("net: the backend breaks the protocol: {violation}");
                        state.broken = true;
                        if let Some(follower) = state.follower.take() {
                            follower.wake();
                        }
                    }
                }
            }
            state.advance();
            state.due()
        };
        let mut sleep = pin!(clock::sleep_until(due));
        poll_fn(|context| {
            let mut state = network.0.borrow_mut();
            let first = state.mover.is_none();
            state.mover = Some(context.waker().clone());
            let fired = state.link.as_ref().is_some_and(|link| link.poll(context));
            let kicked = core::mem::take(&mut state.kicked);
            let ready = first || fired || kicked || sleep.as_mut().poll(context).is_ready();
            if ready {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}
