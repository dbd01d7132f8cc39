//! TLS of SIP listeners (RCC-9): mutual, for peers with names that are listed, and read again while connections go on.
//!
//! Owns the configuration of one listener and its files. Does not own how a client is judged, which is
//! `sip_client_verifier`, with webpki's rules for authorities. What always holds: files that cannot be used change nothing.

mod cipher_suite;
mod handshake;
mod loaded;

use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use self::loaded::{Loaded, identity_files};
use super::certificates::{IdentityFiles, TrustStore};
use super::shown_certificate::noting;
use super::tls::TlsError;
use super::watched_files::WatchedFiles;
use crate::config::TlsFiles;
use crate::listed_subjects::SubjectPattern;

pub use self::cipher_suite::CipherSuiteName;
pub use self::handshake::HandshakeFailed;

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
            Ok(()) => tracing::info!(%certificate, "TLS files of the listener reloaded"),
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, %certificate, "cannot use the new TLS files of the listener; the previous ones stay in use");
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
