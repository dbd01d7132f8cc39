//! What may be a host's name.

use std::str::FromStr;

/// A host's name, as a configuration gives it: [`is_host_name`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostName(String);

impl From<HostName> for String {
    fn from(name: HostName) -> Self {
        name.0
    }
}

impl FromStr for HostName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match is_host_name(text) {
            true => Ok(Self(text.to_owned())),
            false => Err("no host name"),
        }
    }
}

/// Whether a text has the form of a host name (RFC 1123 §2.1): labels of up to 63 letters, digits, hyphens and underscores
/// (which Windows allows) between dots, 253 characters in all. Addresses of IPv4 have it as well.
#[must_use]
pub fn is_host_name(text: &str) -> bool {
    let is_label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(is_label)
}
