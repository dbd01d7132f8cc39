//! The certificate of the callback listener, in use as soon as it is installed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::sign::SingleCertAndKey;
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use tandem_certificate::Certificate;
use tandem_runtime::io::certificates::{Identity, IdentityFiles, Installed, SigningError, SigningRequest};
use tracing::info;

/// Clones share one pair of files and what is in force.
#[derive(Debug, Clone)]
pub struct ServingIdentity {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    files: IdentityFiles,
    configs: Arc<ArcSwap<ServerConfig>>,
    current: ArcSwapOption<Current>,
    /// Serialises changes; handshakes never wait for it.
    editing: Mutex<()>,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    identity: Identity,
}

impl ServingIdentity {
    /// Both files may be missing; then there is no certificate until a signed one is installed.
    ///
    /// # Errors
    /// If the files exist and cannot be used.
    pub fn open(files: IdentityFiles) -> Result<Self, SigningError> {
        let shared = Shared {
            files,
            configs: Arc::new(ArcSwap::from(without_certificate())),
            current: ArcSwapOption::empty(),
            editing: Mutex::new(()),
        };
        let identity = Self {
            shared: Arc::new(shared),
        };
        identity.read_again()?;
        Ok(identity)
    }

    /// For a listener: loaded for each connection, so the current certificate is used. Without a certificate every handshake
    /// is refused.
    #[must_use]
    pub fn server_configs(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.shared.configs.clone()
    }

    /// For the next accepted connection; call it again for each. `None` while there is no certificate.
    #[must_use]
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        let current = self.shared.current.load();
        current.as_ref().map(|current| current.config.clone())
    }

    /// The chain in use, our certificate first.
    #[must_use]
    pub fn chain(&self) -> Vec<Certificate> {
        let current = self.shared.current.load();
        current
            .as_ref()
            .map_or_else(Vec::new, |current| current.identity.chain.clone())
    }

    /// Whether a signing request awaits its certificate.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.shared.files.has_request()
    }

    /// As [`IdentityFiles::create_request`].
    ///
    /// # Errors
    /// If there is nothing to certify, or the key cannot be made, read or stored.
    pub fn create_request(&self, wanted: &SigningRequest) -> Result<String, SigningError> {
        let _editing = self.edit();
        self.shared.files.create_request(wanted)
    }

    /// As [`IdentityFiles::install`]; used from the next connection on.
    ///
    /// # Errors
    /// If it is neither for the key of the request nor for the one in use, or cannot be stored; then nothing changes.
    pub fn install(&self, answer: &[u8]) -> Result<Installed, SigningError> {
        let _editing = self.edit();
        let installed = self.shared.files.install(answer)?;
        self.read_again()?;
        Ok(installed)
    }

    /// Checks whether the files were changed, and loads them if so: a few `stat` calls, meant for every few seconds.
    /// Returns whether anything has changed.
    ///
    /// # Errors
    /// If they cannot be used; the former certificate stays in use.
    pub fn refresh(&self) -> Result<bool, SigningError> {
        let _editing = self.edit();
        let stamp = self.shared.files.stamp();
        let current = self.shared.current.load();
        let known = current.as_ref().map(|current| current.identity.stamp);
        if known == Some(stamp) || (known.is_none() && !stamp.is_of_both_files()) {
            return Ok(false);
        }
        self.read_again()?;
        Ok(true)
    }

    fn read_again(&self) -> Result<(), SigningError> {
        if let Some(identity) = self.shared.files.load()? {
            let subject = identity.chain.first().map(|leaf| leaf.subject.clone());
            info!(subject, "callback certificate in use");
            let config = showing(&identity);
            self.shared.configs.store(config.clone());
            self.shared
                .current
                .store(Some(Arc::new(Current { config, identity })));
        }
        Ok(())
    }

    fn edit(&self) -> MutexGuard<'_, ()> {
        self.shared.editing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn showing(identity: &Identity) -> Arc<ServerConfig> {
    let shown = SingleCertAndKey::from(identity.certified.clone());
    let config = server_builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(shown));
    Arc::new(config)
}

fn without_certificate() -> Arc<ServerConfig> {
    let config = server_builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(ResolvesServerCertUsingSni::new()));
    Arc::new(config)
}

fn server_builder() -> ConfigBuilder<ServerConfig, WantsVerifier> {
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has suites for every version")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn request(json: &str) -> Result<String, SigningError> {
        let directory = tempfile::tempdir().unwrap();
        let files = IdentityFiles {
            certificate: directory.path().join("push.pem"),
            key: directory.path().join("push.key"),
        };
        let identity = ServingIdentity::open(files).unwrap();
        let made = identity.create_request(&serde_json::from_str(json).unwrap());
        assert_eq!(made.is_ok(), identity.has_request());
        made
    }

    #[test]
    fn a_request_that_no_authority_would_sign_is_refused() {
        request(r#"{"common_name":"Presence of Contoso","names":["*.contoso.com","2001:db8::1"]}"#).unwrap();
        request(r#"{"common_name":"n1.contoso.com","key":"ecdsa_p384","organization":"Contoso"}"#).unwrap();
        let long = format!(r#"{{"common_name":"{}"}}"#, "x".repeat(65));
        for (json, says) in [
            (long.as_str(), "1 to 64 characters"),
            (r#"{"common_name":""}"#, "names without spaces"),
            (r#"{"common_name":"Presence of Contoso"}"#, "names without spaces"),
            (r#"{"common_name":"a","names":["b c"]}"#, "names without spaces"),
            (r#"{"common_name":"a","country":"Germany"}"#, "two letters"),
            (r#"{"common_name":"a","key":"existing"}"#, "push.key"),
        ] {
            let error = request(json).unwrap_err().to_string();
            assert!(error.contains(says), "{json}: {error}");
        }
    }

    #[test]
    fn an_answer_without_a_request_belongs_to_nobody() {
        let directory = tempfile::tempdir().unwrap();
        let files = IdentityFiles {
            certificate: directory.path().join("push.pem"),
            key: directory.path().join("push.key"),
        };
        let identity = ServingIdentity::open(files).unwrap();
        let stranger = rcgen::generate_simple_self_signed([String::from("n1.contoso.com")]).unwrap();
        let error = identity.install(stranger.cert.pem().as_bytes()).unwrap_err();
        assert!(matches!(error, SigningError::OtherKey), "{error}");
        assert!(!identity.refresh().unwrap());
        fs::write(directory.path().join("push.pem"), stranger.cert.pem()).unwrap();
        fs::write(
            directory.path().join("push.key"),
            stranger.signing_key.serialize_pem(),
        )
        .unwrap();
        assert!(
            identity.refresh().unwrap(),
            "files that somebody else puts there count"
        );
        assert_eq!(identity.chain().len(), 1);
        assert!(!identity.refresh().unwrap());
    }
}
