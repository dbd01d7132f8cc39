//! Administration of certificates over HTTP: JSON in, JSON out.
//!
//! Each function is one route below `/exchange/certificates`. Every change is logged under the target
//! `audit`.

use serde::{Deserialize, Serialize};
use tandem_cluster::{CasEndpoint, CasId};
use tandem_runtime::io::admin::{AdminResponse, StatusCode};
use tandem_runtime::io::certificates::{
    CertificateRouteError, NamedCertificate, ProblemView, RemoveBody, RequestView, SignedView,
    SigningRequest, TrustedView, UploadedFile, audit_request, audited, error_response, fingerprint,
    status_code_of_store,
};
use thiserror::Error;

use super::certificate_import::{self, FetchFrom, ImportError, ImportOptions, Offered};
use super::certificate_probe::{ProbeReport, probe};
use super::signing::ServingIdentity;
use super::trust::CasTrust;
use tandem_exchange::certificate::Source;

/// What the routes work on.
#[derive(Debug, Clone)]
pub struct CertificateRoutes {
    pub store: CasTrust,
    /// Absent while callbacks come over plain HTTP.
    pub identity: Option<ServingIdentity>,
    pub options: ImportOptions,
}

impl CertificateRoutes {
    /// `POST …/diagnose`: connects to the host and reports what is wrong.
    ///
    /// # Errors
    /// If the body names no host.
    pub async fn diagnose(&self, body: EndpointBody) -> Result<ProbeReport, RouteError> {
        let endpoint = body.endpoint()?;
        Ok(probe(&self.store, &endpoint, self.options.probe).await)
    }

    /// `GET …`: what is trusted, what could not be read, and our own certificate.
    #[must_use]
    pub fn list(&self) -> CertificatesView {
        CertificatesView {
            trusted: self.store.list().iter().map(TrustedView::of).collect(),
            problems: self.store.problems().into_iter().map(ProblemView::of).collect(),
            own: self.identity.as_ref().map(OwnView::of),
        }
    }

    /// `POST …/upload`: trusts the certificates of a file.
    ///
    /// # Errors
    /// If there is none in it, or the store cannot be changed.
    pub fn upload(&self, file: &UploadedFile) -> Result<Vec<NamedCertificate>, RouteError> {
        let added = self.store.add(&file.certificates()?);
        Ok(audited(
            HOLDER,
            "trusted by upload",
            &added.map_err(CertificateRouteError::from)?,
        ))
    }

    /// `POST …/import`: without fingerprints, shows what the host offers; with fingerprints, installs those.
    ///
    /// # Errors
    /// If the body names no host or invalid fingerprints, or the host offers other certificates.
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
            installed: audited(HOLDER, "trusted by import", &installed),
            report: probe(&self.store, &endpoint, options.probe).await,
        })
    }

    /// `POST …/remove`: stops trusting a certificate.
    ///
    /// # Errors
    /// If there is no such certificate, or the store cannot be changed.
    pub fn remove(&self, body: &RemoveBody) -> Result<Vec<NamedCertificate>, RouteError> {
        let removed = self.store.remove(body.fingerprint()?);
        let removed = removed.map_err(CertificateRouteError::from)?;
        Ok(audited(HOLDER, "trusted no longer", &[removed]))
    }

    /// `POST …/csr`: a signing request for our own certificate. The key never leaves this machine.
    ///
    /// # Errors
    /// If callbacks come over plain HTTP, or the request cannot be made.
    pub fn csr(&self, body: &SigningRequest) -> Result<RequestView, RouteError> {
        let request_pem = self.identity()?.create_request(body);
        let request_pem = request_pem.map_err(CertificateRouteError::from)?;
        audit_request(HOLDER, &body.common_name, &body.names);
        Ok(RequestView { request_pem })
    }

    /// `POST …/signed`: installs the signed certificate, which is used from the next connection on.
    ///
    /// # Errors
    /// If it is for another key, or cannot be read or stored.
    pub fn signed(&self, file: &UploadedFile) -> Result<SignedView, RouteError> {
        let installed = self.identity()?.install(&file.bytes()?);
        let installed = installed.map_err(CertificateRouteError::from)?;
        Ok(SignedView {
            chain: audited(HOLDER, "our certificate installed", &installed.chain),
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
    /// Issuers may be fetched from private addresses, because the authority is the company's own.
    #[serde(default)]
    pub private_addresses: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CertificatesView {
    pub trusted: Vec<TrustedView>,
    pub problems: Vec<ProblemView>,
    pub own: Option<OwnView>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OwnView {
    pub chain: Vec<NamedCertificate>,
    /// A signing request awaits its certificate.
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

#[derive(Debug, Error)]
pub enum RouteError {
    #[error("host must be an FQDN, an IPv4 or an IPv6 address")]
    Host,
    #[error("callbacks come over plain HTTP: configure certificate and key in [exchange.push] first")]
    NoIdentity,
    #[error(transparent)]
    Certificates(#[from] CertificateRouteError),
    #[error(transparent)]
    Import(#[from] ImportError),
}

impl RouteError {
    /// The HTTP status, which says whose fault it is.
    #[must_use]
    pub fn status_code(&self) -> StatusCode {
        match self {
            Self::Host => StatusCode::BAD_REQUEST,
            Self::NoIdentity | Self::Import(ImportError::NotOffered { .. }) => StatusCode::CONFLICT,
            Self::Import(ImportError::Store(error)) => status_code_of_store(error),
            Self::Certificates(error) => error.status_code(),
        }
    }

    /// As the other routes answer.
    #[must_use]
    pub fn response(&self) -> AdminResponse {
        error_response(self.status_code(), self)
    }
}

/// Whose certificates these are, in the log.
const HOLDER: &str = "exchange";
const HOST_BYTES_MAX: usize = 253;
