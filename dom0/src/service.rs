//! The loop of the control domain: it waits for the client, for guests, for the hypervisor and for
//! the clock, and has the library deal with what comes.

use core::time::Duration;

use dom0::Toolstack;
use dom0::net::addressing::Addressing;
use dom0::server::Server;
use dom0::xen::Xen;
use hypercall_abi::types::Port;
use hypercall_abi::xen::{VIRQ_DOM_EXC, VIRQ_TBUF};
use pv_guest::events::EventChannel;
use pv_guest::{boot, clock, println, yield_now};

use crate::machine::hypervisor::Hypervisor;
use crate::machine::stream::Stream;
use crate::machine::{pci, signals};

pv_guest::entry!(main);

/// How often a device is looked at whose interrupt could not be had, in nanoseconds.
const POLL_INTERVAL: u64 = 2_000_000;
/// The shortest sleep, in nanoseconds: what is overdue and cannot be helped must not keep the CPU.
const SHORTEST_SLEEP: u64 = 1_000_000;

async fn main() {
    println!(
        "dom0 {} starts, {} ms after power-on",
        env!("CARGO_PKG_VERSION"),
        clock::now() / 1_000_000
    );
    let info = boot::start_info();
    // Half of the memory is for the kernels and ramdisks that domains are built from.
    let image_room = info.nr_pages * 4096 / 2;
    let mut service = Service {
        toolstack: Toolstack::new(Hypervisor::new(), image_room, addressing()),
        server: Server::new(clock::wall_clock().as_nanos() as u64),
        stream: find_stream(),
        domain_exception: bind_virq(VIRQ_DOM_EXC, "domains that end"),
        trace_buffer: bind_virq(VIRQ_TBUF, "trace buffers that fill up"),
    };
    println!(
        "dom0 is ready, {} ms after power-on",
        clock::now() / 1_000_000
    );
    service.run().await;
}

/// How this domain comes to its address, by its command line. Who asks for one that cannot be does not get another.
fn addressing() -> Addressing {
    Addressing::parse(boot::option("ip"), boot::option("gateway")).unwrap_or_else(|error| {
        println!("no address: {error}");
        Addressing::None
    })
}

fn find_stream() -> Option<Stream> {
    match Stream::find() {
        Ok(stream) => {
            println!("control port: {stream}");
            Some(stream)
        }
        Err(error) => {
            println!("no control port: {error}");
            None
        }
    }
}

fn bind_virq(virq: u32, what: &str) -> Option<EventChannel> {
    match EventChannel::bind_virq(virq) {
        Ok(channel) => {
            channel.set_handler(signals::raise);
            Some(channel)
        }
        Err(error) => {
            println!("{what} will not be noticed: {error}");
            None
        }
    }
}

struct Service {
    toolstack: Toolstack<Hypervisor>,
    server: Server,
    stream: Option<Stream>,
    domain_exception: Option<EventChannel>,
    trace_buffer: Option<EventChannel>,
}

impl Service {
    async fn run(&mut self) {
        // Those that came before there was a handler, too.
        let mut fired = pci::ports();
        loop {
            self.toolstack.xen().acknowledge_disks();
            self.toolstack.xen().acknowledge_nic();
            let busy = self.toolstack.serve_store()
                | self.toolstack.serve_disks()
                | self.toolstack.serve_network();
            self.server.advance(&mut self.toolstack);
            self.serve_stream();
            if let Some(action) = self.server.stop_requested()
                && self.stream.as_ref().is_none_or(Stream::is_idle)
            {
                println!("the host stops: {action:?}");
                if let Err(error) = self.toolstack.xen().stop_host(action) {
                    println!("it does not: {error}");
                }
            }
            pci::end_interrupts(&fired);
            let ready = self.toolstack.store().0.is_ready() || self.toolstack.is_network_ready();
            if !busy && !ready {
                let sleep = self.next_deadline().saturating_sub(clock::now());
                let wait = Duration::from_nanos(sleep.max(SHORTEST_SLEEP));
                // Time that is up is as good a reason to go on as a signal.
                let _ = clock::timeout(wait, signals::wait()).await;
            } else {
                yield_now().await;
            }
            fired = signals::take();
            for port in &fired {
                self.on_signal(*port);
            }
            self.toolstack.tick();
        }
    }

    /// When to go on at the latest.
    fn next_deadline(&mut self) -> u64 {
        let silent = self.stream.as_ref().is_some_and(|it| !it.has_interrupt());
        let xen = self.toolstack.xen();
        let silent = silent || xen.has_silent_disk() || xen.has_silent_nic();
        let poll = silent.then(|| clock::now() + POLL_INTERVAL);
        [poll, self.server.deadline(), self.toolstack.deadline()]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(u64::MAX)
    }

    fn on_signal(&mut self, port: Port) {
        let is = |channel: &EventChannel| channel.port() == port;
        if self.domain_exception.as_ref().is_some_and(is) {
            self.toolstack.on_domain_exception();
        } else if self.trace_buffer.as_ref().is_some_and(is) {
            self.toolstack.trace().0.on_half_full();
        } else {
            // The stream's own port is served in any case.
            self.toolstack.on_port(port);
        }
    }

    fn serve_stream(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        stream.acknowledge();
        while self.server.wants_input()
            && stream.receive(|bytes| self.server.receive(&mut self.toolstack, bytes))
        {}
        loop {
            stream.pump_output();
            if !stream.wants_output() {
                break;
            }
            let output = self.server.take_output(&mut self.toolstack);
            if output.is_empty() {
                break;
            }
            stream.send(output);
        }
    }
}
