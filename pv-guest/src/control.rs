//! What the toolstack asks of this domain under `control/` in the store, as Linux understands it
//! (`drivers/xen/manage.c`; `docs/misc/xenstore-paths.pandoc`): to shut down, and to take a system
//! request. Each is acknowledged by clearing its node.

use alloc::string::String;
use core::future::poll_fn;
use core::task::{Context, Poll};

use hypercall_abi::errno::Errno;

use crate::store::{Error, Store, Watch};

/// Node of the order to shut down.
const SHUTDOWN: &str = "control/shutdown";
/// Node of the system request, one character.
const SYSRQ: &str = "control/sysrq";

/// How the domain is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It is not wanted any more: `poweroff` or `halt`.
    PowerOff,
    /// It is to start anew: `reboot`.
    Reboot,
}

/// What the toolstack asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// To end. It was acknowledged, so the toolstack waits.
    End(End),
    /// A system request: the key.
    SysRq(char),
    /// To end in some other way. It is not acknowledged, by which the toolstack sees that nothing
    /// comes of it.
    Unknown(String),
}

/// Orders as they come.
pub struct Orders {
    store: Store,
    shutdown: Watch,
    sysrq: Watch,
}

impl Orders {
    /// Says what this domain obeys, and begins to listen.
    ///
    /// # Errors
    ///
    /// If the connection to the store fails. A store that does not let the domain say what it obeys
    /// is no error.
    pub async fn new(store: Store) -> Result<Self, Error> {
        for feature in ["poweroff", "reboot", "sysrq"] {
            let path = alloc::format!("control/feature-{feature}");
            match store.write(&path, "1").await {
                Ok(()) | Err(Error::Refused(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self {
            shutdown: store.watch(SHUTDOWN),
            sysrq: store.watch(SYSRQ),
            store,
        })
    }

    /// Waits for an order.
    ///
    /// # Errors
    ///
    /// If the connection to the store fails, or it refuses to be asked.
    pub async fn next(&mut self) -> Result<Order, Error> {
        loop {
            let order = match poll_fn(|context| self.poll_fired(context)).await? {
                SHUTDOWN => self.take(SHUTDOWN, end).await?,
                _ => self.take(SYSRQ, key).await?,
            };
            if let Some(order) = order {
                return Ok(order);
            }
        }
    }

    fn poll_fired(&mut self, context: &mut Context<'_>) -> Poll<Result<&'static str, Error>> {
        for (watch, path) in [(&mut self.shutdown, SHUTDOWN), (&mut self.sysrq, SYSRQ)] {
            if let Poll::Ready(fired) = watch.poll_next(context) {
                return Poll::Ready(fired.map(|_| path));
            }
        }
        Poll::Pending
    }

    /// Reads the order at `path`, if there is one, and acknowledges one that is understood.
    async fn take(
        &self,
        path: &str,
        understand: fn(&str) -> Order,
    ) -> Result<Option<Order>, Error> {
        self.store
            .transaction(async |requests| {
                let value = match requests.read(path).await {
                    Err(Error::Refused(Errno::ENOENT)) => return Ok(None),
                    other => other?,
                };
                let text = String::from_utf8_lossy(&value);
                let text = text.trim_end_matches('\0');
                if text.is_empty() {
                    return Ok(None);
                }
                let order = understand(text);
                if !matches!(order, Order::Unknown(_)) {
                    match requests.write(path, "").await {
                        // An order that cannot be acknowledged is obeyed all the same.
                        Ok(()) | Err(Error::Refused(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                Ok(Some(order))
            })
            .await
    }
}

fn end(text: &str) -> Order {
    match text {
        "poweroff" | "halt" => Order::End(End::PowerOff),
        "reboot" => Order::End(End::Reboot),
        _ => Order::Unknown(text.into()),
    }
}

fn key(text: &str) -> Order {
    Order::SysRq(text.chars().next().unwrap_or_default())
}

/// Obeys the toolstack: when it asks the domain to end, `hook` runs to its end first, whatever it
/// takes; then the domain ends. Other orders are printed.
///
/// It returns only if that is impossible, which it prints unless there is no store at all.
#[cfg(target_os = "none")]
pub async fn obey(hook: impl AsyncFnOnce(End)) {
    use crate::power::{self, Reason};
    use crate::{console, println};

    let end = match first_end().await {
        Ok(end) => end,
        Err(Error::NoStore) => return,
        Err(error) => {
            println!("control: the toolstack's orders do not come through: {error}");
            return;
        }
    };
    hook(end).await;
    console::flush();
    power::shutdown(match end {
        End::PowerOff => Reason::PowerOff,
        End::Reboot => Reason::Reboot,
    })
}

#[cfg(target_os = "none")]
async fn first_end() -> Result<End, Error> {
    use crate::println;

    let mut orders = Orders::new(crate::store::store()?).await?;
    loop {
        match orders.next().await? {
            Order::End(end) => {
                println!("control: the toolstack wants this domain to end: {end:?}");
                return Ok(end);
            }
            Order::SysRq(key) => println!("control: system request {key:?}"),
            Order::Unknown(order) => println!("control: {order:?} is not understood"),
        }
    }
}
