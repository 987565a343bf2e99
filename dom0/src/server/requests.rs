//! What each request of xl's does.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use control::message::{MAX_CHUNK, MAX_DOMAINS};
use control::{
    DomainInfo, DomainRef, Error, HostAction, NetworkReply, NetworkRequest, Reply, Request,
    TraceRequest, Usage, VolumeReply, VolumeRequest,
};

use super::channel::{Attachment, Channel, State, StoreLink};
use crate::net::sink::Sink;
use crate::scheduling;
use crate::toolstack::{Device, Toolstack};
use crate::xen::{Context, Xen};

/// What the server calls itself.
const NAME: &str = concat!("xenolith-dom0 ", env!("CARGO_PKG_VERSION"));
/// How long a client waits for a destroyed domain to be gone, in nanoseconds.
const PATIENCE: u64 = 5_000_000_000;
/// How long a client waits for a guest to let a device go, in nanoseconds; as libxl does.
const DEVICE_PATIENCE: u64 = 10_000_000_000;

impl Channel {
    /// Deals with a request. The host is to stop if it says so.
    pub fn handle<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        request: Request,
    ) -> Option<HostAction> {
        if let Request::ImageChunk(bytes) = request {
            self.on_chunk(toolstack, &bytes);
            return None;
        }
        if let State::Uploading(_) = self.state {
            self.finish(Reply::Error(Error::BadRequest(String::from(
                "the upload was not finished",
            ))));
            return None;
        }
        match self.answer(toolstack, request) {
            Ok(stop) => stop,
            Err(error) => {
                self.finish(Reply::Error(error));
                None
            }
        }
    }

    fn on_chunk<X: Xen>(&mut self, toolstack: &mut Toolstack<X>, bytes: &[u8]) {
        let State::Uploading(mut upload) = core::mem::take(&mut self.state) else {
            // Chunks of an upload that failed are still on their way.
            return;
        };
        let result = upload.push(bytes);
        if result.is_ok() && !upload.is_complete() {
            self.state = State::Uploading(upload);
            return;
        }
        self.finish(reply_of(
            result.and_then(|()| toolstack.images().finish(*upload)),
        ));
    }

    fn await_gone<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        device: Device,
    ) -> Option<HostAction> {
        let until = toolstack.xen().now().saturating_add(DEVICE_PATIENCE);
        // The notice that it is gone is on its way, if it is.
        self.state = State::AwaitingDeviceGone(device, until);
        None
    }

    fn answer<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        request: Request,
    ) -> Result<Option<HostAction>, Error> {
        let reply = match request {
            Request::Hello => Reply::Hello {
                server: NAME.to_string(),
            },
            Request::HasImage(hash) => Reply::ImageCached(toolstack.images().has(&hash)),
            Request::UploadImage { hash, size } => {
                let upload = toolstack.images().upload(hash, size)?;
                self.reply(Reply::Done);
                if upload.is_complete() {
                    toolstack.images().finish(upload)?;
                    Reply::Done
                } else {
                    self.state = State::Uploading(Box::new(upload));
                    return Ok(None);
                }
            }
            Request::CreateDomain { config, paused } => {
                Reply::Domid(toolstack.create(*config, paused)?.0)
            }
            Request::ListDomains(only) => return self.list(toolstack, only).map(|()| None),
            Request::DomainConfig(domain) => {
                let domid = toolstack.resolve(&domain)?;
                let config = toolstack.config(domid).cloned().map(Box::new);
                Reply::Config {
                    domid: domid.0,
                    config,
                }
            }
            Request::Domid(domain) => Reply::Domid(toolstack.resolve(&domain)?.0),
            Request::DomainName(domain) => {
                let domid = toolstack.resolve(&domain)?;
                Reply::Name(toolstack.name(domid).to_string())
            }
            Request::Rename { domain, name } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.rename(domid, &name)?;
                Reply::Done
            }
            Request::Pause(domain) => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.pause(domid)?;
                Reply::Done
            }
            Request::Unpause(domain) => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.unpause(domid)?;
                Reply::Done
            }
            Request::Stop {
                domain,
                how,
                patience_ms,
            } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.stop(domid, how)?;
                let patience = u64::from(patience_ms) * 1_000_000;
                let until = toolstack.xen().now().saturating_add(patience);
                self.state = State::AwaitingAcknowledgement(domid, how, until);
                return Ok(None);
            }
            Request::Sysrq { domain, key } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.press(domid, key)?;
                Reply::Done
            }
            Request::Trigger {
                domain,
                trigger,
                vcpu,
            } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.trigger(domid, trigger, vcpu)?;
                Reply::Done
            }
            Request::SetMemoryTarget { domain, kib } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.set_memory_target(domid, kib)?;
                Reply::Done
            }
            Request::SetMaxMemory { domain, kib } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.set_max_memory(domid, kib)?;
                Reply::Done
            }
            Request::SetVcpus { domain, online } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.set_vcpus(domid, online)?;
                Reply::Done
            }
            Request::UpdateConfig { domain, config } => {
                let domid = toolstack.resolve(&domain)?;
                toolstack.update(domid, *config)?;
                Reply::Done
            }
            Request::Destroy(domain) => {
                let domid = toolstack.resolve(&domain)?;
                let until = toolstack.xen().now().saturating_add(PATIENCE);
                // The notice that it is gone is on its way, if it is.
                self.state = State::AwaitingGone(domid, until);
                toolstack.destroy(domid)?;
                return Ok(None);
            }
            Request::WaitShutdown(domain) => {
                let domid = toolstack.resolve(&domain)?;
                match toolstack.shutdown_reason(domid) {
                    Some(reason) => Reply::ShutDown(Some(reason)),
                    None => {
                        self.state = State::AwaitingShutdown(domid);
                        return Ok(None);
                    }
                }
            }
            Request::AttachConsole { domain, scrollback } => {
                let domid = toolstack.resolve(&domain)?;
                let output = toolstack.scrollback(domid)?;
                let position = if scrollback { 0 } else { output.borrow().end() };
                self.state = State::Console(Attachment {
                    domid,
                    scrollback: output,
                    position,
                    typed: None,
                    end: None,
                });
                Reply::Domid(domid.0)
            }
            Request::AttachStore => {
                let client = toolstack.store().0.connect();
                self.state = State::Store(StoreLink {
                    client,
                    waiting: None,
                });
                Reply::Done
            }
            // Sent when the console had ended already, or the store's connection.
            Request::ConsoleInput(_) | Request::StoreInput(_) | Request::ImageChunk(_) => {
                return Ok(None);
            }
            // Still on its way when the import had failed.
            Request::Volume(VolumeRequest::Chunk(_)) => return Ok(None),
            Request::Volume(VolumeRequest::Import { name, bytes }) => {
                let key = toolstack.blocks().0.import(&name, bytes)?;
                self.state = State::Transfer(key);
                Reply::Done
            }
            Request::Volume(VolumeRequest::Measure { name, workload }) => {
                let key = toolstack.blocks().0.measure(&name, workload)?;
                self.state = State::Transfer(key);
                return Ok(None);
            }
            Request::Volume(VolumeRequest::Export(name)) => {
                let (key, bytes) = toolstack.blocks().0.export(&name)?;
                self.state = State::Transfer(key);
                Reply::Volume(VolumeReply::Size(bytes))
            }
            Request::HostInfo => {
                let mut info = toolstack.xen().host_info().context("physinfo")?;
                info.address = toolstack.own_stack().ok().and_then(|it| it.0.address());
                Reply::HostInfo(Box::new(info))
            }
            Request::Usage => {
                let xen = toolstack.xen();
                let mut idle_ns = xen.idle_times().context("getcpuinfo")?;
                idle_ns.truncate(Usage::MAX_CPUS);
                let time_ns = xen.now();
                let domains = toolstack.usage()?;
                self.reply(Reply::Usage(Usage { time_ns, idle_ns }));
                self.domains(domains);
                return Ok(None);
            }
            Request::Dmesg { clear } => {
                let log = toolstack.xen().read_log(clear).context("readconsole")?;
                self.text(&log);
                return Ok(None);
            }
            Request::Trace(TraceRequest::Begin { events }) => {
                let cpus = toolstack.xen().cpu_count().context("physinfo")?;
                let (trace, xen) = toolstack.trace();
                if trace.is_taken() {
                    return Err(Error::NoRoom(String::from("another trace")));
                }
                trace.begin(xen, events, cpus).context("tbuf_op")?;
                self.state = State::Trace;
                Reply::Done
            }
            // Sent when the trace had ended already.
            Request::Trace(TraceRequest::End) => return Ok(None),
            Request::Scheduling(request) => scheduling::answer(toolstack, request)?,
            Request::Block(request) => match toolstack.answer_block(request)? {
                Ok(reply) => reply,
                Err(device) => return Ok(self.await_gone(toolstack, device)),
            },
            Request::Network(NetworkRequest::Receive { port }) => {
                let (stack, _) = toolstack.own_stack()?;
                let address = stack.address().ok_or(Error::NoAddress)?;
                self.state = State::Receiving(Sink::listen(stack, port)?);
                Reply::Network(NetworkReply::Listening(address))
            }
            Request::Network(request) => match toolstack.answer_network(request)? {
                Ok(reply) => reply,
                Err(device) => return Ok(self.await_gone(toolstack, device)),
            },
            Request::StopHost(action) => {
                self.reply(Reply::Done);
                return Ok(Some(action));
            }
        };
        self.reply(reply);
        Ok(None)
    }

    fn list<X: Xen>(
        &mut self,
        toolstack: &mut Toolstack<X>,
        only: Option<DomainRef>,
    ) -> Result<(), Error> {
        let only = match &only {
            Some(domain) => Some((toolstack.resolve(domain)?, domain)),
            None => None,
        };
        let domains = toolstack.list(only.map(|(domid, _)| domid))?;
        if let Some((_, domain)) = only
            && domains.is_empty()
        {
            return Err(Error::NoSuchDomain(domain.clone()));
        }
        self.domains(domains);
        Ok(())
    }

    fn domains(&mut self, mut domains: Vec<DomainInfo>) {
        loop {
            let rest = domains.split_off(domains.len().min(MAX_DOMAINS));
            let more = !rest.is_empty();
            self.reply(Reply::Domains { domains, more });
            if !more {
                return;
            }
            domains = rest;
        }
    }

    fn text(&mut self, text: &[u8]) {
        let mut rest = text;
        loop {
            let (bytes, after) = rest.split_at(rest.len().min(MAX_CHUNK));
            let more = !after.is_empty();
            self.reply(Reply::Text {
                bytes: bytes.to_vec(),
                more,
            });
            if !more {
                return;
            }
            rest = after;
        }
    }
}

fn reply_of(result: Result<(), Error>) -> Reply {
    match result {
        Ok(()) => Reply::Done,
        Err(error) => Reply::Error(error),
    }
}
