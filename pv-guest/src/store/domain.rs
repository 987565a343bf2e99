//! This domain's own connection to the store, by the page and the port of its start info.

use alloc::boxed::Box;
use core::future::poll_fn;
use core::task::Poll;

use spin::Once;

use super::{Carrier, Client, Error, Failure, Frontend, Store};
use crate::events::EventChannel;
use crate::memory::{Window, ring_page};
use crate::{boot, spawn, yield_now};

static STORE: Once<Result<Store, Error>> = Once::new();

/// Fires when the store moved something.
static CHANNEL: Once<EventChannel> = Once::new();

/// This domain's store. The first to ask must be on the boot vCPU, which serves the connection.
///
/// # Errors
///
/// [`Error::NoStore`] where the start info names none.
pub fn store() -> Result<Store, Error> {
    STORE.call_once(connect).clone()
}

fn connect() -> Result<Store, Error> {
    let (mfn, port) = boot::store_ring().ok_or(Error::NoStore)?;
    // SAFETY: the start info names it.
    let page = unsafe { ring_page(mfn) }.ok_or(Error::NoStore)?;
    let channel = CHANNEL.call_once(|| EventChannel::from_builder(port));
    let store = Store::over(Box::new(Ring {
        front: Frontend::attach(page),
        channel,
    }));
    spawn(serve(store.clone(), channel)).detach();
    Ok(store)
}

async fn serve(store: Store, channel: &EventChannel) {
    loop {
        while store.turn() {
            yield_now().await;
        }
        poll_fn(|context| {
            let (fired, asked) = (channel.poll(context), store.poll_asked(context));
            if fired.is_ready() || asked.is_ready() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }
}

struct Ring {
    front: Frontend<Window>,
    channel: &'static EventChannel,
}

impl Carrier for Ring {
    fn exchange(&mut self, client: &mut Client) -> Result<bool, Failure> {
        let moved = self.front.exchange(client)?;
        if moved {
            // The port is bound for ever; a store that is gone needs no notice.
            _ = self.channel.notify();
        }
        Ok(moved)
    }

    fn reconnect(&mut self) -> bool {
        let offered = self.front.reconnect();
        if offered {
            _ = self.channel.notify();
        }
        offered
    }
}
