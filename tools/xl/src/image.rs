//! Kernels and ramdisks on their way to the host's cache.

use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use control::message::MAX_CHUNK;
use control::{Image, ImageHasher, Reply, Request};

use crate::host::{Connection, wrong};
use crate::progress::Progress;
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
    /// Opens and hashes a file. A relative path is looked for in the current directory, then beside
    /// the configuration.
    pub fn open(
        what: &'static str,
        path: &Path,
        beside: Option<&Path>,
    ) -> anyhow::Result<ImageFile> {
        let found = find(path, beside);
        let describe = format!("{what} {}", found.display());
        let mut upload = Upload::open(&found, describe.clone())?;
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
        let path = found.to_string_lossy().into_owned();
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

fn find(path: &Path, beside: Option<&Path>) -> PathBuf {
    let other = beside
        .and_then(Path::parent)
        .map(|directory| directory.join(path));
    match other {
        Some(other) if path.is_relative() && !path.exists() && other.exists() => other,
        _ => path.to_owned(),
    }
}
