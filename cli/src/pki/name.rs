//! The names that stand in certificates: of clusters, hosts and people.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// The name of a cluster: `office`. Follows the rule of `[cluster] name`, so that it fits into a DNS name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterName(String);

impl ClusterName {
    /// Under which all names of its members lie: `office.tandem`.
    #[must_use]
    pub fn domain(&self) -> String {
        format!("{}.tandem", self.0)
    }

    /// The cluster whose members have names under this domain; `None` when it is no cluster's.
    #[must_use]
    pub fn of_domain(domain: &str) -> Option<Self> {
        let name = domain.trim_start_matches('.').strip_suffix(".tandem")?;
        name.parse().ok()
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = NoClusterName;

    fn from_str(text: &str) -> Result<Self, NoClusterName> {
        let has_letters = text
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let has_ends = !text.starts_with('-') && !text.ends_with('-');
        if has_letters && has_ends && (1..=CLUSTER_BYTES_MAX).contains(&text.len()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoClusterName)
        }
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the name of a cluster has up to {CLUSTER_BYTES_MAX} of a-z, 0-9 and inner hyphens, as \"office\"")]
pub struct NoClusterName;

/// What clients call a host: a DNS name in lower case, or an IP address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostName {
    /// Its first label may be `*`.
    Dns(String),
    Address(IpAddr),
}

impl FromStr for HostName {
    type Err = NoHostName;

    fn from_str(text: &str) -> Result<Self, NoHostName> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Address(address));
        }
        let labels = text.strip_prefix("*.").unwrap_or(text);
        let last = labels.rsplit('.').next().unwrap_or_default();
        // A name that ends in a number is a mistyped address.
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit());
        if text.len() <= NAME_BYTES_MAX && !is_number && labels.split('.').all(is_label) {
            Ok(Self::Dns(text.to_ascii_lowercase()))
        } else {
            Err(NoHostName)
        }
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("neither a DNS name, as \"rcc.example.com\" or \"*.example.com\", nor an IP address")]
pub struct NoHostName;

/// RFC 1123 §2.1: letters, digits and inner hyphens, at most 63.
fn is_label(label: &str) -> bool {
    let has_letters = label
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    has_letters && (1..=63).contains(&label.len()) && !label.starts_with('-') && !label.ends_with('-')
}

/// The name of an administrator, which becomes the common name of a certificate and part of the names of files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PersonName(String);

impl FromStr for PersonName {
    type Err = NoPersonName;

    fn from_str(text: &str) -> Result<Self, NoPersonName> {
        let has_letters = text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte));
        let begins = text
            .bytes()
            .next()
            .is_some_and(|byte| byte.is_ascii_alphanumeric());
        if has_letters && begins && text.len() <= PERSON_BYTES_MAX {
            Ok(Self(text.to_owned()))
        } else {
            Err(NoPersonName)
        }
    }
}

impl fmt::Display for PersonName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "the name of an administrator has up to {PERSON_BYTES_MAX} letters and digits, and . _ @ - after the first"
)]
pub struct NoPersonName;

const CLUSTER_BYTES_MAX: usize = 40;
const NAME_BYTES_MAX: usize = 253;
/// RFC 5280 appendix A.1, `ub-common-name`.
const PERSON_BYTES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_host_is_a_dns_name_or_an_address() {
        for (text, wanted) in [
            ("RCC.Example.com", HostName::Dns("rcc.example.com".to_owned())),
            ("*.example.com", HostName::Dns("*.example.com".to_owned())),
            ("192.0.2.1", HostName::Address([192, 0, 2, 1].into())),
            ("2001:db8::1", HostName::Address("2001:db8::1".parse().unwrap())),
        ] {
            assert_eq!(text.parse(), Ok(wanted), "{text}");
        }
        for text in [
            "",
            "192.0.2.300",
            "a..b",
            "-a.example",
            "a.*.example",
            "*",
            "*.",
            "a b",
            "ä.example",
            "rcc.example.com:5061",
        ] {
            assert_eq!(text.parse::<HostName>(), Err(NoHostName), "{text:?}");
        }
    }

    #[test]
    fn a_person_becomes_no_path() {
        assert!("ana.b@example.com".parse::<PersonName>().is_ok());
        for text in ["", "../x", ".ana", "-ana", "a/b", "a b"] {
            assert_eq!(text.parse::<PersonName>(), Err(NoPersonName), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn names_are_read_back_as_they_are_written(text in "\\PC{0,80}") {
            if let Ok(name) = text.parse::<HostName>() {
                prop_assert_eq!(name.to_string().parse::<HostName>(), Ok(name));
            }
            if let Ok(name) = text.parse::<ClusterName>() {
                prop_assert_eq!(ClusterName::of_domain(&name.domain()), Some(name));
            }
            if let Ok(name) = text.parse::<PersonName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn what_looks_like_a_cluster_is_one(text in "[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?") {
            let name: ClusterName = text.parse().unwrap();
            prop_assert_eq!(name.domain(), format!("{text}.tandem"));
        }
    }
}
