//! What the search does with grants: offers, mappings at any place, copies, transfers, with few grants and few places,
//! so that they meet.

use std::format;
use std::string::String;

use hv_machine::Platform;
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantHandle, GrantRef, Mfn, Union};
use hypercall_abi::xen::HYPERVISOR_GRANT_TABLE_OP;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::dice::Dice;
use super::world::{DATA, MAPPED, World};
use super::{Frame, Who};
use crate::grant::recount;
use crate::testing::SCRATCH;

/// The grants that the search keeps to.
const REFERENCES: [u32; 6] = [1, 8, 9, 10, 255, 300];
/// Mappings that are remembered to be undone.
const REMEMBERED: usize = 16;

/// Where a grant is to be mapped.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    /// A page of the scratch area.
    Page(u8),
    /// An entry of a frame.
    Entry(Frame, u16),
    /// Where it was mapped.
    Same,
}

/// An end of a copy: a grant of a domain's, or a frame.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Grant(Who, u8),
    Frame(Frame),
}

/// What the caller does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Call {
    /// Writes a grant: which, flags, for whom, of what. Of one in use a good domain does not, a bad one does.
    Offer(u8, u16, Who, Frame, bool),
    /// Maps a grant: whose, which, with these flags, where; for which its domain may first write it, with flags, of a
    /// frame.
    Map(Who, u8, u32, Place, Option<(u16, Frame)>),
    /// Undoes a remembered mapping, for processors and for devices or for one of them.
    Unmap(u8, Place, u8),
    /// Undoes one, for which something takes its place.
    Replace(u8, u8),
    /// Copies from one to another, so many bytes.
    Copy(End, End, u16),
    /// Gives a frame: to whom, for which grant.
    Transfer(Frame, Who, u8),
    /// Has a table of this version.
    Version(u32),
    /// Has a table of so many frames.
    Grow(u8),
    /// Exchanges two grants.
    Swap(u8, u8),
}

/// A mapping that was made.
#[derive(Clone, Copy)]
pub(super) struct Mapped {
    id: Domid,
    handle: GrantHandle,
    host_addr: u64,
    dev_bus_addr: u64,
}

fn reference(which: u8) -> u32 {
    REFERENCES[usize::from(which) % REFERENCES.len()]
}

impl World {
    pub(super) fn grants(&mut self, id: Domid, call: Call) {
        match call {
            Call::Offer(which, flags, to, frame, bad) => {
                let entry = (flags, Self::id(id, to), self.mfn(id, frame));
                self.offer(id, reference(which), entry, bad);
            }
            Call::Map(whose, which, flags, place, offer) => {
                if let Some((flags, frame)) = offer {
                    let granter = Self::id(id, whose);
                    let entry = (flags, id, self.mfn(granter, frame));
                    self.offer(granter, reference(which), entry, false);
                }
                let (host_addr, kind) = self.address(id, place, 0);
                let op = GnttabMapGrantRef {
                    host_addr,
                    flags: flags | kind,
                    ref_: GrantRef(reference(which)),
                    dom: Self::id(id, whose),
                    ..Default::default()
                };
                let Some(done) = self.make(id, GNTTABOP_MAP_GRANT_REF, op) else {
                    return;
                };
                if done.status == GNTST_OKAY {
                    let mapped = Mapped {
                        id,
                        handle: done.handle,
                        host_addr,
                        dev_bus_addr: done.dev_bus_addr,
                    };
                    self.mapped.push(mapped);
                    let more = self.mapped.len().saturating_sub(REMEMBERED);
                    self.mapped.drain(..more);
                }
            }
            Call::Unmap(which, place, parts) => {
                let Some(mapped) = self.remembered(id, which) else {
                    return;
                };
                let host = self.address(id, place, mapped.host_addr).0;
                let op = GnttabUnmapGrantRef {
                    host_addr: if parts & 1 == 0 { host } else { 0 },
                    dev_bus_addr: if parts & 2 == 0 {
                        mapped.dev_bus_addr
                    } else {
                        0
                    },
                    handle: mapped.handle,
                    ..Default::default()
                };
                let done = self.make(id, GNTTABOP_UNMAP_GRANT_REF, op);
                if parts == 0 && done.is_some_and(|done| done.status == GNTST_OKAY) {
                    let same = |it: &Mapped| it.id == id && it.handle == mapped.handle;
                    self.mapped.retain(|it| !same(it));
                }
            }
            Call::Replace(which, page) => {
                let Some(mapped) = self.remembered(id, which) else {
                    return;
                };
                let op = GnttabUnmapAndReplace {
                    host_addr: mapped.host_addr,
                    new_addr: SCRATCH + u64::from(page) * 4096,
                    handle: mapped.handle,
                    ..Default::default()
                };
                self.make(id, GNTTABOP_UNMAP_AND_REPLACE, op);
            }
            Call::Copy(source, dest, len) => {
                let (source, from) = self.copied(id, source);
                let (dest, to) = self.copied(id, dest);
                let flags = [(from, GNTCOPY_SOURCE_GREF), (to, GNTCOPY_DEST_GREF)];
                let flags = flags.iter().filter(|it| it.0).map(|it| it.1).sum();
                let op = GnttabCopy {
                    source,
                    dest,
                    len,
                    flags,
                    ..Default::default()
                };
                self.make(id, GNTTABOP_COPY, op);
            }
            Call::Transfer(frame, to, which) => {
                let mfn = self.mfn(id, frame);
                let op = GnttabTransfer {
                    mfn,
                    domid: Self::id(id, to),
                    ref_: GrantRef(reference(which)),
                    ..Default::default()
                };
                self.make(id, GNTTABOP_TRANSFER, op);
                self.remember(mfn);
            }
            Call::Version(version) => {
                self.make(id, GNTTABOP_SET_VERSION, GnttabSetVersion { version });
            }
            Call::Grow(frames) => {
                let op = GnttabSetupTable {
                    dom: Domid::SELF,
                    nr_frames: frames.into(),
                    ..Default::default()
                };
                self.make(id, GNTTABOP_SETUP_TABLE, op);
            }
            Call::Swap(a, b) => {
                let (a, b) = (reference(a), reference(b));
                let op = GnttabSwapGrantRef {
                    ref_a: GrantRef(a),
                    ref_b: GrantRef(b),
                    ..Default::default()
                };
                self.make(id, GNTTABOP_SWAP_GRANT_REF, op);
                if [a, b].iter().any(|&it| self.spoiled.contains(&(id, it))) {
                    self.spoiled.extend([(id, a), (id, b)]);
                }
            }
        }
    }

    /// Makes a call with one element; gives that as it is then, if the call was not given up.
    fn make<T>(&self, id: Domid, command: u32, op: T) -> Option<T>
    where
        T: FromBytes + IntoBytes + Immutable,
    {
        let at = self.put(id, 0, &op);
        self.call(id, HYPERVISOR_GRANT_TABLE_OP, &[command.into(), at, 1]);
        self.read(id, at)
    }

    fn remembered(&self, id: Domid, which: u8) -> Option<Mapped> {
        let own = || self.mapped.iter().filter(|mapped| mapped.id == id);
        let count = own().count();
        own().nth(usize::from(which).checked_rem(count)?).copied()
    }

    /// The address of a place, and the flag that says what kind it is.
    fn address(&self, id: Domid, place: Place, same: u64) -> (u64, u32) {
        match place {
            Place::Page(page) => (SCRATCH + u64::from(page) * 4096, 0),
            Place::Entry(frame, index) => {
                let table = self.mfn(id, frame).0.wrapping_shl(12);
                (table | u64::from(index) << 3, GNTMAP_CONTAINS_PTE)
            }
            Place::Same => (same, 0),
        }
    }

    fn copied(&self, id: Domid, end: End) -> (GnttabCopyPtr, bool) {
        let (domid, granted, u) = match end {
            End::Grant(whose, which) => (Self::id(id, whose), true, reference(which).into()),
            End::Frame(frame) => (Domid::SELF, false, self.mfn(id, frame).0),
        };
        let pointer = GnttabCopyPtr {
            u: Union::new(&u),
            domid,
            ..Default::default()
        };
        (pointer, granted)
    }

    fn offer(&mut self, id: Domid, reference: u32, entry: (u16, Domid, Mfn), bad: bool) {
        let domain = self.domains().into_iter().find(|it| it.id == id);
        let place = domain.and_then(|domain| recount::place(&domain, GrantRef(reference)));
        let Some((place, pinned)) = place else {
            return;
        };
        if pinned && !bad {
            return;
        }
        if pinned {
            self.spoiled.insert((id, reference));
        } else {
            self.spoiled.remove(&(id, reference));
        }
        let (flags, to, mfn) = entry;
        let first = u64::from(flags) | u64::from(to.0) << 16;
        let machine = self.machine();
        match place {
            (frame, word, false) => machine.store_u64(frame, word, first | mfn.0 << 32),
            (frame, word, true) => {
                // As a grant of a grant, one of the control domain's.
                let transitive = flags & GTF_TYPE_MASK == GTF_TRANSITIVE;
                let second = if transitive { 8 } else { mfn.0 };
                machine.store_u64(frame, word + 1, second);
                machine.store_u64(frame, word, first | 64 << 32 | 64 << 48);
            }
        }
    }

    /// Whether every grant is marked as it is used, where its domain has not changed that.
    pub(super) fn check_marks(&self) -> Result<(), String> {
        for domain in self.domains() {
            for number in REFERENCES {
                let wrong = recount::marks(&domain, GrantRef(number), self.machine());
                if let Some(wrong) = wrong.filter(|_| !self.spoiled.contains(&(domain.id, number)))
                {
                    return Err(format!("grant {number} of domain {}: {wrong}", domain.id));
                }
            }
        }
        Ok(())
    }
}

impl Dice<'_> {
    /// A domain, and one of its grants.
    fn named(&mut self) -> (Who, u8) {
        (
            self.below(3) as Who,
            self.below(REFERENCES.len() as u64) as u8,
        )
    }

    /// Mostly one of the data frames of the domain that offers it.
    fn offered(&mut self) -> Frame {
        match self.one_in(4) {
            true => self.frame(),
            false => Frame::Data(0, self.below(DATA.into()) as u8),
        }
    }

    fn mapping_place(&mut self) -> Place {
        match self.one_in(4) {
            true => Place::Entry(self.frame(), self.index()),
            false => Place::Page(self.below(MAPPED.into()) as u8),
        }
    }

    fn place(&mut self) -> Place {
        match self.one_in(4) {
            true => self.mapping_place(),
            false => Place::Same,
        }
    }

    fn end(&mut self) -> End {
        match self.one_in(2) {
            true => End::Frame(self.frame()),
            false => {
                let (who, which) = self.named();
                End::Grant(who, which)
            }
        }
    }

    pub(super) fn grants(&mut self) -> Call {
        let (who, which) = self.named();
        match self.weigh(&[12, 16, 10, 2, 3, 2, 1, 1, 1]) {
            0 => {
                let flags = self.pick(&[
                    GTF_PERMIT_ACCESS,
                    GTF_PERMIT_ACCESS,
                    GTF_PERMIT_ACCESS | GTF_READONLY,
                    GTF_INVALID,
                    GTF_ACCEPT_TRANSFER,
                    GTF_TRANSITIVE,
                    GTF_PERMIT_ACCESS | GTF_SUB_PAGE,
                ]);
                Call::Offer(which, flags, who, self.offered(), self.one_in(8))
            }
            1 => {
                let flags = self.pick(&[
                    GNTMAP_HOST_MAP,
                    GNTMAP_HOST_MAP,
                    GNTMAP_HOST_MAP | GNTMAP_READONLY,
                    GNTMAP_DEVICE_MAP,
                    GNTMAP_DEVICE_MAP | GNTMAP_READONLY,
                    GNTMAP_DEVICE_MAP | GNTMAP_HOST_MAP,
                    GNTMAP_DEVICE_MAP | GNTMAP_HOST_MAP | GNTMAP_READONLY,
                ]);
                let kinds = [GTF_PERMIT_ACCESS, GTF_PERMIT_ACCESS | GTF_READONLY];
                let good = self.one_in(2);
                let offer = good.then(|| (self.pick(&kinds), self.offered()));
                Call::Map(who, which, flags, self.mapping_place(), offer)
            }
            2 => Call::Unmap(
                self.below(16) as u8,
                self.place(),
                self.pick(&[0, 0, 0, 1, 2, 3]),
            ),
            3 => Call::Replace(self.below(16) as u8, self.below(MAPPED.into()) as u8),
            4 => Call::Copy(self.end(), self.end(), self.pick(&[0, 8, 64, 4096, 4097])),
            5 => Call::Transfer(self.frame(), who, which),
            6 => Call::Version(1 + self.below(2) as u32),
            7 => Call::Grow(self.below(4) as u8),
            _ => Call::Swap(which, self.below(6) as u8),
        }
    }
}
