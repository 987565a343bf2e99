//! Kernels and ramdisks on their way to the host's cache.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use control::message::MAX_CHUNK;
use control::{Image, ImageHasher, Reply, Request};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::host::{Connection, wrong};

/// An upload that takes longer shows its progress.
const SHORT: Duration = Duration::from_millis(300);

/// A file and its hash.
#[derive(Debug)]
pub struct ImageFile {
    /// What the host is to know of it.
    pub image: Image,
    file: File,
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
        let describe = || format!("{what} {}", found.display());
        let mut file = File::open(&found).map_err(plain).with_context(describe)?;
        let kind = file
            .metadata()
            .map_err(plain)
            .with_context(describe)?
            .file_type();
        if kind.is_dir() {
            bail!("{} is a directory", describe());
        }
        if !kind.is_file() {
            bail!("{} is not an ordinary file", describe());
        }
        let mut hasher = ImageHasher::new();
        let mut size = 0;
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    hasher.update(buffer.get(..length).unwrap_or_default());
                    size += length as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(plain(error)).with_context(describe),
            }
        }
        if size == 0 {
            bail!("{} is empty", describe());
        }
        let path = found.to_string_lossy().into_owned();
        let image = Image {
            hash: hasher.finish(),
            size,
            path,
        };
        Ok(ImageFile { image, file, what })
    }

    /// Uploads the image unless the host has it.
    pub fn provide(&mut self, host: &mut Connection, quiet: bool) -> anyhow::Result<()> {
        match host.call(&Request::HasImage(self.image.hash))? {
            Reply::ImageCached(true) => Ok(()),
            Reply::ImageCached(false) => self.upload(host, quiet),
            other => Err(wrong(&other).into()),
        }
    }

    fn upload(&mut self, host: &mut Connection, quiet: bool) -> anyhow::Result<()> {
        let describe = format!("{} {}", self.what, self.image.path);
        let Image { hash, size, .. } = self.image;
        host.done(&Request::UploadImage { hash, size })
            .with_context(|| describe.clone())?;
        self.file
            .rewind()
            .map_err(plain)
            .with_context(|| describe.clone())?;
        let mut progress = Progress::new(self.what, size, quiet);
        let mut left = size;
        while left > 0 {
            // A chunk fits usize.
            let length = left.min(MAX_CHUNK as u64) as usize;
            let mut chunk = vec![0; length];
            self.file
                .read_exact(&mut chunk)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        anyhow::anyhow!("{describe} shrank while it was read")
                    }
                    _ => anyhow::Error::from(plain(error)).context(describe.clone()),
                })?;
            host.client
                .send(host.channel, &Request::ImageChunk(chunk))?;
            // The host says early if it cannot take the image.
            if let Some(reply) = host
                .client
                .try_receive(host.channel)
                .context(describe.clone())?
            {
                if left == length as u64 && reply == Reply::Done {
                    return Ok(());
                }
                return Err(wrong(&reply).into());
            }
            left -= length as u64;
            progress.advance(size - left);
        }
        match host.client.receive(host.channel).context(describe)? {
            Reply::Done => Ok(()),
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

/// The system's error without its number, which tells a user nothing.
pub fn plain(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => io::Error::new(error.kind(), words.to_owned()),
        None => error,
    }
}

/// A bar on a terminal, for what takes long.
struct Progress {
    bar: ProgressBar,
    start: Instant,
    quiet: bool,
}

impl Progress {
    fn new(what: &str, size: u64, quiet: bool) -> Progress {
        let bar = ProgressBar::with_draw_target(Some(size), ProgressDrawTarget::hidden());
        let style =
            ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}");
        if let Ok(style) = style {
            bar.set_style(style);
        }
        bar.set_message(format!("Uploading {what}"));
        Progress {
            bar,
            start: Instant::now(),
            quiet,
        }
    }

    fn advance(&mut self, position: u64) {
        if self.bar.is_hidden() && !self.quiet && self.start.elapsed() > SHORT {
            // Hidden all the same if that is no terminal.
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
            self.quiet = self.bar.is_hidden();
        }
        self.bar.set_position(position);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
