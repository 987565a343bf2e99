//! The task of a disk: it follows the backend's state, connects, and takes responses.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::future::poll_fn;
use core::task::{Context, Poll};

use hypercall_abi::errno::Errno;
use split_drivers::block::front::Front;
use split_drivers::block::{Connection, Device, QueueNodes, Transport};
use split_drivers::xenbus::State;
use split_drivers::xenbus::frontend::{Frontend, Step};

use super::{Disk, Link, Options};
use crate::events::EventChannel;
use crate::frontend::{Place, Ring, Source};
use crate::store::{Error, Store, Watch};

/// Makes rings and ports, and tells the backend of them.
async fn connect(place: &Place, options: Options, number: u64) -> Result<Link, Error> {
    let offers = place.offers().await;
    let transport = Transport::read(|name| offers.get(name).cloned());
    let pages = 1 << options.ring_order.min(transport.max_ring_order);
    let mut rings = Vec::new();
    let mut channels = Vec::new();
    for _ in 0..options.queues.clamp(1, transport.max_queues) {
        let failed = |_| Error::Refused(Errno::ENOMEM);
        rings.push(Ring::new(place.domain, pages).map_err(failed)?);
        channels.push(EventChannel::alloc_unbound(place.domain).map_err(failed)?);
    }
    let connection = Connection {
        queues: rings
            .iter()
            .zip(&channels)
            .map(|(ring, channel)| QueueNodes {
                ring: ring.references(),
                port: channel.port(),
            })
            .collect(),
        persistent: options.persistent,
    };
    for (name, value) in connection.nodes() {
        let path = format!("{}/{name}", place.front);
        place.store.write(&path, value).await?;
    }
    Ok(Link {
        front: Front::new(rings, options.persistent),
        source: Source(place.domain),
        channels,
        number,
    })
}

pub(super) async fn drive(disk: Disk, store: Store, path: String, options: Options) {
    let result = async {
        let place = Place::find(store, path).await?;
        follow(&disk, &place, options).await
    }
    .await;
    if let Err(error) = result {
        crate::println!("block: {error}");
    }
    disk.0.borrow_mut().lose();
}

async fn follow(disk: &Disk, place: &Place, options: Options) -> Result<(), Error> {
    let mut life = Frontend::new();
    let mut written = State::Initialising;
    let mut watch = place.store.watch(&format!("{}/state", place.back));
    loop {
        let back = place.back_state().await;
        loop {
            let going_on = step(disk, place, options, &mut life, back).await;
            if life.state() != written {
                written = life.state();
                let path = format!("{}/state", place.front);
                match place.store.write(&path, format!("{written}")).await {
                    // The nodes are gone: the toolstack has taken the device away.
                    Err(Error::Refused(_)) | Ok(()) => {}
                    Err(error) => return Err(error),
                }
            }
            if !going_on {
                break;
            }
        }
        if !poll_fn(|context| poll(disk, &mut watch, context)).await? {
            life.fail();
        }
    }
}

/// Does what is due; whether there may be more.
async fn step(
    disk: &Disk,
    place: &Place,
    options: Options,
    life: &mut Frontend,
    back: State,
) -> bool {
    match life.advance(back) {
        Step::Wait => return false,
        Step::Connect => {
            let number = disk.0.borrow().connections + 1;
            match connect(place, options, number).await {
                Ok(link) => {
                    let mut state = disk.0.borrow_mut();
                    state.connections = number;
                    state.link = Some(link);
                    life.offered();
                }
                Err(error) => {
                    crate::println!("block: {}: {error}", place.front);
                    life.fail();
                }
            }
        }
        Step::Start => {
            let offers = place.offers().await;
            match Device::read(|name| offers.get(name).cloned()) {
                Ok(device) => {
                    let mut state = disk.0.borrow_mut();
                    if let Some(link) = &mut state.link {
                        link.front.start(device);
                    }
                    state.ready = true;
                    state.wake_others();
                    life.connected();
                }
                Err(error) => {
                    crate::println!("block: {}: {error}", place.back);
                    life.fail();
                }
            }
        }
        Step::Quiesce => {
            let mut state = disk.0.borrow_mut();
            state.ready = false;
            let idle = state.link.as_ref().is_none_or(|link| link.front.is_idle());
            if life.is_served() && !idle {
                return false;
            }
            state.lose();
            state.wake_others();
            life.quiet();
        }
        Step::Release => {
            let mut state = disk.0.borrow_mut();
            state.lose();
            state.link = None;
            life.released();
        }
    }
    true
}

/// Ready when the backend's state may have changed, or when the last request of a device that is closing
/// has ended; false if the backend breaks the protocol.
fn poll(disk: &Disk, watch: &mut Watch, context: &mut Context<'_>) -> Poll<Result<bool, Error>> {
    let mut state = disk.0.borrow_mut();
    if let Some(link) = &state.link {
        let fired = link
            .channels
            .iter()
            .filter(|channel| channel.poll(context).is_ready())
            .count();
        if fired > 0 {
            // The channels that fired have to be waited for anew.
            context.waker().wake_by_ref();
            if !state.turn() {
                return Poll::Ready(Ok(false));
            }
            let idle = state.link.as_ref().is_some_and(|link| link.front.is_idle());
            if !state.ready && idle {
                return Poll::Ready(Ok(true));
            }
        }
    }
    watch.poll_next(context).map(|event| event.map(|_| true))
}
