//! Where things are in the hypervisor's sixteen L4 slots.
//!
//! | slot | holds |
//! |---|---|
//! | 256 | machine-to-phys table, readable by guests |
//! | 257 | device registers and firmware tables ([`super::device`]) |
//! | 261 | the image; one window per CPU: descriptor tables, entry code, stacks ([`super::cpu`]) |
//! | 262-271 | direct map of RAM |

/// First address of the machine-to-phys table.
pub const M2P: u64 = 0xffff_8000_0000_0000;
/// First address for device registers and firmware tables.
pub const DEVICES: u64 = 0xffff_8080_0000_0000;
/// First CPU's window: in one GiB with the image, so that they have their upper page tables in common. After a flush
/// of the TLB each table on the way costs.
pub const CPU_WINDOWS: u64 = 0xffff_82d0_6000_0000;
/// First address of the image, as linker.ld has it.
pub const IMAGE: u64 = 0xffff_82d0_4020_0000;
/// Address of machine address 0 in the direct map.
pub const DIRECT_MAP: u64 = 0xffff_8300_0000_0000;
/// Bytes that the direct map has room for.
pub const DIRECT_MAP_SIZE: u64 = crate::HYPERVISOR_VIRT_END - DIRECT_MAP;

/// First and last byte (exclusive) of the image's parts.
pub struct Image {
    /// Code.
    pub text: (u64, u64),
    /// Constants.
    pub rodata: (u64, u64),
    /// Variables.
    pub data: (u64, u64),
}

/// The image's parts, by linker.ld's symbols.
pub fn image() -> Image {
    unsafe extern "C" {
        static text_end: u8;
        static rodata_end: u8;
        static image_end: u8;
    }
    let text = (&raw const text_end).addr() as u64;
    let rodata = (&raw const rodata_end).addr() as u64;
    let end = (&raw const image_end).addr() as u64;
    Image {
        text: (IMAGE, text),
        rodata: (text, rodata),
        data: (rodata, end),
    }
}
