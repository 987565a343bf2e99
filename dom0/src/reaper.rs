//! What follows a domain's end: the values of `on_poweroff`, `on_reboot`, `on_watchdog`,
//! `on_crash` and `on_soft_reset`.

use alloc::format;
use alloc::string::String;
use core::fmt;

use control::{Action, DomainConfig, Error, OnEvent, ShutdownReason};

/// A domain that keeps ending is not started more often than this, in nanoseconds.
pub const RESTART_INTERVAL: u64 = 1_000_000_000;

/// What is done with a domain that has shut down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is kept as it is.
    Keep,
    /// It is destroyed.
    Destroy,
    /// It is destroyed and built anew under the same name.
    Restart,
    /// It is kept under another name, and built anew under the old one.
    RenameAndRestart,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Keep => "to be kept",
            Self::Destroy => "to be destroyed",
            Self::Restart => "to be restarted",
            Self::RenameAndRestart => "to be kept under another name and restarted",
        })
    }
}

/// A reason in words, for the log.
pub fn reason_name(reason: ShutdownReason) -> &'static str {
    match reason {
        ShutdownReason::POWEROFF => "powered off",
        ShutdownReason::REBOOT => "wants to reboot",
        ShutdownReason::SUSPEND => "suspended",
        ShutdownReason::CRASH => "crashed",
        ShutdownReason::WATCHDOG => "its watchdog ran out",
        ShutdownReason::SOFT_RESET => "wants a soft reset",
        _ => "shut down for a reason unknown",
    }
}

/// The action that the configuration has for a reason.
pub fn fate(on: &OnEvent, reason: ShutdownReason) -> Fate {
    let action = match reason {
        ShutdownReason::POWEROFF => on.poweroff,
        ShutdownReason::REBOOT => on.reboot,
        // Its memory is wanted by whoever suspended it.
        ShutdownReason::SUSPEND => return Fate::Keep,
        ShutdownReason::WATCHDOG => on.watchdog,
        ShutdownReason::SOFT_RESET => on.soft_reset,
        // Crashes, and reasons that no interface defines.
        _ => on.crash,
    };
    match action {
        Action::Restart => Fate::Restart,
        Action::RenameRestart => Fate::RenameAndRestart,
        Action::Preserve => Fate::Keep,
        // A PV domain has no state that a soft reset could keep it by.
        Action::Destroy | Action::SoftReset => Fate::Destroy,
        // `check` lets no configuration with these in.
        Action::CoredumpDestroy | Action::CoredumpRestart => Fate::Keep,
    }
}

/// Refuses actions that cannot be done, before the domain exists.
pub fn check(config: &DomainConfig) -> Result<(), Error> {
    let on = &config.on;
    for (field, action) in [
        ("on_poweroff", on.poweroff),
        ("on_reboot", on.reboot),
        ("on_watchdog", on.watchdog),
        ("on_crash", on.crash),
        ("on_soft_reset", on.soft_reset),
    ] {
        let why = match action {
            Action::CoredumpDestroy | Action::CoredumpRestart => "core files are not supported",
            Action::SoftReset if field != "on_soft_reset" => {
                "soft-reset is for on_soft_reset alone"
            }
            _ => continue,
        };
        return Err(Error::BadConfig {
            field: String::from(field),
            why: format!("{action}: {why}"),
        });
    }
    Ok(())
}

/// The name under which `rename-restart` keeps a domain: as with xl, the old one with the time.
pub fn kept_name(name: &str, seconds: u64) -> String {
    let (year, month, day) = date(seconds / 86400);
    let minutes = seconds / 60 % 1440;
    let suffix = format!(
        "-{year:04}{month:02}{day:02}T{:02}{:02}Z",
        minutes / 60,
        minutes % 60
    );
    let room = control::DomainRef::MAX_NAME.saturating_sub(suffix.len());
    let mut end = name.len().min(room);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{suffix}", name.get(..end).unwrap_or_default())
}

/// Year, month and day of a day counted from 1970-01-01, in the Gregorian calendar. Years are taken
/// to begin in March, so that the leap day is their last.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let (month, next_year) = if from_march < 10 {
        (from_march + 3, 0)
    } else {
        (from_march - 9, 1)
    };
    (era * 400 + year_of_era + next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_action() {
        let on = OnEvent {
            poweroff: Action::Destroy,
            reboot: Action::Restart,
            watchdog: Action::RenameRestart,
            crash: Action::Preserve,
            soft_reset: Action::SoftReset,
        };
        assert_eq!(fate(&on, ShutdownReason::POWEROFF), Fate::Destroy);
        assert_eq!(fate(&on, ShutdownReason::REBOOT), Fate::Restart);
        assert_eq!(fate(&on, ShutdownReason::WATCHDOG), Fate::RenameAndRestart);
        assert_eq!(fate(&on, ShutdownReason::CRASH), Fate::Keep);
        assert_eq!(fate(&on, ShutdownReason::SOFT_RESET), Fate::Destroy);
        assert_eq!(fate(&on, ShutdownReason(77)), Fate::Keep);
    }

    #[test]
    fn a_suspended_domain_is_kept_whatever_the_configuration_says() {
        assert_eq!(
            fate(&OnEvent::default(), ShutdownReason::SUSPEND),
            Fate::Keep
        );
    }

    #[test]
    fn the_kept_name_has_the_time_and_fits() {
        assert_eq!(kept_name("web", 0), "web-19700101T0000Z");
        assert_eq!(kept_name("web", 1_709_210_096), "web-20240229T1234Z");
        assert_eq!(kept_name("web", 4_107_542_399), "web-21000228T2359Z");
        let long = "ä".repeat(200);
        assert!(kept_name(&long, 0).len() <= control::DomainRef::MAX_NAME);
    }
}
