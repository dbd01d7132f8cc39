//! Admin routes for the certificates of TLS listeners (RCC-9): JSON below `/listeners/NAME/certificates`.
//!
//! Every change takes effect with the next handshake and is logged under the target `audit`. Established connections
//! continue.

use std::collections::BTreeMap;
use std::sync::Arc;

use percent_encoding::percent_decode_str;
use serde::Serialize;
use tandem_certificate::Status;
use tandem_runtime::io::admin::{AdminRequest, AdminResponse, Method, Router, StatusCode};
use tandem_runtime::io::certificates::{
    CertificateRouteError, NamedCertificate, ProblemView, RemoveBody, RequestView, SignedView,
    SigningRequest, TrustedView, UploadedFile, audit_request, audited, with_causes,
};
use tandem_runtime::io::environment;
use tandem_runtime::io::sip_certificates::SipTlsChangeError;
use tandem_runtime::io::sip_tls::SipTls;
use thiserror::Error;

/// Serves the routes of all TLS listeners, by listener name.
#[derive(Debug, Clone, Default)]
pub struct CertificateRoutes {
    listeners: Arc<BTreeMap<String, SipTls>>,
}

impl CertificateRoutes {
    #[must_use]
    pub fn new(listeners: BTreeMap<String, SipTls>) -> Self {
        Self {
            listeners: Arc::new(listeners),
        }
    }

    /// The handler for every path that is not built in.
    #[must_use]
    pub fn router(self) -> Router {
        Arc::new(move |request| {
            let routes = self.clone();
            Box::pin(async move {
                // Files are written and synced, which would hold up the connections of this thread.
                let answered = environment::blocking(move || routes.answer(&request)).await;
                answered.unwrap_or_else(|_| {
                    AdminResponse::error(StatusCode::INTERNAL_SERVER_ERROR, "the request was not completed")
                })
            })
        })
    }

    fn answer(&self, request: &AdminRequest) -> AdminResponse {
        let Some((name, verb)) = listener_and_verb(&request.path) else {
            return AdminResponse::not_found();
        };
        let Some(tls) = self.listeners.get(&name) else {
            let text = format!("no TLS listener is named {name:?}");
            return AdminResponse::error(StatusCode::NOT_FOUND, &text);
        };
        let listener = Listener { name: &name, tls };
        match (&request.method, verb) {
            (&Method::GET, "") => AdminResponse::json(StatusCode::OK, &CertificatesView::of(tls)),
            (&Method::POST, "upload") => answered(request, |file| listener.upload(&file)),
            (&Method::POST, "remove") => answered(request, |body| listener.remove(&body)),
            (&Method::POST, "csr") => answered(request, |wanted| listener.csr(&wanted)),
            (&Method::POST, "signed") => answered(request, |file| listener.signed(&file)),
            (_, "" | "upload" | "remove" | "csr" | "signed") => AdminResponse::method_not_allowed(),
            (_, _) => AdminResponse::not_found(),
        }
    }
}

/// Splits `/listeners/NAME/certificates` or `/listeners/NAME/certificates/VERB` into name and verb.
fn listener_and_verb(path: &str) -> Option<(String, &str)> {
    let (name, rest) = path.strip_prefix("/listeners/")?.split_once('/')?;
    let name = percent_decode_str(name).decode_utf8().ok()?.into_owned();
    let verb = match rest.strip_prefix("certificates")? {
        "" => "",
        below => below.strip_prefix('/').filter(|verb| !verb.is_empty())?,
    };
    Some((name, verb))
}

fn answered<B, V>(request: &AdminRequest, change: impl FnOnce(B) -> Result<V, RouteError>) -> AdminResponse
where
    B: serde::de::DeserializeOwned,
    V: Serialize,
{
    match request.json::<B>() {
        Ok(body) => match change(body) {
            Ok(view) => AdminResponse::json(StatusCode::OK, &view),
            Err(error) => error.response(),
        },
        Err(refusal) => refusal,
    }
}

/// The routes of one listener.
struct Listener<'a> {
    name: &'a str,
    tls: &'a SipTls,
}

impl Listener<'_> {
    /// `POST …/upload`: trusts authorities, so that clients with their certificates may connect.
    fn upload(&self, file: &UploadedFile) -> Result<Vec<NamedCertificate>, RouteError> {
        let added = self.tls.trust(&file.certificates()?)?;
        Ok(audited(self.name, "authority trusted", &added))
    }

    /// `POST …/remove`: stops trusting an authority, so that clients with its certificates may no longer connect.
    fn remove(&self, body: &RemoveBody) -> Result<Vec<NamedCertificate>, RouteError> {
        let removed = self.tls.distrust(body.fingerprint()?)?;
        Ok(audited(self.name, "authority no longer trusted", &[removed]))
    }

    /// `POST …/csr`: creates a certificate signing request for the listener. The key does not leave the machine.
    fn csr(&self, wanted: &SigningRequest) -> Result<RequestView, RouteError> {
        let request_pem = self.tls.request_certificate(wanted)?;
        audit_request(self.name, &wanted.common_name, &wanted.names);
        Ok(RequestView { request_pem })
    }

    /// `POST …/signed`: installs the signed certificate for the handshakes that follow.
    fn signed(&self, file: &UploadedFile) -> Result<InstalledView, RouteError> {
        let installed = self.tls.install_certificate(&file.bytes()?)?;
        let signed = SignedView {
            chain: audited(self.name, "listener certificate installed", &installed.chain),
            completeness: installed.completeness,
        };
        Ok(InstalledView {
            signed,
            verdict: VerdictView::of(self.tls),
        })
    }
}

#[derive(Debug, Serialize)]
struct CertificatesView {
    trusted: Vec<TrustedView>,
    problems: Vec<ProblemView>,
    own: OwnView,
}

impl CertificatesView {
    fn of(tls: &SipTls) -> Self {
        Self {
            trusted: tls.authorities().iter().map(TrustedView::of).collect(),
            problems: tls.problems().into_iter().map(ProblemView::of).collect(),
            own: OwnView {
                chain: tls.chain().iter().map(NamedCertificate::of).collect(),
                requested: tls.has_request(),
                verdict: VerdictView::of(tls),
            },
        }
    }
}

#[derive(Debug, Serialize)]
struct OwnView {
    chain: Vec<NamedCertificate>,
    /// A signing request is waiting for its certificate.
    requested: bool,
    #[serde(flatten)]
    verdict: VerdictView,
}

#[derive(Debug, Serialize)]
struct InstalledView {
    #[serde(flatten)]
    signed: SignedView,
    #[serde(flatten)]
    verdict: VerdictView,
}

/// The status of the listener's certificate, as in CAL-6, and what to do about it.
#[derive(Debug, Serialize)]
struct VerdictView {
    status: Status,
    explanation: String,
}

impl VerdictView {
    fn of(tls: &SipTls) -> Self {
        let verdict = tls.own_verdict();
        Self {
            status: verdict.status,
            explanation: verdict.explanation,
        }
    }
}

#[derive(Debug, Error)]
enum RouteError {
    #[error(transparent)]
    Body(#[from] CertificateRouteError),
    #[error(transparent)]
    Change(#[from] SipTlsChangeError),
}

impl RouteError {
    /// The answer `{"error": TEXT, "status": STATUS}`, where the status is one of CAL-6.
    fn response(&self) -> AdminResponse {
        let status = match self {
            Self::Body(error) => error.status_code(),
            Self::Change(error) => error.status_code(),
        };
        let view = ErrorView {
            error: with_causes(self),
            status: match self {
                Self::Body(_) => Status::BadCertificates,
                Self::Change(error) => error.certificate_status(),
            },
        };
        AdminResponse::json(status, &view)
    }
}

#[derive(Debug, Serialize)]
struct ErrorView {
    error: String,
    status: Status,
}
