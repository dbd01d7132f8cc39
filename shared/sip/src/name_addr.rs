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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parsed(text: &str) -> (Option<String>, String, Option<String>) {
        let address = NameAddr::parse(text).unwrap();
        let tag = address.tag().map(str::to_owned);
        (address.display_name, address.uri, tag)
    }

    fn expected(
        name: Option<&str>,
        uri: &str,
        tag: Option<&str>,
    ) -> (Option<String>, String, Option<String>) {
        (name.map(str::to_owned), uri.to_owned(), tag.map(str::to_owned))
    }

    #[test]
    fn addresses_are_read_in_every_form() {
        let cases = [
            ("<sip:a@b>;tag=1", expected(None, "sip:a@b", Some("1"))),
            ("sip:a@b;tag=1", expected(None, "sip:a@b", Some("1"))),
            ("<sip:a@b> ; tag = 1", expected(None, "sip:a@b", Some("1"))),
            (
                "\"J \\\"R\\\\ ;tag=x\"  <sip:a@b;tag=no>;TAG=1",
                expected(Some("J \"R\\ ;tag=x"), "sip:a@b;tag=no", Some("1")),
            ),
            (
                "Joe Bloggs <sip:a@b>",
                expected(Some("Joe Bloggs"), "sip:a@b", None),
            ),
            (
                "<sip:a@b;opaque=user:epid:abc;gruu>",
                expected(None, "sip:a@b;opaque=user:epid:abc;gruu", None),
            ),
            ("Jürgen <sip:a@b>", expected(Some("Jürgen"), "sip:a@b", None)),
            (
                "\"Jürgen, 2;3\" <sip:a@b>;tag=1",
                expected(Some("Jürgen, 2;3"), "sip:a@b", Some("1")),
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(parsed(text), expected, "{text}");
        }
    }

    #[test]
    fn quoted_parameters_keep_what_they_hold() {
        let text = "<sip:a@b>;+sip.instance=\"<urn:uuid:0;1,2>\";proxy=replace;q=0.5";
        let contact = NameAddr::parse(text).unwrap();
        assert_eq!(contact.params.get("+sip.instance"), Some("\"<urn:uuid:0;1,2>\""));
        assert_eq!(contact.params.get("proxy"), Some("replace"));
        assert_eq!(contact.write(), text);
    }

    #[test]
    fn what_does_not_balance_is_an_error() {
        for text in ["\"a <sip:a@b>", "<sip:a@b", "", "<>", ";tag=1", "\"a\" <>;tag=1"] {
            assert!(NameAddr::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_written_is_read_the_same(
            name in proptest::option::of("[a-z\"\\\\<>;, é]{1,8}[a-z]"),
            uri in "sip:[a-z;?]{0,6}@[a-z]{1,5}",
            tag in "[a-z0-9]{1,8}",
        ) {
            let mut address = NameAddr { display_name: name, ..NameAddr::new(uri) };
            address.params.set("tag", Some(&tag));
            prop_assert_eq!(NameAddr::parse(&address.write()), Ok(address));
        }

        #[test]
        fn no_text_makes_it_panic(text in "[ -~é\"<>;=\\\\,]{0,40}") {
            if let Ok(address) = NameAddr::parse(&text) {
                let _ = address.parsed();
            }
        }
    }
}
