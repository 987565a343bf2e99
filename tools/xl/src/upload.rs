//! Files on their way to the host.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

use anyhow::{Context, bail};
use control::{Reply, Request};

use crate::host::{Connection, wrong};
use crate::progress::Progress;

/// An ordinary file, opened.
#[derive(Debug)]
pub struct Upload {
    file: File,
    describe: String,
    size: u64,
}

impl Upload {
    /// Opens a file; errors call it `describe`.
    pub fn open(path: &Path, describe: String) -> anyhow::Result<Upload> {
        let file = File::open(path).map_err(plain);
        Self::of(file.with_context(|| describe.clone())?, describe)
    }

    /// Takes an open file; errors call it `describe`.
    pub fn of(file: File, describe: String) -> anyhow::Result<Upload> {
        let metadata = file.metadata().map_err(plain);
        let metadata = metadata.with_context(|| describe.clone())?;
        if metadata.is_dir() {
            bail!("{describe} is a directory");
        }
        if !metadata.is_file() {
            bail!("{describe} is not an ordinary file");
        }
        if metadata.len() == 0 {
            bail!("{describe} is empty");
        }
        let size = metadata.len();
        Ok(Upload {
            file,
            describe,
            size,
        })
    }

    /// How many bytes it has.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The file. Reading it changes nothing: it is sent from its beginning on.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Sends the file in requests of up to `most` bytes each, of which the `first` one tells the host, until
    /// it has all of them.
    pub fn send(
        &mut self,
        host: &mut Connection,
        first: &Request,
        most: usize,
        request: impl Fn(Vec<u8>) -> Request,
        mut progress: Progress,
    ) -> anyhow::Result<()> {
        let (size, describe) = (self.size, self.describe.clone());
        host.done(first).with_context(|| describe.clone())?;
        self.file
            .rewind()
            .map_err(plain)
            .with_context(|| describe.clone())?;
        let mut left = size;
        while left > 0 {
            // A chunk fits usize.
            let length = left.min(most as u64) as usize;
            let mut chunk = vec![0; length];
            self.file
                .read_exact(&mut chunk)
                .map_err(|error| match error.kind() {
                    io::ErrorKind::UnexpectedEof => {
                        anyhow::anyhow!("{describe} shrank while it was read")
                    }
                    _ => anyhow::Error::from(plain(error)).context(describe.clone()),
                })?;
            host.client.send(host.channel, &request(chunk))?;
            // The host says early if it cannot take it.
            if let Some(reply) = host
                .client
                .try_receive(host.channel)
                .with_context(|| describe.clone())?
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

/// The system's error without its number, which tells a user nothing.
pub fn plain(error: io::Error) -> io::Error {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => io::Error::new(error.kind(), words.to_owned()),
        None => error,
    }
}
