//! From, To, Contact, Route: an address with header parameters (RFC 3261 §20.10).

use std::fmt;

use super::syntax::{after_bracket, after_quoted, split_address};
use super::uri::{Parameters, Uri, UriError};

/// One value of a From-like header. The URI is kept as written: it goes into request lines unchanged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// Without quotes and escapes.
    pub display_name: Option<String>,
    /// What stands between the angle brackets, or the whole address without them.
    pub uri: String,
    /// Header parameters, never those of the URI.
    pub params: Parameters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameAddrError {
    #[error("an address with an unclosed quote or angle bracket")]
    Unbalanced,
    #[error("an address without a URI")]
    UriMissing,
}

impl NameAddr {
    #[must_use]
    pub fn new(uri: impl Into<String>) -> Self {
        Self {
            display_name: None,
            uri: uri.into(),
            params: Parameters::default(),
        }
    }

    pub fn parse(text: &str) -> Result<Self, NameAddrError> {
        let (address, parameters) = split_address(text.as_bytes()).map_err(|_| NameAddrError::Unbalanced)?;
        let parameters = &text[text.len() - parameters.len()..];
        let start = address.as_ptr().addr() - text.as_ptr().addr();
        let address = &text[start..start + address.len()];
        let (display_name, uri) = split_display_name(address)?;
        if uri.is_empty() {
            return Err(NameAddrError::UriMissing);
        }
        Ok(Self {
            display_name,
            uri: uri.to_owned(),
            params: Parameters::parse(parameters),
        })
    }

    pub fn parsed(&self) -> Result<Uri, UriError> {
        Uri::parse(&self.uri)
    }

    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }

    #[must_use]
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.params.set("tag", Some(tag));
        self
    }

    /// As header value, always with angle brackets.
    #[must_use]
    pub fn write(&self) -> String {
        self.to_string()
    }
}

impl fmt::Display for NameAddr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(name) = &self.display_name {
            formatter.write_str("\"")?;
            for character in name.chars() {
                match character {
                    '"' | '\\' => write!(formatter, "\\{character}")?,
                    _ => write!(formatter, "{character}")?,
                }
            }
            formatter.write_str("\" ")?;
        }
        write!(formatter, "<{}>{}", self.uri, self.params)
    }
}

fn split_display_name(address: &str) -> Result<(Option<String>, &str), NameAddrError> {
    let unbalanced = |_| NameAddrError::Unbalanced;
    let name_end = match address.as_bytes().first() {
        Some(b'"') => after_quoted(address.as_bytes(), 0).map_err(unbalanced)?,
        _ => 0,
    };
    let Some(open) = address[name_end..].find('<').map(|at| name_end + at) else {
        return Ok((None, address));
    };
    let end = after_bracket(address.as_bytes(), open).map_err(unbalanced)?;
    let name = address[..open].trim();
    let display_name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => Some(unquote(quoted)),
        None if name.is_empty() => None,
        None => Some(name.to_owned()),
    };
    Ok((display_name, address[open + 1..end - 1].trim()))
}

fn unquote(quoted: &str) -> String {
    let mut plain = String::with_capacity(quoted.len());
    let mut characters = quoted.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => plain.extend(characters.next()),
            _ => plain.push(character),
        }
    }
    plain
}
