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
use tracing::{info, warn};

use super::files::{pem_text, write_whole};
use crate::io::watched_files::FileStamp;
use tandem_certificate::{BUNDLE_BYTES_MAX, BundleError, Certificate, Fingerprint, Trusted, read_bundle};

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

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCertificate {
    pub certificate: Certificate,
    pub file: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileProblem {
    pub file: PathBuf,
    pub reason: String,
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
    fn directory(path: &Path, source: io::Error) -> Self {
        Self::Directory {
            path: path.to_path_buf(),
            source,
        }
    }

    fn file(path: &Path, source: io::Error) -> Self {
        Self::File {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// The directory as it was read last.
#[derive(Debug)]
struct Contents {
    listing: Listing,
    stored: Vec<StoredCertificate>,
    problems: Vec<FileProblem>,
    trusted: Arc<Trusted>,
}

impl Contents {
    fn read(directory: &Path) -> Result<Self, TrustError> {
        let listing = Listing::of(directory)?;
        let (mut stored, mut problems) = (Vec::new(), Vec::new());
        for (file, stamp) in &listing.files {
            match read_file(file, stamp) {
                Ok(certificates) => {
                    stored.extend(certificates.into_iter().map(|certificate| StoredCertificate {
                        certificate,
                        file: file.clone(),
                    }))
                }
                Err(error) => problems.push(FileProblem {
                    file: file.clone(),
                    reason: error.to_string(),
                }),
            }
        }
        stored.truncate(CERTIFICATES_MAX);
        Ok(Self {
            listing,
            trusted: Arc::new(Trusted::new(distinct(&stored))),
            stored,
            problems,
        })
    }

    fn report(&self) {
        for problem in &self.problems {
            warn!(file = %problem.file.display(), reason = problem.reason, "a file of the trust store is passed over");
        }
        info!(certificates = self.trusted.certificates.len(), "trust store read");
    }
}

/// The files of the directory that count, and what tells that one has changed.
#[derive(Debug, PartialEq, Eq)]
struct Listing {
    files: Vec<(PathBuf, FileStamp)>,
}

impl Listing {
    fn of(directory: &Path) -> Result<Self, TrustError> {
        let failed = |source| TrustError::directory(directory, source);
        let mut files = Vec::new();
        for entry in fs::read_dir(directory).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            // A link is followed, as certificates are often deployed by one; what is gone meanwhile is gone.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if !metadata.is_file() || !is_certificate_file(&path) {
                continue;
            }
            files.push((path, FileStamp::of(&metadata)));
        }
        files.sort_by(|(one, _), (other, _)| one.cmp(other));
        files.truncate(FILES_MAX);
        Ok(Self { files })
    }
}

fn is_certificate_file(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| {
        EXTENSIONS
            .iter()
            .any(|known| known.eq_ignore_ascii_case(extension))
    })
}

fn read_file(path: &Path, stamp: &FileStamp) -> Result<Vec<Certificate>, FileError> {
    if stamp.bytes > BUNDLE_BYTES_MAX as u64 {
        return Err(BundleError::TooLarge.into());
    }
    Ok(read_bundle(&fs::read(path)?)?)
}

#[derive(Debug, Error)]
enum FileError {
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(transparent)]
    Bundle(#[from] BundleError),
}

fn distinct(stored: &[StoredCertificate]) -> Vec<Certificate> {
    let mut certificates: Vec<Certificate> = Vec::new();
    for stored in stored {
        let known = certificates
            .iter()
            .any(|known| known.fingerprint == stored.certificate.fingerprint);
        if !known {
            certificates.push(stored.certificate.clone());
        }
    }
    certificates
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

const EXTENSIONS: [&str; 5] = ["pem", "crt", "cer", "der", "p7b"];
const FILES_MAX: usize = 1000;
const CERTIFICATES_MAX: usize = 1000;
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
