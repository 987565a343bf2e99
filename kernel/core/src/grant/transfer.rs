//! `GNTTABOP_transfer`: a frame with all that is in it becomes another domain's.

use core::mem::offset_of;

use hv_machine::Platform;
use hypercall_abi::errno::Errno;
use hypercall_abi::grant_table::*;

use super::{Batch, Status};
use crate::current::Current;
use crate::hypercall::HypercallResult;

/// Carries out a list of transfers.
///
/// # Errors
/// `EOPNOTSUPP` where the command line says so, `EFAULT`.
pub(super) fn transfer_all(cx: &Current<'_>, batch: &Batch) -> HypercallResult {
    if !cx.hv.options.grants.transfer {
        return Err(Errno::EOPNOTSUPP.into());
    }
    batch.each(cx, offset_of!(GnttabTransfer, status), |op| {
        transfer(cx, op)
    })
}

/// Transfers one frame. It leaves its owner first: where it is then found not to be wanted, it is lost (as on Xen).
fn transfer(cx: &Current<'_>, op: &GnttabTransfer) -> Result<(), Status> {
    let (memory, machine) = (&cx.hv.memory, cx.machine());
    let frame = memory.get(op.mfn, cx.domain.id).ok_or(GNTST_BAD_PAGE)?;
    let frame = memory.take_away(frame).ok_or(GNTST_BAD_PAGE)?;
    let receiver = cx.hv.domain(op.domid).map_err(|_| GNTST_BAD_DOMAIN)?;
    // An entry of version 1 can name every frame: their numbers have no more than 32 bits.
    if receiver.owner.is_full() {
        return Err(GNTST_GENERAL_ERROR);
    }
    // The receiver's entry and its list of frames change at once for whoever looks at the table.
    let table = receiver.grants.table.lock();
    let place = table.place(op.ref_).map_err(|_| GNTST_GENERAL_ERROR)?;
    if !place.commit(machine, cx.domain.id) {
        return Err(GNTST_GENERAL_ERROR);
    }
    let given = memory.give(frame, &receiver.owner);
    let mfn = given.ok_or(GNTST_GENERAL_ERROR)?;
    machine.set_m2p(mfn, place.complete(machine, mfn));
    Ok(())
}
