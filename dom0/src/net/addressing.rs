//! How this domain comes to an address of its own, as its command line has it.

use alloc::format;
use alloc::string::String;
use core::net::Ipv4Addr;

use control::OwnAddress;

/// Where the address comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Addressing {
    /// A DHCP server.
    #[default]
    Dhcp,
    /// It is given.
    Given(OwnAddress),
    /// There is to be none: this domain does not take part in the network.
    None,
}

impl Addressing {
    /// What the words `ip=` and `gateway=` say: `dhcp`, as if there were none, `none`, or an address with the length
    /// of its network's prefix.
    ///
    /// # Errors
    ///
    /// Says what is wrong with them.
    pub fn parse(ip: Option<&str>, gateway: Option<&str>) -> Result<Self, String> {
        let ip = ip.unwrap_or("dhcp");
        let (address, prefix) = match (ip, gateway) {
            ("dhcp", None) => return Ok(Self::Dhcp),
            ("none", None) => return Ok(Self::None),
            ("dhcp" | "none", Some(_)) => {
                return Err(format!("gateway= goes with an address, not with ip={ip}"));
            }
            _ => split(ip).ok_or_else(|| format!("ip={ip} is no address like 10.0.2.100/24"))?,
        };
        let gateway = match gateway {
            None => None,
            Some(word) => {
                let address: Result<Ipv4Addr, _> = word.parse();
                let address = address.map_err(|_| format!("gateway={word} is no address"))?;
                Some(address.octets())
            }
        };
        let own = OwnAddress {
            address,
            prefix,
            gateway,
            leased: false,
        };
        match is_sound(&own) {
            true => Ok(Self::Given(own)),
            false => Err(format!(
                "ip={ip} is not the address of a station, or the gateway not its neighbour's"
            )),
        }
    }
}

fn split(text: &str) -> Option<([u8; 4], u8)> {
    let (address, prefix) = text.split_once('/')?;
    let address: Ipv4Addr = address.parse().ok()?;
    Some((address.octets(), prefix.parse().ok()?))
}

/// Whether a station can have such an address, and its gateway is a neighbour.
pub fn is_sound(own: &OwnAddress) -> bool {
    let Some(hosts) = u32::MAX.checked_shr(own.prefix.into()) else {
        // The network of one.
        return own.prefix == 32 && own.gateway.is_none() && is_one(own.address);
    };
    let is_station = |address: [u8; 4]| {
        let host = u32::from_be_bytes(address) & hosts;
        // A network of two has neither an address of its own nor one for all.
        is_one(address) && (own.prefix == 31 || host != 0 && host != hosts)
    };
    let network = |address: [u8; 4]| u32::from_be_bytes(address) & !hosts;
    own.prefix > 0
        && is_station(own.address)
        && own.gateway.is_none_or(|gateway| {
            is_station(gateway)
                && gateway != own.address
                && network(gateway) == network(own.address)
        })
}

/// Whether it is the address of one station, reachable from others.
fn is_one(address: [u8; 4]) -> bool {
    let address = Ipv4Addr::from(address);
    let [first, ..] = address.octets();
    first != 0 && !address.is_loopback() && first < 224
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(address: [u8; 4], prefix: u8, gateway: Option<[u8; 4]>) -> OwnAddress {
        OwnAddress {
            address,
            prefix,
            gateway,
            leased: false,
        }
    }

    #[test]
    fn without_a_word_the_address_comes_by_dhcp() {
        assert_eq!(Addressing::parse(None, None), Ok(Addressing::Dhcp));
        assert_eq!(Addressing::parse(Some("dhcp"), None), Ok(Addressing::Dhcp));
        assert_eq!(Addressing::parse(Some("none"), None), Ok(Addressing::None));
    }

    #[test]
    fn an_address_is_given_with_its_prefix_and_perhaps_a_gateway() {
        let given = |ip, gateway| Addressing::parse(Some(ip), gateway);
        let address = [10, 0, 2, 100];
        assert_eq!(
            given("10.0.2.100/24", None),
            Ok(Addressing::Given(own(address, 24, None)))
        );
        assert_eq!(
            given("10.0.2.100/24", Some("10.0.2.2")),
            Ok(Addressing::Given(own(address, 24, Some([10, 0, 2, 2]))))
        );
        assert!(given("10.0.2.100/31", Some("10.0.2.101")).is_ok());
        assert!(given("10.0.2.100/32", None).is_ok());
    }

    #[test]
    fn what_no_station_can_have_is_refused() {
        for ip in [
            "10.0.2.100",
            "10.0.2.100/",
            "10.0.2.100/33",
            "10.0.2.100/256",
            "10.0.2.100/0",
            "10.0.2.0/24",
            "10.0.2.255/24",
            "0.0.0.0/24",
            "127.0.0.1/8",
            "224.0.0.1/4",
            "255.255.255.255/32",
            "fd00::1/64",
            "on",
            "",
        ] {
            let refused = Addressing::parse(Some(ip), None);
            assert!(refused.is_err(), "{ip}: {refused:?}");
        }
        for gateway in ["10.0.3.2", "10.0.2.255", "10.0.2.100", "x"] {
            let refused = Addressing::parse(Some("10.0.2.100/24"), Some(gateway));
            assert!(refused.is_err(), "{gateway}: {refused:?}");
        }
        assert!(Addressing::parse(None, Some("10.0.2.2")).is_err());
        assert!(Addressing::parse(Some("10.0.2.100/32"), Some("10.0.2.2")).is_err());
    }
}
