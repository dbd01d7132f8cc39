//! What an administrator trusts: a directory of certificates, in force at once when it changes.
//!
//! Every certificate in the directory is an anchor whatever it is. A file that cannot be read is reported and costs
//! only itself.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use thiserror::Error;
use tokio::sync::watch;

use super::files::{pem_text, write_whole};
use super::trust_directory::{Contents, FileProblem, Listing, StoredCertificate};
use tandem_certificate::{Certificate, Fingerprint, Trusted};

/// Clones share one store.
#[derive(Debug, Clone)]
pub struct TrustStore {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: PathBuf,
    contents: ArcSwap<Contents>,
    /// One change at a time; readers never wait for it.
    editing: Mutex<()>,
    generation: watch::Sender<u64>,
}

impl TrustStore {
    /// Reads the directory, and makes it when it is not there.
    ///
    /// # Errors
    /// When the directory itself cannot be made or listed. Files that cannot be read are in [`Self::problems`].
    pub fn open(directory: impl Into<PathBuf>) -> Result<Self, TrustError> {
        let directory = directory.into();
        fs::create_dir_all(&directory).map_err(|source| TrustError::directory(&directory, source))?;
        let contents = Contents::read(&directory)?;
        contents.report();
        let shared = Shared {
            directory,
            contents: ArcSwap::from_pointee(contents),
            editing: Mutex::new(()),
            generation: watch::Sender::new(0),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// What is trusted now.
    #[must_use]
    pub fn trusted(&self) -> Arc<Trusted> {
        self.shared.contents.load().trusted.clone()
    }

    /// Every certificate with the file that it stands in, by file.
    #[must_use]
    pub fn list(&self) -> Vec<StoredCertificate> {
        self.shared.contents.load().stored.clone()
    }

    /// Files of the directory that could not be used, and why.
    #[must_use]
    pub fn problems(&self) -> Vec<FileProblem> {
        self.shared.contents.load().problems.clone()
    }

    /// Changes with every change of what is trusted: connections made before may close when they are idle.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.shared.generation.subscribe()
    }

    /// Trusts these from now on, each in a file of its own. Those that are there already stay as they are.
    ///
    /// Answers those that are new.
    ///
    /// # Errors
    /// When a file cannot be written or the store is full; then none is new.
    pub fn add(&self, certificates: &[Certificate]) -> Result<Vec<Certificate>, TrustError> {
        let _editing = self.edit();
        let trusted = self.trusted();
        let new: Vec<Certificate> = certificates
            .iter()
            .filter(|certificate| !trusted.contains(certificate.fingerprint))
            .cloned()
            .collect();
        if trusted.certificates.len().saturating_add(new.len()) > CERTIFICATES_MAX {
            return Err(TrustError::Full);
        }
        for certificate in &new {
            let path = self.shared.directory.join(file_name(certificate));
            write_whole(&path, pem_text(certificate).as_bytes())
                .map_err(|source| TrustError::file(&path, source))?;
        }
        self.read_again()?;
        Ok(new)
    }

    /// Trusts this one no longer. Other certificates of its file stay.
    ///
    /// # Errors
    /// When it is not there, or its file cannot be changed.
    pub fn remove(&self, fingerprint: Fingerprint) -> Result<Certificate, TrustError> {
        let _editing = self.edit();
        let stored = self.list();
        let removed = stored
            .iter()
            .find(|stored| stored.certificate.fingerprint == fingerprint)
            .ok_or(TrustError::Unknown { fingerprint })?;
        for path in files_with(&stored, fingerprint) {
            let kept: Vec<&Certificate> = stored
                .iter()
                .filter(|other| other.file == path && other.certificate.fingerprint != fingerprint)
                .map(|other| &other.certificate)
                .collect();
            rewrite(&path, &kept).map_err(|source| TrustError::file(&path, source))?;
        }
        self.read_again()?;
        Ok(removed.certificate.clone())
    }

    /// Looks whether somebody has changed the directory, and takes it over if so: a few `stat` calls, meant for every
    /// few seconds. Answers whether anything has changed.
    ///
    /// # Errors
    /// When the directory cannot be listed; what was trusted stays so.
    pub fn refresh(&self) -> Result<bool, TrustError> {
        let _editing = self.edit();
        let listing = Listing::of(&self.shared.directory)?;
        if listing == self.shared.contents.load().listing {
            return Ok(false);
        }
        self.read_again()?;
        Ok(true)
    }

    fn edit(&self) -> MutexGuard<'_, ()> {
        self.shared.editing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_again(&self) -> Result<(), TrustError> {
        let contents = Contents::read(&self.shared.directory)?;
        contents.report();
        self.shared.contents.store(Arc::new(contents));
        self.shared.generation.send_modify(|generation| *generation += 1);
        Ok(())
    }
}

#[derive(Debug, Error)]
pub enum TrustError {
    #[error("the trust directory {} cannot be used: check that it is a directory and that this user may list it", .path.display())]
    Directory {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot change {}: check that this user may write there and that the disk is not full", .path.display())]
    File {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the trust store is full with {CERTIFICATES_MAX} certificates: remove what is not needed")]
    Full,
    #[error("the trust store has no certificate with the SHA-256 fingerprint {fingerprint}")]
    Unknown { fingerprint: Fingerprint },
}

impl TrustError {
    pub(super) fn directory(path: &Path, source: io::Error) -> Self {
        Self::Directory {
            path: path.to_path_buf(),
            source,
        }
    }

    pub(super) fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_path_buf(),
            source,
        }
    }
}

fn files_with(stored: &[StoredCertificate], fingerprint: Fingerprint) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = stored
        .iter()
        .filter(|stored| stored.certificate.fingerprint == fingerprint)
        .map(|stored| stored.file.clone())
        .collect();
    files.dedup();
    files
}

/// `Contoso-Root-CA-1f0c….pem`: people recognise it, and two with one name have different files.
fn file_name(certificate: &Certificate) -> String {
    let name: String = certificate
        .short_name()
        .chars()
        .take(NAME_CHARACTERS_MAX)
        .map(|character| {
            if character.is_ascii_alphanumeric() {
                character
            } else {
                '-'
            }
        })
        .collect();
    let fingerprint = certificate.fingerprint.to_string();
    let short = fingerprint.get(..16).unwrap_or(&fingerprint);
    format!("{}-{short}.pem", name.trim_matches('-'))
}

fn rewrite(path: &Path, kept: &[&Certificate]) -> io::Result<()> {
    if kept.is_empty() {
        return fs::remove_file(path);
    }
    let text: String = kept.iter().map(|certificate| pem_text(certificate)).collect();
    write_whole(path, text.as_bytes())
}

pub(super) const CERTIFICATES_MAX: usize = 1000;
const NAME_CHARACTERS_MAX: usize = 48;

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn certificate(name: &str) -> Certificate {
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        Certificate::parse(params.self_signed(&key).unwrap().der()).unwrap()
    }

    #[test]
    fn a_file_that_is_written_can_be_read_and_says_what_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let store = TrustStore::open(directory.path()).unwrap();
        let added = certificate("ca/../of contoso");
        store.add(std::slice::from_ref(&added)).unwrap();
        let stored = store.list();
        assert_eq!(stored.len(), 1);
        assert_eq!(stored[0].certificate, added);
        assert_eq!(stored[0].file.parent(), Some(directory.path()));
        let again = TrustStore::open(directory.path()).unwrap();
        assert_eq!(again.list(), stored);
    }
}
