//! Certificates, keys and revocation lists out of PEM files, checked as they are read.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use super::errors::TlsError;
use crate::certificate_holder::parse_certificate;

pub(super) fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<CertificateDer<'static>> = load_blocks(path)?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate {
            path: path.to_path_buf(),
        });
    }
    for certificate in &certificates {
        parse_certificate(certificate).map_err(|source| TlsError::DamagedCertificate {
            path: path.to_path_buf(),
            source,
        })?;
    }
    Ok(certificates)
}

/// OPS-6: a key that everybody may read is none.
pub(super) fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    if let Ok(metadata) = std::fs::metadata(path) {
        let mode = metadata.permissions().mode() & 0o7777;
        if mode & OTHERS != 0 {
            let path = path.to_path_buf();
            return Err(TlsError::KeyExposed { path, mode });
        }
    }
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|source| {
        let path = path.to_path_buf();
        if matches!(source, rustls::pki_types::pem::Error::NoItemsFound) {
            TlsError::NoKey { path }
        } else {
            TlsError::NotPem { path, source }
        }
    })
}

pub(super) fn load_authority(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut store = RootCertStore::empty();
    for certificate in load_certificates(path)? {
        let is_authority = parse_certificate(&certificate).is_ok_and(|certificate| certificate.is_ca());
        if !is_authority || store.add(certificate).is_err() {
            return Err(TlsError::NotAnAuthority {
                path: path.to_path_buf(),
            });
        }
    }
    Ok(store)
}

pub(super) fn load_revoked(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists: Vec<CertificateRevocationListDer<'static>> = load_blocks(path)?;
    if lists.is_empty() {
        return Err(TlsError::NoRevocationList {
            path: path.to_path_buf(),
        });
    }
    Ok(lists)
}

/// All blocks of one kind; what else the file holds is passed over.
fn load_blocks<T: PemObject>(path: &Path) -> Result<Vec<T>, TlsError> {
    let blocks: Result<Vec<T>, _> = T::pem_slice_iter(&read(path)?).collect();
    blocks.map_err(|source| TlsError::NotPem {
        path: path.to_path_buf(),
        source,
    })
}

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Unreadable {
        path: path.to_path_buf(),
        source,
    })
}

/// Of every permission, those of neither owner nor group.
const OTHERS: u32 = 0o007;
