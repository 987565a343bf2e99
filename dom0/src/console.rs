//! A guest's console: the backend of its ring, and the scrollback that its readers read from.

use alloc::format;
use alloc::rc::Rc;
use core::cell::RefCell;

use control::Error;
use hypercall_abi::types::{Domid, Port};
use split_drivers::console::Backend;

use crate::scrollback::Scrollback;
use crate::xen::{Context, Xen};

/// How much of what a guest printed is kept.
pub const SCROLLBACK: usize = 64 * 1024;

/// A guest's console.
#[derive(Debug)]
pub struct Console<M> {
    domid: Domid,
    scrollback: Rc<RefCell<Scrollback>>,
    /// The ring and our port, as long as the guest is there and keeps to the protocol.
    link: Option<Link<M>>,
}

#[derive(Debug)]
struct Link<M> {
    backend: Backend<M>,
    port: Port,
}

impl<M: split_drivers::SharedMemory> Console<M> {
    /// Takes up the console of a new domain: its page, and its port that waits for ours.
    pub fn attach<X: Xen<Mapping = M>>(
        xen: &mut X,
        domid: Domid,
        page: M,
        remote: Port,
    ) -> Result<Self, Error> {
        let backend = Backend::attach(page).map_err(|error| {
            Error::NotSupported(format!("a console page that is in use: {error}"))
        })?;
        let port = xen
            .bind_interdomain(domid, remote)
            .context("bind_interdomain")?;
        Ok(Self {
            domid,
            scrollback: Rc::new(RefCell::new(Scrollback::new(SCROLLBACK))),
            link: Some(Link { backend, port }),
        })
    }

    /// Our port, on which the guest notifies us.
    pub fn port(&self) -> Option<Port> {
        self.link.as_ref().map(|link| link.port)
    }

    /// What the guest has printed, to be kept by readers beyond the guest's end.
    pub fn scrollback(&self) -> Rc<RefCell<Scrollback>> {
        self.scrollback.clone()
    }

    /// Moves what the guest has printed into the scrollback; whether there was anything.
    pub fn pump<X: Xen<Mapping = M>>(&mut self, xen: &mut X) -> bool {
        let Some(link) = &mut self.link else {
            return false;
        };
        let mut scrollback = self.scrollback.borrow_mut();
        let mut any = false;
        let mut buffer = [0; 2048];
        // A guest that prints as fast as we read must not keep us here for ever.
        for _ in 0..4 {
            match link.backend.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => {
                    any = true;
                    scrollback.push(buffer.get(..count).unwrap_or_default());
                }
                Err(error) => {
                    drop(scrollback);
                    self.give_up(xen, &format!("{error}"));
                    return any;
                }
            }
        }
        if any {
            // The guest may wait for room. Should it be gone already, nobody does.
            let _ = xen.notify(link.port);
        }
        any
    }

    /// Types bytes; how many had room. Without a guest, all of them are taken and lost.
    pub fn input<X: Xen<Mapping = M>>(&mut self, xen: &mut X, bytes: &[u8]) -> usize {
        let Some(link) = &mut self.link else {
            return bytes.len();
        };
        match link.backend.write(bytes) {
            Ok(0) => 0,
            Ok(count) => {
                let _ = xen.notify(link.port);
                count
            }
            Err(error) => {
                self.give_up(xen, &format!("{error}"));
                bytes.len()
            }
        }
    }

    /// Reads the guest's last words and lets go of its page and of the port.
    pub fn detach<X: Xen<Mapping = M>>(&mut self, xen: &mut X) {
        self.pump(xen);
        if let Some(link) = self.link.take() {
            let _ = xen.close_port(link.port);
        }
    }

    fn give_up<X: Xen<Mapping = M>>(&mut self, xen: &mut X, why: &str) {
        if let Some(link) = self.link.take() {
            let _ = xen.close_port(link.port);
            xen.log(&format!(
                "console of domain {}: {why}; given up",
                self.domid
            ));
        }
    }
}
