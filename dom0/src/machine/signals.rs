//! Events on ports, from the upcall to the service's loop.

use alloc::collections::BTreeSet;
use core::cell::RefCell;
use core::future::poll_fn;
use core::task::{Poll, Waker};

use critical_section::Mutex;
use hypercall_abi::types::Port;

#[derive(Default)]
struct State {
    raised: BTreeSet<Port>,
    waiter: Option<Waker>,
}

static STATE: Mutex<RefCell<State>> = Mutex::new(RefCell::new(State {
    raised: BTreeSet::new(),
    waiter: None,
}));

/// An event came: the handler of every port that the service deals with.
pub fn raise(port: Port) {
    let waiter = critical_section::with(|cs| {
        let mut state = STATE.borrow_ref_mut(cs);
        state.raised.insert(port);
        state.waiter.take()
    });
    if let Some(waiter) = waiter {
        waiter.wake();
    }
}

/// Waits until there are ports to [`take`].
pub async fn wait() {
    poll_fn(|context| {
        critical_section::with(|cs| {
            let mut state = STATE.borrow_ref_mut(cs);
            if state.raised.is_empty() {
                state.waiter = Some(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
    })
    .await;
}

/// The ports that had events since the last time.
pub fn take() -> BTreeSet<Port> {
    critical_section::with(|cs| core::mem::take(&mut STATE.borrow_ref_mut(cs).raised))
}
