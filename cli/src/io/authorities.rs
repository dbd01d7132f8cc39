//! The authorities in their directory: creates and replaces them, and signs with them.

use std::path::{Path, PathBuf};

use rcgen::{
    CertificateParams, CertificateSigningRequestParams, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, SerialNumber,
};
use tandem_certificate::{BundleError, Certificate, read_bundle};
use tandem_runtime::io::certificates::pem_text;
use tandem_runtime::io::environment;
use thiserror::Error;
use time::OffsetDateTime;

use super::files::{self, FileError, Readers};
use super::now;
use crate::arguments::PkiInit;
use crate::pki::authority::{AuthorityKind, Validity, authority_parameters, cluster_of};
use crate::pki::holder::Holder;
use crate::pki::name::ClusterName;

/// Creates both authorities, or replaces one, and says what was done.
pub(super) fn init(arguments: &PkiInit) -> Result<String, AuthorityError> {
    match (&arguments.cluster, arguments.renew) {
        (_, Some(kind)) => replace(&arguments.out, kind),
        (Some(cluster), None) => {
            make_all(&arguments.out, cluster)?;
            let directory = arguments.out.display();
            Ok(format!(
                "The authorities of {cluster} are in {directory}. peers.key and service.key can sign any certificate: keep \
                 the directory on one machine, with a backup in a safe place.\n\
                 Next: tandem pki issue --authorities {directory} --member 1"
            ))
        }
        (None, None) => Err(AuthorityError::ClusterMissing),
    }
}

/// Creates both authorities of a new cluster.
pub(super) fn make_all(directory: &Path, cluster: &ClusterName) -> Result<(), AuthorityError> {
    files::make_directory(directory)?;
    for kind in AuthorityKind::ALL {
        let new = NewAuthority::make(kind, cluster)?;
        new.write(directory)?;
        let bundle = directory.join(kind.bundle());
        files::create(&bundle, new.certificate.as_bytes(), Readers::Everybody)?;
    }
    Ok(())
}

/// The former authority stays in the bundle behind the new one until it expires.
fn replace(directory: &Path, kind: AuthorityKind) -> Result<String, AuthorityError> {
    let new = NewAuthority::make(kind, &cluster_in(directory)?)?;
    let bundle = directory.join(kind.bundle());
    let now = now().unix_timestamp();
    let mut together = new.certificate.clone();
    for known in certificates_in(&bundle)?
        .iter()
        .filter(|known| known.not_after > now)
    {
        together.push_str(&pem_text(known));
    }
    files::replace(&bundle, together.as_bytes())?;
    let [certificate, key] = paths(directory, kind);
    let former = files::set_aside(&certificate)?;
    files::set_aside(&key)?;
    new.write(directory)?;
    let (bundle, former) = (bundle.display(), former.display());
    let certificate = certificate.display();
    Ok(format!(
        "The new authority signs from now on; the former one is kept as {former}.\n\
         1. Copy {bundle}, which holds both, to every machine: it is read again without a restart.\n\
         2. Issue or renew every certificate, and copy it to its machine.\n\
         3. When `tandem pki show` names the new issuer everywhere, replace the bundle with {certificate}."
    ))
}

/// An authority that has not been written yet.
struct NewAuthority {
    kind: AuthorityKind,
    certificate: String,
    key: KeyPair,
}

impl NewAuthority {
    fn make(kind: AuthorityKind, cluster: &ClusterName) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        let parameters = authority_parameters(kind, cluster, Validity::of_authority(now()), serial_number());
        let certificate = parameters.self_signed(&key).map_err(AuthorityError::Signing)?;
        Ok(Self {
            kind,
            certificate: certificate.pem(),
            key,
        })
    }

    fn write(&self, directory: &Path) -> Result<(), FileError> {
        let [certificate, key] = paths(directory, self.kind);
        files::create(&key, self.key.serialize_pem().as_bytes(), Readers::Owner)?;
        files::create(&certificate, self.certificate.as_bytes(), Readers::Everybody)
    }
}

fn paths(directory: &Path, kind: AuthorityKind) -> [PathBuf; 2] {
    ["pem", "key"].map(|ending| directory.join(format!("{}.{ending}", kind.stem())))
}

/// The cluster whose authorities these are.
pub(super) fn cluster_in(directory: &Path) -> Result<ClusterName, AuthorityError> {
    let [path, _] = paths(directory, AuthorityKind::Peers);
    let certificate = first_certificate(&path)?;
    cluster_of(&certificate.der).ok_or(AuthorityError::NoCluster { path })
}

/// The first certificate of a file.
pub(super) fn first_certificate(path: &Path) -> Result<Certificate, AuthorityError> {
    let first = certificates_in(path)?.into_iter().next();
    first.ok_or_else(|| AuthorityError::Certificates {
        path: path.to_path_buf(),
        source: BundleError::Empty,
    })
}

/// All certificates of a file.
pub(super) fn certificates_in(path: &Path) -> Result<Vec<Certificate>, AuthorityError> {
    read_bundle(&files::read(path)?).map_err(|source| AuthorityError::Certificates {
        path: path.to_path_buf(),
        source,
    })
}

/// An authority that is ready to sign.
pub(super) struct Authority {
    kind: AuthorityKind,
    directory: PathBuf,
    until: OffsetDateTime,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    pub(super) fn load(directory: &Path, kind: AuthorityKind) -> Result<Self, AuthorityError> {
        let [path, key_path] = paths(directory, kind);
        let certificate = first_certificate(&path)?;
        let key = KeyPair::from_pem(&files::read_text(&key_path)?).map_err(|_| AuthorityError::NoKey {
            path: key_path.clone(),
        })?;
        if !certificate.has_key(key.public_key_raw()) {
            return Err(AuthorityError::Mismatch { path, key: key_path });
        }
        let until =
            OffsetDateTime::from_unix_timestamp(certificate.not_after).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        if until <= now() {
            return Err(AuthorityError::Expired { kind });
        }
        let issuer = Issuer::from_ca_cert_der(&certificate.der, key).map_err(AuthorityError::Signing)?;
        Ok(Self {
            kind,
            directory: directory.to_path_buf(),
            until,
            issuer,
        })
    }

    /// A certificate for this key, as PEM.
    pub(super) fn certify(&self, holder: &Holder, key: &KeyPair) -> Result<String, AuthorityError> {
        let certificate = self.parameters(holder)?.signed_by(key, &self.issuer);
        Ok(certificate.map_err(AuthorityError::Signing)?.pem())
    }

    /// A certificate for the key of a request, as PEM; nothing else of the request is in it.
    pub(super) fn certify_request(
        &self,
        holder: &Holder,
        request: CertificateSigningRequestParams,
    ) -> Result<String, AuthorityError> {
        let request = CertificateSigningRequestParams {
            params: self.parameters(holder)?,
            ..request
        };
        let certificate = request.signed_by(&self.issuer).map_err(AuthorityError::Signing)?;
        Ok(certificate.pem())
    }

    /// Writes the bundle of authorities that others have to trust.
    pub(super) fn write_bundle(&self, directory: &Path) -> Result<(), FileError> {
        let bundle = files::read(&self.directory.join(self.kind.bundle()))?;
        files::replace(&directory.join(self.kind.bundle()), &bundle)
    }

    fn parameters(&self, holder: &Holder) -> Result<CertificateParams, AuthorityError> {
        let validity = Validity::of_certificate(now(), self.until);
        let parameters = holder.parameters(validity, serial_number());
        parameters.map_err(AuthorityError::Signing)
    }
}

pub(super) fn new_key() -> Result<KeyPair, AuthorityError> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(AuthorityError::Signing)
}

/// RFC 5280 §4.1.2.2: positive, and nobody else's.
fn serial_number() -> SerialNumber {
    let number: u128 = environment::random();
    SerialNumber::from_slice(&((number >> 1) | 1).to_be_bytes())
}

/// What is wrong with an authority, and what to do. Keys never appear in it.
#[derive(Debug, Error)]
pub(super) enum AuthorityError {
    #[error("the name of the cluster is missing: --cluster NAME")]
    ClusterMissing,
    #[error(transparent)]
    File(#[from] FileError),
    #[error("{} cannot be used", .path.display())]
    Certificates {
        path: PathBuf,
        #[source]
        source: BundleError,
    },
    #[error("{} is not the authority of a cluster's members: give the directory that `tandem pki init` created", .path.display())]
    NoCluster { path: PathBuf },
    #[error("{} holds no usable private key: restore the one that `tandem pki init` created", .path.display())]
    NoKey { path: PathBuf },
    #[error("{} and {} do not belong together: restore the two that `tandem pki init` created", .path.display(), .key.display())]
    Mismatch { path: PathBuf, key: PathBuf },
    #[error("the authority {kind} has expired: replace it with `tandem pki init --renew {kind}`")]
    Expired { kind: AuthorityKind },
    #[error("the certificate cannot be created")]
    Signing(#[source] rcgen::Error),
}
