//! A certificate as an administrator sees it.

use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::parsed::Certificate;

/// A certificate for people.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificateView {
    pub issuer: String,
    pub serial: String,
    pub sha256_fingerprint: String,
    /// RFC 3339.
    pub not_before: String,
    pub not_after: String,
    pub key_algorithm: String,
    pub key_bits: usize,
    pub signature_algorithm: String,
    pub is_authority: bool,
    pub dns_names: Vec<String>,
    pub addresses: Vec<String>,
}

impl CertificateView {
    #[must_use]
    pub fn of(certificate: &Certificate) -> Self {
        let addresses = certificate.names.addresses.iter();
        Self {
            issuer: certificate.issuer.clone(),
            serial: certificate.serial.clone(),
            sha256_fingerprint: certificate.fingerprint.to_string(),
            not_before: date(certificate.not_before),
            not_after: date(certificate.not_after),
            key_algorithm: certificate.key.algorithm.clone(),
            key_bits: certificate.key.bits,
            signature_algorithm: certificate.signature_algorithm.clone(),
            is_authority: certificate.is_authority,
            dns_names: certificate.names.dns_names.clone(),
            addresses: addresses.map(ToString::to_string).collect(),
        }
    }
}

/// A point of Unix time, in seconds, as RFC 3339 in UTC.
#[must_use]
pub fn date(unix_seconds: i64) -> String {
    let time = OffsetDateTime::from_unix_timestamp(unix_seconds).ok();
    time.and_then(|time| time.format(&Rfc3339).ok())
        .unwrap_or_else(|| "a day that no calendar has".to_owned())
}
