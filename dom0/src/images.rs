//! The kernels and ramdisks that were sent, kept by content hash, so that each is sent once.
//!
//! The memory for them is bounded. When it is full, those that no domain was built from go first,
//! the least recently used one before the others.

use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, OnceCell};
use core::fmt;

use control::{Error, ImageHash, ImageHasher};
use pv_image::{ImageError, PvImage, Role};

/// An image in memory.
pub struct CachedImage {
    /// Its content.
    pub bytes: Vec<u8>,
    kernel: OnceCell<Result<PvImage, ImageError>>,
    _room: Reservation,
}

impl CachedImage {
    /// What its notes say, if it is a kernel for a domU. It is parsed once.
    pub fn kernel(&self) -> Result<&PvImage, Error> {
        self.kernel
            .get_or_init(|| {
                let image = PvImage::parse(&self.bytes)?;
                image.check_role(Role::DomU).map(|()| image)
            })
            .as_ref()
            .map_err(|error| Error::BadKernel(alloc::format!("{error}")))
    }
}

impl fmt::Debug for CachedImage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CachedImage({} bytes)", self.bytes.len())
    }
}

/// Bytes that count against the room as long as this lives.
#[derive(Debug)]
struct Reservation {
    used: Rc<Cell<u64>>,
    size: u64,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.size);
    }
}

#[derive(Debug)]
struct Entry {
    image: Rc<CachedImage>,
    last_use: u64,
}

/// The images by their hashes.
#[derive(Debug)]
pub struct ImageCache {
    room: u64,
    used: Rc<Cell<u64>>,
    uses: u64,
    entries: BTreeMap<ImageHash, Entry>,
}

/// An image on its way in.
#[derive(Debug)]
pub struct Upload {
    hash: ImageHash,
    size: usize,
    bytes: Vec<u8>,
    hasher: ImageHasher,
    room: Reservation,
}

impl ImageCache {
    /// A cache for up to `room` bytes.
    pub fn new(room: u64) -> Self {
        Self {
            room,
            used: Rc::default(),
            uses: 0,
            entries: BTreeMap::new(),
        }
    }

    /// Whether an image is there.
    pub fn has(&self, hash: &ImageHash) -> bool {
        self.entries.contains_key(hash)
    }

    /// An image, if it is there.
    pub fn get(&mut self, hash: &ImageHash) -> Result<Rc<CachedImage>, Error> {
        self.uses += 1;
        let entry = self
            .entries
            .get_mut(hash)
            .ok_or(Error::NoSuchImage(*hash))?;
        entry.last_use = self.uses;
        Ok(entry.image.clone())
    }

    /// Makes room for an image that is to come.
    pub fn upload(&mut self, hash: ImageHash, size: u64) -> Result<Upload, Error> {
        let too_large = |room| Error::ImageTooLarge { size, room };
        if size > self.room {
            return Err(too_large(self.room));
        }
        while self.room - self.used.get() < size {
            let unused = self
                .entries
                .iter()
                .filter(|(_, entry)| Rc::strong_count(&entry.image) == 1)
                .min_by_key(|(_, entry)| entry.last_use);
            let Some((&oldest, _)) = unused else {
                return Err(too_large(self.room - self.used.get()));
            };
            self.entries.remove(&oldest);
        }
        let mut bytes = Vec::new();
        let length = usize::try_from(size).map_err(|_| too_large(self.room))?;
        bytes.try_reserve_exact(length).map_err(|_| too_large(0))?;
        self.used.set(self.used.get() + size);
        Ok(Upload {
            hash,
            size: length,
            bytes,
            hasher: ImageHasher::new(),
            room: Reservation {
                used: self.used.clone(),
                size,
            },
        })
    }

    /// Keeps an image that has come in whole.
    pub fn finish(&mut self, upload: Upload) -> Result<(), Error> {
        if upload.bytes.len() != upload.size || upload.hasher.finish() != upload.hash {
            return Err(Error::DamagedImage(upload.hash));
        }
        self.uses += 1;
        let image = Rc::new(CachedImage {
            bytes: upload.bytes,
            kernel: OnceCell::new(),
            _room: upload.room,
        });
        let last_use = self.uses;
        self.entries
            .entry(upload.hash)
            .or_insert(Entry { image, last_use })
            .last_use = last_use;
        Ok(())
    }
}

impl Upload {
    /// Adds the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), Error> {
        if bytes.len() > self.size - self.bytes.len() {
            return Err(Error::DamagedImage(self.hash));
        }
        self.hasher.update(bytes);
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    /// Whether all bytes have come.
    pub fn is_complete(&self) -> bool {
        self.bytes.len() == self.size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(cache: &mut ImageCache, bytes: &[u8]) -> Result<ImageHash, Error> {
        let hash = ImageHash::of(bytes);
        let mut upload = cache.upload(hash, bytes.len() as u64)?;
        for piece in bytes.chunks(3) {
            upload.push(piece)?;
        }
        assert!(upload.is_complete());
        cache.finish(upload)?;
        Ok(hash)
    }

    #[test]
    fn the_least_recently_used_image_makes_room() {
        let mut cache = ImageCache::new(10);
        let first = put(&mut cache, b"1111").unwrap();
        let second = put(&mut cache, b"2222").unwrap();
        cache.get(&first).unwrap();
        let third = put(&mut cache, b"3333").unwrap();
        assert!(cache.has(&first) && !cache.has(&second) && cache.has(&third));
    }

    #[test]
    fn an_image_that_a_domain_uses_stays() {
        let mut cache = ImageCache::new(10);
        let used = put(&mut cache, b"11111111").unwrap();
        let image = cache.get(&used).unwrap();
        assert_eq!(
            put(&mut cache, b"2222"),
            Err(Error::ImageTooLarge { size: 4, room: 2 })
        );
        drop(image);
        assert!(put(&mut cache, b"2222").is_ok());
    }

    #[test]
    fn an_upload_that_is_given_up_gives_its_room_back() {
        let mut cache = ImageCache::new(10);
        drop(cache.upload(ImageHash([0; 32]), 10).unwrap());
        assert!(put(&mut cache, b"0123456789").is_ok());
    }

    #[test]
    fn a_damaged_image_is_not_kept() {
        let mut cache = ImageCache::new(100);
        let hash = ImageHash::of(b"right");
        let mut upload = cache.upload(hash, 5).unwrap();
        upload.push(b"wrong").unwrap();
        assert_eq!(cache.finish(upload), Err(Error::DamagedImage(hash)));
        let mut upload = cache.upload(hash, 5).unwrap();
        assert_eq!(
            upload.push(b"right and more"),
            Err(Error::DamagedImage(hash))
        );
        assert!(!cache.has(&hash));
        assert_eq!(cache.used.get(), 5);
        drop(upload);
        assert_eq!(cache.used.get(), 0);
    }

    #[test]
    fn an_image_that_is_sent_twice_takes_room_once() {
        let mut cache = ImageCache::new(20);
        let hash = put(&mut cache, b"12345678").unwrap();
        assert_eq!(put(&mut cache, b"12345678"), Ok(hash));
        assert_eq!(cache.used.get(), 8);
    }

    #[test]
    fn what_is_no_kernel_is_told_why() {
        let mut cache = ImageCache::new(20);
        let hash = put(&mut cache, b"just text").unwrap();
        assert_eq!(
            cache.get(&hash).unwrap().kernel(),
            Err(Error::BadKernel(
                "not an ELF file (no ELF magic number)".into()
            ))
        );
    }
}
