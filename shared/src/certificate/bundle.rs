//! Certificates out of a file or an answer: PEM, DER, or PKCS #7 as certification authorities hand out (`.p7b`).

use thiserror::Error;
use x509_parser::pem::Pem;

use super::parsed::{Certificate, Unreadable};
use super::pkcs7;

/// Every certificate of a file, in its order and each once. Other sections of a PEM file are passed over.
///
/// # Errors
/// When it holds none, or one that cannot be read.
pub fn read_bundle(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    if bytes.len() > BUNDLE_BYTES_MAX {
        return Err(BundleError::TooLarge);
    }
    let certificates = if contains(bytes, b"-----BEGIN ") {
        read_pem(bytes)?
    } else {
        read_der(bytes)?
    };
    let mut distinct: Vec<Certificate> = Vec::new();
    for certificate in certificates {
        if distinct
            .iter()
            .all(|known| known.fingerprint != certificate.fingerprint)
        {
            distinct.push(certificate);
        }
    }
    if distinct.is_empty() {
        return Err(BundleError::Empty);
    }
    Ok(distinct)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BundleError {
    #[error("it holds no certificate: put \"BEGIN CERTIFICATE\" blocks, DER or a .p7b file into it")]
    Empty,
    #[error("it is larger than {} KiB", BUNDLE_BYTES_MAX >> 10)]
    TooLarge,
    #[error("it holds more than {BUNDLE_CERTIFICATES_MAX} certificates")]
    TooMany,
    #[error("a PEM block in it is damaged: export it again")]
    DamagedPem,
    #[error("a certificate in it cannot be read: {0}")]
    Certificate(#[from] Unreadable),
}

fn read_pem(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    let mut certificates = Vec::new();
    for section in Pem::iter_from_buffer(bytes) {
        let section = section.map_err(|_| BundleError::DamagedPem)?;
        match section.label.as_str() {
            "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
                certificates.push(Certificate::parse(&section.contents)?);
            }
            "PKCS7" | "CMS" => certificates.extend(read_pkcs7(&section.contents)?),
            _ => {}
        }
        if certificates.len() > BUNDLE_CERTIFICATES_MAX {
            return Err(BundleError::TooMany);
        }
    }
    Ok(certificates)
}

fn read_der(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    match read_pkcs7(bytes) {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        Ok(_) => Ok(vec![Certificate::parse(bytes)?]),
        Err(error) => Err(error),
    }
}

/// None when it is something else.
fn read_pkcs7(bytes: &[u8]) -> Result<Vec<Certificate>, BundleError> {
    let Some(elements) = pkcs7::certificates(bytes) else {
        return Ok(Vec::new());
    };
    let mut certificates = Vec::new();
    for element in elements {
        if certificates.len() == BUNDLE_CERTIFICATES_MAX {
            return Err(BundleError::TooMany);
        }
        certificates.push(Certificate::parse(element)?);
    }
    Ok(certificates)
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    text.windows(wanted.len()).any(|window| window == wanted)
}

/// The list of a whole operating system fits.
pub const BUNDLE_BYTES_MAX: usize = 1 << 20;
pub const BUNDLE_CERTIFICATES_MAX: usize = 500;
