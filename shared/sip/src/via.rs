//! Via (RFC 3261 §20.42): where an answer goes.

use std::fmt;

use super::uri::{Parameters, UriError, parse_host_port};

/// One Via value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// `SIP/2.0`, however it was spaced.
    pub protocol: String,
    /// `TCP`, `TLS`, …, in upper case.
    pub transport: String,
    /// As in a URI: IPv6 addresses stand in brackets.
    pub host: String,
    pub port: Option<u16>,
    pub params: Parameters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ViaError {
    #[error("a Via without protocol, version and transport")]
    ProtocolMalformed,
    #[error("a Via whose sent-by is malformed: {0}")]
    SentByMalformed(UriError),
}

impl Via {
    /// Parses one value; a comma list has been split before.
    pub fn parse(text: &str) -> Result<Self, ViaError> {
        let (sent, params) = match text.split_once(';') {
            Some((sent, params)) => (sent, Parameters::parse(params)),
            None => (text, Parameters::default()),
        };
        // White space may stand around the slashes: `SIP / 2.0 / TCP host`.
        let mut parts = sent.splitn(3, '/').map(str::trim);
        let (Some(name), Some(version), Some(rest)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(ViaError::ProtocolMalformed);
        };
        let (transport, sent_by) = rest
            .split_once(char::is_whitespace)
            .ok_or(ViaError::ProtocolMalformed)?;
        if name.is_empty() || version.is_empty() || transport.is_empty() {
            return Err(ViaError::ProtocolMalformed);
        }
        let sent_by: String = sent_by.split_whitespace().collect();
        let (host, port) = parse_host_port(&sent_by).map_err(ViaError::SentByMalformed)?;
        let protocol = format!("{}/{version}", name.to_ascii_uppercase());
        Ok(Self {
            protocol,
            transport: transport.to_ascii_uppercase(),
            host,
            port,
            params,
        })
    }

    #[must_use]
    pub fn branch(&self) -> Option<&str> {
        self.params.get("branch").filter(|branch| !branch.is_empty())
    }
}

impl fmt::Display for Via {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{} {}", self.protocol, self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(formatter, ":{port}")?;
        }
        self.params.fmt(formatter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_via_is_read_however_it_is_spaced() {
        let via =
            Via::parse("SIP  / 2.0  / tcp     one.example.com : 5060  ; branch = z9hG4bKx;RPORT;x=\"a;b\"")
                .unwrap();
        assert_eq!(
            (&*via.protocol, &*via.transport, &*via.host, via.port),
            ("SIP/2.0", "TCP", "one.example.com", Some(5060))
        );
        assert_eq!(via.branch(), Some("z9hG4bKx"));
        assert!(via.params.contains("rport"));
        assert_eq!(via.params.get("X"), Some("\"a;b\""));
        assert_eq!(
            via.to_string(),
            "SIP/2.0/TCP one.example.com:5060;branch=z9hG4bKx;RPORT;x=\"a;b\""
        );
    }

    #[test]
    fn a_via_may_lack_a_branch_and_hold_an_ipv6_address() {
        let via =
            Via::parse("SIP/2.0/TLS [2001:db8::9]:50123;ms-received-port=1;ms-received-cid=1F00").unwrap();
        assert_eq!(
            (&*via.host, via.port, via.branch()),
            ("[2001:db8::9]", Some(50123), None)
        );
    }

    #[test]
    fn a_broken_via_is_an_error() {
        for text in [
            "",
            "SIP/2.0",
            "SIP/2.0/TCP",
            "SIP//TCP a",
            "SIP/2.0/ a;b",
            "SIP/2.0/TCP a:b",
            "SIP/2.0/TCP [::1",
        ] {
            assert!(Via::parse(text).is_err(), "{text}");
        }
    }
}
