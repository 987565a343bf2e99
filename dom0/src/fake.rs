//! A model of the hypervisor for tests: it knows frames and their owners, domains, ports and
//! mappings, refuses what the real one refuses, and can be told to fail at any call.

mod nic;
mod scheduler;
pub mod storage;
mod tracing;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use control::scheduling::{CpuSet, Parameters, Share};
use control::{HostAction, HostInfo};
use hypercall_abi::arch_x86::VcpuGuestContext;
use hypercall_abi::domctl::XEN_DOMCTL_SENDTRIGGER_NMI;
use hypercall_abi::errno::Errno;
use hypercall_abi::types::{Domid, Mfn, Port};
use split_drivers::SharedMemory;

use crate::toolstack::UPCALLS;
use crate::xen::{DomainStatus, NewDomain, PAGE_SIZE, Xen};

/// The frames' contents, shared with the mappings.
#[derive(Debug)]
pub struct Frame {
    /// Filled in when first looked at: most frames never are.
    bytes: RefCell<Vec<u8>>,
    mappings: Cell<usize>,
}

impl Frame {
    fn bytes(&self) -> RefMut<'_, Vec<u8>> {
        let mut bytes = self.bytes.borrow_mut();
        // Something, not zeroes: frames that the hypervisor hands out have had other owners.
        bytes.resize(PAGE_SIZE, 0xc2);
        bytes
    }
}

#[derive(Debug)]
pub struct Mapping {
    frames: Vec<Rc<Frame>>,
    /// Whether it is this domain's, which the hypervisor knows of, and not the owner's own.
    foreign: bool,
}

impl Mapping {
    fn each(&self, offset: usize, length: usize, mut f: impl FnMut(&mut [u8], usize)) {
        assert!(offset + length <= self.size(), "access beyond the mapping");
        let mut done = 0;
        while done < length {
            let (page, at) = ((offset + done) / PAGE_SIZE, (offset + done) % PAGE_SIZE);
            let count = (length - done).min(PAGE_SIZE - at);
            f(&mut self.frames[page].bytes()[at..at + count], done);
            done += count;
        }
    }
}

impl SharedMemory for Mapping {
    fn size(&self) -> usize {
        self.frames.len() * PAGE_SIZE
    }

    fn load_index(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn store_index(&self, offset: usize, value: u32) {
        self.write(offset, &value.to_le_bytes());
    }

    fn read(&self, offset: usize, bytes: &mut [u8]) {
        let length = bytes.len();
        self.each(offset, length, |part, at| {
            bytes[at..at + part.len()].copy_from_slice(part);
        });
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        self.each(offset, bytes.len(), |part, at| {
            part.copy_from_slice(&bytes[at..at + part.len()]);
        });
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        for frame in self.frames.iter().filter(|_| self.foreign) {
            frame.mappings.set(frame.mappings.get() - 1);
        }
    }
}

#[derive(Debug)]
pub struct FakeDomain {
    pub handle: [u8; 16],
    pub max_kib: u64,
    pub max_vcpus: u32,
    pub max_port: u32,
    pub vcpus: u32,
    pub pauses: u32,
    pub dying: bool,
    pub shutdown: Option<u8>,
    pub frames: BTreeSet<u64>,
    pub shared_info: u64,
    pub m2p: BTreeMap<u64, u64>,
    pub root: Option<u64>,
    pub hypercall_page: Option<u64>,
    pub context: Option<VcpuGuestContext>,
    /// Guest's ports: the port of ours that each is bound to.
    pub ports: BTreeMap<u32, Option<u32>>,
}

#[derive(Debug)]
pub struct Fake {
    pub frames: BTreeMap<u64, Rc<Frame>>,
    pub free: Vec<u64>,
    pub domains: BTreeMap<u16, FakeDomain>,
    next_domid: u16,
    /// Our ports: the guest and its port.
    pub ports: BTreeMap<u32, (u16, u32)>,
    next_port: u32,
    pub notified: Vec<u32>,
    /// Chunks of 2 MiB that can be had.
    pub large_chunks: usize,
    pub clock: u64,
    pub logged: Vec<String>,
    pub stopped: Option<HostAction>,
    pub log: Vec<u8>,
    /// The values of the counter of upcalls.
    pub upcalls: Vec<u32>,
    /// Counted down at each call that can fail; at 0 it fails.
    pub fail_in: Option<u32>,
    pub calls: Vec<&'static str>,
    /// The CPUs that vCPUs may and had better run on, where they were set.
    pub affinities: BTreeMap<(Domid, u32), (CpuSet, CpuSet)>,
    /// Weights and caps, where they were set.
    pub shares: BTreeMap<Domid, Share>,
    parameters: Parameters,
    pub storage: storage::Disks,
    pub nic: nic::FakeNic,
    /// The tracer's buffers.
    pub trace: tracing::FakeTrace,
}

impl Fake {
    /// A machine with so many pages free for domains.
    pub fn new(pages: usize) -> Self {
        // Frames that were used before are not zero, and not in order.
        let free = (0..pages as u64)
            .map(|n| 0x1000 + (n * 7919) % pages as u64)
            .collect::<Vec<_>>();
        assert_eq!(
            free.iter().collect::<BTreeSet<_>>().len(),
            pages,
            "choose another size"
        );
        Self {
            frames: BTreeMap::new(),
            free,
            domains: BTreeMap::new(),
            next_domid: 1,
            ports: BTreeMap::new(),
            next_port: 1,
            notified: Vec::new(),
            large_chunks: 4,
            clock: 0,
            logged: Vec::new(),
            stopped: None,
            upcalls: Vec::new(),
            log: b"(XEN) hello\n".to_vec(),
            fail_in: None,
            calls: Vec::new(),
            affinities: BTreeMap::new(),
            shares: BTreeMap::new(),
            parameters: Parameters {
                timeslice_ms: 30,
                ratelimit_us: 1000,
                migration_delay_us: 0,
            },
            storage: storage::Disks::default(),
            nic: nic::FakeNic::default(),
            trace: tracing::FakeTrace::default(),
        }
    }

    fn call(&mut self, name: &'static str) -> Result<(), Errno> {
        self.calls.push(name);
        match &mut self.fail_in {
            Some(0) => {
                self.fail_in = None;
                Err(Errno::EIO)
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn domain(&mut self, domid: Domid) -> Result<&mut FakeDomain, Errno> {
        self.domains.get_mut(&domid.0).ok_or(Errno::ESRCH)
    }

    fn take_frame(&mut self) -> Option<u64> {
        let mfn = self.free.pop()?;
        let frame = Frame {
            bytes: RefCell::default(),
            mappings: Cell::new(0),
        };
        self.frames.insert(mfn, Rc::new(frame));
        Some(mfn)
    }

    pub fn bytes(&self, mfn: u64) -> Vec<u8> {
        self.frames[&mfn].bytes().clone()
    }

    fn word(&self, mfn: u64, offset: usize) -> u64 {
        let bytes = self.frames[&mfn].bytes();
        u64::from_le_bytes(bytes[offset..offset + 8].try_into().unwrap())
    }

    /// A guest's view of a page of its own.
    pub fn own_page(&self, mfn: u64) -> Mapping {
        Mapping {
            frames: vec![self.frames[&mfn].clone()],
            foreign: false,
        }
    }

    /// What a guest writes into its own memory.
    pub fn poke(&self, mfn: u64, offset: usize, bytes: &[u8]) {
        self.frames[&mfn].bytes()[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// Frees dying domains whose frames nobody has mapped.
    pub fn reap(&mut self) {
        let dead: Vec<u16> = self
            .domains
            .iter()
            .filter(|(_, d)| {
                d.dying
                    && d.frames
                        .iter()
                        .all(|mfn| self.frames[mfn].mappings.get() == 0)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in dead {
            let domain = self.domains.remove(&id).unwrap();
            for mfn in domain.frames {
                self.frames.remove(&mfn);
                self.free.push(mfn);
            }
            self.ports.retain(|_, (guest, _)| *guest != id);
        }
    }

    /// A domain's frame by its address in the boot page tables, and whether it may write there.
    pub fn walk(&self, domid: Domid, va: u64) -> Option<(u64, bool)> {
        let domain = &self.domains[&domid.0];
        let mut table = domain.root?;
        let mut writable = true;
        for level in [4, 3, 2, 1] {
            let index = (va >> (3 + 9 * level)) as usize & 0x1ff;
            let entry = self.word(table, index * 8);
            if entry & 1 == 0 {
                return None;
            }
            writable &= entry & 2 != 0;
            table = entry >> 12 & 0xff_ffff_ffff;
            assert!(domain.frames.contains(&table), "a frame of somebody else");
        }
        Some((table, writable))
    }

    /// Reads a guest's memory by virtual address.
    pub fn peek(&self, domid: Domid, va: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let at = va + bytes.len() as u64;
            let (mfn, _) = self.walk(domid, at).expect("is mapped");
            let offset = (at & 0xfff) as usize;
            let count = (length - bytes.len()).min(PAGE_SIZE - offset);
            bytes.extend_from_slice(&self.bytes(mfn)[offset..offset + count]);
        }
        bytes
    }
}

impl Xen for Fake {
    type Mapping = Mapping;

    fn now(&self) -> u64 {
        self.clock
    }

    fn wall_clock(&self) -> u64 {
        1_700_000_000 + self.clock / 1_000_000_000
    }

    fn log(&mut self, line: &str) {
        self.logged.push(line.to_string());
    }

    fn create_domain(&mut self, domain: &NewDomain) -> Result<Domid, Errno> {
        self.call("createdomain")?;
        let shared_info = self.take_frame().ok_or(Errno::ENOMEM)?;
        self.poke(shared_info, 0, &[0; PAGE_SIZE]);
        let domid = self.next_domid;
        self.next_domid += 1;
        let domain = FakeDomain {
            handle: domain.handle,
            max_kib: 0,
            max_vcpus: domain.max_vcpus,
            max_port: domain.max_port,
            vcpus: 0,
            pauses: 1,
            dying: false,
            shutdown: None,
            frames: BTreeSet::from([shared_info]),
            shared_info,
            m2p: BTreeMap::new(),
            root: None,
            hypercall_page: None,
            context: None,
            ports: BTreeMap::new(),
        };
        self.domains.insert(domid, domain);
        Ok(Domid(domid))
    }

    fn destroy_domain(&mut self, domid: Domid) -> Result<(), Errno> {
        // The last resort works, or nothing would.
        self.calls.push("destroydomain");
        self.domain(domid)?.dying = true;
        self.reap();
        Ok(())
    }

    fn pause_domain(&mut self, domid: Domid) -> Result<(), Errno> {
        self.call("pausedomain")?;
        self.domain(domid)?.pauses += 1;
        Ok(())
    }

    fn unpause_domain(&mut self, domid: Domid) -> Result<(), Errno> {
        self.call("unpausedomain")?;
        let pauses = &mut self.domain(domid)?.pauses;
        *pauses = pauses.checked_sub(1).ok_or(Errno::EINVAL)?;
        Ok(())
    }

    fn set_handle(&mut self, domid: Domid, handle: [u8; 16]) -> Result<(), Errno> {
        self.call("setdomainhandle")?;
        self.domain(domid)?.handle = handle;
        Ok(())
    }

    fn set_max_vcpus(&mut self, domid: Domid, vcpus: u32) -> Result<(), Errno> {
        self.call("max_vcpus")?;
        let domain = self.domain(domid)?;
        if vcpus != domain.max_vcpus {
            return Err(Errno::EINVAL);
        }
        domain.vcpus = vcpus;
        Ok(())
    }

    fn set_max_memory(&mut self, domid: Domid, kib: u64) -> Result<(), Errno> {
        self.call("max_mem")?;
        self.domain(domid)?.max_kib = kib;
        Ok(())
    }

    fn send_trigger(&mut self, domid: Domid, trigger: u32, vcpu: u32) -> Result<(), Errno> {
        self.call("sendtrigger")?;
        match (trigger, self.domain(domid)?.vcpus) {
            (XEN_DOMCTL_SENDTRIGGER_NMI, vcpus) if vcpu < vcpus => Ok(()),
            (XEN_DOMCTL_SENDTRIGGER_NMI, _) => Err(Errno::ESRCH),
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_vcpu_context(
        &mut self,
        domid: Domid,
        vcpu: u32,
        context: &VcpuGuestContext,
    ) -> Result<(), Errno> {
        self.call("setvcpucontext")?;
        let domain = self.domain(domid)?;
        let root = domain.root.ok_or(Errno::EINVAL)?;
        if vcpu >= domain.vcpus || context.ctrlreg[3] != root << 12 {
            return Err(Errno::EINVAL);
        }
        domain.context = Some(*context);
        Ok(())
    }

    fn init_hypercall_page(&mut self, domid: Domid, page: Mfn) -> Result<(), Errno> {
        self.call("hypercall_init")?;
        let domain = self.domain(domid)?;
        if !domain.frames.contains(&page.0) {
            return Err(Errno::EACCES);
        }
        domain.hypercall_page = Some(page.0);
        self.poke(page.0, 0, b"hypercalls");
        Ok(())
    }

    fn domain_status(&mut self, domid: Domid) -> Result<Option<DomainStatus>, Errno> {
        self.call("getdomaininfo")?;
        self.reap();
        Ok(self
            .domain_list()?
            .into_iter()
            .find(|status| status.domid == domid))
    }

    fn domain_list(&mut self) -> Result<Vec<DomainStatus>, Errno> {
        self.reap();
        let dom0 = DomainStatus {
            running: true,
            online_vcpus: 1,
            ..Default::default()
        };
        let others = self.domains.iter().map(|(id, domain)| DomainStatus {
            domid: Domid(*id),
            dying: domain.dying,
            shutdown: domain.shutdown,
            paused: domain.pauses > 0,
            blocked: domain.pauses == 0,
            tot_pages: domain.frames.len() as u64 - 1,
            max_pages: domain.max_kib / 4,
            shared_info: Mfn(domain.shared_info),
            online_vcpus: 1,
            max_vcpu_id: domain.vcpus.wrapping_sub(1),
            handle: domain.handle,
            ..Default::default()
        });
        Ok([dom0].into_iter().chain(others).collect())
    }

    fn counter(&mut self, name: &str) -> Result<Vec<u32>, Errno> {
        self.call("perfc_op")?;
        Ok(match name {
            UPCALLS => self.upcalls.clone(),
            _ => Vec::new(),
        })
    }

    fn populate(&mut self, domid: Domid, order: u32, extents: &mut [u64]) -> Result<usize, Errno> {
        self.call("populate_physmap")?;
        for (done, extent) in extents.iter_mut().enumerate() {
            let pages = 1 << order;
            let limit = self.domain(domid)?.max_kib / 4;
            let have = self.domain(domid)?.frames.len() as u64 - 1;
            if have + pages > limit || self.free.len() < pages as usize {
                return Ok(done);
            }
            let mfns: Vec<u64> = if order == 0 {
                self.take_frame().into_iter().collect()
            } else {
                // Chunks come from elsewhere: the model's free list has no order.
                if self.large_chunks == 0 {
                    return Ok(done);
                }
                self.large_chunks -= 1;
                let first = 0x100_0000 + self.large_chunks as u64 * pages;
                for mfn in first..first + pages {
                    self.free.pop();
                    self.free.push(mfn);
                    assert_eq!(self.take_frame(), Some(mfn));
                }
                (first..first + pages).collect()
            };
            let domain = self.domain(domid)?;
            for (pfn, mfn) in (*extent..).zip(&mfns) {
                domain.frames.insert(*mfn);
                domain.m2p.insert(*mfn, pfn);
            }
            *extent = mfns[0];
        }
        Ok(extents.len())
    }

    fn map(&mut self, domid: Domid, frames: &[Mfn]) -> Result<Mapping, Errno> {
        self.call("map")?;
        let domain = self.domain(domid)?;
        if domain.root.is_some() && frames.iter().any(|mfn| Some(mfn.0) == domain.root) {
            return Err(Errno::EINVAL);
        }
        if domain.dying || !frames.iter().all(|mfn| domain.frames.contains(&mfn.0)) {
            return Err(Errno::EINVAL);
        }
        let frames: Vec<_> = frames
            .iter()
            .map(|mfn| self.frames[&mfn.0].clone())
            .collect();
        for frame in &frames {
            frame.mappings.set(frame.mappings.get() + 1);
        }
        Ok(Mapping {
            frames,
            foreign: true,
        })
    }

    fn pin_root(&mut self, domid: Domid, root: Mfn) -> Result<(), Errno> {
        self.call("pin_l4_table")?;
        if self.frames[&root.0].mappings.get() > 0 {
            return Err(Errno::EBUSY);
        }
        self.domain(domid)?.root = Some(root.0);
        Ok(())
    }

    fn alloc_unbound(&mut self, domid: Domid) -> Result<Port, Errno> {
        self.call("alloc_unbound")?;
        let ports = &mut self.domain(domid)?.ports;
        let port = ports.len() as u32 + 1;
        ports.insert(port, None);
        Ok(Port(port))
    }

    fn bind_interdomain(&mut self, domid: Domid, remote: Port) -> Result<Port, Errno> {
        self.call("bind_interdomain")?;
        let ours = self.next_port;
        match self.domain(domid)?.ports.get_mut(&remote.0) {
            Some(slot @ None) => *slot = Some(ours),
            _ => return Err(Errno::EINVAL),
        }
        self.next_port += 1;
        self.ports.insert(ours, (domid.0, remote.0));
        Ok(Port(ours))
    }

    fn notify(&mut self, port: Port) -> Result<(), Errno> {
        self.call("send")?;
        if !self.ports.contains_key(&port.0) {
            return Err(Errno::EINVAL);
        }
        self.notified.push(port.0);
        Ok(())
    }

    fn close_port(&mut self, port: Port) -> Result<(), Errno> {
        self.call("close")?;
        self.ports.remove(&port.0).map(|_| ()).ok_or(Errno::EINVAL)
    }

    fn free_memory_kib(&mut self) -> Result<u64, Errno> {
        self.call("physinfo")?;
        self.reap();
        Ok(self.free.len() as u64 * 4)
    }

    fn host_info(&mut self) -> Result<HostInfo, Errno> {
        let free_memory_kib = self.free_memory_kib()?;
        Ok(HostInfo {
            hostname: "fake".into(),
            xen_scheduler: "credit".into(),
            free_memory_kib,
            ..HostInfo::default()
        })
    }

    fn read_log(&mut self, clear: bool) -> Result<Vec<u8>, Errno> {
        self.call("readconsole")?;
        let log = self.log.clone();
        if clear {
            self.log.clear();
        }
        Ok(log)
    }

    fn stop_host(&mut self, action: HostAction) -> Result<(), Errno> {
        self.stopped = Some(action);
        Ok(())
    }
}
