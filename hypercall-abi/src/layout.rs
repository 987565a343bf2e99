//! The tables by which a test compares this crate with Xen's own headers, and the macros that fill
//! them.
//!
//! A struct or constant of the ABI is declared inside `structs!` or `constants!`, which makes
//! it an ordinary Rust item and enters it in the module's table. What is not in a table is not part
//! of the ABI.

/// A constant and the value it has here.
#[derive(Clone, Copy, Debug)]
pub struct Constant {
    /// The Rust name: the C name in upper case, without leading double underscores.
    pub name: &'static str,
    /// The C name, where it does not follow from the Rust name.
    pub c: Option<&'static str>,
    /// The value.
    pub value: i128,
}

/// A struct as it is laid out here.
#[derive(Clone, Copy, Debug)]
pub struct Struct {
    /// The Rust name.
    pub name: &'static str,
    /// The C type: `struct x`, a `typedef`, or `struct x.u.arm` for the type of a member.
    pub c: &'static str,
    /// Size in bytes.
    pub size: usize,
    /// Alignment in bytes.
    pub align: usize,
    /// Every field, explicit padding included.
    pub fields: &'static [Field],
}

/// A field of a [`Struct`].
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// The Rust name. A keyword has an underscore appended; `_pad` begins the name of padding that
    /// C leaves unnamed.
    pub name: &'static str,
    /// The C name, where it does not follow from the Rust name; empty where C has none whose offset
    /// could be taken.
    pub c: Option<&'static str>,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

/// A text and the Rust name it has here.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// The Rust name: the C name in upper case.
    pub name: &'static str,
    /// The C name, where it does not follow from the Rust name.
    pub c: Option<&'static str>,
    /// The value.
    pub value: &'static str,
}

/// What a module has of its headers.
#[derive(Clone, Copy, Debug)]
pub struct Header {
    /// The headers, by their path below `xen/`.
    pub files: &'static [&'static str],
    /// All constants.
    pub constants: &'static [Constant],
    /// All texts.
    pub texts: &'static [Text],
    /// All structs.
    pub structs: &'static [Struct],
}

/// Makes a [`Header`] of a module's tables, of those that it names.
macro_rules! header {
    ($module:path: $files:expr $(, $field:ident: $table:ident)*) => {{
        use $module as module;
        #[allow(clippy::needless_update, reason = "a module may have all tables")]
        Header { files: &$files, $( $field: module::$table, )* ..Header::NONE }
    }};
}

impl Header {
    const NONE: Self = Self {
        files: &[],
        constants: &[],
        texts: &[],
        structs: &[],
    };
}

/// Everything that this crate has of Xen's headers.
pub const HEADERS: &[Header] = &[
    header!(crate::xen: ["xen.h", "xen-compat.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(
        crate::arch_x86: ["arch-x86/xen.h", "arch-x86/xen-x86_64.h", "arch-x86/cpuid.h"],
        constants: CONSTANTS, structs: STRUCTS
    ),
    header!(crate::callback: ["callback.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::domctl: ["domctl.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::elfnote: ["elfnote.h"], constants: CONSTANTS),
    header!(crate::errno: ["errno.h"], constants: CONSTANTS),
    header!(crate::event_channel: ["event_channel.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::features: ["features.h"], constants: CONSTANTS),
    header!(crate::grant_table: ["grant_table.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::io::blkif: ["io/blkif.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::io::console: ["io/console.h"], structs: STRUCTS),
    header!(crate::io::netif: ["io/netif.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::io::protocols: ["io/protocols.h"], texts: TEXTS),
    header!(crate::io::ring: ["io/ring.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::io::xenbus: ["io/xenbus.h"], constants: CONSTANTS),
    header!(
        crate::io::xs_wire: ["io/xs_wire.h"], constants: CONSTANTS, texts: TEXTS, structs: STRUCTS
    ),
    header!(crate::memory: ["memory.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::nmi: ["nmi.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::physdev: ["physdev.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::platform: ["platform.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::sched: ["sched.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::sysctl: ["sysctl.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::trace: ["trace.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::vcpu: ["vcpu.h"], constants: CONSTANTS, structs: STRUCTS),
    header!(crate::version: ["version.h"], constants: CONSTANTS, structs: STRUCTS),
];

/// `Some` of what is given, `None` of nothing.
macro_rules! optional {
    () => {
        None
    };
    ($value:expr) => {
        Some($value)
    };
}

/// Declares the constants of a header and the table `CONSTANTS`. `=> "c_name"` names the C constant
/// where the rule (upper case, leading double underscores dropped) does not lead to it.
macro_rules! constants {
    ($( $(#[$meta:meta])* pub const $name:ident: $type:ty = $value:expr $(=> $c:literal)?; )*) => {
        $( $(#[$meta])* pub const $name: $type = $value; )*

        #[doc(hidden)]
        pub const CONSTANTS: &[$crate::layout::Constant] = &[
            $( $crate::layout::Constant {
                name: stringify!($name),
                c: $crate::layout::optional!($($c)?),
                value: $name as i128,
            }, )*
        ];
    };
}

/// Declares the texts of a header and the table `TEXTS`, as `constants!` does numbers.
macro_rules! texts {
    ($( $(#[$meta:meta])* pub const $name:ident: &str = $value:expr $(=> $c:literal)?; )*) => {
        $( $(#[$meta])* pub const $name: &str = $value; )*

        #[doc(hidden)]
        pub const TEXTS: &[$crate::layout::Text] = &[
            $( $crate::layout::Text {
                name: stringify!($name),
                c: $crate::layout::optional!($($c)?),
                value: $name,
            }, )*
        ];
    };
}

/// Declares the structs of a header and the table `STRUCTS`. After a struct's name are its size in
/// bytes and its C type; a field has its C name after `=` where the two differ. Every struct is
/// plain old data: it can be read from and viewed as bytes, so it has no implicit padding, and its
/// default is all zeroes.
macro_rules! structs {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident[$size:literal] = $c:literal {
            $( $(#[$fmeta:meta])* pub $field:ident: $type:ty $(= $fc:literal)?, )*
        }
    )*) => {
        $(
            $(#[$meta])*
            #[derive(
                Clone, Copy, Debug, ::zerocopy::FromBytes, ::zerocopy::IntoBytes,
                ::zerocopy::Immutable, ::zerocopy::KnownLayout,
            )]
            #[repr(C)]
            pub struct $name {
                $( $(#[$fmeta])* pub $field: $type, )*
            }

            const _: () = assert!(size_of::<$name>() == $size);

            impl Default for $name {
                fn default() -> Self {
                    ::zerocopy::FromZeros::new_zeroed()
                }
            }
        )*

        #[doc(hidden)]
        pub const STRUCTS: &[$crate::layout::Struct] = &[
            $( $crate::layout::Struct {
                name: stringify!($name),
                c: $c,
                size: size_of::<$name>(),
                align: align_of::<$name>(),
                fields: &[
                    $( $crate::layout::Field {
                        name: stringify!($field),
                        c: $crate::layout::optional!($($fc)?),
                        offset: ::core::mem::offset_of!($name, $field),
                        size: size_of::<$type>(),
                    }, )*
                ],
            }, )*
        ];
    };
}

pub(crate) use {constants, optional, structs, texts};
