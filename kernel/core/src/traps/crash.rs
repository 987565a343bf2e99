//! The end of a domain that cannot go on: a line that says why, the registers, the top of the stack.

use core::fmt;

use hv_machine::{LogLevel, Platform};

use crate::{Current, lifecycle};

/// Words of the stack that are shown.
const STACK_WORDS: usize = 16;

/// Crashes the current vCPU's domain; `reason` and the vCPU's registers go to the log.
#[cold]
#[inline(never)]
pub fn crash(cx: &mut Current<'_>, reason: fmt::Arguments<'_>) {
    let (domain, vcpu) = (cx.domain.id, cx.vcpu.id);
    let registers = Registers(cx);
    cx.hv.guest_log(
        LogLevel::Error,
        format_args!("d{domain}v{vcpu}: {reason}\n{registers}"),
    );
    lifecycle::crash(cx.hv, cx.domain);
}

/// The registers of the current vCPU and the top of its stack, as Xen's log has them.
struct Registers<'a, 'c>(&'a Current<'c>);

impl fmt::Display for Registers<'_, '_> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        describe(self.0, out)
    }
}

fn describe(cx: &Current<'_>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    let regs = &cx.state.context.regs;
    let segments = cx.machine().store_segments();
    let mode = if cx.state.kernel_mode {
        "kernel"
    } else {
        "user"
    };
    writeln!(
        out,
        "Domain {} (vcpu#{}) crashed on cpu#{}, in {mode} mode:",
        cx.domain.id,
        cx.vcpu.id,
        cx.machine().cpu_id()
    )?;
    writeln!(out, "RIP:    {:04x}:[<{:016x}>]", regs.cs, regs.rip)?;
    writeln!(
        out,
        "RFLAGS: {:016x}   CR2: {:016x}",
        regs.rflags, cx.state.cr2
    )?;
    let rows = [
        [("rax", regs.rax), ("rbx", regs.rbx), ("rcx", regs.rcx)],
        [("rdx", regs.rdx), ("rsi", regs.rsi), ("rdi", regs.rdi)],
        [("rbp", regs.rbp), ("rsp", regs.rsp), ("r8 ", regs.r8)],
        [("r9 ", regs.r9), ("r10", regs.r10), ("r11", regs.r11)],
        [("r12", regs.r12), ("r13", regs.r13), ("r14", regs.r14)],
    ];
    for [a, b, c] in rows {
        writeln!(
            out,
            "{}: {:016x}   {}: {:016x}   {}: {:016x}",
            a.0, a.1, b.0, b.1, c.0, c.1
        )?;
    }
    writeln!(
        out,
        "r15: {:016x}   cr3: {:016x}",
        regs.r15,
        cx.state.root().map_or(0, |mfn| mfn.0 << 12)
    )?;
    writeln!(
        out,
        "fsb: {:016x}   gsb: {:016x}   gss: {:016x}",
        segments.fs_base, segments.gs_base, segments.gs_base_shadow
    )?;
    writeln!(
        out,
        "ds: {:04x}   es: {:04x}   fs: {:04x}   gs: {:04x}   ss: {:04x}   cs: {:04x}",
        segments.ds, segments.es, segments.fs, segments.gs, regs.ss, regs.cs
    )?;
    writeln!(out, "Guest stack trace from rsp={:016x}:", regs.rsp)?;
    for index in 0..STACK_WORDS {
        let at = regs.rsp.wrapping_add(8 * index as u64);
        let Ok(word) = cx.read::<u64>(at) else {
            return writeln!(out, "  cannot be read");
        };
        let end = if index % 4 == 3 { "\n" } else { "" };
        write!(out, "  {word:016x}{end}")?;
    }
    Ok(())
}
