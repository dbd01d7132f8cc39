//! rustls configurations from PEM files, and who a verified certificate says its holder is.
//!
//! Files are read and checked when a configuration is built, so that what is wrong with them is said at the start
//! and not at the first handshake.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use thiserror::Error;
use webpki::{BorrowedCertRevocationList, CertRevocationList};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::{ClusterSection, PeerSecurity, TlsFiles};
use tandem_cluster::NodeId;
use tandem_sip::proxy_protocol::PeerIdentity;

use super::certificates::TrustError;
use super::environment::{self, TlsClock};

/// For the peer listener: TLS 1.3 only, and the peer must show a certificate of our authority.
///
/// # Errors
/// When a file cannot be used; see [`TlsError`].
pub fn peer_server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    server_config(files, PEER_VERSIONS)
}

/// For connections to peers. Connect with [`peer_server_name`] of the node that is meant: the handshake then checks
/// that it is that node which answers.
///
/// # Errors
/// As [`peer_server_config`].
pub fn peer_client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(files, PEER_VERSIONS)
}

/// For SIP connections that are made with these files.
///
/// # Errors
/// As [`peer_server_config`].
pub fn sip_client_config(files: &TlsFiles) -> Result<Arc<ClientConfig>, TlsError> {
    client_config(files, SIP_VERSIONS)
}

/// Our certificate and its key, for either end of a connection.
pub(super) fn load_pair(files: &TlsFiles) -> Result<Arc<CertifiedKey>, TlsError> {
    let (certificates, key) = (load_certificates(&files.certificate)?, load_key(&files.key)?);
    CertifiedKey::from_der(certificates, key, &provider())
        .map(Arc::new)
        .map_err(|source| mismatch(files, source))
}

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

/// The certificate is not one that we can read.
#[derive(Debug, Clone, Error)]
#[error("the certificate cannot be read: {reason}")]
pub struct CertificateError {
    reason: String,
}

/// Whether other members would accept our certificate now, at both ends of a connection: it is of the authority that we
/// trust ourselves, is valid, may be used by servers and clients, and names member `id` of this cluster. Tells when it ends,
/// in seconds of Unix time.
///
/// # Errors
/// As [`peer_server_config`], and when the certificate would not be accepted, with the reason.
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
    /// As [`peer_server_config`].
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
    /// Whether other members would accept this member's certificate now; nothing to check in plaintext.
    ///
    /// # Errors
    /// As [`check_member_certificate`].
    pub fn check_certificate(&self, id: NodeId) -> Result<(), TlsError> {
        match &self.security {
            PeerSecurity::MutualTls(files) => check_member_certificate(files, id, &self.name).map(drop),
            PeerSecurity::PlaintextOnLoopback => Ok(()),
        }
    }
}

fn server_config(
    files: &TlsFiles,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ServerConfig>, TlsError> {
    let material = Material::load(files)?;
    let config = ServerConfig::builder_with_details(provider(), Arc::new(TlsClock))
        .with_protocol_versions(versions)
        .expect("ring supports every version we name")
        .with_client_cert_verifier(material.trust.client_verifier(files)?)
        .with_single_cert(material.certificates, material.key)
        .map_err(|source| mismatch(files, source))?;
    Ok(Arc::new(config))
}

fn client_config(
    files: &TlsFiles,
    versions: &[&'static SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, TlsError> {
    let material = Material::load(files)?;
    let config = ClientConfig::builder_with_details(provider(), Arc::new(TlsClock))
        .with_protocol_versions(versions)
        .expect("ring supports every version we name")
        .with_webpki_verifier(material.trust.server_verifier(files)?)
        .with_client_auth_cert(material.certificates, material.key)
        .map_err(|source| mismatch(files, source))?;
    Ok(Arc::new(config))
}

pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
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

fn mismatch(files: &TlsFiles, source: rustls::Error) -> TlsError {
    TlsError::Mismatch {
        certificate: files.certificate.clone(),
        key: files.key.clone(),
        source,
    }
}

/// What the files hold, read and checked.
struct Material {
    certificates: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    trust: Trust,
}

impl Material {
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Ok(Self {
            certificates: load_certificates(&files.certificate)?,
            key: load_key(&files.key)?,
            trust: Trust::load(files)?,
        })
    }
}

/// By what certificates of peers are judged.
pub(super) struct Trust {
    authority: Arc<RootCertStore>,
    revoked: Vec<CertificateRevocationListDer<'static>>,
}

impl Trust {
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        Self::with_authority(load_authority(&files.authority)?, files)
    }

    /// By these authorities, instead of those in the files.
    pub(super) fn with_authority(authority: RootCertStore, files: &TlsFiles) -> Result<Self, TlsError> {
        let revoked = match &files.revocation_list {
            Some(path) => load_revoked(path)?,
            None => Vec::new(),
        };
        Ok(Self {
            authority: Arc::new(authority),
            revoked,
        })
    }

    pub(super) fn authority(&self) -> &Arc<RootCertStore> {
        &self.authority
    }

    pub(super) fn revoked(&self, files: &TlsFiles) -> Result<Vec<CertRevocationList<'static>>, TlsError> {
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

    pub(super) fn server_verifier(&self, files: &TlsFiles) -> Result<Arc<WebPkiServerVerifier>, TlsError> {
        WebPkiServerVerifier::builder_with_provider(self.authority.clone(), provider())
            .with_crls(self.revoked.clone())
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| unusable(files, &error))
    }

    pub(super) fn client_verifier(&self, files: &TlsFiles) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
        WebPkiClientVerifier::builder_with_provider(self.authority.clone(), provider())
            .with_crls(self.revoked.clone())
            .only_check_end_entity_revocation()
            .build()
            .map_err(|error| unusable(files, &error))
    }
}

fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<CertificateDer<'static>> = load_blocks(path)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_path_buf(),
        });
    }
    for certificate in &certificates {
        parse_certificate(certificate).map_err(|source| TlsError::DamagedCertificate {
            path: path.to_path_buf(),
            source,
        })?;
    }
    Ok(certificates)
}

/// OPS-6: a key that everybody may read is none.
fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    if let Ok(metadata) = std::fs::metadata(path) {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & OTHERS != 0 {
            let path = path.to_path_buf();
            return Err(TlsError::KeyExposed { path, mode });
        }
    }
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| {
        let path = path.to_path_buf();
        if matches!(source, rustls::pki_types::pem::Error::NoItemsFound) {
            TlsError::NoKey { path }
        } else {
            TlsError::NotPem { path, source }
        }
    })
}

fn load_authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        let is_authority = parse_certificate(&certificate).is_ok_and(|certificate| certificate.is_ca());
        if !is_authority || store.add(certificate).is_err() {
            return Err(TlsError::NotAnAuthority {
                path: path.to_path_buf(),
            });
        }
    }
    Ok(store)
}

fn load_revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists: Vec<CertificateRevocationListDer<'static>> = load_blocks(path)?;
    if lists.is_empty() {
        return Err(TlsError::NoRevocationList {
            path: path.to_path_buf(),
        });
    }
    Ok(lists)
}

/// All blocks of one kind; what else the file holds is passed over.
fn load_blocks<T: PemObject>(path: &Path) -> Result<Vec<T>, TlsError> {
    let blocks: Result<Vec<T>, _> = T::pem_slice_iter(&read(path)?).collect();
    blocks.map_err(|source| TlsError::NotPem {
        path: path.to_path_buf(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_path_buf(),
        source,
    })
}

pub(super) fn parse_certificate<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(CertificateError {
            reason: error.to_string(),
        }),
    }
}

/// The name that stands in the certificate of a cluster member: `n1.main.tandem`.
#[must_use]
pub fn member_name(id: NodeId, cluster_name: &str) -> String {
    format!("{id}.{cluster_name}.tandem")
}

/// As [`member_name`], to connect with.
///
/// # Errors
/// When the cluster's name is not a DNS label; `config::ClusterSection` sees to it that it is.
pub fn peer_server_name(
    id: NodeId,
    cluster_name: &str,
) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from(member_name(id, cluster_name))
}

/// Whether the holder of a verified certificate is member `id` of this cluster.
///
/// # Errors
/// Tells the name that was expected and those that the certificate has.
pub fn check_peer(
    certificate: &CertificateDer<'_>,
    id: NodeId,
    cluster_name: &str,
) -> Result<(), PeerRefused> {
    let expected = member_name(id, cluster_name);
    let found = peer_identity(certificate)?.subject_alternative_names;
    if found.iter().any(|name| name.eq_ignore_ascii_case(&expected)) {
        Ok(())
    } else {
        Err(PeerRefused::OtherName { expected, found })
    }
}

#[derive(Debug, Clone, Error)]
pub enum PeerRefused {
    #[error(transparent)]
    Unreadable(#[from] CertificateError),
    #[error("the certificate names {found:?} and not {expected}: issue one whose DNS names contain it")]
    OtherName { expected: String, found: Vec<String> },
}

/// Who a certificate, which the handshake has verified, says its holder is: its CN, and its DNS names, URIs and
/// addresses as text.
///
/// # Errors
/// When the certificate cannot be read.
pub fn peer_identity(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, CertificateError> {
    let certificate = parse_certificate(certificate)?;
    let common_name = certificate.subject().iter_common_name().next();
    let common_name = common_name.and_then(|name| name.as_str().ok()).map(str::to_owned);
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| CertificateError {
            reason: error.to_string(),
        })?;
    let names = extension.map(|extension| {
        extension
            .value
            .general_names
            .iter()
            .filter_map(name_text)
            .collect()
    });
    Ok(PeerIdentity {
        common_name,
        subject_alternative_names: names.unwrap_or_default(),
    })
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => address_text(bytes),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    }
}

fn address_text(bytes: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(octets).to_string());
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(octets).to_string())
}

static PEER_VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
/// Of every permission, those of neither owner nor group.
const OTHERS: u32 = 0o007;
pub(super) static SIP_VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

#[cfg(test)]
mod tests {
    use rcgen::{
        CertificateParams, CertificateRevocationListParams, KeyIdMethod, KeyPair, RevokedCertParams,
        SerialNumber,
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::sip_tls::{Authorities, SipTls, SipTlsSettings};
    use super::super::test_authority::{Authority, write_key};
    use super::*;

    fn sip_server(files: &TlsFiles) -> Arc<ServerConfig> {
        let settings = SipTlsSettings {
            files: files.clone(),
            authorities: Authorities::File,
            subjects: Vec::new(),
            cipher_suites: Vec::new(),
        };
        SipTls::new(settings).unwrap().server()
    }

    fn first_certificate(files: &TlsFiles) -> CertificateDer<'static> {
        load_certificates(&files.certificate).unwrap().remove(0)
    }

    /// Handshakes both ends; the server's view of the client's certificate, or who failed.
    async fn handshake(
        server: Arc<ServerConfig>,
        client: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> Result<CertificateDer<'static>, String> {
        let (near, far) = tokio::io::duplex(16 << 10);
        let accept = async {
            let stream = TlsAcceptor::from(server)
                .accept(far)
                .await
                .map_err(|error| error.to_string())?;
            let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
            certificates
                .first()
                .map(|first| first.clone().into_owned())
                .ok_or_else(|| "none".to_owned())
        };
        let connect = async {
            TlsConnector::from(client)
                .connect(name, near)
                .await
                .map_err(|error| error.to_string())
        };
        let (accepted, connected) = tokio::join!(accept, connect);
        connected?;
        accepted
    }

    /// A certificate for both ends, from an hour ago to an hour from now, but for what `change` makes of it.
    fn member_files(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> TlsFiles {
        let mut params = CertificateParams::new(vec!["n1.main.tandem".to_owned()]).unwrap();
        let now = time::OffsetDateTime::now_utc();
        (params.not_before, params.not_after) = (now - time::Duration::HOUR, now + time::Duration::HOUR);
        params.extended_key_usages = vec![
            rcgen::ExtendedKeyUsagePurpose::ServerAuth,
            rcgen::ExtendedKeyUsagePurpose::ClientAuth,
        ];
        change(&mut params);
        let files = authority.issue("member", "member", &["n1.main.tandem"]);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &authority.issuer).unwrap();
        std::fs::write(&files.certificate, certificate.pem()).unwrap();
        std::fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    #[test]
    fn a_certificate_that_other_members_would_refuse_is_named_with_the_reason() {
        let authority = Authority::new("authority");
        let now = time::OffsetDateTime::now_utc();
        let check = |files: &TlsFiles| check_member_certificate(files, NodeId(1), "main");
        let expires = check(&member_files(&authority, |_| {})).unwrap();
        let left = i64::try_from(expires).unwrap() - now.unix_timestamp();
        assert!((3500..=3700).contains(&left), "{left}");

        type Change<'a> = Box<dyn FnOnce(&mut CertificateParams) + 'a>;
        let cases: [(&str, Change<'_>); 4] = [
            (
                "not valid for name",
                Box::new(|params| {
                    *params = CertificateParams::new(vec!["n2.main.tandem".to_owned()]).unwrap()
                }),
            ),
            (
                "expired",
                Box::new(|params| params.not_after = now - time::Duration::MINUTE),
            ),
            (
                "not valid yet",
                Box::new(|params| params.not_before = now + time::Duration::MINUTE),
            ),
            (
                "as a client's",
                Box::new(|params| {
                    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
                }),
            ),
        ];
        for (reason, change) in cases {
            let told = check(&member_files(&authority, change)).unwrap_err().to_string();
            assert!(
                told.contains(reason) && told.contains("member.pem"),
                "{reason}: {told}"
            );
        }

        let other = Authority::new("authority");
        let files = TlsFiles {
            authority: other.path("ca.pem"),
            ..member_files(&authority, |_| {})
        };
        // Of the same name, which some tools give to every authority.
        let told = check(&files).unwrap_err().to_string();
        assert!(
            told.contains("BadSignature") || told.contains("UnknownIssuer"),
            "{told}"
        );
    }

    /// What the authority has revoked, as a file.
    fn revoked(authority: &Authority, serial_numbers: &[u64]) -> Option<PathBuf> {
        let now = time::OffsetDateTime::now_utc();
        let revoked_certs = serial_numbers.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: now - time::Duration::MINUTE,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now - time::Duration::MINUTE,
            next_update: now + time::Duration::HOUR,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let path = authority.path("crl.pem");
        std::fs::write(&path, list.signed_by(&authority.issuer).unwrap().pem().unwrap()).unwrap();
        Some(path)
    }

    #[tokio::test]
    async fn a_revoked_certificate_is_refused_at_both_ends() {
        let authority = Authority::new("authority");
        let numbered = |number: u64| {
            move |params: &mut CertificateParams| params.serial_number = Some(SerialNumber::from(number))
        };
        let good = member_files(&authority, numbered(7));
        let name = || peer_server_name(NodeId(1), "main").unwrap();
        let outcome = async |server: &TlsFiles, client: &TlsFiles| {
            let (server, client) = (peer_server_config(server), peer_client_config(client));
            handshake(server.unwrap(), client.unwrap(), name())
                .await
                .map(drop)
        };
        for (serial_numbers, refused) in [(&[8, 9][..], false), (&[8, 7], true)] {
            let knowing = TlsFiles {
                revocation_list: revoked(&authority, serial_numbers),
                ..good.clone()
            };
            let results = [outcome(&knowing, &good).await, outcome(&good, &knowing).await];
            for result in results {
                assert_eq!(result.is_err(), refused, "{result:?}");
                if let Err(text) = result {
                    assert!(text.contains("Revoked"), "{text}");
                }
            }
            let told = check_member_certificate(&knowing, NodeId(1), "main");
            assert_eq!(told.is_err(), refused, "{told:?}");
        }
    }

    #[test]
    fn a_revocation_list_that_cannot_be_used_is_named() {
        let authority = Authority::new("authority");
        let files = TlsFiles {
            revocation_list: Some(authority.path("ca.pem")),
            ..member_files(&authority, |_| {})
        };
        let told = |files: &TlsFiles| peer_server_config(files).unwrap_err().to_string();
        assert!(told(&files).contains("ca.pem holds no revocation list"));
        let damaged = authority.path("damaged.pem");
        std::fs::write(
            &damaged,
            "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        )
        .unwrap();
        let files = TlsFiles {
            revocation_list: Some(damaged),
            ..files
        };
        assert!(told(&files).contains("a revocation list in"), "{}", told(&files));
        // A list of another authority says nothing of this one's certificates.
        let other = Authority::new("authority");
        let files = TlsFiles {
            revocation_list: revoked(&other, &[]),
            ..files
        };
        check_member_certificate(&files, NodeId(1), "main").unwrap_err();
    }

    #[tokio::test]
    async fn members_of_one_cluster_know_each_other_by_name() {
        let authority = Authority::new("authority");
        let first = authority.issue("n1", "first", &["n1.main.tandem"]);
        let second = authority.issue("n2", "second", &["n2.main.tandem", "10.0.0.2"]);
        let name = peer_server_name(NodeId(1), "main").unwrap();
        let server = peer_server_config(&first).unwrap();
        let client = peer_client_config(&second).unwrap();
        let certificate = handshake(server.clone(), client.clone(), name).await.unwrap();
        check_peer(&certificate, NodeId(2), "main").unwrap();
        assert!(check_peer(&certificate, NodeId(3), "main").is_err());
        assert!(check_peer(&certificate, NodeId(2), "other").is_err());
        let identity = peer_identity(&certificate).unwrap();
        assert_eq!(identity.common_name.as_deref(), Some("second"));
        assert_eq!(identity.subject_alternative_names, ["n2.main.tandem", "10.0.0.2"]);
        let wrong = peer_server_name(NodeId(3), "main").unwrap();
        assert!(
            handshake(server, client, wrong).await.is_err(),
            "the node that answers is not the one meant"
        );
    }

    #[tokio::test]
    async fn a_stranger_is_refused() {
        let (ours, theirs) = (Authority::new("authority"), Authority::new("authority"));
        let server = peer_server_config(&ours.issue("n1", "first", &["n1.main.tandem"])).unwrap();
        let mut stranger = theirs.issue("n2", "second", &["n2.main.tandem"]);
        stranger.authority = ours.path("ca.pem");
        let client = peer_client_config(&stranger).unwrap();
        let name = peer_server_name(NodeId(1), "main").unwrap();
        assert!(handshake(server, client, name).await.is_err());
    }

    #[tokio::test]
    async fn a_sip_listener_takes_tls_1_2_and_a_peer_listener_does_not() {
        let authority = Authority::new("authority");
        let files = authority.issue("vip", "vip", &["vip.example.com"]);
        let name = ServerName::try_from("vip.example.com").unwrap();
        let old = || client_config(&files, &[&rustls::version::TLS12]).unwrap();
        handshake(sip_server(&files), old(), name.clone()).await.unwrap();
        handshake(
            sip_server(&files),
            sip_client_config(&files).unwrap(),
            name.clone(),
        )
        .await
        .unwrap();
        assert!(
            handshake(peer_server_config(&files).unwrap(), old(), name)
                .await
                .is_err()
        );
    }

    #[test]
    fn what_is_wrong_with_a_file_is_said_before_any_handshake() {
        let authority = Authority::new("authority");
        let good = authority.issue("n1", "first", &["n1.main.tandem"]);
        let other = authority.issue("n2", "second", &["n2.main.tandem"]);
        let empty = authority.path("empty.pem");
        write_key(&empty, "");
        let damaged = authority.path("damaged.pem");
        std::fs::write(
            &damaged,
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        )
        .unwrap();
        let missing = authority.path("missing.pem");

        let message = |files: TlsFiles| peer_server_config(&files).unwrap_err().to_string();
        let with_certificate = |path: &PathBuf| TlsFiles {
            certificate: path.clone(),
            ..good.clone()
        };
        assert!(message(with_certificate(&missing)).contains("missing.pem: check the path"));
        assert!(message(with_certificate(&empty)).contains("empty.pem holds no certificate"));
        assert!(message(with_certificate(&damaged)).contains("damaged.pem is damaged"));
        assert!(
            message(TlsFiles {
                key: empty,
                ..good.clone()
            })
            .contains("empty.pem holds no private key")
        );
        let mixed = TlsFiles {
            key: other.key,
            ..good.clone()
        };
        assert!(message(mixed.clone()).contains("do not belong together"));
        assert!(peer_client_config(&mixed).is_err());
        let no_authority = TlsFiles {
            authority: good.certificate.clone(),
            ..good.clone()
        };
        assert!(message(no_authority).contains("n1.pem cannot serve as an authority"));
        assert!(check_peer(&first_certificate(&good), NodeId(1), "main").is_ok());
    }
}
