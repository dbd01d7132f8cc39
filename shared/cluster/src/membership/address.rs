//! Where a member listens for its peers.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use tandem_sip::host_name::is_host_name;

/// An address, or a name that is looked up at every connection: containers change their addresses.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberAddress {
    Address(SocketAddr),
    Name {
        /// In lower case.
        host: String,
        port: u16,
    },
}

/// Neither an address nor a name, with a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is neither ADDRESS:PORT nor NAME:PORT")]
pub struct NoMemberAddress {
    text: String,
}

impl MemberAddress {
    /// Certainly an address of this machine that no other machine reaches.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Address(address) => address.ip().is_loopback(),
            Self::Name { host, .. } => host == "localhost",
        }
    }

    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Address(address) => address.port(),
            Self::Name { port, .. } => *port,
        }
    }
}

impl From<SocketAddr> for MemberAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Address(address)
    }
}

impl fmt::Display for MemberAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(formatter),
            Self::Name { host, port } => write!(formatter, "{host}:{port}"),
        }
    }
}

impl FromStr for MemberAddress {
    type Err = NoMemberAddress;

    fn from_str(text: &str) -> Result<Self, NoMemberAddress> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let error = || NoMemberAddress {
            text: text.to_owned(),
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().map_err(|_| error())?;
        if !is_name(host) {
            return Err(error());
        }
        let host = host.to_ascii_lowercase();
        Ok(Self::Name { host, port })
    }
}

/// A last label of digits alone would be a mistyped address.
fn is_name(host: &str) -> bool {
    let ends_in_number = host
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
    is_host_name(host) && !ends_in_number
}

/// As text: what the log holds can be read in any order of families.
impl Serialize for MemberAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MemberAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_and_names_are_told_apart_and_what_is_neither_is_refused() {
        for text in ["192.0.2.1:7000", "[2001:db8::1]:7000"] {
            let parsed: MemberAddress = text.parse().unwrap();
            assert_eq!(parsed, MemberAddress::Address(text.parse().unwrap()));
            assert_eq!(parsed.to_string(), text);
        }
        for (text, host) in [
            ("node1:7000", "node1"),
            ("Node-1.example.COM:7000", "node-1.example.com"),
            ("tandem_node.1.abc:7000", "tandem_node.1.abc"),
        ] {
            let host = host.to_owned();
            assert_eq!(
                text.parse(),
                Ok(MemberAddress::Name { host, port: 7000 }),
                "{text}"
            );
        }
        for text in [
            "node1",
            "node1:",
            "node1:70000",
            ":7000",
            "-node:7000",
            "no de:7000",
            "node..a:7000",
            "192.0.2.256:7000",
            "2001:db8::1:7000",
            "[node]:7000",
        ] {
            assert!(text.parse::<MemberAddress>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_read_is_written_and_read_again(text in "[a-zA-Z0-9.:_\\-\\[\\]]{0,40}") {
            if let Ok(address) = text.parse::<MemberAddress>() {
                prop_assert_eq!(address.to_string().parse(), Ok(address));
            }
        }
    }
}
