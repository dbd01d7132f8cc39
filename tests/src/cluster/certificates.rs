//! Certificates for the members' peer links, made for one cluster and thrown away with it.

use std::path::Path;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};

/// Writes `authority.pem`, and `n<ID>.pem` with `n<ID>.key` for each member.
pub fn write(directory: &Path, cluster: &str, members: &[u64]) -> anyhow::Result<()> {
    let mut params = CertificateParams::new(Vec::new())?;
    params
        .distinguished_name
        .push(DnType::CommonName, format!("{cluster} members"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(directory.join("authority.pem"), authority.pem())?;
    for member in members {
        let key = KeyPair::generate()?;
        let name = format!("n{member}.{cluster}.tandem");
        let certificate = CertificateParams::new(vec![name])?
            .signed_by(&key, &authority)
            .with_context(|| format!("signing the certificate of member {member}"))?;
        std::fs::write(directory.join(format!("n{member}.pem")), certificate.pem())?;
        std::fs::write(directory.join(format!("n{member}.key")), key.serialize_pem())?;
    }
    Ok(())
}
