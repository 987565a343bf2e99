//! The log for `xl dmesg`.

use hypercall_abi::errno::Errno;
use hypercall_abi::sysctl::{Sysctl, SysctlReadconsole};

use crate::current::Current;

/// Bytes that are copied to the caller at a time.
const CHUNK: usize = 256;

/// `XEN_SYSCTL_readconsole`: from the oldest byte that is held, or from where the caller left off, to what was the
/// newest when the call was made. With `clear` the next one begins behind what was read.
///
/// # Errors
/// `EFAULT`; nothing is cleared then.
pub(super) fn read(cx: &Current<'_>, op: &mut Sysctl) -> Result<(), Errno> {
    let mut arm: SysctlReadconsole = op.u.get();
    let ring = cx.hv.log.ring();
    let (start, end) = {
        let ring = ring.lock();
        (ring.start(), ring.end())
    };
    let mut position = if arm.incremental != 0 {
        arm.index
    } else {
        start
    };
    if end.wrapping_sub(position) > end.wrapping_sub(start) {
        position = start;
    }
    let mut done = 0;
    let mut chunk = [0; CHUNK];
    while position != end && done < arm.count {
        let want = end.wrapping_sub(position).min(arm.count - done);
        let want = (want as usize).min(CHUNK);
        // What was overwritten since the last chunk is passed over.
        let (from, len) = ring.lock().read(position, &mut chunk[..want]);
        let at = arm.buffer.address().wrapping_add(u64::from(done));
        cx.write_bytes(at, &chunk[..len])?;
        done += len as u32;
        let next = from.wrapping_add(len as u32);
        // Another CPU may have filled the whole ring meanwhile.
        let remaining = end.wrapping_sub(next);
        position = if remaining > end.wrapping_sub(position) {
            end
        } else {
            next
        };
    }
    if arm.clear != 0 {
        ring.lock().forget_before(position);
    }
    arm.count = done;
    arm.index = position;
    op.u.set(&arm);
    Ok(())
}
