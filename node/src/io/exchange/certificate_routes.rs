//! What an administrator does with certificates, over HTTP: JSON in, JSON out.
//!
//! Each function is one route below `/exchange/certificates`. Every change is a line in the log under the target
//! `audit`.

use serde::{Deserialize, Serialize};
use tandem_shared::cluster::{CasEndpoint, CasId};
use tandem_shared::io::admin::{AdminResponse, StatusCode};
use thiserror::Error;
use tracing::info;

use super::certificate_import::{self, FetchFrom, ImportError, ImportOptions, Offered};
use super::certificate_probe::{ProbeReport, probe};
use super::signing::{Completeness, ServingIdentity, SigningError, SigningRequest};
use super::trust::{StoredCertificate, TrustError, TrustStore};
use crate::exchange::certificate::{
    BundleError, Certificate, CertificateView, Fingerprint, Source, read_bundle,
};

/// What the routes work on.
#[derive(Debug, Clone)]
pub struct CertificateRoutes {
    pub store: TrustStore,
    /// Absent while callbacks come over plain HTTP.
    pub identity: Option<ServingIdentity>,
    pub options: ImportOptions,
}

impl CertificateRoutes {
    /// `POST …/diagnose`: connects to the host and tells what is wrong.
    ///
    /// # Errors
    /// When the body names no host.
    pub async fn diagnose(&self, body: EndpointBody) -> Result<ProbeReport, RouteError> {
        let endpoint = body.endpoint()?;
        Ok(probe(&self.store, &endpoint, self.options.probe).await)
    }

    /// `GET …`: what is trusted, what could not be read, and what we show ourselves.
    #[must_use]
    pub fn list(&self) -> CertificatesView {
        let problems = self.store.problems();
        CertificatesView {
            trusted: self.store.list().iter().map(TrustedView::of).collect(),
            problems: problems
                .into_iter()
                .map(|problem| ProblemView {
                    file: problem.file.display().to_string(),
                    reason: problem.reason,
                })
                .collect(),
            own: self.identity.as_ref().map(OwnView::of),
        }
    }

    /// `POST …/upload`: trusts the certificates of a PEM file or a `.p7b` in PEM.
    ///
    /// # Errors
    /// When there is none in it, or the store cannot be changed.
    pub fn upload(&self, body: &PemBody) -> Result<Vec<NamedCertificate>, RouteError> {
        let certificates = read_bundle(body.pem.as_bytes())?;
        let added = self.store.add(&certificates)?;
        Ok(audited("trusted by upload", &added))
    }

    /// `POST …/import`: without fingerprints shows what the host offers, with them installs those.
    ///
    /// # Errors
    /// When the body names no host or fingerprints that are none, or the host offers other certificates.
    pub async fn import(&self, body: ImportBody) -> Result<ImportView, RouteError> {
        let endpoint = body.endpoint.endpoint()?;
        let mut options = self.options;
        if body.private_addresses {
            options.from = options.from.max(FetchFrom::PrivateNetworks);
        }
        let accepted = body.accept.unwrap_or_default();
        if accepted.is_empty() {
            let offer = certificate_import::show(&self.store, &endpoint, options).await;
            return Ok(ImportView::Offer {
                report: offer.report,
                offered: offer.certificates.iter().map(OfferedView::of).collect(),
                notes: offer.notes,
            });
        }
        let fingerprints = accepted
            .iter()
            .map(|text| fingerprint(text))
            .collect::<Result<Vec<_>, _>>()?;
        let installed = certificate_import::accept(&self.store, &endpoint, &fingerprints, options).await?;
        Ok(ImportView::Installed {
            installed: audited("trusted by import", &installed),
            report: probe(&self.store, &endpoint, options.probe).await,
        })
    }

    /// `POST …/remove`: trusts a certificate no longer.
    ///
    /// # Errors
    /// When there is no such certificate, or the store cannot be changed.
    pub fn remove(&self, body: &RemoveBody) -> Result<Vec<NamedCertificate>, RouteError> {
        let removed = self.store.remove(fingerprint(&body.sha256_fingerprint)?)?;
        Ok(audited("trusted no longer", &[removed]))
    }

    /// `POST …/csr`: a request for a certificate of our own. The key stays here.
    ///
    /// # Errors
    /// When callbacks come over plain HTTP, or the request cannot be made.
    pub fn csr(&self, body: &SigningRequest) -> Result<RequestView, RouteError> {
        let request_pem = self.identity()?.create_request(body)?;
        info!(target: AUDIT, common_name = body.common_name, names = ?body.names, "certificate requested");
        Ok(RequestView { request_pem })
    }

    /// `POST …/signed`: the authority's answer; shown from the next connection on.
    ///
    /// # Errors
    /// When it is for another key, or cannot be read or kept.
    pub fn signed(&self, body: &PemBody) -> Result<SignedView, RouteError> {
        let installed = self.identity()?.install(body.pem.as_bytes())?;
        Ok(SignedView {
            chain: audited("our certificate installed", &installed.chain),
            completeness: installed.completeness,
        })
    }

    fn identity(&self) -> Result<&ServingIdentity, RouteError> {
        self.identity.as_ref().ok_or(RouteError::NoIdentity)
    }
}

/// Where to look.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct EndpointBody {
    pub host: String,
    pub port: Option<u16>,
    #[serde(default)]
    pub legacy_algorithms: bool,
}

impl EndpointBody {
    fn endpoint(&self) -> Result<CasEndpoint, RouteError> {
        let host = self.host.trim().trim_start_matches('[').trim_end_matches(']');
        if host.is_empty() || host.len() > HOST_BYTES_MAX {
            return Err(RouteError::Host);
        }
        let mut endpoint = CasEndpoint::of(&CasId(host.to_owned()));
        endpoint.port = self.port.unwrap_or(endpoint.port);
        endpoint.legacy_algorithms = self.legacy_algorithms;
        Ok(endpoint)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImportBody {
    #[serde(flatten)]
    pub endpoint: EndpointBody,
    /// SHA-256 fingerprints of what was shown.
    pub accept: Option<Vec<String>>,
    /// Issuers may be fetched from private addresses: the authority is the company's own.
    #[serde(default)]
    pub private_addresses: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PemBody {
    pub pem: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RemoveBody {
    pub sha256_fingerprint: String,
}

/// Says which, and everything about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NamedCertificate {
    pub subject: String,
    #[serde(flatten)]
    pub certificate: CertificateView,
}

impl NamedCertificate {
    fn of(certificate: &Certificate) -> Self {
        Self {
            subject: certificate.subject.clone(),
            certificate: CertificateView::of(certificate),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificatesView {
    pub trusted: Vec<TrustedView>,
    pub problems: Vec<ProblemView>,
    pub own: Option<OwnView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TrustedView {
    pub file: String,
    #[serde(flatten)]
    pub certificate: NamedCertificate,
}

impl TrustedView {
    fn of(stored: &StoredCertificate) -> Self {
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

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnView {
    pub chain: Vec<NamedCertificate>,
    /// A request waits for the authority's answer.
    pub requested: bool,
}

impl OwnView {
    fn of(identity: &ServingIdentity) -> Self {
        Self {
            chain: identity.chain().iter().map(NamedCertificate::of).collect(),
            requested: identity.has_request(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum ImportView {
    Offer {
        report: ProbeReport,
        offered: Vec<OfferedView>,
        notes: Vec<String>,
    },
    Installed {
        installed: Vec<NamedCertificate>,
        /// How it stands now.
        report: ProbeReport,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfferedView {
    pub source: Source,
    pub already_trusted: bool,
    pub recommended: bool,
    #[serde(flatten)]
    pub certificate: NamedCertificate,
}

impl OfferedView {
    fn of(offered: &Offered) -> Self {
        Self {
            source: offered.source,
            already_trusted: offered.already_trusted,
            recommended: offered.recommended,
            certificate: NamedCertificate::of(&offered.certificate),
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

#[derive(Debug, Error)]
pub enum RouteError {
    #[error("host must be an FQDN, an IPv4 or an IPv6 address")]
    Host,
    #[error("\"{0}\" is not a SHA-256 fingerprint: it has 64 hexadecimal digits")]
    Fingerprint(String),
    #[error("callbacks come over plain HTTP: configure certificate and key in [exchange.push] first")]
    NoIdentity,
    #[error("what was uploaded cannot be used: {0}")]
    Bundle(#[from] BundleError),
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Signing(#[from] SigningError),
}

impl RouteError {
    /// Whose fault it is, in HTTP.
    #[must_use]
    pub fn status_code(&self) -> StatusCode {
        match self {
            Self::Host | Self::Fingerprint(_) | Self::Bundle(_) => StatusCode::BAD_REQUEST,
            Self::NoIdentity | Self::Import(ImportError::NotOffered { .. }) => StatusCode::CONFLICT,
            Self::Trust(error) | Self::Import(ImportError::Store(error)) => code_of_store(error),
            Self::Signing(error) => code_of_signing(error),
        }
    }

    /// As the other routes answer.
    #[must_use]
    pub fn response(&self) -> AdminResponse {
        AdminResponse::error(self.status_code(), &with_causes(self))
    }
}

fn code_of_store(error: &TrustError) -> StatusCode {
    match error {
        TrustError::Unknown { .. } => StatusCode::NOT_FOUND,
        TrustError::Full => StatusCode::CONFLICT,
        TrustError::Directory { .. } | TrustError::File { .. } => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn code_of_signing(error: &SigningError) -> StatusCode {
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

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        text = format!("{text}: {source}");
        cause = source.source();
    }
    text
}

fn fingerprint(text: &str) -> Result<Fingerprint, RouteError> {
    let shown = || text.chars().take(FINGERPRINT_CHARACTERS_SHOWN).collect();
    Fingerprint::parse(text).ok_or_else(|| RouteError::Fingerprint(shown()))
}

fn audited(change: &'static str, certificates: &[Certificate]) -> Vec<NamedCertificate> {
    for certificate in certificates {
        info!(
            target: AUDIT,
            change,
            subject = certificate.subject,
            fingerprint = %certificate.fingerprint,
            "certificates changed"
        );
    }
    certificates.iter().map(NamedCertificate::of).collect()
}

const AUDIT: &str = "audit";
const HOST_BYTES_MAX: usize = 253;
const FINGERPRINT_CHARACTERS_SHOWN: usize = 100;
