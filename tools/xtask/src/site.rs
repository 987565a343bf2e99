//! The disk of the demonstration's web server: a FAT volume with the files of a directory.

use anyhow::{Context, Result};
use fatfs::{FileSystem, FormatVolumeOptions, FsOptions};
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

/// Bytes of the volume: enough for FAT16.
const SIZE: u64 = 8 << 20;

/// Makes an image of a FAT volume with the files in `from`, directories in it included.
///
/// # Errors
/// When a file cannot be read or written, or there is no room for it.
pub fn make(from: &Path, image: &Path) -> Result<()> {
    // A new file, then a rename: another host may have the old one as a disk.
    let scratch = image.with_extension("new");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&scratch)
        .with_context(|| format!("cannot make {}", scratch.display()))?;
    file.set_len(SIZE)?;
    fatfs::format_volume(&mut file, FormatVolumeOptions::new())?;
    file.seek(SeekFrom::Start(0))?;
    let volume = FileSystem::new(&mut file, FsOptions::new())?;
    copy(from, &volume.root_dir()).with_context(|| format!("cannot copy {}", from.display()))?;
    volume.unmount()?;
    fs::rename(&scratch, image)?;
    Ok(())
}

fn copy<T: fatfs::ReadWriteSeek>(from: &Path, to: &fatfs::Dir<'_, T>) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().context("a name that is no UTF-8")?;
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to.create_dir(name)?)?;
        } else {
            let mut file = to.create_file(name)?;
            file.truncate()?;
            file.write_all(&fs::read(entry.path())?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn the_volume_has_the_files_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let from = dir.path().join("from");
        fs::create_dir_all(from.join("below")).unwrap();
        fs::write(from.join("index.html"), "<p>index").unwrap();
        let large: Vec<u8> = (0..100_000_u32).map(|at| at as u8).collect();
        fs::write(from.join("below/a long name.bin"), &large).unwrap();
        let image = dir.path().join("www.img");
        make(&from, &image).unwrap();
        make(&from, &image).unwrap();
        let file = File::options().read(true).write(true).open(&image).unwrap();
        let volume = FileSystem::new(file, FsOptions::new()).unwrap();
        assert_eq!(volume.fat_type(), fatfs::FatType::Fat16);
        let mut found = Vec::new();
        let root = volume.root_dir();
        let mut file = root.open_file("below/a long name.bin").unwrap();
        file.read_to_end(&mut found).unwrap();
        assert!(found == large);
    }
}
