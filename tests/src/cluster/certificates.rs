//! Certificates for one cluster and the Exchange beside it, thrown away with it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, RevokedCertParams, SerialNumber,
    SignatureAlgorithm,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::ClusterOptions;
use super::configuration::{CLUSTER_NAME, WITNESS};

/// Signs everybody's certificate.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, both PEM.
#[derive(Debug, Clone)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Self::with_key(name, KeyPair::generate()?)
    }

    fn with_key(name: &str, key: KeyPair) -> anyhow::Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, key)?;
        Ok(Self { issuer })
    }

    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// For a DNS name or an IP address.
    pub fn issue(&self, name: &str) -> anyhow::Result<Issued> {
        self.issue_for(&[name.to_owned()])
    }

    /// For several DNS names or IP addresses.
    pub fn issue_for(&self, names: &[String]) -> anyhow::Result<Issued> {
        self.issue_for_key(names, &KeyPair::generate()?)
    }

    fn issue_for_key(&self, names: &[String], key: &KeyPair) -> anyhow::Result<Issued> {
        let certificate = CertificateParams::new(names)?
            .signed_by(key, &self.issuer)
            .with_context(|| format!("signing the certificate of {names:?}"))?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// For a DNS name, changed in some respect.
    pub fn issue_with(
        &self,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Issued> {
        self.issue_to(&KeyPair::generate()?, name, change)
    }

    /// The same, for a key that is there already.
    pub fn issue_to(
        &self,
        key: &KeyPair,
        name: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> anyhow::Result<Issued> {
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        change(&mut params);
        let certificate = params.signed_by(key, &self.issuer)?;
        Ok(Issued {
            certificate: certificate.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A list of the certificates with these serial numbers, revoked a minute ago; PEM.
    pub fn revocation_list(&self, serial_numbers: &[u64]) -> anyhow::Result<String> {
        let now = OffsetDateTime::now_utc();
        let revoked_certs = serial_numbers.iter().map(|number| RevokedCertParams {
            serial_number: SerialNumber::from(*number),
            revocation_time: now - time::Duration::MINUTE,
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: now - time::Duration::MINUTE,
            next_update: now + time::Duration::HOUR,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked_certs.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(list.signed_by(&self.issuer)?.pem()?)
    }

    /// What a server of that name shows.
    pub fn server_config(&self, name: &str) -> anyhow::Result<Arc<ServerConfig>> {
        let issued = self.issue(name)?;
        let certificate = CertificateDer::from_pem_slice(issued.certificate.as_bytes())?;
        let key = PrivateKeyDer::from_pem_slice(issued.key.as_bytes())?;
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)?;
        Ok(Arc::new(config))
    }

    /// Trusts this authority alone.
    pub fn client_config(&self) -> anyhow::Result<Arc<ClientConfig>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem().as_bytes())?)?;
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Arc::new(config))
    }
}

impl Issued {
    /// Writes `NAME.pem` and `NAME.key`.
    pub fn write(&self, directory: &Path, name: &str) -> anyhow::Result<()> {
        std::fs::write(directory.join(format!("{name}.pem")), &self.certificate)?;
        let key = directory.join(format!("{name}.key"));
        std::fs::write(&key, &self.key)?;
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600))?;
        Ok(())
    }
}

/// Writes `authority.pem`, and `n<ID>.pem` with `n<ID>.key` for each member.
pub fn write(directory: &Path, cluster: &str, members: &[u64]) -> anyhow::Result<()> {
    write_with(directory, cluster, members, &PKCS_ECDSA_P256_SHA256)
}

/// Writes the certificates of all members of a cluster.
///
/// # Errors
/// When they cannot be made, or written.
pub fn write_for_cluster(
    directory: &Path,
    options: &ClusterOptions,
    algorithm: &'static SignatureAlgorithm,
) -> anyhow::Result<()> {
    let members: Vec<u64> = (1..=options.nodes).chain([WITNESS]).collect();
    write_with(directory, CLUSTER_NAME, &members, algorithm)
}

fn write_with(
    directory: &Path,
    cluster: &str,
    members: &[u64],
    algorithm: &'static SignatureAlgorithm,
) -> anyhow::Result<()> {
    let key = || KeyPair::generate_for(algorithm);
    let authority = Authority::with_key(&format!("{cluster} members"), key()?)?;
    std::fs::write(directory.join("authority.pem"), authority.pem())?;
    for member in members {
        let issued = authority.issue_for_key(&[format!("n{member}.{cluster}.tandem")], &key()?)?;
        issued.write(directory, &format!("n{member}"))?;
    }
    Ok(())
}
