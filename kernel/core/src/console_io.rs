//! `HYPERVISOR_console_io` (`xen/xen.h`): the hypervisor's console for guests.

use hypercall_abi::errno::Errno;
use hypercall_abi::xen::{CONSOLEIO_READ, CONSOLEIO_WRITE};

use crate::current::Current;
use crate::hypercall::{Args, HypercallResult, should_preempt};

/// Bytes that are copied from the guest at a time.
const CHUNK: usize = 128;

/// `HYPERVISOR_console_io(command, count, buffer)`: writes `count` bytes, or reads at most `count` typed ones and
/// returns how many.
///
/// # Errors
/// `EPERM` for any caller but the control domain, `EFAULT`, `E2BIG` for reading more than a result can tell (2^31),
/// `ENOSYS` for an unknown command.
pub fn do_console_io(cx: &mut Current<'_>, args: &Args) -> HypercallResult {
    let [command, count, buffer, ..] = *args;
    if !cx.domain.privileged {
        return Err(Errno::EPERM.into());
    }
    let count = count & 0xffff_ffff;
    match command as u32 {
        CONSOLEIO_WRITE => write(cx, count, buffer),
        CONSOLEIO_READ if count > i32::MAX as u64 => Err(Errno::E2BIG.into()),
        CONSOLEIO_READ => read(cx, count, buffer),
        _ => Err(Errno::ENOSYS.into()),
    }
}

fn write(cx: &mut Current<'_>, count: u64, buffer: u64) -> HypercallResult {
    let mut done = 0;
    while done < count {
        if done > 0 && should_preempt(cx) {
            let command = u64::from(CONSOLEIO_WRITE);
            return Err(cx.again([command, count - done, buffer.wrapping_add(done), 0, 0, 0]));
        }
        let take = (count - done).min(CHUNK as u64) as usize;
        let text = cx.read_array::<u8>(buffer.wrapping_add(done), take)?;
        cx.hv.print(&text);
        done += take as u64;
    }
    Ok(0)
}

fn read(cx: &mut Current<'_>, count: u64, buffer: u64) -> HypercallResult {
    let mut done = 0;
    let mut chunk = [0; CHUNK];
    while done < count {
        let want = (count - done).min(CHUNK as u64) as usize;
        let Some(room) = chunk.get_mut(..want) else {
            break;
        };
        let got = cx.hv.log.read_input(room);
        if got == 0 {
            break;
        }
        cx.write_bytes(buffer.wrapping_add(done), &room[..got])?;
        done += got as u64;
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{DOM0, DOMU, Host, SCRATCH, SCRATCH_PAGES, UNMAPPED};
    use hypercall_abi::xen::HYPERVISOR_CONSOLE_IO;

    const WRITE: u64 = CONSOLEIO_WRITE as u64;
    const READ: u64 = CONSOLEIO_READ as u64;

    #[test]
    fn the_control_domain_prints_and_reads() {
        let host = Host::new();
        host.hv.machine.take_output();
        let text = vec![b'x'; 300];
        let at = host.put_slice(DOM0, &text);
        assert_eq!(
            host.hypercall(DOM0, HYPERVISOR_CONSOLE_IO, &[WRITE, 300, at]),
            0
        );
        assert_eq!(host.hv.machine.take_output().len(), 300);
        host.hv.machine.type_input(b"ls\n");
        host.hv.console_interrupt();
        assert_eq!(
            host.hypercall(DOM0, HYPERVISOR_CONSOLE_IO, &[READ, 8, at]),
            3
        );
        assert_eq!(host.get::<[u8; 4]>(DOM0, at), *b"ls\nx");
    }

    #[test]
    fn others_can_do_nothing() {
        let host = Host::new();
        host.hv.machine.take_output();
        let at = host.put(DOMU, b"secret\x1b[2J\n\n");
        for command in [READ, WRITE, 7] {
            let result = host.hypercall(DOMU, HYPERVISOR_CONSOLE_IO, &[command, 12, at]);
            assert_eq!(result, Errno::EPERM.to_return());
        }
        assert_eq!(host.hv.machine.take_output(), "");
    }

    #[test]
    fn bad_arguments_are_told() {
        let host = Host::new();
        let call = |args: &[u64]| host.hypercall(DOM0, HYPERVISOR_CONSOLE_IO, args);
        assert_eq!(call(&[WRITE, 8, UNMAPPED]), Errno::EFAULT.to_return());
        for count in [0x8000_0000, u32::MAX.into()] {
            assert_eq!(call(&[READ, count, 0]), Errno::E2BIG.to_return());
            assert_eq!(call(&[7, count, 0]), Errno::ENOSYS.to_return());
            assert_eq!(call(&[WRITE, count, 0]), Errno::EFAULT.to_return());
        }
        // As far as there is text.
        let end = SCRATCH + SCRATCH_PAGES * 4096;
        host.hv.machine.take_output();
        assert_eq!(call(&[WRITE, 256, end - 128]), Errno::EFAULT.to_return());
        assert_eq!(host.hv.machine.take_output().len(), 128);
        host.hv.machine.type_input(b"x");
        host.hv.console_interrupt();
        assert_eq!(call(&[READ, 8, UNMAPPED]), Errno::EFAULT.to_return());
    }
}
