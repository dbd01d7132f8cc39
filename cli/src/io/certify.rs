//! Certificates for members, addresses and people: issued, requested, signed and renewed.

use std::path::{Path, PathBuf};

use rcgen::{CertificateSigningRequestParams, KeyPair};
use tandem_cluster::NodeId;
use tandem_runtime::certificate_holder::{CertificateError, peer_identity};
use thiserror::Error;

use super::authorities::{Authority, AuthorityError, cluster_in, first_certificate, new_key};
use super::files::{self, FileError, Readers};
use crate::arguments::{Csr, HolderArguments, Issue, Renew, Sign};
use crate::pki::holder::{Holder, OutsideCluster, member};
use crate::pki::name::{ClusterName, HostName, NoHostName};
use crate::pki::request::{RequestRefused, holder_of, member_id};

/// Creates a key and its certificate.
pub(super) fn issue(arguments: Issue) -> Result<String, CertifyError> {
    let directory = &arguments.authorities.directory;
    let holder = holder(arguments.holder, || Ok(cluster_in(directory)?))?;
    let out = arguments.out.unwrap_or_else(|| directory.join(holder.folder()));
    let authority = Authority::load(directory, holder.authority())?;
    let certified = Certified::make(&authority, &holder)?;
    files::make_directory(&out)?;
    certified.write(&out, &holder.stem())?;
    Ok(written(&holder, &out))
}

/// Creates a key and a request for its certificate.
pub(super) fn request(arguments: Csr) -> Result<String, CertifyError> {
    let cluster = arguments.cluster;
    let holder = holder(arguments.holder, || {
        cluster.ok_or(CertifyError::Authority(AuthorityError::ClusterMissing))
    })?;
    files::make_directory(&arguments.out)?;
    let key = new_key()?;
    let request = holder.request_parameters().and_then(|parameters| {
        let request = parameters.serialize_request(&key)?;
        request.pem()
    });
    let request = request.map_err(AuthorityError::Signing)?;
    let [key_path, request_path] =
        ["key", "csr"].map(|ending| arguments.out.join(format!("{}.{ending}", holder.stem())));
    files::create(&key_path, key.serialize_pem().as_bytes(), Readers::Owner)?;
    files::create(&request_path, request.as_bytes(), Readers::Everybody)?;
    let (key_path, request_path) = (key_path.display(), request_path.display());
    Ok(format!(
        "{key_path} stays here. Have {request_path} signed: tandem pki sign {request_path}"
    ))
}

/// Signs a request.
pub(super) fn sign(arguments: &Sign) -> Result<String, CertifyError> {
    let directory = &arguments.authorities.directory;
    let cluster = cluster_in(directory)?;
    let text = files::read_text(&arguments.file)?;
    let path = || arguments.file.clone();
    let request = CertificateSigningRequestParams::from_pem(&text)
        .map_err(|source| CertifyError::NoRequest { path: path(), source })?;
    let holder = holder_of(&request, &cluster, arguments.role)
        .map_err(|source| CertifyError::Refused { path: path(), source })?;
    let authority = Authority::load(directory, holder.authority())?;
    let certificate = authority.certify_request(&holder, request)?;
    let beside = arguments.file.parent().map(Path::to_path_buf).unwrap_or_default();
    let out = arguments.out.clone().unwrap_or(beside);
    let file = out.join(format!("{}.pem", holder.stem()));
    files::create(&file, certificate.as_bytes(), Readers::Everybody)?;
    authority.write_bundle(&out)?;
    Ok(written(&holder, &out))
}

/// Replaces a key and its certificate; the names stay the same.
pub(super) fn renew(arguments: &Renew) -> Result<String, CertifyError> {
    let directory = &arguments.authorities.directory;
    let cluster = cluster_in(directory)?;
    let id = NodeId(arguments.member);
    let out = arguments
        .out
        .clone()
        .unwrap_or_else(|| directory.join(id.to_string()));
    let [certificate, key] = ["peer.pem", "peer.key"].map(|name| out.join(name));
    let holder = holder_shown_by(&certificate, id, &cluster)?;
    if !key.exists() {
        return Err(CertifyError::KeyElsewhere { path: key });
    }
    let authority = Authority::load(directory, holder.authority())?;
    let certified = Certified::make(&authority, &holder)?;
    files::set_aside(&certificate)?;
    files::set_aside(&key)?;
    certified.write(&out, &holder.stem())?;
    Ok(written(&holder, &out))
}

/// A certificate that is not on the disk yet, and its key.
pub(super) struct Certified<'a> {
    authority: &'a Authority,
    certificate: String,
    key: KeyPair,
}

impl<'a> Certified<'a> {
    pub(super) fn make(authority: &'a Authority, holder: &Holder) -> Result<Self, AuthorityError> {
        let key = new_key()?;
        Ok(Self {
            certificate: authority.certify(holder, &key)?,
            authority,
            key,
        })
    }

    /// Writes `STEM.key`, `STEM.pem`, and the bundle of authorities that others have to trust.
    pub(super) fn write(&self, out: &Path, stem: &str) -> Result<(), FileError> {
        let path = |ending| out.join(format!("{stem}.{ending}"));
        files::create(&path("key"), self.key.serialize_pem().as_bytes(), Readers::Owner)?;
        files::create(&path("pem"), self.certificate.as_bytes(), Readers::Everybody)?;
        self.authority.write_bundle(out)
    }
}

fn written(holder: &Holder, out: &Path) -> String {
    let file = out.join(format!("{}.pem", holder.stem()));
    format!("{} is for {holder}.", file.display())
}

fn holder(
    arguments: HolderArguments,
    cluster: impl FnOnce() -> Result<ClusterName, CertifyError>,
) -> Result<Holder, CertifyError> {
    if let Some(id) = arguments.member {
        return Ok(member(NodeId(id), cluster()?, arguments.san)?);
    }
    match arguments.admin.zip(arguments.role) {
        Some((name, role)) => Ok(Holder::Administrator { name, role }),
        None => Ok(Holder::Vip { names: arguments.vip }),
    }
}

fn holder_shown_by(path: &Path, id: NodeId, cluster: &ClusterName) -> Result<Holder, CertifyError> {
    let certificate = first_certificate(path)?;
    let unreadable = |source| CertifyError::Names {
        path: path.to_path_buf(),
        source,
    };
    let names = peer_identity(&certificate.der).map_err(unreadable)?;
    let names: Result<Vec<HostName>, NoHostName> = names
        .subject_alternative_names
        .iter()
        .map(|name| name.parse())
        .collect();
    let other = || CertifyError::OtherMember {
        path: path.to_path_buf(),
        id,
    };
    let names = names.map_err(|_| other())?;
    let (own, further): (Vec<HostName>, Vec<HostName>) = names
        .into_iter()
        .partition(|name| member_id(name, cluster) == Some(id));
    match own.is_empty() {
        true => Err(other()),
        false => Ok(member(id, cluster.clone(), further)?),
    }
}

/// Why there is no certificate, and what to do.
#[derive(Debug, Error)]
pub(super) enum CertifyError {
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    OutsideCluster(#[from] OutsideCluster),
    #[error("{} is not a usable signing request: create one with `tandem pki csr`", .path.display())]
    NoRequest {
        path: PathBuf,
        #[source]
        source: rcgen::Error,
    },
    #[error("{} is not signed", .path.display())]
    Refused {
        path: PathBuf,
        #[source]
        source: RequestRefused,
    },
    #[error("the names in {} cannot be read", .path.display())]
    Names {
        path: PathBuf,
        #[source]
        source: CertificateError,
    },
    #[error("{} is not the certificate of member {id}: give its directory with --out, or issue one", .path.display())]
    OtherMember { path: PathBuf, id: NodeId },
    #[error("{} is not there: the key was created on another machine; create a new one there with `tandem pki csr`", .path.display())]
    KeyElsewhere { path: PathBuf },
}
