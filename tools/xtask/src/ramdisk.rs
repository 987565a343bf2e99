//! A ramdisk for Linux: an archive that the kernel unpacks before it starts the first program. Several, one behind the
//! other, are one as well.

use anyhow::{Context, Result};
use cpio::newc::Builder;
use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

/// An archive that is being written. Folders come by themselves before what is in them.
#[derive(Debug, Default)]
pub struct Ramdisk {
    archive: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Ramdisk {
    /// Adds a folder.
    pub fn folder(&mut self, name: &str) -> io::Result<()> {
        if name.is_empty() || !self.folders.insert(name.to_owned()) {
            return Ok(());
        }
        self.add(name, FOLDER, b"")
    }

    /// Adds a file that may be run.
    pub fn program(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.add(name, PROGRAM, bytes)
    }

    /// Adds a file or a folder with all that is in it, as `name`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn tree(&mut self, name: &str, path: &Path) -> Result<()> {
        let what = || path.display().to_string();
        let kind = fs::symlink_metadata(path).with_context(what)?.file_type();
        if kind.is_symlink() {
            let target = fs::read_link(path).with_context(what)?;
            self.add(name, LINK, target.as_os_str().as_bytes())?;
        } else if kind.is_dir() {
            self.folder(name)?;
            for entry in fs::read_dir(path).with_context(what)? {
                let entry = entry.with_context(what)?;
                let inner = entry.file_name();
                let inner = inner.to_str().with_context(what)?;
                self.tree(&format!("{name}/{inner}"), &entry.path())?;
            }
        } else {
            self.program(name, &fs::read(path).with_context(what)?)?;
        }
        Ok(())
    }

    fn add(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        if let Some((parent, _)) = name.rsplit_once('/') {
            self.folder(parent)?;
        }
        self.entries += 1;
        let entry = Builder::new(name).ino(self.entries).mode(mode).nlink(1);
        let length = u32::try_from(bytes.len()).map_err(io::Error::other)?;
        let mut writer = entry.write(&mut self.archive, length);
        writer.write_all(bytes)?;
        writer.finish()?;
        Ok(())
    }

    /// The archive.
    pub fn finish(self) -> io::Result<Vec<u8>> {
        cpio::newc::trailer(self.archive)
    }
}

/// The entries of an archive: name, mode, bytes.
#[cfg(test)]
pub fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
    use std::io::Read;
    let mut found = Vec::new();
    let mut rest = archive;
    loop {
        let mut reader = cpio::newc::Reader::new(rest).unwrap();
        let entry = reader.entry();
        if entry.is_trailer() {
            return found;
        }
        let (name, mode) = (entry.name().to_owned(), entry.mode());
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        found.push((name, mode, bytes));
        rest = reader.finish().unwrap();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_tree_comes_with_its_links_and_after_the_folders_that_it_is_in() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "text").unwrap();
        symlink("file", dir.path().join("link")).unwrap();
        let mut ramdisk = Ramdisk::default();
        ramdisk.program("a/b/first", b"1").unwrap();
        ramdisk.tree("a/c", dir.path()).unwrap();
        let mut found = entries(&ramdisk.finish().unwrap());
        // A folder's entries come in any order.
        found.get_mut(4..).unwrap().sort();
        let entry = |name: &str, mode, text: &str| (name.to_owned(), mode, text.into());
        let expected = [
            entry("a", FOLDER, ""),
            entry("a/b", FOLDER, ""),
            entry("a/b/first", PROGRAM, "1"),
            entry("a/c", FOLDER, ""),
            entry("a/c/file", PROGRAM, "text"),
            entry("a/c/link", LINK, "file"),
        ];
        assert_eq!(found, expected);
    }
}
