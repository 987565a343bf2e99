mod http;
mod volume;

use alloc::rc::Rc;
use core::future::pending;
use core::time::Duration;

use pv_guest::block::{Disk, Options};
use pv_guest::net::{Listener, Network};
use pv_guest::power::{Reason, shutdown};
use pv_guest::store::store;
use pv_guest::{boot, clock, control, println, spawn};

use volume::Volume;

pv_guest::entry!(main);

/// Connections at a time.
const CONNECTIONS: usize = 8;
/// How long a client may take for its request, and for each step of taking the answer.
const PATIENCE: Duration = Duration::from_secs(20);

async fn main() {
    spawn(control::obey(async |_| ())).detach();
    let Ok(store) = store() else {
        println!("httpd: there is no store");
        shutdown(Reason::Crash)
    };
    let name = boot::option("disk").unwrap_or("xvda");
    let Some(disk) = Disk::open(store.clone(), name, Options::default()) else {
        println!("httpd: there can be no disk {name}");
        shutdown(Reason::Crash)
    };
    let network = Network::open(store, 0, None);
    let port = boot::option("port")
        .and_then(|port| port.parse().ok())
        .unwrap_or(80);
    let address = network.address().await.address();
    println!("httpd: serves {name} at http://{address}:{port}/");
    let volume = Rc::new(Volume::new(disk));
    for _ in 0..CONNECTIONS {
        spawn(serve(network.listen(port), volume.clone())).detach();
    }
    pending::<()>().await;
}

async fn serve(listener: Listener, volume: Rc<Volume>) {
    loop {
        match listener.accept().await {
            Ok(stream) => http::answer(stream, &volume, PATIENCE).await,
            // Without an address nobody can come.
            Err(_) => clock::sleep(PATIENCE).await,
        }
    }
}
