//! Two domains that wake each other in turns. The toolstack writes the other's number to `data/peer` of each; the one
//! with the lower number makes the event channel, and says in the store which it is.

use alloc::format;
use core::str::FromStr;
use core::time::Duration;

use hypercall_abi::types::{Domid, Port};
use pv_guest::events::{EventChannel, own_domid};
use pv_guest::store::{self, Store};
use pv_guest::{clock, println};

use super::meter::Meter;
use super::sleeper::Sleeper;

/// Where the port is.
const PORT: &str = "data/port";

/// Measures, as `name`, what it takes until the other domain has been woken and has woken this one.
pub async fn run(meter: &Meter, name: &str) {
    let store = store::store().expect("a store");
    let own = own_domid().expect("a number");
    let peer = Domid(read(&store, "data/peer").await);
    if own < peer {
        let channel = EventChannel::alloc_unbound(peer).expect("a port");
        let port = format!("{}", channel.port().0);
        store.write(PORT, port).await.expect("it is written");
        let permissions = [format!("n{}", own.0), format!("r{}", peer.0)];
        let permissions = permissions.each_ref().map(|it| it.as_str());
        let done = store.set_permissions(PORT, &permissions).await;
        done.expect("the peer may read it");
        let mut sleeper = Sleeper::new(channel.port(), || channel.take());
        for _ in 0..meter.total() {
            sleeper.wait();
            channel.notify().expect("the port is bound");
        }
    } else {
        let path = format!("/local/domain/{}/{PORT}", peer.0);
        let port = Port(read(&store, &path).await);
        let channel = EventChannel::bind_interdomain(peer, port).expect("the port is there");
        // What the hypervisor says when they are connected.
        channel.wait().await;
        let mut sleeper = Sleeper::new(channel.port(), || channel.take());
        meter.measure(name, |_| {
            channel.notify().expect("the port is bound");
            sleeper.wait();
        });
    }
    println!("# done");
}

/// Reads a number that somebody else writes to the store, once it is there.
async fn read<T: FromStr>(store: &Store, path: &str) -> T {
    loop {
        match store.parse(path).await {
            Ok(number) => return number,
            Err(_) => clock::sleep(Duration::from_millis(5)).await,
        }
    }
}
