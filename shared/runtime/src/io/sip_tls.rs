//! TLS of SIP listeners (RCC-9): mutual, for peers with names that are listed, and read again while connections go on.
//!
//! Owns the configuration of one listener and its files. Does not own how a client is judged, which is
//! `sip_client_verifier`, with webpki's rules for authorities.

use std::fmt;
use std::future::Future;
use std::io;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, ClientConfig, PeerIncompatible, RootCertStore, ServerConfig, SupportedCipherSuite,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificates::{IdentityFiles, StoredCertificate, TrustStore};
use super::environment::TlsClock;
use super::shown_certificate::noting;
use super::sip_client_verifier::{SipClientVerifier, SubjectRefused};
use super::tls::{SIP_VERSIONS, TlsError, Trust, load_pair, provider};
use super::watched_files::WatchedFiles;
use crate::config::TlsFiles;
use tandem_certificate::{Certificate, read_bundle};
use tandem_sip::proxy_protocol::PeerIdentity;

/// What a listener's TLS is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct SipTlsSettings {
    pub files: TlsFiles,
    /// What `files.authority` is.
    pub authorities: Authorities,
    /// Names that a client's certificate may have; empty: any that the authorities have signed.
    pub subjects: Vec<SubjectPattern>,
    /// Empty: all that are supported.
    pub cipher_suites: Vec<CipherSuiteName>,
}

/// Where the authorities of a listener's clients stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authorities {
    /// In one file, which others replace.
    File,
    /// In a directory, to which they are added and from which they are removed at run time. The certificate may be missing
    /// then, until it is requested and installed, and its key as well; so may every authority, and nobody is let in.
    Directory,
}

/// A name in a certificate: a whole one, or `*.` and a domain, for which the star stands for one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectPattern(String);

/// A cipher suite that is supported, as `TLS13_AES_256_GCM_SHA384`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CipherSuiteName(SupportedCipherSuite);

/// One listener's TLS. Clones share what was read last.
#[derive(Debug, Clone)]
pub struct SipTls {
    pub(super) settings: Arc<SipTlsSettings>,
    /// With [`Authorities::Directory`].
    pub(super) trust: Option<TrustStore>,
    state: Arc<State>,
}

#[derive(Debug)]
struct State {
    loaded: ArcSwap<Loaded>,
    /// Changes whenever something else was loaded.
    readings: watch::Sender<u64>,
    /// One change at a time; handshakes never wait for it.
    editing: Mutex<()>,
}

/// What is in force.
#[derive(Debug)]
pub(super) struct Loaded {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
    verifier: Arc<SipClientVerifier>,
    /// Ours first.
    pub(super) chain: Vec<Certificate>,
    pub(super) authorities: Vec<StoredCertificate>,
}

impl Loaded {
    fn read(settings: &SipTlsSettings, store: Option<&TrustStore>) -> Result<Self, TlsError> {
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
    pub(super) fn has_revoked(&self, chain: &[CertificateDer<'_>], serial: &[u8], now: UnixTime) -> bool {
        self.verifier.has_revoked(chain, serial, now)
    }
}

impl SipTls {
    /// Reads the files, and makes the directory of the authorities when it is not there.
    ///
    /// # Errors
    /// When one of them cannot be used.
    pub fn new(settings: SipTlsSettings) -> Result<Self, TlsError> {
        let trust = match settings.authorities {
            Authorities::File => None,
            Authorities::Directory => Some(TrustStore::open(&settings.files.authority)?),
        };
        let loaded = Loaded::read(&settings, trust.as_ref())?;
        let state = State {
            loaded: ArcSwap::from_pointee(loaded),
            readings: watch::Sender::new(0),
            editing: Mutex::new(()),
        };
        Ok(Self {
            settings: Arc::new(settings),
            trust,
            state: Arc::new(state),
        })
    }

    /// Whether [`Self::new`] would do; makes nothing.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn check(settings: &SipTlsSettings) -> Result<(), TlsError> {
        let store = match settings.authorities {
            Authorities::Directory if settings.files.authority.exists() => {
                Some(TrustStore::open(&settings.files.authority)?)
            }
            Authorities::File | Authorities::Directory => None,
        };
        Loaded::read(settings, store.as_ref()).map(drop)
    }

    /// For connections that are accepted now.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state.loaded.load().server)
    }

    /// Shakes hands with who has connected to the listener.
    ///
    /// # Errors
    /// When it comes to nothing; the failure can be explained.
    pub async fn accept<S>(&self, stream: S) -> Result<TlsStream<S>, HandshakeFailed>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (accepted, certificate) = noting(TlsAcceptor::from(self.server()).accept(stream)).await;
        accepted.map_err(|error| HandshakeFailed { error, certificate })
    }

    /// For connections that are made now, with the listener's certificate.
    #[must_use]
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.state.loaded.load().client)
    }

    /// When the listener's certificate ends, in seconds of Unix time; 0 while there is none.
    #[must_use]
    pub fn expires(&self) -> u64 {
        let loaded = self.state.loaded.load();
        let own = loaded.chain.first();
        own.map_or(0, |own| u64::try_from(own.not_after).unwrap_or(0))
    }

    /// Reads the files again whenever they change, until `stop`. Connections that stand go on; files that cannot be used
    /// are told of and change nothing. `read` is called after each time, and after each change by an administrator.
    pub async fn keep_up_to_date(self, stop: impl Future<Output = ()>, read: impl Fn(&Self)) {
        let mut watched = WatchedFiles::new(self.settings.files.paths().cloned());
        let mut readings = self.state.readings.subscribe();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = watched.changed() => self.files_changed(),
                // The sender lives in `self`, so it cannot have gone.
                _ = readings.changed() => {}
                () = &mut stop => return,
            }
            readings.mark_unchanged();
            read(&self);
        }
    }

    fn files_changed(&self) {
        let _editing = self.edit();
        let certificate = self.settings.files.certificate.display();
        let listed = self.trust.as_ref().map_or(Ok(false), TrustStore::refresh);
        match listed.map_err(TlsError::from).and_then(|_| self.read_again()) {
            Ok(()) => tracing::info!(%certificate, "the files of a listener's TLS were read again"),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, %certificate, "the new files of a listener's TLS are not used");
            }
        }
    }

    /// Whoever changes files holds this meanwhile, and reads them again.
    pub(super) fn edit(&self) -> MutexGuard<'_, ()> {
        self.state.editing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read_again(&self) -> Result<(), TlsError> {
        let loaded = Loaded::read(&self.settings, self.trust.as_ref())?;
        self.state.loaded.store(Arc::new(loaded));
        self.state.readings.send_modify(|readings| *readings += 1);
        Ok(())
    }

    pub(super) fn loaded(&self) -> Arc<Loaded> {
        self.state.loaded.load_full()
    }

    /// Changes whenever something else is in force.
    pub(super) fn readings(&self) -> watch::Receiver<u64> {
        self.state.readings.subscribe()
    }

    /// Where the listener's certificate and key lie.
    pub(super) fn identity(&self) -> IdentityFiles {
        identity_files(&self.settings.files)
    }
}

fn identity_files(files: &TlsFiles) -> IdentityFiles {
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

/// Whether one of the holder's names stands in a list of accepted ones. An empty list accepts all.
#[must_use]
pub fn is_listed(holder: &PeerIdentity, subjects: &[SubjectPattern]) -> bool {
    let mut names = holder.subject_alternative_names.iter().chain(&holder.common_name);
    subjects.is_empty() || names.any(|name| subjects.iter().any(|subject| subject.matches(name)))
}

/// A handshake with a client came to nothing.
#[derive(Debug)]
pub struct HandshakeFailed {
    pub error: io::Error,
    /// Whose certificate it was, and whose are accepted: when it was not valid.
    certificate: Option<String>,
}

impl HandshakeFailed {
    /// Why: a status of certificate checks as metrics spell it, and a sentence.
    #[must_use]
    pub fn explain(&self) -> (&'static str, String) {
        let (status, text) = explain_refusal(&self.error);
        match &self.certificate {
            Some(certificate) => (status, format!("{text}; {certificate}")),
            None => (status, text),
        }
    }
}

fn explain_refusal(error: &io::Error) -> (&'static str, String) {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(error) = inner else {
        return ("network_error", error.to_string());
    };
    // One by one: what rustls may say besides is for no status of its own.
    if let rustls::Error::NoCertificatesPresented = error {
        return ("bad_certificates", "the client shows no certificate".to_owned());
    }
    if let rustls::Error::PeerIncompatible(
        PeerIncompatible::Tls12NotOffered
        | PeerIncompatible::Tls12NotOfferedOrEnabled
        | PeerIncompatible::SupportedVersionsExtensionRequired,
    ) = error
    {
        let text = "the client offers neither TLS 1.2 nor 1.3, as an OCS without its updates: see \"TLS 1.0\" in deploy/README.md";
        return ("tls_version", text.to_owned());
    }
    // RFC 5246 §7.4.1.4.1: the extension is new in TLS 1.2, so a hello of TLS 1.0 lacks it; rustls looks for it first.
    if let rustls::Error::PeerIncompatible(PeerIncompatible::SignatureAlgorithmsExtensionRequired) = error {
        let text = "the client names no signature algorithms, as one that offers neither TLS 1.2 nor 1.3 (an OCS without its updates): see \"TLS 1.0\" in deploy/README.md";
        return ("tls_version", text.to_owned());
    }
    let rustls::Error::InvalidCertificate(reason) = error else {
        return ("failed", error.to_string());
    };
    if let CertificateError::Other(other) = reason
        && let Some(refused) = other.0.downcast_ref::<SubjectRefused>()
    {
        let status = match refused.has_alternative_names {
            true => "san_mismatch",
            false => "subject_cn_mismatch",
        };
        return (status, refused.to_string());
    }
    let status = match *reason == CertificateError::UnknownIssuer {
        true => "certificate_missing_from_chain",
        false => "bad_certificates",
    };
    (status, error.to_string())
}

impl SubjectPattern {
    /// Names compare without regard to case (RFC 4343).
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        match self.0.strip_prefix("*.") {
            None => self.0 == name,
            Some(domain) => name
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        }
    }
}

impl FromStr for SubjectPattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let name = text.strip_prefix("*.").unwrap_or(text);
        let is_name = !name.is_empty() && !name.contains('*') && !name.contains(char::is_whitespace);
        match is_name && (name == text || name.contains('.')) {
            true => Ok(Self(text.trim_end_matches('.').to_ascii_lowercase())),
            false => Err("neither a name nor \"*.\" and a domain"),
        }
    }
}

impl fmt::Display for SubjectPattern {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for CipherSuiteName {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let suites = provider().cipher_suites.clone();
        let named = suites
            .into_iter()
            .find(|suite| suite.suite().as_str() == Some(text));
        named.map(Self).ok_or("no cipher suite that is supported")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use rcgen::ExtendedKeyUsagePurpose;
    use tokio::io::AsyncWriteExt;
    use tokio_rustls::TlsConnector;

    use super::super::test_authority::Authority;
    use super::super::tls::sip_client_config;
    use super::*;

    /// The listener of `vip.example`, for these subjects.
    fn listener(authority: &Authority, subjects: &[&str]) -> SipTls {
        SipTls::new(SipTlsSettings {
            files: authority.issue("vip", "vip", &["vip.example"]),
            authorities: Authorities::File,
            subjects: subjects.iter().map(|subject| pattern(subject)).collect(),
            cipher_suites: Vec::new(),
        })
        .unwrap()
    }

    /// What the listener makes of a client with these files.
    async fn met(listener: &SipTls, client: &TlsFiles) -> Result<(), (&'static str, String)> {
        let (near, far) = tokio::io::duplex(16 << 10);
        let connect = async {
            let config = sip_client_config(client).unwrap();
            let name = "vip.example".try_into().unwrap();
            TlsConnector::from(config).connect(name, near).await
        };
        let (accepted, _connected) = tokio::join!(listener.accept(far), connect);
        accepted.map(drop).map_err(|failed| failed.explain())
    }

    #[tokio::test]
    async fn certificates_for_clients_and_for_servers_are_accepted_and_those_for_neither_are_not() {
        use ExtendedKeyUsagePurpose::{ClientAuth, CodeSigning, ServerAuth};
        let authority = Authority::new("ours");
        let listener = listener(&authority, &[]);
        for usages in [&[][..], &[ClientAuth], &[ServerAuth], &[ServerAuth, ClientAuth]] {
            let client = authority.issue_for("ocs", "ocs", &["ocs.example"], usages);
            assert_eq!(met(&listener, &client).await, Ok(()), "{usages:?}");
        }
        let signing = authority.issue_for("signer", "signer", &["ocs.example"], &[CodeSigning]);
        let (status, _) = met(&listener, &signing).await.unwrap_err();
        assert_eq!(status, "bad_certificates");
    }

    #[tokio::test]
    async fn a_client_of_another_authority_misses_an_issuer() {
        let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
        let listener = listener(&ours, &[]);
        for usage in [
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ] {
            let mut client = theirs.issue_for("ocs", "ocs", &["ocs.example"], &[usage]);
            client.authority = ours.path("ca.pem");
            let (status, text) = met(&listener, &client).await.unwrap_err();
            assert_eq!(status, "certificate_missing_from_chain", "{text}");
            for name in ["ocs.example", "\"CN=theirs\"", "\"CN=ours\""] {
                assert!(text.contains(name), "{text}");
            }
        }
    }

    #[tokio::test]
    async fn a_name_that_is_not_listed_is_refused_and_said() {
        let authority = Authority::new("ours");
        let listener = listener(&authority, &["*.pool.example", "edge.example"]);
        for (name, names) in [("ocs", &["ocs1.pool.example"][..]), ("edge.example", &[])] {
            let client = authority.issue(name, name, names);
            assert_eq!(met(&listener, &client).await, Ok(()), "{name}");
        }
        let client = authority.issue("other", "other", &["ocs1.other.example"]);
        let (status, text) = met(&listener, &client).await.unwrap_err();
        assert_eq!(status, "san_mismatch");
        assert!(
            text.starts_with("the certificate names")
                && text.contains("ocs1.other.example")
                && text.contains("*.pool.example"),
            "{text}"
        );
        let client = authority.issue("old.example", "old.example", &[]);
        let (status, text) = met(&listener, &client).await.unwrap_err();
        assert_eq!(status, "subject_cn_mismatch");
        assert!(text.contains("old.example"), "{text}");
    }

    #[tokio::test]
    async fn a_client_of_tls_1_0_is_named_as_such() {
        let authority = Authority::new("ours");
        let listener = listener(&authority, &[]);
        // RFC 2246 §7.4.1.2: version 3.1, 32 bytes at random, no session, one cipher suite, no compression. It has no
        // extensions.
        let hello = [&[3, 1][..], &[7; 32], &[0, 0, 2, 0, 0x2f, 1, 0]].concat();
        let length = u8::try_from(hello.len()).unwrap();
        let record = [&[0x16, 3, 1, 0, length + 4, 1, 0, 0, length][..], &hello].concat();
        let (mut near, far) = tokio::io::duplex(1 << 10);
        near.write_all(&record).await.unwrap();
        let (status, text) = listener.accept(far).await.unwrap_err().explain();
        assert_eq!(status, "tls_version", "{text}");
        assert!(
            text.contains("1.2") && text.contains("deploy/README.md"),
            "{text}"
        );
    }

    #[tokio::test]
    async fn new_files_are_used_and_bad_ones_change_nothing() {
        let authority = Authority::new("ours");
        let listener = listener(&authority, &[]);
        let before = listener.server();
        let (told, mut times) = watch::channel(0);
        let kept = listener
            .clone()
            .keep_up_to_date(std::future::pending(), move |_| {
                told.send_modify(|times| *times += 1);
            });
        let kept = tokio::spawn(kept);
        // The task has looked at the files once it waits.
        tokio::task::yield_now().await;
        drop(authority.issue("vip", "vip", &["vip.example"]));
        times.wait_for(|times| *times == 1).await.unwrap();
        let after = listener.server();
        assert!(!Arc::ptr_eq(&before, &after));
        std::fs::write(authority.path("vip.key"), "nothing").unwrap();
        times.wait_for(|times| *times == 2).await.unwrap();
        assert!(Arc::ptr_eq(&after, &listener.server()));
        kept.abort();
    }

    #[test]
    fn a_key_that_everybody_may_read_is_refused() {
        let authority = Authority::new("ours");
        let files = authority.issue("vip", "vip", &["vip.example"]);
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o644)).unwrap();
        let refused = SipTls::new(SipTlsSettings {
            files,
            authorities: Authorities::File,
            subjects: Vec::new(),
            cipher_suites: Vec::new(),
        });
        assert!(
            matches!(refused, Err(TlsError::KeyExposed { mode: 0o644, .. })),
            "{refused:?}"
        );
    }

    fn pattern(text: &str) -> SubjectPattern {
        text.parse().unwrap()
    }

    #[test]
    fn a_star_stands_for_one_label_and_case_for_nothing() {
        let pool = pattern("*.Pool.example.com");
        assert!(pool.matches("ocs1.pool.example.com") && pool.matches("OCS2.POOL.EXAMPLE.COM."));
        for other in [
            "pool.example.com",
            "a.b.pool.example.com",
            ".pool.example.com",
            "ocs.pool.example.org",
        ] {
            assert!(!pool.matches(other), "{other}");
        }
        assert!(pattern("ocs").matches("OCS") && !pattern("ocs").matches("ocs.example.com"));
        for text in ["", "*", "*.", "*.com", "a.*.com", "*a.example.com", "a b"] {
            assert!(text.parse::<SubjectPattern>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn cipher_suites_are_named_as_rustls_names_them() {
        assert!("TLS13_AES_256_GCM_SHA384".parse::<CipherSuiteName>().is_ok());
        assert!(
            "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"
                .parse::<CipherSuiteName>()
                .is_ok()
        );
        assert!(
            "TLS_RSA_WITH_3DES_EDE_CBC_SHA"
                .parse::<CipherSuiteName>()
                .is_err()
        );
    }
}
