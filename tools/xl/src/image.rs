//! Kernels and ramdisks on their way to the host's cache.

use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use control::message::MAX_CHUNK;
use control::{Image, ImageHasher, Reply, Request};

use crate::host::{Connection, wrong};
use crate::progress::Progress;
use crate::unpack::unpack;
use crate::upload::{Upload, plain};

/// A file and its hash.
#[derive(Debug)]
pub struct ImageFile {
    /// What the host is to know of it.
    pub image: Image,
    upload: Upload,
    what: &'static str,
}

impl ImageFile {
    /// Opens and hashes a kernel: what is in the file if that is a boot image, or compressed. A relative path is looked
    /// for in the current directory, then beside the configuration.
    pub fn kernel(path: &Path, beside: Option<&Path>) -> anyhow::Result<ImageFile> {
        let (found, describe) = find("kernel", path, beside);
        let mut upload = Upload::open(&found, describe.clone())?;
        if let Some(kernel) = unpack(upload.file()).with_context(|| describe.clone())? {
            upload = Upload::of(kernel, describe.clone())?;
        }
        Self::hash("kernel", &found, describe, upload)
    }

    /// Opens and hashes a ramdisk, whose path is as a kernel's.
    pub fn ramdisk(path: &Path, beside: Option<&Path>) -> anyhow::Result<ImageFile> {
        let (found, describe) = find("ramdisk", path, beside);
        let upload = Upload::open(&found, describe.clone())?;
        Self::hash("ramdisk", &found, describe, upload)
    }

    fn hash(
        what: &'static str,
        path: &Path,
        describe: String,
        mut upload: Upload,
    ) -> anyhow::Result<ImageFile> {
        let start = upload.file().rewind().map_err(plain);
        start.with_context(|| describe.clone())?;
        let mut hasher = ImageHasher::new();
        let mut left = upload.size();
        let mut buffer = vec![0; 256 * 1024];
        while left > 0 {
            match upload.file().take(left).read(&mut buffer) {
                Ok(0) => bail!("{describe} shrank while it was read"),
                Ok(length) => {
                    hasher.update(buffer.get(..length).unwrap_or_default());
                    left -= length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(plain(error)).context(describe),
            }
        }
        let path = path.to_string_lossy().into_owned();
        let image = Image {
            hash: hasher.finish(),
            size: upload.size(),
            path,
        };
        Ok(ImageFile {
            image,
            upload,
            what,
        })
    }

    /// Uploads the image unless the host has it.
    pub fn provide(&mut self, host: &mut Connection, quiet: bool) -> anyhow::Result<()> {
        match host.call(&Request::HasImage(self.image.hash))? {
            Reply::ImageCached(true) => Ok(()),
            Reply::ImageCached(false) => {
                let Image { hash, size, .. } = self.image;
                let first = Request::UploadImage { hash, size };
                let progress = Progress::new(format!("Uploading {}", self.what), size, quiet);
                self.upload
                    .send(host, &first, MAX_CHUNK, Request::ImageChunk, progress)
            }
            other => Err(wrong(&other).into()),
        }
    }
}

/// Where the file is, and what errors call it.
fn find(what: &str, path: &Path, beside: Option<&Path>) -> (PathBuf, String) {
    let other = beside
        .and_then(Path::parent)
        .map(|directory| directory.join(path));
    let found = match other {
        Some(other) if path.is_relative() && !path.exists() && other.exists() => other,
        _ => path.to_owned(),
    };
    let describe = format!("{what} {}", found.display());
    (found, describe)
}
