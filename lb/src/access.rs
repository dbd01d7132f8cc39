//! Access lists of listeners (RCC-8), applied before a byte is read.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use tandem_sip::host_name::is_host_name;

/// The addresses from which a listener accepts connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// All addresses: the operator configured `any`, or the listener is on loopback.
    Any,
    Listed(Vec<AllowedSource>),
}

/// One line of an access list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedSource {
    pub source: Source,
    /// Free text for the administrator.
    pub description: String,
}

/// A permitted source of connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A network, or a single address as a network of one.
    Network(IpNet),
    /// A host name: permits the addresses it resolves to.
    Host(String),
}

/// The last known addresses of host names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostAddresses(BTreeMap<String, BTreeSet<IpAddr>>);

impl Access {
    /// The host names that have to be resolved.
    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        let sources = match self {
            Self::Any => &[][..],
            Self::Listed(sources) => sources,
        };
        sources.iter().filter_map(|allowed| match &allowed.source {
            Source::Network(_) => None,
            Source::Host(name) => Some(name.as_str()),
        })
    }

    /// Whether a connection from `address` is permitted; an IPv4-mapped IPv6 address counts as IPv4.
    #[must_use]
    pub fn admits(&self, address: IpAddr, hosts: &HostAddresses) -> bool {
        let address = address.to_canonical();
        match self {
            Self::Any => true,
            Self::Listed(sources) => sources.iter().any(|allowed| match &allowed.source {
                Source::Network(network) => network.contains(&address),
                Source::Host(name) => hosts.resolves_to(name, address),
            }),
        }
    }
}

impl std::str::FromStr for Source {
    type Err = &'static str;

    /// Parses an address, a network or a host name.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Network(address.to_canonical().into()));
        }
        if let Ok(network) = text.parse() {
            return Ok(Self::Network(network));
        }
        // An invalid address must not be resolved as a name.
        let is_numeric = text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b".:/".contains(&byte));
        match is_host_name(text.strip_suffix('.').unwrap_or(text)) && !is_numeric {
            true => Ok(Self::Host(text.to_ascii_lowercase())),
            false => Err("neither an address, a network nor a host name"),
        }
    }
}

impl HostAddresses {
    /// Records the addresses that a name resolves to, and returns whether they changed. An empty answer counts as none: the
    /// last known addresses stay.
    pub fn note(&mut self, name: &str, addresses: impl IntoIterator<Item = IpAddr>) -> bool {
        let addresses: BTreeSet<IpAddr> = addresses
            .into_iter()
            .map(|address| address.to_canonical())
            .take(ADDRESSES_MAX)
            .collect();
        if addresses.is_empty() || self.0.get(name) == Some(&addresses) {
            return false;
        }
        self.0.insert(name.to_owned(), addresses);
        true
    }

    #[must_use]
    pub fn is_known(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    fn resolves_to(&self, name: &str, address: IpAddr) -> bool {
        self.0
            .get(name)
            .is_some_and(|addresses| addresses.contains(&address))
    }
}

/// Addresses recorded per name; further ones are ignored.
const ADDRESSES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn access(sources: &[&str]) -> Access {
        let allowed = |source: &&str| AllowedSource {
            source: source.parse().unwrap(),
            description: String::new(),
        };
        Access::Listed(sources.iter().map(allowed).collect())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn only_listed_addresses_and_networks_of_both_families_are_admitted() {
        let access = access(&["192.0.2.7", "198.51.100.0/24", "2001:db8::7", "2001:db8:1::/48"]);
        let hosts = HostAddresses::default();
        for admitted in [
            "192.0.2.7",
            "::ffff:192.0.2.7",
            "198.51.100.200",
            "2001:db8::7",
            "2001:db8:1:2::3",
        ] {
            assert!(access.admits(ip(admitted), &hosts), "{admitted}");
        }
        for refused in ["192.0.2.8", "198.51.101.1", "2001:db8::8", "127.0.0.1", "::1"] {
            assert!(!access.admits(ip(refused), &hosts), "{refused}");
        }
        assert!(Access::Any.admits(ip("203.0.113.1"), &hosts));
        assert!(!Access::Listed(Vec::new()).admits(ip("203.0.113.1"), &hosts));
    }

    #[test]
    fn a_host_is_admitted_by_its_last_known_addresses_while_the_resolver_is_silent() {
        let access = access(&["OCS1.example.com"]);
        assert_eq!(access.hosts().collect::<Vec<_>>(), ["ocs1.example.com"]);
        let mut hosts = HostAddresses::default();
        assert!(!access.admits(ip("192.0.2.1"), &hosts));
        assert!(hosts.note("ocs1.example.com", [ip("192.0.2.1"), ip("2001:db8::1")]));
        assert!(access.admits(ip("192.0.2.1"), &hosts) && access.admits(ip("2001:db8::1"), &hosts));
        assert!(!hosts.note("ocs1.example.com", []), "no answer");
        assert!(access.admits(ip("192.0.2.1"), &hosts));
        assert!(hosts.note("ocs1.example.com", [ip("192.0.2.2")]));
        assert!(!access.admits(ip("192.0.2.1"), &hosts), "it has moved");
    }

    #[test]
    fn an_invalid_source_is_refused() {
        for text in [
            "",
            "192.0.2.300",
            "192.0.2.1:5060",
            "10.0.0.0/33",
            "a b",
            "-a.example",
            "a..b",
            "*.example.com",
        ] {
            assert!(text.parse::<Source>().is_err(), "{text:?}");
        }
    }
}
