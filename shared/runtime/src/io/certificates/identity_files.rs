//! A certificate of ours and its key, as two files: requested from an authority, and installed when it is signed.
//!
//! The certificate's file has its chain behind it. While a request waits for the authority, its key lies beside the two, so
//! that the old pair stays in use. A key is never shown and never leaves its file.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::KeyPair;
use rustls::sign::CertifiedKey;
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use serde::Serialize;

use super::files::{pem_text, write_private, write_whole};
use super::signing_request::{KeyChoice, SigningError, SigningRequest};
use crate::io::watched_files::FileStamp;
use tandem_certificate::{Certificate, is_issued_by, read_bundle};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// PEM, ours first, then the authorities up to but without the root.
    pub certificate: PathBuf,
    /// PEM, PKCS #8, without a password.
    pub key: PathBuf,
}

/// What the files hold.
#[derive(Debug, Clone)]
pub struct Identity {
    /// For a handshake.
    pub certified: Arc<CertifiedKey>,
    /// Ours first.
    pub chain: Vec<Certificate>,
    /// Of the files as they were read.
    pub stamp: IdentityStamp,
}

/// Tells that somebody has changed a file; nothing of one that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityStamp([Option<FileStamp>; 2]);

impl IdentityStamp {
    #[must_use]
    pub fn is_of_both_files(self) -> bool {
        self.0.iter().all(Option::is_some)
    }
}

impl IdentityFiles {
    /// Whether a request waits for its signed certificate.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.pending_key().exists()
    }

    /// Makes a request for a certificate, in PEM. Its key waits beside the one in use; an earlier request is
    /// forgotten.
    ///
    /// # Errors
    /// When nothing is to be certified, or the key cannot be made, read or kept.
    pub fn create_request(&self, wanted: &SigningRequest) -> Result<String, SigningError> {
        let key = match wanted.key {
            KeyChoice::EcdsaP256 => generate(&rcgen::PKCS_ECDSA_P256_SHA256)?,
            KeyChoice::EcdsaP384 => generate(&rcgen::PKCS_ECDSA_P384_SHA384)?,
            KeyChoice::Existing => existing_key(&self.key)?,
        };
        let request = wanted.parameters()?.serialize_request(&key);
        let request = request.and_then(|request| request.pem());
        let request = request.map_err(|source| SigningError::Request { source })?;
        let pending = self.pending_key();
        write_private(&pending, key.serialize_pem().as_bytes())
            .map_err(|source| SigningError::file(&pending, source))?;
        Ok(request)
    }

    /// Takes the authority's answer into the files, as [`Self::read_answer`] and [`Self::keep`] do.
    ///
    /// # Errors
    /// When it is not for the key of the request, nor for the one in use, or cannot be kept; then nothing changes.
    pub fn install(&self, answer: &[u8]) -> Result<Installed, SigningError> {
        self.keep(self.read_answer(answer)?)
    }

    /// What the authority has answered: PEM, DER or PKCS #7, in any order, with or without the rest of the chain. Nothing
    /// changes.
    ///
    /// # Errors
    /// When it is not for the key of the request, nor for the one in use.
    pub fn read_answer(&self, answer: &[u8]) -> Result<Answer, SigningError> {
        let certificates = read_bundle(answer)?;
        let (leaf, holder) = self.leaf_among(&certificates)?;
        let chain = ordered(leaf, &certificates);
        Ok(Answer { chain, holder })
    }

    /// Puts an answer, and the key that it is for, in place of the old pair.
    ///
    /// # Errors
    /// When the files cannot be written.
    pub fn keep(&self, answer: Answer) -> Result<Installed, SigningError> {
        let Answer { chain, holder } = answer;
        let text: String = chain.iter().map(pem_text).collect();
        // A crash between the two is mended when the files are read again.
        write_whole(&self.certificate, text.as_bytes())
            .map_err(|source| SigningError::file(&self.certificate, source))?;
        if holder == KeyHolder::Request {
            let pending = self.pending_key();
            fs::rename(&pending, &self.key).map_err(|source| SigningError::file(&pending, source))?;
        }
        Ok(Installed::of(chain))
    }

    /// What they hold now; `None` while there is no certificate. Finishes what [`Self::install`] had begun when this
    /// machine went down.
    ///
    /// # Errors
    /// When they are there and cannot be used.
    pub fn load(&self) -> Result<Option<Identity>, SigningError> {
        if !self.certificate.exists() {
            return Ok(None);
        }
        let stamp = self.stamp();
        let chain = read_bundle(&read(&self.certificate)?)?;
        let certified = match pair(&chain, &self.key) {
            Ok(certified) => certified,
            Err(error) => self.finish_install(&chain).ok_or(error)?,
        };
        Ok(Some(Identity {
            certified,
            chain,
            stamp,
        }))
    }

    #[must_use]
    pub fn stamp(&self) -> IdentityStamp {
        let of = |path: &PathBuf| FileStamp::at(path);
        IdentityStamp([of(&self.certificate), of(&self.key)])
    }

    /// The certificate was written and its key not yet moved to its place.
    fn finish_install(&self, chain: &[Certificate]) -> Option<Arc<CertifiedKey>> {
        let certified = pair(chain, &self.pending_key()).ok()?;
        fs::rename(self.pending_key(), &self.key).ok()?;
        Some(certified)
    }

    /// Which of them is ours, and whose key it has.
    fn leaf_among(&self, certificates: &[Certificate]) -> Result<(Certificate, KeyHolder), SigningError> {
        for (path, holder) in [
            (self.pending_key(), KeyHolder::Request),
            (self.key.clone(), KeyHolder::Current),
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

    fn pending_key(&self) -> PathBuf {
        let mut path = self.key.as_os_str().to_owned();
        path.push(".requested");
        PathBuf::from(path)
    }
}

/// A chain that an authority has signed for a key of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    chain: Vec<Certificate>,
    holder: KeyHolder,
}

impl Answer {
    /// Ours first.
    #[must_use]
    pub fn chain(&self) -> &[Certificate] {
        &self.chain
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyHolder {
    Request,
    Current,
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

fn pair(chain: &[Certificate], key: &Path) -> Result<Arc<CertifiedKey>, SigningError> {
    let der = chain.iter().map(|certificate| certificate.der.clone()).collect();
    let text = read(key)?;
    let private = PrivateKeyDer::from_pem_slice(&text).map_err(|_| SigningError::Key {
        path: key.to_path_buf(),
    })?;
    let certified = CertifiedKey::from_der(der, private, &rustls::crypto::ring::default_provider());
    certified.map(Arc::new).map_err(|source| SigningError::Mismatch {
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

/// Longer ones are no chain of any authority.
const CHAIN_MAX: usize = 8;
