//! A domain's description, made of the settings of an xl.cfg.

use std::path::PathBuf;

use control::{Action, DiskConfig, DomainConfig, DomainRef, OnEvent, Scheduling, Uuid, VifConfig};

use super::document::{ConfigError, Document};
use super::{cpus, disk, vif};

/// xl's memory for a domain that says nothing about it, in MiB.
const DEFAULT_MEMORY: u64 = 32;
/// 16 TiB in MiB: what a 44-bit physical address can name.
const MAX_MEMORY: u64 = 16 << 20;
/// `XEN_LEGACY_MAX_VCPUS` is 32; a PV guest with more registers each vCPU's info page, up to 8192.
const MAX_VCPUS: u64 = 8192;
/// Those that events in queues have, without port 0.
const MAX_EVENT_CHANNELS: u64 = (1 << 17) - 1;

/// What the configuration says, before its files are looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DomainSpec {
    /// The name.
    pub name: String,
    /// The UUID, a random one if none was given.
    pub uuid: Uuid,
    /// Memory at start in KiB.
    pub memory_kib: u64,
    /// The most memory in KiB.
    pub max_memory_kib: u64,
    /// vCPUs online at start.
    pub vcpus: u32,
    /// vCPUs in all.
    pub max_vcpus: u32,
    /// The highest event-channel port.
    pub max_event_channels: u32,
    /// The kernel's file.
    pub kernel: PathBuf,
    /// The ramdisk's file.
    pub ramdisk: Option<PathBuf>,
    /// The kernel's command line.
    pub cmdline: String,
    /// How its vCPUs share the CPUs.
    pub scheduling: Scheduling,
    /// Its disks.
    pub disks: Vec<DiskConfig>,
    /// Its network interfaces.
    pub vifs: Vec<VifConfig>,
    /// What follows when it stops.
    pub on: OnEvent,
}

impl DomainSpec {
    /// Checks all that can be checked without looking at files or asking the host.
    ///
    /// # Errors
    /// The first setting that is missing or wrong.
    pub fn new(document: &mut Document) -> Result<DomainSpec, ConfigError> {
        check_type(document)?;
        let name = document
            .string("name")?
            .ok_or_else(|| document.missing("name"))?
            .to_owned();
        if name.is_empty() || name.len() > DomainRef::MAX_NAME {
            let why = format!(
                "expected 1 to {} bytes, found {}",
                DomainRef::MAX_NAME,
                name.len()
            );
            return Err(document.wrong("name", why));
        }
        if name
            .chars()
            .any(|character| character.is_control() || character == '/')
        {
            return Err(document.wrong("name", "control characters and '/' have no place in it"));
        }
        let uuid = match document.string("uuid")? {
            None => uuid::Uuid::new_v4(),
            Some(text) => uuid::Uuid::parse_str(text)
                .map_err(|_| document.wrong("uuid", format!("expected a UUID, found '{text}'")))?,
        };
        let memory = document.number("memory", 1, MAX_MEMORY)?;
        let max_memory = document.number("maxmem", 1, MAX_MEMORY)?;
        let memory = memory.or(max_memory).unwrap_or(DEFAULT_MEMORY);
        let max_memory = max_memory.unwrap_or(memory);
        if max_memory < memory {
            return Err(document.wrong(
                "maxmem",
                format!("{max_memory} is less than memory={memory}"),
            ));
        }
        let vcpus = document.number("vcpus", 1, MAX_VCPUS)?.unwrap_or(1);
        let max_vcpus = document.number("maxvcpus", 1, MAX_VCPUS)?.unwrap_or(vcpus);
        if max_vcpus < vcpus {
            return Err(document.wrong(
                "maxvcpus",
                format!("{max_vcpus} is less than vcpus={vcpus}"),
            ));
        }
        let max_event_channels = document.number("max_event_channels", 1, MAX_EVENT_CHANNELS)?;
        let kernel = match document.string("kernel")? {
            None => return Err(document.missing("kernel")),
            Some("") => return Err(document.wrong("kernel", "expected the path of a file")),
            Some(path) => path.into(),
        };
        let ramdisk = match document.string("ramdisk")? {
            None | Some("") => None,
            Some(path) => Some(path.into()),
        };
        let cmdline = command_line(document)?;
        if cmdline.len() > DomainConfig::MAX_CMDLINE {
            let key = if document.has("cmdline") {
                "cmdline"
            } else {
                "extra"
            };
            let why = format!(
                "the command line has {} bytes, {} are allowed",
                cmdline.len(),
                DomainConfig::MAX_CMDLINE
            );
            return Err(document.wrong(key, why));
        }
        let most = u64::from(u16::MAX).min(100 * max_vcpus);
        let scheduling = Scheduling {
            // The bounds fit.
            weight: document
                .number("cpu_weight", 1, u16::MAX.into())?
                .map(|weight| weight as u16),
            cap: document.number("cap", 0, most)?.map(|cap| cap as u16),
            hard: cpus::affinity(document, "cpus", max_vcpus as u32)?,
            soft: cpus::affinity(document, "cpus_soft", max_vcpus as u32)?,
        };
        let defaults = OnEvent::default();
        Ok(DomainSpec {
            name,
            uuid: Uuid(uuid.into_bytes()),
            memory_kib: memory * 1024,
            max_memory_kib: max_memory * 1024,
            // The bounds above fit.
            vcpus: vcpus as u32,
            max_vcpus: max_vcpus as u32,
            max_event_channels: max_event_channels
                .map_or(DomainConfig::EVENT_CHANNELS, |most| most as u32),
            kernel,
            ramdisk,
            cmdline,
            scheduling,
            disks: disk::disks(document)?,
            vifs: vif::vifs(document)?,
            on: OnEvent {
                poweroff: action(document, "on_poweroff", defaults.poweroff)?,
                reboot: action(document, "on_reboot", defaults.reboot)?,
                watchdog: action(document, "on_watchdog", defaults.watchdog)?,
                crash: action(document, "on_crash", defaults.crash)?,
                soft_reset: action(document, "on_soft_reset", defaults.soft_reset)?,
            },
        })
    }
}

fn check_type(document: &mut Document) -> Result<(), ConfigError> {
    match document.string("type")? {
        None | Some("pv") => {}
        Some(kind @ ("pvh" | "hvm")) => {
            let why = format!("{kind} domains are not supported; expected \"pv\"");
            return Err(document.wrong("type", why));
        }
        Some(other) => {
            return Err(document.wrong("type", format!("expected \"pv\", found '{other}'")));
        }
    }
    match document.string("builder")? {
        None => Ok(()),
        Some("generic") => {
            document.warn(
                "builder",
                "builder is deprecated; type=\"pv\" says the same",
            );
            Ok(())
        }
        Some("hvm") => Err(document.wrong(
            "builder",
            "hvm domains are not supported; expected \"generic\"",
        )),
        Some(other) => {
            Err(document.wrong("builder", format!("expected \"generic\", found '{other}'")))
        }
    }
}

/// `cmdline`, or what `root` and `extra` make.
fn command_line(document: &mut Document) -> Result<String, ConfigError> {
    let root = document.string("root")?;
    let extra = document.string("extra")?;
    let text = match (document.string("cmdline")?, root, extra) {
        (Some(cmdline), _, _) => cmdline.to_owned(),
        (None, Some(root), Some(extra)) => format!("root={root} {extra}"),
        (None, Some(root), None) => format!("root={root}"),
        (None, None, Some(extra)) => extra.to_owned(),
        (None, None, None) => String::new(),
    };
    if document.has("cmdline") && (document.has("root") || document.has("extra")) {
        document.warn("cmdline", "root and extra are ignored in favour of cmdline");
    }
    Ok(text)
}

fn action(document: &Document, key: &str, default: Action) -> Result<Action, ConfigError> {
    let Some(name) = document.string(key)? else {
        return Ok(default);
    };
    Action::ALL
        .into_iter()
        .find(|action| action.name() == name)
        .ok_or_else(|| {
            let names: Vec<&str> = Action::ALL.iter().map(|action| action.name()).collect();
            document.wrong(
                key,
                format!("expected one of {}, found '{name}'", names.join(", ")),
            )
        })
}

#[cfg(test)]
mod tests {
    use control::scheduling::CpuSet;

    use super::*;

    fn spec(text: &str) -> Result<(DomainSpec, Vec<String>), String> {
        let mut document = Document::new();
        document
            .add("d.cfg", text)
            .map_err(|error| error.to_string())?;
        let spec = DomainSpec::new(&mut document).map_err(|error| error.to_string())?;
        Ok((spec, document.warnings().to_vec()))
    }

    fn good(text: &str) -> DomainSpec {
        let (spec, warnings) = spec(&format!("name='n'\nkernel='k'\n{text}")).unwrap();
        assert_eq!(warnings, [] as [String; 0]);
        spec
    }

    #[test]
    fn what_is_not_said_is_as_in_xl() {
        let spec = good("");
        assert_eq!(
            (spec.memory_kib, spec.max_memory_kib),
            (32 * 1024, 32 * 1024)
        );
        assert_eq!((spec.vcpus, spec.max_vcpus), (1, 1));
        assert_eq!(spec.max_event_channels, 1023);
        assert_eq!(spec.on, OnEvent::default());
        assert_eq!((spec.cmdline.as_str(), spec.ramdisk), ("", None));
        assert_ne!(spec.uuid, good("").uuid);
    }

    #[test]
    fn each_key_is_heeded() {
        let spec = good(
            "memory=64\nmaxmem=0x80\nvcpus=2\nmaxvcpus=4\nramdisk='r'\nroot='/dev/xvda'\nextra='ro'\n\
             uuid='12345678-9abc-def0-1234-56789abcdef0'\non_crash='preserve'\ntype='pv'\n\
             cpu_weight=512\ncap=150\ncpus='1-2'\ncpus_soft=['2']\n\
             max_event_channels=8191",
        );
        let both = CpuSet::of([1, 2]);
        let scheduling = Scheduling {
            weight: Some(512),
            cap: Some(150),
            hard: vec![both; 4],
            soft: vec![CpuSet::of([2])],
        };
        assert_eq!(spec.scheduling, scheduling);
        assert_eq!(
            (spec.memory_kib, spec.max_memory_kib),
            (64 << 10, 128 << 10)
        );
        assert_eq!((spec.vcpus, spec.max_vcpus), (2, 4));
        assert_eq!(spec.max_event_channels, 8191);
        assert_eq!(spec.ramdisk, Some("r".into()));
        assert_eq!(spec.cmdline, "root=/dev/xvda ro");
        assert_eq!(
            spec.uuid.to_string(),
            "12345678-9abc-def0-1234-56789abcdef0"
        );
        assert_eq!(spec.on.crash, Action::Preserve);
        assert_eq!(good("cmdline='a b'").cmdline, "a b");
        assert_eq!(good("maxmem=48").memory_kib, 48 << 10);
    }

    #[test]
    fn wrong_settings_are_told_with_their_place() {
        let error = |text: &str| spec(&format!("name='n';kernel='k'\n{text}")).unwrap_err();
        assert_eq!(
            error("memory=0"),
            format!("d.cfg:2:8: memory: 0 is not between 1 and {MAX_MEMORY}")
        );
        assert_eq!(
            error("memory=9;maxmem=8"),
            "d.cfg:2:17: maxmem: 8 is less than memory=9"
        );
        assert_eq!(
            error("vcpus=2;maxvcpus=1"),
            "d.cfg:2:18: maxvcpus: 1 is less than vcpus=2"
        );
        assert_eq!(
            error("max_event_channels=131072"),
            "d.cfg:2:20: max_event_channels: 131072 is not between 1 and 131071"
        );
        assert_eq!(
            error("uuid='x'"),
            "d.cfg:2:6: uuid: expected a UUID, found 'x'"
        );
        let hvm = "d.cfg:2:6: type: hvm domains are not supported; expected \"pv\"";
        assert_eq!(error("type='hvm'"), hvm);
        assert!(
            error("on_crash='explode'")
                .starts_with("d.cfg:2:10: on_crash: expected one of destroy")
        );
        assert!(error("name='a/b'").starts_with("d.cfg:2:6: name: "));
        let long = format!("extra='{}'", "x".repeat(1024));
        let expected = "d.cfg:2:7: extra: the command line has 1024 bytes, 1023 are allowed";
        assert_eq!(error(&long), expected);
    }

    #[test]
    fn weight_and_cap_have_xls_bounds() {
        let error = |text: &str| spec(&format!("name='n';kernel='k'\n{text}")).unwrap_err();
        assert!(error("cpu_weight=0").contains("0 is not between 1 and 65535"));
        assert!(error("vcpus=2;cap=201").contains("201 is not between 0 and 200"));
    }

    #[test]
    fn name_and_kernel_must_be_given() {
        assert_eq!(spec("kernel='k'").unwrap_err(), "d.cfg: name must be given");
        assert_eq!(spec("name='n'").unwrap_err(), "d.cfg: kernel must be given");
    }

    #[test]
    fn settings_that_lose_are_warned_about() {
        let text = "name='n'\nkernel='k'\ncmdline='a'\nextra='b'\nbuilder='generic'";
        let (spec, warnings) = spec(text).unwrap();
        assert_eq!(spec.cmdline, "a");
        assert_eq!(
            warnings,
            [
                "d.cfg:5:9: warning: builder is deprecated; type=\"pv\" says the same",
                "d.cfg:3:9: warning: root and extra are ignored in favour of cmdline",
            ]
        );
    }
}
