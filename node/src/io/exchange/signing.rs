//! The certificate that we show ourselves: requested from an authority, installed when it is signed, shown at once.
//!
//! Two files, as configured: the certificate with its chain, and its key. While a request waits for the authority, its
//! key lies beside them, so that the listener goes on with the old pair. A key is never shown and never leaves its
//! file.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::{ArcSwap, ArcSwapOption};
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};
use rustls::server::ResolvesServerCertUsingSni;
use rustls::{ConfigBuilder, ServerConfig, WantsVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tracing::info;

use super::trust::{FileStamp, pem_text, write_whole};
use crate::exchange::certificate::{BundleError, Certificate, is_issued_by, read_bundle};

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
    /// One change at a time; handshakes never wait for it.
    editing: Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// PEM, ours first, then the authorities up to but without the root.
    pub certificate: PathBuf,
    /// PEM, PKCS #8, without a password.
    pub key: PathBuf,
}

#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    chain: Vec<Certificate>,
    stamp: Stamp,
}

/// What tells that somebody has changed a file.
type Stamp = [Option<FileStamp>; 2];

impl ServingIdentity {
    /// Both files may still be missing: then there is nothing to show until a signed certificate is installed.
    ///
    /// # Errors
    /// When the files are there and cannot be used.
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

    /// For a listener: what is loaded for a connection is in force at that moment. While there is no certificate every
    /// handshake is refused.
    #[must_use]
    pub fn server_configs(&self) -> Arc<ArcSwap<ServerConfig>> {
        self.shared.configs.clone()
    }

    /// For the next connection that is accepted; ask again for each. `None` while there is no certificate.
    #[must_use]
    pub fn server_config(&self) -> Option<Arc<ServerConfig>> {
        let current = self.shared.current.load();
        current.as_ref().map(|current| current.config.clone())
    }

    /// What is shown, ours first.
    #[must_use]
    pub fn chain(&self) -> Vec<Certificate> {
        let current = self.shared.current.load();
        current
            .as_ref()
            .map_or_else(Vec::new, |current| current.chain.clone())
    }

    /// Whether a request waits for its signed certificate.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.shared.files.pending_key().exists()
    }

    /// Makes a request for a certificate, in PEM. Its key waits beside the one in use; an earlier request is
    /// forgotten.
    ///
    /// # Errors
    /// When nothing is to be certified, or the key cannot be made, read or kept.
    pub fn create_request(&self, wanted: &SigningRequest) -> Result<String, SigningError> {
        let _editing = self.edit();
        let key = match wanted.key {
            KeyChoice::EcdsaP256 => generate(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            KeyChoice::EcdsaP384 => generate(&rcgen::PKCS_ECDSA_P384_SHA384)?,
            KeyChoice::Existing => existing_key(&self.shared.files.key)?,
        };
        let request = wanted.parameters()?.serialize_request(&key);
        let request = request.and_then(|request| request.pem());
        let request = request.map_err(|source| SigningError::Request { source })?;
        let pending = self.shared.files.pending_key();
        write_private(&pending, key.serialize_pem().as_bytes())
            .map_err(|source| SigningError::file(&pending, source))?;
        Ok(request)
    }

    /// Takes the authority's answer: PEM, DER or PKCS #7, in any order, with or without the rest of the chain. In
    /// force for the next connection.
    ///
    /// # Errors
    /// When it is not for the key of the request, nor for the one in use, or cannot be kept; then nothing changes.
    pub fn install(&self, answer: &[u8]) -> Result<Installed, SigningError> {
        let _editing = self.edit();
        let certificates = read_bundle(answer)?;
        let files = &self.shared.files;
        let (leaf, holder) = self.leaf_among(&certificates)?;
        let chain = ordered(leaf, &certificates);
        let text: String = chain.iter().map(pem_text).collect();
        // A crash between the two is mended when the files are read again.
        write_whole(&files.certificate, text.as_bytes())
            .map_err(|source| SigningError::file(&files.certificate, source))?;
        if holder == KeyHolder::Request {
            let pending = files.pending_key();
            fs::rename(&pending, &files.key).map_err(|source| SigningError::file(&pending, source))?;
        }
        self.read_again()?;
        Ok(Installed::of(chain))
    }

    /// Looks whether somebody has changed the files, and takes them over if so: a few `stat` calls, meant for every
    /// few seconds. Answers whether anything has changed.
    ///
    /// # Errors
    /// When they cannot be used; what was shown stays in force.
    pub fn refresh(&self) -> Result<bool, SigningError> {
        let _editing = self.edit();
        let stamp = self.shared.files.stamp();
        let known = self.shared.current.load().as_ref().map(|current| current.stamp);
        if known == Some(stamp) || (known.is_none() && stamp.iter().any(Option::is_none)) {
            return Ok(false);
        }
        self.read_again()?;
        Ok(true)
    }

    fn read_again(&self) -> Result<(), SigningError> {
        if let Some(current) = load(&self.shared.files)? {
            let subject = current.chain.first().map(|leaf| leaf.subject.clone());
            info!(subject, "our certificate is in force");
            self.shared.configs.store(current.config.clone());
            self.shared.current.store(Some(Arc::new(current)));
        }
        Ok(())
    }

    /// Which of them is ours, and whose key it has.
    fn leaf_among(&self, certificates: &[Certificate]) -> Result<(Certificate, KeyHolder), SigningError> {
        let files = &self.shared.files;
        for (path, holder) in [
            (files.pending_key(), KeyHolder::Request),
            (files.key.clone(), KeyHolder::Current),
        ] {
            if !path.exists() {
                continue;
            }
            let key = existing_key(&path)?;
            if let Some(leaf) = certificates
                .iter()
                .find(|certificate| certificate.has_key(key.public_key_raw()))
            {
                return Ok((leaf.clone(), holder));
            }
        }
        Err(SigningError::OtherKey)
    }

    fn edit(&self) -> MutexGuard<'_, ()> {
        self.shared.editing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyHolder {
    Request,
    Current,
}

/// What an authority is asked to certify. One certificate may serve the VIP and all nodes: name them all.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SigningRequest {
    pub common_name: String,
    /// DNS names and addresses. A common name that is a host is added when it is missing: most clients look here only.
    #[serde(default)]
    pub names: Vec<String>,
    pub organization: Option<String>,
    pub organizational_unit: Option<String>,
    pub locality: Option<String>,
    pub state: Option<String>,
    /// Two letters.
    pub country: Option<String>,
    #[serde(default)]
    pub key: KeyChoice,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyChoice {
    #[default]
    EcdsaP256,
    EcdsaP384,
    /// The key file that is configured: to renew without a new key, or for a key that was made elsewhere, as RSA with
    /// 4096 bits by `openssl genpkey`.
    Existing,
}

impl SigningRequest {
    fn parameters(&self) -> Result<CertificateParams, SigningError> {
        let names = self.all_names()?;
        if self.common_name.is_empty() || self.common_name.chars().count() > COMMON_NAME_CHARACTERS_MAX {
            return Err(SigningError::CommonName);
        }
        if self.country.as_ref().is_some_and(|country| country.len() != 2) {
            return Err(SigningError::Country);
        }
        let mut parameters =
            CertificateParams::new(names).map_err(|source| SigningError::Request { source })?;
        parameters.distinguished_name = self.distinguished_name();
        parameters.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        // RCC-9: the same certificate is shown on connections that we open.
        parameters.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        Ok(parameters)
    }

    /// A common name that is a title and not a host stays out of them.
    fn all_names(&self) -> Result<Vec<String>, SigningError> {
        let mut names = self.names.clone();
        let is_host = !self.common_name.contains(char::is_whitespace);
        if is_host && !names.contains(&self.common_name) {
            names.insert(0, self.common_name.clone());
        }
        let acceptable = |name: &String| {
            !name.is_empty() && name.len() <= NAME_BYTES_MAX && !name.contains(char::is_whitespace)
        };
        if (1..=NAMES_MAX).contains(&names.len()) && names.iter().all(acceptable) {
            Ok(names)
        } else {
            Err(SigningError::Names)
        }
    }

    fn distinguished_name(&self) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        let parts = [
            (DnType::CountryName, &self.country),
            (DnType::StateOrProvinceName, &self.state),
            (DnType::LocalityName, &self.locality),
            (DnType::OrganizationName, &self.organization),
            (DnType::OrganizationalUnitName, &self.organizational_unit),
        ];
        for (kind, value) in parts {
            if let Some(value) = value {
                name.push(kind, value.as_str());
            }
        }
        name.push(DnType::CommonName, self.common_name.as_str());
        name
    }
}

/// What is shown from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    pub chain: Vec<Certificate>,
    pub completeness: Completeness,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Completeness {
    /// Up to a certificate whose issuer is a root, as far as can be seen.
    Chain,
    /// Ours alone: whoever does not know its issuer will miss it. Upload it again with the authority's chain.
    LeafOnly,
}

impl Installed {
    fn of(chain: Vec<Certificate>) -> Self {
        let alone = chain.len() == 1 && chain.iter().all(|leaf| !leaf.is_self_issued());
        Self {
            chain,
            completeness: if alone {
                Completeness::LeafOnly
            } else {
                Completeness::Chain
            },
        }
    }
}

impl IdentityFiles {
    fn pending_key(&self) -> PathBuf {
        let mut path = self.key.as_os_str().to_owned();
        path.push(".requested");
        PathBuf::from(path)
    }

    fn stamp(&self) -> Stamp {
        [&self.certificate, &self.key].map(|path| fs::metadata(path).ok().as_ref().map(FileStamp::of))
    }
}

/// RFC 8446 §4.4.2: each certifies the one before it; the root may be left out.
fn ordered(leaf: Certificate, certificates: &[Certificate]) -> Vec<Certificate> {
    let mut chain = vec![leaf];
    while let Some(last) = chain.last() {
        let issuer = certificates.iter().find(|candidate| {
            !candidate.is_self_issued()
                && chain
                    .iter()
                    .all(|known| known.fingerprint != candidate.fingerprint)
                && is_issued_by(last, candidate)
        });
        match issuer {
            Some(issuer) if chain.len() < CHAIN_MAX => chain.push(issuer.clone()),
            Some(_) | None => break,
        }
    }
    chain
}

fn load(files: &IdentityFiles) -> Result<Option<Current>, SigningError> {
    if !files.certificate.exists() {
        return Ok(None);
    }
    let stamp = files.stamp();
    let chain = read_bundle(&read(&files.certificate)?)?;
    let config = match pair(&chain, &files.key) {
        Ok(config) => config,
        Err(error) => finish_install(files, &chain).ok_or(error)?,
    };
    Ok(Some(Current { config, chain, stamp }))
}

/// The certificate was written and its key not yet moved to its place when this machine went down.
fn finish_install(files: &IdentityFiles, chain: &[Certificate]) -> Option<Arc<ServerConfig>> {
    let config = pair(chain, &files.pending_key()).ok()?;
    fs::rename(files.pending_key(), &files.key).ok()?;
    Some(config)
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

fn pair(chain: &[Certificate], key: &Path) -> Result<Arc<ServerConfig>, SigningError> {
    let der: Vec<CertificateDer<'static>> = chain.iter().map(|certificate| certificate.der.clone()).collect();
    let text = read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|_| SigningError::Key {
        path: key.to_path_buf(),
    })?;
    let config = server_builder()
        .with_no_client_auth()
        .with_single_cert(der, private);
    config.map(Arc::new).map_err(|source| SigningError::Mismatch {
        key: key.to_path_buf(),
        source,
    })
}

fn generate(algorithm: &'static rcgen::SignatureAlgorithm) -> Result<KeyPair, SigningError> {
    KeyPair::generate_for(algorithm).map_err(|source| SigningError::Request { source })
}

fn existing_key(path: &Path) -> Result<KeyPair, SigningError> {
    let text = String::from_utf8(read(path)?);
    let key = text.ok().and_then(|text| KeyPair::from_pem(&text).ok());
    key.ok_or_else(|| SigningError::Key {
        path: path.to_path_buf(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, SigningError> {
    fs::read(path).map_err(|source| SigningError::file(path, source))
}

/// Nobody but this user may read it, not even for a moment.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    if partial.exists() {
        fs::remove_file(&partial)?;
    }
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// Nothing of a key is ever in it.
#[derive(Debug, Error)]
pub enum SigningError {
    #[error("cannot use {}: check the path, its directory and the rights of this user", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is not a private key: put one \"BEGIN PRIVATE KEY\" block (PKCS #8, without a password) into it", .path.display())]
    Key { path: PathBuf },
    #[error("what was uploaded cannot be used: {0}")]
    Bundle(#[from] BundleError),
    #[error(
        "none of the certificates is for the key of the request or for the key in use: upload the one that answers the \
         latest request, or make a new request"
    )]
    OtherKey,
    #[error("the certificate does not belong to {}: install the one that was issued for this key", .key.display())]
    Mismatch {
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error(
        "a request needs 1 to {NAMES_MAX} names without spaces, each DNS name or address up to {NAME_BYTES_MAX} characters"
    )]
    Names,
    #[error(
        "common_name must have 1 to {COMMON_NAME_CHARACTERS_MAX} characters: name longer hosts in names only"
    )]
    CommonName,
    #[error("country is a code of two letters, as DE")]
    Country,
    #[error("the request cannot be made: check its names")]
    Request {
        #[source]
        source: rcgen::Error,
    },
}

impl SigningError {
    fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_path_buf(),
            source,
        }
    }
}

const NAMES_MAX: usize = 100;
const NAME_BYTES_MAX: usize = 253;
/// RFC 5280 appendix A.1, `ub-common-name`.
const COMMON_NAME_CHARACTERS_MAX: usize = 64;
/// Longer ones are no chain of any authority.
const CHAIN_MAX: usize = 8;

#[cfg(test)]
mod tests {
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
