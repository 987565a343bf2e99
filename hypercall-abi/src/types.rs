//! The scalar types of the ABI as newtypes, so that a frame number cannot be passed for a port.

use core::fmt;
use core::hash::{Hash, Hasher};
use core::marker::PhantomData;

use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

macro_rules! newtypes {
    ($( $(#[$meta:meta])* pub struct $name:ident($inner:ty) as $format:literal; )*) => {
        $(
            $(#[$meta])*
            #[derive(
                Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
                FromBytes, IntoBytes, Immutable, KnownLayout,
            )]
            #[repr(transparent)]
            pub struct $name(pub $inner);

            impl fmt::Display for $name {
                fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    write!(f, $format, self.0)
                }
            }
        )*
    };
}

newtypes! {
    /// A domain's number (`domid_t`): an ordinary domain below [`Domid::FIRST_RESERVED`], or one of
    /// the constants.
    pub struct Domid(u16) as "{}";
    /// An event channel of a domain (`evtchn_port_t`). Port 0 is never allocated.
    pub struct Port(u32) as "{}";
    /// An index into a domain's grant table (`grant_ref_t`).
    pub struct GrantRef(u32) as "{}";
    /// A mapping of a foreign grant, as the mapping domain names it (`grant_handle_t`).
    pub struct GrantHandle(u32) as "{}";
    /// A machine frame number: the machine address of a 4 KiB page, divided by 4096 (`xen_pfn_t`).
    pub struct Mfn(u64) as "{:#x}";
    /// A guest's pseudo-physical frame number: the index into its own list of frames (`xen_pfn_t`).
    pub struct Pfn(u64) as "{:#x}";
}

impl Domid {
    /// The first number that no ordinary domain has.
    pub const FIRST_RESERVED: Self = Self(crate::xen::DOMID_FIRST_RESERVED);
    /// The calling domain itself.
    pub const SELF: Self = Self(crate::xen::DOMID_SELF);
    /// Owner of memory-mapped I/O, as the foreign domain of an MMU hypercall.
    pub const IO: Self = Self(crate::xen::DOMID_IO);
    /// Owner of the hypervisor's own shareable frames.
    pub const XEN: Self = Self(crate::xen::DOMID_XEN);
    /// Owner of frames shared copy-on-write.
    pub const COW: Self = Self(crate::xen::DOMID_COW);
    /// No domain at all.
    pub const INVALID: Self = Self(crate::xen::DOMID_INVALID);
    /// The idle domain.
    pub const IDLE: Self = Self(crate::xen::DOMID_IDLE);

    /// Whether this is none of the reserved numbers.
    pub const fn is_ordinary(self) -> bool {
        self.0 < Self::FIRST_RESERVED.0
    }
}

/// The address, in the caller's address space, of one `T` or of an array of them
/// (`XEN_GUEST_HANDLE(T)`).
///
/// It is what the caller claims: nothing says that it is mapped, aligned, or within the caller's
/// half of the address space.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct GuestHandle<T> {
    address: u64,
    target: PhantomData<T>,
}

impl<T> GuestHandle<T> {
    /// The handle that stands for no buffer.
    pub const NULL: Self = Self::new(0);

    /// The handle for a linear address.
    pub const fn new(address: u64) -> Self {
        Self {
            address,
            target: PhantomData,
        }
    }

    /// The handle for what a pointer of this address space points to, which becomes reachable by
    /// others.
    pub fn from_ptr(pointer: *const T) -> Self {
        Self::new(pointer.expose_provenance() as u64)
    }

    /// The handle for what a pointer of this address space points to, for others to write.
    pub fn from_mut_ptr(pointer: *mut T) -> Self {
        Self::new(pointer.expose_provenance() as u64)
    }

    /// The linear address.
    pub const fn address(self) -> u64 {
        self.address
    }

    /// Whether it stands for no buffer.
    pub const fn is_null(self) -> bool {
        self.address == 0
    }

    /// The same address, taken to be that of a `U`.
    pub const fn cast<U>(self) -> GuestHandle<U> {
        GuestHandle::new(self.address)
    }

    /// The handle of the element `index` of the array that this one begins, `None` where the
    /// address space ends before.
    pub const fn element(self, index: u64) -> Option<Self> {
        let Some(bytes) = index.checked_mul(size_of::<T>() as u64) else {
            return None;
        };
        match self.address.checked_add(bytes) {
            Some(address) => Some(Self::new(address)),
            None => None,
        }
    }
}

impl<T> Clone for GuestHandle<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for GuestHandle<T> {}

impl<T> Default for GuestHandle<T> {
    fn default() -> Self {
        Self::NULL
    }
}

impl<T> PartialEq for GuestHandle<T> {
    fn eq(&self, other: &Self) -> bool {
        self.address == other.address
    }
}

impl<T> Eq for GuestHandle<T> {}

impl<T> Hash for GuestHandle<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.address.hash(state);
    }
}

impl<T> fmt::Debug for GuestHandle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "GuestHandle({:#x})", self.address)
    }
}

/// A C union: `N` words of `W`, which set its size and alignment. Which arm it holds, something
/// beside it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Union<W, const N: usize>([W; N]);

impl<W: FromBytes + IntoBytes + Immutable, const N: usize> Union<W, N> {
    /// A union that holds `arm`, with zeroes behind it.
    pub fn new<A: IntoBytes + Immutable>(arm: &A) -> Self {
        let mut union = Self::default();
        union.set(arm);
        union
    }

    /// The bytes taken as an `A`.
    pub fn get<A: FromBytes + IntoBytes>(&self) -> A {
        const { assert!(size_of::<A>() <= size_of::<Self>(), "no arm of this union") };
        let mut arm = A::new_zeroed();
        arm.as_mut_bytes()
            .copy_from_slice(&self.0.as_bytes()[..size_of::<A>()]);
        arm
    }

    /// Makes it hold `arm`, with zeroes behind it.
    pub fn set<A: IntoBytes + Immutable>(&mut self, arm: &A) {
        const { assert!(size_of::<A>() <= size_of::<Self>(), "no arm of this union") };
        let (head, tail) = self.0.as_mut_bytes().split_at_mut(size_of::<A>());
        head.copy_from_slice(arm.as_bytes());
        tail.fill(0);
    }
}

impl<W: FromBytes, const N: usize> Default for Union<W, N> {
    fn default() -> Self {
        Self::new_zeroed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_union_gives_back_the_arm_and_zeroes_behind_it() {
        let mut union = Union::<u32, 4>([u32::MAX; 4]);
        union.set(&0x1234_u32);
        assert_eq!(union.get::<u32>(), 0x1234);
        assert_eq!(union.get::<[u32; 4]>(), [0x1234, 0, 0, 0]);
    }

    #[test]
    fn an_element_beyond_the_address_space_has_no_handle() {
        let handle = GuestHandle::<u64>::new(u64::MAX - 15);
        assert_eq!(handle.element(1), Some(GuestHandle::new(u64::MAX - 7)));
        assert_eq!(handle.element(2), None);
        assert_eq!(handle.element(u64::MAX), None);
    }

    #[test]
    fn reserved_numbers_are_no_ordinary_domains() {
        assert!(Domid(0x7fef).is_ordinary());
        for reserved in [Domid::SELF, Domid::IO, Domid::XEN, Domid::IDLE] {
            assert!(!reserved.is_ordinary());
        }
    }
}
