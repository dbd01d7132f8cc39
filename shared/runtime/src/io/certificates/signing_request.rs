//! What an authority is asked to certify.

use std::io;
use std::path::{Path, PathBuf};

use rcgen::{CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose};
use serde::Deserialize;
use thiserror::Error;

use tandem_certificate::BundleError;

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
    pub(super) fn parameters(&self) -> Result<CertificateParams, SigningError> {
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
    pub(super) fn file(path: &Path, source: io::Error) -> Self {
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
