//! Kernels and ramdisks, known by the BLAKE3 hash of their bytes.

use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Serialize};

/// The BLAKE3 hash of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageHash(pub [u8; 32]);

impl ImageHash {
    /// The hash of bytes at hand.
    pub fn of(bytes: &[u8]) -> ImageHash {
        ImageHash(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for ImageHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Hashes an image that comes in pieces.
#[derive(Clone, Debug, Default)]
pub struct ImageHasher(blake3::Hasher);

impl ImageHasher {
    /// Nothing hashed yet.
    pub fn new() -> ImageHasher {
        ImageHasher::default()
    }

    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash of all pieces.
    pub fn finish(&self) -> ImageHash {
        ImageHash(*self.0.finalize().as_bytes())
    }
}

/// An image as a configuration names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// Its content.
    pub hash: ImageHash,
    /// Its size in bytes.
    pub size: u64,
    /// The path that the user wrote; for showing only.
    pub path: String,
}
