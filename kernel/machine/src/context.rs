//! The state of a vCPU that the hardware holds while the vCPU runs, and why it stopped running.

use alloc::boxed::Box;
use core::fmt;
use hypercall_abi::arch_x86::CpuUserRegs;

/// The registers that [`crate::Platform::enter_guest`] loads, and saves again when the guest leaves.
///
/// `regs.cs`, `ss`, `rip`, `rsp` and `rflags` are loaded with `iret`: the caller sees to ring-3 selectors, IF
/// set and IOPL 0; a frame that the processor refuses comes back as [`Exit::BadFrame`].
#[derive(Clone, Copy, Debug, Default)]
pub struct GuestContext {
    /// General registers, in the layout that guests know.
    pub regs: CpuUserRegs,
}

/// Data-segment selectors and segment bases of a vCPU; live in the CPU from
/// [`crate::Platform::load_segments`] to [`crate::Platform::store_segments`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segments {
    /// DS selector.
    pub ds: u16,
    /// ES selector.
    pub es: u16,
    /// FS selector.
    pub fs: u16,
    /// GS selector, of the mode that runs.
    pub gs: u16,
    /// FS base.
    pub fs_base: u64,
    /// Active GS base (that of the mode that runs).
    pub gs_base: u64,
    /// GS base that `swapgs` would bring in (that of the other mode).
    pub gs_base_shadow: u64,
}

/// Which base [`crate::Platform::set_segment_base`] sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SegmentBase {
    /// FS.
    Fs,
    /// GS of the mode that runs.
    Gs,
    /// GS of the other mode.
    GsShadow,
}

/// At least one data-segment selector was refused by the processor; null was loaded in its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SelectorFault;

/// An 8-byte segment descriptor as the processor reads it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Descriptor(pub u64);

impl fmt::Debug for Descriptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Descriptor({:#018x})", self.0)
    }
}

/// Why a guest stopped running.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// `syscall` in 64-bit mode: a hypercall from the guest's kernel, a system call from its user mode.
    /// `rip` is behind the instruction; `rcx` and `r11` hold what the processor put there.
    Syscall,
    /// `syscall` in compatibility mode.
    Syscall32,
    /// `sysenter`. The processor saved neither `rip` nor `rsp`; the context has those of the entry.
    Sysenter,
    /// An exception, or a software interrupt with a gate of its own (3, 4).
    Exception {
        /// Its vector (0 to 31).
        vector: u8,
        /// Its error code; 0 where it has none.
        error_code: u32,
        /// CR2; meaningful for a page fault.
        fault_address: u64,
    },
    /// A page fault while the processor read a descriptor in the window of the guest's LDT.
    LdtFault {
        /// Offset in the LDT, in bytes.
        offset: u32,
        /// The page fault's error code.
        error_code: u32,
    },
    /// `iret` refused the context: a selector, the stack or the instruction pointer is bad.
    BadFrame {
        /// Vector that the processor raised (#GP, #SS, #NP).
        vector: u8,
        /// Its error code.
        error_code: u32,
    },
    /// An interrupt for the hypervisor.
    Interrupt(Irq),
}

/// An interrupt, acknowledged at the local APIC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Irq {
    /// The deadline of [`crate::Platform::set_timer`] has come.
    Timer,
    /// The console has input.
    Console,
    /// A global system interrupt; masked where it is level-triggered, until
    /// [`crate::Platform::unmask_gsi`].
    Gsi(u32),
    /// A message-signalled interrupt on a vector from [`crate::Platform::allocate_vector`].
    Message(u8),
    /// Another CPU asks this one to look at its work.
    Ipi,
    /// A non-maskable interrupt that the machine could not explain itself.
    Nmi,
    /// Nothing that needs work.
    Spurious,
}

/// Saved x87, SSE and AVX state of a vCPU, in the processor's XSAVE (or FXSAVE) format.
pub struct FpuState {
    pub(crate) area: Box<FpuArea>,
    enabled: u64,
}

/// x87 and SSE, which every guest has.
const LEGACY_COMPONENTS: u64 = 3;

/// Room for every state component that [`crate::Platform`] enables.
#[repr(C, align(64))]
#[derive(Clone)]
pub(crate) struct FpuArea {
    pub(crate) bytes: [u8; FPU_AREA_SIZE],
}

/// x87 and SSE (512), header (64), AVX (256), AVX-512 (with its gap) and room to grow.
pub(crate) const FPU_AREA_SIZE: usize = 2816;

impl FpuState {
    /// The state after reset: FCW 0x37f, MXCSR 0x1f80, everything else zero.
    pub fn new() -> Self {
        let area = Box::new(FpuArea {
            bytes: [0; FPU_AREA_SIZE],
        });
        let mut state = Self { area, enabled: 0 };
        state.reset();
        state
    }

    /// Makes it [`Self::new`] again.
    pub fn reset(&mut self) {
        let bytes = &mut self.area.bytes;
        bytes.fill(0);
        bytes[0..2].copy_from_slice(&0x37f_u16.to_le_bytes());
        bytes[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
        self.enabled = LEGACY_COMPONENTS;
    }

    /// XCR0 of the vCPU: the components that its instructions may use. All are saved, whatever is enabled.
    pub fn enabled(&self) -> u64 {
        self.enabled
    }

    /// Sets XCR0 of the vCPU; of one that runs, with [`crate::Platform::set_extended_control`].
    pub fn enable(&mut self, xcr0: u64) {
        self.enabled = xcr0;
    }

    /// The legacy (FXSAVE) image: the first 512 bytes.
    pub fn legacy(&self) -> &[u8] {
        &self.area.bytes[..512]
    }

    /// The extended (XSAVE, not compacted) image: its first `len` bytes, as far as there are that many.
    pub fn extended(&self, len: usize) -> &[u8] {
        &self.area.bytes[..len.min(FPU_AREA_SIZE)]
    }

    /// Loads an extended image as `XEN_DOMCTL_setvcpuextstate` gives it; `components` are those that it may have.
    /// Reserved bits of MXCSR are cleared. Returns `false`, with nothing loaded, where the processor would refuse
    /// the image: it is shorter than its header or longer than the state, is compacted, or has other components.
    #[must_use]
    pub fn set_extended(&mut self, image: &[u8], components: u64) -> bool {
        let Some(header) = image.get(512..576) else {
            return false;
        };
        let (present, rest) = header.split_at(8);
        let mut bits = [0; 8];
        bits.copy_from_slice(present);
        let foreign = u64::from_le_bytes(bits) & !components != 0;
        if image.len() > FPU_AREA_SIZE || foreign || rest.iter().any(|&byte| byte != 0) {
            return false;
        }
        self.area.bytes.fill(0);
        self.area.bytes[..image.len()].copy_from_slice(image);
        self.area.bytes[26..28].fill(0);
        true
    }

    /// Loads a legacy (FXSAVE) image as `VCPUOP_initialise` and `setvcpucontext` give it; the components
    /// beyond x87 and SSE go to their initial state. Reserved bits of MXCSR are cleared, because the processor
    /// would refuse to load them.
    pub fn set_legacy(&mut self, image: &[u8; 512]) {
        self.area.bytes.fill(0);
        self.area.bytes[..512].copy_from_slice(image);
        let mut mxcsr = [0; 4];
        mxcsr.copy_from_slice(&image[24..28]);
        let mxcsr = u32::from_le_bytes(mxcsr) & 0xffff;
        self.area.bytes[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        self.area.bytes[464..512].fill(0);
        // XSTATE_BV: x87 and SSE are in the image.
        self.area.bytes[512] = 3;
    }
}

impl Default for FpuState {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for FpuState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FpuState")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_legacy_image_cannot_carry_reserved_mxcsr_bits() {
        let mut fpu = FpuState::new();
        let mut image = [0xff; 512];
        image[0] = 0x7f;
        fpu.set_legacy(&image);
        assert_eq!(&fpu.legacy()[24..28], &[0xff, 0xff, 0, 0]);
        assert!(fpu.legacy()[464..].iter().all(|&b| b == 0));
        assert_eq!(fpu.area.bytes[512], 3);
    }

    #[test]
    fn an_extended_image_is_taken_whole_or_not_at_all() {
        let mut fpu = FpuState::new();
        let before = fpu.extended(600).to_vec();
        let mut image = [0_u8; 832];
        image[24..28].fill(0xff);
        image[512] = 7;
        image[831] = 9;
        assert!(!fpu.set_extended(&image[..575], 7));
        assert!(!fpu.set_extended(&image, 3), "AVX is not among them");
        assert!(!fpu.set_extended(&[0; FPU_AREA_SIZE + 1], 7));
        let mut compacted = image;
        compacted[527] = 0x80;
        assert!(!fpu.set_extended(&compacted, 7));
        assert_eq!(fpu.extended(600), before);
        assert!(fpu.set_extended(&image, 7));
        assert_eq!(fpu.extended(832)[24..28], [0xff, 0xff, 0, 0]);
        assert_eq!(fpu.extended(832)[831], 9);
        assert_eq!(fpu.extended(usize::MAX).len(), FPU_AREA_SIZE);
    }
}
