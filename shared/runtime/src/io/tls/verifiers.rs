//! By what the certificates of peers are judged, and whether peers would accept ours.

use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use webpki::{BorrowedCertRevocationList, CertRevocationList};

use super::errors::TlsError;
use super::files::{load_authority, load_certificates, load_revoked};
use super::{load_pair, provider};
use crate::certificate_holder::{parse_certificate, peer_server_name};
use crate::config::{ClusterSection, PeerSecurity, TlsFiles};
use crate::io::environment;
use tandem_cluster::NodeId;

/// Whether other members would accept our certificate now, at both ends of a connection: it is of the authority that we
/// trust ourselves, is valid, may be used by servers and clients, and names member `id` of this cluster. Tells when it ends,
/// in seconds of Unix time.
///
/// # Errors
/// As [`super::peer_server_config`], and when the certificate would not be accepted, with the reason.
pub fn check_member_certificate(files: &TlsFiles, id: NodeId, cluster_name: &str) -> Result<u64, TlsError> {
    let chain = load_certificates(&files.certificate)?;
    let own = chain.first().ok_or_else(|| TlsError::NoCertificate {
        path: files.certificate.clone(),
    })?;
    let verifier = PeerVerifier::load(files)?;
    let not_accepted = |role| {
        move |source| TlsError::NotAccepted {
            path: files.certificate.clone(),
            role,
            source: Box::new(source),
        }
    };
    let name = peer_server_name(id, cluster_name)
        .map_err(|_| not_accepted("as a server")(rustls::Error::UnsupportedNameType))?;
    verifier
        .check_server(&chain, &name)
        .map_err(not_accepted("as a server's"))?;
    verifier
        .check_client(&chain)
        .map_err(not_accepted("as a client's"))?;
    ends(own, &files.certificate)
}

fn ends(certificate: &CertificateDer<'_>, path: &Path) -> Result<u64, TlsError> {
    let parsed = parse_certificate(certificate).map_err(|source| TlsError::DamagedCertificate {
        path: path.to_path_buf(),
        source,
    })?;
    Ok(u64::try_from(parsed.validity().not_after.timestamp()).unwrap_or(0))
}

/// Judges certificates of peers by the authorities and revocation lists that the files held when they were read.
#[derive(Debug, Clone)]
pub struct PeerVerifier {
    as_server: Arc<WebPkiServerVerifier>,
    as_client: Arc<dyn ClientCertVerifier>,
}

impl PeerVerifier {
    /// # Errors
    /// As [`super::peer_server_config`].
    pub fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let trust = Trust::load(files)?;
        Ok(Self {
            as_server: trust.server_verifier(files)?,
            as_client: trust.client_verifier(files)?,
        })
    }

    /// Whether a server of this name may show these certificates now, its own first.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check_server(
        &self,
        chain: &[CertificateDer<'_>],
        name: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        let (own, issuers) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let verified = self
            .as_server
            .verify_server_cert(own, issuers, name, &[], environment::tls_time());
        verified.map(drop)
    }

    /// Whether a client may show these certificates now, its own first.
    ///
    /// # Errors
    /// The reason why not.
    pub fn check_client(&self, chain: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let (own, issuers) = chain
            .split_first()
            .ok_or(rustls::Error::NoCertificatesPresented)?;
        let verified = self
            .as_client
            .verify_client_cert(own, issuers, environment::tls_time());
        verified.map(drop)
    }
}

impl ClusterSection {
    /// Whether other members would accept this member's certificate now, and its key belongs to it; nothing to check in
    /// plaintext.
    ///
    /// # Errors
    /// As [`check_member_certificate`], and when the key cannot be used.
    pub fn check_certificate(&self, id: NodeId) -> Result<(), TlsError> {
        match &self.security {
            PeerSecurity::MutualTls(files) => {
                load_pair(files)?;
                check_member_certificate(files, id, &self.name).map(drop)
            }
            PeerSecurity::PlaintextOnLoopback => Ok(()),
        }
    }
}

/// By what certificates of peers are judged.
pub(in crate::io) struct Trust {
    authority: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Trust {
    pub(in crate::io) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::with_authority(load_authority(&files.authority)?, files)
    }

    /// By these authorities, instead of those in the files.
    pub(in crate::io) fn with_authority(
        authority: RootCertStore,
        files: &TlsFiles,
    ) -> Result<Self, TlsError> {
        let revoked = match &files.revocation_list {
            Some(path) => load_revoked(path)?,
            None => Vec::new(),
        };
        Ok(Self {
            authority: Arc::new(authority),
            revoked,
        })
    }

    pub(in crate::io) fn authority(&self) -> &Arc<RootCertStore> {
        &self.authority
    }

    pub(in crate::io) fn revoked(
        &self,
        files: &TlsFiles,
    ) -> Result<Vec<CertRevocationList<'static>>, TlsError> {
        let parsed = self.revoked.iter().map(|list| {
            let list = BorrowedCertRevocationList::from_der(list)?;
            list.to_owned().map(CertRevocationList::from)
        });
        let parsed: Result<Vec<_>, webpki::Error> = parsed.collect();
        parsed.map_err(|reason| TlsError::DamagedRevocationList {
            path: files.revocation_list.clone().unwrap_or_default(),
            reason: reason.to_string(),
        })
    }

    pub(in crate::io) fn server_verifier(
        &self,
        files: &TlsFiles,
    ) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        WebPkiServerVerifier::builder_with_provider(self.authority.clone(), provider())
            .with_crls(self.revoked.clone())
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| unusable(files, &error))
    }

    pub(in crate::io) fn client_verifier(
        &self,
        files: &TlsFiles,
    ) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        WebPkiClientVerifier::builder_with_provider(self.authority.clone(), provider())
            .with_crls(self.revoked.clone())
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| unusable(files, &error))
    }
}

fn unusable(files: &TlsFiles, error: &VerifierBuilderError) -> TlsError {
    match (error, &files.revocation_list) {
        (VerifierBuilderError::InvalidCrl(reason), Some(path)) => TlsError::DamagedRevocationList {
            path: path.clone(),
            reason: format!("{reason:?}"),
        },
        _ => TlsError::NotAnAuthority {
            path: files.authority.clone(),
        },
    }
}
