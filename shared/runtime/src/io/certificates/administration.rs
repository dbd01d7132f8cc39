//! What administrators send and see of certificates: JSON, the same at both binaries.

use base64::Engine as _;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::info;

use super::identity_files::Completeness;
use super::signing_request::SigningError;
use super::trust_directory::{FileProblem, StoredCertificate};
use super::trust_store::TrustError;
use crate::io::admin::{AdminResponse, StatusCode};
use tandem_certificate::{BundleError, Certificate, CertificateView, Fingerprint, read_bundle};

/// A file with certificates, as `{"pem": TEXT}`, or as `{"base64": BYTES}` for those that are no text.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UploadedFile {
    Pem(String),
    Base64(String),
}

impl UploadedFile {
    /// # Errors
    /// When it is said to be base64 and is not.
    pub fn bytes(&self) -> Result<Vec<u8>, CertificateRouteError> {
        match self {
            Self::Pem(text) => Ok(text.clone().into_bytes()),
            Self::Base64(text) => base64::engine::general_purpose::STANDARD
                .decode(text)
                .map_err(|_| CertificateRouteError::NotBase64),
        }
    }

    /// # Errors
    /// When there is none in it, or one that cannot be read.
    pub fn certificates(&self) -> Result<Vec<Certificate>, CertificateRouteError> {
        Ok(read_bundle(&self.bytes()?)?)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveBody {
    pub sha256_fingerprint: String,
}

impl RemoveBody {
    /// # Errors
    /// When it is none.
    pub fn fingerprint(&self) -> Result<Fingerprint, CertificateRouteError> {
        fingerprint(&self.sha256_fingerprint)
    }
}

/// As people paste it: 64 hexadecimal digits, with or without colons.
///
/// # Errors
/// When it is something else.
pub fn fingerprint(text: &str) -> Result<Fingerprint, CertificateRouteError> {
    let shown = || text.chars().take(FINGERPRINT_CHARACTERS_SHOWN).collect();
    Fingerprint::parse(text).ok_or_else(|| CertificateRouteError::Fingerprint(shown()))
}

/// Says which, and everything about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedCertificate {
    pub subject: String,
    #[serde(flatten)]
    pub certificate: CertificateView,
}

impl NamedCertificate {
    #[must_use]
    pub fn of(certificate: &Certificate) -> Self {
        Self {
            subject: certificate.subject.clone(),
            certificate: CertificateView::of(certificate),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrustedView {
    pub file: String,
    #[serde(flatten)]
    pub certificate: NamedCertificate,
}

impl TrustedView {
    #[must_use]
    pub fn of(stored: &StoredCertificate) -> Self {
        let name = stored.file.file_name().unwrap_or_default();
        Self {
            file: name.to_string_lossy().into_owned(),
            certificate: NamedCertificate::of(&stored.certificate),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemView {
    pub file: String,
    pub reason: String,
}

impl ProblemView {
    #[must_use]
    pub fn of(problem: FileProblem) -> Self {
        Self {
            file: problem.file.display().to_string(),
            reason: problem.reason,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RequestView {
    pub request_pem: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SignedView {
    pub chain: Vec<NamedCertificate>,
    pub completeness: Completeness,
}

/// Why certificates were not changed.
#[derive(Debug, Error)]
pub enum CertificateRouteError {
    #[error("\"{0}\" is not a SHA-256 fingerprint: it has 64 hexadecimal digits")]
    Fingerprint(String),
    #[error("what was uploaded as base64 is not base64")]
    NotBase64,
    #[error("what was uploaded cannot be used: {0}")]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Signing(#[from] SigningError),
}

impl CertificateRouteError {
    /// Whose fault it is, in HTTP.
    #[must_use]
    pub fn status_code(&self) -> StatusCode {
        match self {
            Self::Fingerprint(_) | Self::NotBase64 | Self::Bundle(_) => StatusCode::BAD_REQUEST,
            Self::Trust(error) => status_code_of_store(error),
            Self::Signing(error) => status_code_of_signing(error),
        }
    }
}

/// Whose fault a change of a store that failed is, in HTTP.
#[must_use]
pub fn status_code_of_store(error: &TrustError) -> StatusCode {
    match error {
        TrustError::Unknown { .. } => StatusCode::NOT_FOUND,
        TrustError::Full => StatusCode::CONFLICT,
        TrustError::Directory { .. } | TrustError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// Whose fault a certificate that was not made or installed is, in HTTP.
#[must_use]
pub fn status_code_of_signing(error: &SigningError) -> StatusCode {
    match error {
        SigningError::Bundle(_)
        | SigningError::Names
        | SigningError::CommonName
        | SigningError::Country
        | SigningError::Request { .. } => StatusCode::BAD_REQUEST,
        SigningError::OtherKey | SigningError::Key { .. } | SigningError::Mismatch { .. } => {
            StatusCode::CONFLICT
        }
        SigningError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// An error with its causes, as `{"error": TEXT}`.
#[must_use]
pub fn error_response(status: StatusCode, error: &dyn std::error::Error) -> AdminResponse {
    AdminResponse::error(status, &with_causes(error))
}

/// An error and what caused it, in one line.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

/// Leaves a line in the log under the target `audit` for each certificate, and shows them. `holder` says whose trust or
/// whose certificate it was.
pub fn audited(holder: &str, change: &'static str, certificates: &[Certificate]) -> Vec<NamedCertificate> {
    for certificate in certificates {
        info!(
            target: AUDIT,
            holder,
            change,
            subject = certificate.subject,
            fingerprint = %certificate.fingerprint,
            "certificates changed"
        );
    }
    certificates.iter().map(NamedCertificate::of).collect()
}

/// Leaves a line in the log under the target `audit`.
pub fn audit_request(holder: &str, common_name: &str, names: &[String]) {
    info!(target: AUDIT, holder, common_name, ?names, "certificate requested");
}

const AUDIT: &str = "audit";
const FINGERPRINT_CHARACTERS_SHOWN: usize = 100;
