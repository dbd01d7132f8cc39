//! SIP, SIPS and tel URIs (RFC 3261 §19.1, RFC 3966), read so that nothing in them is lost: parameters keep their
//! order and spelling, and what we do not know is written back as it came.

use std::fmt;

/// A URI as far as we understand its scheme.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Uri {
    Sip(SipUri),
    Tel(TelUri),
    /// Any other scheme, whole.
    Other(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SipUri {
    pub secure: bool,
    /// As written, escapes included. It may hold `;` and `?` (RFC 3261 §25.1, user-unreserved).
    pub user: Option<String>,
    pub password: Option<String>,
    /// Name, IPv4 address, or IPv6 address in brackets.
    pub host: String,
    pub port: Option<u16>,
    pub params: Parameters,
    /// What follows the `?`, as written.
    pub headers: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TelUri {
    /// As written, visual separators included.
    pub number: String,
    pub params: Parameters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UriError {
    #[error("a URI without a scheme")]
    SchemeMissing,
    #[error("a URI with white space, control characters, quotes or angle brackets")]
    CharacterForbidden,
    #[error("a SIP URI without a host, or with one that is none")]
    HostMalformed,
    #[error("a port that is none")]
    PortMalformed,
    #[error("a tel URI without a number")]
    NumberMissing,
}

impl Uri {
    pub fn parse(text: &str) -> Result<Self, UriError> {
        if text
            .bytes()
            .any(|byte| byte <= b' ' || matches!(byte, b'<' | b'>' | b'"' | 0x7f))
        {
            return Err(UriError::CharacterForbidden);
        }
        let (scheme, rest) = text.split_once(':').ok_or(UriError::SchemeMissing)?;
        if !is_scheme(scheme) {
            return Err(UriError::SchemeMissing);
        }
        match &*scheme.to_ascii_lowercase() {
            "sip" => SipUri::parse(false, rest).map(Self::Sip),
            "sips" => SipUri::parse(true, rest).map(Self::Sip),
            "tel" => TelUri::parse(rest).map(Self::Tel),
            _ => Ok(Self::Other(text.to_owned())),
        }
    }

    #[must_use]
    pub fn as_sip(&self) -> Option<&SipUri> {
        match self {
            Self::Sip(uri) => Some(uri),
            Self::Tel(_) | Self::Other(_) => None,
        }
    }

    #[must_use]
    pub fn as_tel(&self) -> Option<&TelUri> {
        match self {
            Self::Tel(uri) => Some(uri),
            Self::Sip(_) | Self::Other(_) => None,
        }
    }
}

impl SipUri {
    #[must_use]
    pub fn new(user: Option<&str>, host: &str, port: Option<u16>) -> Self {
        Self {
            secure: false,
            user: user.map(str::to_owned),
            password: None,
            host: host.to_owned(),
            port,
            params: Parameters::default(),
            headers: None,
        }
    }

    /// `user@host` in lower case where case means nothing: the address without port and parameters.
    #[must_use]
    pub fn address(&self) -> String {
        let host = self.host.to_ascii_lowercase();
        match &self.user {
            Some(user) => format!("{}@{host}", unescape(user)),
            None => host,
        }
    }

    fn parse(secure: bool, rest: &str) -> Result<Self, UriError> {
        let (user_info, after_user) = split_user_info(rest);
        let (user, password) = match user_info.map(|info| (info, info.split_once(':'))) {
            Some((_, Some((user, password)))) => (Some(user.to_owned()), Some(password.to_owned())),
            Some((user, None)) => (Some(user.to_owned()), None),
            None => (None, None),
        };
        let (before_headers, headers) = match after_user.split_once('?') {
            Some((before, headers)) => (before, Some(headers.to_owned())),
            None => (after_user, None),
        };
        let (host_port, params) = match before_headers.split_once(';') {
            Some((host_port, params)) => (host_port, Parameters::parse(params)),
            None => (before_headers, Parameters::default()),
        };
        let (host, port) = parse_host_port(host_port)?;
        Ok(Self {
            secure,
            user,
            password,
            host,
            port,
            params,
            headers,
        })
    }
}

impl TelUri {
    fn parse(rest: &str) -> Result<Self, UriError> {
        let (number, params) = match rest.split_once(';') {
            Some((number, params)) => (number, Parameters::parse(params)),
            None => (rest, Parameters::default()),
        };
        if number.is_empty() {
            return Err(UriError::NumberMissing);
        }
        Ok(Self {
            number: number.to_owned(),
            params,
        })
    }
}

/// `;`-separated parameters in order. Names are compared without regard to case; values are kept as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Parameters {
    entries: Vec<(String, Option<String>)>,
}

impl Parameters {
    /// From the text behind the first `;`. Quoted values keep their quotes.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut entries = Vec::new();
        let mut rest = text;
        loop {
            let end = super::syntax::find_outside(rest.as_bytes(), b';').ok().flatten();
            let parameter = &rest[..end.unwrap_or(rest.len())];
            let (name, value) = match parameter.split_once('=') {
                Some((name, value)) => (name.trim(), Some(value.trim().to_owned())),
                None => (parameter.trim(), None),
            };
            if !name.is_empty() || value.is_some() {
                entries.push((name.to_owned(), value));
            }
            match end {
                Some(end) => rest = &rest[end + 1..],
                None => return Self { entries },
            }
        }
    }

    /// The value of the first parameter of that name; empty when it stands without one.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self
            .entries
            .iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))?;
        Some(found.1.as_deref().unwrap_or(""))
    }

    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Replaces the value, or adds the parameter behind the others.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(str::to_owned);
        match self
            .entries
            .iter_mut()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
        {
            Some(entry) => entry.1 = value,
            None => self.entries.push((name.to_owned(), value)),
        }
    }

    pub fn remove(&mut self, name: &str) {
        self.entries
            .retain(|(found, _)| !found.eq_ignore_ascii_case(name));
    }

    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        self.entries
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_deref()))
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sip(uri) => uri.fmt(formatter),
            Self::Tel(uri) => uri.fmt(formatter),
            Self::Other(text) => formatter.write_str(text),
        }
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            formatter.write_str(user)?;
            if let Some(password) = &self.password {
                write!(formatter, ":{password}")?;
            }
            formatter.write_str("@")?;
        }
        formatter.write_str(&self.host)?;
        if let Some(port) = self.port {
            write!(formatter, ":{port}")?;
        }
        self.params.fmt(formatter)?;
        match &self.headers {
            Some(headers) => write!(formatter, "?{headers}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for TelUri {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "tel:{}{}", self.number, self.params)
    }
}

impl fmt::Display for Parameters {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.iter() {
            match value {
                Some(value) => write!(formatter, ";{name}={value}")?,
                None => write!(formatter, ";{name}")?,
            }
        }
        Ok(())
    }
}

/// `host[:port]`, the host perhaps an IPv6 address in brackets.
pub(super) fn parse_host_port(text: &str) -> Result<(String, Option<u16>), UriError> {
    let host_end = match text.strip_prefix('[') {
        Some(inner) => inner.find(']').ok_or(UriError::HostMalformed)? + 2,
        None => text.find(':').unwrap_or(text.len()),
    };
    let (host, port) = text.split_at(host_end);
    if !is_host(host) {
        return Err(UriError::HostMalformed);
    }
    let port = match port.strip_prefix(':') {
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| UriError::PortMalformed)?)
        }
        Some(_) => return Err(UriError::PortMalformed),
        None if port.is_empty() => None,
        None => return Err(UriError::HostMalformed),
    };
    Ok((host.to_owned(), port))
}

/// Ends the user part at the first `@` with a host behind it. The user part may hold `;` and `?`
/// (RFC 3261 §25.1, user-unreserved), so neither of them ends it.
fn split_user_info(rest: &str) -> (Option<&str>, &str) {
    let has_host = |&(at, _): &(usize, &str)| {
        let after = &rest[at + 1..];
        parse_host_port(&after[..after.find([';', '?']).unwrap_or(after.len())]).is_ok()
    };
    match rest.match_indices('@').find(has_host) {
        Some((at, _)) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    }
}

fn is_scheme(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'))
}

fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')) {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        // Underscores are no part of a host name, but of many a Windows domain.
        None => {
            !host.is_empty()
                && host
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
        }
    }
}

/// RFC 3261 §19.1.4: an escaped character equals itself. A broken escape stays as it is.
#[must_use]
pub fn unescape(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = if byte == b'%' {
            bytes.get(at + 1..at + 3).and_then(from_hex)
        } else {
            None
        };
        plain.push(escaped.unwrap_or(byte));
        at += if escaped.is_some() { 3 } else { 1 };
    }
    String::from_utf8(plain).unwrap_or_else(|_| text.to_owned())
}

fn from_hex(digits: &[u8]) -> Option<u8> {
    let &[high, low] = digits else { return None };
    let value = |digit: u8| {
        char::from(digit)
            .to_digit(16)
            .and_then(|value| u8::try_from(value).ok())
    };
    Some(value(high)? * 16 + value(low)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sip(text: &str) -> SipUri {
        match Uri::parse(text) {
            Ok(Uri::Sip(uri)) => uri,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn the_user_part_ends_at_the_at_sign_and_nowhere_before() {
        let cases = [
            ("sip:john.doe@example.com", Some("john.doe"), None, "example.com"),
            (
                "sip:a;par=u%40x@example.com",
                Some("a;par=u%40x"),
                None,
                "example.com",
            ),
            ("sip:a?b@example.com", Some("a?b"), None, "example.com"),
            (
                "sip:a:secret:2@example.com",
                Some("a"),
                Some("secret:2"),
                "example.com",
            ),
            (
                "sip:+32-2-555;phone-context=x@gw",
                Some("+32-2-555;phone-context=x"),
                None,
                "gw",
            ),
            ("sip:example.com;lr", None, None, "example.com"),
            ("sip:a@[2001:db8::1]:5060", Some("a"), None, "[2001:db8::1]"),
            ("sip:b@h?Route=x%40y", Some("b"), None, "h"),
        ];
        for (text, user, password, host) in cases {
            let uri = sip(text);
            assert_eq!(
                (uri.user.as_deref(), uri.password.as_deref(), &*uri.host),
                (user, password, host),
                "{text}"
            );
            assert_eq!(uri.to_string(), text);
        }
    }

    #[test]
    fn parameters_keep_order_spelling_and_what_they_hold() {
        let text = "sip:b@h:5061;opaque=user:epid:abc;gruu;ms-key-info=AAEAAQ==;Transport=TLS?a=b&c=d";
        let uri = sip(text);
        assert_eq!(uri.params.get("OPAQUE"), Some("user:epid:abc"));
        assert_eq!(uri.params.get("gruu"), Some(""));
        assert_eq!(uri.params.get("ms-key-info"), Some("AAEAAQ=="));
        assert_eq!(uri.params.get("transport"), Some("TLS"));
        assert_eq!((uri.port, uri.headers.as_deref()), (Some(5061), Some("a=b&c=d")));
        assert_eq!(uri.to_string(), text);
    }

    #[test]
    fn tel_uris_keep_their_parameters() {
        let text = "tel:73124;phone-context=dialstring;device=SEP0002;partition=x";
        let Ok(Uri::Tel(uri)) = Uri::parse(text) else {
            panic!("no tel")
        };
        assert_eq!(
            (&*uri.number, uri.params.get("device")),
            ("73124", Some("SEP0002"))
        );
        assert_eq!(uri.to_string(), text);
        let Ok(Uri::Tel(uri)) = Uri::parse("TEL:+32 2".replace(' ', "-").as_str()) else {
            panic!("no tel")
        };
        assert_eq!(uri.number, "+32-2");
    }

    #[test]
    fn other_schemes_stay_whole() {
        assert_eq!(
            Uri::parse("urn:uuid:1;x"),
            Ok(Uri::Other("urn:uuid:1;x".to_owned()))
        );
        assert!(sip("SIPS:a@b").secure);
    }

    #[test]
    fn what_is_no_uri_is_an_error() {
        let broken = [
            "",
            "sip:",
            "sip:@",
            "sip:a@",
            "a@b",
            ":x",
            "1x:y",
            "sip:a b@c",
            "<sip:a@b>",
            "sip:a@b:x",
            "sip:a@b:70000",
            "sip:a@[::1",
            "sip:a@[x]",
            "sip:a@[::1]5060",
            "tel:",
            "tel:;x",
            "sip:a@b\r\nEvil: c",
            "sip:a@h:",
        ];
        for text in broken {
            assert!(Uri::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn addresses_compare_without_escapes_and_case_of_the_host() {
        assert_eq!(sip("sip:%6aoe@EXAMPLE.com:5060;x").address(), "joe@example.com");
        assert_eq!(unescape("100%"), "100%");
        assert_eq!(unescape("%zz%4"), "%zz%4");
        assert_eq!(unescape("%ff"), "%ff");
        assert_eq!(unescape("%é1"), "%é1");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_read_is_written_so_that_it_is_read_the_same(
            text in "(sip|sips|tel|x):[a-z0-9;=%?.+:@\\[\\]-]{1,24}",
        ) {
            if let Ok(uri) = Uri::parse(&text) {
                prop_assert_eq!(Uri::parse(&uri.to_string()), Ok(uri));
            }
        }

        #[test]
        fn no_text_makes_it_panic(text in any::<String>(), tail in any::<String>()) {
            let _ = Uri::parse(&text);
            let _ = Uri::parse(&format!("sip:{text}@{tail}"));
            let _ = unescape(&text);
        }
    }
}
