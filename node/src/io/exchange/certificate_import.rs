//! Imports trust from a live host: the certificates that it sent, and the issuers that it should have sent.
//!
//! Only certificates that an administrator has named by fingerprint are installed. Issuers are fetched from the address
//! that a certificate gives for its issuer (RFC 5280 §4.2.2.1), only here and never for a connection to a CAS: over
//! plain HTTP, bounded in time, size and depth, and not from addresses that a foreign certificate should not make us
//! connect to.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper::header::{ACCEPT, CONNECTION, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls_pki_types::UnixTime;
use tandem_certificate::{AlgorithmPolicy, Certificate, Fingerprint, is_issued_by, read_bundle};
use tandem_cluster::CasEndpoint;
use tandem_runtime::io::certificates::TrustError;
use tandem_runtime::io::environment::net::TcpStream;
use thiserror::Error;
use tokio::time::timeout;

use super::certificate_probe::{ProbeOptions, ProbeReport, meet, resolve};
use super::trust::CasTrust;
use tandem_exchange::certificate::{Met, lacks_issuer, offered};

pub use tandem_exchange::certificate::{FetchFrom, Offered};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportOptions {
    pub probe: ProbeOptions,
    pub from: FetchFrom,
    /// For one issuer: resolving its name, connecting, and the answer.
    pub fetch_timeout: Duration,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            probe: ProbeOptions::default(),
            from: FetchFrom::Internet,
            fetch_timeout: Duration::from_secs(5),
        }
    }
}

/// The certificates that a host offers. None of them is installed.
#[derive(Debug)]
pub struct Offer {
    pub report: ProbeReport,
    /// The certificates it sent, in its order, then those that were fetched.
    pub certificates: Vec<Offered>,
    /// Why an issuer could not be fetched.
    pub notes: Vec<String>,
}

/// Shows what could be installed.
pub async fn show(store: &CasTrust, endpoint: &CasEndpoint, options: ImportOptions) -> Offer {
    let met = meet(endpoint, options.probe).await;
    let (fetched, notes) = fetch_missing(store, endpoint, &met, options).await;
    let trusted = store.trusted();
    let certificates = offered(&met.sent, &fetched, &trusted);
    Offer {
        report: met.report(endpoint, &fetched, &trusted, UnixTime::now()),
        certificates,
        notes,
    }
}

/// Asks the host again, installs the certificates with these fingerprints, and returns the new ones.
///
/// # Errors
/// If one of them is no longer offered, or the store cannot be changed; then none is installed.
pub async fn accept(
    store: &CasTrust,
    endpoint: &CasEndpoint,
    fingerprints: &[Fingerprint],
    options: ImportOptions,
) -> Result<Vec<Certificate>, ImportError> {
    let offer = show(store, endpoint, options).await;
    let mut accepted = Vec::new();
    for fingerprint in fingerprints {
        let found = offer
            .certificates
            .iter()
            .find(|offered| offered.certificate.fingerprint == *fingerprint);
        let offered = found.ok_or_else(|| ImportError::NotOffered {
            host: endpoint.host.clone(),
            fingerprint: *fingerprint,
        })?;
        accepted.push(offered.certificate.clone());
    }
    Ok(store.add(&accepted)?)
}

#[derive(Debug, Error)]
pub enum ImportError {
    #[error(
        "{host} does not offer a certificate with the SHA-256 fingerprint {fingerprint}: show the offer again"
    )]
    NotOffered { host: String, fingerprint: Fingerprint },
    #[error(transparent)]
    Store(#[from] TrustError),
}

/// Upwards from where the chain breaks, until it is complete or no further issuer is known.
async fn fetch_missing(
    store: &CasTrust,
    endpoint: &CasEndpoint,
    met: &Met,
    options: ImportOptions,
) -> (Vec<Certificate>, Vec<String>) {
    let (mut fetched, mut notes) = (Vec::new(), Vec::new());
    let Some(presented) = met.presented(endpoint) else {
        return (fetched, notes);
    };
    let policy = AlgorithmPolicy::of(endpoint.legacy_algorithms);
    for _ in 0..DEPTH_MAX {
        let trusted = store.trusted();
        let Some(holder) = lacks_issuer(presented, &fetched, &trusted, policy, UnixTime::now()) else {
            break;
        };
        match fetch_issuer(&holder, options, &mut notes).await {
            Some(issuer) => fetched.push(issuer),
            None => break,
        }
    }
    (fetched, notes)
}

async fn fetch_issuer(
    holder: &Certificate,
    options: ImportOptions,
    notes: &mut Vec<String>,
) -> Option<Certificate> {
    for url in &holder.issuer_urls {
        let fetching = timeout(options.fetch_timeout, fetch(url, options.from));
        let certificates = match fetching.await {
            Ok(Ok(certificates)) => certificates,
            Ok(Err(error)) => {
                notes.push(format!("{url}: {error}"));
                continue;
            }
            Err(_) => {
                notes.push(format!(
                    "{url}: no answer within {} s",
                    options.fetch_timeout.as_secs()
                ));
                continue;
            }
        };
        let issuer = certificates
            .into_iter()
            .find(|candidate| is_issued_by(holder, candidate));
        if issuer.is_some() {
            return issuer;
        }
        notes.push(format!(
            "{url}: the certificate there did not issue \"{}\"",
            holder.short_name()
        ));
    }
    None
}

async fn fetch(url: &str, from: FetchFrom) -> Result<Vec<Certificate>, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::NotHttp)?;
    let plain = uri.scheme_str() == Some("http");
    let authority = uri.authority().filter(|_| plain).ok_or(FetchError::NotHttp)?;
    if authority.as_str().contains('@') {
        return Err(FetchError::NotHttp);
    }
    let host = uri.host().ok_or(FetchError::NotHttp)?;
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let address = allowed_address(bare, uri.port_u16().unwrap_or(80), from).await?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let body = get(address, authority.as_str(), path).await?;
    read_bundle(&body).map_err(|error| FetchError::Content(error.to_string()))
}

/// Connects to the very address that was checked, so a name that changes its address gains nothing.
async fn allowed_address(host: &str, port: u16, from: FetchFrom) -> Result<SocketAddr, FetchError> {
    let addresses = resolve(host, port, ImportOptions::default().fetch_timeout)
        .await
        .map_err(|trouble| FetchError::Network(trouble.explain(host, port)))?;
    let allowed = addresses
        .iter()
        .find(|address| FetchFrom::needed_for(address.ip()).is_some_and(|needed| needed <= from));
    match (allowed, addresses.first()) {
        (Some(address), _) => Ok(*address),
        (None, Some(address)) => Err(FetchError::Forbidden {
            address: address.ip(),
        }),
        (None, None) => Err(FetchError::Network(format!("{host} has no address"))),
    }
}

/// Redirects are not followed.
async fn get(address: SocketAddr, authority: &str, path: &str) -> Result<Bytes, FetchError> {
    let network = |error: &dyn fmt::Display| FetchError::Network(error.to_string());
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| network(&error))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| network(&error))?;
    let request = Request::get(path)
        .header(HOST, authority)
        .header(ACCEPT, "application/pkix-cert, application/pkcs7-mime")
        .header(CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| network(&error))?;
    let exchange = async {
        let response = sender
            .send_request(request)
            .await
            .map_err(|error| network(&error))?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Answer(response.status()));
        }
        let body = Limited::new(response.into_body(), ISSUER_BYTES_MAX)
            .collect()
            .await;
        body.map(|body| body.to_bytes()).map_err(|_| FetchError::TooLarge)
    };
    tokio::pin!(connection, exchange);
    tokio::select! {
        biased;
        body = &mut exchange => body,
        _ = &mut connection => exchange.await,
    }
}

#[derive(Debug, Error)]
enum FetchError {
    #[error("issuers are fetched by plain HTTP only")]
    NotHttp,
    #[error(
        "issuers are not fetched from {address}: allow private addresses for this import if that is your own authority"
    )]
    Forbidden { address: IpAddr },
    #[error("{0}")]
    Network(String),
    #[error("the answer is {0}")]
    Answer(StatusCode),
    #[error("the connection was lost, or the answer is larger than {} KiB", ISSUER_BYTES_MAX >> 10)]
    TooLarge,
    #[error("{0}")]
    Content(String),
}

/// How many issuers are followed.
const DEPTH_MAX: usize = 4;
const ISSUER_BYTES_MAX: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_plain_http_without_a_user_is_fetched() {
        for url in [
            "https://ca.example/ca.cer",
            "ldap:///CN=ca",
            "file:///ca.cer",
            "http://user@127.0.0.1/",
            "ca.cer",
            "",
        ] {
            let error = fetch(url, FetchFrom::Loopback).await.unwrap_err();
            assert!(matches!(error, FetchError::NotHttp), "{url}: {error}");
        }
        let error = fetch("http://127.0.0.1:9/ca.cer", FetchFrom::PrivateNetworks)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("not fetched from 127.0.0.1"),
            "{error}"
        );
    }
}
