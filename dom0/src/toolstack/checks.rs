//! What a configuration must be like before a domain is built from it.

use alloc::string::{String, ToString};

use control::{DomainConfig, DomainRef, Error};

use super::Toolstack;
use crate::reaper;
use crate::xen::Xen;

impl<X: Xen> Toolstack<X> {
    pub(super) fn check(&self, config: &DomainConfig) -> Result<(), Error> {
        self.check_name(&config.name)?;
        if let Some(domid) = self.find(|domain| domain.config.uuid == config.uuid) {
            return Err(Error::UuidInUse { domid: domid.0 });
        }
        Self::check_values(config)
    }

    /// Checks what does not depend on other domains.
    pub(super) fn check_values(config: &DomainConfig) -> Result<(), Error> {
        let bad = |field: &str, why: &str| {
            Err(Error::BadConfig {
                field: field.to_string(),
                why: why.to_string(),
            })
        };
        if config.memory_kib < 4 {
            return bad("memory", "too small");
        }
        if config.max_memory_kib < config.memory_kib {
            return bad("maxmem", "less than memory");
        }
        if config.vcpus == 0 {
            return bad("vcpus", "must be at least 1");
        }
        if config.max_vcpus < config.vcpus {
            return bad("maxvcpus", "less than vcpus");
        }
        let scheduling = &config.scheduling;
        if scheduling.weight == Some(0) {
            return bad("cpu_weight", "must be at least 1");
        }
        let most = u64::from(config.max_vcpus).saturating_mul(100);
        if scheduling.cap.is_some_and(|cap| u64::from(cap) > most) {
            return bad("cap", "more than 100 for each vCPU");
        }
        for (key, sets) in [("cpus", &scheduling.hard), ("cpus_soft", &scheduling.soft)] {
            if sets.len() as u64 > u64::from(config.max_vcpus) {
                return bad(key, "for more vCPUs than there are");
            }
        }
        if config.cmdline.len() > DomainConfig::MAX_CMDLINE {
            return bad(
                "extra",
                "the kernel's command line is longer than 1023 bytes",
            );
        }
        if config.cmdline.contains('\0') {
            return bad("extra", "a zero byte in the kernel's command line");
        }
        reaper::check(config)
    }

    pub(super) fn check_name(&self, name: &str) -> Result<(), Error> {
        let why = if name.is_empty() {
            "must not be empty"
        } else if name.len() > DomainRef::MAX_NAME {
            "longer than 255 bytes"
        } else if name.bytes().all(|byte| byte.is_ascii_digit()) {
            "digits alone are a domain id"
        } else if name.chars().any(|c| c.is_control() || c == '/') {
            "must have no control characters and no slash"
        } else {
            return match self.by_name(name) {
                Some(domid) => Err(Error::NameInUse {
                    name: name.to_string(),
                    domid: domid.0,
                }),
                None => Ok(()),
            };
        };
        Err(Error::BadConfig {
            field: String::from("name"),
            why: String::from(why),
        })
    }
}
