//! Whose an address is, as far as limits go.

use std::net::{IpAddr, Ipv6Addr};

/// The source that a connection from `address` counts for. Of IPv6 that is its /64: one host may take any address in it, and
/// changes them at will (RFC 4291 §2.5.1, RFC 8981), so that a limit for each address would be none. An IPv4 address counts
/// for itself, mapped or not.
#[must_use]
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & NETWORK).into(),
    }
}

const NETWORK: u128 = u128::MAX << 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn source(address: &str) -> String {
        source_of(address.parse().unwrap()).to_string()
    }

    #[test]
    fn an_ipv6_network_is_one_source_and_every_ipv4_address_is_one() {
        assert_eq!(source("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(source("2001:db8:1:2::"), source("2001:db8:1:2:ffff::1"));
        assert_ne!(source("2001:db8:1:2::1"), source("2001:db8:1:3::1"));
        assert_eq!(source("192.0.2.1"), "192.0.2.1");
        assert_eq!(source("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
