//! `GNTTABOP_copy`: between two frames, each a grant or the caller's own.

use alloc::sync::Arc;

use hv_machine::{PAGE_SIZE, Platform};
use hypercall_abi::grant_table::*;
use hypercall_abi::types::{Domid, GrantRef, Mfn};

use super::active::Uses;
use super::entry::{Demand, Target};
use super::pin::Pin;
use super::{Batch, Status};
use crate::current::Current;
use crate::domain::Domain;
use crate::hypercall::HypercallResult;
use crate::memory::Held;

/// Carries out a list of copies. What a copy was from or to is kept for the next, which often names it again.
pub(super) fn copy_all(cx: &Current<'_>, batch: &Batch) -> HypercallResult {
    let (mut source, mut dest) = (None, None);
    for index in 0..batch.count {
        if index > 0
            && let Some(stop) = batch.pause(cx, index)
        {
            return Err(stop);
        }
        let op: GnttabCopy = cx.read_element(batch.at, index)?;
        let status = match copy(cx, &op, &mut source, &mut dest) {
            Ok(()) => GNTST_OKAY,
            Err(status) => {
                (source, dest) = (None, None);
                status
            }
        };
        let status_at = core::mem::offset_of!(GnttabCopy, status);
        batch.tell(cx, index, status_at, status)?;
    }
    Ok(0)
}

/// A frame that may be copied from, or to, or a part of it. The marks of use go last.
struct End<'h> {
    name: Name,
    held: Held<'h>,
    start: u32,
    len: u32,
    _pins: (Option<Pin<'h>>, Option<Pin<'h>>),
}

/// How a caller names an end of a copy: the domain, and a grant of its or a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Name {
    domid: Domid,
    granted: bool,
    number: u64,
}

impl Name {
    fn new(pointer: &GnttabCopyPtr, granted: bool) -> Self {
        let number: u64 = pointer.u.get();
        Self {
            domid: pointer.domid,
            granted,
            number: if granted {
                u64::from(number as u32)
            } else {
                number
            },
        }
    }

    /// The domain.
    ///
    /// # Errors
    /// `GNTST_permission_denied` for a frame of a domain that is not [`Domid::SELF`], `GNTST_bad_domain`.
    fn domain(self, cx: &Current<'_>) -> Result<Arc<Domain>, Status> {
        if !self.granted && self.domid != Domid::SELF {
            return Err(GNTST_PERMISSION_DENIED);
        }
        cx.any_domain(self.domid).map_err(|_| GNTST_BAD_DOMAIN)
    }
}

/// Carries out one copy.
fn copy<'h>(
    cx: &Current<'h>,
    op: &GnttabCopy,
    source: &mut Option<End<'h>>,
    dest: &mut Option<End<'h>>,
) -> Result<(), Status> {
    let from = Name::new(&op.source, op.flags & GNTCOPY_SOURCE_GREF != 0);
    let to = Name::new(&op.dest, op.flags & GNTCOPY_DEST_GREF != 0);
    let (granter, receiver) = (from.domain(cx)?, to.domain(cx)?);
    let source = claim(cx, source, from, &granter, false)?;
    let dest = claim(cx, dest, to, &receiver, true)?;
    let len = u32::from(op.len);
    let ends = [(op.source.offset, source), (op.dest.offset, dest)];
    let [from, to] = ends.map(|(offset, end)| (u32::from(offset), end));
    if [from, to]
        .iter()
        .any(|(offset, _)| offset + len > PAGE_SIZE as u32)
    {
        return Err(GNTST_BAD_COPY_ARG);
    }
    let outside =
        |(offset, end): &(u32, &End<'_>)| *offset < end.start || offset + len > end.start + end.len;
    if [from, to].iter().any(outside) {
        return Err(GNTST_GENERAL_ERROR);
    }
    cx.machine().copy_bytes(
        (dest.held.mfn(), to.0 as usize),
        (source.held.mfn(), from.0 as usize),
        len as usize,
    );
    Ok(())
}

/// The end of that name; what there was of another name is given back first.
fn claim<'e, 'h>(
    cx: &Current<'h>,
    end: &'e mut Option<End<'h>>,
    name: Name,
    domain: &Arc<Domain>,
    write: bool,
) -> Result<&'e End<'h>, Status> {
    if end.as_ref().is_some_and(|end| end.name != name) {
        *end = None;
    }
    match end {
        Some(end) => Ok(end),
        None => Ok(end.insert(acquire(cx, name, domain, write)?)),
    }
}

fn acquire<'h>(
    cx: &Current<'h>,
    name: Name,
    domain: &Arc<Domain>,
    write: bool,
) -> Result<End<'h>, Status> {
    let hold = |mfn: Mfn, owner: Domid, missing: Status| {
        let frame = cx.hv.memory.get(mfn, owner).ok_or(missing)?;
        Held::new(frame, write).ok_or(GNTST_GENERAL_ERROR)
    };
    if !name.granted {
        return Ok(End {
            name,
            held: hold(Mfn(name.number), domain.id, GNTST_BAD_PAGE)?,
            start: 0,
            len: PAGE_SIZE as u32,
            _pins: (None, None),
        });
    }
    let pin = |granter: &Arc<Domain>, reference: GrantRef, domid: Domid| {
        let demand = Demand {
            domid,
            write,
            map: false,
            pinned: false,
        };
        Pin::new(cx.hv, granter, reference, Uses::copy(write), demand)
    };
    let (first, pinned) = pin(domain, GrantRef(name.number as u32), cx.domain.id)?;
    let (owner, pins, pinned) = match pinned.target {
        Target::Frame { .. } => (domain.id, (Some(first), None), pinned),
        // One step and no further: a grant of a grant of a grant could go round for ever.
        Target::Grant { domid, reference } => {
            if !cx.hv.options.grants.transitive || domid == domain.id {
                return Err(GNTST_GENERAL_ERROR);
            }
            let further = cx.hv.domain(domid).map_err(|_| GNTST_GENERAL_ERROR)?;
            let (second, pinned) = pin(&further, reference, domain.id)?;
            (further.id, (Some(first), Some(second)), pinned)
        }
    };
    let Target::Frame {
        mfn, start, len, ..
    } = pinned.target
    else {
        return Err(GNTST_GENERAL_ERROR);
    };
    // A frame that a grant in use was of may have gone since.
    let missing = match pinned.first {
        true => GNTST_BAD_PAGE,
        false => GNTST_BAD_DOMAIN,
    };
    Ok(End {
        name,
        held: hold(mfn, owner, missing)?,
        start: start.into(),
        len: len.into(),
        _pins: pins,
    })
}
