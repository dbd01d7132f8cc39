//! `pairs`: whether the connections between front ends and nodes are secured.

use std::net::{IpAddr, SocketAddr};

use super::{ClusterSection, PeerSecurity, Section};

/// How front ends and nodes talk to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairTransport {
    /// Only on loopback, and on private networks by explicit word.
    Plain,
    /// Mutual TLS with the certificates of the cluster's members.
    Tls,
}

impl PairTransport {
    /// Takes `pairs` out of a section. `addresses` are those at which the other ends are reached, or reach us; without the
    /// key they have to be loopback's.
    pub fn read(section: &mut Section, addresses: &[SocketAddr]) -> Self {
        let chosen = section.choice(
            "pairs",
            &[
                ("by-address", None),
                ("plain", Some(Self::Plain)),
                ("tls", Some(Self::Tls)),
            ],
        );
        let exposed = |is_safe: fn(IpAddr) -> bool| addresses.iter().find(|address| !is_safe(address.ip()));
        match chosen {
            None => {
                if let Some(address) = exposed(|ip| ip.to_canonical().is_loopback()) {
                    section.problem(
                        "pairs",
                        format!("is not set, while {address} is not loopback"),
                        "\"tls\"; or \"plain\", where the network between front ends and nodes is private and trusted",
                    );
                }
                Self::Plain
            }
            Some(Self::Plain) => {
                if let Some(address) = exposed(is_private) {
                    section.problem(
                        "pairs",
                        format!("is \"plain\", while {address} is no address of a private network"),
                        "\"tls\"",
                    );
                }
                Self::Plain
            }
            Some(Self::Tls) => Self::Tls,
        }
    }

    /// Notes at `key` of `section` that there is nothing to secure connections with.
    pub fn check(self, section: &mut Section, key: &str, cluster: Option<&ClusterSection>) {
        let has_certificates =
            cluster.is_some_and(|cluster| matches!(cluster.security, PeerSecurity::MutualTls(_)));
        if self == Self::Tls && !has_certificates {
            section.problem(
                key,
                "is \"tls\", and there are no certificates for it",
                "[cluster.tls] with this member's certificate, key and authority",
            );
        }
    }
}

/// RFC 1918, RFC 3927, RFC 4193, RFC 4291 §2.5.6, and loopback.
fn is_private(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::read_text;
    use super::*;

    /// The choice, or the expectation that was disappointed.
    fn read(text: &str, address: &str) -> Result<PairTransport, String> {
        let address = address.parse().unwrap();
        let read = |root: &mut Section| Some(PairTransport::read(root, &[address]));
        read_text(Path::new("test.toml"), text, read).map_err(|error| error.to_string())
    }

    #[test]
    fn beyond_loopback_one_has_to_choose_and_beyond_private_networks_it_is_tls() {
        let (private, public) = ("10.1.2.3:5060", "192.0.2.1:5060");
        assert_eq!(read("", "127.0.0.1:5060"), Ok(PairTransport::Plain));
        assert_eq!(read("", "[::1]:5060"), Ok(PairTransport::Plain));
        for address in [private, public, "[2001:db8::1]:5060", "[::ffff:10.0.0.1]:5060"] {
            assert!(
                read("", address).unwrap_err().contains("not loopback"),
                "{address}"
            );
            assert_eq!(read("pairs = \"tls\"", address), Ok(PairTransport::Tls));
        }
        for address in [
            private,
            "[fd00::1]:5060",
            "[fe80::1]:5060",
            "[::ffff:10.0.0.1]:5060",
        ] {
            assert_eq!(
                read("pairs = \"plain\"", address),
                Ok(PairTransport::Plain),
                "{address}"
            );
        }
        for address in [public, "[2001:db8::1]:5060", "0.0.0.0:5060"] {
            assert!(
                read("pairs = \"plain\"", address)
                    .unwrap_err()
                    .contains("private"),
                "{address}"
            );
        }
    }
}
