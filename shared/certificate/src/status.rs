//! The status of a certificate, in the words of CAL-6.

use std::fmt;

use serde::Serialize;

/// The statuses of CAL-6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
pub enum Status {
    Verified,
    #[serde(rename = "Certificate Missing From Chain")]
    CertificateMissingFromChain,
    #[serde(rename = "Subject CN Mismatch")]
    SubjectCnMismatch,
    #[serde(rename = "SAN Mismatch")]
    SanMismatch,
    #[serde(rename = "Bad Certificates")]
    BadCertificates,
    #[serde(rename = "Network Error")]
    NetworkError,
    /// For no reason of the above.
    Failed,
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Verified => "Verified",
            Self::CertificateMissingFromChain => "Certificate Missing From Chain",
            Self::SubjectCnMismatch => "Subject CN Mismatch",
            Self::SanMismatch => "SAN Mismatch",
            Self::BadCertificates => "Bad Certificates",
            Self::NetworkError => "Network Error",
            Self::Failed => "Failed",
        })
    }
}
