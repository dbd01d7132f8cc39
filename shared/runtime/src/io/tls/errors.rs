//! What is wrong with the files of TLS, as the operator reads it.

use std::path::PathBuf;

use thiserror::Error;

use crate::certificate_holder::CertificateError;
use crate::io::certificates::TrustError;

/// What is wrong with a file, where it lies, and what to do about it. Keys never appear in it.
#[derive(Debug, Error)]
pub enum TlsError {
    #[error("cannot read {}: check the path and that this user may read it", .path.display())]
    Unreadable {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("{} is not PEM: export it again in PEM form", .path.display())]
    NotPem {
        path: PathBuf,
        #[source]
        source: rustls::pki_types::pem::Error,
    },
    #[error("{} holds no certificate: put \"BEGIN CERTIFICATE\" blocks into it, ours first", .path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} holds no private key: put one \"BEGIN PRIVATE KEY\" block into it, without a password", .path.display())]
    NoKey { path: PathBuf },
    #[error("a certificate in {} is damaged: issue or export it again", .path.display())]
    DamagedCertificate {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
    #[error("{} cannot serve as an authority: it must hold CA certificates", .path.display())]
    NotAnAuthority { path: PathBuf },
    #[error(transparent)]
    TrustDirectory(#[from] TrustError),
    #[error("{} holds no revocation list: put \"BEGIN X509 CRL\" blocks into it, one of each authority", .path.display())]
    NoRevocationList { path: PathBuf },
    #[error("a revocation list in {} is damaged ({reason}): fetch it again from the authority", .path.display())]
    DamagedRevocationList { path: PathBuf, reason: String },
    #[error("{} may be read by every user of this machine (mode {mode:o}): chmod 600 it", .path.display())]
    KeyExposed { path: PathBuf, mode: u32 },
    #[error("the cipher suites that are chosen serve neither TLS 1.2 nor 1.3: choose others, or none")]
    CipherSuites {
        #[source]
        source: rustls::Error,
    },
    #[error("other members would not accept the certificate in {} {role}: {source}", .path.display())]
    NotAccepted {
        path: PathBuf,
        /// As which end of a connection.
        role: &'static str,
        #[source]
        source: Box<rustls::Error>,
    },
    #[error("{} and {} do not belong together: use the key that the certificate was issued for",
        .certificate.display(), .key.display())]
    Mismatch {
        certificate: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
}
