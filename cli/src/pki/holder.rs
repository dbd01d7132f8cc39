//! For whom a certificate is: a member, a virtual address or a person; and what it says of them.

use std::fmt;

use clap::ValueEnum;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType,
    SerialNumber,
};
use tandem_cluster::NodeId;
use tandem_runtime::certificate_holder::member_name;

use super::authority::{AuthorityKind, Validity};
use super::name::{ClusterName, HostName, PersonName};

/// Whose certificate it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    Member {
        id: NodeId,
        cluster: ClusterName,
        /// Beside `nID.CLUSTER.tandem`.
        further: Vec<HostName>,
    },
    /// What clients connect to; at least one name.
    Vip {
        names: Vec<HostName>,
    },
    Administrator {
        name: PersonName,
        role: Role,
    },
}

/// What an administrator may do (OPS-7); each role may do what the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Look at everything.
    Read,
    /// Drain nodes, move sessions, and the like.
    Operate,
    /// Change settings, members and certificates.
    Administer,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Read, Self::Operate, Self::Administer];

    /// As certificates name it.
    #[must_use]
    pub fn uri(self) -> &'static str {
        match self {
            Self::Read => "tandem:role:read",
            Self::Operate => "tandem:role:operate",
            Self::Administer => "tandem:role:administer",
        }
    }
}

impl Holder {
    /// Who signs it.
    #[must_use]
    pub fn authority(&self) -> AuthorityKind {
        match self {
            Self::Member { .. } => AuthorityKind::Peers,
            Self::Vip { .. } | Self::Administrator { .. } => AuthorityKind::Service,
        }
    }

    /// What its files are called before `.pem`, `.key` and `.csr`; as in the reference configuration.
    #[must_use]
    pub fn stem(&self) -> String {
        match self {
            Self::Member { .. } => "peer".to_owned(),
            Self::Vip { .. } => "vip".to_owned(),
            Self::Administrator { name, .. } => name.to_string(),
        }
    }

    /// The folder for its files where none is given.
    #[must_use]
    pub fn folder(&self) -> String {
        match self {
            Self::Member { id, .. } => id.to_string(),
            Self::Vip { .. } => "vip".to_owned(),
            Self::Administrator { name, .. } => format!("admin-{name}"),
        }
    }

    /// What stands in its certificate.
    ///
    /// # Errors
    /// When a name cannot be encoded in a certificate; names that were parsed can.
    pub fn parameters(
        &self,
        validity: Validity,
        serial: SerialNumber,
    ) -> Result<CertificateParams, rcgen::Error> {
        let mut parameters = self.request_parameters()?;
        (parameters.not_before, parameters.not_after) = (validity.from, validity.until);
        parameters.serial_number = Some(serial);
        parameters.use_authority_key_identifier_extension = true;
        Ok(parameters)
    }

    /// What stands in a request: nothing of time and authority.
    ///
    /// # Errors
    /// As [`Self::parameters`].
    pub fn request_parameters(&self) -> Result<CertificateParams, rcgen::Error> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = DistinguishedName::new();
        parameters
            .distinguished_name
            .push(DnType::CommonName, self.common_name());
        parameters.subject_alt_names = self.alternative_names()?;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = self.usages();
        Ok(parameters)
    }

    /// Without what the common name has no room for (RFC 5280 appendix A.1: 64 characters): the alternative names count.
    fn common_name(&self) -> String {
        let name = match self {
            Self::Member { id, cluster, .. } => member_name(*id, cluster.as_str()),
            Self::Vip { names } => names.first().map(ToString::to_string).unwrap_or_default(),
            Self::Administrator { name, .. } => name.to_string(),
        };
        name.chars().take(64).collect()
    }

    fn alternative_names(&self) -> Result<Vec<SanType>, rcgen::Error> {
        match self {
            Self::Member { id, cluster, further } => {
                let own = Ia5String::try_from(member_name(*id, cluster.as_str()))?;
                let further = further.iter().map(alternative_name);
                std::iter::once(Ok(SanType::DnsName(own)))
                    .chain(further)
                    .collect()
            }
            Self::Vip { names } => names.iter().map(alternative_name).collect(),
            Self::Administrator { role, .. } => Ok(vec![SanType::URI(Ia5String::try_from(role.uri())?)]),
        }
    }

    /// Members and front ends show the same certificate on connections that they accept and that they make.
    fn usages(&self) -> Vec<ExtendedKeyUsagePurpose> {
        match self {
            Self::Member { .. } | Self::Vip { .. } => vec![
                ExtendedKeyUsagePurpose::ServerAuth,
                ExtendedKeyUsagePurpose::ClientAuth,
            ],
            Self::Administrator { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
        }
    }
}

fn alternative_name(name: &HostName) -> Result<SanType, rcgen::Error> {
    Ok(match name {
        HostName::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
        HostName::Address(address) => SanType::IpAddress(*address),
    })
}

impl fmt::Display for Holder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Member { id, cluster, .. } => {
                write!(formatter, "member {}", member_name(*id, cluster.as_str()))
            }
            Self::Vip { names } => {
                let names: Vec<String> = names.iter().map(ToString::to_string).collect();
                write!(formatter, "{}", names.join(", "))
            }
            Self::Administrator { name, role } => write!(formatter, "administrator {name} ({})", role.uri()),
        }
    }
}

/// A member with further names.
///
/// # Errors
/// When a further name lies outside the cluster's domain: no member would accept the certificate.
pub fn member(id: NodeId, cluster: ClusterName, further: Vec<HostName>) -> Result<Holder, OutsideCluster> {
    let domain = cluster.domain();
    for name in &further {
        if let HostName::Dns(dns) = name
            && dns.strip_suffix(&domain).is_none_or(|rest| !rest.ends_with('.'))
        {
            let name = dns.clone();
            return Err(OutsideCluster { name, domain });
        }
    }
    Ok(Holder::Member { id, cluster, further })
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the peers' authority signs names under {domain} alone, and {name} is none: leave it out, or issue it with --vip"
)]
pub struct OutsideCluster {
    name: String,
    domain: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_no_name_outside_its_cluster() {
        let cluster: ClusterName = "office".parse().unwrap();
        let with = |name: &str| member(NodeId(1), cluster.clone(), vec![name.parse().unwrap()]);
        assert!(with("one.office.tandem").is_ok());
        assert!(with("192.0.2.1").is_ok());
        for name in ["one.example.com", "office.tandem", "n1.branch-office.tandem"] {
            assert!(with(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_long_name_is_whole_among_the_alternative_names() {
        let long = format!("{}.example.com", "a".repeat(60));
        let holder = Holder::Vip {
            names: vec![long.parse().unwrap()],
        };
        assert_eq!(holder.common_name().len(), 64);
        let names = holder.alternative_names().unwrap();
        assert_eq!(names, [SanType::DnsName(Ia5String::try_from(long).unwrap())]);
    }
}
