//! The tables by which a test compares this crate with Xen's own headers, and the macros that fill
//! them.
//!
//! A struct or constant of the ABI is declared inside [`structs!`] or [`constants!`], which makes
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
    /// The C type, as a C program writes it.
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
    /// The C name, where it does not follow from the Rust name.
    pub c: Option<&'static str>,
    /// Offset in bytes.
    pub offset: usize,
    /// Size in bytes.
    pub size: usize,
}

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

/// Declares the structs of a header and the table `STRUCTS`. The literal after a struct's name is
/// its C type; a field has its C name after `=` where the two differ. Every struct is plain old
/// data: it can be read from and viewed as bytes, so it has no implicit padding, and its default is
/// all zeroes.
macro_rules! structs {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident = $c:literal {
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

/// Asserts at compile time that each type has the size given, in bytes.
macro_rules! assert_sizes {
    ($( $type:ty: $size:expr ),* $(,)?) => {
        $( const _: () = assert!(size_of::<$type>() == $size); )*
    };
}

pub(crate) use {assert_sizes, constants, optional, structs};
