//! Which addresses may be reached on behalf of somebody who only knows a name: names are resolved by servers of others,
//! who could answer with any address of our own network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use thiserror::Error;

/// Where an address is, as seen from a host that others give names to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Locality {
    /// Out in the internet.
    Public,
    /// On this host, or in a network of our own.
    Inside,
    /// Link-local, where clouds serve their machines' secrets; nobody's, everybody's, or what is translated to any
    /// address of IPv4.
    Special,
}

/// Addresses that begin alike: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddressRange {
    base: IpAddr,
    length: u8,
}

/// Why a text is no [`AddressRange`]. The fault is whoever wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ParseRangeError {
    /// It is not of the form.
    #[error("it is no range of addresses such as 10.0.0.0/8 or 2001:db8::/32")]
    Shape,
    /// Bits behind the length are set, so that it is not clear which range is meant.
    #[error("it is not the first address of its range")]
    NotFirst,
    /// An address of IPv4 inside one of IPv6.
    #[error("write the address of IPv4 as such")]
    Mapped,
}

/// Where `address` is.
pub fn locality(address: IpAddr) -> Locality {
    match address.to_canonical() {
        IpAddr::V4(address) => locality_v4(address),
        IpAddr::V6(address) => locality_v6(address),
    }
}

/// Whether what is called by a name may be called at this address: a public one, or one that `allowed` holds.
pub fn may_be_reached(address: IpAddr, allowed: &[AddressRange]) -> bool {
    locality(address) == Locality::Public || allowed.iter().any(|range| range.contains(address))
}

fn locality_v4(address: Ipv4Addr) -> Locality {
    let [first, second, third, _] = address.octets();
    let is_shared = first == 100 && (64..128).contains(&second);
    let is_for_tests = (first == 198 && matches!(second, 18 | 19)) || address.is_documentation();
    let is_for_protocols = (first, second, third) == (192, 0, 0);
    if address.is_link_local() || first == 0 || first >= 224 || is_for_protocols {
        Locality::Special
    } else if address.is_private() || address.is_loopback() || is_shared || is_for_tests {
        Locality::Inside
    } else {
        Locality::Public
    }
}

fn locality_v6(address: Ipv6Addr) -> Locality {
    let is_global = address.segments().first().is_some_and(|first| (0x2000..0x4000).contains(first));
    // What is translated to IPv4 on its way, or tunnelled, could be any address of IPv4.
    let is_translated = matches!(address.segments(), [0x2002, ..] | [0x2001, 0, ..]);
    if address.is_loopback() || address.is_unique_local() {
        Locality::Inside
    } else if is_global && !is_translated {
        Locality::Public
    } else {
        Locality::Special
    }
}

impl AddressRange {
    /// Whether the address is one of them. One of IPv4 inside IPv6 is one of IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address.to_canonical()) {
            (IpAddr::V4(base), IpAddr::V4(address)) => {
                let shift = 32 - u32::from(self.length);
                (base.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(base), IpAddr::V6(address)) => {
                let shift = 128 - u32::from(self.length);
                (base.to_bits() ^ address.to_bits()).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl FromStr for AddressRange {
    type Err = ParseRangeError;

    fn from_str(text: &str) -> Result<Self, ParseRangeError> {
        let (base, length) = match text.split_once('/') {
            Some((base, length)) => (base, Some(length)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| ParseRangeError::Shape)?;
        if base.to_canonical() != base {
            return Err(ParseRangeError::Mapped);
        }
        let bits = if base.is_ipv4() { 32 } else { 128 };
        let length = match length {
            None => bits,
            Some(text) => text
                .parse::<u8>()
                .ok()
                .filter(|length| *length <= bits && length.to_string() == text)
                .ok_or(ParseRangeError::Shape)?,
        };
        let range = Self { base, length };
        if range.is_first() { Ok(range) } else { Err(ParseRangeError::NotFirst) }
    }
}

impl AddressRange {
    fn is_first(&self) -> bool {
        let length = u32::from(self.length);
        match self.base {
            IpAddr::V4(base) => base.to_bits().checked_shl(length).unwrap_or(0) == 0,
            IpAddr::V6(base) => base.to_bits().checked_shl(length).unwrap_or(0) == 0,
        }
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_outside_inside_or_neither() {
        for text in ["1.1.1.1", "192.0.1.1", "2606:4700::1111", "::ffff:1.1.1.1"] {
            assert_eq!(locality(address(text)), Locality::Public, "{text}");
        }
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "fd00::1",
            "::ffff:10.0.0.1",
        ] {
            assert_eq!(locality(address(text)), Locality::Inside, "{text}");
        }
        for text in [
            "169.254.169.254",
            "::ffff:169.254.169.254",
            "fe80::1",
            "0.0.0.0",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "192.0.0.192",
            "2002:a9fe:a9fe::1",
            "64:ff9b::a9fe:a9fe",
            "2001:0:1::1",
            "::127.0.0.1",
        ] {
            assert_eq!(locality(address(text)), Locality::Special, "{text}");
        }
    }

    #[test]
    fn ranges_hold_what_begins_like_them() {
        for (range, within, without) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("127.0.0.1", "127.0.0.1", "127.0.0.2"),
            ("0.0.0.0/0", "255.1.2.3", "::1"),
            ("192.168.2.0/23", "::ffff:192.168.3.255", "192.168.4.0"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::/0", "fe80::1", "1.2.3.4"),
            ("::1/128", "::1", "::2"),
        ] {
            let parsed: AddressRange = range.parse().unwrap();
            assert!(parsed.contains(address(within)), "{range} {within}");
            assert!(!parsed.contains(address(without)), "{range} {without}");
        }
        assert_eq!("10.0.0.0/8".parse::<AddressRange>().unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn what_is_no_range_is_refused() {
        use ParseRangeError::{Mapped, NotFirst, Shape};
        for (text, error) in [
            ("10.0.0.1/8", NotFirst),
            ("2001:db8::1/32", NotFirst),
            ("10.0.0.0/33", Shape),
            ("10.0.0.0/", Shape),
            ("10.0.0.0/+8", Shape),
            ("10.0.0.0/08", Shape),
            ("10.0/8", Shape),
            ("010.0.0.0/8", Shape),
            ("2130706433", Shape),
            ("0x7f.0.0.1", Shape),
            ("localhost", Shape),
            ("", Shape),
            ("::ffff:10.0.0.0/104", Mapped),
        ] {
            assert_eq!(text.parse::<AddressRange>(), Err(error), "{text}");
        }
    }
}
