//! Bitmaps of CPUs and nodes as the toolstack passes them (`struct xenctl_bitmap`).

use hypercall_abi::errno::Errno;
use hypercall_abi::xen::XenctlBitmap;

use crate::current::Current;

/// Bits that the hypervisor has to say something about.
const BITS: u32 = u64::BITS;
/// Longest bitmap in bytes: no machine has that many CPUs.
const MAX_BYTES: u32 = 8192;
/// Bytes that are written at a time.
const CHUNK: usize = 256;

/// The lowest 64 bits; those behind the bitmap's end are 0.
///
/// # Errors
/// `EFAULT`.
pub fn read(cx: &Current<'_>, map: &XenctlBitmap) -> Result<u64, Errno> {
    let bits = map.nr_bits.min(BITS);
    let bytes = cx.read_array::<u8>(map.bitmap.address(), bits.div_ceil(8) as usize)?;
    let value = bytes
        .iter()
        .rev()
        .fold(0, |value: u64, &byte| value << 8 | u64::from(byte));
    Ok(match bits {
        0 => 0,
        bits => value & u64::MAX >> (BITS - bits),
    })
}

/// Fills the bitmap with `value` and zeroes behind it.
///
/// # Errors
/// `EFAULT`; `E2BIG` for one of more than 65536 bits.
pub fn write(cx: &Current<'_>, map: &XenctlBitmap, value: u64) -> Result<(), Errno> {
    let len = map.nr_bits.div_ceil(8);
    if len > MAX_BYTES {
        return Err(Errno::E2BIG);
    }
    let mut chunk = [0; CHUNK];
    chunk[..8].copy_from_slice(&value.to_le_bytes());
    for offset in (0..len as usize).step_by(CHUNK) {
        let count = CHUNK.min(len as usize - offset);
        let at = map.bitmap.address().wrapping_add(offset as u64);
        cx.write_bytes(at, &chunk[..count])?;
        chunk[..8].fill(0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DOM0, Host, UNMAPPED};
    use hypercall_abi::types::GuestHandle;

    fn map(address: u64, nr_bits: u32) -> XenctlBitmap {
        XenctlBitmap {
            bitmap: GuestHandle::new(address),
            nr_bits,
            ..Default::default()
        }
    }

    #[test]
    fn only_the_bits_of_the_bitmap_count() {
        let host = Host::new();
        let at = host.put(DOM0, &[0xff_u8; 16]);
        host.as_guest(DOM0, |cx| {
            assert_eq!(read(cx, &map(at, 0)), Ok(0));
            assert_eq!(read(cx, &map(at, 5)), Ok(0x1f));
            assert_eq!(read(cx, &map(at, 12)), Ok(0xfff));
            assert_eq!(read(cx, &map(at, 64)), Ok(u64::MAX));
            assert_eq!(read(cx, &map(at, u32::MAX)), Ok(u64::MAX));
            assert_eq!(read(cx, &map(UNMAPPED, 1)), Err(Errno::EFAULT));
        });
    }

    #[test]
    fn what_is_behind_the_value_is_zeroed_up_to_the_bitmaps_end() {
        let host = Host::new();
        let at = host.put(DOM0, &[0xff_u8; 16]);
        host.as_guest(DOM0, |cx| {
            assert_eq!(write(cx, &map(at, 4), 0x0102), Ok(()));
            assert_eq!(write(cx, &map(at + 4, 68), 0x0102), Ok(()));
            assert_eq!(write(cx, &map(UNMAPPED, 0), 1), Ok(()));
            assert_eq!(write(cx, &map(UNMAPPED, 8), 1), Err(Errno::EFAULT));
            assert_eq!(write(cx, &map(at, u32::MAX), 1), Err(Errno::E2BIG));
        });
        let bytes: [u8; 16] = host.get(DOM0, at);
        assert_eq!(
            bytes,
            [
                2, 0xff, 0xff, 0xff, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff
            ]
        );
    }
}
