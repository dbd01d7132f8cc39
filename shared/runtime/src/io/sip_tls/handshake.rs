//! Why a handshake with a client came to nothing, for logs and metrics.

use std::io;

use rustls::{CertificateError, PeerIncompatible};

use crate::io::sip_client_verifier::SubjectRefused;

/// A handshake with a client came to nothing.
#[derive(Debug)]
pub struct HandshakeFailed {
    pub error: io::Error,
    /// Whose certificate it was, and whose are accepted: when it was not valid.
    pub(super) certificate: Option<String>,
}

impl HandshakeFailed {
    /// Why: a status of certificate checks as metrics spell it, and a sentence.
    #[must_use]
    pub fn explain(&self) -> (&'static str, String) {
        let (status, text) = explain_refusal(&self.error);
        match &self.certificate {
            Some(certificate) => (status, format!("{text}; {certificate}")),
            None => (status, text),
        }
    }
}

fn explain_refusal(error: &io::Error) -> (&'static str, String) {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(error) = inner else {
        return ("network_error", error.to_string());
    };
    // One by one: what rustls may say besides is for no status of its own.
    if let rustls::Error::NoCertificatesPresented = error {
        return ("bad_certificates", "the client shows no certificate".to_owned());
    }
    if let rustls::Error::PeerIncompatible(
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired,
    ) = error
    {
        let text = "the client offers neither TLS 1.2 nor 1.3, as an OCS without its updates: see \"TLS 1.0\" in deploy/README.md";
        return ("tls_version", text.to_owned());
    }
    // RFC 5246 §7.4.1.4.1: the extension is new in TLS 1.2, so a hello of TLS 1.0 lacks it; rustls looks for it first.
    if let rustls::Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired) = error {
        let text = "the client names no signature algorithms, as one that offers neither TLS 1.2 nor 1.3 (an OCS without its updates): see \"TLS 1.0\" in deploy/README.md";
        return ("tls_version", text.to_owned());
    }
    let rustls::Error::InvalidCertificate(reason) = error else {
        return ("failed", error.to_string());
    };
    if let CertificateError::Other(other) = reason
        && let Some(refused) = other.0.downcast_ref::<SubjectRefused>()
    {
        let status = match refused.has_alternative_names {
            true => "san_mismatch",
            false => "subject_cn_mismatch",
        };
        return (status, refused.to_string());
    }
    let status = match *reason == CertificateError::UnknownIssuer {
        true => "certificate_missing_from_chain",
        false => "bad_certificates",
    };
    (status, error.to_string())
}
