//! The directory of a trust store as it was read last: its files, their certificates, and what could not be read.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tracing::{info, warn};

use super::trust_store::{CERTIFICATES_MAX, TrustError};
use crate::io::watched_files::FileStamp;
use tandem_certificate::{BUNDLE_BYTES_MAX, BundleError, Certificate, Trusted, read_bundle};

/// The directory as it was read last.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) listing: Listing,
    pub(super) stored: Vec<StoredCertificate>,
    pub(super) problems: Vec<FileProblem>,
    pub(super) trusted: Arc<Trusted>,
}

impl Contents {
    pub(super) fn read(directory: &Path) -> Result<Self, TrustError> {
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

    pub(super) fn report(&self) {
        for problem in &self.problems {
            warn!(file = %problem.file.display(), reason = problem.reason, "trust store file skipped");
        }
        info!(certificates = self.trusted.certificates.len(), "trust store read");
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

/// The files of the directory that count, and what tells that one has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Listing {
    files: Vec<(PathBuf, FileStamp)>,
}

impl Listing {
    pub(super) fn of(directory: &Path) -> Result<Self, TrustError> {
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

const EXTENSIONS: [&str; 5] = ["pem", "crt", "cer", "der", "p7b"];
const FILES_MAX: usize = 1000;
