//! Network interfaces as `xl-network-configuration(5)` describes them.
//!
//! There is one bridge, and every interface is on it. What would make another interface of it than a PV one is
//! refused by name.

use control::VifConfig;
use control::net::RateLimit;
use split_drivers::net::Mac;
use split_drivers::net::sources::Sources;

use super::document::{ConfigError, Document};
use super::syntax::Value;

/// The first half of the addresses that are made up: Xen's.
const VENDOR: [u8; 3] = [0x00, 0x16, 0x3e];
/// How often a limited interface may send anew if nothing is said of it, in microseconds.
const INTERVAL: u64 = 50_000;

/// The values of the key `vif`.
///
/// # Errors
/// When an interface is not as the manual has it, or is of a kind that is not supported.
pub fn vifs(document: &Document) -> Result<Vec<VifConfig>, ConfigError> {
    let wrong = |why: String| document.wrong("vif", why);
    let entries = match document.value("vif") {
        None => return Ok(Vec::new()),
        Some(Value::List(entries)) => entries,
        Some(Value::Atom(_)) => return Err(wrong("expected a list of strings".into())),
    };
    let mut vifs: Vec<VifConfig> = Vec::new();
    for entry in entries {
        let Value::Atom(text) = entry else {
            return Err(wrong("expected a list of strings".into()));
        };
        let vif = parse(text).map_err(|why| wrong(format!("'{text}': {why}")))?;
        if vifs.iter().any(|other| other.mac == vif.mac) {
            let mac = Mac(vif.mac);
            return Err(wrong(format!("there are two interfaces with {mac}")));
        }
        vifs.push(vif);
    }
    if vifs.len() > VifConfig::MAX_VIFS {
        return Err(wrong(format!(
            "{} interfaces are more than {}",
            vifs.len(),
            VifConfig::MAX_VIFS
        )));
    }
    Ok(vifs)
}

/// What is said so far.
#[derive(Default)]
struct Parts {
    mac: Option<Mac>,
    bridge: Option<String>,
    name: Option<String>,
    ip: Option<String>,
    rate: Option<RateLimit>,
}

/// An interface's specification; without an address it gets one of its own.
///
/// # Errors
/// What is wrong with it, or not supported.
pub fn parse(text: &str) -> Result<VifConfig, String> {
    let mut parts = Parts::default();
    for part in text.split(',').map(str::trim) {
        // The whole may be empty, and so may what is behind the last comma.
        if part.is_empty() {
            continue;
        }
        let (key, value) = part
            .split_once('=')
            .ok_or_else(|| format!("'{part}' is not key=value"))?;
        parts.set(key.trim(), value.trim())?;
    }
    Ok(VifConfig {
        mac: parts.mac.unwrap_or_else(generate).0,
        bridge: parts.bridge.unwrap_or_else(|| VifConfig::BRIDGE.to_owned()),
        name: parts.name,
        ip: parts.ip,
        rate: parts.rate,
    })
}

/// An address that nobody else is likely to have.
fn generate() -> Mac {
    let [first, second, third, ..] = uuid::Uuid::new_v4().into_bytes();
    let [a, b, c] = VENDOR;
    Mac([a, b, c, first & 0x7f, second, third])
}

impl Parts {
    fn set(&mut self, key: &str, value: &str) -> Result<(), String> {
        match key {
            "mac" => {
                let mac = Mac::parse(value).ok_or_else(|| format!("'{value}' is no address"))?;
                if mac.is_group() {
                    return Err(format!("{mac} is the address of a group"));
                }
                once(&mut self.mac, key, mac)
            }
            "bridge" => once(&mut self.bridge, key, name(value)?),
            "vifname" => once(&mut self.name, key, name(value)?),
            "ip" => once(&mut self.ip, key, addresses(value)?),
            "rate" => once(&mut self.rate, key, rate(value)?),
            "type" if matches!(value, "vif" | "netfront") => Ok(()),
            "backend" if matches!(value, "0" | "Domain-0") => Ok(()),
            "type" | "backend" | "model" | "script" | "gatewaydev" | "mtu" | "trusted"
            | "devid" | "accel" | "netdev" => Err(format!("{key}={value} is not supported")),
            _ => Err(format!("a network interface has no key '{key}'")),
        }
    }
}

fn once<T>(place: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{key} is given twice")),
    }
}

fn name(value: &str) -> Result<String, String> {
    let bad = |c: char| c.is_control() || c.is_whitespace() || c == '/';
    if value.is_empty() || value.len() > VifConfig::MAX_NAME || value.contains(bad) {
        return Err(format!("'{value}' is no name of an interface"));
    }
    Ok(value.to_owned())
}

fn addresses(value: &str) -> Result<String, String> {
    match Sources::parse(value) {
        Ok(_) => Ok(value.to_owned()),
        Err("") => Err(format!("ip is a list of 1 to {} addresses", Sources::MAX)),
        Err(word) => Err(format!("'{word}' is no IP address")),
    }
}

/// A rate: `10Mb/s`, `250KB/s`, `1MB/s@20ms`. Units go up by thousands.
fn rate(text: &str) -> Result<RateLimit, String> {
    let wrong = || format!("'{text}' is no rate; one is 10Mb/s or 1MB/s@20ms");
    let (speed, interval) = match text.split_once('@') {
        None => (text, INTERVAL),
        Some((speed, interval)) => (speed, microseconds(interval).ok_or_else(wrong)?),
    };
    let speed = speed.strip_suffix("/s").ok_or_else(wrong)?;
    let (speed, bits) = match (speed.strip_suffix('b'), speed.strip_suffix('B')) {
        (Some(speed), _) => (speed, 8),
        (None, Some(speed)) => (speed, 1),
        (None, None) => return Err(wrong()),
    };
    let (digits, scale) = scaled(
        speed,
        &[('G', 1_000_000_000), ('M', 1_000_000), ('K', 1000)],
    );
    let per_second = number(digits)
        .and_then(|number| number.checked_mul(scale))
        .ok_or_else(wrong)?
        / bits;
    let bytes = u128::from(per_second) * u128::from(interval) / 1_000_000;
    let limit = RateLimit {
        bytes: u64::try_from(bytes).map_err(|_| wrong())?,
        interval_us: u32::try_from(interval).map_err(|_| wrong())?,
    };
    if limit.bytes == 0 || limit.interval_us == 0 {
        return Err(format!("'{text}' is a rate of nothing"));
    }
    Ok(limit)
}

fn microseconds(text: &str) -> Option<u64> {
    let text = text.strip_suffix('s').unwrap_or(text);
    let (digits, scale) = match (text.strip_suffix('m'), text.strip_suffix('u')) {
        (Some(digits), _) => (digits, 1000),
        (None, Some(digits)) => (digits, 1),
        (None, None) => (text, 1_000_000),
    };
    number(digits)?.checked_mul(scale)
}

fn scaled<'a>(text: &'a str, units: &[(char, u64)]) -> (&'a str, u64) {
    units
        .iter()
        .find_map(|(unit, scale)| Some((text.strip_suffix(*unit)?, *scale)))
        .unwrap_or((text, 1))
}

/// Digits alone.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: &str = "mac=00:16:3e:01:02:03";

    #[test]
    fn an_interface_is_on_the_bridge_with_an_address_of_its_own() {
        let [one, two] = ["", "bridge=xenbr0,type=vif,backend=0"].map(|it| parse(it).unwrap());
        assert_eq!(one.bridge, "xenbr0");
        assert_eq!(two.bridge, "xenbr0");
        assert_ne!(one.mac, two.mac);
        for vif in [one, two] {
            assert_eq!(vif.mac[..3], [0, 0x16, 0x3e]);
            assert!(vif.mac[3] < 0x80);
        }
        let named = parse(&format!("{MAC}, vifname=web0 ,bridge=br1,")).unwrap();
        assert_eq!(named.mac, [0, 0x16, 0x3e, 1, 2, 3]);
        assert_eq!(named.name.as_deref(), Some("web0"));
        assert_eq!(named.bridge, "br1");
    }

    #[test]
    fn addresses_are_kept_as_they_are_written() {
        let vif = parse("ip=10.0.0.1 fd00::/64,rate=1Mb/s").unwrap();
        assert_eq!(vif.ip.as_deref(), Some("10.0.0.1 fd00::/64"));
        assert_eq!(parse("").unwrap().ip, None);
    }

    #[test]
    fn a_rate_is_bytes_in_an_interval() {
        for (text, bytes, interval_us) in [
            ("10Mb/s", 62_500, 50_000),
            ("250KB/s", 12_500, 50_000),
            ("1MB/s@20ms", 20_000, 20_000),
            ("2GB/s@1s", 2_000_000_000, 1_000_000),
            ("80b/s@1", 10, 1_000_000),
            ("1000000B/s@5u", 5, 5),
        ] {
            let limit = RateLimit { bytes, interval_us };
            assert_eq!(rate(text), Ok(limit), "{text}");
        }
        for odd in [
            "", "10", "10Mb", "Mb/s", "-1Mb/s", "1.5Mb/s", "1Tb/s", "1MB/s@", "1MB/s@5h",
        ] {
            assert!(rate(odd).is_err(), "{odd}");
        }
        assert!(rate("1b/s").unwrap_err().contains("nothing"));
        assert!(rate("99999999999GB/s").is_err());
    }

    #[test]
    fn what_is_wrong_or_not_supported_is_told_in_a_line() {
        for (text, why) in [
            ("colour=blue", "a network interface has no key 'colour'"),
            ("xenbr0", "'xenbr0' is not key=value"),
            ("mac=1:2", "'1:2' is no address"),
            (
                "mac=01:00:00:00:00:01",
                "01:00:00:00:00:01 is the address of a group",
            ),
            ("type=ioemu", "type=ioemu is not supported"),
            ("ip=10.0.0.1 10.0.0.x", "'10.0.0.x' is no IP address"),
            ("ip=10.0.0.1/33", "'10.0.0.1/33' is no IP address"),
            ("ip=", "ip is a list of 1 to 64 addresses"),
            ("model=e1000", "model=e1000 is not supported"),
            ("script=vif-nat", "script=vif-nat is not supported"),
            ("bridge=a,bridge=b", "bridge is given twice"),
            (
                "vifname=an interface",
                "'an interface' is no name of an interface",
            ),
        ] {
            assert_eq!(parse(text), Err(why.into()), "{text}");
        }
    }

    #[test]
    fn a_configuration_has_a_list_of_interfaces() {
        let read = |text: &str| {
            let mut document = Document::new();
            document.add("v.cfg", text).unwrap();
            vifs(&document).map_err(|error| error.to_string())
        };
        assert_eq!(read(""), Ok(vec![]));
        assert_eq!(read("vif=['','']").map(|vifs| vifs.len()), Ok(2));
        assert_eq!(
            read("vif=''"),
            Err("v.cfg:1:5: vif: expected a list of strings".into())
        );
        assert_eq!(
            read(&format!("vif=['{MAC}','{MAC}']")),
            Err("v.cfg:1:5: vif: there are two interfaces with 00:16:3e:01:02:03".into())
        );
        assert_eq!(
            read("vif=['size=4']"),
            Err("v.cfg:1:5: vif: 'size=4': a network interface has no key 'size'".into())
        );
    }
}
