//! Disks as `xl-disk-configuration(5)` describes them.
//!
//! A target is the name of one of the host's volumes, `phy:NAME` or `/dev/NAME` or `NAME`. Behind `phy:NAME` xl has no
//! place for the format; here there may be one. Of what the manual has, that which would make another disk of it than
//! a raw one is refused by name.

use control::DiskConfig;

use super::document::{ConfigError, Document};
use super::syntax::Value;

/// The values of the key `disk`.
///
/// # Errors
/// When a disk is not as the manual has it, or is of a kind that is not supported.
pub fn disks(document: &Document) -> Result<Vec<DiskConfig>, ConfigError> {
    let wrong = |why: String| document.wrong("disk", why);
    let entries = match document.value("disk") {
        None => return Ok(Vec::new()),
        Some(Value::List(entries)) => entries,
        Some(Value::Atom(_)) => return Err(wrong("expected a list of strings".into())),
    };
    let mut disks: Vec<DiskConfig> = Vec::new();
    for entry in entries {
        let Value::Atom(text) = entry else {
            return Err(wrong("expected a list of strings".into()));
        };
        let disk = parse(text).map_err(|why| wrong(format!("'{text}': {why}")))?;
        if disks.iter().any(|other| other.vdev == disk.vdev) {
            return Err(wrong(format!("there are two disks {}", disk.vdev)));
        }
        disks.push(disk);
    }
    if disks.len() > DiskConfig::MAX_DISKS {
        return Err(wrong(format!(
            "{} disks are more than {}",
            disks.len(),
            DiskConfig::MAX_DISKS
        )));
    }
    Ok(disks)
}

/// What is said so far.
#[derive(Default)]
struct Parts {
    target: Option<String>,
    /// The target says by its prefix what it is.
    prefixed: bool,
    vdev: Option<String>,
    read_only: Option<bool>,
    discard: Option<bool>,
}

/// What a disk's format may be called, whether it is supported or not.
const FORMATS: [&str; 6] = ["", "raw", "qcow", "qcow2", "qed", "vhd"];

/// A disk specification.
///
/// # Errors
/// What is wrong with it, or not supported.
pub fn parse(text: &str) -> Result<DiskConfig, String> {
    let mut parts = Parts::default();
    let mut positional = ["target", "format", "vdev", "access"].into_iter();
    let mut rest = Some(text);
    while let Some(text) = rest {
        // A target may have commas in it, and so is the last one if it has its name.
        if let Some(target) = text.trim_start().strip_prefix("target=") {
            parts.set("target", Some(target.trim()))?;
            break;
        }
        let (part, after) = match text.split_once(',') {
            Some((part, after)) => (part.trim(), Some(after)),
            None => (text.trim(), None),
        };
        rest = after;
        match part.split_once('=') {
            Some((key, value)) => parts.set(key.trim(), Some(value.trim()))?,
            None if is_flag(part) => parts.set(part, None)?,
            None => match positional.next() {
                Some("format") if parts.prefixed && !FORMATS.contains(&part) => {
                    positional.next();
                    parts.set("vdev", Some(part))?;
                }
                // What is left empty is as if it were not there.
                Some(_) if part.is_empty() => {}
                Some(key) => parts.set(key, Some(part))?,
                None => return Err(format!("'{part}' is one word too many")),
            },
        }
    }
    let volume = parts.target.ok_or("no target is given")?;
    if volume.is_empty() || volume.len() > DiskConfig::MAX_NAME {
        return Err("the target must be the name of a volume".into());
    }
    Ok(DiskConfig {
        vdev: parts.vdev.ok_or("no vdev is given")?,
        volume,
        read_only: parts.read_only.unwrap_or(false),
        discard: parts.discard.unwrap_or(true),
    })
}

fn is_flag(word: &str) -> bool {
    matches!(word, "cdrom" | "discard" | "no-discard" | "direct-io-safe")
}

impl Parts {
    fn set(&mut self, key: &str, value: Option<&str>) -> Result<(), String> {
        let text = value.unwrap_or_default();
        let unsupported = || Err(format!("{key}={text} is not supported"));
        match key {
            "target" => {
                self.prefixed = text.contains(':');
                once(&mut self.target, key, volume(text)?)
            }
            "vdev" => once(&mut self.vdev, key, vdev(text)?),
            "access" => {
                let read_only = match text {
                    "r" | "ro" => true,
                    "w" | "rw" => false,
                    _ => return Err(format!("access is r, ro, w or rw, not '{text}'")),
                };
                once(&mut self.read_only, key, read_only)
            }
            "discard" | "no-discard" => once(&mut self.discard, "discard", key == "discard"),
            // Nothing else is ever done here.
            "direct-io-safe" => Ok(()),
            "format" if text == "raw" => Ok(()),
            "devtype" if text == "disk" => Ok(()),
            "backend" if matches!(text, "0" | "Domain-0") => Ok(()),
            "backendtype" if text == "phy" => Ok(()),
            "cdrom" => Err("CD drives are not supported".into()),
            "format" | "devtype" | "backend" | "backendtype" | "script" => unsupported(),
            _ => Err(format!("a disk has no key '{key}'")),
        }
    }
}

fn once<T>(place: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{key} is given twice")),
    }
}

/// The volume that a target names.
fn volume(target: &str) -> Result<String, String> {
    let mut name = target;
    for prefix in ["phy:", "raw:"] {
        name = name.strip_prefix(prefix).unwrap_or(name);
    }
    if let Some((kind, _)) = name.split_once(':')
        && matches!(
            kind,
            "file" | "tap" | "tap2" | "aio" | "ioemu" | "vhd" | "qcow" | "qcow2" | "qed" | "iscsi"
        )
    {
        return Err(format!("{kind}: is not supported; a target is phy:VOLUME"));
    }
    name = name.strip_prefix("/dev/").unwrap_or(name);
    if name.contains('/') {
        return Err(format!(
            "{target} is a file, which is not supported; a target is phy:VOLUME"
        ));
    }
    Ok(name.to_owned())
}

fn vdev(name: &str) -> Result<String, String> {
    // xl once had the mode of a CD drive behind the name.
    let name = match name.split_once(':') {
        None | Some((_, "disk")) => name.split(':').next().unwrap_or_default(),
        Some((_, kind)) => return Err(format!("{kind} drives are not supported")),
    };
    match split_drivers::block::vdev::number(name) {
        Some(_) => Ok(name.to_owned()),
        None => Err(format!("'{name}' is no vdev; one is xvda")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(volume: &str, vdev: &str, read_only: bool) -> DiskConfig {
        DiskConfig {
            vdev: vdev.into(),
            volume: volume.into(),
            read_only,
            discard: true,
        }
    }

    #[test]
    fn positions_and_names_say_the_same() {
        for text in [
            "phy:data,raw,xvda,w",
            "phy:/dev/data,xvda,w",
            "phy:data,,xvda",
            "/dev/data,raw,xvda,rw",
            "data,,xvda",
            "data, raw, vdev=xvda",
            "format=raw, vdev=xvda, access=rw, target=data",
            "vdev=xvda,access=w,backendtype=phy,backend=Domain-0,devtype=disk,target=phy:data",
            "raw:data,raw,xvda:disk,w,direct-io-safe",
        ] {
            assert_eq!(parse(text), Ok(disk("data", "xvda", false)), "{text}");
        }
        assert_eq!(parse("data,raw,hda,r"), Ok(disk("data", "hda", true)));
        assert_eq!(parse("data,,hdb,ro"), Ok(disk("data", "hdb", true)));
        assert!(!parse("data,,xvdb,no-discard").unwrap().discard);
        let comma = "vdev=xvda, target=a, b=c";
        assert_eq!(parse(comma), Ok(disk("a, b=c", "xvda", false)));
    }

    #[test]
    fn what_is_wrong_or_not_supported_is_told_in_a_line() {
        for (text, why) in [
            ("", "no target is given"),
            ("data", "no vdev is given"),
            ("data,raw", "no vdev is given"),
            ("data,qcow2,xvda", "format=qcow2 is not supported"),
            ("data,xvda,w", "format=xvda is not supported"),
            ("phy:data,xvda,w,more", "'more' is one word too many"),
            ("data,raw,vda", "'vda' is no vdev; one is xvda"),
            ("data,raw,xvda,x", "access is r, ro, w or rw, not 'x'"),
            ("data,raw,xvda,w,more", "'more' is one word too many"),
            ("data,raw,xvda,colour=blue", "a disk has no key 'colour'"),
            ("data,raw,xvda,vdev=xvdb", "vdev is given twice"),
            (
                "data,raw,xvda,script=block-x",
                "script=block-x is not supported",
            ),
            (
                "data,raw,xvda,backend=disks",
                "backend=disks is not supported",
            ),
            (
                "data,raw,xvda,backendtype=qdisk",
                "backendtype=qdisk is not supported",
            ),
            ("data,raw,hdc,cdrom", "CD drives are not supported"),
            ("data,raw,hdc:cdrom", "cdrom drives are not supported"),
            (
                "file:/a.img,raw,xvda",
                "file: is not supported; a target is phy:VOLUME",
            ),
            (
                "/srv/a.img,raw,xvda",
                "/srv/a.img is a file, which is not supported; a target is phy:VOLUME",
            ),
            ("phy:,raw,xvda", "the target must be the name of a volume"),
        ] {
            assert_eq!(parse(text), Err(why.into()), "{text}");
        }
    }

    #[test]
    fn a_configuration_has_a_list_of_disks() {
        let read = |text: &str| {
            let mut document = Document::new();
            document.add("d.cfg", text).unwrap();
            disks(&document).map_err(|error| error.to_string())
        };
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(
            read("disk=['phy:a,raw,xvda,w','phy:b,raw,xvdb,r']"),
            Ok(vec![disk("a", "xvda", false), disk("b", "xvdb", true)])
        );
        assert_eq!(
            read("disk='phy:a,raw,xvda,w'"),
            Err("d.cfg:1:6: disk: expected a list of strings".into())
        );
        assert_eq!(
            read("disk=['phy:a,raw,xvda,w','phy:b,raw,xvda,r']"),
            Err("d.cfg:1:6: disk: there are two disks xvda".into())
        );
        assert_eq!(
            read("disk=['phy:a,raw,xvda,size=4']"),
            Err("d.cfg:1:6: disk: 'phy:a,raw,xvda,size=4': a disk has no key 'size'".into())
        );
    }
}
