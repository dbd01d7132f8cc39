//! Explains a connection that failed before the certificate was checked, or for another reason.

use std::io;
use std::time::Duration;

use rustls::{AlertDescription, Error, PeerIncompatible};
use tandem_certificate::Status;

/// Why there was no handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetworkTrouble {
    /// The host is neither an address nor a valid DNS name.
    NotAHost,
    Unresolved {
        reason: String,
    },
    Refused,
    ConnectTimedOut(Duration),
    Unreachable {
        reason: String,
    },
    /// Connected, but the handshake did not finish in time.
    Silent(Duration),
    /// The connection ended in the middle of the handshake.
    Closed {
        reason: String,
    },
}

impl NetworkTrouble {
    /// From an error while connecting or during the handshake.
    #[must_use]
    pub fn of_connect(error: &io::Error) -> Self {
        let reason: String = error.to_string().chars().take(REASON_CHARACTERS_MAX).collect();
        let ended = matches!(
            error.kind(),
            io::ErrorKind::UnexpectedEof
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
        );
        if ended {
            Self::Closed { reason }
        } else if error.kind() == io::ErrorKind::ConnectionRefused {
            Self::Refused
        } else {
            Self::Unreachable { reason }
        }
    }

    #[must_use]
    pub fn status(&self) -> Status {
        match self {
            Self::NotAHost | Self::Closed { .. } => Status::Failed,
            Self::Unresolved { .. }
            | Self::Refused
            | Self::ConnectTimedOut(_)
            | Self::Unreachable { .. }
            | Self::Silent(_) => Status::NetworkError,
        }
    }

    #[must_use]
    pub fn explain(&self, host: &str, port: u16) -> String {
        match self {
            Self::NotAHost => format!(
                "\"{host}\" is neither an address nor a DNS name: correct the gateway's host; write an international \
                 name in its xn-- form."
            ),
            Self::Unresolved { reason } => format!(
                "The name {host} has no address ({reason}): correct the gateway's host, or the DNS of this machine."
            ),
            Self::Refused => format!(
                "{host} refuses connections to port {port}: check the port, and that IIS is running and bound to it."
            ),
            Self::ConnectTimedOut(waited) => format!(
                "{host} does not answer on port {port} within {} s: check the address, the route and the firewalls.",
                waited.as_secs()
            ),
            Self::Unreachable { reason } => format!(
                "{host} port {port} cannot be reached ({reason}): check the address, the route and the firewalls."
            ),
            Self::Silent(waited) => format!(
                "{host} takes connections to port {port} and then says nothing for {} s: check that the port speaks \
                 TLS and that no firewall holds the traffic back.",
                waited.as_secs()
            ),
            Self::Closed { reason } => format!(
                "{host} closed the connection during the TLS handshake ({reason}): Windows does so when it has no \
                 version or cipher suite in common, or when the binding in IIS has no certificate."
            ),
        }
    }
}

/// A handshake that failed for a reason other than the certificate's content.
#[must_use]
pub fn explain_handshake(error: &Error, host: &str) -> (Status, String) {
    let (status, reason) = if is_too_old(error) {
        let reason = "the server offers only TLS below 1.2: enable TLS 1.2 there (on Windows Server 2008 R2 and later \
                      it is a registry setting)";
        (Status::Failed, reason.to_owned())
    } else if is_without_common_suite(error) {
        let reason = "the server has no cipher suite in common with this one: enable ECDHE with AES-GCM there, and TLS \
                      1.2 or 1.3; a server that demands a client certificate fails in the same way";
        (Status::Failed, reason.to_owned())
    } else if matches!(error, Error::InvalidMessage(_)) {
        let reason = "the server does not speak TLS on this port, perhaps plain HTTP: check the port";
        (Status::Failed, reason.to_owned())
    } else if matches!(error, Error::AlertReceived(AlertDescription::UnrecognisedName)) {
        let reason = "the server knows no site of this name: check the binding in IIS";
        (Status::Failed, reason.to_owned())
    } else if matches!(error, Error::InvalidCertificate(_)) {
        let reason = "the server has not proved that it holds the key of its certificate: install the certificate \
                      there again, with its key";
        (Status::BadCertificates, reason.to_owned())
    } else {
        let text: String = error.to_string().chars().take(REASON_CHARACTERS_MAX).collect();
        (Status::Failed, format!("the handshake failed: {text}"))
    };
    (status, format!("TLS with {host} fails: {reason}."))
}

fn is_too_old(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(AlertDescription::ProtocolVersion)
            | Error::PeerIncompatible(
                PeerIncompatible::ServerDoesNotSupportTls12Or13
                    | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            )
    )
}

fn is_without_common_suite(error: &Error) -> bool {
    matches!(
        error,
        Error::AlertReceived(AlertDescription::HandshakeFailure | AlertDescription::InsufficientSecurity)
            | Error::PeerIncompatible(
                PeerIncompatible::NoCipherSuitesInCommon | PeerIncompatible::NoKxGroupsInCommon
            )
    )
}

const REASON_CHARACTERS_MAX: usize = 200;

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;

    use super::*;

    #[test]
    fn every_end_of_a_handshake_has_a_status_and_an_advice() {
        for (error, status, says) in [
            (
                Error::AlertReceived(AlertDescription::ProtocolVersion),
                Status::Failed,
                "below 1.2",
            ),
            (
                Error::AlertReceived(AlertDescription::HandshakeFailure),
                Status::Failed,
                "no cipher suite",
            ),
            (
                Error::AlertReceived(AlertDescription::UnrecognisedName),
                Status::Failed,
                "binding in IIS",
            ),
            (
                Error::InvalidMessage(InvalidMessage::InvalidContentType),
                Status::Failed,
                "plain HTTP",
            ),
            (
                Error::InvalidCertificate(rustls::CertificateError::BadSignature),
                Status::BadCertificates,
                "holds the key",
            ),
            (Error::DecryptError, Status::Failed, "the handshake failed"),
        ] {
            let (found, text) = explain_handshake(&error, "cas1");
            assert_eq!(found, status, "{error}");
            assert!(text.contains(says), "{text}");
        }
    }

    #[test]
    fn every_trouble_of_the_network_has_a_status_and_an_advice() {
        let of = |kind: io::ErrorKind| NetworkTrouble::of_connect(&io::Error::from(kind));
        for (trouble, status) in [
            (NetworkTrouble::NotAHost, Status::Failed),
            (of(io::ErrorKind::UnexpectedEof), Status::Failed),
            (of(io::ErrorKind::ConnectionReset), Status::Failed),
            (of(io::ErrorKind::ConnectionRefused), Status::NetworkError),
            (of(io::ErrorKind::HostUnreachable), Status::NetworkError),
            (
                NetworkTrouble::Silent(Duration::from_secs(1)),
                Status::NetworkError,
            ),
            (
                NetworkTrouble::ConnectTimedOut(Duration::from_secs(5)),
                Status::NetworkError,
            ),
        ] {
            assert_eq!(trouble.status(), status, "{trouble:?}");
            assert!(trouble.explain("cas1", 443).contains(": "), "{trouble:?}");
        }
    }
}
