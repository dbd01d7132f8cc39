//! The trust store for CAS, and the TLS configurations that follow from it.

use std::collections::HashMap;
use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tandem_certificate::{AlgorithmPolicy, Trusted};
use tandem_cluster::CasEndpoint;
use tandem_runtime::io::certificates::{TrustError, TrustStore};
use thiserror::Error;

use super::client::TlsConfigs;
use super::verifier;
pub use super::verifier::CertificateRefused;
use tandem_exchange::certificate::{NetworkTrouble, explain_handshake};
use tandem_exchange::ews::Failure;

/// A trust store, and the TLS configurations made from its content. Clones share both.
#[derive(Debug, Clone)]
pub struct CasTrust {
    store: TrustStore,
    configs: Arc<Mutex<Configs>>,
}

impl CasTrust {
    /// Reads the directory, and creates it if it does not exist.
    ///
    /// # Errors
    /// If the directory cannot be created or listed. Files that cannot be read are in [`TrustStore::problems`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, TrustError> {
        let store = TrustStore::open(directory)?;
        let configs = Arc::new(Mutex::new(Configs::of(store.trusted())));
        Ok(Self { store, configs })
    }

    /// The TLS configuration for this CAS: its certificate is checked by the rules of CAL-6 against what is trusted now.
    /// The same until the store changes, so that TLS sessions are resumed; call it again for every connection.
    #[must_use]
    pub fn client_config(&self, endpoint: &CasEndpoint) -> Arc<ClientConfig> {
        let trusted = self.store.trusted();
        let mut configs = self.configs.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&configs.trusted, &trusted) {
            *configs = Configs::of(trusted);
        }
        configs.client_config(endpoint)
    }
}

impl Deref for CasTrust {
    type Target = TrustStore;

    fn deref(&self) -> &TrustStore {
        &self.store
    }
}

impl TlsConfigs for CasTrust {
    fn client_config(&self, endpoint: &CasEndpoint) -> Arc<ClientConfig> {
        Self::client_config(self, endpoint)
    }
}

/// Dropped when the trust store changes: a session that began under other trust is not resumed.
#[derive(Debug)]
struct Configs {
    trusted: Arc<Trusted>,
    of_hosts: HashMap<(String, AlgorithmPolicy), Arc<ClientConfig>>,
}

impl Configs {
    fn of(trusted: Arc<Trusted>) -> Self {
        Self {
            trusted,
            of_hosts: HashMap::new(),
        }
    }

    fn client_config(&mut self, endpoint: &CasEndpoint) -> Arc<ClientConfig> {
        let policy = AlgorithmPolicy::of(endpoint.legacy_algorithms);
        let key = (endpoint.host.clone(), policy);
        if self.of_hosts.len() >= CONFIGS_MAX && !self.of_hosts.contains_key(&key) {
            self.of_hosts.clear();
        }
        let trusted = &self.trusted;
        let config = self
            .of_hosts
            .entry(key)
            .or_insert_with(|| verifier::client_config(&endpoint.host, trusted.clone(), policy));
        config.clone()
    }
}

/// The server name of a connection to this CAS.
///
/// # Errors
/// If the host is neither an address nor a DNS name; an international name is configured in its `xn--` form.
pub fn server_name(endpoint: &CasEndpoint) -> Result<ServerName<'static>, NotAHost> {
    let host = endpoint.host.strip_suffix('.').unwrap_or(&endpoint.host);
    ServerName::try_from(host.to_owned()).map_err(|_| NotAHost {
        explanation: NetworkTrouble::NotAHost.explain(&endpoint.host, endpoint.port),
    })
}

/// The host is neither an address nor a DNS name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{explanation}")]
pub struct NotAHost {
    explanation: String,
}

/// What the operator is told about a connection that could not be opened or secured: for a certificate the status of
/// CAL-6, and what to do.
#[must_use]
pub fn connection_failure(endpoint: &CasEndpoint, error: &io::Error) -> Failure {
    let inner = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(error) = inner else {
        return without_tls(endpoint, error);
    };
    let text = CertificateRefused::of(error).map_or_else(
        || {
            let (status, text) = explain_handshake(error, &endpoint.host);
            format!("{status}: {text}")
        },
        ToString::to_string,
    );
    Failure::Tls(text)
}

fn without_tls(endpoint: &CasEndpoint, error: &io::Error) -> Failure {
    if error.kind() == io::ErrorKind::TimedOut {
        return Failure::TimedOut;
    }
    let trouble = NetworkTrouble::of_connect(error);
    Failure::Unreachable(trouble.explain(&endpoint.host, endpoint.port))
}

/// There are few CAS; a configuration is dropped only if an administrator diagnoses a thousand hosts.
const CONFIGS_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use tandem_certificate::Certificate;

    use super::*;

    fn certificate(name: &str) -> Certificate {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    fn endpoint(host: &str) -> CasEndpoint {
        CasEndpoint::of(&tandem_cluster::CasId(host.to_owned()))
    }

    #[test]
    fn a_configuration_lasts_until_the_store_changes() {
        let directory = tempfile::tempdir().unwrap();
        let store = CasTrust::open(directory.path().join("trust")).unwrap();
        let first = store.client_config(&endpoint("cas1"));
        assert!(Arc::ptr_eq(&first, &store.client_config(&endpoint("cas1"))));
        assert!(!Arc::ptr_eq(&first, &store.client_config(&endpoint("cas2"))));
        let legacy = CasEndpoint {
            legacy_algorithms: true,
            ..endpoint("cas1")
        };
        assert!(!Arc::ptr_eq(&first, &store.client_config(&legacy)));
        store.add(&[certificate("ca")]).unwrap();
        assert!(!Arc::ptr_eq(&first, &store.client_config(&endpoint("cas1"))));
    }

    #[test]
    fn a_host_is_asked_for_by_name_or_by_address() {
        let named = |host: &str| server_name(&endpoint(host)).map(|name| name.to_str().into_owned());
        assert_eq!(named("cas1.contoso.com.").unwrap(), "cas1.contoso.com");
        assert_eq!(named("192.0.2.1").unwrap(), "192.0.2.1");
        assert_eq!(named("2001:db8::1").unwrap(), "2001:db8::1");
        assert!(named("mail contoso").is_err());
        assert!(named("büro.contoso.com").is_err());
    }
}
