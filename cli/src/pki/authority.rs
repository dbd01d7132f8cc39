//! The two authorities, and how long what they sign is good.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, GeneralSubtree, IsCa, KeyUsagePurpose,
    NameConstraints, SerialNumber,
};
use time::{Duration, OffsetDateTime};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::name::ClusterName;

/// One of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorityKind {
    /// Signs the members of one cluster, which believe nobody else.
    Peers,
    /// Signs what clients, browsers and administrators show and see.
    Service,
}

impl AuthorityKind {
    pub const ALL: [Self; 2] = [Self::Peers, Self::Service];

    /// What its certificate and its key are called, before `.pem` and `.key`.
    #[must_use]
    pub fn stem(self) -> &'static str {
        match self {
            Self::Peers => "peers",
            Self::Service => "service",
        }
    }

    /// The file that others trust: during a change it holds the certificates of both authorities.
    #[must_use]
    pub fn bundle(self) -> &'static str {
        match self {
            Self::Peers => "peer-ca.pem",
            Self::Service => "service-ca.pem",
        }
    }
}

impl fmt::Display for AuthorityKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.stem())
    }
}

/// From when to when a certificate is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    pub from: OffsetDateTime,
    pub until: OffsetDateTime,
}

impl Validity {
    /// Of an authority that is made now: 10 years.
    #[must_use]
    pub fn of_authority(now: OffsetDateTime) -> Self {
        Self {
            from: now - CLOCK_TOLERANCE,
            until: now + AUTHORITY_TIME,
        }
    }

    /// Of a certificate that is signed now: 825 days, and no longer than that of its authority, which ends at `authority`.
    #[must_use]
    pub fn of_certificate(now: OffsetDateTime, authority: OffsetDateTime) -> Self {
        Self {
            from: now - CLOCK_TOLERANCE,
            until: (now + CERTIFICATE_TIME).min(authority),
        }
    }
}

/// The certificate that an authority signs itself.
#[must_use]
pub fn authority_parameters(
    kind: AuthorityKind,
    cluster: &ClusterName,
    validity: Validity,
    serial: SerialNumber,
) -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = DistinguishedName::new();
    // The day tells an authority from the one that replaces it.
    let name = format!(
        "Tandem {cluster} {kind} {}",
        (validity.from + CLOCK_TOLERANCE).date()
    );
    parameters.distinguished_name.push(DnType::CommonName, name);
    (parameters.not_before, parameters.not_after) = (validity.from, validity.until);
    parameters.serial_number = Some(serial);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters.name_constraints = match kind {
        AuthorityKind::Peers => Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(cluster.domain())],
            excluded_subtrees: Vec::new(),
        }),
        AuthorityKind::Service => None,
    };
    parameters
}

/// The cluster whose members the authority with this certificate may sign; `None` when it says no such thing.
#[must_use]
pub fn cluster_of(der: &[u8]) -> Option<ClusterName> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let constraints = certificate.name_constraints().ok()??;
    let permitted = constraints.value.permitted_subtrees.as_ref()?;
    let mut domains = permitted.iter().filter_map(|subtree| match subtree.base {
        GeneralName::DNSName(domain) => Some(domain),
        GeneralName::OtherName(..)
        | GeneralName::RFC822Name(_)
        | GeneralName::X400Address(_)
        | GeneralName::DirectoryName(_)
        | GeneralName::EDIPartyName(_)
        | GeneralName::URI(_)
        | GeneralName::IPAddress(_)
        | GeneralName::RegisteredID(_)
        | GeneralName::Invalid(..) => None,
    });
    domains.next().and_then(ClusterName::of_domain)
}

/// Certificates are good from a little earlier: clocks of other machines may be behind.
const CLOCK_TOLERANCE: Duration = Duration::hours(1);
const AUTHORITY_TIME: Duration = Duration::days(3653);
/// What browsers and operating systems take at most from authorities of one's own.
const CERTIFICATE_TIME: Duration = Duration::days(825);

#[cfg(test)]
mod tests {
    use rcgen::KeyPair;

    use super::*;

    const NOW: OffsetDateTime = time::macros::datetime!(2026-11-27 00:30 UTC);

    fn made(kind: AuthorityKind) -> rcgen::Certificate {
        let cluster = "office".parse().unwrap();
        let parameters =
            authority_parameters(kind, &cluster, Validity::of_authority(NOW), SerialNumber::from(7));
        parameters.self_signed(&KeyPair::generate().unwrap()).unwrap()
    }

    #[test]
    fn peers_are_bound_to_their_cluster_and_service_is_not() {
        let peers = made(AuthorityKind::Peers);
        assert_eq!(cluster_of(peers.der()), Some("office".parse().unwrap()));
        let service = made(AuthorityKind::Service);
        assert_eq!(cluster_of(service.der()), None);
        assert_eq!(cluster_of(b"no certificate"), None);
        for der in [peers.der(), service.der()] {
            let (_, parsed) = X509Certificate::from_der(der).unwrap();
            let constraints = parsed.basic_constraints().unwrap().unwrap().value;
            assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
        }
        let read = tandem_certificate::Certificate::parse(peers.der()).unwrap();
        assert_eq!(read.subject, "CN=Tandem office peers 2026-11-27");
        assert_eq!(read.key.algorithm, "ECDSA P-256");
    }

    #[test]
    fn nothing_outlives_its_authority() {
        let long = Validity::of_certificate(NOW, NOW + Duration::days(3000));
        assert_eq!(long.until - NOW, Duration::days(825));
        let short = Validity::of_certificate(NOW, NOW + Duration::days(9));
        assert_eq!(short.until - NOW, Duration::days(9));
    }
}
