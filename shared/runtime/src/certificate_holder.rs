//! Who a certificate says its holder is, and whether that is the member that is meant.

use rustls::pki_types::{CertificateDer, ServerName};
use thiserror::Error;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use tandem_cluster::NodeId;
use tandem_sip::proxy_protocol::PeerIdentity;

/// The name that stands in the certificate of a cluster member: `n1.main.tandem`.
#[must_use]
pub fn member_name(id: NodeId, cluster_name: &str) -> String {
    format!("{id}.{cluster_name}.tandem")
}

/// As [`member_name`], to connect with.
///
/// # Errors
/// When the cluster's name is not a DNS label; `config::ClusterSection` sees to it that it is.
pub fn peer_server_name(
    id: NodeId,
    cluster_name: &str,
) -> Result<ServerName<'static>, rustls::pki_types::InvalidDnsNameError> {
    ServerName::try_from(member_name(id, cluster_name))
}

/// Whether the holder of a verified certificate is member `id` of this cluster.
///
/// # Errors
/// Tells the name that was expected and those that the certificate has.
pub fn check_peer(
    certificate: &CertificateDer<'_>,
    id: NodeId,
    cluster_name: &str,
) -> Result<(), PeerRefused> {
    let expected = member_name(id, cluster_name);
    let found = peer_identity(certificate)?.subject_alternative_names;
    if found.iter().any(|name| name.eq_ignore_ascii_case(&expected)) {
        Ok(())
    } else {
        Err(PeerRefused::OtherName { expected, found })
    }
}

#[derive(Debug, Clone, Error)]
pub enum PeerRefused {
    #[error(transparent)]
    Unreadable(#[from] CertificateError),
    #[error("the certificate names {found:?} and not {expected}: issue one whose DNS names contain it")]
    OtherName { expected: String, found: Vec<String> },
}

/// Who a certificate, which the handshake has verified, says its holder is: its CN, and its DNS names, URIs and
/// addresses as text.
///
/// # Errors
/// When the certificate cannot be read.
pub fn peer_identity(certificate: &CertificateDer<'_>) -> Result<PeerIdentity, CertificateError> {
    let certificate = parse_certificate(certificate)?;
    let common_name = certificate.subject().iter_common_name().next();
    let common_name = common_name.and_then(|name| name.as_str().ok()).map(str::to_owned);
    let extension = certificate
        .subject_alternative_name()
        .map_err(|error| CertificateError {
            reason: error.to_string(),
        })?;
    let names = extension.map(|extension| {
        extension
            .value
            .general_names
            .iter()
            .filter_map(name_text)
            .collect()
    });
    Ok(PeerIdentity {
        common_name,
        subject_alternative_names: names.unwrap_or_default(),
    })
}

/// The certificate is not one that we can read.
#[derive(Debug, Clone, Error)]
#[error("the certificate cannot be read: {reason}")]
pub struct CertificateError {
    reason: String,
}

pub(crate) fn parse_certificate<'a>(
    certificate: &'a CertificateDer<'_>,
) -> Result<X509Certificate<'a>, CertificateError> {
    match X509Certificate::from_der(certificate) {
        Ok((_, parsed)) => Ok(parsed),
        Err(error) => Err(CertificateError {
            reason: error.to_string(),
        }),
    }
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) | GeneralName::RFC822Name(name) => {
            Some((*name).to_owned())
        }
        GeneralName::IPAddress(bytes) => address_text(bytes),
        GeneralName::OtherName(..)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    }
}

fn address_text(bytes: &[u8]) -> Option<String> {
    if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
        return Some(std::net::Ipv4Addr::from(octets).to_string());
    }
    let octets = <[u8; 16]>::try_from(bytes).ok()?;
    Some(std::net::Ipv6Addr::from(octets).to_string())
}
