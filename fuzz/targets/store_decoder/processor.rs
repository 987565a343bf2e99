//! A process that executes one instruction at a time, with registers and memory as they are wanted.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, Stdio};

use hypercall_abi::arch_x86::CpuUserRegs;
use nix::libc::user_regs_struct;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

/// Where the instruction is: low, so that a displacement of 32 bits reaches the data, also from there.
pub const CODE: u64 = 0x1010_0000;
/// Where the page for data is.
pub const DATA: u64 = 0x1000_0000;

/// `syscall`.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// `mmap`, its protection (read, write, execute) and flags (private, fixed, anonymous).
const MMAP: [u64; 3] = [9, 7, 0x32];

/// How an instruction ended.
pub enum Ended {
    /// It was executed.
    Stepped {
        /// Registers afterwards.
        regs: CpuUserRegs,
        /// The word in memory afterwards.
        word: u64,
    },
    /// It raised an exception.
    Refused,
}

/// The process.
pub struct Processor {
    child: Child,
    pid: Pid,
    memory: File,
    /// Its registers at first: segments and what else is left alone.
    regs: user_regs_struct,
}

impl Processor {
    /// Starts the process.
    ///
    /// # Errors
    /// Those of the system, which may forbid to trace processes.
    pub fn new() -> io::Result<Self> {
        // It waits for its input, which never comes.
        let child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
        let pid = Pid::from_raw(child.id().cast_signed());
        ptrace::attach(pid)?;
        waitpid(pid, None)?;
        ptrace::setoptions(pid, ptrace::Options::PTRACE_O_EXITKILL)?;
        let memory = File::options()
            .read(true)
            .write(true)
            .open(format!("/proc/{pid}/mem"))?;
        let mut regs = ptrace::getregs(pid)?;
        // No system call is to be begun again.
        regs.orig_rax = u64::MAX;
        (regs.fs_base, regs.gs_base) = (0, 0);
        let mut processor = Self {
            child,
            pid,
            memory,
            regs,
        };
        for page in [CODE, DATA] {
            processor.map(page)?;
        }
        Ok(processor)
    }

    /// Has the process map a page.
    fn map(&mut self, page: u64) -> io::Result<()> {
        self.memory.write_all_at(&SYSCALL, self.regs.rip)?;
        let [rax, rdx, r10] = MMAP;
        let regs = user_regs_struct {
            rax,
            rdi: page,
            rsi: 4096,
            rdx,
            r10,
            r8: u64::MAX,
            r9: 0,
            ..self.regs
        };
        match self.step(regs)? {
            Some(regs) if regs.rax == page => Ok(()),
            _ => Err(io::Error::other("the traced process maps no page")),
        }
    }

    /// Executes an instruction; the registers afterwards, if it raises no exception.
    fn step(&mut self, regs: user_regs_struct) -> io::Result<Option<user_regs_struct>> {
        ptrace::setregs(self.pid, regs)?;
        ptrace::step(self.pid, None)?;
        match waitpid(self.pid, None)? {
            WaitStatus::Stopped(_, Signal::SIGTRAP) => Ok(Some(ptrace::getregs(self.pid)?)),
            WaitStatus::Stopped(..) => Ok(None),
            other => Err(io::Error::other(format!("the traced process: {other:?}"))),
        }
    }

    /// Executes the instruction that begins `code` with these registers and `word` at `target` in the data page.
    ///
    /// # Errors
    /// Those of the system.
    pub fn run(
        &mut self,
        code: &[u8],
        regs: &CpuUserRegs,
        target: u64,
        word: u64,
    ) -> io::Result<Ended> {
        self.memory.write_all_at(code, CODE)?;
        self.memory.write_all_at(&word.to_le_bytes(), target)?;
        let wanted = user_regs_struct {
            rax: regs.rax,
            rcx: regs.rcx,
            rdx: regs.rdx,
            rbx: regs.rbx,
            rsp: regs.rsp,
            rbp: regs.rbp,
            rsi: regs.rsi,
            rdi: regs.rdi,
            r8: regs.r8,
            r9: regs.r9,
            r10: regs.r10,
            r11: regs.r11,
            r12: regs.r12,
            r13: regs.r13,
            r14: regs.r14,
            r15: regs.r15,
            rip: CODE,
            eflags: regs.rflags,
            ..self.regs
        };
        let Some(found) = self.step(wanted)? else {
            return Ok(Ended::Refused);
        };
        let regs = CpuUserRegs {
            rax: found.rax,
            rcx: found.rcx,
            rdx: found.rdx,
            rbx: found.rbx,
            rsp: found.rsp,
            rbp: found.rbp,
            rsi: found.rsi,
            rdi: found.rdi,
            r8: found.r8,
            r9: found.r9,
            r10: found.r10,
            r11: found.r11,
            r12: found.r12,
            r13: found.r13,
            r14: found.r14,
            r15: found.r15,
            rip: found.rip,
            rflags: found.eflags,
            ..*regs
        };
        let mut word = [0; 8];
        self.memory.read_exact_at(&mut word, target)?;
        Ok(Ended::Stepped {
            regs,
            word: u64::from_le_bytes(word),
        })
    }
}

impl Drop for Processor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
