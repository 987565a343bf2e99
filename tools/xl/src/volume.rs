//! The host's volumes, and what is on them.

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, bail};
use control::block::VolumeKind;
use control::volume::VOLUME_CHUNK;
use control::{BlockReply, BlockRequest, Reply, Request, VolumeReply, VolumeRequest};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use tempfile::{Builder, NamedTempFile};

use crate::cli::VolumeCommand;
use crate::host::{Connection, wrong};
use crate::progress::Progress;
use crate::upload::{Upload, plain};
use crate::{Outcome, console, print, requests};

/// What the size of a volume of memory is a multiple of.
const PAGE: u64 = 4096;
/// How often it is looked whether the user has had enough.
const LOOK: Duration = Duration::from_millis(100);

/// Does what a command says.
pub fn volume(host: &mut Connection, command: &VolumeCommand) -> Outcome {
    match command {
        VolumeCommand::List => return volumes(host),
        VolumeCommand::Create { name, size } => {
            let kib = requests::kib(size)?;
            let Some(bytes) = kib.checked_mul(1024) else {
                bail!("{size} is too much");
            };
            let name = name.clone();
            host.done(&Request::Block(BlockRequest::CreateVolume { name, bytes }))?;
        }
        VolumeCommand::Remove { name } => {
            host.done(&Request::Block(BlockRequest::RemoveVolume(name.clone())))?;
        }
        VolumeCommand::Import { name, file, create } => import(host, name, file, *create)?,
        VolumeCommand::Export { name, file } => export(host, name, file)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn import(host: &mut Connection, name: &str, file: &Path, create: bool) -> anyhow::Result<()> {
    let mut upload = Upload::open(file, file.display().to_string())?;
    let bytes = upload.size();
    if create {
        host.done(&Request::Block(BlockRequest::CreateVolume {
            name: name.to_owned(),
            bytes: bytes.next_multiple_of(PAGE),
        }))?;
    }
    let first = Request::Volume(VolumeRequest::Import {
        name: name.to_owned(),
        bytes,
    });
    let chunk = |bytes| Request::Volume(VolumeRequest::Chunk(bytes));
    let progress = Progress::new(format!("Importing {name}"), bytes, false);
    upload.send(host, &first, VOLUME_CHUNK, chunk, progress)
}

fn export(host: &mut Connection, name: &str, path: &Path) -> anyhow::Result<()> {
    let describe = || path.display().to_string();
    // A link goes on leading to the file.
    let path = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => bail!("{} is not an ordinary file", describe()),
        Ok(_) => fs::canonicalize(path)
            .map_err(plain)
            .with_context(describe)?,
        Err(_) => path.to_owned(),
    };
    // So that it is taken away again.
    let enough = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&enough))?;
    }
    // Before the host is asked: a use of the volume that comes to nothing would end only a moment after xl.
    let mut file = beside(&path).map_err(plain).with_context(describe)?;
    let request = Request::Volume(VolumeRequest::Export(name.to_owned()));
    let size = match host.call(&request)? {
        Reply::Volume(VolumeReply::Size(size)) => size,
        other => return Err(wrong(&other).into()),
    };
    let mut progress = Progress::new(format!("Exporting {name}"), size, false);
    let mut position = 0;
    loop {
        match host.client.try_receive(host.channel)? {
            Some(Reply::Volume(VolumeReply::Chunk(bytes))) => {
                file.write_all(&bytes)
                    .map_err(plain)
                    .with_context(describe)?;
                position += bytes.len() as u64;
                progress.advance(position);
            }
            Some(Reply::Done) if position == size => break,
            Some(other) => return Err(wrong(&other).into()),
            None => {
                if console::wait(&host.client, false, None, Some(LOOK))?.0 {
                    host.client.pump()?;
                }
            }
        }
        if enough.load(Ordering::Relaxed) {
            bail!("interrupted; {} is as it was", describe());
        }
    }
    let kept = file.as_file().sync_all();
    kept.and_then(|()| Ok(file.persist(&path)?))
        .map_err(plain)
        .with_context(describe)?;
    Ok(())
}

/// A file in the directory of another, which goes away unless it is kept.
fn beside(path: &Path) -> std::io::Result<NamedTempFile> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    Builder::new()
        .prefix(&format!(".{name}."))
        .suffix(".part")
        // As the user's mask has it.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(directory)
}

fn volumes(host: &mut Connection) -> Outcome {
    let volumes = match host.call(&Request::Block(BlockRequest::Volumes))? {
        Reply::Block(BlockReply::Volumes(volumes)) => volumes,
        other => return Err(wrong(&other).into()),
    };
    let mut out = format!(
        "{:<24} {:<10} {:>10} {:>6} {:<4} {}\n",
        "Name", "Kind", "KiB", "Sector", "Mode", "Domains"
    );
    for volume in volumes {
        let kind = match volume.kind {
            VolumeKind::Disk => "disk",
            VolumeKind::Partition => "partition",
            VolumeKind::Ram => "ram",
        };
        let mode = if volume.read_only { "r" } else { "w" };
        let users: Vec<String> = volume.users.iter().map(u16::to_string).collect();
        let users = match users.as_slice() {
            [] => "-".to_owned(),
            users => users.join(","),
        };
        // Writing to a string does not fail.
        let _ = writeln!(
            out,
            "{:<24} {kind:<10} {:>10} {:>6} {mode:<4} {users}",
            volume.name,
            volume.bytes / 1024,
            volume.sector_size,
        );
    }
    print(&out)?;
    Ok(ExitCode::SUCCESS)
}
