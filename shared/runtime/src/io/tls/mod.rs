//! rustls configurations from PEM files.
//!
//! Owns the configurations of connections between members, what is read from the files, and by what peers are judged
//! ([`PeerVerifier`]). Does not own the TLS of SIP listeners, which is `sip_tls`, nor whom a certificate names. What always
//! holds: files are read and checked when a configuration is built, so that what is wrong with them is said at the start
//! and not at the first handshake.

mod errors;
mod files;
mod verifiers;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use self::files::{load_certificates, load_key};
use super::environment::TlsClock;
use crate::config::TlsFiles;

pub use self::errors::TlsError;
pub(super) use self::verifiers::Trust;
pub use self::verifiers::{PeerVerifier, check_member_certificate};

/// For the peer listener: TLS 1.3 only, and the peer must show a certificate of our authority.
///
/// # Errors
/// When a file cannot be used; see [`TlsError`].
pub fn peer_server_config(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    server_config(files, PEER_VERSIONS)
}

/// For connections to peers. Connect with [`crate::certificate_holder::peer_server_name`] of the node that is meant: the
/// handshake then checks that it is that node which answers.
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

static PEER_VERSIONS: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];
pub(super) static SIP_VERSIONS: &[&SupportedProtocolVersion] =
    &[&rustls::version::TLS13, &rustls::version::TLS12];

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use rcgen::{
        CertificateParams, CertificateRevocationListParams, KeyIdMethod, KeyPair, RevokedCertParams,
        SerialNumber,
    };
    use tokio_rustls::{TlsAcceptor, TlsConnector};

    use super::super::sip_tls::{Authorities, SipTls, SipTlsSettings};
    use super::super::test_authority::{Authority, write_key};
    use super::files::load_certificates;
    use super::*;
    use crate::certificate_holder::{check_peer, peer_identity, peer_server_name};
    use crate::config::{ClusterSection, Section, read_text};
    use rustls::pki_types::{CertificateDer, ServerName};
    use tandem_cluster::{MemberRole, NodeId};

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

    /// What --check-config passes starts: without its key it would not.
    #[test]
    fn a_member_without_the_key_of_its_certificate_is_told_so() {
        let authority = Authority::new("authority");
        let files = member_files(&authority, |_| {});
        let check = || {
            let text = format!(
                "listen = \"127.0.0.1:7001\"\n[[member]]\nid = 1\nkind = \"node\"\naddress = \"127.0.0.1:7001\"\n\
                 [tls]\ncertificate = {:?}\nkey = {:?}\nauthority = {:?}\n",
                files.certificate, files.key, files.authority
            );
            let read = |root: &mut Section| ClusterSection::read(root, Some((NodeId(1), MemberRole::Node)));
            let section = read_text(Path::new("node.toml"), &text, read).unwrap();
            section.check_certificate(NodeId(1))
        };
        check().unwrap();
        std::fs::write(&files.key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(matches!(check(), Err(TlsError::Mismatch { .. })));
        std::fs::remove_file(&files.key).unwrap();
        assert!(matches!(check(), Err(TlsError::Unreadable { .. })));
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
