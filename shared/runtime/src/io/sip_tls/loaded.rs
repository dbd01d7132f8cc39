//! What the files of a listener's TLS held when they were read last, as the configurations that it makes.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::{Authorities, SipTlsSettings};
use crate::config::TlsFiles;
use crate::io::certificates::{IdentityFiles, StoredCertificate, TrustStore};
use crate::io::environment::TlsClock;
use crate::io::sip_client_verifier::SipClientVerifier;
use crate::io::tls::{SIP_VERSIONS, TlsError, Trust, load_pair, provider};
use tandem_certificate::{Certificate, read_bundle};

/// What is in force.
#[derive(Debug)]
pub(in crate::io) struct Loaded {
    pub(super) server: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    verifier: Arc<SipClientVerifier>,
    /// Ours first.
    pub(in crate::io) chain: Vec<Certificate>,
    pub(in crate::io) authorities: Vec<StoredCertificate>,
}

impl Loaded {
    pub(super) fn read(settings: &SipTlsSettings, store: Option<&TrustStore>) -> Result<Self, TlsError> {
        let files = &settings.files;
        let own = own_pair(settings)?;
        let (trust, authorities) = match settings.authorities {
            Authorities::File => (Trust::load(files)?, authorities_of_file(files)),
            Authorities::Directory => {
                let stored = store.map_or_else(Vec::new, TrustStore::list);
                (Trust::with_authority(roots_of(&stored), files)?, stored)
            }
        };
        let verifier = Arc::new(SipClientVerifier::new(settings, &trust)?);
        let chain = own.iter().flat_map(|own| &own.cert);
        Ok(Self {
            chain: chain.filter_map(|der| Certificate::parse(der).ok()).collect(),
            server: server_config(settings, own.clone(), verifier.clone())?,
            client: client_config(files, own, &trust)?,
            verifier,
            authorities,
        })
    }

    /// As [`SipClientVerifier::has_revoked`].
    pub(in crate::io) fn has_revoked(
        &self,
        chain: &[CertificateDer<'_>],
        serial: &[u8],
        now: UnixTime,
    ) -> bool {
        self.verifier.has_revoked(chain, serial, now)
    }
}

pub(super) fn identity_files(files: &TlsFiles) -> IdentityFiles {
    IdentityFiles {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
    }
}

fn own_pair(settings: &SipTlsSettings) -> Result<Option<Arc<CertifiedKey>>, TlsError> {
    let files = &settings.files;
    let may_be_missing = settings.authorities == Authorities::Directory;
    if may_be_missing && !files.certificate.exists() {
        return Ok(None);
    }
    let identity = identity_files(files);
    if identity.has_request() {
        // Finishes what was begun when this machine went down; whether it can be used is told below.
        drop(identity.load());
    }
    load_pair(files).map(Some)
}

/// For display: what counts is what [`Trust`] made of the same file.
fn authorities_of_file(files: &TlsFiles) -> Vec<StoredCertificate> {
    let bytes = std::fs::read(&files.authority).unwrap_or_default();
    let certificates = read_bundle(&bytes).unwrap_or_default();
    let stored = certificates.into_iter().map(|certificate| StoredCertificate {
        certificate,
        file: files.authority.clone(),
    });
    stored.collect()
}

/// A certificate that is no authority's would sign others here: it counts for nothing.
fn roots_of(stored: &[StoredCertificate]) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let authorities = stored.iter().filter(|stored| stored.certificate.is_authority);
    roots.add_parsable_certificates(authorities.map(|stored| stored.certificate.der.clone()));
    roots
}

fn server_config(
    settings: &SipTlsSettings,
    own: Option<Arc<CertifiedKey>>,
    verifier: Arc<SipClientVerifier>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let chosen = settings.cipher_suites.iter().map(|name| name.0);
    let mut provider = (*provider()).clone();
    if !settings.cipher_suites.is_empty() {
        provider.cipher_suites = chosen.collect();
    }
    let builder = ServerConfig::builder_with_details(Arc::new(provider), Arc::new(TlsClock))
        .with_protocol_versions(SIP_VERSIONS)
        .map_err(|source| TlsError::CipherSuites { source })?
        .with_client_cert_verifier(verifier);
    Ok(Arc::new(match own {
        Some(own) => builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new())),
    }))
}

fn client_config(
    files: &TlsFiles,
    own: Option<Arc<CertifiedKey>>,
    trust: &Trust,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_details(provider(), Arc::new(TlsClock))
        .with_protocol_versions(SIP_VERSIONS)
        .expect("ring supports every version we name");
    let builder = match trust.authority().is_empty() {
        true => builder.with_root_certificates(RootCertStore::empty()),
        false => builder.with_webpki_verifier(trust.server_verifier(files)?),
    };
    Ok(Arc::new(match own {
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own))),
        None => builder.with_no_client_auth(),
    }))
}
